"A training that is cut off, at any moment and in any way, goes on and ends with the same weights; nothing half-written stays behind."
import errno, os, random, re, signal, sys, time
from functools import partial
import numpy as np, pandas as pd, pytest, torch
from fastai.callback.mixup import MixUp
from fastai.optimizer import OptimWrapper
from fastai.vision.all import Callback, SGD, nn
from torch.utils.data import RandomSampler
from pneumo_imbalance.block import checked_dataloaders
from pneumo_imbalance.optim import GroupedAdam
from pneumo_imbalance.sampling import BalancedSampler, StepSampler, UndersampledSampler
from pneumo_imbalance.train import set_seed, xray_learner

slow = bool(os.environ.get('SLOW'))
pytestmark = pytest.mark.filterwarnings("ignore:precision='bf16' is slower", "ignore:This process .* is multi-threaded")

@pytest.fixture(scope='module')
def images(noise): return noise(3)

@pytest.fixture(autouse=True)
def alone(one_thread): pass

def body():
    "Two convolutions and dropout"
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(.2), nn.Conv2d(8, 8, 3, 2, 1))

def fit(df, folder=None, seed=42, dls=(), plan=(), **kwargs):
    "The weights and the history of a small training"
    set_seed(seed)
    loaders = checked_dataloaders(df, **dict(item_size=16, size=16, bs=8, num_workers=0, device='cpu') | dict(dls))
    learn = xray_learner(loaders, body, path=df.attrs.get('out', folder), **kwargs)
    plan = dict(frozen=1, unfrozen=2, lr_frozen=1e-2, lr_unfrozen=1e-2, show_plot=False) | dict(plan)
    history = learn.fit_two_stage(**plan, resume=folder)
    return {k: v.clone() for k,v in learn.model.state_dict().items()}, history

def same(a, b):
    "Equal bit for bit, the history too"
    assert [k for k in a[0] if not torch.equal(a[0][k], b[0][k])] == []
    pd.testing.assert_frame_equal(a[1], b[1])

class CutOff(Callback):
    "An interruption after some steps of an epoch, or in the middle of the validation"
    order = 2000
    def __init__(self, epochs, step, valid=False): self.cut_at = epochs, step, valid
    def after_batch(self):
        here = self.learn.n_epoch, self.learn.iter, not self.learn.training
        if here == self.cut_at and self.learn.epoch == self.learn.n_epoch - 1: raise KeyboardInterrupt

class Passes(CutOff):
    "The same, when it is asked for again"
    def after_batch(self): pass
Passes.__name__ = 'CutOff'

def cut(df, folder, at, cbs=(), **kwargs):
    "The result of a training that was cut off once, and went on"
    with pytest.raises(KeyboardInterrupt): fit(df, folder, cbs=[CutOff(*at), *(o() for o in cbs)], **kwargs)
    assert not any(o.name.startswith('.') for o in folder.iterdir())
    return fit(df, folder, cbs=[Passes(*at), *(o() for o in cbs)], **kwargs)

def shuffled(rows, seed): return RandomSampler(range(len(rows)), generator=torch.Generator().manual_seed(seed))
def steps(sampler): return lambda rows, seed: StepSampler(sampler(rows, seed=seed), 30)

# chkstyle: ignore-node
ways = dict(plain={}, balanced=dict(dls=dict(sampler=BalancedSampler)), undersampled=dict(dls=dict(sampler=UndersampledSampler)),
    steps=dict(dls=dict(sampler=steps(BalancedSampler))), generator=dict(dls=dict(sampler=steps(shuffled))),
    still=dict(plan=dict(train_bn=False)), best=dict(plan=dict(keep_best=True)), views=dict(plan=dict(views=2, keep_best=True)),
    rates=dict(plan=dict(lr_unfrozen=slice(1e-4, 1e-2))),
    grouped=dict(opt_func=GroupedAdam), sgd=dict(opt_func=partial(SGD, mom=.9)),
    torch=dict(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)), bf16=dict(precision='bf16'), mixup=dict(cbs=[MixUp]))

quick = {('still', 1, 2), ('views', 1, 2), ('best', 2, 3), ('balanced', 2, 2), ('generator', 2, 2), ('torch', 2, 2), ('bf16', 2, 2),
    ('mixup', 2, 2)}

@pytest.mark.parametrize('at', [(1, 2), (2, 3), (2, 0, True)], ids=['frozen', 'unfrozen', 'validation'])
@pytest.mark.parametrize('way', ways)
def test_every_way_of_training_goes_on(images, tmp_path, way, at):
    if not slow and (way, at[0], len(at)) not in quick: pytest.skip('SLOW=1 tries all of them')
    kwargs = {'cbs': (), **ways[way]}
    kwargs['plan'] = kwargs.get('plan', {}) | dict(every=0)
    whole = fit(images, tmp_path/'whole', **kwargs | dict(cbs=[Passes(*at), *(o() for o in kwargs['cbs'])]))
    same(cut(images, tmp_path/'cut', at, **kwargs), whole)

def test_checkpoints_change_nothing(images, tmp_path):
    images = images.copy()
    images.attrs['out'] = tmp_path
    same(fit(images), fit(images, tmp_path/'kept', plan=dict(every=0)))

def test_epochs_alone_are_enough(images, tmp_path):
    whole = fit(images, tmp_path/'whole', cbs=[Passes(2, 3)])
    same(cut(images, tmp_path/'cut', (2, 3)), whole)
    assert len(list((tmp_path/'cut').iterdir())) == 2

@pytest.mark.skipif(not slow, reason="set SLOW=1")
def test_processes_that_decode_go_on(images, tmp_path):
    dls = dict(num_workers=2, cache=False)
    whole = fit(images, tmp_path/'whole', dls=dls, cbs=[Passes(2, 3)], plan=dict(every=0))
    same(cut(images, tmp_path/'cut', (2, 3), dls=dls, plan=dict(every=0)), whole)

# Killed

def killed(run, after):
    "Run in a process of its own, and kill it after so many seconds; did it end before?"
    pid = os.fork()
    if not pid:
        with open(os.devnull, 'w') as nowhere:
            sys.stdout = sys.stderr = nowhere
            try: run()
            finally: os._exit(0)
    end = time.monotonic() + after
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG)[0]: return True
        time.sleep(.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_killed_at_any_moment(images, tmp_path):
    plan = dict(lr_frozen=None, lr_unfrozen=None, keep_best=True, train_bn=False, every=0)
    settings = dict(dls=dict(sampler=BalancedSampler), plan=plan)
    start = time.monotonic()
    whole, took = fit(images, tmp_path/'whole', **settings), time.monotonic() - start
    draw, left = random.Random(time.time_ns() if slow else 1), 30 if slow else 5
    for i in range(99):
        if left <= 0: break
        folder = tmp_path/f'killed{i}'
        for _ in range(5):
            left -= 1
            if killed(lambda: fit(images, folder, **settings), draw.uniform(0, .8*took)): break
        same(fit(images, folder, **settings), whole)
        assert len(list(folder.iterdir())) == 2 and not list(folder.glob('.*'))

# Refused

def test_a_finished_training_returns_at_once(images, tmp_path, monkeypatch):
    whole = fit(images, tmp_path)
    monkeypatch.setattr('fastai.learner.Learner.one_batch', lambda *_: pytest.fail('trained again'))
    same(fit(images, tmp_path), whole)
    assert np.random.rand() == (fit(images, tmp_path), np.random.rand())[1]

changes = dict(plan=(dict(plan=dict(unfrozen=3)), r'unfrozen \(2 then, 3 now\)'), rate=(dict(plan=dict(lr_unfrozen=None)), 'lr_unfrozen'),
    seed=(dict(seed=7), r'seed \(\d+ then, \d+ now\)'), bs=(dict(dls=dict(bs=4)), r'bs \(8 then, 4 now\)'),
    size=(dict(dls=dict(item_size=32)), 'transforms'), sampler=(dict(dls=dict(sampler=BalancedSampler)), 'sampler'),
    loss=(dict(loss_func=nn.CrossEntropyLoss()), 'loss'), optimiser=(dict(opt_func=SGD), 'optimiser'),
    callbacks=(dict(cbs=MixUp()), 'callbacks'), network=(dict(lin_ftrs=[16]), 'network'),
    still=(dict(plan=dict(train_bn=False)), r'train_bn \(True then, False now\)'), precision=(dict(precision='bf16'), 'callbacks'))

@pytest.fixture(scope='module')
def finished(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp('finished')/'run'
    os.environ.setdefault('PNEUMO_CACHE', str(folder.parent/'cache'))
    fit(images, folder)
    return folder

@pytest.mark.parametrize('change', changes)
def test_another_training_is_refused(images, finished, change):
    kwargs, says = changes[change]
    found = f'expected the training that .* holds, found another: .*{says}.*; choose'
    with pytest.raises(ValueError, match=found) as e: fit(images, finished, **kwargs)
    assert '\n' not in str(e.value)

def test_another_exposure_is_refused(images, tmp_path):
    fit(images, tmp_path, dls=dict(exposure=1))
    with pytest.raises(ValueError, match='found another: transforms'): fit(images, tmp_path, dls=dict(exposure=.5))

def test_another_table_is_refused(images, finished):
    other = images.copy()
    other.loc[other.index[:2], 'label'] = 'b'
    for df in (other, images.drop(index=images.index[3])):
        with pytest.raises(ValueError, match='found another: images'): fit(df, finished)
    fit(images.set_axis(np.zeros(len(images))), finished)

def test_another_version_is_refused(images, finished, monkeypatch):
    monkeypatch.setattr('pneumo_imbalance.snapshot.__version__', '9.9')
    with pytest.raises(ValueError, match=r'pneumo_imbalance \(.* then, 9.9 now\)'): fit(images, finished)

def test_another_machine_is_told(images, finished, capsys, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 64)
    fit(images, finished)
    assert re.search(r'threads \(\d+ then, 64 now\)', capsys.readouterr().out)

# A disk that is full, a file that is damaged

@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_a_checkpoint_that_can_not_be_written(images, tmp_path, monkeypatch, code):
    whole, writes, real = fit(images, tmp_path/'whole'), [], os.fsync
    def fsync(fd):
        writes.append(fd)
        if len(writes) >= 6: raise OSError(code, os.strerror(code))
        return real(fd)
    monkeypatch.setattr(os, 'fsync', fsync)
    says = 'expected to write a checkpoint in .* and could not .*checkpoint-000002 is good'
    with pytest.raises(OSError, match=says) as e: fit(images, tmp_path/'full')
    assert '\n' not in str(e.value) and not list((tmp_path/'full').glob('.*'))
    monkeypatch.setattr(os, 'fsync', real)
    same(fit(images, tmp_path/'full'), whole)

def test_a_folder_that_can_not_be_made(images, tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match='could not .*there is none before it'): fit(images, tmp_path/'file'/'run')

def test_a_damaged_checkpoint_gives_way_to_the_one_before(images, tmp_path):
    whole = fit(images, tmp_path)
    last = sorted(tmp_path.glob('checkpoint-*'))[-1]
    (last/'state.safetensors').write_bytes((last/'state.safetensors').read_bytes()[:1000])
    same(fit(images, tmp_path), whole)

def test_other_folders_stay(images, tmp_path):
    names = ['checkpoint-1', '000001', 'checkpoint-000001x', 'mine.txt']
    for o in names: (tmp_path/o).mkdir()
    fit(images, tmp_path)
    assert {o.name for o in tmp_path.iterdir()} >= set(names)

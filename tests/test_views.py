"What a frozen body makes of images, kept: the same numbers, made once, whatever happens to the processes and the disk; and a head on it."
import os, signal, time
from contextlib import contextmanager
from functools import partial
import pandas as pd, pytest, torch
from fastai.vision.all import nn, RandomErasing, RandTransform
from pneumo_imbalance.block import checked_dataloaders
from pneumo_imbalance.sampling import BalancedSampler
from pneumo_imbalance.train import set_seed, weighted_loss, xray_learner
from pneumo_imbalance.views import clear_views, stored_body

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

@pytest.fixture(scope='module')
def images(noise): return noise(4)

@pytest.fixture(autouse=True)
def kept(one_thread, tmp_path):
    "The folder of what is kept"
    return tmp_path/'cache/views'

class Body(nn.Conv2d):
    "A body that counts its batches, and may be slow"
    batches, wait = 0, 0.
    def forward(self, x):
        Body.batches += 1
        time.sleep(Body.wait)
        return super().forward(x)

def body(): return nn.Sequential(Body(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())

def learner(df, seed=1, arch=body, loss=False, **dls):
    Body.batches, Body.wait = 0, 0.
    loaders = checked_dataloaders(df, **dict(item_size=16, size=16, bs=8, num_workers=0, device='cpu') | dls)
    set_seed(seed)
    return xray_learner(loaders, arch, **(dict(loss_func=weighted_loss(loaders)) if loss else {}))

def stored(learn, views=2, **kwargs):
    "Outputs for train and valid, and how many batches the body saw"
    before = Body.batches
    with stored_body(learn, views, **kwargs): out = [(dl.views.clone(), dl.labels.clone()) for dl in learn.dls.loaders]
    return out, Body.batches - before

def same(a, b): return all(torch.equal(x, y) for p,q in zip(a, b) for x,y in zip(p, q))

def folders(kept): return sorted(o.name for o in kept.glob('[0-9a-f]*') if o.is_dir())

def whole(kept):
    "Nothing half-written lies about, and what is there is right"
    assert not list(kept.glob('.*'))
    for o in folders(kept): assert sorted(f.name for f in (kept/o).iterdir()) == ['crc', 'views.npy']

# 44 images are 6 batches, 16 are 2: 14 of two views and one, and a look at the first of each

def test_the_same_numbers_made_once(images, kept):
    alone, n = stored(learner(images), max_bytes=0)
    assert n == 14 and not kept.exists()
    (made, n_made), (found, n_found) = stored(learner(images)), stored(learner(images))
    assert (n_made, n_found) == (16, 2) and same(made, alone) and same(found, alone)
    sizes = sorted((kept/o/'views.npy').stat().st_size for o in folders(kept))
    assert made[0][0].shape == (2, 44, 16) and sizes == [4*16*16 + 128, 2*44*16*4 + 128]
    whole(kept)

def fit(df, seed, **kwargs):
    learn = learner(df, **kwargs)
    set_seed(seed)
    history = learn.fit_two_stage(2, 1, lr_frozen=1e-2, lr_unfrozen=1e-3, views=2)
    return learn.model.state_dict(), history

@pytest.mark.parametrize('how', [dict(), dict(sampler=BalancedSampler), dict(loss=True), dict(exposure=.5)], ids=str)
def test_a_training_ends_the_same_kept_or_not(images, how, monkeypatch):
    made, found = fit(images, 3, **how), fit(images, 3, **how)
    monkeypatch.setattr('pneumo_imbalance.train.stored_body', partial(stored_body, max_bytes=0))
    alone = fit(images, 3, **how)
    for weights,history in (made, found):
        assert [k for k,v in alone[0].items() if not torch.equal(v, weights[k])] == []
        pd.testing.assert_frame_equal(history, alone[1])

def test_another_head_loss_sampler_or_label_takes_the_same(images, kept):
    stored(learner(images))
    other = images.assign(label=images.label.astype(str).where(images.index % 3 > 0, 'a'))
    for how in (dict(sampler=BalancedSampler), dict(loss=True), dict(vocab=['b', 'a'])): assert stored(learner(images, **how))[1] == 2
    out, n = stored(learner(other))
    assert n == 2 and not torch.equal(out[0][1], stored(learner(images))[0][0][1]) and len(folders(kept)) == 2

others = dict(size=dict(size=12), squares=dict(item_size=20), method=dict(method='pad', item_size=18), crop=dict(min_scale=.5),
    turn=dict(max_rotate=20), exposure=dict(exposure=.5), batches=dict(bs=16), weights=dict(seed=2))

@pytest.mark.parametrize('how', others.values(), ids=others)
def test_what_decides_them_gives_others(images, kept, how):
    stored(learner(images))
    fresh, n = stored(learner(images, **how))
    assert n > 2 and same(fresh, stored(learner(images, **how), max_bytes=0)[0]) and len(folders(kept)) >= 3

def test_other_images_views_or_seeds_are_others(images, kept):
    stored(learner(images))
    some = images.drop(images.index[:8])
    for df,how in ((some, {}), (images.iloc[::-1], {}), (images, dict(views=3)), (images, dict(seed=7))):
        out, n = stored(learner(df), **how)
        assert n > 2 and same(out, stored(learner(df), max_bytes=0, **how)[0])
    whole(kept)

class Own(RandTransform):
    def encodes(self, x:torch.Tensor): return x

class Double(RandTransform):
    order, split_idx = 200, None
    def encodes(self, x:torch.Tensor): return x.double() if x.is_floating_point() else x
Double.__module__ = 'fastai.vision.augment'

class Stateful(nn.Identity):
    def get_extra_state(self): return 'anything'
    def set_extra_state(self, o): pass

def with_transform(df, tfm):
    learn = learner(df)
    for dl in learn.dls.loaders: dl.after_batch.add(tfm)
    return learn

def test_what_has_no_name_is_not_kept(images, kept):
    stored(learner(images, cache=False))
    stored(with_transform(images, Own()))
    with torch.autocast('cpu', torch.bfloat16): stored(learner(images))
    assert not kept.exists()
    def with_state(): return nn.Sequential(Stateful(), *body())
    stored(learner(images, arch=with_state))
    assert not kept.exists()
    learn = learner(images)
    learn.model.double()
    for dl in learn.dls.loaders: dl.after_batch.add(Double())
    stored(learn)
    assert not folders(kept)
    stored(with_transform(images, RandomErasing(p=.5)))
    assert len(folders(kept)) == 2

class Doubled(Body):
    def forward(self, x): return 2*super().forward(x)
Doubled.__name__ = 'Body'

def test_other_code_of_a_layer_is_noticed(images, kept, capsys):
    "A name can't tell it, the first batch does"
    stored(learner(images))
    def arch(): return nn.Sequential(Doubled(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
    out, n = stored(learner(images, arch=arch))
    assert n == 16 and same(out, stored(learner(images, arch=arch), max_bytes=0)[0])
    assert capsys.readouterr().out.count('are damaged, or the body makes others now: they are made again.') == 2
    whole(kept)

def test_batches_are_balanced(images):
    learn = learner(images, sampler=BalancedSampler)
    set_seed(1)
    with stored_body(learn, 8):
        x, y = map(torch.cat, zip(*learn.dls.train))
        rows = {tuple(o.tolist()) for o in learn.dls.train.views.flatten(0, 1)}
        assert y.bincount().tolist() == [33, 33] and {tuple(o.tolist()) for o in x} <= rows
        assert len({tuple(o.tolist()) for o in x}) > 55
    history = learn.fit_two_stage(frozen=3, unfrozen=0, lr_frozen=1e-2, views=8)
    assert len(history) == 3 and history.notna().all().all()

forks = pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')

@contextmanager
def another(fn):
    "Another process that does `fn`; gives its number"
    pid = os.fork()
    if not pid:
        try: fn()
        finally: os._exit(0)
    try: yield pid
    finally: os.waitpid(pid, 0)

def begun(kept):
    "Wait until something is being written"
    for _ in range(500):
        if any(o.stat().st_size for o in kept.glob('.*/*/views.npy')): return
        time.sleep(.01)
    raise AssertionError('nothing was written')

def slowly(images, wait=.05):
    learn = learner(images)
    Body.wait = wait
    stored(learn, views=30)

@forks
def test_killed_while_it_writes(images, kept):
    with another(partial(slowly, images)) as pid:
        begun(kept)
        os.kill(pid, signal.SIGKILL)
    assert list(kept.glob('.*')) and not folders(kept)
    out, _ = stored(learner(images), views=30)
    assert same(out, stored(learner(images), views=30, max_bytes=0)[0])
    whole(kept)

@forks
def test_what_a_killed_process_left_can_be_cleared(images, kept):
    with another(partial(slowly, images)) as pid:
        begun(kept)
        assert clear_views() == 0 and list(kept.glob('.*')) # it is at work
        os.kill(pid, signal.SIGKILL)
    assert clear_views() > 0 and not [o for o in kept.iterdir() if o.suffix != '.lock']

@forks
def test_the_second_process_waits(images, kept, capfd):
    def first():
        learn = learner(images)
        Body.wait = .1
        stored(learn)
    with another(first):
        while not list(kept.glob('*.lock')): time.sleep(.01)
        _, n = stored(learner(images))
    assert n == 2 and 'Another process computes the same views: waiting for it.' in capfd.readouterr().out
    whole(kept)

@forks
def test_full_disk_is_one_sentence(images, kept, capfd):
    resource = pytest.importorskip('resource')
    def full():
        learn, want = learner(images), stored(learner(images), views=40, max_bytes=0)[0]
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        print('the same' if same(stored(learn, views=40)[0], want) else 'others', flush=True)
    with another(full): pass
    out = capfd.readouterr().out
    assert out.count("Views are computed and not kept, for they can't be (File too large); free some space, or set PNEUMO_CACHE") == 1
    assert 'the same' in out
    whole(kept)

def test_a_folder_that_cannot_be_made_is_one_sentence(images, kept, capsys):
    want = stored(learner(images), max_bytes=0)[0]
    kept.parent.mkdir(exist_ok=True)
    kept.write_text('in the way')
    assert same(stored(learner(images))[0], want)
    assert capsys.readouterr().out.count("not kept, for they can't be (File exists); free some space, or set PNEUMO_CACHE to a folder") == 2

def test_the_oldest_go_first(images, kept):
    "Two views of all images take 7 kB, their files' beginnings among it"
    sets = []
    for i,seed in enumerate((1, 2, 3)):
        stored(learner(images, seed=seed), max_bytes=14_500)
        sets.append(set(folders(kept)) - set().union(*sets))
        for o in sets[-1]: os.utime(kept/o, (i, i))
    left = set(folders(kept))
    assert sum(f.stat().st_size for o in left for f in (kept/o).iterdir()) <= 14_500
    assert not sets[0] & left and sets[2] <= left
    whole(kept)
    assert clear_views() > 10_000 and not folders(kept) and clear_views() == 0

"Work handed to other processes: the same runs and squares, byte for byte; a sentence for workers that are killed, fail or see other files."
import multiprocessing, os, signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
import numpy as np, pytest, torch
from fastai.vision.all import Callback, nn
from pneumo_imbalance import runs
from pneumo_imbalance.core import hand_out
from pneumo_imbalance.compare import compare_remedies
from pneumo_imbalance.copies import thumbnails
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.presize import clear_presized, presize
from pneumo_imbalance.runs import make_runs
from pneumo_imbalance.split import split_valid

def tiny(pretrained=False): return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

class Killed(Callback):
    "Kills the process after the first epoch, once, where the environment says that it may, and unless it is the one that sends the runs"
    def after_epoch(self):
        flag = os.environ.get('KILL')
        if flag and self.epoch == 0 and self.learn.n_epoch > 1 and str(os.getpid()) != os.environ['SENDER']:
            try: Path(flag).touch(exist_ok=False)
            except FileExistsError: return
            os.kill(os.getpid(), signal.SIGKILL)

def flaky(flag):
    "Fails the first time"
    if flag.exists(): return 1
    flag.touch()
    raise ZeroDivisionError

small = dict(frozen=0, unfrozen=2, lr_unfrozen=2e-3, size=32, item_size=32, bs=16, arch=tiny, pretrained=False, cbs=[Killed()])
names = ['none', 'oversample_epoch']

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with a cache; one thread for every process; those that are asked for are forks of one that has imported all"
    tmp, before = tmp_path_factory.mktemp('executor'), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as m:
        env = dict(PNEUMO_CACHE=str(tmp/'cache'), KILL=str(tmp/'killed'), SENDER=str(os.getpid()), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
        for k,v in env.items(): m.setenv(k, v)
        torch.set_num_threads(1)
        yield tmp
        torch.set_num_threads(before)

@pytest.fixture(scope='module')
def df(place):
    counts = dict(train=dict(NORMAL=16, PNEUMONIA=32), test=dict(NORMAL=8, PNEUMONIA=8))
    return split_valid(scan_images(make_phantoms(place/'xray', counts, size=48, opacity=2.)))

@pytest.fixture(scope='module')
def alone(df, place):
    "The runs of one process, and the squares that it drew"
    make_runs(df, names, [0, 1], place/'alone', **small)
    return read(place/'alone'), np.array(presize(df, 32)[df])

def read(out): return {o.name: o.read_bytes() for o in out.glob('*-*.csv')}

def check_same(out, alone):
    assert read(out) == alone and {o.suffix for o in out.iterdir()} == {'.csv', '.json'} # nothing hidden is left

@pytest.fixture
def forkserver(place):
    "Processes that know nothing of this one, and of which the first may be killed"
    (place/'killed').unlink(missing_ok=True)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['pneumo_imbalance.compare'])
    return context

def test_processes_and_one_is_killed(df, alone, place, forkserver, tmp_path):
    "They find the same table and draw the same squares; a killed one is one sentence, and the same call goes on"
    clear_presized()
    with ProcessPoolExecutor(1, forkserver) as ex:
        assert split_valid(scan_images(place/'xray', rescan=True, executor=ex)).equals(df)
        with pytest.raises(ValueError, match='found that one was killed .BrokenProcessPool; .* make the same call again'):
            make_runs(df, names, [0, 1], tmp_path/'out', executor=ex, **small)
        with pytest.raises(ValueError, match='one was killed'): list(hand_out(ex, pow, [(1, 2)])) # a broken pool stays broken
    assert (presize(df.assign(path='elsewhere'), 32)[df] == alone[1]).all()
    assert [o for o in (tmp_path/'out').glob('.*-*')] # its checkpoints
    make_runs(df, names, [0, 1], tmp_path/'out', **small)
    check_same(tmp_path/'out', alone[0])

def test_dask_and_a_worker_is_killed(df, alone, place, forkserver, tmp_path):
    "A scheduler and two worker processes, one of which is killed half-way: the comparison finishes"
    distributed = pytest.importorskip('distributed', reason='needs Dask: pip install "dask[distributed]"')
    own = dict(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path/'dask', silence_logs=50)
    how = {'distributed.scheduler.work-stealing': False, 'distributed.worker.multiprocessing-method': 'forkserver'}
    with pytest.importorskip('dask').config.set(how), distributed.LocalCluster(**own) as cluster, distributed.Client(cluster) as client:
        ex = client.get_executor()
        assert (thumbnails(df, executor=ex) == thumbnails(df)).all()
        found = compare_remedies(df, names, 1, tmp_path/'out', n_boot=50, on_leak='ignore', executor=ex, **small)
        assert (place/'killed').exists() and len(found.runs)
        try: list(hand_out(ex, flaky, [(tmp_path/'flag',)]))
        except ZeroDivisionError as e: kept = e # Dask would give what it has for an equal call while somebody holds it
        assert list(hand_out(ex, flaky, [(tmp_path/'flag',)])) == [1] and kept
        with pytest.raises(ValueError, match='such as client.get_executor.. of a Dask client, found Client; pass one'):
            make_runs(df, ['none'], [7], tmp_path/'out', executor=client, **small)
    check_same(tmp_path/'out', {k: v for k,v in alone[0].items() if k.endswith('-0.csv')})

class Elsewhere(ThreadPoolExecutor):
    "Workers that see the images under other paths"
    def submit(self, call, token, fn, part, *args): return super().submit(call, token, fn, [('/mnt' + p, d) for p,d in part], *args)

class Lost(ThreadPoolExecutor):
    "Workers that do nothing"
    def submit(self, *args): return super().submit(lambda: None)

def test_workers_that_see_other_files(df, alone, place, tmp_path):
    with Elsewhere(2) as ex, pytest.raises(ValueError, match='see our files under the same paths, found one .*/mnt.*No such file'):
        presize(df, 40, executor=ex)
    with Lost(1) as ex, pytest.raises(ValueError, match='predictions of none with seed 0 in .*, found none'):
        make_runs(df, ['none'], [0], tmp_path/'out', executor=ex, **small)
    told = (tmp_path/'out/settings.json').read_text()
    runs._check_shared(tmp_path/'out', told, True)
    for out, claim in ((tmp_path/'gone', told), (tmp_path/'out', told.replace('32', '33'))):
        with pytest.raises(ValueError, match="found that .* doesn't see them in .*; take a folder"): runs._check_shared(out, claim, True)
    with pytest.MonkeyPatch.context() as m:
        m.setenv('PNEUMO_CACHE', str(tmp_path/'mine'))
        runs._check_shared(tmp_path/'out', told, False)
        with pytest.raises(ValueError, match="doesn't see them in .*mine"): runs._check_shared(tmp_path/'out', told, True)

class Odd(Callback):
    def before_fit(self): raise KeyError('of a callback')

def test_a_run_that_fails(df, alone, place, tmp_path):
    "One sentence; what was finished stays, what can't be sent is refused"
    with ThreadPoolExecutor(2) as ex:
        with pytest.raises(ValueError, match="none with seed [01] to train on .*, found KeyError .*of a callback.*; mend that"):
            make_runs(df, ['none'], [0, 1, 2], tmp_path/'out', executor=ex, **small | dict(cbs=[Odd()]))
        make_runs(df, names, [0, 1], tmp_path/'out', executor=ex, **small)
    check_same(tmp_path/'out', alone[0])
    with ProcessPoolExecutor(1) as ex, pytest.raises(ValueError, match='none with something of this session; move it to a module'):
        make_runs(df, ['none'], [5], tmp_path/'new', executor=ex, **small | dict(arch=lambda pretrained=False: tiny()))

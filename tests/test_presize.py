"Presized images when processes are killed, meet, or find the disk full; and the loaders they feed."
import os, shutil, signal, subprocess, sys, time
from unittest.mock import patch
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from fastai.torch_core import set_seed
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.image import open_image
from pneumo_imbalance.presize import clear_presized, presize
from pneumo_imbalance.sampling import BalancedSampler
from pneumo_imbalance.split import split_valid

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "The pickled table of a few hundred images of noise"
    d, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for folder,n in {'train/NORMAL': 150, 'train/PNEUMONIA': 430, 'test/NORMAL': 8, 'test/PNEUMONIA': 12}.items():
        (d/'xray'/folder).mkdir(parents=True)
        for i in range(n): Image.fromarray(rng.integers(0, 255, (66, 84), 'u1')).save(d/f'xray/{folder}/{i}.jpeg')
    split_valid(scan_images(d/'xray')).to_pickle(d/'df.pkl')
    return d/'df.pkl'

build = """
import resource, signal, sys, time
import pandas as pd
from pneumo_imbalance.core import cache_folder
from pneumo_imbalance.image import open_image
from pneumo_imbalance.store import keep_squares
wait, limit = float(sys.argv[2]), int(sys.argv[3])
def draw(file):
    time.sleep(wait)
    return open_image(file, least=48).resize((48, 48), 2)
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
print(len(keep_squares(cache_folder()/'presized/48-squish-1', pd.read_pickle(sys.argv[1]), draw, (48, 48), n_workers=2)[1]))
"""

def builder(images, cache, wait=0., limit=0):
    "A process that does what presize does to the images of a table, and needs no torch to be imported"
    env = dict(os.environ, PNEUMO_CACHE=str(cache), TQDM_DISABLE='1')
    cmd = [sys.executable, '-c', build, str(images), str(wait), str(limit)]
    return subprocess.Popen(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def check(images, cache, monkeypatch):
    "All squares are there, once, and right"
    monkeypatch.setenv('PNEUMO_CACHE', str(cache))
    df = pd.read_pickle(images)
    made = presize(df, size=48, channels=1)
    assert len(made) == df.digest.nunique() and made.slots.is_unique
    want = np.stack([np.asarray(open_image(o, least=48).resize((48, 48), 2)) for o in df.path])
    assert (made[df] == want).all()
    return made

def begun(p, store):
    "Wait until the first squares are in the store"
    while p.poll() is None and not ((store/'images-0.bin').exists() and (store/'images-0.bin').stat().st_size): time.sleep(.02)
    assert p.poll() is None, p.communicate()

def test_killed_half_way_goes_on(images, tmp_path, monkeypatch):
    p, store = builder(images, tmp_path, wait=.01), tmp_path/'presized/48-squish-1'
    begun(p, store)
    time.sleep(.3)
    p.send_signal(signal.SIGKILL)
    p.wait()
    kept = (store/'images-0.bin').stat().st_size//48**2
    assert 0 < kept < 600
    before = (store/'images-0.bin').read_bytes()[:256*48**2]
    check(images, tmp_path, monkeypatch)
    assert (store/'images-0.bin').read_bytes()[:256*48**2] == before

def test_two_at_once_build_once(images, tmp_path, monkeypatch):
    both = [builder(images, tmp_path, wait=.003) for _ in range(2)]
    outs = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], outs
    made = check(images, tmp_path, monkeypatch)
    assert (tmp_path/'presized/48-squish-1/images-0.bin').stat().st_size == len(made)*48**2

@pytest.mark.skipif(os.name != 'posix', reason='this system has no limit on file sizes to stand for a full disk')
def test_full_disk_is_one_sentence(images, tmp_path, monkeypatch):
    p = builder(images, tmp_path, limit=300*48**2)
    err = p.communicate(timeout=120)[1].strip().splitlines()
    assert p.returncode == 1 and 'expected to keep pictures' in err[-1] and 'free some space' in err[-1], err
    check(images, tmp_path, monkeypatch)

def test_clearing_leaves_what_another_process_fills(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path))
    p = builder(images, tmp_path, wait=.01)
    begun(p, tmp_path/'presized/48-squish-1')
    assert clear_presized() == 0 and '1 folders' in capsys.readouterr().out
    out = p.communicate(timeout=120)
    assert p.returncode == 0, out
    assert clear_presized() == len(check(images, tmp_path, monkeypatch))*48**2

def test_store_removed_by_hand_is_one_sentence(images, tmp_path):
    p = builder(images, tmp_path, wait=.01)
    begun(p, tmp_path/'presized/48-squish-1')
    shutil.rmtree(tmp_path/'presized/48-squish-1')
    err = p.communicate(timeout=120)[1].strip().splitlines()
    assert p.returncode == 1 and 'begin again, for somebody removed it' in err[-1], err

def test_changed_image_keeps_the_others(images, tmp_path, monkeypatch):
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path))
    df = pd.read_pickle(images)
    with pytest.raises(ValueError, match='other bytes; scan the images again .so it is with 2 of 600'):
        presize(df.assign(digest=['0', '1', *df.digest[2:]]), size=48, channels=1)
    with patch('pneumo_imbalance.store.read_square', side_effect=AssertionError('drawn again')): presize(df[2:], size=48, channels=1)

@pytest.fixture
def both_ways(images, tmp_path, monkeypatch):
    "Loaders of presized images, and of the files"
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path))
    df = pd.read_pickle(images)
    how = dict(item_size=64, size=48, bs=50, num_workers=0, device='cpu', on_leak='ignore')
    return df, *(xray_dataloaders(df, cache=o, **how) for o in (True, False))

def test_same_tensors_either_way(both_ways):
    df, fast, slow = both_ways
    for split in ('train', 'valid'):
        set_seed(7)
        a = list(getattr(fast, split))
        set_seed(7)
        b = list(getattr(slow, split))
        assert len(a) == len(b)
        assert all(torch.equal(y, z) and torch.allclose(x, w, atol=.05) for (x,y),(w,z) in zip(a, b))
    test = df[df.split == 'test']
    assert torch.allclose(fast.test_dl(test).one_batch()[0], slow.test_dl(test).one_batch()[0], atol=.05)

def halves(seen, whole):
    "Two ranks share a list between them"
    return set(seen[0]) | set(seen[1]) == set(whole) and len(set(seen[0]) & set(seen[1])) <= len(whole) % 2

def test_distributed_shards_are_disjoint(both_ways, monkeypatch):
    "Two ranks of fastai's `to_distributed` share an epoch, their batches made from the map"
    from fastai.distributed import DistributedDL
    train = both_ways[1].train
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: t)
    order = train.rng.sample(range(train.n), train.n)
    train.get_idxs = lambda: order
    shards = [DistributedDL(train, rank=r, world_size=2) for r in range(2)]
    assert halves([o.get_idxs() for o in shards], order)
    x, y = next(iter(shards[0]))
    assert x.shape == (50, 3, 48, 48) and y.tolist() == [train.items.label.cat.codes.iloc[i] for i in order[:50]]

def test_balanced_sampler_under_accelerate(images):
    "Two processes of accelerate share each balanced epoch, and the next one differs"
    from accelerate.data_loader import prepare_data_loader
    df = pd.read_pickle(images)
    df = df[df.split == 'train']
    def batches(sampler): return torch.utils.data.DataLoader(torch.arange(len(df)), batch_size=20, sampler=sampler)
    both = dict(num_processes=2, put_on_device=False)
    ranks = [prepare_data_loader(batches(BalancedSampler(df, seed=3)), process_index=r, **both) for r in range(2)]
    plain = batches(BalancedSampler(df, seed=3))
    for _ in range(2):
        want, got = [o.tolist() for o in plain], [[o.tolist() for o in rank] for rank in ranks]
        assert [o for pair in zip(*got) for o in pair][:len(want)-1] == want[:-1] # accelerate fills the last batch up

"The audit of public archives, on phantoms: what is counted, what belongs together, and that a small network answers."
import numpy as np, pandas as pd, pytest
from benchmarks.wild import archive, fewer, guessed, grouped, named, read, same_image, small, trained, with_copy
from pneumo_imbalance.copies import near_duplicates
from pneumo_imbalance.image import open_image
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.presize import presize

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "An archive in which two training images stand in the test too: one byte for byte, one shrunk"
    out = make_phantoms(tmp_path_factory.mktemp('wild')/'xray', dict(train=dict(A=20, B=40), test=dict(A=10, B=20)), size=96)
    a, b = sorted((out/'train/B').iterdir())[:2]
    (out/'test/B/one.jpeg').write_bytes(a.read_bytes())
    open_image(b).resize((80, 80)).save(out/'test/B/two.jpeg')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PNEUMO_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield out

@pytest.mark.filterwarnings('ignore:Leak check')
def test_copies_across_the_splits_are_counted(root):
    row, told = archive('mine', root)
    assert [row[k] for k in ('images', 'test', 'identical_pairs', 'near_pairs', 'test_with_copy', 'two_labels')] == [92, 32, 1, 1, 2, 0]
    assert {o['told'] for o in told} == {'bytes', 'no pixel', 'test'} and all(0 <= o['low'] <= o['high'] <= 1 for o in told)

def test_a_picture_is_one_group(root):
    df = read(root, 'mine')
    near = near_duplicates(df)
    groups, copied = pd.Series(same_image(df, near), df.path), df.path[with_copy(df, near)]
    assert all((groups == groups[o]).sum() > 1 for o in copied) and len(copied) == 2

def test_groups_chain(): assert len(set(grouped([pd.Series(list('aabc'))], [['2'], ['3']], list('0123')))) == 2

def test_a_small_network_answers(root):
    df = read(root, 'mine')
    images, some = presize(df, 72, channels=1), fewer(df, pd.Series(dict(A=5, B=9)))
    probs = guessed(trained(images, some, ['A', 'B'], 0, 2), images, df[df.split == 'test'])
    assert (some.split == 'train').sum() == 14 and probs.shape == (32, 2) and np.allclose(probs.sum(1), 1)
    assert sum(o.numel() for o in small(4).parameters()) < 1e6

def test_names(): assert [named('a b=/x/y')[0], named('/x/y')[0]] == ['a b', 'y']

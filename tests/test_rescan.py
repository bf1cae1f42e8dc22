"The second scan of the same files gives the very table of a fresh one, whatever happened to the files or to what was remembered."
import os, sqlite3, subprocess, sys, time
from pathlib import Path
import PIL, pytest, zoo
from pandas.testing import assert_frame_equal
from PIL import Image, ImageFile
from pneumo_imbalance import image, remember
from pneumo_imbalance.data import read_table, scan_images
from pneumo_imbalance.dicom_phantom import dicom_phantoms
from pneumo_imbalance.image import measure_image, measure_images
from pneumo_imbalance.phantom import make_phantoms
from pydicom.data import get_testdata_file

hour = 3600

@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "A cache folder of its own; what was written an instant ago counts as old"
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(remember, '_grain', -1.)
    return tmp_path/'cache'

@pytest.fixture
def reads(monkeypatch):
    "The names of the files that are read"
    names = []
    def counted(path):
        names.append(Path(path).name)
        return measure_image(path)
    monkeypatch.setattr(image, 'measure_image', counted)
    return names

def memories(cache): return sorted((cache/'scans').glob('*.sqlite'))

@pytest.fixture
def tree(tmp_path):
    counts = dict(train=dict(NORMAL=6, PNEUMONIA=8), test=dict(NORMAL=2, PNEUMONIA=2))
    return make_phantoms(tmp_path/'data', counts, size=32)

def fresh(folder, **kwargs):
    "The table without any memory"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(remember.RowMemory, 'get', lambda self, paths: [None]*len(paths))
        m.setattr(remember.RowMemory, 'put', lambda self, found: None)
        return scan_images(folder, **kwargs)

def agree(folder, **kwargs):
    "Scan twice: both tables are that of a fresh scan"
    want = fresh(folder, **kwargs)
    for _ in range(2): assert_frame_equal(scan_images(folder, **kwargs), want)
    return want

# The same table

@pytest.mark.filterwarnings("ignore")
def test_the_zoo(tmp_path, reads):
    "Of images nothing is read again; what has a problem is"
    (tmp_path/'zoo/sick').mkdir(parents=True)
    zoo.write(tmp_path/'zoo/sick')
    for o in (tmp_path/'zoo/sick').iterdir(): o.rename(o.with_suffix('.png'))
    want = agree(tmp_path/'zoo')
    again = reads[2*len(want) + 2:] # and a DICOM file without a picture, which no table has
    assert (want.problem == '').sum() > 100
    assert sorted(again) == sorted(Path(o).name for o in want.path[want.problem != ''])

def test_dicom_and_images_in_one_tree(tmp_path, cache, monkeypatch, reads):
    root = dicom_phantoms(tmp_path/'data', dict(train=dict(NORMAL=3, PNEUMONIA=3)), size=32)
    Image.new('L', (9, 9)).save(root/'train/NORMAL/a.png')
    (root/'train/NORMAL/plan.dcm').write_bytes(Path(get_testdata_file('rtplan.dcm')).read_bytes())
    n = len(agree(root)) + 1
    assert len(reads) == 2*n
    monkeypatch.setenv('PNEUMO_KEY', 'another')
    agree(root)
    assert sorted(reads[3*n:]) == sorted(o.name for o in root.rglob('*.dcm'))
    said = memories(cache)[0].read_bytes()
    assert b'Phantom^' not in said and str(root).encode() not in said and b'.dcm' not in said and b'.png' not in said

def test_what_happens_to_files(tree, reads):
    df = agree(tree)
    files = [Path(o) for o in df.path]
    before = len(reads)
    Image.new('L', (20, 30), 7).save(files[0])
    files[1].unlink()
    Image.new('L', (21, 31), 8).save(files[2].with_name('new.png'))
    files[3].touch()
    files[4].write_bytes(files[4].read_bytes()[:-300])
    files[5].rename(files[5].with_name('moved.jpeg'))
    scan_images(tree)
    assert sorted(reads[before:]) == sorted([files[0].name, 'new.png', files[3].name, files[4].name, 'moved.jpeg'])
    after = agree(tree)
    assert (after.problem != '').sum() == 1 and len(after) == len(df)

def overwritten(file):
    "Other bytes, as many, at the same time by the file's own word"
    kind, data = os.stat(file), bytearray(file.read_bytes())
    data[-1:] = b'?'
    with open(file, 'r+b') as f: f.write(data)
    os.utime(file, ns=(kind.st_atime_ns, kind.st_mtime_ns))
    assert os.stat(file).st_size == kind.st_size and os.stat(file).st_mtime_ns == kind.st_mtime_ns

@pytest.mark.skipif(os.name != 'posix', reason='the system keeps no time of its own')
def test_a_time_that_was_set_back_fools_nobody(tree):
    df = agree(tree)
    overwritten(Path(df.path[0]))
    assert agree(tree).digest[0] != df.digest[0]

def test_the_limit_where_the_system_keeps_no_time(tree, monkeypatch):
    "Same size, time and number: it is taken for the old file, until all are read anew"
    def told(path):
        o = os.stat(path)
        return f'{o.st_size} {o.st_mtime_ns} {o.st_ino}'
    monkeypatch.setattr(image, 'file_stamp', told)
    monkeypatch.setattr(remember, 'file_stamp', told)
    df = agree(tree)
    overwritten(Path(df.path[0]))
    assert scan_images(tree).digest[0] == df.digest[0]
    want = fresh(tree)
    assert_frame_equal(scan_images(tree, rescan=True), want)
    assert_frame_equal(scan_images(tree), want)

def test_what_changed_just_now_is_not_trusted(tree, monkeypatch, cache, reads):
    monkeypatch.setattr(remember, '_grain', 2.)
    n = len(scan_images(tree))
    assert not memories(cache)
    now = time.time()
    monkeypatch.setattr(remember.time, 'time', lambda: now + hour)
    for _ in range(2): scan_images(tree)
    assert len(reads) == 2*n

def test_a_csv(tree, tmp_path, reads):
    df = scan_images(tree)
    csv = df[['path', 'label', 'split']].iloc[::-1]
    for _ in range(2): got = read_table(csv, root=tmp_path)
    assert len(reads) == 2*len(df) and got.digest.tolist() == df.digest[::-1].tolist()
    csv.assign(path=[os.path.relpath(o, tree) for o in csv.path]).to_csv(tree/'a.csv', index=False)
    assert read_table(tree/'a.csv').digest.tolist() == got.digest.tolist() and len(reads) == 2*len(df)

def test_the_limits_are_kept_out_of_the_way(tree):
    "Odd arguments are refused whether or not all is known"
    agree(tree)
    with pytest.raises(ValueError, match='n_workers'): scan_images(tree, n_workers=0)

def test_only_archives_are_remembered(tree, cache, reads):
    for _ in range(2): measure_images(sorted(tree.rglob('*.jpeg')))
    assert len(reads) == 2*18 and not (cache/'scans').exists()

# What decides

changes = [(Image, 'MAX_IMAGE_PIXELS', 10**7), (ImageFile, 'LOAD_TRUNCATED_IMAGES', True), (image, '_code', 99), (PIL, '__version__', '99'),
    (os, 'geteuid', lambda: 12345)]

@pytest.mark.parametrize('what', changes, ids=lambda o: o[1])
def test_another_program_knows_nothing(tree, monkeypatch, reads, what):
    n = len(scan_images(tree))
    monkeypatch.setattr(*what, raising=False)
    scan_images(tree)
    assert len(reads) == 2*n

# The memory's own troubles

def damaged(file, data): file.write_bytes(data(file.read_bytes()))

def foreign(file):
    "A database of another make"
    file.unlink()
    with sqlite3.connect(file) as db: db.execute('create table rows (a, b)')
    db.close()

def a_folder(file):
    file.unlink()
    file.mkdir()

def half(file): damaged(file, lambda o: o[:len(o)//2])

def emptied(file): damaged(file, lambda o: b'')

def other(file): damaged(file, lambda o: b'?'*5000)

def head_alone(file): damaged(file, lambda o: o[:4096] + b'\xff'*(len(o) - 4096))

@pytest.mark.parametrize('what', [half, emptied, other, head_alone, foreign, a_folder])
def test_a_damaged_memory(tree, cache, what):
    want = agree(tree)
    what(memories(cache)[0])
    for _ in range(3): assert_frame_equal(scan_images(tree), want)

def test_a_flipped_bit_is_never_believed(tree, cache):
    want = agree(tree)
    file = memories(cache)[0]
    data = file.read_bytes()
    for i in range(100, len(data), 197):
        file.write_bytes(data[:i] + bytes([data[i] ^ 4]) + data[i+1:])
        assert_frame_equal(scan_images(tree), want)

def test_where_nothing_can_be_kept(tree, cache, capsys):
    want = fresh(tree)
    cache.mkdir(exist_ok=True)
    (cache/'scans').write_text('a file in the way')
    assert_frame_equal(scan_images(tree), want)
    assert capsys.readouterr().out.count('The next scan reads every file again') == 1

def test_what_was_used_least_goes(tree, tmp_path, cache):
    for i in range(4):
        memory = remember.RowMemory(tmp_path/str(i), max_files=2)
        memory.put([(o, remember.file_stamp(o), {}) for o in tree.rglob('*.jpeg')])
        os.utime(memory.file, (i, i))
    assert len(memories(cache)) == 3 and memory.file.exists()
    remember.RowMemory(tmp_path/'5', max_bytes=1).put([(tree/'absent', 'a stamp', {})])
    assert len(memories(cache)) == 1

def test_paths_that_are_none(tree):
    "A path with a zero in it, a half character of the file system, a folder"
    df = scan_images(tree)
    odd = df[['path', 'label', 'split']].assign(path=['\0', '\udc80', str(tree), *df.path[3:]])
    for _ in range(2): assert (read_table(odd, root=tree).problem == '').sum() == len(df) - 3

def test_what_was_used_lately_stays(tree, tmp_path, cache):
    "Asking counts as use"
    files = sorted(tree.rglob('*.jpeg'))
    memories = [remember.RowMemory(tmp_path/str(i), max_files=1) for i in range(3)]
    for i,o in enumerate(memories[:2]):
        o.limits = 2e9, 9
        o.put([(f, remember.file_stamp(f), {}) for f in files])
        os.utime(o.file, (i, i))
    memories[0].get(files)
    memories[2].put([(f, remember.file_stamp(f), {}) for f in files])
    assert [o.file.exists() for o in memories] == [True, False, True]

several = """
import sys
from pneumo_imbalance import remember
from pneumo_imbalance.data import scan_images
remember._grain = -1.
for i in range(4): print(scan_images(sys.argv[1], rescan=i % 2 == 0).digest.sum())
"""

def test_processes_at_once(tree):
    want = fresh(tree)
    runs = [subprocess.Popen([sys.executable, '-c', several, str(tree)], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for o in runs: assert o.communicate(timeout=100)[0].split() == [want.digest.sum()]*4
    assert_frame_equal(scan_images(tree), want)

def test_a_killed_scan_leaves_a_good_memory(tree):
    want = fresh(tree)
    for wait in (1., 1.3, 1.6):
        o = subprocess.Popen([sys.executable, '-c', several.replace('range(4)', 'range(10_000)'), str(tree)], stdout=subprocess.DEVNULL)
        time.sleep(wait)
        o.kill()
        o.wait()
        assert_frame_equal(scan_images(tree), want)

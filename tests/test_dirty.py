"Files and archives that a scanner of images may meet: each is read right or has a problem, in bounded time and memory, and nothing is lost or left."
import gzip, io, os, stat, struct, subprocess, sys, tarfile, zipfile, zlib
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
import numpy as np, pandas as pd, pytest
from PIL import Image
from pneumo_imbalance.archive import extract
from pneumo_imbalance.copies import thumbnails
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.data import read_table, scan_images
from pneumo_imbalance.image import open_image
from pneumo_imbalance.phantom import make_phantoms, phantom_image

image = phantom_image(1, size=128)
posix = pytest.mark.skipif(os.name != 'posix', reason='this system has other kinds of files')

def png(width, height):
    "The bytes of a black 1-bit PNG of any size, a few kilobytes long"
    def part(kind, data): return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')
    z = zlib.compressobj(9)
    rows = b''.join(z.compress(bytes((width + 7)//8 + 1)) for _ in range(height)) + z.flush()
    return b'\x89PNG\r\n\x1a\n' + part(b'IHDR', width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([1, 0, 0, 0, 0])) + part(b'IDAT', rows) + part(b'IEND', b'')

def tiff(pages):
    "The bytes of a TIFF of that many pages of one pixel"
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 4), (279, 4, 1, 1)]
    page = struct.pack('<H', len(tags)) + b''.join(struct.pack('<HHII', *o) for o in tags)
    starts = [8 + i*(len(page) + 4) for i in range(1, pages)] + [0]
    return b'II*\0' + struct.pack('<I', 8) + b''.join(page + struct.pack('<I', o) for o in starts)

def good_images(d):
    "Write an image in every mode that Pillow knows to `d`"
    im, wide = Image.fromarray(image), Image.fromarray(image.astype('u2')*257)
    im.save(d/'gray.jpeg', quality=95)
    wide.save(d/'sixteen.png')
    wide.save(d/'sixteen.tif')
    im.convert('CMYK').save(d/'cmyk.jpg', quality=95)
    im.convert('P').save(d/'palette.png')
    im.convert('RGBA').save(d/'rgba.png')
    im.convert('LA').save(d/'la.png')
    Image.merge('LAB', [im, Image.new('L', im.size, 128), Image.new('L', im.size, 128)]).save(d/'lab.tif')
    Image.fromarray(image.astype('f4')/255).save(d/'float.tiff')
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(image[:,:96])).save(d/'turned.jpeg', exif=exif, quality=95)
    data = (d/'turned.jpeg').read_bytes()
    at, scan = data.index(b'\xff\xe1'), data.index(b'\xff\xda')
    note = data[at:at + 2 + int.from_bytes(data[at+2:at+4])]
    (d/'turned late.jpeg').write_bytes(data[:scan].replace(note, b'') + note + data[scan:])
    Image.new('L', (1, 1), 7).save(d/'dot.png')

def bad_images(d):
    "Write what only looks like images to `d`; name → start of its problem"
    data = (d/'gray.jpeg').read_bytes()
    frame, codes, scan = (data.index(bytes([0xff, o])) for o in (0xc0, 0xc4, 0xda))
    made = {'zero.jpeg': b'', 'cut.jpeg': data[:len(data)//2], 'text.jpeg': b'this is no image', 'bomb.png': png(20_000, 20_000), 'chain.tiff': tiff(150_000),
        'program.jpeg': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n', 'head.jpeg': data[:scan] + b'\xff\xd9',
        'twelve.jpeg': data[:frame+4] + b'\x0c' + data[frame+5:], 'codes.jpeg': data[:codes+5] + b'\xff'*16 + data[codes+21:], 'cut inside.jpeg': data[:scan+80] + data[scan:]}
    for k,v in made.items(): (d/k).write_bytes(v)
    pages = [Image.fromarray(image)]*3
    pages[0].save(d/'pages.tiff', save_all=True, append_images=pages[1:])
    with open(d/'sparse.jpeg', 'wb') as f: f.truncate(1 << 41)
    return {'chain.tiff': 'more than one', 'program.jpeg': 'not an image', 'head.jpeg': 'unreadable', 'twelve.jpeg': 'not an image', 'codes.jpeg': 'unreadable',
        'cut inside.jpeg': 'unreadable', 'zero.jpeg': 'empty', 'cut.jpeg': 'truncated', 'text.jpeg': 'not an image', 'bomb.png': 'too large', 'pages.tiff': 'more than one', 'sparse.jpeg': 'too large'}

def odd_files(d):
    "Links, pipes and names that only some systems have; name → start of its problem"
    for name,to in dict(loop=d, parent=d.parent, everything='/').items(): (d/name).symlink_to(to, target_is_directory=True)
    (d/'deep'/'/'.join('a'*150)).mkdir(parents=True)
    (d/'endless.jpeg').symlink_to('/dev/zero')
    (d/'itself.jpeg').symlink_to(d/'itself.jpeg')
    (d/'nowhere.jpeg').symlink_to(d/'gone.jpeg')
    os.mkfifo(d/'pipe.jpeg')
    data = (d/'gray.jpeg').read_bytes()
    for name in (b'a b.jpeg', b'a\nb.jpeg', '🫁.jpeg'.encode(), b'Gray.JPEG', b'\xff\xfe.jpeg'): Path(os.fsdecode(os.fsencode(d) + b'/' + name)).write_bytes(data)
    return {'itself.jpeg': 'broken link', 'nowhere.jpeg': 'broken link', 'pipe.jpeg': 'not a regular file', 'endless.jpeg': 'not a regular file', '\\xff\\xfe.jpeg': 'name is not UTF-8'}

@pytest.fixture(scope='module')
def dirty(tmp_path_factory):
    "A hostile directory, and the problems expected of it"
    d = tmp_path_factory.mktemp('dirty')/'train/NORMAL'
    d.mkdir(parents=True)
    good_images(d)
    problems = bad_images(d)
    if os.name == 'posix': problems |= odd_files(d)
    return d.parents[1], problems

limited = """
import resource, sys
import pneumo_imbalance.data as m
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
df = m.scan_images(sys.argv[1])
df.to_pickle(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""

@pytest.fixture(scope='module')
def scanned(dirty, tmp_path_factory):
    "The table of the hostile directory, scanned in a process of its own, and what the process said"
    out = tmp_path_factory.mktemp('out')/'df.pkl'
    res = subprocess.run([sys.executable, '-c', limited, str(dirty[0]), str(out)], capture_output=True, text=True, timeout=60)
    assert res.returncode == 0, res.stderr
    return pd.read_pickle(out).assign(name=lambda df: [o.rsplit('/', 1)[-1] for o in df.path]), res.stdout

def test_every_bad_file_has_its_problem(dirty, scanned):
    df = scanned[0]
    found = df[df.problem != ''].set_index('name').problem.to_dict()
    assert found.keys() == dirty[1].keys()
    assert not {k: v for k,v in found.items() if not v.startswith(dirty[1][k])}

def test_every_good_file_is_there_once(scanned):
    df = scanned[0]
    good = df[df.problem == '']
    assert good.name.is_unique and (good.width > 0).all()
    assert {'gray.jpeg', 'sixteen.png', 'cmyk.jpg', 'float.tiff', 'dot.png'} <= set(good.name)
    if os.name == 'posix': assert {'a b.jpeg', 'a\nb.jpeg', '🫁.jpeg', 'Gray.JPEG'} <= set(good.name)
    assert good.set_index('name').loc[['turned.jpeg', 'turned late.jpeg'], ['width', 'height']].to_numpy().tolist() == [[96, 128]]*2

@posix
def test_what_lies_too_deep_is_said(scanned): assert '1 folders could not be listed (over 100 deep)' in scanned[1]

@pytest.mark.skipif(sys.platform != 'linux', reason='peak memory is counted in other units here')
def test_memory_is_bounded(scanned): assert int(scanned[1].split()[-1]) < 400_000 # kilobytes; the bomb alone would take 400,000 as 8-bit gray

same = ['gray.jpeg', 'sixteen.png', 'sixteen.tif', 'cmyk.jpg', 'palette.png', 'rgba.png', 'la.png', 'lab.tif', 'float.tiff']

@pytest.mark.parametrize('name', same)
def test_every_mode_is_read_right(dirty, name):
    x = np.asarray(open_image(dirty[0]/'train/NORMAL'/name)).astype(float)
    want = image.astype(float)
    if name == 'float.tiff': want = (want - want.min())*255/(want.max() - want.min())
    assert x.shape == image.shape and abs(x - want).mean() < 2

@pytest.mark.parametrize('name', ['turned.jpeg', 'turned late.jpeg'])
def test_turned_image_stands_upright(dirty, name):
    x = np.asarray(open_image(dirty[0]/'train/NORMAL'/name)).astype(float)
    assert x.shape == (128, 96) and abs(x - image[:,:96]).mean() < 2

def test_batches_of_every_mode(dirty, tmp_path):
    "A network is shown sixteen-bit, CMYK and turned images as it is shown gray ones"
    images = [dict(path=str(dirty[0]/'train/NORMAL'/o), label=c, split=s, patient=f'{s}{i}') for s in ('train', 'valid') for i,(o,c) in enumerate(zip(same, 'ab'*5))]
    dls = xray_dataloaders(read_table(pd.DataFrame(images)), item_size=64, size=64, bs=8, num_workers=0, device='cpu', on_leak='ignore')
    x = dls.valid.one_batch()[0]
    assert abs(x[:-1] - x[:1]).mean() < .15

as_nobody = """
import os, sys
from pneumo_imbalance.data import scan_images
if os.geteuid() == 0: os.seteuid(65534)
df = scan_images(sys.argv[1])
print(df.problem[df.path == sys.argv[2]].tolist())
"""

@posix
def test_unreadable_file():
    "A file without read permission is a row with a problem; root, who may read all, puts its rights down first"
    with TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o755)
        root = make_phantoms(Path(tmp)/'data', dict(train=dict(NORMAL=3, PNEUMONIA=3)), size=32)
        shut = next((root/'train/NORMAL').iterdir())
        shut.chmod(0)
        res = subprocess.run([sys.executable, '-c', as_nobody, str(root), str(shut)], capture_output=True, text=True, timeout=60)
    assert "['no permission to read']" in res.stdout, res.stderr

def zipped(path, members):
    "A zip of (name, bytes) or (name, bytes, unix mode)"
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name,data,*mode in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if mode: info.create_system, info.external_attr = 3, mode[0] << 16
            z.writestr(info, data)
    return path

def tarred(path, members):
    "A gzipped tar of (name, bytes) or (name, link target, type)"
    with tarfile.open(path, 'w:gz') as t:
        for name,data,*kind in members:
            info = tarfile.TarInfo(name)
            if kind: info.type, info.linkname = kind[0], data.decode()
            else: info.size = len(data)
            t.addfile(info, None if kind else io.BytesIO(data))
    return path

def header(path, members, kind=b'0', size=0):
    "A gzipped tar whose only header is of any kind and any size, with zeros behind it"
    info = tarfile.TarInfo('a')
    info.type, info.size = kind, size
    with gzip.open(path, 'wb') as f: f.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(max(size, 0) + 10_240))
    return path

def sparse(path, members):
    "A gzipped tar of a thousand bytes that says it unpacks to a terabyte"
    info = tarfile.TarInfo('a')
    info.pax_headers = {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': 'a', 'GNU.sparse.realsize': str(1 << 40)}
    data = f'1\n{(1 << 40) - 1}\n1\n'.encode().ljust(512, b'\0') + b'x'
    info.size = len(data)
    with tarfile.open(path, 'w:gz', format=tarfile.PAX_FORMAT) as t: t.addfile(info, io.BytesIO(data))
    return path

ok, deep = ('train/NORMAL/a.jpeg', b'x'), 'a/'*1500 + 'a.jpeg'
escapes = dict(up='../evil', deep='a/../../evil', absolute='/pneumo_evil', drive='C:/evil', backslash='..\\evil')
attacks = {f'zip {k}': (zipped, [ok, (v, b'x')]) for k,v in escapes.items()} | {f'tar {k}': (tarred, [ok, (v, b'x')]) for k,v in escapes.items()}
attacks |= {'zip link': (zipped, [ok, ('link', b'../..', stat.S_IFLNK | 0o777), ('link/evil', b'x')]), 'tar link': (tarred, [ok, ('link', b'../..', tarfile.SYMTYPE), ('link/evil', b'x')]),
    'tar hard link': (tarred, [ok, ('hard', b'../../secret', tarfile.LNKTYPE)]), 'tar device': (tarred, [ok, ('null', b'', tarfile.CHRTYPE)]), 'tar pipe': (tarred, [ok, ('pipe', b'', tarfile.FIFOTYPE)]),
    'zip bomb': (zipped, [ok, ('big', bytes(1 << 24))]), 'tar bomb': (tarred, [ok, ('big', bytes(1 << 24))]), 'zip many': (zipped, [(f'{i}', b'') for i in range(101)]),
    'tar many': (tarred, [(f'{i}', b'') for i in range(101)]), 'zip twice': (zipped, [ok, ok]), 'zip file as folder': (zipped, [ok, (f'{ok[0]}/b', b'x')]),
    'zip no name': (zipped, [ok, ('', b'x')]), 'zip dot': (zipped, [ok, ('.', b'x')]), 'tar no name': (tarred, [ok, ('', b'x')]), 'zip deep': (zipped, [ok, (deep, b'x')]), 'tar deep': (tarred, [ok, (deep, b'x')]),
    'zip device': (zipped, [ok, ('null', b'', stat.S_IFCHR | 0o666)]), 'tar sparse': (sparse, []), 'tar backwards': (partial(header, size=-1024), []),
    **{f'tar long header {k}': (partial(header, kind=k.encode(), size=1 << 24), []) for k in 'xgLK'}}

@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('attack', attacks)
def test_attack_is_refused_whole(tmp_path, attack):
    make, members = attacks[attack]
    archive = make(tmp_path/'in.bin', members)
    with pytest.raises((ValueError, OSError), match='expected'): extract(archive, tmp_path/'out/data', max_bytes=1e6, max_files=100)
    left = [str(o.relative_to(tmp_path)) for o in tmp_path.rglob('*')]
    assert set(left) <= {'in.bin', 'out'} and not Path('/pneumo_evil').exists()

def test_bomb_that_lies_about_its_size(tmp_path):
    "The header says one byte, the stream holds sixteen megabytes"
    archive = zipped(tmp_path/'in.zip', [('big', bytes(1 << 24))])
    data = archive.read_bytes().replace((1 << 24).to_bytes(4, 'little'), (1).to_bytes(4, 'little'))
    archive.write_bytes(data)
    with pytest.raises(ValueError, match='expected'): extract(archive, tmp_path/'data', max_bytes=1e6)
    assert [o.name for o in tmp_path.iterdir()] == ['in.zip']

@pytest.mark.parametrize('make', [zipped, tarred])
@pytest.mark.parametrize('keep', [.3, .9])
def test_half_an_archive(tmp_path, make, keep):
    archive = make(tmp_path/'in.bin', [(f'{i}', np.random.default_rng(i).bytes(5000)) for i in range(20)])
    archive.write_bytes(archive.read_bytes()[:int(keep*archive.stat().st_size)])
    with pytest.raises(ValueError, match='expected a whole'): extract(archive, tmp_path/'data')
    assert [o.name for o in tmp_path.iterdir()] == ['in.bin']

@pytest.mark.parametrize('make', [zipped, tarred])
def test_whole_archive(tmp_path, make):
    archive = make(tmp_path/'in.bin', [ok, ('train/PNEUMONIA/é 🫁.jpeg', b'y')])
    out = extract(archive, tmp_path/'data')
    assert {str(o.relative_to(out)): o.read_bytes() for o in out.rglob('*.jpeg')} == {ok[0]: b'x', 'train/PNEUMONIA/é 🫁.jpeg': b'y'}

def test_nothing_is_overwritten(tmp_path):
    archive = zipped(tmp_path/'in.zip', [ok])
    (tmp_path/'data').mkdir()
    (tmp_path/'data/mine.txt').write_text('mine')
    with pytest.raises((ValueError, OSError)): extract(archive, tmp_path/'data')
    assert (tmp_path/'data/mine.txt').read_text() == 'mine' and len(list(tmp_path.iterdir())) == 2

def test_image_that_comes_back_is_seen(tmp_path, monkeypatch, capsys):
    "A thumbnail that could not be made is not remembered as black"
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    df = scan_images(make_phantoms(tmp_path/'data', dict(train=dict(NORMAL=3, PNEUMONIA=3)), size=64))
    away = Path(df.path[0]).rename(tmp_path/'away')
    assert not thumbnails(df)[0].any() and "1 images can't be read now" in capsys.readouterr().out
    away.rename(df.path[0])
    assert thumbnails(df)[0].any()

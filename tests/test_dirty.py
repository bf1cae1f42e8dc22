"Files and archives that a scanner may meet: each is read right or has a problem, in bounded time and memory, and nothing is lost or left."
import bz2, gzip, io, json, lzma, os, stat, struct, subprocess, sys, tarfile, zipfile
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
import numpy as np, pandas as pd, pytest, zoo
from PIL import Image, features
from pneumo_imbalance.archive import extract
from pneumo_imbalance.copies import thumbnails
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.data import read_table, scan_images
from pneumo_imbalance.header import memory, open_header
from pneumo_imbalance.image import measure_image, open_image
from pneumo_imbalance.phantom import make_phantoms

image = zoo.pixels
posix = pytest.mark.skipif(os.name != 'posix', reason='this system has other kinds of files')

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
    # chkstyle: ignore-node
    made = {'zero.jpeg': b'', 'cut.jpeg': data[:len(data)//2], 'text.jpeg': b'this is no image',
        'bomb.png': zoo.animals()['png black bomb'][0], 'chain.tiff': zoo.chained(150_000),
        'program.jpeg': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n',
        'head.jpeg': data[:scan] + b'\xff\xd9', 'twelve.jpeg': data[:frame+4] + b'\x0c' + data[frame+5:],
        'codes.jpeg': data[:codes+5] + b'\xff'*16 + data[codes+21:], 'cut inside.jpeg': data[:scan+80] + data[scan:]}
    for k,v in made.items(): (d/k).write_bytes(v)
    pages = [Image.fromarray(image)]*3
    pages[0].save(d/'pages.tiff', save_all=True, append_images=pages[1:])
    with open(d/'sparse.jpeg', 'wb') as f: f.truncate(1 << 41)
    return {'chain.tiff': 'more than one', 'program.jpeg': 'not an image', 'head.jpeg': 'unreadable', 'twelve.jpeg': 'not an image',
        'codes.jpeg': 'unreadable', 'cut inside.jpeg': 'unreadable', 'zero.jpeg': 'empty', 'cut.jpeg': 'truncated',
        'text.jpeg': 'not an image', 'bomb.png': 'too large', 'pages.tiff': 'more than one', 'sparse.jpeg': 'too large'}

def odd_files(d):
    "Links, pipes and names that only some systems have; name → start of its problem"
    for name,to in dict(loop=d, parent=d.parent, everything='/').items(): (d/name).symlink_to(to, target_is_directory=True)
    (d/'deep'/'/'.join('a'*150)).mkdir(parents=True)
    (d/'endless.jpeg').symlink_to('/dev/zero')
    (d/'itself.jpeg').symlink_to(d/'itself.jpeg')
    (d/'nowhere.jpeg').symlink_to(d/'gone.jpeg')
    os.mkfifo(d/'pipe.jpeg')
    data = (d/'gray.jpeg').read_bytes()
    for name in (b'a b.jpeg', b'a\nb.jpeg', '🫁.jpeg'.encode(), b'Gray.JPEG', b'\xff\xfe.jpeg'):
        Path(os.fsdecode(os.fsencode(d) + b'/' + name)).write_bytes(data)
    return {'itself.jpeg': 'broken link', 'nowhere.jpeg': 'broken link', 'pipe.jpeg': 'not a regular file',
        'endless.jpeg': 'not a regular file', '\\xff\\xfe.jpeg': 'name is not UTF-8'}

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
import json, re, resource, sys, time, warnings
warnings.simplefilter('ignore')
resource.setrlimit(resource.RLIMIT_CPU, (90, 90))
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
def peak():
    "Most memory that this process ever held, in MB; ru_maxrss would count the process that started it"
    try: return int(re.search('VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])/1000
    except OSError: return 0
"""

def in_limits(code, *args):
    "What a process says that has 90 s of a CPU and 4 GB of addresses"
    res = subprocess.run([sys.executable, '-c', limited + code, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert res.returncode == 0, res.stderr
    return res.stdout

scan = """
import pneumo_imbalance.data as m
base = peak()
m.scan_images(sys.argv[1]).to_pickle(sys.argv[2])
print(peak() - base)
"""

@pytest.fixture(scope='module')
def scanned(dirty, tmp_path_factory):
    "The table of the hostile directory, scanned in a process of its own, and what the process said"
    out = tmp_path_factory.mktemp('out')/'df.pkl'
    said = in_limits(scan, dirty[0], out)
    return pd.read_pickle(out).assign(name=lambda df: [o.rsplit('/', 1)[-1] for o in df.path]), said

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

def test_memory_is_bounded(scanned): assert float(scanned[1].split()[-1]) < 400

# The zoo

visit = """
from pathlib import Path
from pneumo_imbalance.image import measure_image, open_image
def opened(*args):
    try: return open_image(*args).size
    except Exception as e: return f'{type(e).__name__}: {e}'
rows, base = {}, peak()
for name in json.load(open(sys.argv[1])):
    start = time.process_time()
    row = measure_image(name)
    sizes = [opened(name), opened(name, 'RGB'), opened(name, 'RGB', 64)]
    rows[Path(name).name] = row | dict(sizes=sizes, seconds=time.process_time() - start, peak=peak() - base)
json.dump(rows, open(sys.argv[2], 'w'))
"""

@pytest.fixture(scope='module')
def visited(tmp_path_factory):
    "What each animal of the zoo is expected to be, and what was found"
    d = tmp_path_factory.mktemp('zoo')
    expected = zoo.write(d)
    (d/'names.json').write_text(json.dumps([str(d/o) for o in expected]))
    in_limits(visit, d/'names.json', d/'rows.json')
    return expected, json.loads((d/'rows.json').read_text())

def test_there_are_over_two_hundred_kinds(visited): assert sum(not o.startswith('flipped') for o in visited[0]) > 200

def test_each_animal_has_its_problem(visited):
    expected, found = visited
    def right(said, want):
        wanted = (want,) if isinstance(want, str) else want
        return want is None or any(said == o or o and said.startswith(o) for o in wanted)
    assert not {k: (found[k]['problem'], want) for k,want in expected.items() if not right(found[k]['problem'], want)}

def test_what_is_usable_opens_in_its_size(visited):
    usable = {k: o for k,o in visited[1].items() if not o['problem']}
    assert len(usable) > 100
    assert not {k: o for k,o in usable.items() if o['sizes'][:2] != [[o['width'], o['height']]]*2 or isinstance(o['sizes'][2], str)}

def test_what_is_no_image_never_opens(visited):
    "But a JPEG in several scans whose last one is short: this shows only when it is decoded twice"
    opened = {k for k,o in visited[1].items() if o['problem'] and not isinstance(o['sizes'][0], str)}
    assert all(visited[1][k]['problem'] == 'truncated' and (k.startswith('flipped') or 'scan' in k or 'progressive' in k) for k in opened)

def test_animals_are_cheap(visited):
    assert not {k: o['seconds'] for k,o in visited[1].items() if o['seconds'] > 4}
    assert max(o['peak'] for o in visited[1].values()) < 150

def large_images(d):
    "Write images that nearly fill the memory that one may take, in ascending order of what they take"
    ramp = (np.add.outer(np.arange(3600), np.arange(3600))//30).astype('u1')
    def gray(n): return Image.fromarray(ramp[:n,:n])
    def colour(n): return Image.merge('RGB', [gray(n)]*3)
    exif = Image.Exif()
    exif[274] = 6
    # chkstyle: ignore-node
    kinds = {'gray.png': (gray(3000), 'PNG', dict(compress_level=1)),
        'sixteen.tiff': (Image.fromarray(ramp[:2800,:2800].astype('u2')*99), 'TIFF', {}),
        'several.jpeg': (colour(2400), 'JPEG', dict(progressive=True)),
        'float.tiff': (Image.fromarray(ramp[:2500,:2500].astype('f4')), 'TIFF', dict(compression='tiff_deflate', tiffinfo={278: 2500})),
        'cmyk.jpeg': (colour(3000).convert('CMYK'), 'JPEG', {}), 'turned.jpeg': (colour(3600), 'JPEG', dict(exif=exif)),
        'alpha.png': (colour(3600).convert('RGBA'), 'PNG', dict(compress_level=1))}
    if features.check('webp'): kinds['web.webp'] = colour(2400), 'WEBP', dict(quality=50)
    if features.check('jpg_2000'): kinds['jpeg.jp2'] = colour(2000), 'JPEG2000', {}
    for name,(im,form,kwargs) in kinds.items(): im.save(d/name, form, **kwargs)
    def need(data): return (len(data) + memory(*open_header(data)))/1e6
    return dict(sorted(((o, need((d/o).read_bytes())) for o in kinds), key=lambda o: o[1]))

together = """
from concurrent.futures import ThreadPoolExecutor
from pneumo_imbalance.image import measure_image
names, base = json.load(open(sys.argv[1])), peak()
with ThreadPoolExecutor(4) as ex: list(ex.map(measure_image, names*2))
print(peak() - base)
"""

def test_large_images_take_what_was_counted_and_wait_for_each_other(tmp_path):
    need = large_images(tmp_path)
    (tmp_path/'names.json').write_text(json.dumps([str(tmp_path/o) for o in need]))
    in_limits(visit, tmp_path/'names.json', tmp_path/'rows.json')
    rows = json.loads((tmp_path/'rows.json').read_text())
    assert not {k: (o['peak'], need[k]) for k,o in rows.items() if o['problem'] or o['peak'] > need[k] + 25}
    assert float(in_limits(together, tmp_path/'names.json')) < 400

def upright(n):
    "A picture as a camera stores it that notes orientation `n`, of a phantom that stands upright"
    x = image[:,:96]
    return {2: x[:,::-1], 3: x[::-1,::-1], 4: x[::-1], 5: x.T, 6: np.rot90(x), 7: x[::-1,::-1].T, 8: np.rot90(x, -1)}.get(n, x)

@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'TIFF', *(['WEBP'] if features.check('webp') else [])])
def test_all_orientations(tmp_path, form):
    "An orientation that there is turns the picture and its measures; 0 and 9 do nothing"
    best = dict(JPEG=dict(quality=95), WEBP=dict(lossless=True)).get(form, {})
    for n in range(10):
        exif, file = Image.Exif(), tmp_path/f'{n}.img'
        exif[274] = n
        Image.fromarray(np.ascontiguousarray(upright(n))).save(file, form, exif=exif, **best)
        row, x = measure_image(file), np.asarray(open_image(file)).astype(float)
        assert (row['problem'], row['width'], row['height'], x.shape) == ('', 96, 128, (128, 96)), n
        assert abs(x - image[:,:96]).mean() < 2, n

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
    images = [dict(path=str(dirty[0]/'train/NORMAL'/o), label=c, split=s, patient=f'{s}{i}')
        for s in ('train', 'valid') for i,(o,c) in enumerate(zip(same, 'ab'*5))]
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

def records(*pairs):
    "The body of a pax header"
    def record(k, v):
        rest = b' ' + k + b'=' + v + b'\n'
        n = next(n for n in range(len(rest), len(rest) + 9) if n == len(str(n)) + len(rest))
        return str(n).encode() + rest
    return b''.join(record(k, v) for k,v in pairs)

def block(kind, data, size=None):
    "A member's header of any kind and its data"
    info = tarfile.TarInfo('a')
    info.type, info.size = kind, len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data.ljust(-(-len(data)//512)*512, b'\0')

def raw_tar(path, members): # members: blocks, repeated
    "A gzipped tar of any blocks"
    with gzip.open(path, 'wb') as f:
        for data,n in members:
            for _ in range(n): f.write(data)
        f.write(bytes(10_240))
    return path

member = block(b'0', b'x')
holes = block(b'S', b'')
holes = holes[:482] + b'\1' + holes[483:]
holes = holes[:148] + b'%06o\0 ' % (sum(holes[:148]) + 8*32 + sum(holes[156:])) + holes[156:]
more_holes = (b'00000000001\0'*42).ljust(504, b'\0') + b'\1'.ljust(8, b'\0')
def pax(*pairs, kind=b'x'): return block(kind, records(*pairs))

version_1 = (b'GNU.sparse.major', b'1'), (b'GNU.sparse.minor', b'0'), (b'GNU.sparse.realsize', b'9')
# chkstyle: ignore-node
raw = {'tar holes': [(holes, 1), (more_holes, 100_000)],
    'tar pax holes': [(pax(*version_1) + block(b'0', b'', 1 << 30), 1), (b'999999999\n'*51 + b'9\n', 50_000)],
    'tar pax holes without map': [(pax(*version_1) + member, 1)], 'tar pax holes 0.1': [(pax((b'GNU.sparse.map', b'0,1,2,3')) + member, 1)],
    'tar pax holes 0.0': [(pax((b'GNU.sparse.size', b'9')) + member, 1)], 'tar pax size': [(pax((b'size', b'9'*5000)) + member, 1)],
    'tar pax far': [(pax((b'size', b'9'*40)) + member, 1)], 'tar pax minus': [(pax((b'size', b'-1')) + member, 1)],
    'tar pax nonsense': [(block(b'x', b'0 a=b\n') + member, 1)], 'tar pax path': [(pax((b'path', b'../../evil')) + member, 1)],
    'tar notes for all': [(b''.join(pax(*((b'%d' % (300*i + j), b'v'*60) for j in range(300)), kind=b'g') + member for i in range(90)), 1)],
    'tar notes on notes': [(pax((b'comment', b'a')), 3000), (member, 1)],
    'tar names on names': [(block(b'L', b'a'*30_000), 3000), (member, 1)], 'tar no end': [(member, 1), (b'x'*512, 1)],
    'tar bad header': [(member, 1), (b'x'*512, 1), (member, 1)], 'tar zeros behind': [(member, 1), (bytes(1 << 20), 64)],
    'tar many empty': [(block(b'0', b''), 30_000)]}

def zip_directory(path, members):
    "A zip whose directory has a million entries, and says that it has one"
    entry = struct.pack('<4s6H3L5H2L', b'PK\1\2', 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b'a'
    data = entry*1_000_000
    path.write_bytes(data + struct.pack('<4s4H2LH', b'PK\5\6', 0, 0, 1, 1, len(data), 0, 0))
    return path

def bare(path, data):
    "A file of these bytes"
    path.write_bytes(data)
    return path

def zip_bad_name(path, members):
    "A zip with a name that says it is UTF-8 and isn't"
    path.write_bytes(zipped(path, [('é.jpeg', b'x')]).read_bytes().replace('é'.encode(), b'\xff\xfe'))
    return path

ok, deep = ('train/NORMAL/a.jpeg', b'x'), 'a/'*1500 + 'a.jpeg'
escapes = dict(up='../evil', deep='a/../../evil', absolute='/pneumo_evil', drive='C:/evil', backslash='..\\evil')
attacks = {f'zip {k}': (zipped, [ok, (v, b'x')]) for k, v in escapes.items()} | {f'tar {k}': (tarred, [ok, (v, b'x')]) for k,
    v in escapes.items()}
# chkstyle: ignore-node
attacks |= {'zip link': (zipped, [ok, ('link', b'../..', stat.S_IFLNK | 0o777), ('link/evil', b'x')]),
    'tar link': (tarred, [ok, ('link', b'../..', tarfile.SYMTYPE), ('link/evil', b'x')]),
    'tar hard link': (tarred, [ok, ('hard', b'../../secret', tarfile.LNKTYPE)]),
    'tar device': (tarred, [ok, ('null', b'', tarfile.CHRTYPE)]), 'tar pipe': (tarred, [ok, ('pipe', b'', tarfile.FIFOTYPE)]),
    'zip bomb': (zipped, [ok, ('big', bytes(1 << 24))]), 'tar bomb': (tarred, [ok, ('big', bytes(1 << 24))]),
    'zip many': (zipped, [(f'{i}', b'') for i in range(101)]), 'tar many': (tarred, [(f'{i}', b'') for i in range(101)]),
    'zip twice': (zipped, [ok, ok]), 'zip file as folder': (zipped, [ok, (f'{ok[0]}/b', b'x')]),
    'zip no name': (zipped, [ok, ('', b'x')]), 'zip dot': (zipped, [ok, ('.', b'x')]), 'tar no name': (tarred, [ok, ('', b'x')]),
    'zip deep': (zipped, [ok, (deep, b'x')]), 'tar deep': (tarred, [ok, (deep, b'x')]),
    'zip device': (zipped, [ok, ('null', b'', stat.S_IFCHR | 0o666)]), 'tar sparse': (sparse, []),
    'tar backwards': (partial(header, size=-1024), []),
    **{f'tar long header {k}': (partial(header, kind=k.encode(), size=1 << 24), []) for k in 'xgLK'},
    **{k: (raw_tar, v) for k,v in raw.items()}, 'zip directory': (zip_directory, []), 'zip bad name': (zip_bad_name, []),
    'empty file': (bare, b''), 'text': (bare, b'no archive')}

@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('attack', attacks)
def test_attack_is_refused_whole(tmp_path, attack):
    make, members = attacks[attack]
    archive = make(tmp_path/'in.bin', members)
    with pytest.raises((ValueError, OSError), match='expected'): extract(archive, tmp_path/'out/data', max_bytes=1e6, max_files=100)
    left = [str(o.relative_to(tmp_path)) for o in tmp_path.rglob('*')]
    assert set(left) <= {'in.bin', 'out'} and not Path('/pneumo_evil').exists()

unpack = """
from pathlib import Path
from pneumo_imbalance.archive import extract
worst, base = {}, peak()
for o in sorted(Path(sys.argv[1]).iterdir()):
    start = time.process_time()
    try: extract(o, sys.argv[2])
    except ValueError: pass
    worst[o.name] = peak() - base, time.process_time() - start
json.dump(worst, sys.stdout)
"""

def test_attacks_are_cheap(tmp_path):
    "With room for a million files, what an attack takes of memory and time is bounded"
    (tmp_path/'in').mkdir()
    for i,k in enumerate([*raw, 'zip directory', 'tar sparse', *(f'tar long header {o}' for o in 'xgLK')]):
        attacks[k][0](tmp_path/'in'/f'{i} {k}', attacks[k][1])
    worst = json.loads(in_limits(unpack, tmp_path/'in', tmp_path/'out'))
    assert not {k: v for k,v in worst.items() if v[0] > 400 or v[1] > 8}

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

packers = dict(gz=gzip.compress, bz2=bz2.compress, xz=lzma.compress, zip=None)

@pytest.mark.parametrize('packer', packers)
def test_a_flipped_bit_spoils_nothing_in_silence(tmp_path, packer):
    "Wherever a bit flips in a packed archive, it is refused, or all its files are right"
    rng, files = np.random.default_rng(0), {f'{i}.jpeg': np.random.default_rng(i).bytes(700) for i in range(6)}
    made = (zipped if packer == 'zip' else tarred)(tmp_path/'in.bin', files.items()).read_bytes()
    if packer != 'zip': made = packers[packer](gzip.decompress(made))
    refused = 0
    for at in rng.integers(0, 8*len(made), 60):
        data = bytearray(made)
        data[at//8] ^= 1 << at % 8
        (tmp_path/'in.bin').write_bytes(data)
        try: out = extract(tmp_path/'in.bin', tmp_path/f'out{at}')
        except ValueError: refused += 1
        else: assert {o.name: o.read_bytes() for o in out.iterdir()} == files
    assert refused > 40 and len(list(tmp_path.iterdir())) == 61 - refused

def test_a_plain_tar_is_whole_or_refused(tmp_path):
    "Cut anywhere before its end mark, or with any header spoilt, a plain tar is refused"
    data = gzip.decompress(tarred(tmp_path/'in.bin', [(f'{i}.jpeg', bytes([i])*700) for i in range(1, 5)]).read_bytes())
    end = len(data.rstrip(b'\0'))
    end += -end % 512
    spoilt = [data[:i] for i in range(512, end + 512, 256)] + [data[:i] + b'?' + data[i+1:] for i in range(9, end, 1536)]
    for o in spoilt:
        (tmp_path/'in.bin').write_bytes(o)
        with pytest.raises(ValueError, match='expected a whole'): extract(tmp_path/'in.bin', tmp_path/'out')
    (tmp_path/'in.bin').write_bytes(data[:end+512])
    assert len(list(extract(tmp_path/'in.bin', tmp_path/'out').iterdir())) == 4

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

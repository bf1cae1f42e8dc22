"What the leak check finds and takes: copies of every kind among few and many images, the time for a folder and for many thumbnails."
import argparse, datetime, json, os, platform, resource, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch
import numpy as np, pandas as pd
from PIL import Image
from pneumo_imbalance.copies import near_duplicates, thumbnails
from pneumo_imbalance.data import read_table, scan_images
from pneumo_imbalance.image import open_image
from pneumo_imbalance.leaks import check_leaks
from pneumo_imbalance.phantom import make_phantoms

def timed(fn, *args, **kwargs):
    "What `fn` returns, its seconds, and the seconds that the processor worked for it"
    start, work = time.perf_counter(), time.process_time()
    out = fn(*args, **kwargs)
    return out, round(time.perf_counter() - start, 2), round(time.process_time() - work, 2)

# The transformations that the docstring of `near_duplicates` names

def light(im, gain, plus): return im.point([min(max(round(gain*v + plus), 0), 255) for v in range(256)]*len(im.getbands()))

def resized(im, rng, x, y=None): return im.resize((max(8, round(x*im.width)), max(8, round((y or x)*im.height))), int(rng.integers(1, 4)))

def trimmed(im, shares):
    (w, h), (l, t, r, b) = im.size, shares
    return im.crop((int(l*w), int(t*h), w - int(r*w), h - int(b*h)))

def everything(im, rng):
    im = light(trimmed(im, edges(rng)), *exposure(rng))
    return resized(im, rng, *rng.uniform(.5, 2, 2)).convert(['L', 'RGB'][rng.integers(2)])

def exposure(rng): return rng.uniform(.7, 1.3), rng.uniform(-10, 10)

brightened = {'30 % brighter': lambda im, rng: light(im, 1.3, 0), '30 % darker': lambda im, rng: light(im, .7, 0),
    '× 1.2 + 10': lambda im, rng: light(im, 1.2, 10), 'gain and offset': lambda im, rng: light(im, *exposure(rng))}
shrunk = {'half the size': lambda im, rng: resized(im, rng, .5), 'resized': lambda im, rng: resized(im, rng, *rng.uniform(.5, 2, 2))}
def edges(rng): return rng.uniform(0, .03, 4)

cut = {'trimmed': lambda im, rng: trimmed(im, edges(rng)), 'trimmed by 3 %': lambda im, rng: trimmed(im, rng.choice([0, .03], 4))}
stored = {'re-encoded': lambda im, rng: im, 'converted': lambda im, rng: im.convert(['L', 'RGB', 'P', 'LA'][rng.integers(4)])}
kinds = stored | shrunk | brightened | cut | {'all at once': everything}

def copied(path, kind, dest, seed):
    "Write a copy of an image of one kind; its path"
    rng = np.random.default_rng(seed)
    im = kinds[kind](open_image(path), rng)
    png = kind == 'converted'
    file = f"{dest}.{'png' if png else 'jpeg'}"
    im.save(file, **({} if png else dict(quality=int(rng.integers(60, 96)))))
    return file

def copies(df, n, dest):
    "A table of copies of each kind of the first `n` images, with what each is a copy of"
    jobs = [(o, k, dest/f'{i}-{j}', 1000*i + j) for i,o in enumerate(df.path[:n]) for j,k in enumerate(kinds)]
    with ThreadPoolExecutor() as ex: paths = list(ex.map(lambda o: copied(*o), jobs))
    table = read_table(pd.DataFrame(dict(path=paths, label='copy', split='train')))
    return table.assign(kind=[o[1] for o in jobs], of=[o[0] for o in jobs])

def found(images, planted):
    "Of copies planted among images: how many are found, and how many pairs show two images"
    pairs = near_duplicates(pd.concat([images, planted], ignore_index=True).astype(dict(label=str)))
    of = {o: o for o in images.path} | dict(zip(planted.path, planted.of))
    digest = images.set_index('path').digest
    a, b = (pairs[k].map(of).map(digest) for k in ('path_a', 'path_b'))
    caught = {*pairs.path_a[a == b]} | {*pairs.path_b[a == b]}
    return planted.path.isin(caught).sum(), (a != b).sum()

def recalls(df, planted, n, whole=400):
    "Recall of each kind and false pairs, with one copy each of `n` images, from as many draws as make about `whole` copies"
    sources, rng, out = df.path[df.path.isin(planted.of)].to_numpy(), np.random.default_rng(n), {}
    for kind,mine in planted.groupby('kind', sort=False):
        right = wrong = total = 0
        for _ in range(max(1, whole//n)):
            some = sources if n >= len(sources) else rng.choice(sources, n, replace=False)
            more = mine[mine.of.isin(some)]
            r, w = found(df if n > len(sources) else df[df.path.isin(some)], more)
            right, wrong, total = right + r, wrong + w, total + len(more)
        out[kind] = [int(right), int(total), int(wrong)]
    return out

def recall_table(df, sizes):
    "Recall and false pairs at each size"
    with tempfile.TemporaryDirectory() as tmp:
        df = df[df.problem == ''].drop_duplicates('digest').sample(frac=1, random_state=0)
        planted, out = copies(df, 400, Path(tmp)), {}
        for n in sorted({min(n, len(df)) for n in sizes}):
            out[n] = recalls(df, planted, n)
            print(f'{n:,} images: ', {k: f'{r}/{t}, {w} false' for k,(r,t,w) in out[n].items()}, flush=True)
    return out

def peak():
    "Most memory this process has used, in GB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1e9 if platform.system() == 'Darwin' else 1e6)

def check_images(df):
    "Time `check_leaks` without and with its cache of thumbnails"
    out = {}
    for how in ('thumbnails to be made', 'thumbnails cached'):
        report, secs, work = timed(check_leaks, df, on_leak='warn')
        print(f'check_leaks, {how}: {len(df):,} images in {secs} s ({work} s of work), {len(report.table):,} findings', flush=True)
        out[how] = dict(images=len(df), seconds=secs, work=work)
    return out

# As many thumbnails as you like

def blended(T, i):
    "Thumbnail number `i` of endlessly many: two images of `T` over each other, one of them mirrored perhaps"
    rng = np.random.default_rng(i)
    a, b = (T[rng.integers(len(T))][:,::rng.choice([-1, 1])].astype('f4') for _ in range(2))
    w = rng.uniform(.3, .7)
    return (w*a + (1 - w)*b).round().astype(np.uint8)

def blend_copy(x, i):
    "A thumbnail trimmed and brightened"
    rng = np.random.default_rng(i)
    im = light(trimmed(Image.fromarray(x), rng.uniform(0, .03, 4)), rng.uniform(.7, 1.3), 0)
    return np.asarray(im.resize(x.shape, Image.BILINEAR))

def search(T, n, copies=1000):
    "Time `near_duplicates` over `n` thumbnails, and count the planted copies that it finds"
    df = pd.DataFrame(dict(path=[str(i) for i in range(n + copies)], split='train', label='x')).assign(digest=lambda o: f'{n}-' + o.path)
    def draw(path, *_):
        i = int(path)
        return blended(T, i) if i < n else blend_copy(blended(T, i - n), i)
    with patch('pneumo_imbalance.store.read_square', draw):
        for i in range(0, len(df), 10_000): thumbnails(df[i:i+10_000])
    pairs, secs, work = timed(near_duplicates, df)
    right = {*zip(pairs.path_a, pairs.path_b)} & {(str(i), str(n + i)) for i in range(copies)}
    print(f'search: {n:,} thumbnails in {secs} s, {len(right)} of {copies} copies among {len(pairs):,} pairs', flush=True)
    return dict(seconds=secs, work=work, found=len(right), copies=copies, pairs=len(pairs), peak_gb=round(peak(), 2))

def machine():
    "What this ran on"
    info = Path('/proc/cpuinfo')
    names = [o.split(':')[1].strip() for o in info.read_text().splitlines() if o.startswith('model name')] if info.exists() else []
    load = [round(o, 2) for o in os.getloadavg()] if hasattr(os, 'getloadavg') else None
    cpu = (names or [platform.processor()])[0]
    return dict(cpu=cpu, cores=os.cpu_count(), python=platform.python_version(), load=load, date=str(datetime.date.today()))

def main(args):
    "Print what this machine takes and finds"
    with tempfile.TemporaryDirectory() as tmp:
        os.environ['PNEUMO_CACHE'] = str(Path(tmp)/'cache')
        counts = dict(train=dict(NORMAL=500, PNEUMONIA=1000), test=dict(NORMAL=200, PNEUMONIA=300))
        phantoms = scan_images(make_phantoms(Path(tmp)/'images', counts, size=128))
        df = scan_images(args.images) if args.images else phantoms
        res = dict(machine=machine(), time=check_images(df), recall=dict(phantoms=recall_table(phantoms, args.recall)))
        if args.images: res['recall']['images'] = recall_table(df, args.recall)
        T = thumbnails(df)
        res['search'] = {n: search(T, n) for n in args.sizes}
    if args.out: args.out.write_text(json.dumps(res, indent=1))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', help='folder of images; without one, phantoms alone')
    parser.add_argument('--recall', nargs='*', type=int, default=[10, 20, 50, 400, 5840], help='numbers of images to plant copies among')
    parser.add_argument('--out', type=Path, help='a JSON file for the results')
    parser.add_argument('sizes', nargs='*', type=int, default=[10_000, 100_000], help='numbers of thumbnails to search (a million: 4 GB)')
    main(parser.parse_args())

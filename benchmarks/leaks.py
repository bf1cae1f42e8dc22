"Cost of the search for near-duplicates: every image of a folder, then descriptors of as many images as you like with copies planted among them."
import argparse, os, platform, resource, tempfile, time
from pathlib import Path
import numpy as np
from pneumo_imbalance import audit
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.phantom import make_phantoms

def timed(fn, *args):
    "What `fn` returns, and its seconds"
    start = time.perf_counter()
    out = fn(*args)
    return out, time.perf_counter() - start

def descriptors(df, copies):
    "The descriptors that the search uses, shape (N, 32), and how far trimming moves those of some images, shape (copies, 32)"
    T, rng = audit.thumbnails(df.drop_duplicates('digest')), np.random.default_rng(0)
    V = audit._projection(T[rng.permutation(len(T))[:2000]])
    X, images = audit._standardised(audit._pooled(T))@V, rng.integers(len(T), size=copies)
    return X, audit._standardised(audit._pooled(audit._trimmed(T[images], rng)))@V - X[images]

def many(X, n, moves, rng, h=.5):
    "`n` descriptors spread as `X` (a smoothed bootstrap), and copies of the first of them, moved as real ones are"
    mid, sd = X.mean(0), X.std(0)
    Y = mid + (X[rng.integers(len(X), size=n)] - mid + rng.normal(0, h*sd, (n, X.shape[1])))/np.sqrt(1 + h*h)
    return np.concatenate([Y, Y[:len(moves)] + moves]).astype('f4')

def peak():
    "Most memory this process has used, in GB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1e9 if platform.system() == 'Darwin' else 1e6)

def check_images(df):
    "Time `check_leaks` without and with its cache of thumbnails"
    for how in ('thumbnails to be made', 'thumbnails cached'):
        report, secs = timed(audit.check_leaks, df, None, 'warn')
        print(f'check_leaks, {how}: {len(df):,} images in {secs:.1f} s, {len(report.table):,} findings, peak {peak():.2f} GB', flush=True)

def search(X, n, moves):
    "Time the search over `n` descriptors, and count the planted copies that it proposes"
    Y, copies = many(X, n, moves, np.random.default_rng(0)), len(moves)
    pairs, secs = timed(audit._candidates, Y)
    found = len(set(map(tuple, pairs)) & {(i, n + i) for i in range(copies)})
    print(f'search: {n:,} descriptors in {secs:.0f} s, {found} of {copies} copies proposed among {len(pairs):,} candidates, peak {peak():.2f} GB', flush=True)

def main(images, sizes):
    "Print what this machine takes"
    with tempfile.TemporaryDirectory() as tmp:
        os.environ['PNEUMO_CACHE'] = str(Path(tmp)/'cache')
        images = images or make_phantoms(Path(tmp)/'images', dict(train=dict(NORMAL=500, PNEUMONIA=1000), test=dict(NORMAL=200, PNEUMONIA=300)), size=128)
        print(f'{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}')
        df = scan_images(images)
        check_images(df)
        X, moves = descriptors(df, 1000)
        for n in sizes: search(X, n, moves)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', help='folder of images; without one, 2,000 phantoms are drawn')
    parser.add_argument('sizes', nargs='*', type=int, default=[10_000, 100_000], help='numbers of descriptors to search (1000000 takes minutes)')
    args = parser.parse_args()
    main(args.images, args.sizes)

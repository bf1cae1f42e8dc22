"Plain fastai against ours, measured in turn in one run: `python -m benchmarks --films FOLDER`. Writes a JSON and a figure."
import argparse, hashlib, json, os, platform, subprocess, sys, tempfile, threading, time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
import numpy as np, pandas as pd, torch
from fastai.vision.all import Callback, CancelValidException, CategoryBlock, DataBlock, IndexSplitter, ImageBlock, PILImage, RandomResizedCropGPU
from fastai.vision.all import Resize, Rotate, Zoom, get_image_files, resnet18, setup_aug_tfms, vision_learner
from PIL import Image
from torch.utils.data import WeightedRandomSampler
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.data import read_table, scan_images
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.presize import clear_presized, presize, _read_square
from pneumo_imbalance.sampling import BalancedSampler
from pneumo_imbalance.train import xray_learner, _still

try: from imblearn.over_sampling import RandomOverSampler
except ImportError: RandomOverSampler = None

cuda = torch.cuda.is_available()

def seconds(fn):
    "Seconds that one call takes, a GPU's work included"
    start = time.perf_counter()
    fn()
    if cuda: torch.cuda.synchronize()
    return time.perf_counter() - start

def in_turn(fns, repeats, per):
    "Median milliseconds per film of each of `fns`, called in turn so that a noisy machine troubles all alike"
    took = {k: [] for k in fns}
    for fn in fns.values(): fn()
    for _ in range(repeats):
        for k,fn in fns.items(): took[k].append(seconds(fn)/per*1e3)
    return {k: round(float(np.median(v)), 4) for k,v in took.items()}

def plain_loaders(df, bs, workers):
    "The DataBlock of the study of 2021"
    files = [Path(o) for o in df.path]
    label = dict(zip(files, df.label))
    block = DataBlock((ImageBlock, CategoryBlock), get_items=lambda _: files, get_y=label.get, splitter=IndexSplitter(np.flatnonzero(df.split == 'valid')),
        item_tfms=Resize(460), batch_tfms=[RandomResizedCropGPU(224, min_scale=.75), *setup_aug_tfms([Rotate(), Zoom()])])
    return block.dataloaders('.', bs=bs, num_workers=workers)

def run_through(dl):
    for b in dl: pass

def scan_loop(files):
    "A plain loop of PIL.Image.open and hashlib, which decodes nothing"
    for f in files:
        with Image.open(f) as im: assert im.size
        hashlib.blake2b(Path(f).read_bytes(), digest_size=16).hexdigest()

def decode_loop(files):
    "The same, proving that each film is whole"
    for f in files:
        with Image.open(f) as im: im.load()
        hashlib.blake2b(Path(f).read_bytes(), digest_size=16).hexdigest()

def scans(folder, repeats):
    files = get_image_files(folder)
    fns = {'plain': lambda: scan_loop(files), 'plain, decoded': lambda: decode_loop(files), 'ours': lambda: scan_images(folder)}
    return in_turn(fns, repeats, len(files)) | dict(films=len(files))

def decodes(df, repeats):
    "Decode and presize, on one core"
    rows = df.drop_duplicates('digest').iloc[::4]
    tfm = Resize(460)
    def plain():
        for o in rows.path: tfm(PILImage.create(o), split_idx=1)
    def ours():
        for o in rows.itertuples(): _read_square(o.path, o.digest, 460, 'crop', 1)
    return in_turn(dict(plain=plain, ours=ours), repeats, len(rows))

def data_paths(df, bs, repeats):
    "Film to normalised batch of 224, a later epoch"
    plain, many = plain_loaders(df, bs, 0).train, plain_loaders(df, bs, os.cpu_count()).train
    n = len(plain)*bs # the last films, too few for a batch, are left out on both sides
    res = in_turn({'plain': lambda: run_through(plain), 'plain, a worker a core': lambda: run_through(many)}, repeats, n)
    ours = xray_dataloaders(df, bs=bs, on_leak='ignore').train # only now, for it tells the C library to keep memory
    return res | in_turn(dict(ours=lambda: run_through(ours)), 3*repeats, n)

def learner(df, bs, who, workers=0):
    "The study's learner, or ours"
    if who == 'plain': return vision_learner(plain_loaders(df, bs, workers), resnet18, pretrained=False)
    return xray_learner(xray_dataloaders(df, bs=bs, on_leak='ignore'), pretrained=False)

def stage(learn, frozen):
    learn.freeze() if frozen else learn.unfreeze()
    learn.create_opt()

def fit(learn, frozen, still):
    "One epoch, validation left out"
    stage(learn, frozen)
    with learn.no_bar(), learn.no_logging(), _still(learn.model[0], still): learn.fit(1, 1e-3, cbs=NoValidation())

def steps(learn, frozen, still):
    "As many steps on a ready batch as an epoch has"
    bs = learn.dls.train.bs
    batch = torch.randn(bs, 3, 224, 224, device=learn.dls.device), torch.randint(2, (bs,), device=learn.dls.device)
    stage(learn, frozen)
    learn.model.train()
    with _still(learn.model[0], still), torch.autocast('cuda', torch.bfloat16, enabled=hasattr(learn, 'mixed_precision')):
        for _ in range(len(learn.dls.train)):
            learn.loss_func(learn.model(batch[0]), batch[1]).backward()
            learn.opt.step()
            learn.opt.zero_grad()

class NoValidation(Callback):
    def before_validate(self): raise CancelValidException

held = {}

def hold(df, bs, who): held['learn'] = learner(df, bs, who, os.cpu_count() if cuda else 0)

def timed(kind, frozen, still): return seconds(lambda: dict(epoch=fit, alone=steps)[kind](held['learn'], frozen, still))

def epochs(df, bs, repeats):
    "Whole epochs of 512 films, and their computing alone: plain fastai and ours in a process each, so that what one sets doesn't help the other"
    with tempfile.TemporaryDirectory() as tmp, ExitStack() as stack:
        many = inflated(df, 520, Path(tmp)/'films')
        def pool(who): return stack.enter_context(ProcessPoolExecutor(1, get_context('spawn'), hold, (many, bs, who)))
        pools, jobs, took = {who: pool(who) for who in ('plain', 'ours')}, {}, {}
        for who in pools:
            for frozen in (False, True):
                name, args = who + ', frozen'*frozen + ' and still'*(frozen and who == 'ours'), (frozen, frozen and who == 'ours')
                jobs |= {name: (who, 'epoch', *args), f'{name}: computing alone': (who, 'alone', *args)}
        for i in range(repeats + 1):
            for k,(who,*args) in jobs.items(): took.setdefault(k, []).append(pools[who].submit(timed, *args).result())
    return {k: round(float(np.median(v[1:]))/512*1e3, 4) for k,v in took.items()}

def inflated(df, n, dest):
    "A table of `n` films: copies of those in `df`, each with bytes of its own behind the picture"
    dest.mkdir()
    for i in range(n): (dest/f'{i}.jpeg').write_bytes(Path(df.path[i % len(df)]).read_bytes() + i.to_bytes(8, 'big'))
    labels = [df.label[i % len(df)] for i in range(n)]
    return read_table(pd.DataFrame(dict(path=[str(dest/f'{i}.jpeg') for i in range(n)], label=labels, split=['valid']*8 + ['train']*(n - 8))))

def scaling(df, bs, sizes):
    "Seconds of the first pass, and milliseconds per film of a later one, for more and more films"
    out = {}
    with tempfile.TemporaryDirectory() as tmp:
        many = inflated(df, max(sizes), Path(tmp)/'films')
        for n in sizes:
            clear_presized()
            first = seconds(lambda: presize(many.head(n)))
            dl = xray_dataloaders(many.head(n), bs=bs, on_leak='ignore').train
            out[n] = dict(first=round(first/n*1e3, 3), **in_turn(dict(later=lambda: run_through(dl)), 5, len(dl)*bs))
    return out

class Peak(threading.Thread):
    "Watches the memory that this process has for itself, the page cache left out"
    most, stop = 0., False
    def run(self):
        while not self.stop:
            anon = next(o for o in Path('/proc/self/status').read_text().splitlines() if o.startswith('RssAnon'))
            self.most = max(self.most, int(anon.split()[1])/1e6)
            time.sleep(.02)

def memory(table, who, bs):
    "Print the most gigabytes that twenty steps of training take"
    df, watch = pd.read_pickle(table), Peak(daemon=True)
    learn = learner(df, bs, who)
    watch.start()
    batches = iter(learn.dls.train)
    stage(learn, False)
    learn.model.train()
    for _ in range(20):
        xb, yb = next(batches)
        learn.loss_func(learn.model(xb), yb).backward()
        learn.opt.step()
        learn.opt.zero_grad()
    watch.stop = True
    print(f'{watch.most:.3f}')

def memories(df, n, bs):
    "Peak memory of training on `n` films, each way in a process of its own"
    if not Path('/proc/self/status').exists(): return {}
    with tempfile.TemporaryDirectory() as tmp:
        inflated(df, n, Path(tmp)/'films').to_pickle(table := f'{tmp}/table.pkl')
        cmd = [sys.executable, '-m', 'benchmarks', '--table', table, '--bs', str(bs), '--memory']
        def peak(who): return float(subprocess.run([*cmd, who], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
        return {who: peak(who) for who in ('plain', 'ours')}

def samplers(sizes):
    "Seconds to draw an epoch over a table with three pneumonias to one normal film"
    out = {}
    for n in map(int, sizes):
        label = pd.Categorical.from_codes((np.arange(n) % 4 > 0).astype('i1'), ['NORMAL', 'PNEUMONIA'])
        df = pd.DataFrame(dict(split=pd.Categorical.from_codes(np.zeros(n, 'i1'), ['train']), label=label, path=pd.Categorical.from_codes(np.zeros(n, 'i1'), ['film'])))
        w = np.where(label.codes == 0, 3., 1.)
        ours = BalancedSampler(df)
        fns = {'BalancedSampler': ours.epoch, 'WeightedRandomSampler': lambda: list(WeightedRandomSampler(torch.from_numpy(w), len(ours))),
            'WeightedDL': lambda: list(np.random.choice(n, n, p=w/w.sum())), 'imbalanced-learn': lambda: RandomOverSampler().fit_resample(np.arange(n)[:,None], label.codes)}
        out[n] = {k: attempt(v) for k,v in fns.items() if k != 'imbalanced-learn' or RandomOverSampler}
    return out

def attempt(fn):
    "Seconds of a call, or what went wrong"
    try: return round(float(np.median([seconds(fn) for _ in range(3)])), 5)
    except Exception as e: return f'{type(e).__name__}: {e}'[:80]

def figure(res, dest):
    "Bars of what a film costs, ours beside plain fastai"
    frozen = dict(plain=res['epoch']['plain, frozen'], ours=res['epoch']['ours, frozen and still'])
    pairs = {'decode and shrink': res['decode'], 'later epoch, data alone': res['data'], 'epoch': res['epoch'], 'epoch, body frozen': frozen, 'scan': res['scan']}
    t = pd.DataFrame({k: {who: v[who] for who in ('plain', 'ours')} for k,v in pairs.items()}).T
    ax = t.rename(columns=dict(plain='plain fastai')).plot.barh(logx=True, figsize=(7, 3.4), color=['.7', 'C0'])
    for i,(p,o) in enumerate(t.itertuples(index=False)): ax.text(p*1.1, i, f'{p/o:.3g}×', va='center')
    ax.invert_yaxis()
    ax.set(xlabel='milliseconds a film', xlim=(t.min().min()/2, t.max().max()*3))
    ax.figure.savefig(dest, dpi=110, bbox_inches='tight')

def machine():
    "What this ran on"
    info = Path('/proc/cpuinfo')
    names = [o.split(':')[1].strip() for o in info.read_text().splitlines() if o.startswith('model name')] if info.exists() else []
    return dict(cpu=(names or [platform.processor()])[0], cores=os.cpu_count(), gpu=torch.cuda.get_device_name() if cuda else 'none', torch=torch.__version__,
        python=platform.python_version())

def parts(df, films, args):
    "Each measurement by name"
    n, repeats, bs = len(df), args.repeats, args.bs
    return dict(scan=lambda: scans(args.scan or films, repeats), decode=lambda: decodes(df, repeats), data=lambda: data_paths(df, bs, repeats),
        epoch=lambda: epochs(df, bs, repeats), scaling=lambda: scaling(df, bs, [n, 4*n, 16*n]), memory_gb=lambda: memories(df, args.many, bs),
        samplers=lambda: samplers(args.sampler_sizes))

def main(args):
    "Measure everything, saying each result as it comes"
    with tempfile.TemporaryDirectory() as tmp:
        os.environ['PNEUMO_CACHE'] = f'{tmp}/cache'
        films = args.films or make_phantoms(f'{tmp}/films', dict(train=dict(NORMAL=40, PNEUMONIA=120)), size=1000)
        df = scan_images(films)
        df['split'] = pd.Categorical(['valid']*8 + ['train']*(len(df) - 8), ['train', 'valid', 'test'])
        res = dict(machine=machine(), films=len(df), pixels=[int(df.width.median()), int(df.height.median())], batch=args.bs)
        for k,fn in parts(df, films, args).items():
            if args.only and k not in args.only: continue
            res[k] = fn()
            print(k, json.dumps(res[k]), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out/'speed.json').write_text(json.dumps(res, indent=1))
    if not args.only: figure(res, args.out/'speed.png')

if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='python -m benchmarks', description=__doc__)
    parser.add_argument('--films', help='folder of full-size films; without one, phantoms are drawn')
    parser.add_argument('--scan', help='folder of many films, to time the scan; without one, that of --films')
    parser.add_argument('--out', type=Path, default=Path('study/speed'), help='folder for speed.json and speed.png')
    parser.add_argument('--bs', type=int, default=32, help='films a batch')
    parser.add_argument('--repeats', type=int, default=5, help='runs that each median is taken of')
    parser.add_argument('--many', type=int, default=5216, help='films for the measure of memory')
    parser.add_argument('--sampler-sizes', type=float, nargs='*', default=[1e4, 1e5, 1e6, 1e7, 1e8], help='rows for the measure of samplers')
    parser.add_argument('--only', nargs='*', help='names of measurements, to take those alone')
    parser.add_argument('--memory', help=argparse.SUPPRESS)
    parser.add_argument('--table', help=argparse.SUPPRESS)
    args = parser.parse_args()
    memory(args.table, args.memory, args.bs) if args.memory else main(args)

"Plain fastai against ours, measured in turn in one run: `python -m benchmarks --images FOLDER`. Writes a JSON and a figure."
import argparse, hashlib, json, os, platform, subprocess, sys, tempfile, threading, time, tracemalloc
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from multiprocessing import get_context, get_start_method, set_start_method
from pathlib import Path
import numpy as np, pandas as pd, torch
from fastai.vision.all import Adam, Callback, CancelValidException, CrossEntropyLossFlat, CategoryBlock, DataBlock
from fastai.vision.all import IndexSplitter, ImageBlock, PILImage
from fastai.vision.all import RandomResizedCropGPU, Resize, Rotate, Zoom, get_image_files, models, resnet18, setup_aug_tfms, vision_learner
from PIL import Image
from torch.utils.data import WeightedRandomSampler
from torch.utils.flop_counter import FlopCounterMode
from pneumo_imbalance.arch import build_network
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.data import read_table, scan_images
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.presize import clear_presized, presize
from pneumo_imbalance.sampling import BalancedSampler
from pneumo_imbalance.train import set_seed, still_body, xray_learner
from pneumo_imbalance.views import clear_views

try: from imblearn.over_sampling import RandomOverSampler
except ImportError: RandomOverSampler = None

cuda = torch.cuda.is_available()

def seconds(fn):
    "Seconds that one call takes, a GPU's work included"
    start = time.perf_counter()
    fn()
    if cuda: torch.cuda.synchronize()
    return time.perf_counter() - start

def cpu_seconds(fn):
    "Seconds of the processor that one call takes: on one thread the same, however busy the machine"
    start = time.process_time()
    fn()
    return time.process_time() - start

def in_turn(fns, repeats, per, clock=seconds):
    "Median milliseconds per image of each of `fns`, called in turn so that a noisy machine troubles all alike"
    took = {k: [] for k in fns}
    for fn in fns.values(): fn()
    for _ in range(repeats):
        for k,fn in fns.items(): took[k].append(clock(fn)/per*1e3)
    return {k: round(float(np.median(v)), 4) for k,v in took.items()}

def plain_loaders(df, bs, workers):
    "The DataBlock of the study of 2021"
    files = [Path(o) for o in df.path]
    label = dict(zip(files, df.label))
    valid = np.flatnonzero(df.split == 'valid')
    block = DataBlock((ImageBlock, CategoryBlock), get_items=lambda _: files, get_y=label.get, splitter=IndexSplitter(valid),
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
    "The same, proving that each image is whole"
    for f in files:
        with Image.open(f) as im: im.load()
        hashlib.blake2b(Path(f).read_bytes(), digest_size=16).hexdigest()

def scans(folder, repeats):
    files = get_image_files(folder)
    fns = {'plain': lambda: scan_loop(files), 'plain, decoded': lambda: decode_loop(files),
        'ours': lambda: scan_images(folder, rescan=True), 'ours, again': lambda: scan_images(folder)}
    return in_turn(fns, repeats, len(files)) | dict(images=len(files))

def highest():
    "Most memory that this process ever held, in MB; 0 where the system doesn't tell"
    info = Path('/proc/self/status')
    return next((int(o.split()[1])/1000 for o in info.read_text().splitlines() if o.startswith('VmHWM')), 0) if info.exists() else 0

def scan_cost(folder, how):
    "Seconds, images and peak memory in MB above the idle program of one pass over a folder, in a process that did nothing else"
    files, base = get_image_files(folder), highest()
    fns = dict(plain=lambda: scan_loop(files), first=lambda: scan_images(folder, rescan=True), again=lambda: scan_images(folder))
    return dict(seconds=round(seconds(fns[how]), 2), images=len(files), memory_mb=round(highest() - base))

def scan_costs(folder, repeats):
    "A plain loop, the first scan and the second, in turn: the median seconds and the most memory of each"
    took = {k: [] for k in ('plain', 'first', 'again')}
    for k in [*took]*repeats:
        with ExitStack() as stack: took[k].append(process(stack, held.clear).submit(scan_cost, folder, k).result())
    n, last = took['first'][0]['images'], max((Path(os.environ['PNEUMO_CACHE'])/'scans').iterdir(), key=os.path.getmtime)
    size = dict(images=n, repeats=repeats, remembered_bytes_an_image=round(last.stat().st_size/n, 1))
    def middle(rows): return dict(seconds=float(np.median([o['seconds'] for o in rows])), memory_mb=max(o['memory_mb'] for o in rows))
    return size | {k: middle(v) for k,v in took.items()}

def scan_main(args):
    "Scan folders twice: scan.json"
    with tempfile.TemporaryDirectory() as tmp:
        os.environ |= dict(PNEUMO_CACHE=f'{tmp}/cache', TQDM_DISABLE='1')
        res = dict(machine=machine(), scans={})
        for i,folder in enumerate(args.scans):
            found = scan_costs(folder, max(1, args.repeats - 2*i))
            res['scans'][f"{found['images']:,}"] = found | dict(load=round(os.getloadavg()[0], 1))
            print(json.dumps(found), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out/'scan.json').write_text(json.dumps(res, indent=1) + '\n')

def decodes(df, repeats):
    "Decode and presize, on one core; ours writes down what it made as well"
    rows = df.drop_duplicates('digest').iloc[::4]
    tfm = Resize(460)
    def plain():
        for o in rows.path: tfm(PILImage.create(o), split_idx=1)
    def ours():
        clear_presized()
        presize(rows, 460, 'crop', 1, n_workers=1)
    return in_turn(dict(plain=plain, ours=ours), repeats, len(rows))

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
    with learn.no_bar(), learn.no_logging(), still_body(learn.model[0], still): learn.fit(1, 1e-3, cbs=NoValidation())

def steps(learn, frozen, still, n=None):
    "As many steps on a ready batch as an epoch has, or `n`"
    bs = learn.dls.train.bs
    batch = torch.randn(bs, 3, 224, 224, device=learn.dls.device), torch.randint(2, (bs,), device=learn.dls.device)
    stage(learn, frozen)
    learn.model.train()
    with still_body(learn.model[0], still), torch.autocast('cuda', torch.bfloat16, enabled=hasattr(learn, 'mixed_precision')):
        for _ in range(n or len(learn.dls.train)):
            learn.loss_func(learn.model(batch[0]), batch[1]).backward()
            learn.opt.step()
            learn.opt.zero_grad()

def training_step(size, precision, bs):
    "A function that does one step of a ResNet-18 on a processor: forward, backward, optimiser"
    set_seed(42)
    model = build_network(resnet18, 2, False).to(memory_format=torch.channels_last)
    opt, loss = Adam(list(model.parameters()), lr=1e-3), CrossEntropyLossFlat()
    x, y = torch.randn(bs, 3, size, size).to(memory_format=torch.channels_last), torch.randint(2, (bs,))
    def step():
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bf16', cache_enabled=False): pred = model(x)
        loss(pred.float(), y).backward()
        opt.step()
        opt.zero_grad()
    return step

def step_costs(sizes, bs, repeats):
    "Milliseconds an image of a step in 32 and in 16 bits, by size"
    def both(n): return in_turn({o: training_step(n, o, bs) for o in ('fp32', 'bf16')}, repeats, bs, cpu_seconds)
    return {str(n): both(n) for n in sizes}

def frozen_fit(dls, **how):
    "Train a new head"
    set_seed(42)
    xray_learner(dls, pretrained=False).fit_two_stage(frozen_epochs, 0, lr_frozen=1e-2, **how)

frozen_epochs, frozen_views = 8, 8

def frozen_costs(repeats, n=192, size=64):
    "Milliseconds an image of a frozen stage of 8 epochs: as fastai does it, with a still body, on views to be made, on views kept"
    folder, views = Path(os.environ['PNEUMO_CACHE']), dict(views=frozen_views)
    df = scan_images(make_phantoms(folder/'images', dict(train=dict(NORMAL=n//4 + 8, PNEUMONIA=n - n//4)), size=72))
    df['split'] = pd.Categorical(['valid']*8 + ['train']*n, ['train', 'valid', 'test'])
    dls = xray_dataloaders(df, item_size=72, size=size, bs=32, on_leak='ignore')
    def first():
        clear_views()
        frozen_fit(dls, **views)
    # chkstyle: ignore-node
    fns = dict(plain=lambda: frozen_fit(dls), still=lambda: frozen_fit(dls, train_bn=False),
        views_first=first, views_kept=lambda: frozen_fit(dls, **views))
    took = in_turn(fns, repeats, n, cpu_seconds)
    bytes_a_view = round(clear_views()/(frozen_views*n + 8), 1)
    return took | dict(images=n, size=size, epochs=frozen_epochs, **views, bytes_a_view=bytes_a_view)

def steps_main(args):
    "What 16 bits and a body that is run once gain on this processor, on one thread: speed_steps.json"
    with tempfile.TemporaryDirectory() as tmp:
        os.environ |= dict(PNEUMO_CACHE=tmp, IN_TEST='1')
        torch.set_num_threads(1)
        can = getattr(torch.cpu, 'get_capabilities', dict)()
        bits = [o for o in ('amx_bf16', 'avx512_bf16', 'bf16', 'sve_bf16') if can.get(o)]
        res = dict(machine=machine() | dict(bf16=bits), date=time.strftime('%Y-%m-%d'), repeats=args.repeats, batch=16)
        res['steps'] = step_costs((64, 128, 224), 16, args.repeats)
        print(json.dumps(res), flush=True)
        res['frozen'] = frozen_costs(max(1, args.repeats - 2))
        print(json.dumps(res['frozen']), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out/'speed_steps.json').write_text(json.dumps(res, indent=1) + '\n')

class NoValidation(Callback):
    def before_validate(self): raise CancelValidException

held = {}

def hold(df, bs, who):
    "Make this process that of plain fastai, or ours: loaders, learner, and two steps of each stage to warm up"
    learn = learner(df, bs, who, os.cpu_count() if cuda else 0)
    held.update(df=df, bs=bs, learn=learn, many=plain_loaders(df, bs, os.cpu_count()).train if who == 'plain' else None)
    for frozen in (False, True): steps(learn, frozen, frozen and who == 'ours', 2)

def read(many=False): run_through(held['many'] if many else held['learn'].dls.train)

def first():
    "What our first epoch has to do before it can begin"
    clear_presized()
    xray_dataloaders(held['df'], bs=held['bs'], on_leak='ignore')

def alone(frozen, still): steps(held['learn'], frozen, still)

def epoch(frozen, still): fit(held['learn'], frozen, still)

def timed(fn, *args): return seconds(lambda: fn(*args))

def begin(method, setup, args):
    "Have this process start its own workers by `method`: one made by spawn would spawn them, which takes seconds and fails with a GPU"
    set_start_method(method, force=True)
    setup(*args)

def process(stack, setup, *args):
    "A fresh process, for what one side sets must not help the other; its workers start as they would without it"
    return stack.enter_context(ProcessPoolExecutor(1, get_context('spawn'), begin, (get_start_method(), setup, args)))

def rounds(df, bs, n, jobs, repeats):
    "Median milliseconds per image of `jobs`, name -> (whose process, function, *arguments), in turn, in an epoch of `n` images"
    took = {k: [] for k in jobs}
    with tempfile.TemporaryDirectory() as tmp, ExitStack() as stack:
        many = inflated(df, n + 8, Path(tmp)/'images')
        pools = {who: process(stack, hold, many, bs, who) for who in ('plain', 'ours')}
        for _ in range(repeats):
            for k,(who,*job) in jobs.items(): took[k].append(pools[who].submit(timed, *job).result())
    return {k: round(float(np.median(v))/n*1e3, 4) for k,v in took.items()}

def data_paths(df, bs, n, repeats):
    "Image to normalised batch of 224: plain fastai, and a later epoch of ours; and what comes before our first"
    jobs = {'plain': ('plain', read), 'plain, a worker a core': ('plain', read, True), 'ours': ('ours', read),
        'ours, presizing before the first': ('ours', first)}
    return rounds(df, bs, n, jobs, repeats) | dict(images=n)

def epochs(df, bs, n, repeats):
    "Whole epochs, and their computing alone: on batches that lie ready in memory"
    jobs = {}
    for frozen in (False, True):
        for who in ('plain', 'ours'):
            still = frozen and who == 'ours'
            name = who + ', frozen'*frozen + ' and still'*still
            jobs |= {name: (who, epoch, frozen, still), f'{name}: computing alone': (who, alone, frozen, still)}
    return rounds(df, bs, n, jobs, repeats) | dict(images=n)

def inflated(df, n, dest):
    "A table of `n` images: copies of those in `df`, each with bytes of its own behind the picture"
    dest.mkdir()
    rows = df.iloc[np.arange(n) % len(df) if n > len(df) else np.linspace(0, len(df) - 1, n).astype(int)]
    for i,o in enumerate(rows.path): (dest/f'{i}.jpeg').write_bytes(Path(o).read_bytes() + i.to_bytes(8, 'big'))
    paths, split = [str(dest/f'{i}.jpeg') for i in range(n)], ['valid']*8 + ['train']*(n - 8)
    return read_table(pd.DataFrame(dict(path=paths, label=list(rows.label), split=split)))

def scaling(df, bs, sizes, repeats):
    "Milliseconds per image of presizing and of a later pass, for more and more images"
    out = {}
    with tempfile.TemporaryDirectory() as tmp:
        many = inflated(df, max(sizes), Path(tmp)/'images')
        for n in sizes:
            some = many.head(n)
            def first():
                clear_presized()
                presize(some)
            first_ms = in_turn(dict(first=first), repeats, n)
            dl = xray_dataloaders(some, bs=bs, on_leak='ignore').train
            out[n] = first_ms | in_turn(dict(later=lambda: run_through(dl)), repeats, len(dl)*bs)
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
    "Print the most gigabytes that making the loaders and twenty steps of training take"
    df, watch = pd.read_pickle(table), Peak(daemon=True)
    watch.start()
    learn = learner(df, bs, who)
    stage(learn, False)
    learn.model.train()
    for _,(xb,yb) in zip(range(20), learn.dls.train):
        learn.loss_func(learn.model(xb), yb).backward()
        learn.opt.step()
        learn.opt.zero_grad()
    watch.stop = True
    print(f'{watch.most:.3f}')

def memories(df, n, bs):
    "Peak memory of training on `n` images, each way in a process of its own"
    if not Path('/proc/self/status').exists(): return {}
    with tempfile.TemporaryDirectory() as tmp:
        inflated(df, n, Path(tmp)/'images').to_pickle(table := f'{tmp}/table.pkl')
        cmd = [sys.executable, '-m', 'benchmarks', '--table', table, '--bs', str(bs), '--memory']
        def peak(who): return float(subprocess.run([*cmd, who], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
        return {who: peak(who) for who in ('plain', 'ours')}

def sampler_fns(n):
    "Each way to draw a balanced epoch of a table with three pneumonias to one normal image"
    label = pd.Categorical.from_codes((np.arange(n) % 4 > 0).astype('i1'), ['NORMAL', 'PNEUMONIA'])
    train, image = (pd.Categorical.from_codes(np.zeros(n, 'i1'), [o]) for o in ('train', 'image'))
    ours, w = BalancedSampler(pd.DataFrame(dict(split=train, label=label, path=image))), np.where(label.codes == 0, 3., 1.)
    # chkstyle: ignore-node
    return {'BalancedSampler, an array': ours.epoch, 'BalancedSampler': lambda: list(ours),
        'WeightedRandomSampler': lambda: list(WeightedRandomSampler(torch.from_numpy(w), len(ours))),
        'WeightedDL': lambda: list(np.random.choice(n, n, p=w/w.sum())),
        'imbalanced-learn, an array': lambda: RandomOverSampler().fit_resample(np.arange(n)[:,None], label.codes)}

def draw(name, n):
    "Seconds to draw an epoch"
    if held.get('n') != n: held.update(n=n, fns=sampler_fns(n))
    return seconds(held['fns'][name])

def draw_bytes(n):
    "The most bytes a row that drawing an epoch takes, the array that comes out included"
    fn = sampler_fns(n)['BalancedSampler, an array']
    tracemalloc.start()
    fn()
    return round(tracemalloc.get_traced_memory()[1]/n, 1)

def attempt(pool, name, n, repeats, limit):
    "Median seconds to draw an epoch; what takes above ten is timed once"
    took = [pool.submit(draw, name, n).result(limit)]
    if took[0] < 10: took = [pool.submit(draw, name, n).result(limit) for _ in range(repeats)]
    return round(float(np.median(took)), 5)

def attempts(name, sizes, repeats, limit):
    "Seconds of one sampler at each size, in a process of its own, until it fails; then what went wrong"
    out = {}
    with ExitStack() as stack:
        pool = process(stack, held.clear)
        for n in sizes:
            try: out[n] = attempt(pool, name, n, repeats, limit)
            except Exception as e:
                out[n] = f'not done after {limit} s' if isinstance(e, TimeoutError) else f'{type(e).__name__}: {e}'.splitlines()[0][:90]
                for o in list((pool._processes or {}).values()): o.kill()
                break
    return out

def samplers(sizes, repeats, limit=120):
    "Seconds to draw an epoch of ever more rows"
    sizes, names = list(map(int, sizes)), [o for o in sampler_fns(8) if RandomOverSampler or 'imbalanced' not in o]
    out = {k: attempts(k, sizes, repeats, limit) for k in names}
    with ExitStack() as stack: out['bytes a row'] = process(stack, held.clear).submit(draw_bytes, max(sizes)).result()
    return out

class Busy(threading.Thread):
    "Samples how busy the GPU is, as its driver says: the share of time in which any kernel ran"
    stop = False
    def run(self):
        self.seen = []
        while not self.stop:
            try: self.seen.append(torch.cuda.utilization())
            except Exception: return # no nvidia-ml-py
            time.sleep(.05)

def busy_while(fn):
    "Seconds that `fn` takes, and the share of them in which the GPU was busy, in percent"
    watch = Busy(daemon=True)
    if cuda: watch.start()
    took, watch.stop = seconds(fn), True
    if not cuda: return took, None
    watch.join()
    return took, round(float(np.mean(watch.seen)), 1) if watch.seen else None

def plain_squares(df, bs, workers):
    "The DataBlock of the study on images that are small already"
    files, valid = [Path(o) for o in df.path], np.flatnonzero(df.split == 'valid')
    block = DataBlock((ImageBlock, CategoryBlock), get_items=lambda _: files, get_y=dict(zip(files, df.label)).get,
        splitter=IndexSplitter(valid), item_tfms=Resize(256),
        batch_tfms=[RandomResizedCropGPU(224, min_scale=.75), *setup_aug_tfms([Rotate(), Zoom()])])
    return block.dataloaders('.', bs=bs, num_workers=workers)

def gpu_learner(df, way, arch, precision, bs):
    "The learner of one way: plain fastai, or ours from a memory map, from the device, or compiled"
    arch = getattr(models, arch)
    if way == 'plain':
        learn = vision_learner(plain_squares(df, bs, min(os.cpu_count(), 16)), arch, pretrained=False)
        learn.model.to(learn.dls.device)
        return getattr(learn, f'to_{precision}')()
    cache = 'device' if way != 'ours' and cuda else True
    dls = xray_dataloaders(df, item_size=256, size=224, bs=bs, cache=cache, on_leak='ignore')
    return xray_learner(dls, arch, pretrained=False, precision=precision, compile=way == 'ours, compiled')

def gpu_times(df, way, arch, precision, bs, repeats):
    "Milliseconds an image of epochs and of the computing alone, and the GPU's busy share"
    torch.manual_seed(0)
    if cuda: torch.backends.cudnn.benchmark = False
    learn = gpu_learner(df, way, arch, precision, bs)
    n = len(learn.dls.train)*bs
    start = time.perf_counter()
    steps(learn, False, False, 5)
    if cuda: torch.cuda.synchronize()
    first = time.perf_counter() - start
    fit(learn, False, False) if 'compiled' in way else None
    whole = [busy_while(lambda: fit(learn, False, False)) for _ in range(repeats)]
    alone = [busy_while(lambda: steps(learn, False, False)) for _ in range(repeats)]
    # chkstyle: ignore-node
    return dict(way=way, arch=arch, precision=precision, batch=bs, images=n, first_steps_s=round(first, 2)) | {
        f'{k}_{what}': v for k,v in dict(epoch=whole, alone=alone).items() for what,v in
        dict(ms=round(float(np.median([o[0] for o in v]))/n*1e3, 4), busy=max((o[1] or 0 for o in v), default=None)).items()}

def ceilings():
    "What the GPU can do at most, measured: matrix products in TFLOP/s, copies in TB/s"
    def rate(fn, n=10):
        for _ in range(3): fn()
        return seconds(lambda: [fn() for _ in range(n)])/n
    m, out = 8192 if cuda else 512, {}
    for name,dtype,tf32 in (('bf16', torch.bfloat16, False), ('tf32', torch.float, True), ('fp32', torch.float, False)):
        a, b = (torch.randn(m, m, device='cuda' if cuda else 'cpu', dtype=dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = tf32
        out[f'{name}_tflops'] = round(2*m**3/rate(lambda: a @ b)/1e12, 1)
    x = torch.empty(2**31 if cuda else 2**22, dtype=torch.uint8, device='cuda' if cuda else 'cpu')
    y = torch.empty_like(x)
    return out | dict(copy_tbs=round(2*len(x)/rate(lambda: y.copy_(x))/1e12, 2))

def work(arch, bs=8):
    "Floating-point operations, and values that layers read and write, of one image in one step of training"
    model, moved = getattr(models, arch)(num_classes=2), []
    def count(m, x, y): moved.append((sum(o.numel() for o in x) + y.numel())/bs)
    for m in model.modules():
        if not list(m.children()): m.register_forward_hook(count)
    with FlopCounterMode(display=False) as flops: model(torch.randn(bs, 3, 224, 224)).sum().backward()
    return dict(gflop=round(flops.get_total_flops()/bs/1e9, 2), mvalues=round(3*sum(moved)/1e6, 2))

def gpu(df, dest, archs, ways, batches, repeats, limit):
    "All rows, the most wanted first, each written down as it comes; what does not begin within `limit` seconds is left out"
    start, res = time.perf_counter(), dict(machine=machine(), date=time.strftime('%Y-%m-%d'), rows=[])
    res['packages'] = {k: version(k) for k in ('fastai', 'torchvision', 'numpy', 'pillow')}
    res |= dict(ceilings=ceilings(), work={o: work(o) for o in archs})
    rows = [(a, p, b, w) for b in batches for a in archs for p in ('bf16', 'fp32') for w in ways if 'compiled' not in w or p == 'bf16']
    dest.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        pools = {o: process(stack, held.clear) for o in ('plain', 'ours')}
        for arch,precision,bs,way in rows:
            if time.perf_counter() - start > limit: break
            try: row = pools[way.split(',')[0]].submit(gpu_times, df, way, arch, precision, bs, 2 if way == 'plain' else repeats).result()
            except Exception as e: row = dict(way=way, arch=arch, precision=precision, batch=bs, error=f'{type(e).__name__}: {e}'[:500])
            res['rows'].append(row)
            print(f'{time.perf_counter() - start:6.1f} s', json.dumps(row), flush=True)
            (dest/'speed_gpu.json').write_text(json.dumps(res, indent=1) + '\n')

def gpu_main(args):
    "The rows of a GPU, on small images"
    with tempfile.TemporaryDirectory() as tmp:
        os.environ.setdefault('PNEUMO_CACHE', f'{tmp}/cache')
        df = scan_images(args.images)
        df = df[df.split == 'train'].reset_index(drop=True)
        df = df.iloc[np.linspace(0, len(df) - 1, args.epoch_images + 8).astype(int)].reset_index(drop=True)
        df = pd.concat([df.iloc[::len(df)//8 + 1], df.drop(df.index[::len(df)//8 + 1])], ignore_index=True)
        df['split'] = pd.Categorical(['valid']*8 + ['train']*(len(df) - 8), ['train', 'valid', 'test'])
        presize(df, 256)
        gpu(df, args.out, args.archs, args.ways, args.batches, min(args.repeats, 3), args.limit)

def figure(res, dest):
    "Bars of what an image costs, ours beside plain fastai"
    frozen = dict(plain=res['epoch']['plain, frozen'], ours=res['epoch']['ours, frozen and still'])
    pairs = {'decode and shrink': res['decode'], 'later epoch, data alone': res['data'], 'epoch': res['epoch'],
        'epoch, body frozen': frozen, 'scan': res['scan']}
    t = pd.DataFrame({k: {who: v[who] for who in ('plain', 'ours')} for k,v in pairs.items()}).T
    ax = t.rename(columns=dict(plain='plain fastai')).plot.barh(logx=True, figsize=(7, 3.4), color=['.7', 'C0'])
    for i,(p,o) in enumerate(t.itertuples(index=False)): ax.text(max(p, o)*1.1, i, f'{p/o:.3g}×', va='center')
    ax.invert_yaxis()
    ax.set(xlabel='milliseconds an image', xlim=(t.min().min()/2, t.max().max()*3))
    ax.figure.savefig(dest, dpi=110, bbox_inches='tight')

def machine():
    "What this ran on"
    info = Path('/proc/cpuinfo')
    names = [o.split(':')[1].strip() for o in info.read_text().splitlines() if o.startswith('model name')] if info.exists() else []
    # chkstyle: ignore-node
    return dict(cpu=(names or [platform.processor()])[0], cores=os.cpu_count(),
        simd=torch.backends.cpu.get_cpu_capability(), threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if cuda else 'none', torch=torch.__version__, python=platform.python_version(),
        load=[round(o, 2) for o in os.getloadavg()] if hasattr(os, 'getloadavg') else None)

def parts(df, images, args):
    "Each measurement by name"
    n, repeats, bs = len(df), args.repeats, args.bs
    return dict(scan=lambda: scans(args.scan or images, repeats), decode=lambda: decodes(df, repeats),
        data=lambda: data_paths(df, bs, args.epoch_images, repeats), epoch=lambda: epochs(df, bs, args.epoch_images, repeats),
        scaling=lambda: scaling(df, bs, [n, 4*n, 16*n], repeats), memory_gb=lambda: memories(df, args.many, bs),
        samplers=lambda: samplers(args.sampler_sizes, repeats))

def main(args):
    "Measure everything, saying each result as it comes"
    with tempfile.TemporaryDirectory() as tmp:
        os.environ['PNEUMO_CACHE'] = f'{tmp}/cache'
        images = args.images or make_phantoms(f'{tmp}/images', dict(train=dict(NORMAL=40, PNEUMONIA=120)), size=1000)
        df = scan_images(images)
        df['split'] = pd.Categorical(['valid']*8 + ['train']*(len(df) - 8), ['train', 'valid', 'test'])
        pixels = [int(df.width.median()), int(df.height.median())]
        res = dict(machine=machine(), images=len(df), pixels=pixels, batch=args.bs, repeats=args.repeats)
        for k,fn in parts(df, images, args).items():
            if args.only and k not in args.only: continue
            res[k] = fn()
            print(k, json.dumps(res[k]), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out/'speed.json').write_text(json.dumps(res, indent=1))
    if not args.only: figure(res, args.out/'speed.png')

def command():
    "What `python -m benchmarks` does"
    parser = argparse.ArgumentParser(prog='python -m benchmarks', description=__doc__)
    parser.add_argument('--images', help='folder of full-size images; without one, phantoms are drawn')
    parser.add_argument('--scan', help='folder of many images, to time the scan; without one, that of --images')
    parser.add_argument('--scans', nargs='*', help='scan these folders twice instead, each in fresh processes, the largest last: scan.json')
    parser.add_argument('--steps', action='store_true', help='measure steps in 16 bits and kept views on a processor: speed_steps.json')
    parser.add_argument('--out', type=Path, default=Path('study/speed'), help='folder for speed.json and speed.png')
    parser.add_argument('--bs', type=int, default=32, help='images a batch')
    parser.add_argument('--repeats', type=int, default=5, help='runs that each median is taken of')
    parser.add_argument('--epoch-images', type=int, default=256, help='images of an epoch, a multiple of --bs')
    parser.add_argument('--many', type=int, default=5216, help='images for the measure of memory')
    rows = [1e4, 1e5, 1e6, 1e7, 1e8]
    parser.add_argument('--sampler-sizes', type=float, nargs='*', default=rows, help='rows for the measure of samplers')
    parser.add_argument('--only', nargs='*', help='names of measurements, to take those alone')
    parser.add_argument('--gpu', action='store_true', help='measure a GPU on small images instead: speed_gpu.json')
    ways = ['plain', 'ours, device', 'ours, compiled', 'ours']
    parser.add_argument('--ways', nargs='*', default=ways, help='with --gpu: the ways to measure')
    parser.add_argument('--archs', nargs='*', default=['resnet18', 'resnet50'], help='with --gpu: torchvision networks')
    parser.add_argument('--batches', nargs='*', type=int, default=[64, 256], help='with --gpu: images a batch')
    parser.add_argument('--limit', type=float, default=1e9, help='with --gpu: seconds after which no measurement begins')
    parser.add_argument('--memory', help=argparse.SUPPRESS)
    parser.add_argument('--table', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory: return memory(args.table, args.memory, args.bs)
    instead = gpu_main if args.gpu else scan_main if args.scans else steps_main if args.steps else main
    instead(args)

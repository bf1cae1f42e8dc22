"The comparison of remedies on a folder of images: `python -m benchmarks.remedies --images FOLDER`. Writes its tables."
import argparse, datetime, json
from importlib.metadata import version
from pathlib import Path
import pandas as pd
from benchmarks.speed import machine
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.calibrate import apply_temperature, apply_threshold, choose_threshold, fit_temperature
from pneumo_imbalance.evaluate import score
from pneumo_imbalance.compare import compare_remedies
from pneumo_imbalance.remedy import REMEDIES
from pneumo_imbalance.runs import read_run
from pneumo_imbalance.split import split_valid

NAMES = ['none', 'none+threshold', *(o for o in REMEDIES if o not in ('none', 'balanced_softmax'))] # balanced_softmax is logit_adjust
SHOWN = ['ROC AUC', 'sensitivity', 'specificity', 'balanced accuracy', 'Brier', 'ECE']

def tuned(valid, test, positive):
    "Scores of a model whose temperature and threshold were chosen on valid: on valid, and on test"
    T = fit_temperature(valid)
    valid, test = (apply_temperature(o, T) for o in (valid, test))
    t = choose_threshold(valid, positive=positive)
    def scores(preds): return score(apply_threshold(preds, t, positive), positive, n_boot=1).value[SHOWN]
    return dict(temperature=T, threshold=t, **scores(valid).add_prefix('valid '), **scores(test).add_prefix('test '))

def together(runs):
    "One table out of those of several seeds: their mean probabilities"
    probs = runs[0].filter(like='prob_').columns
    return runs[0].assign(**sum(o[probs] for o in runs).div(len(runs)))

def all_tuned(runs, names, seeds, positive):
    "A row per remedy and seed, and one for the mean of its networks"
    rows = []
    for name in names:
        pairs = {str(s): read_run(runs, name, s) for s in range(seeds)}
        pairs['mean of all'] = [together(o) for o in zip(*pairs.values())]
        rows += [dict(remedy=name, seed=s, **tuned(*o, positive)) for s,o in pairs.items()]
    return pd.DataFrame(rows).round(5)

def about(df, args, settings):
    "What the run was made with"
    hours = sum(json.loads(o.read_text())['seconds'] for o in args.runs.glob('*-*.json'))/3600
    images = pd.crosstab(df.split.astype(str), df.label.astype(str)).T.to_dict()
    took = dict(training_hours=round(hours, 2), trainings_at_a_time=args.jobs, seeds=args.seeds, date=str(datetime.date.today()))
    packages = {k: version(k) for k in ('fastai', 'torchvision', 'numpy')}
    return dict(machine=machine(), **took, images=images, arch='resnet18', settings=settings, packages=packages)

def main(args):
    "Split by patient, train every remedy with every seed, score the test images at the end"
    df = split_valid(scan_images(args.images))
    sizes = dict(size=args.size, item_size=args.item_size, bs=args.bs)
    settings = dict(frozen=0, unfrozen=args.epochs, lr_unfrozen=args.lr, **sizes, pretrained=False)
    settings |= {k: v for k,v in dict(precision=args.precision, cache=args.cache).items() if v}
    how = dict(positive=args.positive, n_boot=args.boot, on_leak=args.on_leak)
    c = compare_remedies(df, args.remedies, args.seeds, args.runs, args.jobs, **how, **settings)
    c.save(args.out)
    positive = c.about['positive']
    if positive is None: print('No threshold was tuned, for it parts two groups: name one of the classes with --positive.')
    else: all_tuned(args.runs, args.remedies, args.seeds, positive).to_csv(args.out/'tuned.csv', index=False)
    (args.out/'run.json').write_text(json.dumps(about(df, args, settings), indent=1) + '\n')
    print(c)

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.remedies', description=__doc__)
    p.add_argument('--images', required=True, help='folder of images with a test split')
    p.add_argument('--out', type=Path, default=Path('study/remedies'), help='folder for the tables')
    runs = Path('study/remedies/runs')
    p.add_argument('--runs', type=Path, default=runs, help='folder for the runs; finished ones are not trained again')
    p.add_argument('--remedies', nargs='*', default=NAMES, help='names of remedies')
    p.add_argument('--seeds', type=int, default=5, help='seeds of each')
    p.add_argument('--epochs', type=int, default=3, help='epochs, each with as many steps as the images as they are take')
    p.add_argument('--lr', type=float, default=3e-3, help='largest learning rate')
    p.add_argument('--size', type=int, default=64, help='side of the square that the network sees')
    p.add_argument('--item-size', type=int, default=72, help='side of the square that images are shrunk to first')
    p.add_argument('--bs', type=int, default=64, help='images a batch')
    p.add_argument('--precision', help="'bf16' on a processor that has it")
    p.add_argument('--cache', choices=['device'], help='keep the squares on the GPU')
    p.add_argument('--jobs', type=int, default=2, help='trainings at a time')
    p.add_argument('--boot', type=int, default=2000, help='resamples of the patients')
    p.add_argument('--positive', help='class that is looked for')
    leaks = ['raise', 'warn', 'drop', 'ignore']
    p.add_argument('--on-leak', choices=leaks, default='raise', help='what to do about images or patients in two splits')
    return p

if __name__ == '__main__': main(parser().parse_args())

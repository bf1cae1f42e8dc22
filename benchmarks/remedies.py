"The comparison of remedies on a folder of images: `python -m benchmarks.remedies --images FOLDER`. Writes runs.csv, summary.csv, differences.csv, tuned.csv and run.json."
import argparse, datetime, json
from importlib.metadata import version
from pathlib import Path
import pandas as pd
from benchmarks.speed import machine
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.calibrate import apply_temperature, apply_threshold, choose_threshold, fit_temperature
from pneumo_imbalance.evaluate import score
from pneumo_imbalance.compare import compare_remedies, read_run
from pneumo_imbalance.split import split_valid

NAMES = ['none', 'none+threshold', 'oversample', 'oversample_epoch', 'undersample', 'weights', 'focal', 'logit_adjust', 'two_phase_over']
SHOWN = ['ROC AUC', 'sensitivity', 'specificity', 'balanced accuracy', 'Brier', 'ECE']

def tuned(valid, test):
    "Scores of a model whose temperature and threshold were chosen on valid: on valid, and on test"
    T = fit_temperature(valid)
    valid, test = (apply_temperature(o, T) for o in (valid, test))
    t = choose_threshold(valid)
    scores = {s: score(apply_threshold(o, t), n_boot=1).value[SHOWN].add_prefix(f'{s} ') for s,o in (('valid', valid), ('test', test))}
    return dict(temperature=T, threshold=t, **scores['valid'], **scores['test'])

def together(runs):
    "One table out of those of several seeds: their mean probabilities"
    probs = runs[0].filter(like='prob_').columns
    return runs[0].assign(**sum(o[probs] for o in runs).div(len(runs)))

def all_tuned(runs, names, seeds):
    "A row per remedy and seed, and one for the mean of its networks"
    rows = []
    for name in names:
        pairs = {str(s): read_run(runs, name, s) for s in range(seeds)}
        pairs['mean of all'] = [together(o) for o in zip(*pairs.values())]
        rows += [dict(remedy=name, seed=s, **tuned(*o)) for s,o in pairs.items()]
    return pd.DataFrame(rows).round(5)

def about(df, args, settings):
    "What the run was made with"
    hours = sum(json.loads(o.read_text())['seconds'] for o in args.runs.glob('*-*.json'))/3600
    images = {s: {k: int(((df.split == s) & (df.label == k)).sum()) for k in sorted(df.label.unique())} for s in ('train', 'valid', 'test')}
    took = dict(training_hours=round(hours, 2), trainings_at_a_time=args.jobs, seeds=args.seeds, date=str(datetime.date.today()))
    return dict(machine=machine(), **took, images=images, arch='resnet18', settings=settings, packages={k: version(k) for k in ('fastai', 'torchvision', 'numpy')})

def main(args):
    "Split by patient, train every remedy with every seed, score the test images at the end"
    df = split_valid(scan_images(args.images))
    settings = dict(frozen=0, unfrozen=args.epochs, lr_unfrozen=args.lr, size=args.size, item_size=args.item_size, bs=args.bs, pretrained=False)
    c = compare_remedies(df, args.remedies, args.seeds, args.runs, args.jobs, n_boot=2000, **settings)
    c.save(args.out)
    all_tuned(args.runs, args.remedies, args.seeds).to_csv(args.out/'tuned.csv', index=False)
    (args.out/'run.json').write_text(json.dumps(about(df, args, settings), indent=1) + '\n')
    print(c)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='python -m benchmarks.remedies', description=__doc__)
    parser.add_argument('--images', required=True, help='folder of images with a test split')
    parser.add_argument('--out', type=Path, default=Path('study/remedies'), help='folder for the tables')
    parser.add_argument('--runs', type=Path, default=Path('study/remedies/runs'), help='folder for the predictions of each run; finished ones are not trained again')
    parser.add_argument('--remedies', nargs='*', default=NAMES, help='names of remedies')
    parser.add_argument('--seeds', type=int, default=5, help='seeds of each')
    parser.add_argument('--epochs', type=int, default=3, help='epochs, each with as many steps as the images as they are take')
    parser.add_argument('--lr', type=float, default=3e-3, help='largest learning rate')
    parser.add_argument('--size', type=int, default=64, help='side of the square that the network sees')
    parser.add_argument('--item-size', type=int, default=72, help='side of the square that images are shrunk to first')
    parser.add_argument('--bs', type=int, default=64, help='images a batch')
    parser.add_argument('--jobs', type=int, default=2, help='trainings at a time')
    main(parser.parse_args())

"The comparison of remedies on a folder of films: `python -m benchmarks.remedies --films FOLDER`. Writes runs.csv, summary.csv, differences.csv and run.json."
import argparse, datetime, json
from importlib.metadata import version
from pathlib import Path
from benchmarks.speed import machine
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.remedy import compare_remedies
from pneumo_imbalance.split import split_valid

ISSUE = ['none', 'oversample', 'oversample_epoch', 'undersample', 'weights', 'focal', 'logit_adjust', 'two_phase_over']

def main(args):
    "Split by patient, train every remedy with every seed, score the test films at the end"
    df = split_valid(scan_images(args.films))
    settings = dict(frozen=0, unfrozen=args.epochs, lr_unfrozen=args.lr, size=args.size, item_size=args.item_size, bs=args.bs, pretrained=False)
    names = [*args.remedies, 'none+threshold']
    c = compare_remedies(df, names, args.seeds, args.runs, args.jobs, n_boot=2000, **settings)
    c.save(args.out)
    hours = sum(json.loads(o.read_text())['seconds'] for o in args.runs.glob('*-*.json'))/3600
    took = dict(training_hours=round(hours, 2), date=str(datetime.date.today()), jobs=args.jobs, seeds=args.seeds, remedies=names)
    films = {s: {k: int(((df.split == s) & (df.label == k)).sum()) for k in sorted(df.label.unique())} for s in ('train', 'valid', 'test')}
    packages = {k: version(k) for k in ('fastai', 'torchvision', 'numpy')}
    (args.out/'run.json').write_text(json.dumps(dict(machine=machine(), **took, arch='resnet18', films=films, settings=settings, packages=packages), indent=1) + '\n')
    print(c)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(prog='python -m benchmarks.remedies', description=__doc__)
    parser.add_argument('--films', required=True, help='folder of films with a test split')
    parser.add_argument('--out', type=Path, default=Path('study/remedies'), help='folder for the tables')
    parser.add_argument('--runs', type=Path, default=Path('study/remedies/runs'), help='folder for the predictions of each run; finished ones are not trained again')
    parser.add_argument('--remedies', nargs='*', default=ISSUE, help='names of remedies')
    parser.add_argument('--seeds', type=int, default=5, help='seeds of each')
    parser.add_argument('--epochs', type=int, default=4, help='epochs, each with as many steps as the films as they are take')
    parser.add_argument('--lr', type=float, default=2e-3, help='largest learning rate')
    parser.add_argument('--size', type=int, default=64, help='side of the square that the network sees')
    parser.add_argument('--item-size', type=int, default=72, help='side of the square that films are shrunk to first')
    parser.add_argument('--bs', type=int, default=64, help='films a batch')
    parser.add_argument('--jobs', type=int, default=2, help='trainings at a time')
    main(parser.parse_args())

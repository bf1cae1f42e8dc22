"The tables of the tutorial's last part, of a finished `pneumo-study FOLDER`: `python -m benchmarks.tutorial STUDY --images FOLDER`."
import argparse, datetime, json
from pathlib import Path
import pandas as pd
from benchmarks.speed import machine
from pneumo_imbalance.audit import audit
from pneumo_imbalance.data import class_counts, imbalance_ratio, scan_images
from pneumo_imbalance.evaluate import score_difference
from pneumo_imbalance.leaks import check_leaks
from pneumo_imbalance.split import split_valid

def facts(df):
    "What the tutorial says of its drawings, said of these images"
    leaks, sheet, where = check_leaks(df, on_leak='warn'), audit(df), machine()
    del where['load'] # says nothing of the study, which ran before
    return dict(date=str(datetime.date.today()), machine=where, images=len(df), patients=int(df.patient.nunique()),
        ratio=round(imbalance_ratio(df), 3), leaks=str(leaks), warnings=list(sheet.warnings))

def compared(study, positive):
    "The networks of a study on the same test images: by how much each stands above the first"
    preds = pd.read_csv(study/'predictions.csv', dtype={'patient': str})
    base, *others = (o.reset_index(drop=True) for _,o in preds.groupby('model', sort=False))
    return pd.concat({o.model.iloc[0]: score_difference(base, o, positive) for o in others}, names=['model'])

def main(args):
    "Read a study and its images, write the tables"
    df = split_valid(scan_images(args.images))
    args.out.mkdir(parents=True, exist_ok=True)
    class_counts(df).to_csv(args.out/'counts.csv')
    for o in ('scores', 'history'): pd.read_csv(args.study/f'{o}.csv').round(4).to_csv(args.out/f'{o}.csv', index=False)
    compared(args.study, args.positive).round(4).to_csv(args.out/'differences.csv')
    about = facts(df) | dict(command=args.command)
    (args.out/'about.json').write_text(json.dumps(about, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.tutorial', description=__doc__)
    p.add_argument('study', type=Path, help='folder of a finished study')
    p.add_argument('--images', required=True, help='its folder of images')
    p.add_argument('--out', type=Path, default=Path('nbs/results/tutorial'), help='folder for the tables')
    p.add_argument('--positive', default='PNEUMONIA', help='class that is looked for')
    p.add_argument('--command', default='', help='how the study was called, for the record')
    return p

if __name__ == '__main__': main(parser().parse_args())

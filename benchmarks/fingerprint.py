"""How often the test of a fingerprint gives a false alarm, on resampled chest radiographs, and what it says of images from elsewhere:
`python -m benchmarks.fingerprint FOLDER [--other FOLDER]`, the folders of chest-xray-pneumonia and of another kind of images."""
import argparse, datetime, json
from pathlib import Path
import numpy as np, pandas as pd
from benchmarks.speed import machine
from pneumo_imbalance.copies import thumbnails
from pneumo_imbalance.core import track
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.fingerprint import compare_fingerprint, fingerprint, unlike
from pneumo_imbalance.moments import compare_means, image_features, moments

classes, homes, heres, shares = ['NORMAL', 'PNEUMONIA'], [80, 200, 1500], [30, 200, 600], [.1, .5, .9]

def patients_of(df):
    "Class → patient → rows"
    return {c: {p: o.to_numpy() for p,o in g.groupby(g.patient).groups.items()} for c,g in df.groupby('label', observed=True)}

def drawn(rng, rows, pool, n, share):
    "Rows of whole patients out of a pool, about `n`, a share of them PNEUMONIA"
    out = []
    for c,k in zip(classes, (n*(1 - share), n*share)):
        who = rng.permutation([p for p in rows[c] if p in pool])
        at = np.cumsum([len(rows[c][p]) for p in who])
        out += [rows[c][p] for p in who[:np.searchsorted(at, k) + 1]]
    return np.concatenate(out)

def alarms(rng, df, F, rows, n_home, n_here, share):
    "Two groups of other patients of one archive: does the test say that they differ, at the best mixture and as they are?"
    who = rng.permutation(df.patient.unique())
    home, here = (drawn(rng, rows, set(o), n, s) for o,n,s in zip(np.array_split(who, 2), (n_home, n_here), (.65, share)))
    def described(at): return moments(F[at], df.patient.iloc[at])
    groups = [described(home[(df.label.iloc[home] == c).to_numpy()]) for c in classes]
    images = F[here], df.patient.iloc[here]
    tests = compare_means(groups, [1 - share, share], *images, free=True), compare_means([described(home)], [1], *images)
    return [t['p'] < .05 for t in tests]

def levels(df, n, seed=0):
    "Share of false alarms over `n` draws of each setting"
    F, rows, out = image_features(thumbnails(df)), patients_of(df), []
    for home,here,share in track([(a, b, c) for a in homes for b in heres for c in shares], desc='settings'):
        rng = np.random.default_rng(seed)
        free, plain = np.mean([alarms(rng, df, F, rows, home, here, share) for _ in range(n)], axis=0)
        out.append(dict(home=home, here=here, pneumonia=share, alarms=free, unmixed=plain))
    return pd.DataFrame(out)

def groups(df, other, seed=0):
    "Name → training images and images to compare"
    train, test = (df[df.split == o] for o in ('train', 'test'))
    mine = train.patient.isin(np.random.default_rng(seed).permutation(train.patient.unique())[:train.patient.nunique()*3//4])
    yield 'training images of other patients', train[mine], train[~mine]
    for c in classes: yield f'test images, {c}', train, test[test.label == c]
    if other is not None: yield 'another kind of images', train, other

def compared(name, train, here):
    "What a fingerprint says of a group"
    fp = fingerprint(train)
    table = compare_fingerprint(fp, here)
    group = here.label.iloc[0] if here.label.nunique() == 1 else 'all images'
    r = table.loc[(group if group in table.index.levels[0] else 'all images', 'thumbnails')]
    far = unlike(fp, here).share
    return dict(group=name, images=len(here), patients=here.patient.nunique(), difference=r.difference, p=r.p, far=(far < .01).mean())

def main(args):
    "Measure and write the tables"
    df, other = scan_images(args.images), scan_images(args.other) if args.other else None
    args.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([compared(*o) for o in groups(df, other)]).to_csv(args.out/'groups.csv', index=False, float_format='%.4g')
    levels(df[df.split == 'train'].reset_index(drop=True), args.draws).to_csv(args.out/'levels.csv', index=False, float_format='%.4g')
    about = dict(date=str(datetime.date.today()), machine=machine(), draws=args.draws)
    about['machine'].pop('load', None)
    (args.out/'about.json').write_text(json.dumps(about, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.fingerprint', description=__doc__)
    p.add_argument('images', type=Path, help='folder with train and test')
    p.add_argument('--other', type=Path, help='folder of another kind of images')
    p.add_argument('--draws', type=int, default=200, help='draws of each setting')
    p.add_argument('--out', type=Path, default=Path('nbs/results/fingerprint'), help='folder for the tables')
    return p

if __name__ == '__main__': main(parser().parse_args())

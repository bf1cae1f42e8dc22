"How well the share of a class is estimated without labels, by simulation: `python -m benchmarks.prior [--valid CSV --test CSV]`."
import argparse, contextlib, io, json
from pathlib import Path
import numpy as np, pandas as pd
from scipy.special import expit, logit
from benchmarks.speed import machine
from pneumo_imbalance.calibrate import fit_temperature
from pneumo_imbalance.core import track
from pneumo_imbalance.mixture import mixture_shares
from pneumo_imbalance.prior import estimate_prior

shares = [.05, .25, .5, .75, .95]
names = np.array(['NORMAL', 'PNEUMONIA'])

def table(p, y, patient, split):
    "A table of predictions from the probability of pneumonia"
    return pd.DataFrame(dict(label=names[y.astype(int)], predicted=names[(p >= .5).astype(int)], patient=patient, split=split,
        prob_NORMAL=1 - p, prob_PNEUMONIA=p))

# Scores drawn from two normal distributions, each image a patient

true, sure, wide = 'true probabilities', 'three times too sure, trained on equal shares', 'wider scores in the ill'
networks = {true: {}, sure: dict(sharp=3, trained=.5), wide: dict(spread=1.6)}
settings = [(name, n, share) for name in (true, sure) for n,some in ((200, shares), (1000, shares[::2])) for share in some]
settings.append((wide, 1000, .25))

def drawn(rng, n, share, split, sharp=1., trained=None, spread=1., at_home=.25):
    "Predictions of `n` patients, that share of them ill, or so many; scores lie 2 apart, the prior of the probabilities is `trained`"
    y = rng.random(n) < share if share < 1 else np.arange(n) < share
    x = rng.normal(2.*y, np.where(y, spread, 1))
    return table(expit(sharp*(2*x - 2 + logit(trained or at_home))), y, np.arange(n), split)

# Real predictions, resampled: patients of home and of elsewhere are apart

def halves(preds, rng):
    "Two halves of the patients"
    who = preds['patient'].unique()
    mine = preds['patient'].isin(rng.permutation(who)[:len(who)//2])
    return preds[mine], preds[~mine]

def sampled(preds, n, share, rng):
    "About `n` images of a place with that share of pneumonia; patients are drawn with all of their images of the class"
    parts, ill = [], rng.binomial(n, share)
    for label,want in zip(names, (n - ill, ill)):
        rows = preds[preds['label'] == label]
        by = {k: o for k,o in rows.groupby('patient').indices.items()}
        order = rng.permutation(list(by))
        ends = np.cumsum([len(by[o]) for o in order])
        parts.append(rows.iloc[np.concatenate([by[o] for o in order[:np.searchsorted(ends, want) + 1]])] if want else rows[:0])
    return pd.concat(parts)

# What is tried

def plain_em(here, home, temperature):
    "EM with the probabilities as they are, or with a temperature and no bias"
    logs = np.log(np.stack([np.clip(here[f'prob_{c}'], 1e-12, 1) for c in names]))/temperature
    source = np.array([(home['label'] == c).mean() for c in names])
    ratios = np.exp(logs - logs.max(0))/source[:,None]
    return float(mixture_shares(ratios/ratios.max(0), np.ones((1, len(here))))[0,1])

def once(here, home, truth, seed, n_boot):
    "A row for each method: what it says, and whether its interval holds the share of the place"
    with contextlib.redirect_stdout(io.StringIO()): found, t = estimate_prior(here, home, n_boot=n_boot, seed=seed), fit_temperature(home)
    rows = [dict(method=k, error=o['value'] - truth, width=o['high'] - o['low'], held=o['low'] <= truth <= o['high'])
        for k,o in found.iterrows()]
    other = {'EM, nothing fitted': 1, 'EM, temperature alone': t}
    rows += [dict(method=k, error=plain_em(here, home, v) - truth) for k,v in other.items()]
    return [o | dict(disagree=not found.attrs['agree'], unexplained=found.attrs['explained'] < .05) for o in rows]

def summary(rows, by):
    "Bias, RMSE, coverage, mean width, and how often the two tests warn"
    df = pd.DataFrame(rows)
    df['square'] = df['error']**2
    out = df.groupby(by, sort=False).agg(bias=('error', 'mean'), rmse=('square', lambda o: np.sqrt(o.mean())), coverage=('held', 'mean'),
        width=('width', 'mean'), disagree=('disagree', 'mean'), unexplained=('unexplained', 'mean'), repetitions=('error', 'size'))
    return out.astype(float).round(4).reset_index()

def simulated(reps, n_boot, n_home=1000):
    "The table for normal scores"
    rows = []
    for name,n,share in track(settings, 'settings'):
        kw = networks[name]
        for i in range(reps):
            rng = np.random.default_rng([i, n, round(1000*share)])
            found = once(drawn(rng, n, share, 'test', **kw), drawn(rng, n_home, .25, 'valid', **kw), share, i, n_boot)
            rows += [dict(network=name, images=n, share=share) | o for o in found]
    return summary(rows, ['network', 'images', 'share', 'method'])

def resampled(valid, reps, n_boot, n=200):
    "The table for real predictions: halves of the validation patients are home and elsewhere"
    rows = []
    for share in track(shares, 'real predictions'):
        for i in range(reps):
            rng = np.random.default_rng([i, round(1000*share)])
            home, other = halves(valid, rng)
            rows += [dict(images=n, share=share) | o for o in once(sampled(other, n, share, rng), home, share, i, n_boot)]
    return summary(rows, ['images', 'share', 'method'])

def few_at_home(reps, n_boot, counts=(5, 10, 20, 50)):
    "The table for homes with few ill patients, 200 images elsewhere, three in ten ill"
    rows = []
    for count in track(counts, 'few at home'):
        for i in range(reps):
            rng = np.random.default_rng([i, count])
            home = drawn(rng, 500, count, 'valid', at_home=count/500)
            rows += [dict(ill_at_home=count) | o for o in once(drawn(rng, 200, .3, 'test', at_home=count/500), home, .3, i, n_boot)]
    return summary(rows, ['ill_at_home', 'method'])

def shifted(valid, test, n_boot=1000):
    "Home's validation images against the published test images: other shares and another source of normal images"
    with contextlib.redirect_stdout(io.StringIO()): found = estimate_prior(test, valid, n_boot=n_boot)
    truth = float((test['label'] == 'PNEUMONIA').mean())
    rows = found.round(4).reset_index().to_dict('records')
    said = {k: found.attrs[k] for k in ('home', 'images', 'patients', 'agree', 'explained', 'notes')}
    return dict(truth=round(truth, 4), estimates=rows, **said)

def main(args):
    "Simulate, and write the tables"
    args.out.mkdir(parents=True, exist_ok=True)
    if args.valid:
        valid, test = (pd.read_csv(o, dtype=dict(patient=str)) for o in (args.valid, args.test))
        (args.out/'shifted.json').write_text(json.dumps(shifted(valid, test), indent=1) + '\n', encoding='utf-8')
        resampled(valid, args.reps, args.n_boot).to_csv(args.out/'real.csv', index=False)
    few_at_home(args.reps, args.n_boot).to_csv(args.out/'few.csv', index=False)
    simulated(args.reps, args.n_boot).to_csv(args.out/'simulated.csv', index=False)
    about = dict(machine=machine(), repetitions=args.reps, n_boot=args.n_boot, network=args.network)
    (args.out/'about.json').write_text(json.dumps(about, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.prior', description=__doc__)
    p.add_argument('--valid', type=Path, help='CSV of predictions of validation images; without it, simulation alone')
    p.add_argument('--test', type=Path, help='CSV of predictions of test images from elsewhere, by the same network')
    p.add_argument('--network', default='', help='what made these predictions, for the record')
    p.add_argument('--reps', type=int, default=200, help='repetitions of each setting')
    p.add_argument('--n-boot', type=int, default=200, help='resamples of the patients in each repetition')
    p.add_argument('--out', type=Path, default=Path('nbs/results/prior'), help='folder for the tables')
    return p

if __name__ == '__main__': main(parser().parse_args())

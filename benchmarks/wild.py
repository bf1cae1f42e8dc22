"What the audit finds in public archives: `python -m benchmarks.wild NAME=FOLDER … --out nbs/results/wild`. Writes its tables."
import argparse, datetime, os, warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import numpy as np, pandas as pd, torch
from fastai.vision.all import ConvLayer, nn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from benchmarks.speed import machine
from pneumo_imbalance.copies import near_duplicates, pooled, thumbnails
from pneumo_imbalance.data import SPLITS, read_table, scan_images, usable
from pneumo_imbalance.leaks import check_leaks
from pneumo_imbalance.metrics import METRICS, interval_table, measure, resample_patients
from pneumo_imbalance.names import positive_class
from pneumo_imbalance.presize import presize
from pneumo_imbalance.split import split_test
from pneumo_imbalance.train import set_seed

NIH = r'(?:^|/)(\d{8})_\d{3}$' # NIH ChestX-ray14: patient, follow-up
# chkstyle: ignore-node
ABOUT = {
    'chest-xray-pneumonia': dict(source='https://doi.org/10.17632/rscbjbr9sj', licence='CC BY 4.0', published=False),
    'chest-xray-pneumonia, a sample as published': dict(source='https://doi.org/10.17632/rscbjbr9sj', licence='CC BY 4.0'),
    'Brain Tumor Classification (MRI)': dict(licence='none stated in the repository',
        source='https://github.com/SartajBhuvaji/Brain-Tumor-Classification-DataSet'),
    'Brain Tumor MRI Dataset': dict(source='https://www.kaggle.com/datasets/masoudnickparvar/brain-tumor-mri-dataset',
        licence='see its page', published=False),
    'DarkCovidNet': dict(source='https://github.com/muhammedtalo/COVID-19', licence='none stated in the repository', patient=NIH),
    'BCCD': dict(source='https://github.com/Shenggan/BCCD_Dataset', licence='MIT')}

# Which images belong together

def grouped(keys, pairs, paths):
    "A number for each image: the same for images that share a value of one of `keys`, or stand in one of `pairs` of paths"
    n, at = len(paths), pd.Index(paths)
    links = [np.stack([np.arange(n), n*(i + 1) + pd.factorize(k)[0]]) for i,k in enumerate(keys)]
    links.append(np.stack([at.get_indexer(o) for o in pairs]))
    i, j = np.concatenate(links, 1)
    return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n*(len(keys) + 1),)*2), directed=False)[1][:n]

def same_image(df, near):
    "Groups of images that show one patient or one picture"
    return grouped([df.patient, df.digest], [near.path_a, near.path_b], df.path)

# The findings

def across(near, df):
    "Pairs of byte-identical and of near-duplicate files that stand in two splits; of the first, `b` is the one nearer to the test"
    order = {k: i for i,k in enumerate(SPLITS)}
    twins = df.merge(df, on='digest', suffixes=('_a', '_b'))
    a, b = (twins[f'split_{o}'].astype(str).map(order) for o in 'ab')
    return twins[a < b], near[near.split_a.astype(str) != near.split_b.astype(str)]

def with_copy(df, near):
    "Which images are test images with a copy in another split"
    twins, near = across(near, df)
    return (df.split == 'test') & df.path.isin([*twins.path_b, *near.path_a, *near.path_b])

def counts(df, near, root):
    "What can be counted in an archive"
    twins, pairs = across(near, df)
    report = check_leaks(df, on_leak='warn')
    two = report.table[report.table.kind == 'two labels']
    two = df[df.path.isin({*two.path_a, *two.path_b})]
    named = [p not in (os.path.splitext(o)[0], os.path.splitext(os.path.relpath(o, root))[0]) for o,p in zip(df.path, df.patient)]
    splits = df.split.astype(str).value_counts()
    return dict(images=len(df), classes=df.label.nunique(), train=splits.get('train', 0), valid=splits.get('valid', 0),
        test=splits.get('test', 0), named=sum(named), patients=df.patient[named].nunique(),
        patients_in_two_splits=int((df.groupby('patient').split.nunique() > 1).sum()), identical_pairs=len(twins), near_pairs=len(pairs),
        test_with_copy=int(with_copy(df, near).sum()), test_with_identical=twins.path_b[twins.split_b == 'test'].nunique(),
        near_pairs_inside=int((near.split_a.astype(str) == near.split_b.astype(str)).sum()),
        two_labels=len(two), two_labels_in_test=int((two.split == 'test').sum()), images_repeated_inside=repeated(df))

def repeated(df):
    "Images that are byte for byte another image of their split"
    return int(df.duplicated(['digest', 'split']).sum())

# What can be told without looking

def told(model, X, y, groups, classes, shown):
    "For each class in `shown` how well a model tells it from the others: AUROC with its interval, cross-validated by group"
    k = min(5, pd.Series(groups).groupby(y).nunique().min())
    if len(classes) < 2 or k < 2: return []
    with warnings.catch_warnings(action='ignore'):
        folds = list(StratifiedGroupKFold(int(k), shuffle=True, random_state=42).split(X, y, groups))
        s = cross_val_predict(model, X, y, groups=groups, cv=folds, method='predict_proba')
        t = interval_table(range(len(classes)), classes, y, s.argmax(1), s, groups, 1000, 42)[0]
    t = t[METRICS.index('ROC AUC')::len(METRICS)]
    rows = zip(classes, np.bincount(y), t.value, t.low, t.high)
    return [dict(zip(('class', 'images', 'AUROC', 'low', 'high'), o)) for o in rows if o[0] in shown]

def without_pixels(df):
    "What a file tells without its picture"
    return pd.DataFrame(dict(bytes=df.bytes, width=df.width, height=df.height, aspect=df.width/df.height, mode=pd.factorize(df['mode'])[0]))

def about_label(df, groups):
    "What the bytes, and all measures without a pixel, say about the label outside test"
    rows = (df.split != 'test').to_numpy()
    df, groups, (y, classes) = df[rows], groups[rows], pd.factorize(df.label[rows].astype(str), sort=True)
    F, model = without_pixels(df), HistGradientBoostingClassifier(max_iter=50, random_state=42)
    shown = [positive_class(classes)] if len(classes) == 2 else list(classes)
    return {k: told(model, F[c], y, groups, list(classes), shown) for k,c in (('bytes', ['bytes']), ('no pixel', list(F)))}

def about_split(df, groups):
    "How well thumbnails tell test from training images, class by class"
    model, out = make_pipeline(StandardScaler(), LogisticRegression(C=.01, max_iter=500)), []
    T = pooled(thumbnails(df)).reshape(len(df), -1)
    for c in sorted(set(df.label.astype(str))):
        at = np.flatnonzero((df.label.astype(str) == c) & df.split.isin(['train', 'test']))
        y = (df.split.iloc[at] == 'test').to_numpy().astype(int)
        out += [o | {'class': c} for o in told(model, T[at], y, groups[at], ['train', 'test'], ['test'])] if 0 < y.sum() < len(y) else []
    return dict(test=out)

# One archive

def read(path, name):
    "The table of an archive: a folder, or a CSV of path, split and label"
    patient = ABOUT.get(name, {}).get('patient')
    return usable(read_table(path) if path.suffix == '.csv' else scan_images(path, patient)).reset_index(drop=True)

def when(): return dict(date=str(datetime.date.today()), machine=machine()['cpu'])

def archive(name, path):
    "A row of counts, and rows of what can be told"
    df, about = read(path, name), dict(dict(source='', licence='', published=True), **ABOUT.get(name, {}))
    near = near_duplicates(df)
    groups = same_image(df, near)
    found = (about_label(df, groups) if about['published'] else {}) | about_split(df, groups)
    keep = {k: about[k] for k in ('source', 'licence', 'published')}
    row = dict(archive=name, **keep, **counts(df, near, path), **best(found), **when())
    return row, [dict(archive=name, told=k, **o) for k,v in found.items() for o in v]

def best(found):
    "Of each thing that can be told the class that is told best"
    out = {}
    for k in ('bytes', 'no pixel', 'test'):
        top = max(found.get(k, []), key=lambda o: o['AUROC'], default={})
        out |= {f'{k} {o}': top.get(o) for o in ('class', 'AUROC', 'low', 'high')}
    return out

def between(first, second):
    "How many images of one archive another one shows too, split by split"
    tables = [read(path, name).assign(archive=name) for name,path in (first, second)]
    df = pd.concat([o.astype(dict(label=str, split=str)) for o in tables], ignore_index=True)
    near, home = near_duplicates(df), df.set_index('path').archive + '|' + df.set_index('path').split
    pairs = pd.concat([df.merge(df, on='digest', suffixes=('_a', '_b')), near])[['path_a', 'path_b']]
    pairs = pairs.assign(a=pairs.path_a.map(home), b=pairs.path_b.map(home))
    flipped = pairs.rename(columns=dict(path_a='path_b', path_b='path_a', a='b', b='a'))
    pairs = pd.concat([pairs, flipped]).drop_duplicates(['path_a', 'path_b'])
    pairs = pairs[pairs.a.str.startswith(f'{first[0]}|') & pairs.b.str.startswith(f'{second[0]}|')]
    n = home.value_counts()
    def row(a, b, o): return *a.split('|'), *b.split('|'), n[a], n[b], len(o), o.path_a.nunique(), o.path_b.nunique()
    rows = [row(a, b, o) for (a,b),o in pairs.groupby(['a', 'b'])]
    names = ['archive', 'split', 'other', 'other_split', 'images', 'other_images', 'pairs', 'images_shown', 'other_images_shown']
    return pd.DataFrame(rows, columns=names)

# A consequence: the same small network on several splits of one archive

def small(n_classes):
    "Four convolutions, each of which halves the image, and a linear layer"
    layers = [ConvLayer(i, o, stride=2) for i,o in ((1, 32), (32, 64), (64, 128), (128, 256))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.2), nn.Linear(256, n_classes))

def scaled(x): return (x.float()/255 - .2)/.2

def shifted(x, size=64):
    "A random square of a batch, the same for all of it"
    i, j = torch.randint(x.shape[-1] - size + 1, (2,)).tolist()
    return x[..., i:i + size, j:j + size]

def trained(images, df, classes, seed, steps, bs=64):
    "A small network after `steps` batches of the training images"
    set_seed(seed)
    model, train = small(len(classes)).to(memory_format=torch.channels_last), df[df.split == 'train']
    rows, y = images.rows(train), torch.as_tensor(pd.Index(classes).get_indexer(train.label.astype(str)))
    opt = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps)
    order = np.concatenate([np.random.default_rng([seed, i]).permutation(len(rows)) for i in range(steps*bs//len(rows) + 1)])
    for at in order[:steps*bs].reshape(steps, bs):
        loss = nn.functional.cross_entropy(model(scaled(shifted(images.batch(rows[at])))), y[at])
        opt.zero_grad()
        loss.backward()
        opt.step()
        rate.step()
    return model.eval()

@torch.no_grad()
def guessed(model, images, df):
    "Probabilities (N, K) for the images of a table, seen whole"
    x = nn.functional.interpolate(scaled(images.batch(images.rows(df))), size=64, mode='bilinear')
    return torch.cat([model(o).softmax(1) for o in x.split(256)]).double().numpy()

def fewer(df, n, seed=42):
    "`df` with as many training images as in `n`, a Series over the classes, drawn at random"
    train = df[df.split == 'train']
    kept = [train[train.label.astype(str) == c].sample(k, random_state=seed) for c,k in n.items()]
    return pd.concat([*kept, df[df.split != 'train']], ignore_index=True)

def series(df, size=20):
    "Runs of 20 images whose file names have neighbouring numbers; alone where the names are not in the order of the scans"
    name = df.path.astype(str).str.extract(r'(gg|m|p) \((\d+)\)\.jpg$')
    return (name[0] + '/' + (pd.to_numeric(name[1])//size).astype(str)).where(name[0].notna(), df.path)

def anew(df, groups, pct):
    "`df` split at random, all images of a group on one side"
    return split_test(df.assign(split='train', patient=groups), pct).reset_index(drop=True)

def arms(df, near):
    "The splits to compare, by name"
    groups, pct = same_image(df, near), (df.split == 'test').mean()
    clean = check_leaks(df, on_leak='drop').df
    left = clean[clean.split == 'train'].label.astype(str).value_counts()
    wide = grouped([groups, series(df)], [[], []], df.path)
    # chkstyle: ignore-node
    return {'published': df, 'published, fewer images': fewer(df, left), 'published, copies dropped': clean,
        'new, by image': anew(df, np.arange(len(df)), pct), 'new, by picture': anew(df, groups, pct), 'new, by series': anew(df, wide, pct)}

METRIC_NAMES = ['balanced accuracy', 'ROC AUC'] # over several classes: the mean recall, and the mean over each class against the rest

def both(y, s, w):
    "The two metrics (2, B) of one network under weights (B, N)"
    return measure([None], y, s.argmax(1), s, w)[0][[METRICS.index(o) for o in METRIC_NAMES]]

def right(y, s, w):
    "The share of images (1, B) that come out right"
    return (w @ (s.argmax(1) == y)/w.sum(1))[None]

def scored(metric, y, groups, probs, n_boot=1000):
    "The metrics of each network, (networks, metrics), and resamples of their mean, (metrics, n_boot)"
    def each(w): return np.array([metric(y, s, w) for s in probs])
    boot = np.concatenate([each(w).mean(0) for w in resample_patients(groups, n_boot, 42)], -1)
    return each(np.ones((1, len(y))))[..., 0], boot

def rows(names, one, boot, **more):
    "A row for each metric: the mean over the networks, its interval, the least and the greatest"
    low, high = np.nanpercentile(boot, [2.5, 97.5], axis=-1)
    keys = ('metric', 'value', 'low', 'high', 'least', 'greatest')
    return [{**more, **dict(zip(keys, o))} for o in zip(names, one.mean(0), low, high, one.min(0), one.max(0))]

def tried(job):
    "What a network of one split says of its test images: probabilities (N, K)"
    df, everything, classes, seed, steps = job
    torch.set_num_threads(1)
    images = presize(everything, 72, channels=1)
    return guessed(trained(images, df, classes, seed, steps), images, df[df.split == 'test'])

def trials(df, near, seeds, steps, jobs):
    "Each split's name and table, its test images, their class numbers and groups, and what each network says of them"
    classes, groups = sorted(set(df.label.astype(str))), pd.Series(same_image(df, near), df.path)
    splits = arms(df, near)
    with ProcessPoolExecutor(jobs, get_context('spawn')) as pool:
        told = {k: [pool.submit(tried, (o, df, classes, s, steps)) for s in range(seeds)] for k,o in splits.items()}
        for (name,futures),o in zip(told.items(), splits.values()):
            test = o[o.split == 'test']
            y = pd.Index(classes).get_indexer(test.label.astype(str))
            yield name, o, test, y, groups[test.path].to_numpy(), [f.result() for f in futures]

def parts(test, copied):
    "Test images of one class, with a copy in the published training images, and without one: class, name, mask"
    has = test.path.isin(copied).to_numpy()
    for c in sorted(set(test.label.astype(str))):
        for k,m in (('with a copy', has), ('without', ~has)):
            m = m & (test.label.astype(str) == c).to_numpy()
            if m.any(): yield c, k, m

def compared(first, second, copied):
    "By how much the networks of one split score above those of another, on the same images"
    (a, test, y, groups, pa), (b, *_, pb) = first, second
    def gap(metric, m=slice(None)):
        one, two = (scored(metric, y[m], groups[m], [s[m] for s in p]) for p in (pa, pb))
        return one[0] - two[0], one[1] - two[1]
    out = rows(METRIC_NAMES, *gap(both), split=f'{a} − {b}', images='all', n=len(y))
    for c,k,m in parts(test, copied): out += rows(['share right'], *gap(right, m), split=f'{a} − {b}', images=f'{c}, {k}', n=int(m.sum()))
    return out

def consequence(df, seeds, steps, jobs):
    "Scores of the same network on each split, and on the test images of each class with and without a copy in training"
    near, out, kept = near_duplicates(df), [], []
    copied = set(df.path[with_copy(df, near)])
    for name,o,test,y,groups,probs in trials(df, near, seeds, steps, jobs):
        about = dict(split=name, train=int((o.split == 'train').sum()), seeds=seeds, steps=steps)
        out += rows(METRIC_NAMES, *scored(both, y, groups, probs), images='all', n=len(y), **about)
        print(pd.DataFrame(out[-2:]).round(3).to_string(), flush=True)
        if not name.startswith('published'): continue
        kept.append((name, test, y, groups, probs))
        for c,k,m in parts(test, copied):
            part = scored(right, y[m], groups[m], [s[m] for s in probs])
            out += rows(['share right'], *part, images=f'{c}, {k}', n=int(m.sum()), **about)
    return pd.DataFrame(out + [r for i,j in ((0, 2), (1, 2), (0, 1)) for r in compared(kept[i], kept[j], copied)])

# The command

def main(args):
    "Audit each archive, train on one"
    args.out.mkdir(parents=True, exist_ok=True)
    found = [archive(*named(o)) for o in args.archives]
    if found:
        pd.DataFrame([o for o,_ in found]).round(4).to_csv(args.out/'archives.csv', index=False)
        pd.DataFrame([o for _,t in found for o in t]).round(4).to_csv(args.out/'told.csv', index=False)
    if args.between: between(*map(named, args.between)).to_csv(args.out/'between.csv', index=False)
    if args.train:
        name, path = named(args.train)
        t = consequence(read(path, name), args.seeds, args.steps, args.jobs)
        t.assign(archive=name, **when()).round(4).to_csv(args.out/'consequence.csv', index=False)

def named(text):
    "The name and the path in `NAME=PATH`; a path alone is named after its last folder"
    name, _, path = text.rpartition('=')
    return name or Path(path).resolve().name, Path(path)

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.wild', description=__doc__)
    says = f'folders of images, or CSVs of path, split and label, as NAME=PATH; known: {"; ".join(ABOUT)}'
    p.add_argument('archives', nargs='*', help=says)
    p.add_argument('--out', type=Path, default=Path('study/wild'), help='folder for the tables')
    p.add_argument('--between', nargs=2, help='two archives, as NAME=PATH: what does the one show of the other?')
    p.add_argument('--train', help='an archive, as NAME=PATH, to train a small network on, with and without copies')
    p.add_argument('--seeds', type=int, default=3, help='networks of each split')
    p.add_argument('--steps', type=int, default=400, help='batches of 64 images that each network sees')
    p.add_argument('--jobs', type=int, default=2, help='trainings at a time')
    return p

if __name__ == '__main__': main(parser().parse_args())

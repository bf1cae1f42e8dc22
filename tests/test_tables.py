"Tables that nobody would make on purpose: a function does what a slow, obvious second one does, or says in one sentence what it expected."
import contextlib, io, os, re, warnings
from collections import Counter
from functools import wraps
from pathlib import Path
import matplotlib, matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from hypothesis import example, given, settings, strategies as st
from PIL import Image
from pneumo_imbalance.data import SPLITS, class_counts, class_names, imbalance_ratio, minority_fraction, positive_class, read_table, usable
from pneumo_imbalance.leaks import check_leaks
from pneumo_imbalance.names import as_text, patient_id, split_name
from pneumo_imbalance.plot import plot_class_counts, plot_sizes
from pneumo_imbalance.remedy import induce_imbalance
from pneumo_imbalance.sampling import BalancedSampler, UndersampledSampler, class_prior, class_weights, oversample, undersample
from pneumo_imbalance.split import split_folds, split_test, split_valid

matplotlib.use('agg')
fuzz = os.environ.get('HYPOTHESIS_PROFILE') == 'fuzz'

def few(n): return settings(max_examples=50*n if fuzz else n)

# Tables

terrible = ['B$\\frac{$', 'total', '_hidden', 'NO FINDING', 'COVID-19', '2', 'None', 'NA', 'nan', '<img src=x>', ' ', 'a,b', '"', '\n',
    'label', 'train', 'ä ß', '0', 'e\u0301']
names = st.sampled_from(terrible) | st.text(max_size=6)
missing = st.sampled_from([None, float('nan'), pd.NA, ''])
spellings = st.sampled_from(['train', 'Train', 'TRAINING', ' trn', 'val', 'Valid', 'validation', 'dev', 'test', 'Testing', 'tst '])

@st.composite
def labels(draw, n):
    "A column of labels: text, numbers, truth values, categories with unused ones, with or without missing values"
    some = draw(st.sampled_from([names, st.integers(-3, 12), st.booleans(), st.sampled_from([0., 1., 2.5])]))
    kinds = st.sampled_from(draw(st.lists(some, min_size=2, max_size=4)))
    lacks = draw(st.booleans())
    col = draw(st.lists(kinds | missing if lacks else kinds, min_size=n, max_size=n))
    how = draw(st.sampled_from(['as it is', 'object', 'categories']))
    if how != 'categories': return pd.Series(col, dtype=object if how == 'object' else None)
    there = [o for o in dict.fromkeys(col) if not pd.isna(o)]
    return pd.Series(pd.Categorical(col, [*there, 'unused']) if 'unused' not in there else pd.Categorical(col))

@st.composite
def tables(draw, most=14, splits=spellings):
    "A table of images as people bring them"
    n = draw(st.integers(0, most))
    def column(values): return draw(st.lists(values, min_size=n, max_size=n))
    paths = st.sampled_from([f'{i}.png' for i in range(8)]) | names | st.builds(Path, st.sampled_from('abc'))
    df = pd.DataFrame(dict(path=column(paths)), dtype=object)
    df['split'], df['label'] = pd.Series(column(splits), dtype=object), draw(labels(n))
    if draw(st.booleans()): df['patient'] = pd.Series(column(st.integers(0, 5) | st.sampled_from(['7', 'x', 3.]) | missing), dtype=object)
    if draw(st.booleans()): df['problem'] = pd.Series(column(st.sampled_from(['', '', '', 'truncated', None, float('nan')])), dtype=object)
    if draw(st.booleans()): df['age'] = range(n)
    if n and draw(st.booleans()): df = df.iloc[draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=most))]
    return with_index(df, draw(st.sampled_from(['kept', 'one', 'text', 'named', 'two levels'])))

def with_index(df, how):
    "A table under an index that may repeat, have the name of a column, or have levels"
    n = len(df)
    index = dict(kept=df.index, one=pd.Index([7]*n), text=pd.Index([f'{i % 3}' for i in range(n)]), named=pd.Index(range(n), name='label'))
    return df.set_axis(pd.MultiIndex.from_arrays([[0]*n, range(n)]) if how == 'two levels' else index[how])

class Refused(Exception): "A function said in a sentence of ours what it expected"

def ours(f, *args, **kwargs):
    "What `f` gives, its prints kept from here; an error of ours becomes Refused, any other fails the test"
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action='ignore'): return f(*args, **kwargs)
    except (ValueError, OSError, TypeError) as e:
        assert str(e).startswith('expected'), f'{type(e).__name__}: {e}'
        raise Refused from e

def or_refused(test):
    "A test that is passed as well if a function refuses what it is given"
    @wraps(test)
    def run(*args, **kwargs):
        with contextlib.suppress(Refused): test(*args, **kwargs)
    return run

def lacks(o): return o is None or o is pd.NA or o != o or o == ''

def rows_of(df): return [dict(zip(df.columns, o)) for o in df.astype(object).values.tolist()]

def plainly(df, need=('path', 'split', 'label')):
    "Row by row what `usable` gives: path, label, split, patient"
    out = []
    for i,r in enumerate(rows_of(df)):
        if not lacks(r.get('problem', '')): continue
        if 'label' in need and lacks(r['label']): continue
        r['path'] = str(r['path'])
        r['label'] = None if lacks(r['label']) else as_text(r['label'])
        r['split'] = split_name(r['split'])
        if 'patient' in r: r['patient'] = r['path'] or f'row {len(out)}' if lacks(r['patient']) else as_text(r['patient'])
        out.append(r)
    return out

def same(value, want): return value == want or lacks(value) and lacks(want)

# The door

def one(**columns): return pd.DataFrame(dict(path='a', split='train', label='a') | columns, index=[0])

@given(tables(), st.sampled_from([('path', 'split', 'label'), ('path',), ('label',)]))
@example(one(path='\0', patient=None), ('path', 'split', 'label'))
@or_refused
def test_usable_is_what_one_would_do_by_hand(df, need):
    before = df.copy()
    out = ours(usable, df, need)
    want = plainly(df, need)
    assert len(out) == len(want)
    for k in ('path', 'label', 'split', *(['patient'] if 'patient' in df else [])):
        assert all(same(a, b[k]) for a,b in zip(out[k].astype(object), want)), k
    assert set(out.label.cat.categories) == {o['label'] for o in want if o['label'] is not None}
    assert list(out.split.cat.categories) == SPLITS and out.index.is_unique and out.index.nlevels == 1 and out.index.name not in out
    assert usable(out, need) is out
    pd.testing.assert_frame_equal(df, before)

@given(tables(), tables())
@or_refused
def test_tables_are_joined(a, b):
    "What is usable of two tables is usable of both in one"
    parts, both = [ours(usable, o, ('path', 'label')) for o in (a, b)], ours(usable, pd.concat([a, b]), ('path', 'label'))
    assert both.path.tolist() == [p for o in parts for p in o.path]

wrong = dict(none=None, list=[], file='table.csv', series=pd.Series([1]), empty=pd.DataFrame(), unlabelled=one().drop(columns='label'),
    paths=one(path=1), lists=one(label=[['a']]), split=one(split='holdout'), no_split=one(split=None), no_path=one(path=None),
    twice=pd.concat([one(), one().label], axis=1))

@pytest.mark.parametrize('df', wrong.values(), ids=wrong)
def test_what_is_no_table_is_refused(df):
    for f in (usable, class_counts, imbalance_ratio, plot_class_counts, oversample, undersample, class_weights, BalancedSampler):
        with pytest.raises(ValueError, match='^expected'): f(df)

@few(30)
@given(tables())
@or_refused
def test_a_table_survives_a_csv(tmp_path, df):
    "What read_table gives is read back as it was; NUL and lone carriage returns can't stand in a CSV"
    bad = re.compile('[\0\r]')
    if any(bad.search(str(o)) for c in df for o in df[c]): return
    first = ours(read_table, df)
    first.to_csv(tmp_path/'table.csv')
    again = ours(read_table, tmp_path/'table.csv', root='.')
    pd.testing.assert_frame_equal(first, again, check_dtype=False)
    first.drop(columns='digest').to_csv(tmp_path/'table.csv', index=False)
    third = ours(read_table, tmp_path/'table.csv', root='.')
    pd.testing.assert_frame_equal(first, third, check_dtype=False)

# Counts

@given(tables())
@or_refused
def test_counts_are_counted(df):
    n = ours(class_counts, df)
    want = Counter((o['split'], o['label']) for o in plainly(df))
    classes = ours(class_names, df)
    splits = [s for s in SPLITS if any(k[0] == s for k in want)]
    assert list(n.index) == [*splits, 'total'] and list(n.columns[:-1]) == [c for c in classes if c in {k[1] for k in want}]
    assert all(n.loc[s, c] == want[s, c] for s in splits for c in n.columns[:-1])
    assert n.iloc[-1, -1] == sum(want.values()) and (n.iloc[:, :-1].sum(axis=1) == n.iloc[:, -1]).all() and n.columns.is_unique

@given(tables())
@or_refused
def test_imbalance_is_that_of_the_formulas(df):
    ratio, fraction = ours(imbalance_ratio, df), ours(minority_fraction, df)
    n = list(Counter(o['label'] for o in plainly(df) if o['split'] == 'train').values())
    assert ratio == max(n)/min(n)
    assert fraction == sum(2*o < min(n) + max(n) for o in n)/len(n)

# Names

@given(names, names, st.booleans())
@or_refused
def test_positive_class_is_one_whatever_the_order(a, b, alike):
    p = ours(positive_class, [a, b])
    assert p in (a, b) and p == positive_class([b, a]) == positive_class(pd.Series([a, b, a])) and positive_class([a, b], a) == a

nothings = ['normal', 'healthy', 'healthy control', 'negative', 'no finding', 'no findings', 'benign', 'control', 'absent', 'non covid',
    'not covid', 'without disease', 'no', 'false']
somethings = ['pneumonia', 'abnormal', 'covid 19', 'disease', 'tumor', 'unhealthy', 'not normal', 'non normal', 'effusion', 'yes', '1',
    'nodule', 'Noonan']
spelled = dict(plain=str, upper=str.upper, title=str.title, snake=lambda o: o.replace(' ', '_'), camel=lambda o: o.title().replace(' ', ''),
    dashes=lambda o: o.upper().replace(' ', '-'), numbered=lambda o: f'1. {o}', counted=lambda o: f'{o}_2')

@pytest.mark.parametrize('how', spelled.values(), ids=spelled)
def test_nothing_is_never_looked_for_beside_something(how):
    wrong = {(a, b) for a in map(how, nothings) for b in somethings for pair in ((a, b), (b, a)) if positive_class(pair) != b}
    assert not wrong

rules = [None, r'(\d+)', 'a', r'(x)|y', '(', lambda p: None, lambda p: 3., lambda p: '', lambda p: (1, 2)]

@given(st.text(max_size=30), st.sampled_from(rules))
@or_refused
def test_a_patient_is_a_text(path, pattern):
    try: p = patient_id(path, pattern)
    except re.error: return
    assert isinstance(p, str) and (p or os.path.splitext(path)[0] == '')

# Splits

@st.composite
def cohorts(draw, splits=('train',)):
    "A table of whole classes: two to five, each with one to nine patients of one to four images"
    sizes = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=9), min_size=2, max_size=5))
    kept = draw(st.sampled_from([*splits]))
    rows = [(f'{c}-{p}-{i}.png', terrible[c], f'{c}-{p}') for c,o in enumerate(sizes) for p,n in enumerate(o) for i in range(n)]
    df = pd.DataFrame(rows, columns=['path', 'label', 'patient']).assign(split=kept)
    df = df.sample(frac=1, random_state=draw(st.integers(0, 5)))
    if draw(st.booleans()): df['patient'] = df.patient.where(draw(st.integers(0, 1))*np.arange(len(df)) % 5 > 0, None)
    return with_index(df, draw(st.sampled_from(['kept', 'one', 'named'])))

@given(cohorts(), st.floats(.01, .99), st.integers(0, 3))
@or_refused
def test_splits_part_patients_and_no_class(df, pct, seed):
    out = ours(split_test, df, pct, seed)
    checked = usable(df, ('path', 'split', 'label', 'patient'))
    assert out.drop(columns='split').equals(checked.drop(columns='split'))
    held, rest = out[out.split == 'test'], out[out.split != 'test']
    assert not set(held.patient) & set(rest.patient)
    assert set(held.label) == set(rest.label) == set(out.label)
    for c in set(out.label):
        sizes = out[out.label == c].groupby('patient').size()
        n, near = (held.label == c).sum(), sizes.max()/2
        assert abs(n - pct*sizes.sum()) <= near or n == sizes.min() or n == sizes.sum() - sizes.min(), (c, n, pct*sizes.sum())
    assert ours(split_test, df, pct, seed).equals(out)

@given(cohorts(splits=('train', 'valid', 'test')), cohorts(), st.floats(.05, .6), st.sampled_from(['merge', 'keep', 'replace']))
@or_refused
def test_a_validation_split_leaves_the_test_as_it_is(a, b, pct, existing):
    a = a.assign(patient=[f'a{o}' for o in a.patient], path=['a' + o for o in a.path])
    df = pd.concat([a, b])
    out = ours(split_valid, df, pct, existing=existing)
    checked = usable(df, ('path', 'split', 'label', 'patient'))
    tests = [o[o.split == 'test'].reset_index(drop=True).astype(dict(label=str)) for o in (checked, out)]
    assert tests[0].equals(tests[1])
    assert not set(out.patient[out.split == 'valid']) & set(out.patient[out.split == 'train'])
    old = set(checked.path[checked.split == 'valid'])
    if existing == 'keep': assert old <= set(out.path[out.split == 'valid'])
    assert sorted(out.path) == sorted(set(checked.path) - (old if existing == 'replace' else set()))

@few(25)
@given(cohorts(), st.integers(2, 4))
@or_refused
def test_folds_hold_each_image_once(df, k):
    folds = ours(split_folds, df, k)
    held = Counter(p for o in folds for p in o.path[o.split == 'valid'])
    assert held == Counter(df.path)
    assert all(not set(o.patient[o.split == 'valid']) & set(o.patient[o.split == 'train']) for o in folds)

# Sampling

mostly = st.sampled_from(['train', 'Training', ' TRN', 'train', 'test'])

def training(df): return Counter(o['label'] for o in plainly(df) if o['split'] == 'train')

@given(tables(splits=mostly), st.sampled_from([1., .5, .3]), st.integers(0, 3))
@or_refused
def test_oversampling_repeats_training_rows_evenly(df, ratio, seed):
    out = ours(oversample, df, ratio, seed=seed)
    n, good = training(df), usable(df)
    assert training(out) == {k: max(v, round(ratio*max(n.values()))) for k,v in n.items()}
    assert out.iloc[:len(good)].astype(object).reset_index(drop=True).equals(good.astype(object).reset_index(drop=True))
    assert set(out.split[len(good):]) <= {'train'}

@given(tables(splits=mostly), st.sampled_from([1., .5, .3]), st.integers(0, 3))
@or_refused
def test_undersampling_leaves_out_training_rows_only(df, ratio, seed):
    out = ours(undersample, df, ratio, seed=seed)
    n, good = training(df), usable(df)
    assert training(out) == {k: min(v, round(min(n.values())/ratio)) for k,v in n.items()}
    assert out[out.split != 'train'].path.tolist() == good[good.split != 'train'].path.tolist()

@given(tables(splits=mostly))
@or_refused
def test_weights_and_prior_are_those_of_the_formulas(df):
    w, p = ours(class_weights, df), ours(class_prior, df)
    n = training(df)
    assert w.to_dict() == pytest.approx({k: sum(n.values())/(len(n)*v) for k,v in n.items()})
    assert p.to_dict() == pytest.approx({k: v/sum(n.values()) for k,v in n.items()}) and list(p.index) == sorted(n)

@given(tables(splits=st.sampled_from(['train', 'Training'])), st.integers(0, 3))
@or_refused
def test_samplers_draw_positions_of_the_very_table(df, seed):
    drawn = [list(ours(o, df, seed)) for o in (BalancedSampler, UndersampledSampler)]
    n, rows = training(df), rows_of(df)
    for at,size in zip(drawn, (max(n.values()), min(n.values()))):
        assert all(lacks(rows[i].get('problem', '')) and not lacks(rows[i]['label']) for i in at)
        assert Counter(as_text(rows[i]['label']) for i in at) == dict.fromkeys(n, size)
    times = Counter(drawn[0])
    for c in n: # as often as any other of its class, give or take one
        mine = [times[i] for i,r in enumerate(rows) if lacks(r.get('problem', '')) and not lacks(r['label']) and as_text(r['label']) == c]
        assert max(mine) - min(mine) <= 1 and min(mine) > 0
    assert max(Counter(drawn[1]).values()) == 1

@given(tables(splits=mostly), st.sampled_from([1, 2, 5.]), st.sampled_from(['step', 'linear']))
@or_refused
def test_induced_imbalance_leaves_out_training_rows_only(df, rho, kind):
    out = ours(induce_imbalance, df, rho, kind=kind)
    good, n, m = usable(df), training(df), training(out)
    assert out[out.split != 'train'].path.tolist() == good[good.split != 'train'].path.tolist()
    assert set(m) == set(n) and all(m[k] <= n[k] for k in n) and max(m.values())/min(m.values()) <= rho*1.5 + 1

# Leaks

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "A handful of images that do not look alike, one of them twice"
    d = tmp_path_factory.mktemp('images')
    for i in range(5): Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40), np.uint8)).resize((64, 64)).save(d/f'{i}.png')
    (d/'twin.png').write_bytes((d/'0.png').read_bytes())
    return d

@few(4)
@given(st.data())
@or_refused
def test_leaks_are_found_by_comparing_all_pairs(images, tmp_path_factory, data):
    files = sorted(o.name for o in images.iterdir())
    def column(values): return data.draw(st.lists(values, min_size=n, max_size=n))
    n = data.draw(st.integers(2, 8))
    whose = {o: data.draw(st.integers(0, 9) | missing) for o in files}
    name = column(st.sampled_from(files))
    df = pd.DataFrame(dict(path=[str(images/o) for o in name], split=column(spellings), label=column(st.sampled_from([0, 1]))))
    df['patient'] = pd.Series([whose[o] for o in name], dtype=object)
    df = with_index(df, data.draw(st.sampled_from(['kept', 'one', 'named'])))
    report = ours(check_leaks, df, on_leak='warn')
    rows = [dict(r, bytes=(r['path'].replace('twin', '0'))) for r in plainly(df)]
    pairs = [(a, b) for i,a in enumerate(rows) for b in rows[i+1:] if a['split'] != b['split']]
    kinds = {'same file': 'path', 'identical bytes': 'bytes', 'same patient': 'patient'}
    want = {kind: any(a[k] == b[k] for a,b in pairs) for kind,k in kinds.items()}
    found = set(report.table.kind)
    assert {k: k in found for k in want} == want

# Pictures

@few(3)
@given(st.lists(names, min_size=2, max_size=25, unique=True), st.integers(0, 9))
@example([r'B$\frac{$', 'total', '_hidden', 'nan', ' ', '$', '$$', '\\$'], 0)
@or_refused
def test_any_name_can_be_drawn(classes, seed):
    rng = np.random.default_rng(seed)
    label, split = (rng.choice(np.array(o, object), 60) for o in (classes, SPLITS))
    df = pd.DataFrame(dict(path='a.png', split=split, label=label, width=rng.integers(9, 99, 60), height=50))
    for f,o in ((plot_class_counts, df), (plot_sizes, df), (plot_class_counts, dict(before=df, after=df))):
        ax = np.ravel(ours(f, o))[0]
        ours(ax.figure.canvas.draw)
    plt.close('all')

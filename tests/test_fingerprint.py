"Fingerprints: the level of the test, what must not be told, tables of all kinds, and fingerprints that were tampered with."
import copy, json, math, os
from pathlib import Path
import numpy as np, pandas as pd, pytest
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.fingerprint import check_fingerprint, compare_fingerprint, fingerprint, seen_before, unlike
from pneumo_imbalance.moments import FEATURES, LEAST_DESCRIBED, compare_means, moments, one_a_patient
from pneumo_imbalance.phantom import make_phantoms

@pytest.fixture(scope='module')
def df(tmp_path_factory):
    counts = dict(train=dict(NORMAL=60, PNEUMONIA=60, RARE=4), test=dict(NORMAL=30, PNEUMONIA=30))
    return scan_images(make_phantoms(tmp_path_factory.mktemp('f')/'xray', counts, size=48))

@pytest.fixture(scope='module')
def fp(df): return fingerprint(df.assign(sex=np.where(df.index % 2, 'F', 'M'), age=df.index % 80))

def drawn(rng, n, mean, images=1):
    "Features of `n` patients of so many images each, which are alike"
    person = rng.normal(size=(n, len(FEATURES)))*8 + mean
    return np.repeat(person, images, 0) + rng.normal(size=(n*images, len(FEATURES)))*2, np.repeat(np.arange(n), images)

@pytest.mark.parametrize('images', [1, 4])
def test_level_under_label_shift(images):
    "Another mixture of the same classes raises an alarm in about 5 of 100 groups, however many images a patient has"
    rng, apart, alarms, naive = np.random.default_rng(0), np.linspace(0, 6, len(FEATURES)), [], []
    for _ in range(150):
        home = [moments(*drawn(rng, 80, m, images)) for m in (0, apart)]
        (a, p), (b, q) = drawn(rng, 15, 0, images), drawn(rng, 45, apart, images)
        F, patient = np.concatenate([a, b]), np.r_[p, q + 100]
        alarms.append(compare_means(home, [.5, .5], F, patient, free=True)['p'] < .05)
        naive.append(compare_means(home, [.5, .5], F, patient)['p'] < .05)
    assert .005 < np.mean(alarms) < .12 and np.mean(naive) > np.mean(alarms)

def test_a_shift_that_is_no_mixture_is_found():
    rng, apart = np.random.default_rng(0), np.linspace(0, 6, len(FEATURES))
    home, (F, patient) = [moments(*drawn(rng, 80, m)) for m in (0, apart)], drawn(rng, 60, apart[::-1])
    assert compare_means(home, [.5, .5], F, patient, free=True)['p'] < 1e-3

def test_only_one_image_of_a_patient_counts():
    who = np.repeat(np.arange(50), 7)
    at = one_a_patient(who)
    assert sorted(who[at]) == list(range(50)) and (np.diff(at) > 0).all()

# What must not be told

def leaves(o, path=()):
    if isinstance(o, (dict, list)):
        for k,v in o.items() if isinstance(o, dict) else enumerate(o): yield from leaves(v, (*path, k))
    else: yield path, o

def test_a_small_class_cannot_be_had_by_subtraction(df, fp):
    rest = df[(df.split == 'train') & (df.label != 'RARE')]
    assert 'RARE' not in fp['thumbnails']['by_class'] and fp['thumbnails']['all']['patients'] == rest.patient.nunique()
    assert fp['thumbnails'] == fingerprint(rest)['thumbnails']

def test_no_name_path_or_patient(df, fp):
    text = json.dumps(fp)
    train = df[df.split == 'train']
    assert not [o for o in {*train.path, *train.patient, *map(os.path.basename, train.path)} if o in text]
    assert not [o for o in train.digest if o in text]

def test_rare_texts_are_others(df):
    site = np.where(df.index % 40 == 0, 'a small clinic', 'the large one')
    assert 'a small clinic' not in json.dumps(fingerprint(df.assign(site=site)))

def test_too_few_patients_tell_nothing(df):
    few = df[df.patient.isin(df.patient[df.split == 'train'].unique()[:LEAST_DESCRIBED - 1])]
    fp = check_fingerprint(fingerprint(few))
    assert fp['thumbnails'] is fp['columns'] is fp['distances'] is None and 'nothing is told' in fp['notes'][0]
    for f in (unlike, compare_fingerprint):
        with pytest.raises(ValueError, match='at least 20 patients'): f(fp, df)

# Tables of all kinds

odd = dict(age=['045Y', None, '', 12, np.nan, np.inf], sex=[True, None, 'F', 1, 0., ''], site=[np.nan]*6,
    year=[2020, 2021, np.nan, 2020, 2020, 1e300])

@pytest.mark.parametrize('column', odd)
def test_odd_columns(df, column):
    table = df.assign(**{column: (odd[column]*len(df))[:len(df)]}).set_index('label', drop=False)
    fp = json.loads(json.dumps(fingerprint(table), allow_nan=False))
    found = compare_fingerprint(check_fingerprint(fp), table)
    assert np.isfinite(found.difference).all()

def test_tables_without_labels_patients_or_splits(df, fp):
    test = df[df.split == 'test']
    bare = test[['path', 'width', 'height', 'mode', 'digest']].set_index('mode', drop=False)
    assert list(compare_fingerprint(fp, bare).index.levels[0]) == ['all images']
    assert len(unlike(fp, bare[['path', 'digest']])) == len(test)
    assert len(seen_before(fp, df[df.split == 'train'].sample(9, random_state=0))) == 9
    blank = test.assign(label=np.where(test.label == 'NORMAL', None, 'PNEUMONIA'))
    assert list(compare_fingerprint(fp, blank).index.get_level_values(0).unique()) == ['all images', 'PNEUMONIA']

def test_a_class_called_all_images(df):
    table = df.assign(label=df.label.astype(str).replace('NORMAL', 'all images'))
    found = compare_fingerprint(fingerprint(table), table)
    assert {'all images', 'all images together', 'PNEUMONIA'} == set(found.index.get_level_values(0))

def test_repeated_rows_change_nothing(df, fp):
    again = pd.concat([df, df[df.label == 'NORMAL'], df[df.label == 'NORMAL']])
    assert fingerprint(again)['thumbnails'] == fp['thumbnails']

def test_a_prior_must_name_each_class(df, fp):
    for prior in (dict(NORMAL=1), dict(NORMAL=.5, PNEUMONIA=.6, RARE=0), dict(NORMAL=1.5, PNEUMONIA=-.5, RARE=0), 'half', [.5, .5]):
        with pytest.raises(ValueError, match='1 in all'): compare_fingerprint(fp, df, prior=prior)
    series = pd.Series(dict(NORMAL=.5, PNEUMONIA=.5, RARE=0))
    assert compare_fingerprint(fp, df[df.split == 'test'], prior=series).attrs['mixed']

# Tampering

def changed(fp, path, value):
    o = top = copy.deepcopy(fp)
    for k in path[:-1]: o = o[k]
    o[path[-1]] = value
    return top

def test_a_tampered_fingerprint_is_refused_or_harmless(df, fp):
    "Every kind of leaf replaced by every kind of junk: one sentence, or a fingerprint that still works"
    test, kinds = df[df.split == 'test'].head(3), {}
    for path,_ in leaves(fp): kinds.setdefault(tuple('#' if isinstance(k, int) else k for k in path), path)
    for path in [*kinds.values(), *((k,) for k in fp), ('thumbnails', 'all'), ('columns', 'all'), ('columns', 'all', 'age')]:
        for junk in (None, 'x', -1, math.nan, math.inf, 10**400, True, [], {}, [[[[[[[[1]]]]]]]]):
            try: found = check_fingerprint(changed(fp, path, junk))
            except ValueError as e: assert str(e).startswith('expected') and '\n' not in str(e) and len(str(e)) < 400
            else:
                if found['thumbnails']: compare_fingerprint(found, test), unlike(found, test)

@pytest.mark.parametrize('junk', [None, [], 'x', {}, dict(format=1), [1]*9])
def test_what_is_no_fingerprint(junk):
    with pytest.raises(ValueError, match='expected a fingerprint'): check_fingerprint(junk)

def test_a_later_format_says_update(fp):
    with pytest.raises(ValueError, match='update pneumo_imbalance'): check_fingerprint({**fp, 'format': 2})

# Real images, where they are

root = Path(os.environ.get('CHEST_XRAY', '../shared/chest_xray'))

@pytest.mark.skipif(not root.is_dir(), reason='no chest radiographs at CHEST_XRAY')
def test_the_other_source_of_the_normal_test_images_is_seen():
    df = scan_images(root)
    fp, test = fingerprint(df), df[df.split == 'test']
    table = compare_fingerprint(fp, test, prior=dict(NORMAL=.375, PNEUMONIA=.625))
    size = table.difference.xs('thumbnails', level='measure')
    assert table.attrs['explained'] is False and size['NORMAL'] > 1 > size['PNEUMONIA']
    train = df[df.split == 'train']
    half = train.patient.isin(pd.unique(train.patient)[::2])
    ill = train[~half & (train.label == 'PNEUMONIA')].head(150)
    moved = pd.concat([train[~half & (train.label == 'NORMAL')], ill])
    assert compare_fingerprint(fingerprint(train[half]), moved, prior=moved.label.value_counts(normalize=True)).attrs['p'] > .001
    assert compare_fingerprint(fingerprint(train[half]), moved).attrs['p'] < .001

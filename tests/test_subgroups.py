"Scores by subgroup against a slow, obvious second implementation; any column has an answer or our sentence; sites that are held out."
from itertools import combinations
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st
from pneumo_imbalance.data import usable
from pneumo_imbalance.evaluate import score
from pneumo_imbalance.metrics import METRICS, simulate_predictions
from pneumo_imbalance.split import split_test, split_valid
from pneumo_imbalance.subgroups import all_at_once, gap_sentence, plot_subgroups, subgroup_scores, subgroups_of

two, three = dict(NORMAL=120, PNEUMONIA=100), dict(LOBAR=100, NORMAL=120, PATCHY=100)

def predictions(counts=two, groups='ABC', seed=0, by_image=False, **kwargs):
    "Predictions with a column `g` that has nothing to do with them; by patient, or image by image"
    preds = simulate_predictions(counts, seed=seed, **{'skill': 1.2, **kwargs})
    person = np.arange(len(preds)) if by_image else pd.factorize(preds.patient)[0]
    return preds.assign(g=np.random.default_rng(seed + 1).choice(list(groups), person.max() + 1)[person])

def filtered(preds, rows, positive, n_boot=60):
    "What `score` says of some rows alone"
    found = score(preds[rows], positive=positive, n_boot=n_boot)
    return found.loc['macro'] if found.index.nlevels > 1 else found

# Against a second implementation

@pytest.mark.parametrize('counts,positive', [(two, None), (two, 'NORMAL'), (three, None), (three, 'PATCHY')])
def test_a_subgroup_is_scored_as_its_rows_alone(counts, positive):
    preds = predictions(counts)
    table = subgroup_scores(preds, 'g', positive=positive, n_boot=60).loc['g']
    for g in 'ABC':
        rows = preds.g == g
        got, want = table.loc[g], filtered(preds, rows, positive)
        np.testing.assert_allclose(got[['value', 'low', 'high']], want[['value', 'low', 'high']])
        np.testing.assert_allclose(got.overall, filtered(preds, rows | True, positive).value)
        assert set(got.images) == {rows.sum()} and set(got.patients) == {preds.patient[rows].nunique()}

def weakest(preds, metric):
    "Patients of the class that has fewest, of those that a metric looks at"
    n = preds.groupby('label', observed=True).patient.nunique()
    return n['PNEUMONIA'] if metric == 'sensitivity' else n.min()

def resampled(preds, metric, names, n_boot, seed):
    "Values of a metric (subgroups and all, B): the rows of each drawn patient are written down as often as it is drawn, and scored"
    rng, who = np.random.default_rng(seed), preds.patient.unique()
    at, out = {o: np.flatnonzero(preds.patient == o) for o in who}, []
    for times in rng.multinomial(len(who), np.full(len(who), 1/len(who)), size=n_boot):
        again = preds.iloc[np.concatenate([at[o] for o,n in zip(who, times) for _ in range(n)])]
        out.append([filtered(again, rows, None, 1).value[metric] for rows in [*(again.g == g for g in names), again.g != '']])
    return np.array(out).T

@pytest.mark.parametrize('metric,by_image', [('sensitivity', False), ('balanced accuracy', True), ('Brier', False)])
def test_the_gap_is_the_largest_and_its_interval_covers_all(metric, by_image):
    preds, B = predictions(by_image=by_image, skill=.8), 40
    row = subgroup_scores(preds, 'g', n_boot=B, seed=7).loc[('g', 'largest gap', metric)]
    value = {g: filtered(preds, preds.g == g, None, 1).value[metric] for g in 'ABC'}
    *boot, everyone = resampled(preds, metric, 'ABC', B, 7)
    many = weakest(preds, metric)
    for i,g in enumerate('ABC'): # spread no less than as many patients of all images would be
        wide = max(1, everyone.std()*np.sqrt(many/weakest(preds[preds.g == g], metric))/boot[i].std())
        boot[i] = value[g] + (boot[i] - value[g])*wide
    boot = dict(zip('ABC', boot))
    pairs = [(a, b) if value[a] >= value[b] else (b, a) for a,b in combinations('ABC', 2)]
    d = {o: value[o[0]] - value[o[1]] for o in pairs}
    db = {(a, b): boot[a] - boot[b] for a,b in pairs}
    most = np.max([abs(db[o] - d[o])/db[o].std() for o in pairs], 0)
    top = max(pairs, key=d.get)
    half = np.quantile(most, .95)*db[top].std()
    assert (row.higher, row.lower) == top
    np.testing.assert_allclose([row.value, row.low, row.high], [d[top], d[top] - half, d[top] + half])
    assert row.p == pytest.approx(((most >= d[top]/db[top].std()).sum() + 1)/(B + 1))

def test_gaps_of_all_columns_are_corrected_together():
    "More columns to look at, a wider interval; the gap itself stays"
    preds = predictions().assign(h=lambda o: o.patient.str[-1])
    one, more = (subgroup_scores(preds, by, n_boot=200).loc['g'].loc['largest gap'] for by in ('g', ['g', 'h']))
    np.testing.assert_allclose(one.value, more.value)
    known = one.value.notna()
    assert ((more.low - one.low)[known] < 1e-9).all() and known.sum() == 11 and np.isnan(one.value['ECE'])

def test_one_difference_alone_has_the_normal_interval():
    boot = np.random.default_rng(0).normal(.3, .1, (1, 20_000))
    low, high, p = all_at_once(np.array([.3]), boot)
    assert (high - low)[0] == pytest.approx(2*1.96*.1, rel=.03) and p[0] < .01

# What is more than chance, with a wide margin

def test_a_wide_gap_is_found_and_a_copy_has_none():
    good, bad = predictions(skill=3.5), predictions(skill=0., seed=5)
    def both(a, b): return pd.concat([a.assign(g='a'), b.assign(g='b', patient='b' + b.patient, path='b' + b.path)], ignore_index=True)
    t = subgroup_scores(both(good, bad), 'g', n_boot=200)
    assert t.loc[('g', 'largest gap', 'ROC AUC'), 'low'] > 0
    assert gap_sentence(t, 'ROC AUC').endswith('more than the choice of patients explains.')
    t = subgroup_scores(both(good, good), 'g', n_boot=200).loc['g'].loc['largest gap'].drop('ECE')
    assert (t.value == 0).all() and (t.low < 0).all() and (t.p == 1).all()

def test_perfection_in_a_few_is_not_certain():
    "Eleven of eleven against nineteen of twenty: no mistake in the few, and no gap beyond chance"
    preds = simulate_predictions(dict(NORMAL=60, PNEUMONIA=31), skill=9, images=1).assign(g='B')
    ill = np.flatnonzero(preds.label == 'PNEUMONIA')
    preds.loc[ill[:11], 'g'] = 'A'
    preds.loc[preds.index[:20], 'g'] = 'A'
    preds.loc[ill[-1], 'predicted'] = 'NORMAL'
    row = subgroup_scores(preds, 'g', n_boot=300).loc[('g', 'largest gap', 'sensitivity')]
    assert row.value == pytest.approx(.05) and row.low < 0 < row.high and row.high > .15

def test_a_sentence_keeps_names_as_they_are():
    t = subgroup_scores(predictions(groups=['post-ant', 'lat']).rename(columns=dict(g='view-position')), 'view-position', n_boot=20)
    assert 'post-ant' in gap_sentence(t) and gap_sentence(t).startswith('By view-position, ')

# Too few

@pytest.mark.parametrize('ill,healthy', [(9, 30), (10, 9), (10, 10), (0, 12)])
def test_ten_patients_of_each_class_that_a_figure_looks_at(ill, healthy):
    big, few = predictions(groups='B'), simulate_predictions({k: n for k,n in dict(NORMAL=healthy, PNEUMONIA=ill).items() if n}, images=1)
    few = few.assign(g='A', patient='few' + few.patient, path='few' + few.path)
    for c in ('NORMAL', 'PNEUMONIA'):
        if f'prob_{c}' not in few: few[f'prob_{c}'] = 0.
    t = subgroup_scores(pd.concat([big, few]), 'g', n_boot=20)
    value = t.loc['g'].loc['A', 'value']
    assert np.isnan(value['sensitivity']) == (ill < 10) and np.isnan(value['specificity']) == (healthy < 10)
    assert value.drop(['sensitivity', 'specificity', 'PPV', 'NPV', 'MCC']).isna().all() == (min(ill, healthy) < 10)
    assert any('Too small' in o and f'{min(ill, healthy)} of' in o for o in t.attrs['notes']) == (min(ill, healthy) < 10)

# Any column

cells = st.one_of(st.none(), st.text(max_size=6), st.integers(-3, 300), st.floats(), st.booleans(), st.sampled_from(
    ['M', 'F', 'unknown', 'largest gap', '$x$', 'nan', pd.NaT, pd.NA, pd.Timestamp('2020-01-01'), np.float32(3), 10**30, -0.]))
columns = st.one_of(st.lists(cells, min_size=1, max_size=5), *(st.lists(o, min_size=1, max_size=8) for o in (
    st.floats(), st.integers(), st.booleans(), st.text(max_size=5))))

edges_or_none = st.sampled_from([None, [0, 18, 65], [-np.inf, 7.5, np.inf]])

@given(columns, st.sampled_from(['g', 'age', 'Age', 'by', 'value']), st.booleans(), edges_or_none)
def test_any_column_has_an_answer_or_our_sentence(values, name, categorical, edges):
    preds = simulate_predictions(dict(NORMAL=60, PNEUMONIA=60), images=1)
    preds[name] = pd.Series([values[i % len(values)] for i in range(120)], dtype=object)
    if categorical: preds[name] = preds[name].astype('category')
    try: t = subgroup_scores(preds, name, edges and {name: edges}, n_boot=20)
    except ValueError as e:
        assert str(e).startswith('expected') and edges is not None
        return
    assert t.index.is_unique and list(t.index.unique('metric')) == METRICS
    n = t.xs('sensitivity', level='metric')
    assert n.images[n.index.get_level_values(1) != t.attrs['gap']].sum() == 120
    assert t.attrs['notes'] and all(o.endswith('.') for o in t.attrs['notes'])
    ax = plot_subgroups(preds, name, bins=edges and {name: edges}, n_boot=20)
    ax.figure.canvas.draw()
    plt.close('all')

@given(st.lists(st.one_of(st.none(), st.floats(0, 120)), min_size=1, max_size=30))
def test_decades_hold_their_ages(ages):
    found = subgroups_of(pd.DataFrame(dict(age=pd.Series(ages, dtype=float))), 'age')['age']
    want = ['unknown' if o is None else f'{int(o//10)*10}–{int(o//10)*10 + 9}' for o in ages]
    assert list(found) == want

@pytest.mark.parametrize('by', [3, None, np.zeros(2), {}, ['g', 'h'], [[]], ('g', 'h'), [()], []])
def test_what_is_no_column_has_our_sentence(by):
    with pytest.raises(ValueError, match='expected'): subgroup_scores(predictions(), by, n_boot=1)

@pytest.mark.parametrize('bins', [3, dict(h=[0, 1]), *(dict(g=o) for o in ([0], 'ab', [0, np.nan], [1, 1], None, [0, 1]))])
def test_what_are_no_bins_has_our_sentence(bins):
    with pytest.raises(ValueError, match='expected'): subgroup_scores(predictions(), 'g', bins, n_boot=1)

def test_rows_may_have_any_index():
    preds = predictions()
    odd = preds.set_axis([0]*len(preds))
    pd.testing.assert_frame_equal(subgroup_scores(preds, 'g', n_boot=20), subgroup_scores(odd, 'g', n_boot=20))

def test_prevalence_makes_predictive_values_of_one_place():
    preds = predictions()
    got = score(preds, by='g', prevalence=.1, n_boot=20).loc['g'].loc['A', 'value']
    want = score(preds[preds.g == 'A'], prevalence=.1, n_boot=20).value
    np.testing.assert_allclose(got, want)

# Whole sites

def images(seed, n=80, sites='ABCD', moved=.1):
    "Patients of one to three images at a site, some of whom were at another too"
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(n), rng.integers(1, 4, n))
    site = np.array(list(sites))[rng.integers(0, len(sites), n)][person]
    site = np.where(rng.random(len(person)) < moved, rng.choice(list(sites), len(person)), site)
    label = np.array(['NORMAL', 'PNEUMONIA'])[(person % 2)]
    return usable(pd.DataFrame(dict(path=[f'{i}.png' for i in range(len(person))], split='train', label=label, patient=person.astype(str),
        site=site)))

@pytest.mark.parametrize('seed', range(10))
def test_a_site_that_is_held_out_is_nowhere_else(seed):
    df = images(seed)
    away = split_test(df, by='site', take=['B', 'C'])
    own = split_valid(away, by=['site'], seed=seed)
    test, valid, train = (own[own.split == o] for o in ('test', 'valid', 'train'))
    assert not set(test.site[test.patient.isin(df.patient[df.site.isin(['B', 'C'])])]) - set('ABCD')
    assert not {'B', 'C'} & {*train.site, *valid.site}
    for a,b in combinations((test, valid, train), 2): assert not set(a.patient) & set(b.patient)
    want = df[df.patient.isin(df.patient[df.site.isin(['B', 'C'])])]
    assert set(test.path) == set(want.path) and len(own) == len(df)
    assert all(set(o.label) == {'NORMAL', 'PNEUMONIA'} for o in (test, valid, train))

def test_images_without_a_site_stay():
    df = images(0, moved=0).assign(site=lambda o: o.site.where(o.site != 'A'))
    away = split_test(df, by='site', take='B')
    assert set(away.site[away.split == 'test']) == {'B'} and (away.split[away.site.isna()] == 'train').all()
    assert away[away.split == 'test'].patient.nunique() == df.patient[df.site == 'B'].nunique()

def test_numbers_are_values_too():
    df = images(0, moved=0).assign(year=lambda o: o.site.map(dict(zip('ABCD', [2019., 2020., 2021., 2022.]))))
    assert set(split_test(df, by='year', take=2021).query("split == 'test'").site) == {'C'}

def test_an_old_valid_split_is_settled_first():
    df = images(0)
    df.loc[df.patient == df.patient[0], 'split'] = 'valid'
    assert set(split_valid(df, by='site', take='B', existing='keep').query("split == 'valid'").patient) >= {df.patient[0]}

@pytest.mark.parametrize('kwargs', [dict(by='scanner'), dict(by=[]), dict(by='site', take='X'), dict(by='site', take=[]), dict(take='A'),
    dict(by=['site', 'label']), dict(by='site', take=list('ABCD')), dict(by='label', take='NORMAL'), dict(by='constant')])
def test_what_cannot_be_held_out_has_our_sentence(kwargs):
    for split in (split_test, split_valid):
        with pytest.raises(ValueError, match='expected'): split(images(0).assign(constant=1), **kwargs)

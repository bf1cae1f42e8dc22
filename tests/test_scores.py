"Scores, thresholds and probabilities against slow implementations, on any table; intervals against the truth; pictures of any classes."
import math, warnings
from itertools import combinations
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from hypothesis import given, strategies as st
from scipy.special import expit
from sklearn import metrics as skm
from sklearn.linear_model import LogisticRegression
from torchmetrics.classification import BinaryCalibrationError
from pneumo_imbalance.calibrate import apply_temperature, apply_threshold, choose_threshold, correct_prior, fit_temperature, net_benefit
from pneumo_imbalance.calibrate import plot_calibration, plot_decision, plot_threshold
from pneumo_imbalance.evaluate import plot_confusion, plot_pr, plot_roc, score, score_difference
from pneumo_imbalance.plot import plain
from pneumo_imbalance.metrics import METRICS, difference_table, interval_table, predictive_values, resample_patients, simulate_predictions

# Independent implementations

def predictions(z, y):
    "A table of predictions from logits and truth"
    p, names = expit(z), np.array(['NORMAL', 'PNEUMONIA'])
    said, patient = names[(p > .5).astype(int)], np.arange(len(y)).astype(str)
    return pd.DataFrame(dict(label=names[y], predicted=said, patient=patient, split='valid', prob_NORMAL=1 - p, prob_PNEUMONIA=p))

@pytest.fixture(params=range(3))
def fixed(request):
    "Logits and truth of 500 images, a quarter of them normal"
    rng = np.random.default_rng(request.param)
    y = (rng.random(500) < .75).astype(int)
    return rng.normal(3*y - 1, 1 + request.param), y

def test_scores_are_those_of_scikit_learn(fixed):
    z, y = fixed
    got, p = score(predictions(z, y), n_boot=1).value, expit(z)
    want = {'ROC AUC': skm.roc_auc_score(y, p), 'average precision': skm.average_precision_score(y, p), 'Brier': skm.brier_score_loss(y, p),
        'MCC': skm.matthews_corrcoef(y, p > .5), 'balanced accuracy': skm.balanced_accuracy_score(y, p > .5)}
    for k,v in want.items(): assert got[k] == pytest.approx(v, abs=1e-9), k

def test_ece_is_that_of_torchmetrics(fixed):
    z, y = fixed
    want = BinaryCalibrationError(n_bins=15, norm='l1')(torch.tensor(expit(z)), torch.tensor(y))
    assert score(predictions(z, y), n_boot=1).value['ECE'] == pytest.approx(float(want), abs=1e-6)

def test_temperature_is_that_of_a_logistic_regression(fixed):
    "Without intercept, its one coefficient is 1/T"
    z, y = fixed
    want = 1/LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8).fit(z[:,None], y).coef_.item()
    assert fit_temperature(predictions(z, y)) == pytest.approx(want, rel=1e-3)

# Intervals

measured = ['sensitivity', 'specificity', 'balanced accuracy', 'accuracy', 'MCC', 'ROC AUC', 'average precision', 'Brier']
at = [METRICS.index(o) for o in measured]

def drawn(rng, n):
    "Truth, patients and logits of two models for `n` patients of each class, with one to three images that share most of their score"
    images = rng.integers(1, 4, 2*n)
    patient, y = np.repeat(np.arange(2*n), images), np.repeat(np.arange(2*n)%2, images)
    shared = rng.normal(0, 1.5, 2*n)[patient] + rng.normal(0, .5, len(y))
    return y, patient, 1.5*(2*y - 1) + shared, 1.9*(2*y - 1) + .9*shared + rng.normal(0, .7, 2*n)[patient]

def said(z):
    "Codes and probabilities of two classes"
    p = expit(z)
    return (p > .5).astype(int), np.stack([1 - p, p], 1)

def share_that_holds(tables, truth):
    held = np.mean([((t.low <= truth) & (truth <= t.high)).to_numpy() for t in tables], axis=0)
    print(dict(zip(measured, held.round(3).tolist())))
    return held

def test_intervals_hold_the_truth():
    "Of the 95 % intervals of 250 test sets of 200 patients each, about 95 in 100 hold the value of a set of a million"
    rng = np.random.default_rng(0)
    def table(n, n_boot):
        y, patient, z, _ = drawn(rng, n)
        return interval_table([1], ['NORMAL', 'PNEUMONIA'], y, *said(z), patient, n_boot, int(rng.integers(1e9)))[0].iloc[at]
    truth = table(250_000, 1).value.to_numpy()
    held = share_that_holds([table(100, 200) for _ in range(250)], truth)
    assert held.min() > .9 and held.max() < .99 and .93 < held.mean() < .97

def test_paired_intervals_hold_the_true_difference_and_are_narrower():
    "So do the intervals of the difference of two models on the same images, and each is narrower than two unpaired ones would leave"
    rng, ratios = np.random.default_rng(1), []
    def table(n, n_boot):
        y, patient, z, better = drawn(rng, n)
        seed, a, b = int(rng.integers(1e9)), said(z), said(better)
        d = difference_table([1], y, a, b, patient, n_boot, seed)[0].iloc[at]
        if n_boot > 1 and len(ratios) < 10:
            x, z = (interval_table([1], ['NORMAL', 'PNEUMONIA'], y, *o, patient, n_boot, seed)[0].iloc[at] for o in (a, b))
            ratios.append((d.high - d.low)/np.hypot(x.high - x.low, z.high - z.low))
        return d
    truth = table(250_000, 1).difference.to_numpy()
    held = share_that_holds([table(100, 200) for _ in range(250)], truth)
    assert held.min() > .9 and held.max() < .99 and .93 < held.mean() < .97
    assert np.mean(ratios, axis=0).max() < .9

def test_a_patient_is_drawn_with_all_images():
    w = np.concatenate(list(resample_patients(['a', 'b', 'a', 'c', 'b'], 500, 0)))
    assert (w[:,0] == w[:,2]).all() and (w[:,1] == w[:,4]).all() and (w[:,[0, 1, 3]].sum(1) == 3).all()
    assert abs(w.mean(0) - 1).max() < .15

# Any table of predictions

odd_names = ['B$\\frac{$', 'COVID-19', '2', 'NO FINDING', 'total', 'macro', '_x', 'nan', 'None', 'NA', '', ' ', '\n', 'prob_a', 'label',
    '<b>', '7.0', 'é 🫁']

def scores_of(rng, kind, shape):
    "Weights of classes that become probabilities: tied, saturated, next to each other, or any"
    if kind == 'tied': return rng.integers(0, 4, shape) + .01*(rng.random() < .5)
    if kind == 'saturated': return np.where(rng.random(shape) < .5, rng.choice([0, 1e-9, 1], shape), rng.random(shape))
    if kind == 'near': return 1 + rng.integers(0, 3, shape)*np.finfo('f4').eps
    return rng.random(shape)**3

@st.composite
def tables(draw, classes=st.integers(2, 4), most=25, both=False, split='valid'):
    "Class names and a table of predictions of any kind; `both`: with images of each class"
    k = draw(classes)
    names = draw(st.lists(st.one_of(st.sampled_from(odd_names), st.text(max_size=6)), min_size=k, max_size=k, unique=True))
    n, rng = draw(st.integers(k if both else 1, most)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    s = scores_of(rng, draw(st.sampled_from(['tied', 'saturated', 'near', 'any'])), (n, k))
    s[s.sum(1) == 0] = 1
    s = (s/s.sum(1, keepdims=True)).astype(draw(st.sampled_from(['f4', 'f8'])))
    y = np.r_[np.arange(k), rng.integers(0, k, n)][:n] if both else rng.integers(0, k, n)
    p = s.argmax(1) if draw(st.booleans()) else rng.integers(0, k, n)
    label, predicted = (np.array(names, dtype=object)[o] for o in (y, p))
    if draw(st.booleans()): label = pd.Categorical(label, [*names, 'not there'])
    patient = rng.choice(np.array(['a', 'b', 'c', 7, 7., None, np.nan], dtype=object), n)
    index = rng.integers(0, 3, n) if draw(st.booleans()) else None
    path = [f'{i}.png' for i in range(n)]
    probs = {f'prob_{c}': o for c,o in zip(names, s.T)}
    return names, pd.DataFrame(dict(path=path, split=split, label=label, patient=patient, predicted=predicted, **probs), index=index)

def truth(t, name):
    "Which rows are of class `name`; one by one, for NumPy takes '\\0' for ''"
    return np.array([str(o) == name for o in t.label])

def divided(a, b): return a/b if b else math.nan

def area(y, s):
    "Share of pairs of an ill and a healthy image in which the ill one has the higher score, ties counting half"
    pairs = [(a, b) for a,ya in zip(s, y) for b,yb in zip(s, y) if ya and not yb]
    return divided(sum((a > b) + (a == b)/2 for a,b in pairs), len(pairs))

def mean_precision(y, s):
    "Average precision, threshold by threshold"
    out, before = 0, 0
    for t in sorted(set(s), reverse=True):
        tp, n = sum(a for a,b in zip(y, s) if b >= t), sum(b >= t for b in s)
        out, before = out + (tp - before)*tp/n, tp
    return divided(out, sum(y))

def correlation(y, p):
    "Correlation of truth and answer over classes (Gorodkin 2004), from centred indicators; that of a constant answer is 0"
    cov = lambda a, b: sum(np.mean((a == c)*1.*(b == c)) - np.mean(a == c)*np.mean(b == c) for c in set(a) | set(b))
    if len(set(y)) == 1: return math.nan
    return cov(y, p)/math.sqrt(cov(y, y)*cov(p, p)) if len(set(p)) > 1 else 0.

def gaps(y, s):
    "ECE, bin by bin"
    bins = [min(int(o*15), 14) for o in s]
    return sum(abs(sum(b - a for a,b,c in zip(y, s, bins) if c == i)) for i in set(bins))/len(y)

def slowly(y, p, s):
    "The twelve metrics of one class against the rest, from lists"
    tp, fp, fn, tn = (sum(a == c and b == d for a,b in zip(y, p)) for c,d in ((1, 1), (0, 1), (1, 0), (0, 0)))
    sens, spec = divided(tp, tp + fn), divided(tn, tn + fp)
    return [sens, spec, (sens + spec)/2, (tp + tn)/len(y), divided(tp, tp + fp), divided(tn, tn + fn), divided(2*tp, 2*tp + fp + fn),
        correlation(np.array(y), np.array(p)), area(y, s), mean_precision(y, s), sum((a - b)**2 for a,b in zip(y, s))/len(y), gaps(y, s)]

def parts(names, t, name):
    "Truth, answer and probability of one class as lists"
    return [int(o == name) for o in t.label], [int(o == name) for o in t.predicted], [float(o) for o in t[f'prob_{name}']]

def same(got, want): np.testing.assert_allclose(np.asarray(got, float), np.asarray(want, float), atol=1e-6)

@given(tables())
def test_any_table_is_scored_as_slowly(table):
    names, t = table
    each = {c: slowly(*parts(names, t, c)) for c in names}
    for c in names: same(score(t, positive=c, n_boot=1).value, each[c])
    if len(names) == 2: return
    got = score(t, n_boot=2)
    mean = got.attrs['macro']
    assert list(got.index.unique('class')) == [mean, *names] and got.index.is_unique
    for c in names: same(got.loc[c].value, each[c])
    with warnings.catch_warnings(action='ignore'): want = pd.Series(np.nanmean(list(each.values()), axis=0), METRICS)
    y, p = (np.array([names.index(o) for o in t[c]]) for c in ('label', 'predicted'))
    want[['balanced accuracy', 'accuracy', 'MCC']] = want['sensitivity'], np.mean(y == p), correlation(y, p)
    want['Brier'] = sum(o[METRICS.index('Brier')] for o in each.values())
    same(got.loc[mean].value, want)
    n = np.isfinite(list(each.values())).sum(0)
    own = ('balanced accuracy', 'accuracy', 'MCC', 'Brier')
    assert got.attrs['means'] == {o: k for o,k in zip(METRICS, n) if k < len(names) and o not in own}

@given(tables(), st.integers(0, 2**32 - 1))
def test_any_difference_is_that_of_the_scores(table, seed):
    names, a = table
    b = a.assign(predicted=a.predicted.sample(frac=1, random_state=seed).to_numpy()).sample(frac=1, random_state=seed)
    d, n = score_difference(a, b, n_boot=5), len(set(a.patient.dropna().map(str).str.removesuffix('.0'))) + a.patient.isna().sum()
    one = score(a, n_boot=1).attrs['macro']
    x, z = (score(o, n_boot=1).value for o in (a, b))
    same(d.difference, z - x if one is None else z[one] - x[one])
    assert d.attrs['patients'] == n and d.attrs['images'] == len(a)
    assert d.low.isna().all() == (n == 1)
    known = d[d.low.notna()]
    assert (known.low <= known.high).all()

@given(tables(both=True), st.sampled_from(['sensitivity', 'specificity']), st.sampled_from(['0', '.3', '.5', '.66', '.9', '.95', '1']))
def test_any_threshold_grants_its_wish(table, wanted, least):
    names, t = table
    y, s = truth(t, names[0]), t[f'prob_{names[0]}'].astype(float).clip(0, 1).to_numpy()
    every = [(float((s[y] >= u).mean()), float((s[~y] < u).mean())) for u in [*s, 2]]
    i = ['sensitivity', 'specificity'].index(wanted)
    u = choose_threshold(t, f'{wanted}>={least}', positive=names[0])
    got = tuple(score(apply_threshold(t, u, names[0]), names[0], n_boot=1).value[['sensitivity', 'specificity']])
    assert got[i] >= float(least) and got[1-i] == max(o[1-i] for o in every if o[i] >= float(least))
    u = choose_threshold(t, positive=names[0])
    sens, spec = score(apply_threshold(t, u, names[0]), names[0], n_boot=1).value[['sensitivity', 'specificity']]
    assert sens + spec == pytest.approx(max(map(sum, every)))
    column = t[f'prob_{names[0]}'].to_numpy()
    if column.max() <= 1: assert ((column >= u) == (s >= u)).all() # in 32 bits as in 64

@given(tables(both=True), st.floats(1e-3, 1e3), st.one_of(st.none(), st.floats(.001, .999)))
def test_any_threshold_costs_least(table, cost, prevalence):
    names, t = table
    y, s = truth(t, names[0]), t[f'prob_{names[0]}'].astype(float).clip(0, 1).to_numpy()
    ill = y.mean() if prevalence is None else prevalence
    def loss(u): return cost*ill*(s[y] < u).mean() + (1 - ill)*(s[~y] >= u).mean()
    assert loss(choose_threshold(t, cost=cost, prevalence=prevalence, positive=names[0])) <= min(map(loss, [*s, 2]))*(1 + 1e-9) + 1e-12

@given(tables(), st.lists(st.floats(.01, 1), min_size=8, max_size=8))
def test_any_prior_is_corrected_as_slowly(table, shares):
    names, t = table
    k = len(names)
    old, new = ({c: o/sum(part) for c,o in zip(names, part)} for part in (shares[:k], shares[4:4+k]))
    got = correct_prior(t, old, new)
    for i in range(len(t)):
        row = [float(t[f'prob_{c}'].iloc[i])*new[c]/old[c] for c in names]
        same([got[f'prob_{c}'].iloc[i] for c in names], [o/sum(row) for o in row])
    back = correct_prior(got, new, old)
    same(back.filter(like='prob_'), t[[f'prob_{c}' for c in names]].clip(0, 1))
    assert [f'prob_{c}' for c in names] == [o for o in got if o.startswith('prob_')]

@given(tables(), st.floats(1e-6, 1e6))
def test_any_temperature_keeps_the_order_of_the_classes(table, T):
    names, t = table
    got, s = apply_temperature(t, T), t[[f'prob_{c}' for c in names]].to_numpy(float).clip(0, 1)
    new = got[[f'prob_{c}' for c in names]].to_numpy()
    same(new.sum(1), np.ones(len(t)))
    assert list(got.predicted) == [names[i] for i in s.argmax(1)]
    for a,b in combinations(range(len(names)), 2): assert (np.sign(new[:,a] - new[:,b])*np.sign(s[:,a] - s[:,b]) >= 0).all()
    def loss(T):
        s = apply_temperature(t, T)[[f'prob_{c}' for c in names]].to_numpy()
        return -np.log(np.clip(s[range(len(t)), [names.index(o) for o in t.label]], 1e-300, 1)).mean()
    fitted = fit_temperature(t)
    assert .049 < fitted < 20.1 and loss(fitted) <= min(map(loss, (1, .5, 2))) + 1e-6

@given(tables(both=True, classes=st.just(2)), st.lists(st.floats(.001, .999), min_size=1, max_size=5))
def test_any_net_benefit_is_counted(table, thresholds):
    names, t = table
    y, _, s = parts(names, t, names[0])
    got = net_benefit(t, thresholds, positive=names[0])
    for (_,row),u in zip(got.iterrows(), thresholds):
        tp, fp = (sum(b >= u and a == c for a,b in zip(y, s)) for c in (1, 0))
        same(row, [tp/len(y) - fp/len(y)*u/(1 - u), sum(y)/len(y) - (1 - sum(y)/len(y))*u/(1 - u), 0])

# Whatever is passed: an answer, or one sentence of ours

def ours(f, *args, **kwargs):
    "Call `f`; an error is a ValueError that says what was expected, what came, and is a sentence or two"
    try: return f(*args, **kwargs)
    except ValueError as e: assert str(e).startswith('expected') and ('found' in str(e)) and len(str(e).splitlines()) == 1, e
    finally: plt.close('all')

junk = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-50, 50), st.text(max_size=5), st.lists(st.floats(), max_size=3),
    st.sampled_from([np.float32(.5), np.int64(3), np.array([.5])]))
two = simulate_predictions(dict(NORMAL=6, PNEUMONIA=9), split='valid')
three = simulate_predictions(dict(A=4, B=6, C=5), split='valid')
def usual(f, t):
    "Arguments of `f` beside the table, as they usually are"
    first = dict(positive=str(t.label.iloc[0]))
    if f in (score, score_difference): return dict(n_boot=2) | (dict(b=t) if f is score_difference else {})
    if f in (correct_prior, apply_temperature): return dict(train_prior=None) if f is correct_prior else {}
    return first | dict(threshold=.5) if f is apply_threshold else first

asked = {score: 'positive prevalence n_boot seed', score_difference: 'b positive n_boot seed', apply_threshold: 'threshold positive',
    choose_threshold: 'at cost prevalence positive', correct_prior: 'train_prior to_prior', apply_temperature: 'temperature',
    net_benefit: 'thresholds positive'}

@pytest.mark.parametrize('f,name', [(f, o) for f,names in asked.items() for o in names.split()])
@given(junk, st.sampled_from([two, three]))
def test_any_argument_gives_an_answer_or_our_sentence(f, name, o, t): ours(f, t, **usual(f, t) | {name: o})

@given(junk)
def test_any_first_argument_gives_an_answer_or_our_sentence(o):
    for f in (score, choose_threshold, net_benefit, plot_confusion, plot_roc, plot_decision): ours(f, o)
    for args in ((o, .9, .5), (.9, o, .5), (.9, .9, o)): ours(predictive_values, *args)

spoilt = st.sampled_from(['', 'nan', 1.5, -1, None, np.nan, 'Z', 3, True, np.inf])

@given(st.sampled_from([two, three]), st.data())
def test_any_spoilt_table_gives_an_answer_or_our_sentence(t, data):
    t = t.copy()
    for c in data.draw(st.lists(st.sampled_from(list(t)), max_size=3)):
        what = data.draw(st.sampled_from(['drop', 'set', 'rename', 'twice']))
        rows = data.draw(st.lists(st.integers(0, len(t) - 1), min_size=1, max_size=4))
        if c not in t or t.columns.duplicated().any(): continue
        if what == 'drop': t = t.drop(columns=c)
        if what == 'set': t[c] = [data.draw(spoilt) if i in rows else o for i,o in enumerate(t[c].astype(object))]
        if what == 'rename': t = t.rename(columns={c: data.draw(st.sampled_from([3, 'prob_', 'prob_Z']))})
        if what == 'twice': t = pd.concat([t, t[[c]]], axis=1)
    rows = data.draw(st.lists(st.integers(0, len(t) - 1), max_size=12))
    if data.draw(st.booleans()): t = t.iloc[rows]
    for f in (choose_threshold, fit_temperature): ours(f, t)
    ours(score, t, n_boot=2)
    ours(score_difference, t, t, n_boot=2)
    ours(correct_prior, t, None)

# Pictures

pictures = [plot_confusion, plot_roc, plot_pr, lambda t: plot_calibration(t, n_boot=2)]
classes = [['COVID-19', 'NO FINDING'], ['B$\\frac{$', '_macro', 'total'], ['2', 'macro', 'x'*60, 'a\nb'], [*odd_names, 'y', 'z']]
classes = {len(o): o for o in classes}

@pytest.mark.parametrize('k', classes)
def test_pictures_of_any_classes_can_be_drawn(k):
    "Each picture is rendered, names every class or says how many it leaves unnamed, and says what is looked for"
    a, b = (simulate_predictions({c: 8 + i for i,c in enumerate(classes[k])}, skill=o) for o in (1.5, 2.5))
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph')
        for f in pictures:
            ax = f(a)
            ax.figure.canvas.draw()
            says = ' '.join(o.get_text() for o in (ax.get_legend().get_texts() if ax.get_legend() else ax.get_yticklabels()))
            named = classes[k][:1] if f is not plot_confusion and k == 2 else classes[k]
            assert '15 others' in says if f is not plot_confusion and k == 20 else all(plain(c, 28) in says for c in named)
            says = 'positive: COVID-19' if k == 2 else 'each class against the rest'
            assert f is plot_confusion or says in ax.get_title()
        for f in pictures[1:] if k in (2, 20) else (): f(dict(a=a, _b=b)).figure.canvas.draw()
        for f in (plot_threshold, plot_decision):
            if k > 2:
                with pytest.raises(ValueError, match='with positive='): f(a)
            ax = f(a, positive=classes[k][0])
            ax.figure.canvas.draw()
            assert 'positive: ' in ax.get_title()
    plt.close('all')

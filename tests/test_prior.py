"The share of a class without labels: the fits against slow ones, intervals against the truth, any two tables; and the numbers of images."
import io, warnings
from contextlib import redirect_stdout
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from hypothesis import Phase, given, settings, strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from pneumo_imbalance.calibrate import apply_threshold, choose_threshold, correct_prior
from pneumo_imbalance.metrics import simulate_predictions
from pneumo_imbalance.mixture import fit_scaling, mixture_shares, nearest_mixture, scale_logs
from pneumo_imbalance.planning import auc_width, images_needed, images_to_move, plot_widths, proportion_width
from pneumo_imbalance.prior import estimate_prior, plot_prior, predictive_table
from pneumo_imbalance.split import wilson_interval

def quietly(fn, *args, **kwargs):
    "What `fn` returns; what it prints and warns of is an error or dropped"
    with redirect_stdout(io.StringIO()), warnings.catch_warnings(action='error', category=RuntimeWarning): return fn(*args, **kwargs)

def place(rng, n, share, split='test', sharp=1., bias=0.):
    "Predictions of `n` patients; scores lie 2 apart, probabilities have equal priors, then are sharpened and moved"
    y = np.arange(n) < round(n*share)
    p = 1/(1 + np.exp(-sharp*(2*rng.normal(2.*y, 1) - 2) - bias))
    names = np.array(['NORMAL', 'PNEUMONIA'])
    return pd.DataFrame(dict(label=names[y.astype(int)], predicted=names[(p >= .5).astype(int)], patient=np.arange(n), split=split,
        prob_NORMAL=1 - p, prob_PNEUMONIA=p))

@pytest.fixture(scope='module')
def home(): return place(np.random.default_rng(0), 1000, .25, 'valid')

# The fits

def em(ratios, w, n=4000):
    "Saerens's steps"
    x = np.full(len(ratios), 1/len(ratios))
    for _ in range(n): x = (w*ratios*x[:,None]/(x@ratios)).sum(1)/w.sum()
    return x

@pytest.mark.parametrize('k', [2, 3, 5])
def test_shares_are_those_of_em(k):
    rng = np.random.default_rng(k)
    y = rng.choice(k, 300, p=rng.dirichlet(np.ones(k)))
    ratios = np.exp(2*(2*np.eye(k)[:,y] + rng.normal(0, 1, (k, 300))))
    w = rng.multinomial(300, np.full(300, 1/300), size=3).astype(float)
    np.testing.assert_allclose(mixture_shares(ratios, w), [em(ratios, o) for o in w], atol=2e-4)

@pytest.mark.parametrize('k', [2, 4])
def test_scaling_has_no_slope_left(k):
    "The likelihood is flat at the fit, but for the pull: finite differences"
    rng = np.random.default_rng(k)
    y = rng.choice(k, 500)
    z = log_softmax(1.5*np.eye(k)[:,y] + rng.normal(0, 1, (k, 500)), axis=0)
    w = rng.multinomial(500, np.full(500, 1/500), size=2).astype(float)
    def worth(theta):
        like = (w*scale_logs(z, theta)[y,:,np.arange(500)].T).sum(1)
        return like - .05*((theta - np.eye(k)[0])**2).sum(1)
    theta = fit_scaling(z, y, w)
    for o in np.eye(k)*1e-4: np.testing.assert_allclose((worth(theta + o) - worth(theta - o))/2e-4, 0, atol=.01)

@pytest.mark.parametrize('k', [2, 3, 6])
def test_nearest_mixture_finds_its_shares(k):
    rng = np.random.default_rng(k)
    parts = np.cumsum(rng.dirichlet(np.ones(30)*.5, (2, k)), -1)
    x = rng.dirichlet(np.ones(k), 2)
    x[1,0] = 0
    x /= x.sum(1, keepdims=True)
    np.testing.assert_allclose(nearest_mixture(parts, (x[:,None]@parts)[:,0], 3000), x, atol=.01)

# The estimate

@pytest.mark.parametrize('share,sharp,bias', [(.05, 1, 0), (.95, 3, 2), (.5, 3, 2)])
def test_estimates_reach_the_truth_and_the_naive_share_does_not(share, sharp, bias):
    "A network that is too sure and leans to one side is no worse; both tables are drawn anew"
    rng = np.random.default_rng(1)
    def pair(): return place(rng, 500, share, sharp=sharp, bias=bias), place(rng, 1000, .25, 'valid', sharp, bias)
    tables = [quietly(estimate_prior, *pair(), n_boot=30) for _ in range(12)]
    values = np.array([o['value'] for o in tables])
    low, high = (np.array([o[c] for o in tables]) for c in ('low', 'high'))
    assert (abs(values[:,1:].mean(0) - share) < .03).all()
    assert ((low <= share) & (high >= share))[:,1:].mean() > .75
    assert abs(values[:,0].mean() - share) > .04

def test_em_is_the_mean_of_corrected_probabilities(home):
    here = place(np.random.default_rng(2), 500, .6)
    found = quietly(estimate_prior, here, home, n_boot=5)
    z = np.log(home[['prob_NORMAL', 'prob_PNEUMONIA']].to_numpy().T)
    theta = fit_scaling(z, (home.label == 'PNEUMONIA').astype(int).to_numpy(), np.ones((1, len(home))))
    logs = scale_logs(np.log(here[['prob_NORMAL', 'prob_PNEUMONIA']].to_numpy().T), theta)[:,0]
    scaled = here.assign(prob_NORMAL=np.exp(logs[0]), prob_PNEUMONIA=np.exp(logs[1]))
    share = found.value['EM']
    corrected = correct_prior(scaled, found.attrs['home'], dict(NORMAL=1 - share, PNEUMONIA=share))
    assert corrected.prob_PNEUMONIA.mean() == pytest.approx(share, abs=1e-3)

def test_bbse_solves_the_confusion_matrix(home):
    here = place(np.random.default_rng(3), 500, .6)
    c = pd.crosstab(home.predicted, home.label, normalize='columns').to_numpy()
    want = np.linalg.solve(c, here.predicted.value_counts(normalize=True)[['NORMAL', 'PNEUMONIA']])
    assert quietly(estimate_prior, here, home, n_boot=2).value['BBSE'] == pytest.approx(want[1], abs=1e-3)

def test_the_mixture_is_rejected_where_it_is_none_and_seldom_elsewhere(home):
    rng = np.random.default_rng(4)
    same = [quietly(estimate_prior, place(rng, 300, .6), home, n_boot=50).attrs for _ in range(10)]
    assert sum(o['explained'] < .05 for o in same) <= 4 and sum(o['agree'] for o in same) >= 7
    moved = [quietly(estimate_prior, place(rng, 300, .6, sharp=.4, bias=1.), home, n_boot=50).attrs for _ in range(3)]
    assert all(o['explained'] < .05 and any('No mixture' in s for s in o['notes']) for o in moved)

def test_a_threshold_elsewhere_than_the_half_serves_if_both_tables_have_it(home):
    here = place(np.random.default_rng(5), 1000, .6)
    a, b = (apply_threshold(o, .9) for o in (here, home))
    assert quietly(estimate_prior, a, b, n_boot=5).value['BBSE'] == pytest.approx(.6, abs=.1)
    for pair in ((a, home), (here, b)):
        with pytest.raises(ValueError, match='different thresholds'): estimate_prior(*pair)

@settings(max_examples=15, deadline=None, phases=[Phase.generate]) # to shrink takes minutes
@given(st.data())
def test_any_two_tables(data):
    "A table of shares in order, or one sentence"
    k = data.draw(st.integers(2, 4))
    names = list('ABCD')[:k]
    def some(split, least):
        counts = {c: data.draw(st.integers(least, 12)) for c in names}
        skill, images, seed = data.draw(st.sampled_from([0., 1., 5., 40.])), data.draw(st.integers(1, 4)), data.draw(st.integers(0, 99))
        table = simulate_predictions(counts, skill, images=images, split=split, seed=seed)
        return table.set_axis(np.zeros(len(table), int)) if data.draw(st.booleans()) else table
    here = some('test', 1)
    here = here[here.label.isin(data.draw(st.sets(st.sampled_from(names), min_size=1)))]
    if data.draw(st.booleans()): here = here.drop(columns=data.draw(st.sampled_from(['label', 'patient', 'split'])))
    home = some('valid', 1)
    found = quietly(estimate_prior, here, home, n_boot=10)
    if found.attrs['patients'] > 1: assert ((found.low >= 0) & (found.high <= 1) & (found.low <= found.high)).all()
    assert ((found.value >= 0) & (found.value <= 1)).all() and (k == 2 or found.value.groupby('method').sum().round(6).eq(1).all())
    assert quietly(predictive_table, home, found, found.attrs['positive'] or 'A').shape == (5, 3)
    ax = plot_prior(found)
    plt.close(ax.figure)

def test_what_a_resample_holds_is_what_another_call_gets(home):
    here = place(np.random.default_rng(6), 200, .6)
    a, b = (quietly(estimate_prior, here, home, n_boot=30, seed=3) for _ in range(2))
    assert a.equals(b) and a.attrs == b.attrs and pd.concat([a, b]).attrs == a.attrs
    worth = predictive_table(home, a)
    assert worth.low['prevalence'] == pytest.approx(a.low['EM']) and worth.high['prevalence'] == pytest.approx(a.high['EM'])
    fixed = predictive_table(home, a.value['EM'], n_boot=200)
    assert fixed.high['PPV'] - fixed.low['PPV'] > 0 and fixed.value.equals(worth.value)

# Numbers of images

@pytest.mark.parametrize('value', [0, .5, .8, .95, 1])
@pytest.mark.parametrize('width', [.05, .1, .3])
@pytest.mark.parametrize('level', [.9, .95])
def test_the_least_number_is_the_least(value, width, level):
    n = images_needed(sensitivity=value, width=width, level=level).positives.item()
    assert proportion_width(value, n, level) <= width and (n == 1 or proportion_width(value, n - 1, level) > width)

@pytest.mark.parametrize('right,n', [(0, 7), (3, 10), (90, 100), (500, 500)])
def test_width_is_that_of_the_interval(right, n):
    low, high = wilson_interval(right, n)
    assert proportion_width(right/n, n) == pytest.approx(high - low)

@pytest.mark.parametrize('value,width', [(.7, .2), (.9, .1)])
def test_so_many_images_give_that_width(value, width):
    "Simulated: the mean width, and how often the interval holds the truth"
    n = images_needed(specificity=value, width=width).negatives.item()
    found = [wilson_interval(o, n) for o in np.random.default_rng(0).binomial(n, value, 2000)]
    assert np.mean([b - a for a,b in found]) == pytest.approx(width, rel=.05)
    assert np.mean([a <= value <= b for a,b in found]) == pytest.approx(.95, abs=.03)

@pytest.mark.parametrize('auc', [.7, .85, .95])
@pytest.mark.parametrize('prevalence', [.1, .5])
def test_auc_width_is_about_right(auc, prevalence):
    "Against the spread of the ROC AUC of normal scores; Hanley and McNeil's is too wide, up to a half, where few are positive"
    row = images_needed(auc=auc, width=.1, prevalence=prevalence).iloc[0]
    rng, apart = np.random.default_rng(0), 2**.5*norm.ppf(auc)
    y = np.arange(row.positives + row.negatives) < row.positives
    found = [roc_auc_score(y, rng.normal(apart*y, 1)) for _ in range(200)]
    assert .055 < 2*1.96*np.std(found) < .115
    assert auc_width(auc, row.positives, row.negatives) <= .1
    assert row.images == pytest.approx(row.positives/prevalence, rel=.02, abs=20)

def test_images_of_one_patient_tell_less():
    a = images_needed(sensitivity=.9).iloc[0]
    for m,rho in ((2, .5), (3, 0), (3, 1)):
        b = images_needed(sensitivity=.9, images_per_patient=m, correlation=rho).iloc[0]
        assert b.positives == np.ceil(a.positives*(1 + (m - 1)*rho)) and b.patients == np.ceil(b.positives/m)

def test_design_effect_is_that_of_simulated_patients():
    "The spread of a sensitivity when three images of a patient agree with correlation .5"
    rng, n, m, rho = np.random.default_rng(0), 60, 3, .5
    right = np.where(rng.random((4000, n, m)) < rho**.5, rng.random((4000, n, 1)) < .8, rng.random((4000, n, m)) < .8)
    assert right.mean((1, 2)).var() == pytest.approx(.8*.2/(n*m)*(1 + (m - 1)*rho), rel=.15)

def test_all_aims_are_served():
    table = images_needed(.9, .8, .95, prevalence=.1)
    assert table.loc['all'].tolist() == table.iloc[:3].max().tolist()
    assert table.images['sensitivity 0.9'] == table.positives['sensitivity 0.9']*10

@pytest.mark.parametrize('sensitivity,specificity,prevalence', [(.98, .66, .5), (.7, .95, .3), (.9, .85, .2)])
def test_what_a_moved_threshold_is_worth(sensitivity, specificity, prevalence):
    "Against `choose_threshold` on tables and a hundred thousand images to test on"
    apart, n, rng = norm.ppf(sensitivity) + norm.ppf(specificity), 50, np.random.default_rng(0)
    def table(n):
        y = rng.random(n) < prevalence
        y[:2] = True, False
        probs = softmax(np.stack([0*y, rng.normal(apart*y, 1)]), axis=0)
        return place(rng, n, 0, 'valid').assign(label=np.where(y, 'PNEUMONIA', 'NORMAL'), prob_NORMAL=probs[0], prob_PNEUMONIA=probs[1])
    odds = [np.log(t/(1 - t)) if 0 < t < 1 else 9. for t in (choose_threshold(table(n)) for _ in range(100))]
    want = np.mean([(norm.cdf(apart - t) + norm.cdf(t))/2 for t in odds])
    row = images_to_move(sensitivity, specificity, prevalence, [n], 2000).iloc[0]
    assert row.moved == pytest.approx(want, abs=.01) and row.kept == pytest.approx((sensitivity + specificity)/2)

def test_more_images_choose_better_and_never_beat_the_best():
    table = images_to_move(.95, .6, .3)
    assert table.moved.is_monotonic_increasing and table.moved.iloc[-1] <= table.attrs['best'] and (table.low <= table.high).all()

def test_widths_are_drawn():
    ax = plot_widths(.9, .8, .95)
    assert len(ax.lines) == 4 and ax.get_legend_handles_labels()[1][0] == 'sensitivity 0.9, images: positives'
    plt.close(ax.figure)

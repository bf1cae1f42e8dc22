"Scores, calibration and balancing against independent implementations; intervals against simulated truth; comparisons that are killed, or share the cores."
import os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from imblearn.over_sampling import RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from scipy.special import expit
from scipy.stats import norm
from sklearn import metrics as skm
from sklearn.linear_model import LogisticRegression
from torchmetrics.classification import BinaryCalibrationError
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.calibrate import fit_temperature
from pneumo_imbalance.evaluate import score
from pneumo_imbalance.metrics import METRICS, interval_table
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.compare import _all_at_once, _side_by_side, compare_remedies, read_run
from pneumo_imbalance.sampling import BalancedSampler, UndersampledSampler, oversample, undersample
from pneumo_imbalance.split import split_valid

def predictions(z, y, patient=None):
    "A table of predictions from logits and truth"
    p, names = expit(z), np.array(['NORMAL', 'PNEUMONIA'])
    patient = np.arange(len(y)) if patient is None else patient
    return pd.DataFrame(dict(label=names[y], predicted=names[(p > .5).astype(int)], patient=patient.astype(str), split='valid', prob_NORMAL=1 - p, prob_PNEUMONIA=p))

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

@pytest.mark.parametrize('ratio', [1., .5])
def test_counts_are_those_of_imbalanced_learn(ratio):
    df = pd.DataFrame(dict(path=map(str, range(900)), split='train', label=['NORMAL']*200 + ['PNEUMONIA']*700))
    for ours, theirs in ((oversample, RandomOverSampler), (undersample, RandomUnderSampler)):
        want = theirs(sampling_strategy=ratio, random_state=0).fit_resample(np.arange(900)[:,None], df.label)[1]
        assert ours(df, ratio=ratio).label.value_counts().to_dict() == want.value_counts().to_dict()
        if ratio == 1:
            drawn = dict(oversample=BalancedSampler, undersample=UndersampledSampler)[ours.__name__](df)
            assert df.label.iloc[list(drawn)].value_counts().to_dict() == want.value_counts().to_dict()

def drawn(rng, n):
    "Predictions for `n` patients of each class, with one to three images each that share most of their score"
    images = rng.integers(1, 4, 2*n)
    patient, y = np.repeat(np.arange(2*n), images), np.repeat(np.arange(2*n)%2, images)
    z = 1.5*(2*y - 1) + rng.normal(0, 1.5, 2*n)[patient] + rng.normal(0, .5, len(y))
    return z, y, patient

def test_intervals_hold_the_truth():
    "At least 93 in 100 of the 95 % intervals, over 500 test sets of 300 patients, hold the value of a set of a million"
    rng, names = np.random.default_rng(0), ['sensitivity', 'specificity', 'balanced accuracy', 'accuracy', 'MCC', 'ROC AUC', 'average precision', 'Brier']
    at = [METRICS.index(o) for o in names]
    def table(n, n_boot):
        z, y, patient = drawn(rng, n)
        p = expit(z)
        return interval_table([1], ['NORMAL', 'PNEUMONIA'], y, (p > .5).astype(int), np.stack([1 - p, p], 1), patient, n_boot, int(rng.integers(1e9)))[0].iloc[at]
    truth = table(250_000, 1).value.to_numpy()
    held = [((t.low <= truth) & (truth <= t.high)).to_numpy() for t in (table(150, 300) for _ in range(500))]
    share = dict(zip(names, np.mean(held, axis=0)))
    print({k: round(float(v), 3) for k,v in share.items()})
    assert min(share.values()) >= .93, share
    assert max(share.values()) < .98, share

def test_bounds_for_all_remedies_hold_together():
    "With seven remedies that all do nothing, one of the joint intervals misses zero in about one comparison in twenty, of the plain ones in about one in three"
    rng, n = np.random.default_rng(0), 2000
    joint = plain = 0
    for _ in range(n):
        d = rng.normal(size=(7, 1))
        boot = d[...,None] + rng.normal(size=(7, 1, 400))
        low, high, p = _all_at_once(d, boot)
        joint += ((low > 0) | (high < 0)).any()
        plain += (abs(d) > norm.ppf(.975)).any()
        assert ((p <= .05) == ((low > 0) | (high < 0))).mean() > .8
    assert .035 < joint/n < .075 and plain/n > .25

small = dict(frozen=0, unfrozen=2, lr_unfrozen=2e-3, size=32, item_size=48, bs=32, pretrained=False, num_workers=0)

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "The pickled table of some phantoms"
    d = tmp_path_factory.mktemp('images')
    counts = dict(train=dict(NORMAL=30, PNEUMONIA=80), test=dict(NORMAL=10, PNEUMONIA=15))
    split_valid(scan_images(make_phantoms(d/'xray', counts, size=48))).to_pickle(d/'df.pkl')
    return d/'df.pkl'

def compare(images, out, **kwargs): return compare_remedies(pd.read_pickle(images), ['none', 'weights'], 2, out, n_boot=50, on_leak='ignore', **small, **kwargs)

def test_class_named_none_is_read_back(tmp_path):
    rows = dict(path=['a', 'b'], split=['valid', 'test'], label=['None', 'NA'], patient=['', '007'], predicted=['NA', 'None'], prob_NA=[.6, .1], prob_None=[.4, .9])
    pd.DataFrame(rows).to_csv(tmp_path/'none-0.csv', index=False)
    (tmp_path/'none-0.json').write_text('{"prior": {"NA": 0.5, "None": 0.5}}')
    valid, test = read_run(tmp_path, 'none+threshold', 0)
    assert (*valid.label, *test.label, *test.patient) == ('None', 'NA', '007') and valid.patient.isna().all()

def fails(df, seed):
    "A remedy that leaves a trace, and fails"
    (Path(os.environ['PNEUMO_CACHE'])/str(seed)).touch()
    time.sleep(.2)
    raise ZeroDivisionError

def test_a_run_that_fails_ends_the_others(tmp_path, monkeypatch):
    "The failure is told, and runs that were not begun are not begun"
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path))
    settings = dict(frozen=0, unfrozen=1, lr_frozen=None, lr_unfrozen=None)
    with pytest.raises(ZeroDivisionError): _side_by_side([(pd.DataFrame(dict(split=[])), 'none', fails, i, tmp_path, settings) for i in range(40)], 1)
    assert 1 <= len(list(tmp_path.iterdir())) <= 5

code = """
import sys, pandas as pd
from pneumo_imbalance.compare import compare_remedies
compare_remedies(pd.read_pickle(sys.argv[1]), ['none', 'weights'], 2, sys.argv[2], n_boot=50, on_leak='ignore', **eval(sys.argv[3]))
"""

def test_killed_goes_on_and_side_by_side_is_the_same(images, tmp_path, monkeypatch):
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('OMP_NUM_THREADS', '1') # sums come out alike on as many threads only
    torch.set_num_threads(1)
    out = tmp_path/'out'
    p = subprocess.Popen([sys.executable, '-c', code, str(images), str(out), repr(small)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not list(out.glob('*.csv')) and p.poll() is None and time.monotonic() < end: time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    p.wait()
    kept = {o: o.read_bytes() for o in out.glob('*.csv')}
    assert 1 <= len(kept) < 4
    a = compare(images, out)
    assert {o: o.read_bytes() for o in kept} == kept and len(list(out.glob('*.csv'))) == 4 and not list(out.glob('*.part'))
    b = compare(images, tmp_path/'beside', n_jobs=2)
    pd.testing.assert_frame_equal(a.runs, b.runs, atol=1e-4)
    pd.testing.assert_frame_equal(a.differences, b.differences, atol=1e-3)

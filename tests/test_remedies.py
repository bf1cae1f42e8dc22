"Counts against an independent implementation; joint bounds; two to twenty classes; runs that are killed, or share the cores."
import multiprocessing, os, signal, time
from pathlib import Path
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from fastai.vision.all import Callback, GradientClip, nn
from PIL import Image
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.metrics import recall_score
from pneumo_imbalance import runs
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.calibrate import choose_threshold
from pneumo_imbalance.evaluate import predict, score
from pneumo_imbalance.metrics import METRICS
from pneumo_imbalance.compare import CHOSEN, Comparison, compare_remedies, plot_remedies
from pneumo_imbalance.subgroups import all_at_once
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.losses import LDAMLoss
from pneumo_imbalance.model import save_model
from pneumo_imbalance.remedy import REMEDIES, fit_remedy, train_remedy
from pneumo_imbalance.runs import read_run
from pneumo_imbalance.sampling import BalancedSampler, UndersampledSampler, oversample, undersample
from pneumo_imbalance.split import split_test, split_valid

def tiny(pretrained=False):
    "Two convolutions, which other processes can import"
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

small = dict(frozen=0, unfrozen=2, lr_unfrozen=2e-3, size=32, item_size=32, bs=32, arch=tiny, pretrained=False, num_workers=0)

@pytest.mark.parametrize('ratio', [1., .5])
def test_counts_are_those_of_imbalanced_learn(ratio):
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.under_sampling import RandomUnderSampler
    df = pd.DataFrame(dict(path=map(str, range(900)), split='train', label=['NORMAL']*200 + ['PNEUMONIA']*700))
    for ours, theirs in ((oversample, RandomOverSampler), (undersample, RandomUnderSampler)):
        want = theirs(sampling_strategy=ratio, random_state=0).fit_resample(np.arange(900)[:,None], df.label)[1]
        assert ours(df, ratio=ratio).label.value_counts().to_dict() == want.value_counts().to_dict()
        if ratio == 1:
            drawn = dict(oversample=BalancedSampler, undersample=UndersampledSampler)[ours.__name__](df)
            assert df.label.iloc[list(drawn)].value_counts().to_dict() == want.value_counts().to_dict()

def test_bounds_for_all_remedies_hold_together():
    "Of seven remedies that all do nothing, a joint interval misses zero in one comparison in twenty, a plain one in one in three"
    rng, n = np.random.default_rng(0), 2000
    joint = plain = 0
    for _ in range(n):
        d = rng.normal(size=(7, 1))
        boot = d[...,None] + rng.normal(size=(7, 1, 400))
        low, high, p = all_at_once(d, boot)
        joint += ((low > 0) | (high < 0)).any()
        plain += (abs(d) > norm.ppf(.975)).any()
        assert ((p <= .05) == ((low > 0) | (high < 0))).mean() > .8
    assert .035 < joint/n < .075 and plain/n > .25

# Two to twenty classes: scikit-learn's digits in a flat tree, uneven, as classes of names that are hard on CSVs, HTML and matplotlib

terrible = ['None', 'NA', 'COVID-19', '2', r'B$\frac{$', 'a,b', 'say "no"', 'total', '1.0', 'True']
terrible += ['nan', ' led by a space', 'prob_x', 'label', 'é', '<b>', 'two\nlines', '-inf', 'x'*90, '_']
some = 'none', 'weights', 'undersample', 'crt', 'ldam_drw', 'tau_norm'
def names(n): return [o + more for more in ('', '+threshold') for o in (REMEDIES if n == 3 else some)]

@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    "Ten digits and their negatives, one class a folder, some larger than others: a table"
    root, data = tmp_path_factory.mktemp('digits'), load_digits()
    for i,(x,k) in enumerate(zip(data.images[:300], data.target)):
        for c,v in ((k, x), (10 + k, 16 - x)):
            folder = root/f'{c:02}'
            folder.mkdir(exist_ok=True)
            if len(list(folder.iterdir())) >= 8 + (7*c)%20: continue
            Image.fromarray((v*15.9).astype('uint8')).resize((32, 32)).save(folder/f'{c:02}-{i:04}.png')
    return split_valid(split_test(scan_images(root), .25), .25)

@pytest.fixture(scope='module', params=[2, 3, 20])
def compared(request, digits, tmp_path_factory):
    "A table of some of its classes, the folder of the runs, and the comparison of every remedy"
    kept, tmp = digits[digits.label.astype(str).isin(sorted(set(digits.label))[:request.param])], tmp_path_factory.mktemp('compared')
    df = kept.assign(label=[terrible[int(o)] for o in kept.label])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PNEUMO_CACHE', str(tmp/'cache'))
        yield df, tmp/'out', compare_remedies(df, names(request.param), 1, tmp/'out', n_boot=50, on_leak='ignore', **small, path=tmp)

def test_every_remedy_knows_the_prior_it_left_behind(compared):
    df, out, _ = compared
    n = df[df.split == 'train'].label.value_counts().sort_index()
    own, even = n/n.sum(), n*0 + 1/len(n)
    effective = n/(1 - .999**n)
    known = dict.fromkeys(REMEDIES, even) | dict.fromkeys(['none', 'focal', 'two_phase_over', 'two_phase_under'], own)
    late = n/(1 - .9999**n)
    known |= dict(effective_number=effective/effective.sum(), ldam_drw=late/late.sum())
    for k in {o.partition('+')[0] for o in names(len(n))} - {'tau_norm'}: # which is measured on validation images
        want = known[k]
        got = pd.Series(runs.json.loads((out/f'{k}-0.json').read_text())['prior'])
        np.testing.assert_allclose(got[want.index], want, atol=1e-6, err_msg=k)

def test_a_prior_is_taken_out_of_all_classes(compared):
    df, out, _ = compared
    for k in dict.fromkeys(o.partition('+')[0] for o in names(df.label.nunique())):
        plain, moved = (read_run(out, o, 0)[1] for o in (k, f'{k}+threshold'))
        prior = runs.json.loads((out/f'{k}-0.json').read_text())['prior']
        probs = [f'prob_{o}' for o in sorted(prior)]
        want = plain[probs]/[prior[o[5:]] for o in probs]
        np.testing.assert_allclose(moved[probs], want.div(want.sum(axis=1), axis=0), atol=1e-9)
        assert moved.predicted.astype(str).tolist() == [o[5:] for o in moved[probs].idxmax(axis=1)]

def test_the_tables_say_what_score_says(compared):
    df, out, c = compared
    classes = sorted(set(df.label))
    positive = c.about['positive']
    assert (positive is None) == (len(classes) > 2)
    assert c.about['images'] == df.label[df.split == 'test'].value_counts()[classes].to_dict()
    assert c.table().columns.name == ('each class against the rest' if positive is None else f'positive: {positive}')
    assert c.table().index.tolist() == names(len(classes)) and (CHOSEN[2] in c.table()) == (positive is not None)
    for k in names(len(classes)):
        want = score(read_run(out, k, 0)[1], n_boot=1).value
        np.testing.assert_allclose(c.summary.loc[k]['mean'][METRICS], want if positive else want.loc['macro'], err_msg=k)

def test_one_class_of_several_can_be_named(compared):
    df, out, _ = compared
    positive = sorted(set(df.label))[0]
    c = compare_remedies(df, ['none', 'weights'], 1, out, positive=positive, n_boot=20, on_leak='ignore', **small)
    assert c.table().columns.name == f'positive: {positive}'
    for k in ('none', 'weights'):
        valid, test = read_run(out, k, 0)
        called = test[f'prob_{positive}'] >= choose_threshold(valid, positive=positive)
        sens, spec = called[test.label == positive].mean(), (~called)[test.label != positive].mean()
        got = c.summary.loc[k]['mean']
        np.testing.assert_allclose(got[CHOSEN], [sens, spec, (sens + spec)/2])
        np.testing.assert_allclose(got[METRICS], score(test, positive=positive, n_boot=1).value)

def test_any_name_is_drawn_kept_and_read_back(compared, tmp_path):
    df, out, c = compared
    fig = plot_remedies(c)
    fig.canvas.draw()
    assert len(fig.axes) == 3 + (c.about['positive'] is not None)
    plt.close(fig)
    c.save(tmp_path)
    back = Comparison.load(tmp_path)
    assert back.about == c.about and c._repr_html_()
    for k in ('runs', 'summary', 'differences'): pd.testing.assert_frame_equal(getattr(back, k), getattr(c, k), atol=1e-6)
    valid, test = read_run(out, 'none', 0)
    both = pd.concat([valid, test]).set_index('path')
    assert both.label.to_dict() == df[df.split != 'train'].set_index('path').label.astype(str).to_dict()

def test_one_call_gives_the_same_network(compared, tmp_path):
    df, out, _ = compared
    for k in ['two_phase_under', 'crt', 'tau_norm', 'ldam_drw'] if df.label.nunique() == 3 else []:
        learn = fit_remedy(df, k, seed=0, on_leak='ignore', **small, path=tmp_path)
        want = read_run(out, k, 0)[1].filter(like='prob_')
        np.testing.assert_allclose(predict(learn, df[df.split == 'test'])[want.columns], want, atol=1e-4, err_msg=k)

# What five remedies do, by another way than the library's

@pytest.fixture(scope='module')
def uneven(digits, tmp_path_factory):
    "Three digits, and a folder for the cache"
    df, tmp = digits[digits.label.astype(str).isin(['00', '01', '02'])], tmp_path_factory.mktemp('uneven')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PNEUMO_CACHE', str(tmp/'cache'))
        yield df.assign(label=df.label.astype(str)), tmp

class States(Callback):
    "The weights before each fit, and how many steps there were"
    def __init__(self): self.states, self.steps, self.weights = [], 0, []
    def before_fit(self): self.states.append({k: v.clone() for k,v in self.model.state_dict().items()})
    def after_loss(self):
        if self.training: self.weights.append(self.loss_func.func.weight)
    def after_step(self): self.steps += 1

def seen(uneven, name, **kwargs):
    "A learner, and what a callback saw of its training"
    df, tmp = uneven
    learn = train_remedy(df, name, **{**small, 'arch': normed, 'bs': 8, **kwargs}, path=tmp, cbs=(cb := States()))
    return learn, cb

def normed(pretrained=False):
    "A convolution with a batch norm, whose statistics a frozen body must not change"
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

def of(state, part): return {k: v for k,v in state.items() if k.startswith(part)}

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_crt_retrains_a_new_head_on_features_that_stand_still(uneven):
    learn, cb = seen(uneven, 'crt', unfrozen=4)
    end, (begin, second) = learn.model.state_dict(), cb.states
    plain, _ = seen(uneven, 'none', unfrozen=3)
    assert same(of(second, '0.'), of(plain.model.state_dict(), '0.')) # as trained on the images as they are, for the first three epochs
    assert same(of(second, '0.'), of(end, '0.')) and not same(of(begin, '0.'), of(end, '0.'))
    assert not torch.equal(second['1.8.weight'], plain.model.state_dict()['1.8.weight'])
    assert (second['1.6.running_mean'] == 0).all() and (second['1.6.weight'] == 1).all()
    assert cb.steps == 4*len(learn.dls.train) and learn.history.stage.tolist() == ['unfrozen']*3 + ['head']
    drawn = learn.dls.train.items.label.iloc[list(BalancedSampler(learn.dls.train.items))]
    assert drawn.value_counts().nunique() == 1 and isinstance(learn.dls.train.sampler.sampler, BalancedSampler)

def test_linear_probe_leaves_the_body_as_it_came(uneven):
    learn, cb = seen(uneven, 'linear_probe', frozen=1, unfrozen=2)
    (begin,), end = cb.states, learn.model.state_dict()
    assert same(of(begin, '0.'), of(end, '0.')) and not same(of(begin, '1.'), of(end, '1.'))
    assert cb.steps == 3*len(learn.dls.train) and learn.prior.round(6).nunique() == 1

def test_ldam_by_hand():
    "Cross-entropy in NumPy, a margin for each class by the fourth root, weights by class"
    rng, n, w = np.random.default_rng(0), np.array([4, 64, 1024]), np.array([3., 2., 1.])
    z, y = rng.normal(size=(9, 3))*10, np.arange(9)%3
    C = .5*4**.25
    q = z - 30*np.eye(3)[y]*(C/n**.25)
    each = np.log(np.exp(q).sum(1)) - q[range(9),y]
    for weight,want in ((None, each.mean()), (torch.tensor(w).float(), (w[y]*each).sum()/w[y].sum())):
        assert abs(float(LDAMLoss(n, weight=weight)(torch.tensor(z).float(), torch.tensor(y))) - want) < 1e-4

def test_ldam_weighs_late_and_ends_in_cosines(uneven):
    "In the last fifth of both stages together, also where it was cut off"
    how = dict(frozen=1, unfrozen=4)
    learn, cb = seen(uneven, 'ldam_drw', **how)
    n = learn.dls.train.items.label.value_counts()[list(learn.dls.vocab)].to_numpy()
    steps = len(learn.dls.train)
    assert [o is None for o in cb.weights] == [True]*4*steps + [False]*steps
    np.testing.assert_allclose(cb.weights[-1], 3*(1/(1 - .9999**n))/(1/(1 - .9999**n)).sum(), rtol=1e-5)
    with torch.no_grad():
        x = learn.dls.valid.one_batch()[0]
        assert learn.model.eval()(x).abs().max() <= 30.001
        inside = learn.model[1][:-1](learn.model[0](x))
    w = learn.model[1][-1].weight.detach()
    cosines = (inside @ w.T)/(inside.norm(dim=1)[:,None]*w.norm(dim=1))
    torch.testing.assert_close(learn.model[1][-1](inside), 30*cosines, atol=1e-3, rtol=0)

class CutOff(Callback):
    "Ends the process's training after so many steps"
    def __init__(self, at): self.at = at
    def after_batch(self):
        self.at -= self.training
        if not self.at: raise KeyboardInterrupt

@pytest.mark.parametrize('name', ['crt', 'ldam_drw', 'tau_norm', 'linear_probe'])
def test_a_training_that_was_cut_off_ends_the_same(uneven, name, tmp_path):
    df, tmp = uneven
    def trained(at, resume): return train_remedy(df, name, **{**small, 'frozen': 1, 'bs': 8}, path=tmp, resume=resume, cbs=CutOff(at))
    want = trained(-1, None)
    steps = len(want.dls.train)
    for i,at in enumerate((steps + 1, 3*steps - 1)):
        with pytest.raises(KeyboardInterrupt): trained(at, tmp_path/f'{i}')
        got = trained(-1, tmp_path/f'{i}')
        assert same(got.model.state_dict(), want.model.state_dict())
        pd.testing.assert_series_equal(got.prior, want.prior)

def test_tau_norm_divides_the_rows_of_the_last_layer(uneven, capsys):
    plain, _ = seen(uneven, 'none')
    learn, _ = seen(uneven, 'tau_norm')
    was, now = (o.model[1][-1].weight.detach() for o in (plain, learn))
    tau = float(capsys.readouterr().out.split('τ = ')[1].split(':')[0])
    torch.testing.assert_close(now, was/was.norm(dim=1, keepdim=True)**tau)
    assert same(of(plain.model.state_dict(), '0.'), of(learn.model.state_dict(), '0.'))
    x, y = plain.dls.valid.one_batch()[0], uneven[0].query("split == 'valid'")
    with torch.no_grad(): inside = plain.model[1].eval()[:-1](plain.model[0].eval()(x)).as_subclass(torch.Tensor)
    codes = [list(plain.dls.vocab).index(o) for o in plain.dls.valid.items.label.astype(str)]
    assert len(codes) == len(inside) == len(y)
    def score(t): return recall_score(codes, (inside @ (was/was.norm(dim=1, keepdim=True)**t).T).argmax(1), average='macro')
    assert abs(tau - np.argmax([score(t/10) for t in range(21)])/10) < 1e-6

def test_balanced_softmax_is_logit_adjustment(uneven):
    a, b = (seen(uneven, o)[0].model.state_dict() for o in ('logit_adjust', 'balanced_softmax'))
    assert same(a, b)

def test_a_network_that_ends_in_cosines_is_saved_as_it_is_or_not_at_all(uneven, tmp_path):
    for k in ('crt', 'tau_norm', 'linear_probe', 'ldam_drw'):
        learn, _ = seen(uneven, k, unfrozen=2)
        try: save_model(learn, tmp_path/k)
        except ValueError as e: assert k == 'ldam_drw' and 'expected a network that its arch builds again' in str(e)
        assert (tmp_path/k).exists() or k == 'ldam_drw'

def test_no_last_layer_is_told_before_training(uneven):
    df, tmp = uneven
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 3, 1), nn.Flatten())
    for k in ('tau_norm', 'ldam_drw'):
        with pytest.raises(ValueError, match='expected a network whose last linear layer gives'):
            train_remedy(df, k, **{**small, 'arch': normed}, path=tmp, custom_head=head, cbs=(cb := States()))
        assert not cb.steps

# Runs

def test_class_named_none_is_read_back(tmp_path):
    rows = dict(path=['a', 'b'], split=['valid', 'test'], label=['None', 'NA'], patient=['', '007'], predicted=['NA', 'None'])
    pd.DataFrame(rows | dict(prob_NA=[.6, .1], prob_None=[.4, .9])).to_csv(tmp_path/'none-0.csv', index=False)
    (tmp_path/'none-0.json').write_text('{"prior": {"NA": 0.5, "None": 0.5}}')
    valid, test = read_run(tmp_path, 'none+threshold', 0)
    assert (*valid.label, *test.label, *test.patient) == ('None', 'NA', '007') and valid.patient.isna().all()

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "A folder with images of two classes, and the pickled table of them"
    d = tmp_path_factory.mktemp('images')
    counts = dict(train=dict(NORMAL=24, PNEUMONIA=60), test=dict(NORMAL=8, PNEUMONIA=12))
    split_valid(scan_images(make_phantoms(d/'xray', counts, size=32))).to_pickle(d/'df.pkl')
    return d

def compare(images, out, **kwargs):
    "A comparison whose settings hold a function and a callback"
    how = dict(n_boot=50, on_leak='ignore', cbs=[GradientClip(1.)], **small)
    return compare_remedies(pd.read_pickle(images/'df.pkl'), ['none', 'weights'], 2, out, **how, **kwargs)

def killed(images, out):
    "The same, killed between the training of its last run and that run's predictions"
    def last(*args):
        if len(list(Path(out).glob('*.csv'))) == 3: os.kill(os.getpid(), signal.SIGKILL)
        return predict(*args)
    runs.predict = last
    compare(Path(images), Path(out))

def fails(df, seed):
    "A remedy that leaves a trace, and fails once four runs are done"
    cache = Path(os.environ['PNEUMO_CACHE'])
    (cache/f'trace-{seed}').touch()
    end = time.monotonic() + 300
    while len(list(Path((cache/'runs').read_text()).glob('*.csv'))) < 4 and time.monotonic() < end: time.sleep(.05)
    raise ZeroDivisionError

@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "A cache of our own, and one thread: sums come out alike on as many threads only"
    cache, threads = tmp_path_factory.mktemp('cache'), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for k,v in dict(PNEUMO_CACHE=str(cache), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1').items(): patch.setenv(k, v)
        patch.setenv('PYTHONPATH', str(Path(__file__).parent), prepend=os.pathsep)
        torch.set_num_threads(1)
        yield cache
    torch.set_num_threads(threads)

@pytest.fixture(scope='module')
def forkserver(alone):
    "Processes that are forks of one that has imported all"
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['test_remedies'])
    return context

@pytest.fixture(scope='module')
def turns(images, forkserver, tmp_path_factory):
    "The comparison that was killed and went on, its folder, and what the killed one had finished"
    out = tmp_path_factory.mktemp('turns')
    process = forkserver.Process(target=killed, args=(images, out))
    process.start()
    process.join()
    kept = {o: o.read_bytes() for o in out.glob('*.csv')}
    return compare(images, out), out, kept, process.exitcode

def test_killed_goes_on(turns):
    "In another process, whose settings are the same: they hold a function and a callback"
    _, out, kept, code = turns
    assert code == -signal.SIGKILL and sorted(o.name for o in kept) == ['none-0.csv', 'none-1.csv', 'weights-0.csv']
    assert {o: o.read_bytes() for o in kept} == kept and len(list(out.glob('*.csv'))) == 4
    assert {o.suffix for o in out.iterdir()} == {'.csv', '.json'}

def test_side_by_side_is_the_same_and_a_failure_begins_no_others(images, alone, forkserver, turns, tmp_path, monkeypatch):
    "The failure is told, what was finished is kept, and runs that were not begun are not begun"
    df = pd.read_pickle(images/'df.pkl')
    settings = runs._settings(dict(small, cbs=[GradientClip(1.)]))
    jobs = [(df, k, REMEDIES[k], s, tmp_path, settings) for s in range(2) for k in ('none', 'weights')]
    runs._claim(tmp_path, df, settings)
    monkeypatch.setattr(runs, 'get_context', lambda _: forkserver) # not spawn, which imports all in each
    (Path(os.environ['PNEUMO_CACHE'])/'runs').write_text(str(tmp_path))
    with pytest.raises(ZeroDivisionError): runs._side_by_side(jobs + [(df, 'fails', fails, i, tmp_path, settings) for i in range(40)], 2)
    assert len(list(tmp_path.glob('*.csv'))) == 4 and 1 <= len(list(alone.glob('trace-*'))) < 20
    made = {o: o.stat().st_mtime_ns for o in tmp_path.glob('*.csv')}
    REMEDIES.pop('fails', None)
    (a, _, kept, _), b = turns, compare(images, tmp_path)
    assert {o: o.stat().st_mtime_ns for o in made} == made and a.about == b.about
    for o in kept: pd.testing.assert_frame_equal(pd.read_csv(o), pd.read_csv(tmp_path/o.name), atol=1e-4)
    same = [f'{r}-{s}.csv' in {o.name for o in kept} for r,s in zip(a.runs.remedy, a.runs.seed)]
    pd.testing.assert_frame_equal(a.runs[same], b.runs[same], atol=1e-3)

def test_the_benchmark_starts(images, alone, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import remedies
    sizes = ['--size', '32', '--item-size', '32', '--bs', '32', '--epochs', '1', '--seeds', '1', '--jobs', '1', '--boot', '50']
    folders = ['--images', str(images/'xray'), '--out', str(tmp_path), '--runs', str(tmp_path/'runs')]
    remedies.main(remedies.parser().parse_args([*folders, *sizes, '--on-leak', 'ignore', '--remedies', 'none', 'none+threshold']))
    tables = {f'{o}.csv' for o in ('runs', 'summary', 'differences', 'tuned')}
    assert {o.name for o in tmp_path.iterdir()} == tables | {'runs', 'about.json', 'run.json'}
    assert pd.read_csv(tmp_path/'tuned.csv').remedy.tolist() == ['none']*2 + ['none+threshold']*2

def test_the_benchmark_of_the_long_tail_adds_to_its_tables(images, alone, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from benchmarks import longtail
    sizes = ['--size', '32', '--item-size', '32', '--bs', '32', '--epochs', '1', '--seeds', '1', '--boot', '20', '--on-leak', 'ignore']
    folders = ['--images', str(images/'xray'), '--out', str(tmp_path/'out'), '--runs', str(tmp_path/'runs')]
    monkeypatch.setattr(longtail, 'CHEST', [('step', 5), ('linear', 6)])
    monkeypatch.setattr(longtail, 'SHOWN', longtail.SHOWN[:3])
    call = longtail.parser().parse_args([*folders, *sizes, '--remedies', 'none+threshold'])
    for _ in range(2): longtail.main(longtail.filled(call))
    n = pd.read_csv(tmp_path/'out'/'chest-images.csv')
    assert n.kind.tolist() == ['linear', 'step'] and (n.largest/n.smallest).round().tolist() == [6, 5]
    rows = pd.read_csv(tmp_path/'out'/'chest-runs.csv')
    assert rows.remedy.tolist() == ['none', 'none+threshold']*2 and rows['recall of rare'].between(0, 1).all()
    d = pd.read_csv(tmp_path/'out'/'chest-differences.csv')
    assert len(d) == 6 and set(d.remedy) == {'none+threshold'}

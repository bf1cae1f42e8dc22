"A model elsewhere: every kind of images and of models gets its sentences; the command has one sentence and an exit code for each ending."
import re, shutil
from functools import partial
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest
from PIL import Image
from pneumo_imbalance import elsewhere, score_page
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.dicom_phantom import dicom_phantoms
from pneumo_imbalance.elsewhere import PARTS, score_elsewhere
from pneumo_imbalance.evaluate import predict
from pneumo_imbalance.fingerprint import fingerprint
from pneumo_imbalance.metrics import METRICS, measure, read_predictions, simulate_predictions
from pneumo_imbalance.model import Model, save_model
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.score_page import find_images, pneumo_score, score_html
from pneumo_imbalance.split import split_valid
from pneumo_imbalance.train import set_seed, xray_learner
from pneumo_imbalance.transfer import drop_table, halves_table
from test_audit_page import check_page

classes = ['NORMAL', 'PNEUMONIA']

# Tables of predictions

def test_class_shares_alone_move_only_what_depends_on_them():
    home = simulate_predictions(dict(NORMAL=300, PNEUMONIA=300), seed=1)
    rare = home.groupby('label', observed=True).apply(lambda o: o.head(300 if o.name == 'NORMAL' else 30)).reset_index(drop=True)
    table = drop_table(home, home.assign(path=home.path + 'x'), n_boot=50)
    assert np.allclose(table[['drop', 'prior', 'rest']].xs('value', axis=1, level=1), 0)
    t = drop_table(home, rare.assign(label=pd.Categorical([classes[0]]*300 + [classes[1]]*30, classes)), n_boot=50)
    rates = ['sensitivity', 'specificity', 'balanced accuracy', 'ROC AUC']
    assert np.allclose(t.loc[rates, 'prior'], 0) and t.loc['PPV', ('prior', 'high')] < 0

def test_home_weighed_anew_is_home_with_repeated_images():
    "Weights of ten are ten copies"
    home = simulate_predictions(dict(NORMAL=40, PNEUMONIA=40), images=1, seed=1)
    ten = pd.concat([home] + [home[home.label == 'NORMAL'].assign(path=lambda o: o.path + f'-{i}') for i in range(9)], ignore_index=True)
    t = drop_table(home, ten, n_boot=2)
    _, y, p, s = read_predictions(ten)
    want = pd.Series(measure([1], y, p, s, np.ones((1, len(y))))[0,:,0], METRICS)
    assert np.allclose(t['figure', 'moved'], want[t.index])

def test_intervals_of_a_drop_hold_no_drop():
    "Two draws of one place: nine in ten intervals hold the true difference, nothing; 20 draws, 4 expected standard deviations"
    def one(i): return drop_table(*(simulate_predictions(dict(NORMAL=80, PNEUMONIA=80), seed=2*i + j) for j in (0, 1)), n_boot=100)
    tables = [one(i).loc[['sensitivity', 'ROC AUC', 'PPV'], 'drop'] for i in range(12)]
    held = np.mean([(o.low <= 0) & (o.high >= 0) for o in tables])
    assert held > .7

def test_halves_share_no_patient(monkeypatch):
    preds = simulate_predictions(dict(NORMAL=60, PNEUMONIA=40), images=4, seed=3)
    seen = []
    real = halves_table.__globals__['choose_threshold']
    monkeypatch.setitem(halves_table.__globals__, 'choose_threshold', lambda o, *a, **k: (seen.append({*o.patient}), real(o, *a, **k))[1])
    table = halves_table(preds, .5, n_halves=4)
    assert len(seen) == 4 and all(0 < len(o) < preds.patient.nunique() for o in seen) and len({frozenset(o) for o in seen}) > 1
    assert table.notna().all(axis=None)

# Models that need no training

def brightness(df):
    "Predictions from the mean gray value, and from the folder, so that they are better than chance"
    gray = np.array([np.asarray(Image.open(o).convert('L')).mean()/255 for o in df.path])
    p = 1/(1 + np.exp(-20*(gray - gray.mean()) - 2*df.path.str.contains('/PNEUMONIA/').to_numpy() + 1))
    predicted, label = pd.Categorical.from_codes((p >= .5).astype(int), classes), pd.Categorical(df.label, classes)
    return df.assign(prob_NORMAL=1 - p, prob_PNEUMONIA=p, predicted=predicted, label=label)

def stand_in(df, threshold=.4, temperature=1.3, home=True, digests=True):
    "A model without a network, which calls bright images ill"
    about = dict(arch='none', size=32, classes=classes, temperature=temperature and dict(value=temperature))
    about['threshold'] = threshold and dict(value=threshold, positive='PNEUMONIA', how='youden', scaled=False)
    rows = brightness(df[df.split != 'train'])
    model = Model.__new__(Model)
    vars(model).update(about=about, classes=classes, positive='PNEUMONIA', threshold=threshold, temperature=temperature,
        prior=pd.Series(dict(NORMAL=.5, PNEUMONIA=.5)), fingerprint=fingerprint(df, digests), predict=brightness,
        home=rows if home else None)
    return model

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    counts = dict(train=dict(NORMAL=50, PNEUMONIA=50), test=dict(NORMAL=12, PNEUMONIA=12))
    return split_valid(scan_images(make_phantoms(tmp_path_factory.mktemp('home')/'x', counts, size=32)), .4)

@pytest.fixture(scope='module')
def there(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp('there')/'x', dict(test=dict(NORMAL=20, PNEUMONIA=8)), size=32, seed=7)

@pytest.fixture(scope='module')
def model(home): return stand_in(home)

@pytest.fixture(autouse=True)
def fast(monkeypatch, request):
    "Three halves instead of twenty, and no audit but where it is looked at"
    monkeypatch.setattr(elsewhere, 'halves_table', partial(halves_table, n_halves=3))
    none = SimpleNamespace(findings=pd.DataFrame(dict(check=[], says=pd.Series(dtype=str))))
    whole = test_all_parts, test_unreadable_files, test_page_and_predictions
    if request.function not in whole: monkeypatch.setattr(elsewhere, 'audit_archive', lambda df: none)

def said(found, part=None): return '\n'.join(found.says.says if part is None else found.says.says[found.says.part == part])

def test_all_parts(model, there):
    o = score_elsewhere(model, scan_images(there), n_boot=20)
    assert {*o.says.part} == {*PARTS} and 'Not known' not in said(o)
    for k in ('far', 'compared', 'audit', 'prior', 'scores', 'halves', 'drop', 'needed'): assert getattr(o, k) is not None, k
    page, failed = score_html(o)
    assert failed == [] and 'In short' in page

def test_short_says_what_to_trust(model, there):
    o = score_elsewhere(model, scan_images(there), n_boot=20)
    o.prior.attrs |= dict(agree=True, explained=.5)
    o.prior.loc['EM'] = .3, .2, .4
    assert o.trusted and 'PNEUMONIA is estimated at 30% of the images' in score_html(o, pictures=False)[0]
    for k,v in (('agree', False), ('explained', .01), ('explained', np.nan)):
        before = dict(o.prior.attrs)
        o.prior.attrs[k] = v
        assert not o.trusted and any('nobody can say how common' in s for s in score_page.short_answer(o))
        o.prior.attrs |= before

def test_rows_and_indices_do_not_matter(model, there):
    df = scan_images(there)
    a, b = (score_elsewhere(model, o, n_boot=20).scores for o in (df, df.set_index(np.zeros(len(df)))))
    pd.testing.assert_frame_equal(a, b)

def test_no_home(home, there):
    o = score_elsewhere(stand_in(home, home=False), scan_images(there), n_boot=20)
    assert said(o).count('the model folder holds no predictions of home') >= 2 and o.scores is not None and o.prior is None
    assert score_html(o, pictures=False)[1] == []

def test_no_threshold_and_temperature(home, there):
    o = score_elsewhere(stand_in(home, threshold=None, temperature=None), scan_images(there), n_boot=20)
    assert 'No threshold was saved' in said(o)

def test_no_digests(home, there):
    o = score_elsewhere(stand_in(home, digests=False), scan_images(there), n_boot=20)
    assert 'Not known: whether an image was trained on' in said(o) and len(o.seen) == 0 and o.scores is not None

def test_trained_on(model, home, there, tmp_path):
    shutil.copytree(there, tmp_path/'x')
    for i,o in enumerate(home.path[home.split == 'train'].head(3)): shutil.copy(o, tmp_path/f'x/test/NORMAL/again{i}.jpeg')
    o = score_elsewhere(model, scan_images(tmp_path/'x'), n_boot=20)
    assert '3 of 31 images' in said(o) and len(o.known) == 28 and o.predictions.trained_on.sum() == 3

def test_only_training_images(model, home):
    o = score_elsewhere(model, home[home.split == 'train'], n_boot=20)
    assert len(o.says) == 2 and 'nothing here is from elsewhere' in said(o) and score_html(o)[1] == []
    assert o.predictions.trained_on.all()

def test_labels_that_the_model_does_not_know(model, there):
    df = scan_images(there)
    o = score_elsewhere(model, df.assign(label=df.label.astype(str).replace('PNEUMONIA', 'COVID')), n_boot=20)
    assert 'COVID' in said(o, 'with labels') and len(o.known) == 20
    none = score_elsewhere(model, df.assign(label='images'), n_boot=20)
    assert 'nothing is scored' in said(none) and none.scores is None

def test_labels_in_another_spelling(model, there):
    df = scan_images(there)
    o = score_elsewhere(model, df.assign(label=df.label.astype(str).str.title()), n_boot=20)
    assert len(o.known) == 28 and not o.strange

def test_one_class(model, there):
    df = scan_images(there)
    o = score_elsewhere(model, df[df.label == 'NORMAL'], n_boot=20)
    assert 'No image is labelled PNEUMONIA' in said(o) and 'Not known: another threshold' in said(o) and score_html(o)[1] == []

def test_a_table_of_paths(model, there):
    df = pd.DataFrame(dict(path=[str(o) for o in sorted(there.rglob('*.jpeg'))]))
    o = score_elsewhere(model, df, n_boot=20)
    assert len(o.rows) == 28 and o.scores is None and o.prior is not None and o.needed is not None and o.moving is None

def test_one_image(model, there):
    o = score_elsewhere(model, find_images(next(there.rglob('*.jpeg'))), n_boot=20)
    assert len(o.predictions) == 1 and score_html(o)[1] == []

def test_unreadable_files(model, there, tmp_path):
    shutil.copytree(there, tmp_path/'x')
    (tmp_path/'x/test/NORMAL/broken.jpeg').write_bytes(b'no image')
    o = score_elsewhere(model, scan_images(tmp_path/'x'), n_boot=20)
    assert len(o.rows) == 28 and "1 of 29 files (3 %) can't be used" in said(o)

@pytest.mark.parametrize('df', [None, pd.DataFrame(), pd.DataFrame(dict(path=['nowhere.png']))])
def test_nothing_to_score(model, df):
    with pytest.raises(ValueError, match='expected'): score_elsewhere(model, df)

def test_three_classes(tmp_path):
    "Each class against the rest, one of them looked for"
    names = ['BACTERIA', 'NORMAL', 'VIRUS']
    def predicted(df):
        at = np.array([next(i for i,c in enumerate(names) if f'/{c}/' in o) for o in df.path])
        z = 2*np.eye(3)[at] + np.array([np.random.default_rng(len(o) + 7*i).normal(0, 1, 3) for i,o in enumerate(df.path)])
        p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
        cols = {f'prob_{c}': v for c,v in zip(names, p.T)}
        return df.assign(**cols, predicted=pd.Categorical.from_codes(p.argmax(1), names), label=pd.Categorical(df.label, names))
    counts = dict(train=dict.fromkeys(names, 36), test=dict.fromkeys(names, 8))
    df = split_valid(scan_images(make_phantoms(tmp_path/'home', counts, size=32)), .4)
    about = dict(arch='none', size=32, classes=names, threshold=None, temperature=None)
    model = SimpleNamespace(about=about, classes=names, positive=None, threshold=None, temperature=None, prior=pd.Series(1/3, names),
        fingerprint=fingerprint(df), home=predicted(df[df.split != 'train']), predict=predicted)
    there = make_phantoms(tmp_path/'there', dict(test=dict(BACTERIA=7, NORMAL=12, VIRUS=7)), size=32, seed=7)
    o = score_elsewhere(model, scan_images(there), n_boot=20)
    assert 'Not known' not in said(o) and o.positive == 'VIRUS' and o.prior.index.nlevels == 2 and abs(o.estimate.sum() - 1) < 1e-9
    assert {f'corrected_prob_{c}' for c in names} <= {*o.predictions}
    assert score_html(o, pictures=False)[1] == []

# The command

@pytest.fixture(scope='module')
def folder(home, tmp_path_factory):
    dls = xray_dataloaders(home, item_size=32, size=32, bs=8, num_workers=0, on_leak='ignore', device='cpu')
    set_seed(0)
    learn = xray_learner(dls, arch='shufflenet_v2_x0_5', pretrained=False)
    valid, test = (predict(learn, home[home.split == o]) for o in ('valid', 'test'))
    return save_model(learn, tmp_path_factory.mktemp('model')/'m', valid, test, threshold='youden')

def run(capsys, *args):
    "Exit code, what was printed, and the last line of stderr"
    code = pneumo_score(list(map(str, args)) + ['--n-boot', '20'])
    out, err = capsys.readouterr()
    return code, out, (err.strip().splitlines() or [''])[-1]

def test_page_and_predictions(folder, there, tmp_path, capsys):
    code, out, err = run(capsys, folder, there, '--out', tmp_path/'o')
    assert (code, err) == (0, '') and sorted(o.name for o in (tmp_path/'o').iterdir()) == ['predictions.csv', 'score.html']
    page = check_page(tmp_path/'o/score.html')
    assert 'What the labels say' in page.text and 'Not for clinical use' in page.text
    preds = pd.read_csv(tmp_path/'o/predictions.csv')
    assert len(preds) == 28 and np.allclose(preds.prob_NORMAL + preds.prob_PNEUMONIA, 1) and preds.label.notna().all()

def test_no_labels_no_pictures(folder, there, tmp_path, capsys):
    code, out, _ = run(capsys, folder, there, '--out', tmp_path/'o', '--no-labels', '--no-pictures')
    text = (tmp_path/'o/score.html').read_text()
    assert code == 0 and 'Labels were not used.' in out and 'data:image/jpeg' not in text and 'small pictures' not in text
    assert pd.read_csv(tmp_path/'o/predictions.csv').label.isna().all()

def test_nothing_is_replaced(folder, there, tmp_path, capsys):
    (tmp_path/'predictions.csv').write_text('mine')
    code, _, err = run(capsys, folder, there, '--out', tmp_path)
    assert code == 2 and 'pass --overwrite' in err and (tmp_path/'predictions.csv').read_text() == 'mine'
    assert run(capsys, folder, there, '--out', tmp_path, '--overwrite')[0] == 0
    assert (tmp_path/'predictions.csv').read_text().startswith('path,')

@pytest.mark.parametrize('args,says', [(['{m}', '{t}/nowhere'], 'found nothing at'), (['{t}', '{t}'], 'pneumo-score: expected'),
    (['{m}', '{e}'], 'found none'), (['{m}', '{t}', '--csv', '{t}/none.csv'], 'found no file'),
    (['{m}', '{f}', '--csv', '{f}'], 'found a file')])
def test_wrong_input(folder, there, tmp_path, capsys, args, says):
    (tmp_path/'empty').mkdir()
    names = dict(m=folder, t=there, e=tmp_path/'empty', f=next(there.rglob('*.jpeg')))
    code, _, err = run(capsys, *[o.format(**names) for o in args], '--out', tmp_path/'o')
    assert code == 2 and says in err and not list((tmp_path/'o').glob('*'))

def test_csv(folder, there, tmp_path, capsys):
    files = sorted(o.relative_to(there) for o in there.rglob('*.jpeg'))
    pd.DataFrame(dict(file=files, finding=[o.parent.name for o in files], who=range(len(files)))).to_csv(tmp_path/'a.csv', index=False)
    columns = ['--columns', 'path=file', 'label=finding', 'patient=who']
    assert run(capsys, folder, there, '--csv', tmp_path/'a.csv', *columns, '--out', tmp_path/'o')[0] == 0
    preds = pd.read_csv(tmp_path/'o/predictions.csv')
    assert len(preds) == 28 and preds.patient.nunique() == 28 and preds.label.notna().all()

def test_dicom(folder, tmp_path, capsys):
    pytest.importorskip('pydicom')
    dicom_phantoms(tmp_path/'d', dict(test=dict(NORMAL=8, PNEUMONIA=4)), size=64, compress='')
    code, _, err = run(capsys, folder, tmp_path/'d', '--out', tmp_path/'o')
    preds = pd.read_csv(tmp_path/'o/predictions.csv')
    assert code == 0 and len(preds) == 12 and preds.label.notna().all()

def test_names_are_escaped(folder, there, tmp_path, capsys):
    (tmp_path/'x').mkdir()
    for i,o in enumerate(sorted(there.rglob('*.jpeg'))[:3]): shutil.copy(o, tmp_path/f'x/<script>{i}.jpeg')
    code, _, _ = run(capsys, folder, tmp_path/'x', '--out', tmp_path/'o')
    check_page(tmp_path/'o/score.html')
    assert code == 0 and re.search(r'&lt;script&gt;\d', (tmp_path/'o/score.html').read_text())

def test_a_part_that_fails_is_a_sentence(folder, there, tmp_path, capsys, monkeypatch):
    def fails(*args): raise RuntimeError('no ink')
    monkeypatch.setattr(score_page, 'plot_roc', fails)
    code, _, err = run(capsys, folder, there, '--out', tmp_path/'o')
    assert code == 1 and 'Curves' in err and 'no ink' in (tmp_path/'o/score.html').read_text()

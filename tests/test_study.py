"The command `pneumo-study`: any number of classes and any names, saved before it is drawn, one sentence and an exit code for each ending."
import os, re, shutil, signal, subprocess, sys, time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
import matplotlib.pyplot as plt, nbformat, numpy as np, pandas as pd, pytest
from PIL import Image
from sklearn.datasets import load_digits
from pneumo_imbalance import report, study
from pneumo_imbalance.data import usable
from pneumo_imbalance.model import load_model
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.study import pneumo_study

small = '--size 32 --item-size 48 --no-pretrained --workers 0 --bs 16 --lr-frozen .01 --lr-unfrozen .001'.split()
quick = [*small, '--frozen', '0', '--unfrozen', '1']
alike = ['--on-leak', 'warn'] # among digits of 8 × 8 pixels some are nearly the same
markup = '<img src=x onerror=alert(1)>'
terrible = [markup, r'B$\frac{$', 'NO FINDING', 'COVID-19', '2', 'total', 'None', 'NA', 'nan', 'True', '_x', '-1', '%s{}', 'macro',
    'prob_1', 'label', 'a"b\'c', 'line\nbreak', 'ä ö 肺', 'x'*100]

def write_digits(dest, counts):
    "Real digits of scikit-learn as PNG in split/class folders; `counts` is split → class → images"
    X, y = load_digits(return_X_y=True)
    at = {d: list(np.flatnonzero(y == d)) for d in range(10)}
    for split,classes in counts.items():
        for i,(name,n) in enumerate(classes.items()):
            (folder := dest/split/name).mkdir(parents=True)
            for k in (at[i % 10].pop() for _ in range(n)):
                Image.fromarray((X[k].reshape(8, 8)*15).astype('uint8')).resize((72, 72)).save(folder/f'{k}.png')
    return dest

tags = set('html head meta title style body h1 h2 section div p ul li table thead tbody tr th td figure img figcaption a code'.split())
attrs = {'lang', 'charset', 'http-equiv', 'content', 'name', 'class', 'scope', 'rowspan', 'alt', 'src', 'href'}

class Page(HTMLParser):
    "Tags, attributes, headings and text of a page"
    def __init__(self, file):
        super().__init__()
        self.tags,self.attrs,self.text = [],[],''
        self.feed(file.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs += attrs

    def handle_data(self, data): self.text += data

def check_page(file):
    "A page without script, without links but to the cards beside it, and without a picture that is not its own"
    page = Page(file)
    assert not set(page.tags) - tags and not {k for k,_ in page.attrs} - attrs
    assert all(v.startswith('data:image/png;base64,') for k,v in page.attrs if k == 'src')
    links = [unquote(v) for k,v in page.attrs if k == 'href']
    assert all(re.fullmatch(r'models/[\w+]+/README\.md', o) and (file.parent/o).is_file() for o in links)
    assert any(k == 'content' and v.startswith("default-src 'none'; ") and 'script-src' not in v for k,v in page.attrs)
    assert 'could not be made' not in page.text
    return page

def read(file): return pd.read_csv(file, dtype=dict(label=str, predicted=str), keep_default_na=False)

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "A small tree of phantoms"
    counts = dict(train=dict(NORMAL=20, PNEUMONIA=58), test=dict(NORMAL=12, PNEUMONIA=20))
    return make_phantoms(tmp_path_factory.mktemp('images')/'xray', counts, size=64)

@pytest.fixture(scope='module')
def bad(tmp_path_factory):
    "A folder of things that can't be studied"
    root = tmp_path_factory.mktemp('bad')
    (root/'empty').mkdir()
    (root/'no_images').mkdir()
    (root/'no_images/notes.txt').write_text('no image')
    (root/'file').write_text('')
    make_phantoms(root/'one_class', dict(train=dict(PNEUMONIA=9), test=dict(PNEUMONIA=5)), size=48)
    make_phantoms(root/'no_test', dict(train=dict(NORMAL=1, PNEUMONIA=9)), size=48)
    make_phantoms(root/'few', dict(train=dict(NORMAL=1, PNEUMONIA=9), test=dict(NORMAL=2, PNEUMONIA=5)), size=48)
    make_phantoms(root/'lack', dict(train=dict(NORMAL=6, PNEUMONIA=9), test=dict(PNEUMONIA=5)), size=48)
    return root

@pytest.fixture
def short(monkeypatch):
    "A page of sentences and tables, where pictures are not the point"
    monkeypatch.setattr(report, '_parts', {k: v for k,v in report._parts.items() if k in ('Results', 'The networks as models', 'Settings')})

# What can't be done

wrong = [('empty', [], 'found none'), ('no_images', [], 'found none'), ('file', [], 'found a file'), ('nowhere', [], 'found nothing'),
    ('one_class', [], 'two or more classes'), ('no_test', [], 'at least 2 patients'), ('few', [], 'at least 2 patients'),
    ('lack', [], 'test images of each class'), ('few', ['--positive', 'COVID'], 'at least 2 patients'),
    ('no_test', ['--arch', 'resnet17'], 'did you mean'), ('no_test', ['--frozen', '0', '--unfrozen', '0'], 'at least one epoch'),
    ('no_test', ['--size', '96', '--item-size', '64'], 'at least size'), ('no_test', ['--lr-frozen', 'nan'], 'lr_frozen to be at least'),
    ('no_test', ['--bs', '0'], 'bs to be at least'), ('no_test', ['--balance', 'smote'], "found 'smote'")]

@pytest.mark.parametrize('path,args,says', wrong, ids=[f'{p} {" ".join(a)}' for p,a,_ in wrong])
def test_wrong_input(bad, tmp_path, capsys, path, args, says):
    assert pneumo_study([str(bad/path), '--out', str(tmp_path/'out'), *args]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith('pneumo-study: expected') and says in err and 'found' in err

def test_out_is_a_file(images, bad, capsys):
    assert pneumo_study([str(images), '--out', str(bad/'file')]) == 2
    assert 'can be written to' in capsys.readouterr().err

def test_results_are_not_replaced(images, tmp_path, capsys):
    (tmp_path/'scores.csv').write_text('mine')
    assert pneumo_study([str(images), '--out', str(tmp_path)]) == 2
    assert '--overwrite' in capsys.readouterr().err
    assert (tmp_path/'scores.csv').read_text() == 'mine'

def test_failed_download(images, tmp_path, capsys, monkeypatch):
    def urlopen(*args, **kwargs): raise OSError('no route to host')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'cache'))
    monkeypatch.setattr('torch.hub.urlopen', urlopen)
    assert pneumo_study([str(images), '--out', str(tmp_path/'out'), '--size', '32', '--item-size', '48', '--workers', '0']) == 2
    assert '--no-pretrained' in capsys.readouterr().err

def test_help_names_every_setting_and_remedy(capsys):
    with pytest.raises(SystemExit) as e: pneumo_study(['--help'])
    text = capsys.readouterr().out
    named = ['--no-pretrained', '--workers', '--positive', '--test-pct', '--notebook', '{raise,warn,drop,ignore}', *study.REMEDIES]
    assert e.value.code == 0 and all(o in text for o in named)

def test_unknown_choice_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as e: pneumo_study(['--on-leak', 'maybe'])
    assert e.value.code == 2 and 'invalid choice' in capsys.readouterr().err

# Two, three, four and twenty classes

def count_usable(monkeypatch):
    "A list that gets the file of each call of `usable`"
    calls, users = [], [o for k,o in sys.modules.items() if k.startswith('pneumo_imbalance.') and vars(o).get('usable') is usable]
    def counted(*args, **kwargs):
        calls.append(Path(sys._getframe(1).f_code.co_filename).name)
        return usable(*args, **kwargs)
    for o in users: monkeypatch.setattr(o, 'usable', counted)
    return calls

def test_four_uneven_classes(tmp_path, capsys, monkeypatch):
    calls = count_usable(monkeypatch)
    counts = dict(Training=dict(zip('abcd', (24, 16, 12, 8))), Testing=dict(zip('abcd', (10, 8, 6, 5))))
    data = write_digits(tmp_path/'data', counts)
    assert pneumo_study([str(data), '--out', str(tmp_path/'out'), *quick, *alike]) == 0
    page, preds = check_page(tmp_path/'out/report.html'), read(tmp_path/'out/predictions.csv')
    assert '4 classes, each against the rest' in page.text and 'same archive' not in page.text
    assert page.tags.count('img') == 18
    want = {(m, k): n for m in ('baseline', 'oversample') for k,n in counts['Testing'].items()}
    assert preds.groupby(['model', 'label']).size().to_dict() == want
    assert set(read(tmp_path/'out/predictions_valid.csv').split) == {'valid'}
    assert len(read(tmp_path/'out/scores.csv')) == 2*5*12 and len(read(tmp_path/'out/history.csv')) == 2
    assert calls.count('study.py') == 1 and len(calls) <= 48 # once at the door of the study; the doors that it goes through look again
    assert '\r' not in capsys.readouterr().out

def test_networks_are_saved_as_models(images, tmp_path, short):
    assert pneumo_study([str(images), '--out', str(tmp_path/'out'), '--balance', 'none+threshold', *quick]) == 0
    want, preds = dict(arch='resnet18', positive='PNEUMONIA', size=32, item_size=48, seed=42), read(tmp_path/'out/predictions.csv')
    for name in ('baseline', 'none+threshold'):
        model, rows = load_model(tmp_path/'out/models'/name, device='cpu'), preds[preds.model == name]
        assert {k: model.about[k] for k in want} == want and model.about['weights']['start'] == 'random'
        assert model.about['shift'] == ('+' in name) and model.about['threshold']['how'] == 'youden'
        assert sum(model.prior) == pytest.approx(1)
        assert model.home.prob_NORMAL[model.home.split == 'test'].tolist() == rows.prob_NORMAL.tolist()
        np.testing.assert_allclose(model.predict(rows.path.tolist()).prob_NORMAL, rows.prob_NORMAL, atol=1e-4)
    page = check_page(tmp_path/'out/report.html')
    assert page.text.count('positive: PNEUMONIA') == 2 and 'as chosen on validation images' in page.text

def test_flat_tree_of_three_and_its_notebook(tmp_path, capsys, monkeypatch, short):
    data = write_digits(tmp_path/'data', {'': dict(one=30, two=20, three=12)})
    assert pneumo_study([str(data), '--out', str(tmp_path/'out'), '--test-pct', '.3', '--notebook', *quick, *alike]) == 0
    assert 'There was no test split' in capsys.readouterr().out
    assert 'drawn from the same archive' in check_page(tmp_path/'out/report.html').text
    book = nbformat.read(tmp_path/'out/study.ipynb', 4)
    nbformat.validate(book)
    space = {}
    monkeypatch.chdir(tmp_path/'out')
    for c in book.cells:
        if c.cell_type == 'code': exec(c.source, space)
    plt.close('all')
    preds = read(tmp_path/'out/predictions.csv')
    for name,table in zip(('baseline', 'oversample'), space['test'].values()):
        same = preds[preds.model == name].set_index('path').loc[table.path]
        np.testing.assert_allclose(same.filter(like='prob_'), table.filter(like='prob_'), atol=1e-4)

def test_a_table_and_its_notebook(images, tmp_path, monkeypatch, short):
    table = study.scan_images(images).assign(site='<b>')
    settings = dict(size=32, item_size=48, frozen=0, unfrozen=1, lr_unfrozen=1e-3, pretrained=False, num_workers=0, bs=16)
    out = study.study(table, tmp_path/'out', notebook=True, balance='none', positive='NORMAL', **settings).parent
    assert 'positive: NORMAL' in check_page(out/'report.html').text
    monkeypatch.chdir(out)
    cells = [c.source for c in nbformat.read(out/'study.ipynb', 4).cells if c.cell_type == 'code']
    space = {}
    for o in cells[:2]: exec(o, space)
    assert space['df'].split.value_counts().to_dict() == dict(train=62, valid=16, test=32)

def test_twenty_terrible_names(tmp_path):
    data = write_digits(tmp_path/'data'/markup, dict(train={k: 5 for k in terrible}, test={k: 2 for k in terrible}))
    assert pneumo_study([str(data), '--out', str(tmp_path/'out'), '--balance', 'none', *quick, '--on-leak', 'ignore']) == 0
    page = check_page(tmp_path/'out/report.html')
    assert all(o in page.text for o in (*terrible, 'Leaks were not looked for'))
    assert set(read(tmp_path/'out/predictions.csv').label) == set(terrible)

def test_two_terrible_names(tmp_path):
    data = write_digits(tmp_path/'data', dict(train={r'B$\frac{$': 9, markup: 30}, test={r'B$\frac{$': 5, markup: 9}))
    args = ['--balance', 'two_phase_over', '--positive', r'B$\frac{$', *small, *alike, '--frozen', '1', '--unfrozen', '2']
    assert pneumo_study([str(data), '--out', str(tmp_path/'out'), *args]) == 0
    assert check_page(tmp_path/'out/report.html').text.count(r'positive: B$\frac{$') >= 6

# Whatever goes wrong

def test_what_cannot_be_drawn_costs_no_training(images, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs): raise RuntimeError(markup)
    for o in [o for o in vars(report) if o.startswith(('plot_', 'show_'))]: monkeypatch.setattr(report, o, fail)
    monkeypatch.setattr(report, '_curves', dict.fromkeys(report._curves, fail))
    for o in ('remedy_sentence', 'threshold_sentence'): monkeypatch.setattr(report, o, fail)
    monkeypatch.setattr(report, '_parts', {k: fail if k == 'Settings' else v for k,v in report._parts.items()})
    assert pneumo_study([str(images), '--out', str(tmp_path/'out'), *quick]) == 1
    err, page = capsys.readouterr().err, Page(tmp_path/'out/report.html')
    assert err.startswith('pneumo-study: parts of the report could not be made: ') and 'Settings' in err and 'Grad-CAM' in err
    assert page.text.count('could not be made (RuntimeError: ' + markup) == err.count(';') + 1 and 'img' not in page.tags
    assert set(read(tmp_path/'out/predictions.csv').model) == {'baseline', 'oversample'}
    assert len(list((tmp_path/'out/models').iterdir())) == 2

def test_a_network_that_cannot_be_saved_costs_a_sentence(images, tmp_path, monkeypatch, capsys):
    def refuse(*args, **kwargs): raise ValueError(f'expected another network {markup}')
    monkeypatch.setattr(study, 'save_model', refuse)
    monkeypatch.setattr(report, '_parts', {k: v for k,v in report._parts.items() if k == 'The networks as models'})
    assert pneumo_study([str(images), '--out', str(tmp_path/'out'), '--balance', 'none', *quick]) == 0
    assert f'baseline was not saved: expected another network {markup}' in check_page(tmp_path/'out/report.html').text
    assert not [*tmp_path.glob('out/models/*')]

def test_without_a_path_phantoms_are_drawn(tmp_path, monkeypatch, short):
    few = dict(train=dict(NORMAL=12, PNEUMONIA=20), test=dict(NORMAL=5, PNEUMONIA=6))
    monkeypatch.setattr(study, '_phantom_counts', few)
    assert pneumo_study(['--out', str(tmp_path/'out'), '--balance', 'none', *quick]) == 0
    assert 'generated phantoms' in check_page(tmp_path/'out/report.html').text

def test_python_hears_of_what_cannot_be_drawn(images, tmp_path, monkeypatch):
    monkeypatch.setattr(study, '_study', lambda **kwargs: (tmp_path, ['Calibration']))
    with pytest.warns(UserWarning, match='Calibration'): assert study.study(images) == tmp_path

class Killed(BaseException): pass

mine = ['mine.txt', 'models/mine.safetensors', 'models/baseline/mine.txt', 'models/mine/model.json']
old = ['report.html', 'scores.csv', 'predictions.csv', 'models/baseline/model.json', 'models/focal+threshold/home.csv', *mine]

new = {'predictions.csv', 'history.csv', 'models/baseline/model.json'}

@pytest.mark.parametrize('when', ['unlink', 'replace'])
def test_no_old_report_beside_new_predictions(tmp_path, monkeypatch, when):
    "However many steps of a new run's taking the old one's place were done when it was killed"
    for n in range(12):
        shutil.rmtree(tmp_path/'out', ignore_errors=True)
        for o in old:
            (tmp_path/'out'/o).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path/'out'/o).write_text('old')
        done, real = [], getattr(Path, when)
        def step(self, *args, **kwargs):
            done.append(self)
            if len(done) > n: raise Killed
            return real(self, *args, **kwargs)
        def save(folder):
            (folder/'models/baseline').mkdir(parents=True)
            for o in new: (folder/o).write_text('new')
            monkeypatch.setattr(Path, when, step)
        try: study._publish(save, tmp_path/'out')
        except Killed: pass
        monkeypatch.undo()
        files = [o for o in (tmp_path/'out').rglob('*') if o.is_file() and '.pneumo-study' not in o.parts]
        texts = {str(o.relative_to(tmp_path/'out')): o.read_text() for o in files}
        assert not ('report.html' in texts and texts.get('predictions.csv') != 'old')
        assert all(texts[o] == 'old' for o in mine)
    assert {k for k,v in texts.items() if v == 'new'} == new and len(texts) == len(new) + len(mine)
    assert not list((tmp_path/'out').glob('.*'))

def test_interrupted(images, tmp_path):
    out = tmp_path/'out'
    # A shell that runs this in the background has it ignore SIGINT, and so would its children.
    hear = 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)'
    args = [str(images), '--out', str(out), '--frozen', '1', '--unfrozen', '3', *small]
    code = f'{hear}; from pneumo_imbalance import report, study; report._parts = {{}}; sys.exit(study.pneumo_study({args!r}))'
    pipes = dict(stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    p = subprocess.Popen([sys.executable, '-c', code], env=dict(os.environ, TQDM_DISABLE='1'), **pipes)
    end = time.monotonic() + 300
    while not (out/'report.html').exists() and p.poll() is None and time.monotonic() < end: time.sleep(.05)
    p.send_signal(signal.SIGINT)
    said, err = p.communicate(timeout=120)
    assert p.returncode == 130, err
    assert f'interrupted; finished and kept in {out}: baseline' in err and 'Traceback' not in err
    assert len(re.findall('^epoch ', said, re.M)) >= 4 and '\r' not in said
    assert set(pd.read_csv(out/'predictions.csv').model) == {'baseline'}
    assert 'the study was interrupted' in (out/'report.html').read_text()
    assert [o.name for o in out.glob('.*')] == ['.pneumo-begun'] # from which the same command goes on

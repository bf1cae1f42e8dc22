"The command `pneumo-study`: wrong input is one sentence and exit code 2, an interruption keeps what was finished."
import os, signal, subprocess, sys, time
import pandas as pd, pytest
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.study import pneumo_study

small = '--size 32 --item-size 48 --no-pretrained --workers 0 --bs 16 --lr-frozen .01 --lr-unfrozen .001'.split()

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "A small tree of phantoms"
    return make_phantoms(tmp_path_factory.mktemp('images')/'xray', dict(train=dict(NORMAL=20, PNEUMONIA=58), test=dict(NORMAL=12, PNEUMONIA=20)), size=64)

@pytest.fixture(scope='module')
def bad(tmp_path_factory):
    "A folder of things that can't be studied"
    root = tmp_path_factory.mktemp('bad')
    (root/'empty').mkdir()
    (root/'no_images').mkdir()
    (root/'no_images/notes.txt').write_text('no image')
    (root/'file').write_text('')
    make_phantoms(root/'one_class', dict(train=dict(PNEUMONIA=9), test=dict(PNEUMONIA=5)), size=48)
    make_phantoms(root/'no_test', dict(train=dict(NORMAL=6, PNEUMONIA=9)), size=48)
    make_phantoms(root/'few', dict(train=dict(NORMAL=1, PNEUMONIA=9), test=dict(NORMAL=2, PNEUMONIA=5)), size=48)
    return root

wrong = [('empty', [], 'found none'), ('no_images', [], 'found none'), ('file', [], 'found a file'), ('nowhere', [], 'found nothing'),
    ('one_class', [], 'two or more classes'), ('no_test', [], 'expected a test split'), ('few', [], 'at least 2 patients'),
    ('no_test', ['--arch', 'resnet17'], 'did you mean'), ('no_test', ['--frozen', '0', '--unfrozen', '0'], 'at least one epoch'),
    ('no_test', ['--size', '96', '--item-size', '64'], 'size <= item_size')]

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

def test_interrupted(images, tmp_path):
    out = tmp_path/'out'
    # A shell that runs this in the background has it ignore SIGINT, and so would its children.
    hear = 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)'
    code = f'{hear}; from pneumo_imbalance.study import pneumo_study; sys.exit(pneumo_study({[str(images), "--out", str(out), "--frozen", "1", "--unfrozen", "6", *small]!r}))'
    p = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=dict(os.environ, IN_TEST='1'))
    end = time.monotonic() + 300
    while not (out/'report.html').exists() and p.poll() is None and time.monotonic() < end: time.sleep(.05)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=120)[1]
    assert p.returncode == 130, err
    assert 'interrupted; finished and kept' in err and 'Traceback' not in err
    assert set(pd.read_csv(out/'predictions.csv').model) == {'baseline'}
    assert 'the study was interrupted' in (out/'report.html').read_text()

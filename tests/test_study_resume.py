"A study that was killed at any moment goes on by the same command, and ends with the same predictions; SLOW=1 kills real processes."
import os, random, shutil, signal, subprocess, sys, time
import pytest
from fastai.vision.all import ConvLayer, nn
from pneumo_imbalance import resume, study as module
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.study import study

class Killed(BaseException): "Nothing catches it, as nothing catches SIGKILL"

def body():
    "Two convolutions"
    return nn.Sequential(ConvLayer(3, 8, stride=2), ConvLayer(8, 8, stride=2))

small = dict(size=32, item_size=48, num_workers=0, bs=16, frozen=1, unfrozen=2, lr_unfrozen=1e-3, arch=body, balance='two_phase_over')
places = [(resume, 'write_checkpoint'), (module, 'predict'), (module, 'save_model'), (module, 'write_whole'), (module, 'score'),
    (module, 'study_page')]

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    counts = dict(train=dict(NORMAL=20, PNEUMONIA=44), test=dict(NORMAL=10, PNEUMONIA=14))
    return make_phantoms(tmp_path_factory.mktemp('resumed')/'xray', counts, size=64)

def killed_at(monkeypatch, k):
    "Die before, or after, one of the calls that write or last; count them"
    calls = []
    def watched(module, name):
        f = getattr(module, name)
        def g(*args, **kwargs):
            calls.append(name)
            if len(calls) == k: raise Killed
            done = f(*args, **kwargs)
            calls.append(name)
            if len(calls) == k: raise Killed
            return done
        monkeypatch.setattr(module, name, g)
    monkeypatch.setattr(module, 'study_page', lambda *_: ('<html></html>', []))
    for o in places: watched(*o)
    return calls

def files(out): return sorted(str(o.relative_to(out)) for o in out.rglob('*') if o.is_file())

@pytest.fixture(scope='module')
def whole(images, tmp_path_factory):
    "A study that was never cut off, and how many calls it made"
    out = tmp_path_factory.mktemp('whole')/'out'
    with pytest.MonkeyPatch.context() as m:
        calls = killed_at(m, 0)
        study(images, out, **small)
    return out, len(calls)

@pytest.mark.parametrize('share', [.02, .2, .4, .55, .7, .9, .99] if os.environ.get('SLOW') else [.3, .55, .9])
def test_killed_and_gone_on_with(images, whole, share, tmp_path, monkeypatch, capsys):
    out = tmp_path/'out'
    with pytest.MonkeyPatch.context() as m:
        killed_at(m, max(1, round(share*whole[1])))
        with pytest.raises(Killed): study(images, out, **small)
    monkeypatch.setattr(module, 'study_page', lambda *_: ('<html></html>', []))
    begun = any((out/'.pneumo-begun').glob('*/checkpoint-*'))
    capsys.readouterr()
    study(images, out, **small)
    assert ('Going on with the study' in capsys.readouterr().out) == begun
    for o in ('predictions', 'predictions_valid', 'history', 'scores'):
        assert (out/f'{o}.csv').read_bytes() == (whole[0]/f'{o}.csv').read_bytes(), o
    assert files(out) == files(whole[0]) and not [o for o in files(out) if o.startswith('.')]

def test_other_settings_are_refused_and_overwrite_begins_anew(images, tmp_path, capsys):
    out = tmp_path/'out'
    with pytest.MonkeyPatch.context() as m:
        killed_at(m, 12)
        with pytest.raises(Killed): study(images, out, **small)
        m.undo()
        other = r'the study that was begun in .*other settings \(seed\).*--overwrite'
        with pytest.raises(ValueError, match=other): study(images, out, seed=1, **small)
        m.setattr(module, 'study_page', lambda *_: ('<html></html>', []))
        study(images, out, seed=1, overwrite=True, **small)
    assert 'Going on' not in capsys.readouterr().out and (out/'predictions.csv').exists()

def test_a_finished_study_is_not_begun_again(images, whole):
    with pytest.raises(ValueError, match='expected a folder without results'): study(images, whole[0], **small)

@pytest.mark.skipif(not os.environ.get('SLOW'), reason='thirty real processes are killed, many minutes: SLOW=1 runs it')
def test_thirty_kills(images, tmp_path):
    rng, options = random.Random(0), ('--size 32 --item-size 48 --no-pretrained --workers 0 --bs 16 --frozen 1 --unfrozen 2 '
        '--arch shufflenet_v2_x0_5').split()
    env = os.environ | dict(OMP_NUM_THREADS='1', PNEUMO_CACHE=str(tmp_path/'cache'), TMPDIR=str(tmp_path/'tmp'))
    (tmp_path/'tmp').mkdir()
    def start(out):
        code = 'import sys; from pneumo_imbalance.study import pneumo_study; sys.exit(pneumo_study())'
        return subprocess.Popen([sys.executable, '-c', code, str(images), '--out', str(out), *options], env=env, stdout=subprocess.DEVNULL)
    begin = time.monotonic()
    assert start(tmp_path/'whole').wait() == 0
    lasts = time.monotonic() - begin
    for i in range(30):
        out = tmp_path/f'out{i}'
        process = start(out)
        time.sleep(rng.uniform(0, lasts))
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished = (out/'report.html').exists() and not (out/'.pneumo-begun').exists() # killed on its way out
        assert start(out).wait() == (2 if finished else 0)
        assert (out/'predictions.csv').read_bytes() == (tmp_path/'whole/predictions.csv').read_bytes(), i
        assert files(out) == files(tmp_path/'whole'), i
        shutil.rmtree(out)
    assert not list((tmp_path/'tmp').iterdir())

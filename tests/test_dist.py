"""Two processes on one network: the same steps, scores and predictions as one process with the double batch; a training
that was cut off goes on with the same weights; a study is done once, and ends in both alike."""
import json, os, socket, subprocess, sys
import pandas as pd, pytest
from pneumo_imbalance.phantom import make_phantoms

pytest.importorskip('accelerate', reason='accelerate is not installed: one process only')

script = '''
import json, os, sys
alone = 'WORLD_SIZE' not in os.environ
if alone: sys.modules['accelerate'] = None # not installed: one process needs none
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
import pneumo_imbalance.train
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn
from pneumo_imbalance.block import ImageAugment, xray_dataloaders
from pneumo_imbalance.data import scan_images
from pneumo_imbalance import study
from pneumo_imbalance.evaluate import predict
from pneumo_imbalance.processes import first_process_first, is_first_process
from pneumo_imbalance.sampling import BalancedSampler
from pneumo_imbalance.train import set_seed

class Seen(Callback):
    def __init__(self): self.steps = []
    def before_batch(self):
        if self.training: self.steps.append(self.x.mean((1, 2, 3)).mul(1e4).round().long().tolist())

torch.set_num_threads(1)
augment, ImageAugment.before_call = ImageAugment.before_call, lambda self, b, split_idx: setattr(self, 'random', False)
out, bs = Path(sys.argv[1]), int(sys.argv[2])
def loaders(): return xray_dataloaders(df, 32, 32, bs, BalancedSampler, on_leak='ignore', device='cpu')

with first_process_first():
    df = scan_images(out.parent/'images')
    dls = loaders()
set_seed(1)
net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
learn = Learner(dls, net, nn.CrossEntropyLoss(), metrics=accuracy, path=out, cbs=Seen())
with nullcontext() if alone else learn.distrib_ctx():
    history = learn.fit_two_stage(0, 2, lr_unfrozen=1e-2, keep_best=True)
    inside = predict(learn, df)
name = 0 if alone else torch.distributed.get_rank()
inside.to_csv(out/f'inside{name}.csv', index=False)
predict(learn, df).to_csv(out/f'after{name}.csv', index=False)
told = dict(steps=learn.seen.steps, history=history.drop(columns='stage').values.tolist(), first=is_first_process())

class Cut(Callback):
    def __init__(self, cuts): self.cuts = cuts
    def after_batch(self):
        if self.cuts and self.training and self.learn.n_epoch == 2 and self.learn.train_iter == 6: raise KeyboardInterrupt

def trained(folder, cuts=False, shared=True, **plan):
    dls = loaders()
    set_seed(1)
    body = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.BatchNorm2d(4), nn.ReLU())
    net = nn.Sequential(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.2), nn.Linear(4, 2)))
    learn = Learner(dls, net, nn.CrossEntropyLoss(), path=out, cbs=Cut(cuts))
    plan |= dict(lr_frozen=1e-2, every=0, train_bn=False, show_plot=False)
    with learn.distrib_ctx() if shared else nullcontext(): learn.fit_two_stage(1, 2, resume=out/folder, **plan)
    return dict(weights=[o.tolist() for o in net.state_dict().values()], rates=[o['lr'] for o in learn.stages])

ImageAugment.before_call = augment
if not alone:
    told['whole'] = trained('whole')
    try: trained('cut', cuts=True)
    except KeyboardInterrupt: told['left'] = sorted(o.name for o in (out/'cut').iterdir())
    told['cut'] = trained('cut')
    try: trained('cut', shared=False)
    except ValueError as e: told['refused'] = str(e)
    try: trained('views', views=2)
    except ValueError as e: told['views'] = str(e)

def studied(path, *more):
    args = '--size 32 --item-size 32 --no-pretrained --workers 0 --bs 4 --lr-unfrozen .001 --frozen 0 --unfrozen 1 --on-leak warn'
    with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as complained:
        code = study.pneumo_study([str(out.parent/path), '--out', str(out/'study'), '--arch', 'shufflenet_v2_x0_5', *args.split(), *more])
    return dict(code=code, said=said.getvalue(), complained=complained.getvalue())

def interrupted(*args, **kwargs): raise KeyboardInterrupt

if not alone:
    study.study_page = lambda *_: ('<html></html>', [])
    score, study.score = study.score, interrupted
    told['studies'] = [studied('nowhere'), studied('images')]
    study.score = score
    told['studies'] += [studied('images', '--seed', '1'), studied('images')]
(out/f'told{name}.json').write_text(json.dumps(told))
'''

def start(d, name, bs, n=1):
    "Run the script in `n` processes"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    (d/name).mkdir()
    file = d/'script.py'
    file.write_text(script)
    own = dict(ACCELERATE_USE_CPU='true', PNEUMO_CACHE=str(d/'cache'), OMP_NUM_THREADS='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    env = os.environ | own
    ranks = [env | (dict(RANK=str(i), LOCAL_RANK=str(i), WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n)) if n > 1 else {}) for i in range(n)]
    return [subprocess.Popen([sys.executable, str(file), str(d/name), str(bs)], env=o, stderr=subprocess.PIPE, text=True) for o in ranks]

def finish(procs):
    try: errors = [p.communicate(timeout=300)[1] for p in procs]
    finally:
        for p in procs: p.kill()
    assert not any(p.returncode for p in procs), errors

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "What one process and each of two have seen and told"
    d = tmp_path_factory.mktemp('dist')
    counts = dict(train=dict(NORMAL=6, PNEUMONIA=15), valid=dict(NORMAL=3, PNEUMONIA=8), test=dict(NORMAL=2, PNEUMONIA=2))
    make_phantoms(d/'images', counts, size=48)
    finish(start(d, 'one', 8))
    finish(start(d, 'two', 4, n=2))
    return d, *(json.loads((d/o).read_text()) for o in ('one/told0.json', 'two/told0.json', 'two/told1.json'))

def test_same_images_in_each_step(runs):
    _, one, *two = runs
    assert [sorted(a + b) for a,b in zip(*(o['steps'] for o in two), strict=True)] == [sorted(o) for o in one['steps']]
    assert [len(o) for o in two[0]['steps']] == [4, 4, 4, 3]*2

def test_same_scores(runs):
    _, one, *two = runs
    assert two[0]['history'] == two[1]['history']
    assert [o['first'] for o in two] == [True, False]
    for a,b in zip(one['history'], two[0]['history'], strict=True): assert a == pytest.approx(b, abs=1e-4)

def test_same_predictions_in_the_same_order(runs):
    d = runs[0]
    one, first = pd.read_csv(d/'one/inside0.csv'), pd.read_csv(d/'two/inside0.csv')
    pd.testing.assert_frame_equal(one, first, rtol=0, atol=1e-4)
    for o in ('inside1', 'after0', 'after1'): pd.testing.assert_frame_equal(first, pd.read_csv(d/f'two/{o}.csv'), rtol=0, atol=1e-5)

def test_one_rate_for_all(runs):
    _, _, a, b = runs
    given, found = a['whole']['rates']
    assert given == 1e-2 and 1e-7 < found < 10 and a['whole']['rates'] == b['whole']['rates']

def test_cut_off_and_gone_on_with(runs):
    d, _, *two = runs
    assert two[0]['whole'] == two[1]['whole']
    for o in two: assert o['cut'] == o['whole'] and all(k.startswith('checkpoint-') for k in o['left'])
    assert all('expected as many processes' in o['refused'] and '(2), found 1' in o['refused'] for o in two)
    assert all('views= works in one process only' in o['views'] for o in two)
    assert len(list((d/'two/cut').iterdir())) == 2

def test_study_is_done_once(runs):
    d, _, *two = runs
    nowhere, interrupted, other, done = zip(*(o['studies'] for o in two))
    assert [[o['code'] for o in pair] for pair in (nowhere, interrupted, other, done)] == [[2]*2, [130]*2, [2]*2, [0]*2]
    assert all(not o['said'] and not o['complained'] for o in two[1]['studies'])
    assert 'found nothing at' in nowhere[0]['complained'] and 'other settings (seed)' in other[0]['complained']
    assert nowhere[0]['complained'].count('\n') == 1
    assert ': nothing; the same command goes on' in interrupted[0]['complained']
    said = done[0]['said']
    assert 'Going on with the study' in said and 'This training is finished' in said and said.count('epoch 1 of 1') == 1
    assert said.count('2 processes share each step of 2 × 4 images') == 2

def test_study_has_each_image_once_in_order(runs):
    out = runs[0]/'two/study'
    test = [str(o) for k in ('NORMAL', 'PNEUMONIA') for o in sorted((runs[0]/'images/test'/k).iterdir())]
    preds = pd.read_csv(out/'predictions.csv')
    assert preds.path.tolist() == test*2 and preds.model.tolist() == ['baseline']*len(test) + ['oversample']*len(test)
    assert preds.filter(like='prob_').notna().all(axis=None)
    assert not pd.read_csv(out/'predictions_valid.csv').duplicated(['model', 'path']).any()
    assert pd.read_csv(out/'history.csv').train_loss.notna().tolist() == [True]*2
    files = 'history.csv models predictions.csv predictions_valid.csv report.html scores.csv'
    assert sorted(o.name for o in out.iterdir()) == files.split()

"Loaders, training and interpretation: any number of classes, any names, a missing class, batches of any size, networks of any kind."
import math
import numpy as np, pandas as pd, pytest, torch
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
from PIL import Image
from fastai.vision.all import nn
from torchvision import models
from pneumo_imbalance.arch import cut_body
from pneumo_imbalance.block import checked_dataloaders, xray_dataloaders
from pneumo_imbalance.data import read_table
from pneumo_imbalance.evaluate import predict
from pneumo_imbalance.interpret import grad_cam, plot_grad_cam, plot_worst, worst_images
from pneumo_imbalance.sampling import BalancedSampler
from pneumo_imbalance.train import set_seed, weighted_loss, xray_learner

terrible = ['COVID-19', 'NO FINDING', '2', r'B$\frac{$', 'total', 'None', 'prob_x', 'Ünïcødé', '<img src=x onerror=alert(1)>', "it's",
    'a,b', 'x\ty', 'macro', 'label', 'nan ', '0', '%s {0}', '_', '#', 'A' * 80]

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "Eighty small images of noise: 60 train, 20 valid"
    d, rng = tmp_path_factory.mktemp('noise'), np.random.default_rng(0)
    for i in range(80): Image.fromarray(rng.integers(0, 255, (24, 24), 'u1')).save(d/f'p{i}.png')
    paths, patients = [str(d/f'p{i}.png') for i in range(80)], [f'p{i}' for i in range(80)]
    return read_table(pd.DataFrame(dict(path=paths, label='x', split=['train']*60 + ['valid']*20, patient=patients)))

@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch): monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))

def small(weights=None):
    "A network of one convolution"
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9))

def loaders(df, **kwargs): return xray_dataloaders(df, **dict(item_size=24, size=16, bs=16, num_workers=0, on_leak='ignore') | kwargs)

def learner(dls, tmp_path, arch=small, **kwargs):
    set_seed(1)
    return xray_learner(dls, arch, pretrained=False, path=tmp_path, **kwargs)

def labelled(images, names):
    "The images with `names` for labels in turn, in a plain column"
    return images.assign(label=[names[i % len(names)] for i in range(len(images))])

kinds = {'2 numbers': [0, 1], '2 truths': [False, True], '3 fractions': [.5, 1., 2.], '4 names': terrible[:4], '20 names': terrible,
    '20 numbers': list(range(20))}

@pytest.mark.parametrize('names', kinds.values(), ids=kinds)
def test_any_classes(images, names, tmp_path):
    df = labelled(images, names)
    dls = loaders(df)
    assert len(dls.vocab) == len(names)
    learn = learner(dls, tmp_path, loss_func=weighted_loss(dls))
    history = learn.fit_two_stage(1, 1, 1e-3, 1e-3)
    assert history.notna().all().all()
    assert ((history.roc_auc >= 0) & (history.roc_auc <= 1)).all()
    preds = predict(learn, df[df.split == 'valid'])
    wrong = worst_images(preds, 99)
    assert len(wrong) == (preds.label.astype(str) != preds.predicted.astype(str)).sum()
    assert grad_cam(learn, preds.head(3), target=dls.vocab[-1]).shape == (3, 16, 16)
    plot_worst(preds, 4).canvas.draw()
    plot_worst(preds, label=names[0]).canvas.draw()
    plot_grad_cam(learn, preds, 3).canvas.draw()
    plot_grad_cam(learn, preds, 3, dls.vocab[-1]).canvas.draw()
    plt.close('all')

@pytest.mark.parametrize('cache', [True, False, 'device'])
def test_labels_are_the_rows_own(images, cache):
    df = labelled(images, [3, 10, 2]).sample(frac=1, random_state=0)
    dls = loaders(df, cache=cache, device='cpu')
    seen = [dls.vocab[i] for _,y in dls.valid for i in y]
    assert seen == list(df[df.split == 'valid'].label.astype(str))

def test_an_index_that_repeats_changes_nothing(images):
    df = labelled(images, ['a', 'b', 'c'])
    a, b = loaders(df), loaders(df.set_axis(np.arange(len(df)) % 7))
    for dls in (a, b): assert len(dls.train_ds) == 60
    for x,y in zip(a.train, b.train): assert torch.equal(x[1], y[1])

@pytest.mark.parametrize('names', [['a', 'b', 'c', 'd'], ['a', 'b']], ids=len)
def test_a_class_that_valid_lacks(images, names, tmp_path):
    df = labelled(images, names)
    df = df[~((df.split == 'valid') & (df.label == names[-1]))]
    history = learner(loaders(df), tmp_path).fit_two_stage(0, 1, lr_unfrozen=1e-3)
    assert math.isnan(history.roc_auc[0]) == (len(names) == 2)
    assert history.balanced_accuracy.notna().all()

def test_a_training_that_diverges_ends(images, tmp_path):
    dls = loaders(labelled(images, ['a', 'b']))
    history = learner(dls, tmp_path, loss_func=lambda x, y: x.sum()*math.nan).fit_two_stage(1, 1, 1e-3, 1e-3, keep_best=True)
    assert history.valid_loss.isna().all() and len(history) == 2

@pytest.mark.parametrize('bs', [1, 0, -3, 2.5, None, 'many', math.nan, math.inf])
def test_batches_that_are_none(images, bs):
    df = labelled(images, ['a', 'b'])
    for make in (loaders, lambda df, bs: checked_dataloaders(df, 24, 16, bs)):
        with pytest.raises(ValueError, match='expected a batch size bs of 2 images or more'): make(df, bs=bs)

@pytest.mark.parametrize('bs', [2, 7, 8., 59, 60, 1000, np.int64(16)])
def test_batches_of_any_size_show_every_image(images, bs, tmp_path):
    dls = loaders(labelled(images, ['a', 'b', 'c']), bs=bs)
    left = 60 % bs == 1
    assert sum(len(y) for _,y in dls.train) == 60 - left
    assert len(learner(dls, tmp_path).fit_two_stage(0, 1, lr_unfrozen=1e-3)) == 1

def test_weights_and_samplers_of_many_classes(images):
    df = labelled(images, terrible)
    dls = loaders(df, sampler=BalancedSampler)
    n = torch.cat([y for _,y in dls.train]).bincount()
    assert len(n) == 20 and len(set(n.tolist())) == 1
    with pytest.warns(UserWarning, match='Use one of the two'): weight = weighted_loss(dls).func.weight
    assert torch.allclose(weight, torch.ones(20))

def test_an_epoch_is_a_line_where_nobody_watches(images, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('IN_TEST', raising=False)
    learn = learner(loaders(labelled(images, ['a', 'b'])), tmp_path)
    capsys.readouterr()
    learn.fit_two_stage(2, 1, show_plot=False, keep_best=True)
    said = capsys.readouterr()
    assert '\r' not in said.out + said.err
    assert len([o for o in said.out.splitlines() if o.strip()]) == 3

@pytest.mark.parametrize('device', ['gpu', 'cpu:x', 3.5, 'cuda:99'])
def test_devices_that_are_not_there(images, device):
    with pytest.raises(ValueError, match='expected a device of this machine'): loaders(labelled(images, ['a', 'b']), device=device)

def test_a_device_by_name(images, tmp_path):
    dls = loaders(labelled(images, ['a', 'b']), device='cpu')
    with pytest.warns(UserWarning, match="precision='fp16' needs an NVIDIA GPU"): learn = learner(dls, tmp_path, precision='fp16')
    assert len(learn.fit_two_stage(0, 1, lr_unfrozen=1e-3)) == 1

@pytest.mark.filterwarnings("ignore:precision='bf16' is slower")
def test_a_processor_trains_in_16_bits_where_it_is_asked_to(images, tmp_path):
    df = labelled(images, ['a', 'b'])
    def trained(precision):
        learn = learner(loaders(df, device='cpu'), tmp_path, precision=precision)
        learn.fit_two_stage(1, 1, 1e-2, 1e-2)
        return torch.stack(learn.recorder.losses), learn
    (full, _), (short, learn) = trained(None), trained('bf16')
    assert not torch.equal(full, short) and short.isfinite().all() and torch.allclose(full, short, atol=.3)
    exact = predict(learn, df)
    learn.remove_cbs([o for o in learn.cbs if 'precision' in type(o).__mro__[1].__name__.lower()])
    assert np.array_equal(exact.prob_a, predict(learn, df).prob_a)
    assert all(p.dtype == torch.float32 for p in learn.model.parameters()) and not torch.is_autocast_enabled('cpu')

@pytest.mark.filterwarnings("ignore:precision='bf16' is slower")
def test_an_interrupted_batch_leaves_no_16_bits_behind(images, tmp_path):
    def broken(x, y): raise KeyboardInterrupt
    learn = learner(loaders(labelled(images, ['a', 'b']), device='cpu'), tmp_path, precision='bf16', loss_func=broken)
    with pytest.raises(KeyboardInterrupt): learn.fit_two_stage(0, 1, lr_unfrozen=1e-3)
    assert not torch.is_autocast_enabled('cpu')

# Networks

@pytest.mark.parametrize('arch', ['mobilenet_v2', 'mnasnet0_5', 'shufflenet_v2_x0_5', 'regnet_x_400mf', 'googlenet'])
def test_the_body_is_the_network_up_to_its_classifier(arch):
    torch.manual_seed(0)
    kwargs = dict(init_weights=False) if arch == 'googlenet' else {}
    net, x = getattr(models, arch)(weights=None, **kwargs).eval(), torch.rand(2, 3, 96, 96)
    with torch.no_grad(): want, pooled = net(x), cut_body(net).eval()(x).mean((2, 3))
    last = list(net.children())[-1].eval()
    assert torch.allclose(last(pooled), want, atol=1e-3)

@pytest.mark.filterwarnings('ignore:The default weight initialization')
def test_an_inception_works_without_its_side_branch(images, tmp_path):
    learn = learner(loaders(labelled(images, ['a', 'b']), item_size=80, size=80), tmp_path, 'inception_v3')
    assert grad_cam(learn, images[:2]).shape == (2, 80, 80)

def test_a_transformer_of_torchvision_is_refused(images, tmp_path):
    dls = loaders(labelled(images, ['a', 'b']))
    with pytest.raises(ValueError, match='transformers come from timm'): learner(dls, tmp_path, 'vit_b_16')

# Bodies of any package

def maps(): return small()[0]
def vectors(): return nn.Sequential(maps(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
class Grey(nn.Module):
    "A body for one channel, which makes it of three"
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3, 2, 1)
    def forward(self, x): return self.body(x.mean(1, keepdim=True))

@pytest.mark.parametrize('arch', [maps, vectors, Grey, lambda: nn.Flatten()], ids=['maps', 'vectors', 'grey', 'no weights'])
def test_a_body_of_mine_is_trained_frozen_and_unfrozen(images, tmp_path, arch):
    df = labelled(images, ['a', 'b', 'c'])
    learn = xray_learner(loaders(df), arch, path=tmp_path)
    start = {k: v.clone() for k,v in learn.model[0].state_dict().items()}
    assert not any(p.requires_grad for n,p in learn.model[0].named_parameters() if 'weight' in n and p.ndim == 4)
    assert len(learn.fit_two_stage(1, 0, 1e-3, train_bn=False)) == 1
    assert all(torch.equal(v, start[k]) for k,v in learn.model[0].state_dict().items())
    learn.fit_two_stage(0, 1, lr_unfrozen=1e-3)
    assert all(p.requires_grad for p in learn.model.parameters())
    preds = predict(learn, df[df.split == 'valid'])
    assert np.allclose(preds.filter(like='prob_').sum(axis=1), 1, atol=1e-5)

def test_a_body_of_mine_is_mapped_where_it_has_maps(images, tmp_path):
    dls = loaders(labelled(images, ['a', 'b']))
    for arch in (maps, vectors): assert grad_cam(learner(dls, tmp_path, arch), images[:2]).shape == (2, 16, 16)
    with pytest.raises(ValueError, match='expected a network with maps'): grad_cam(learner(dls, tmp_path, lambda: nn.Flatten()), images[:2])

def test_a_body_of_mine_takes_weights_of_a_file(images, tmp_path):
    torch.save((net := maps()).state_dict(), tmp_path/'w.pth')
    learn = xray_learner(loaders(labelled(images, ['a', 'b'])), maps, weights=tmp_path/'w.pth', path=tmp_path)
    assert torch.equal(learn.model[0][0].weight, net[0].weight) and not learn.model[0][0].weight.requires_grad

def test_a_body_that_no_one_can_use_is_one_sentence(images, tmp_path):
    dls = loaders(labelled(images, ['a', 'b']))
    class Named(nn.Module):
        def forward(self, x): return dict(x=x)
    def offline(): raise OSError('no route to host')
    wrong = {'found dict for 2 images': Named, 'takes 1; begin it': lambda: nn.Conv2d(1, 8, 3), 'raised OSError: no route': offline,
        'needs no argument, found': lambda n: maps(), r'found \(2, 3, 256\)': lambda: nn.Flatten(2), 'found a network': maps(),
        'torch module, found int': lambda: 3}
    for says,arch in wrong.items():
        with pytest.raises(ValueError, match=says) as e: xray_learner(dls, arch, path=tmp_path)
        assert '\n' not in str(e.value)

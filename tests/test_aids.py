"What benchmarks.anchors tries beside the library: styles, views, mean weights, growing images"
from types import SimpleNamespace
import torch
from fastai.vision.all import nn
from benchmarks.aids import Growing, MeanWeights, mixed_styles, told_apart
from pneumo_imbalance.block import ImageAugment

def whitened(x): return (x - x.mean((2, 3), keepdim=True))/x.std((2, 3), keepdim=True)

def test_styles_are_mixed_in_training_alone():
    torch.manual_seed(0)
    x, layer = torch.randn(8, 3, 6, 6)*torch.rand(8, 3, 1, 1) + torch.randn(8, 3, 1, 1), nn.Identity()
    out = mixed_styles(layer, None, x, p=1)
    assert not torch.allclose(out, x)
    assert torch.allclose(whitened(out), whitened(x), atol=1e-3) # the pattern stays, its mean and spread move
    assert mixed_styles(layer.eval(), None, x, p=1) is x

def test_two_views_of_an_image_are_drawn_together():
    torch.manual_seed(0)
    z = torch.randn(6, 16)
    assert told_apart(torch.cat([z, z])) < told_apart(torch.cat([z, z[[1, 2, 3, 4, 5, 0]]]))

def test_weights_end_as_their_mean():
    cb, net = MeanWeights(.5), nn.Linear(1, 1, bias=False)
    cb.learn = SimpleNamespace(model=net)
    net.weight.data.fill_(0.)
    cb.before_fit()
    for w in (4., 8.): # the first mean is the first weight
        net.weight.data.fill_(w)
        cb.after_batch()
    cb.after_fit()
    assert net.weight.item() == 6

def test_images_grow():
    o = ImageAugment(size=96)
    cb = Growing([32, 64, 96])
    cb.learn = SimpleNamespace(dls=SimpleNamespace(train=SimpleNamespace(after_batch=[o])))
    seen = []
    for epoch in range(6):
        cb.learn.pct_train = epoch/6
        cb.before_train()
        seen.append(o.size)
    assert seen == [32, 32, 64, 64, 96, 96]
    cb.after_fit()
    assert o.size == 96

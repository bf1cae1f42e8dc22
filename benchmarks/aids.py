"What may help a network from random weights, for benchmarks.anchors: mean weights, growing images, mixed styles, training without labels"
import torch, torch.nn.functional as F
from fastai.vision.all import AdaptiveAvgPool, Callback, Flatten, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from pneumo_imbalance.block import ImageAugment, checked_dataloaders
from pneumo_imbalance.train import set_seed

class MeanWeights(Callback):
    "The network ends with an exponential mean of its weights, and of its batch norms' statistics"
    run_valid = False
    def __init__(self, decay): self.decay = decay
    def before_fit(self): self.mean = AveragedModel(self.learn.model, multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=True)
    def after_batch(self): self.mean.update_parameters(self.learn.model)
    def after_fit(self): self.learn.model.load_state_dict(self.mean.module.state_dict())

class Growing(Callback):
    "Images grow from epoch to epoch, each size for an equal part of the training"
    run_valid = False
    def __init__(self, sizes): self.sizes = sizes
    def resize(self, size):
        for o in self.dls.train.after_batch:
            if isinstance(o, ImageAugment): o.size = size

    def before_train(self): self.resize(self.sizes[int(self.pct_train*len(self.sizes))])
    def after_fit(self): self.resize(self.sizes[-1])

def mixed_styles(layer, inputs, x, p=.5, alpha=.1):
    "Mean and spread of each map, mixed with those of another image of the batch in training (MixStyle, Zhou et al. 2021): a forward hook"
    if not layer.training or torch.rand(()) > p: return x
    mean, sd = x.detach().mean((2, 3), keepdim=True), x.detach().std((2, 3), keepdim=True) + 1e-6
    share = torch.distributions.Beta(alpha, alpha).sample((len(x), 1, 1, 1)).to(x)
    other = torch.randperm(len(x), device=x.device)
    return (x - mean)/sd*(share*sd + (1 - share)*sd[other]) + share*mean + (1 - share)*mean[other]

def two_views(dls):
    "Two augmented views of each image of a batch, one after the other (2B, C, H, W), for an epoch"
    dl = dls.train
    for x,y in dl.create_batches(dl.get_idxs()):
        if len(x) > 1: yield torch.cat([dl.after_batch((x.clone().to(dls.device), y))[0] for _ in range(2)]).as_subclass(torch.Tensor)

def told_apart(z, heat=.1):
    "The loss that views of the same image resemble each other more than those of others (NT-Xent); `z` (2B, n)"
    z = F.normalize(z.float())
    like = (z@z.T/heat).fill_diagonal_(-1e4)
    return F.cross_entropy(like, (torch.arange(len(z), device=z.device) + len(z)//2)%len(z))

def pairs_first(body, df, seed, size=128, epochs=30, lr=2e-3, bs=256):
    "Train `body` on the training images without their labels (SimCLR, Chen et al. 2020)"
    how = dict(item_size=size*9//8, size=size, bs=bs, min_scale=.5, exposure=1.5, seed=seed)
    dls = checked_dataloaders(df, cache='device' if torch.cuda.is_available() else True, **how)
    head = nn.Sequential(AdaptiveAvgPool(), Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128)).to(dls.device)
    opt = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr, weight_decay=.05)
    rates = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=epochs*len(dls.train))
    body.train()
    for _ in range(epochs):
        for x in two_views(dls):
            with torch.autocast(dls.device.type, torch.bfloat16): loss = told_apart(head(body(x)))
            opt.zero_grad()
            loss.backward()
            opt.step()
            rates.step()

def add_aids(learn, r, df, seed):
    "Callbacks, hooks and the body trained before that a recipe asks for"
    if r['style']:
        for layer in learn.model[0][4:6]: layer.register_forward_hook(mixed_styles)
    if r['pairs']:
        pairs_first(learn.model[0], df, seed)
        set_seed(seed)
    if r['mean']: learn.add_cb(MeanWeights(r['mean']))
    if r['sizes']: learn.add_cb(Growing(r['sizes']))

"A saved model: round trips, size, time to load and to predict, torch and ONNX: `python -m benchmarks.model`. Writes its figures."
import argparse, datetime, json, tempfile, time
from pathlib import Path
import numpy as np, torch
from torch import nn
from benchmarks.speed import machine
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.split import split_valid
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.train import set_seed, xray_learner
from pneumo_imbalance.evaluate import predict
from pneumo_imbalance.remedy import PriorShift
from pneumo_imbalance.model import load_model, save_model
from pneumo_imbalance.onnx_export import export_onnx

page = Path(__file__).resolve().parents[1]/'nbs/67_onnx_export.ipynb'

def body():
    "A body of the user's own"
    return nn.Sequential(nn.Conv2d(3, 16, 5, 4, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())

def timed(f, repeats=1):
    "What `f` gives, and the seconds of its fastest call: what else runs on the machine troubles that least"
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        res = f()
        took.append(time.perf_counter() - start)
    return res, min(took)

def learner(df, arch, args, shift=False):
    "An untrained network"
    dls = xray_dataloaders(df, item_size=args.item_size, size=args.size, bs=64, device='cpu', on_leak='ignore', num_workers=0)
    set_seed(42)
    learn = xray_learner(dls, arch, pretrained=False)
    if shift: learn.model.append(PriorShift([.3, .7]))
    return learn

def megabytes(o): return round(o.stat().st_size/1e6, 2)

def trip(df, arch, folder, args, shift=False):
    "Saved and loaded: figures, and whether the predictions are the same bits"
    learn, rows = learner(df, arch, args, shift), df[df.split == 'valid']
    _, save = timed(lambda: save_model(learn, folder, start='random'))
    model, load = timed(lambda: load_model(folder, arch if callable(arch) else None, 'cpu'), 5)
    a, b = (o.filter(like='prob_').to_numpy() for o in (predict(learn, rows), model.predict(rows)))
    size = round(sum(map(megabytes, folder.iterdir())), 1)
    return dict(classes=len(model.classes), MB=size, save_s=round(save, 2), load_s=round(load, 3), same_bits=bool((a == b).all()))

def trips(df, four, tmp, args):
    "Round trips of some networks"
    kinds = {'resnet18': ('resnet18', df, False), 'resnet18, four classes': ('resnet18', four, False)}
    kinds |= {'resnet18 +threshold': ('resnet18', df, True), 'convnext_atto (timm)': ('convnext_atto', df, False)}
    kinds |= {'a body of two layers': (body, df, False)}
    return {k: trip(t, arch, tmp/str(i), args, shift) for i,(k,(arch,t,shift)) in enumerate(kinds.items())}

def lines_of_the_page():
    "The functions by which the page prepares images without torch"
    cells = json.loads(page.read_text(encoding='utf-8'))['cells']
    texts, space = [''.join(c['source']) for c in cells if c['cell_type'] == 'code'], {}
    exec('\n'.join(o for o in texts if o.startswith(('import json, numpy', 'def squeezed(', 'def prepared('))), space)
    return space['prepared']

def speeds(folder, paths, args):
    "Seconds to load, to predict one image and many: torch and ONNX"
    import onnxruntime
    file, export = timed(lambda: export_onnx(folder))
    about, prepared, options = json.loads((folder/'model.json').read_text()), lines_of_the_page(), onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session, load_onnx = timed(lambda: onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider']), 5)
    model, load = timed(lambda: load_model(folder, device='cpu'), 5)
    def run(some):
        parts = [some[i:i+64] for i in range(0, len(some), 64)]
        return np.concatenate([session.run(None, {'images': np.stack([prepared(o, **about) for o in p])})[0] for p in parts])
    ways = dict(torch=lambda some: model.predict(some).filter(like='prob_').to_numpy(), onnx=run)
    for f in ways.values(): f(paths[:2])
    out = {k: dict(one_ms=round(timed(lambda: f(paths[:1]), 20)[1]*1e3, 1)) for k,f in ways.items()}
    found = {k: [timed(lambda i=i: f(paths[i:i+100])) for i in range(0, len(paths), 100)] for k,f in ways.items()}
    for k,o in found.items(): out[k]['thousand_s'] = round(10*min(took for _,took in o), 1)
    found = {k: np.concatenate([o for o,_ in v]) for k,v in found.items()}
    out['torch'] |= dict(load_s=round(load, 3), MB=megabytes(folder/'model.safetensors'))
    out['onnx'] |= dict(load_s=round(load_onnx, 3), MB=megabytes(file), export_s=round(export, 1))
    return out, float(abs(found['torch'] - found['onnx']).max())

def main(args):
    "Draw images, save networks, and measure"
    torch.set_num_threads(args.threads)
    counts, out = dict(train=dict(NORMAL=20, PNEUMONIA=40), test=dict(NORMAL=20, PNEUMONIA=20)), dict(machine=machine())
    out |= dict(date=str(datetime.date.today()), pixels=args.pixels, item_size=args.item_size, size=args.size, images=args.images)
    with tempfile.TemporaryDirectory() as tmp:
        df = split_valid(scan_images(make_phantoms(f'{tmp}/xray', counts, size=args.pixels)), valid_pct=.3)
        four = df.assign(label=[f'{o} {i%2}' for i,o in enumerate(df.label)])
        out['trips'] = trips(df, four, Path(tmp), args)
        paths = (df.path.tolist()*(args.images//len(df) + 1))[:args.images]
        out['speed'], out['largest_difference'] = speeds(Path(tmp)/'0', paths, args)
    args.out.write_text(json.dumps(out, indent=1) + '\n')
    print(json.dumps(out, indent=1))

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.model', description=__doc__)
    p.add_argument('--images', type=int, default=500, help='images to predict, in hundreds; a hundred are drawn')
    p.add_argument('--pixels', type=int, default=512, help='short side of the images')
    p.add_argument('--item-size', type=int, default=256, help='side of the square that images are shrunk to')
    p.add_argument('--size', type=int, default=224, help='side of the square that the network sees')
    p.add_argument('--threads', type=int, default=2, help='threads of torch and of onnxruntime')
    p.add_argument('--out', type=Path, default=Path('nbs/results/model.json'), help='file for the figures')
    return p

if __name__ == '__main__': main(parser().parse_args())

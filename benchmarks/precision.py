"What 16 bits do to the scores: `python -m benchmarks.precision --images FOLDER` trains each seed in fp32 and in bf16."
import argparse, datetime, json, os, time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from benchmarks.speed import machine
from pneumo_imbalance.block import checked_dataloaders
from pneumo_imbalance.core import write_whole
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.evaluate import predict, score
from pneumo_imbalance.leaks import check_leaks
from pneumo_imbalance.presize import presize
from pneumo_imbalance.split import split_valid
from pneumo_imbalance.train import set_seed, xray_learner

SHOWN = ['ROC AUC', 'balanced accuracy', 'Brier']

def run(df, precision, seed, size, epochs, lr):
    "One network: its scores on the test images, and the CPU seconds of its training"
    import torch
    os.environ['IN_TEST'] = '1'
    torch.set_num_threads(1)
    dls = checked_dataloaders(df, item_size=size*9//8, size=size, seed=seed)
    set_seed(seed)
    learn = xray_learner(dls, pretrained=False, precision=precision)
    start = time.process_time()
    learn.fit_two_stage(0, epochs, lr_unfrozen=lr, show_plot=False)
    seconds = time.process_time() - start
    found = score(predict(learn, df[df.split == 'test']), n_boot=1).value[SHOWN]
    return dict(precision=precision, seed=seed, seconds=round(seconds, 1)) | {k: round(float(v), 5) for k,v in found.items()}

def known(file, settings):
    "Runs of the same settings that were written down before"
    was = json.loads(file.read_text()) if file.exists() else {}
    return was['runs'] if was.get('settings') == settings else []

def main(args):
    file, settings = args.out/'precision.json', dict(arch='resnet18', size=args.size, epochs=args.epochs, lr=args.lr, bs=64)
    args.out.mkdir(parents=True, exist_ok=True)
    df = check_leaks(split_valid(scan_images(args.images)), on_leak='raise').df.reset_index(drop=True)
    presize(df, args.size*9//8)
    about = dict(machine=machine(), date=str(datetime.date.today()), settings=settings, images=df.split.value_counts().to_dict())
    runs = known(file, settings)
    done = {(o['precision'], o['seed']) for o in runs}
    jobs = [(p, s) for s in range(args.seeds) for p in ('fp32', 'bf16') if (p, s) not in done]
    with ProcessPoolExecutor(args.jobs, get_context('spawn')) as pool:
        for o in as_completed([pool.submit(run, df, *j, args.size, args.epochs, args.lr) for j in jobs]):
            runs = sorted([*runs, o.result()], key=lambda o: (o['seed'], o['precision']))
            write_whole(file, json.dumps(about | dict(runs=runs), indent=1) + '\n')
            print(o.result(), flush=True)

def parser():
    p = argparse.ArgumentParser(prog='python -m benchmarks.precision', description=__doc__)
    p.add_argument('--images', required=True, help='folder of images with a test split')
    p.add_argument('--out', type=Path, default=Path('study/speed'), help='folder for precision.json; runs in it are not made again')
    p.add_argument('--seeds', type=int, default=5, help='seeds of each')
    p.add_argument('--epochs', type=int, default=2, help='epochs, everything trained')
    p.add_argument('--lr', type=float, default=3e-3, help='largest learning rate')
    p.add_argument('--size', type=int, default=64, help='side of the square that the network sees')
    p.add_argument('--jobs', type=int, default=2, help='trainings at a time, a thread each')
    return p

if __name__ == '__main__': main(parser().parse_args())

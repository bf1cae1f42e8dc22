"DICOM beside JPEG: headers, scan, presizing, later epochs in ms an image, peak memory: `python -m benchmarks.dicom`. Writes its figures."
import argparse, datetime, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path
from benchmarks.speed import machine

def timed(f, n):
    "What `f` gives, and the milliseconds that each of `n` images took"
    start = time.perf_counter()
    res = f()
    return res, round((time.perf_counter() - start)*1000/n, 2)

def epoch(dls):
    "One pass over all training batches"
    for _ in dls.train: pass

def measured(folder, size):
    "Figures of one folder of images, in a process of its own with an empty cache"
    from pneumo_imbalance.data import scan_images
    from pneumo_imbalance.dicom import is_dicom_file, open_dicom
    from pneumo_imbalance.block import xray_dataloaders
    from pneumo_imbalance.presize import presize
    files = [o for o in sorted(Path(folder).rglob('*')) if o.is_file()]
    found = dict(images=len(files), kB=round(sum(o.stat().st_size for o in files)/len(files)/1000, 1))
    if is_dicom_file(files[0]): found['header'] = timed(lambda: [open_dicom(o.read_bytes()) for o in files], len(files))[1]
    df, found['scan'] = timed(lambda: scan_images(folder), len(files))
    found['presize'] = timed(lambda: presize(df, size), len(files))[1]
    dls = xray_dataloaders(df, item_size=size, size=size*7//8, bs=16, num_workers=0, on_leak='ignore')
    found['later epoch'] = timed(lambda: epoch(dls), (df.split == 'train').sum())[1]
    return found | dict(peak_gb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6, 2))

def main(args):
    "Draw the images once as JPEG and once as DICOM, and measure both"
    if args.folder: return print(json.dumps(measured(args.folder, args.item_size)))
    from pneumo_imbalance.dicom_phantom import dicom_phantoms
    from pneumo_imbalance.phantom import make_phantoms
    n = args.images//4
    counts = dict(train=dict(NORMAL=n, PNEUMONIA=2*n), valid=dict(NORMAL=n//2, PNEUMONIA=n - n//2))
    out = dict(machine=machine(), date=str(datetime.date.today()), pixels=args.size)
    with tempfile.TemporaryDirectory() as tmp:
        folders = dict(jpeg=make_phantoms(f'{tmp}/jpeg', counts, size=args.size),
            dicom=dicom_phantoms(f'{tmp}/dicom', counts, size=args.size, compress='JPEG 2000'))
        for k,folder in folders.items():
            cmd = [sys.executable, '-m', 'benchmarks.dicom', '--folder', str(folder), '--item-size', str(args.item_size)]
            res = subprocess.run(cmd, env=dict(os.environ, PNEUMO_CACHE=f'{tmp}/cache-{k}'), capture_output=True, text=True, check=True)
            out[k] = json.loads(res.stdout.splitlines()[-1])
    args.out.write_text(json.dumps(out, indent=1) + '\n')
    print(json.dumps(out, indent=1))

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.dicom', description=__doc__)
    p.add_argument('--images', type=int, default=1000, help='images of each kind')
    p.add_argument('--size', type=int, default=1760, help='short side of the images, in pixels')
    p.add_argument('--item-size', type=int, default=256, help='side of the presized squares')
    p.add_argument('--out', type=Path, default=Path('nbs/results/dicom.json'), help='file for the figures')
    p.add_argument('--folder', help='measure this folder and print its figures')
    return p

if __name__ == '__main__': main(parser().parse_args())

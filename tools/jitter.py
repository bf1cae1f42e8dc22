"Runs notebooks on other processors' kernels and from other seeds, and says what fails: nothing may rest on how one small training came out."
import argparse, os, subprocess, sys, tempfile
from itertools import product
from pathlib import Path
import nbformat

root = Path(__file__).resolve().parents[1]
kernels = {'this processor': {}, 'AVX2': dict(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2'), 'SSE4.1': dict(ATEN_CPU_CAPABILITY='default', ONEDNN_MAX_CPU_ISA='SSE41')}
shift = """#| hide
import fastai.torch_core
_seed, fastai.torch_core.set_seed = fastai.torch_core.set_seed, lambda s, reproducible=False: _seed(s + {}, reproducible)"""

def trains(nb):
    "Does a notebook train a network? Only there do kernels and seeds decide anything."
    return any(o in nb.read_text(encoding='utf-8') for o in ('fit_two_stage(', 'fit_one_cycle(', 'fit_remedy(', 'compare_remedies(', 'study('))

def shifted(nb, seed, dest):
    "A copy of `nb` in which every training starts `seed` further"
    book = nbformat.read(nb, 4)
    book.cells.insert(0, nbformat.v4.new_code_cell(shift.format(seed)))
    nbformat.write(book, dest/nb.name)
    return dest/nb.name

def run(nb, kernel, seed, threads, tmp):
    "The error of one run, '' where there is none"
    env = dict(os.environ, **kernels[kernel], OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), PNEUMO_CACHE=str(tmp/'cache'))
    env['PATH'] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    out = subprocess.run(['nbdev-test', str(shifted(nb, seed, tmp/'nbs'))], cwd=tmp, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return out.stdout.strip() if out.returncode else ''

def copy(tmp):
    "What a notebook needs beside it"
    (tmp/'nbs').mkdir()
    for o in ('pyproject.toml', 'settings.ini', 'setup.py', 'README.md', 'pneumo_imbalance', 'nbs/results'): (tmp/o).symlink_to(root/o)

def main(args):
    "All runs, one line each; exit code 1 if one fails"
    nbs, failed = args.notebooks or [o for o in sorted((root/'nbs').glob('[!._]*.ipynb')) if trains(o)], 0
    with tempfile.TemporaryDirectory(prefix='pneumo_jitter_') as tmp:
        copy(tmp := Path(tmp).resolve())
        for nb,kernel,seed in product(nbs, args.kernels or kernels, range(args.first, args.first + args.seeds)):
            says = run(nb.resolve(), kernel, 1000*seed, args.threads, tmp)
            print(f"{'FAIL' if says else 'ok  '} {nb.name}, {kernel}, seed + {1000*seed}", *says.splitlines()[-12:-3], sep='\n     ', flush=True)
            failed += bool(says)
    print(f'{failed} runs failed')
    return int(failed > 0)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('notebooks', nargs='*', type=Path, help='notebooks; none: all that train')
    parser.add_argument('--kernels', nargs='*', choices=list(kernels), help='whose kernels; none: all')
    parser.add_argument('--seeds', type=int, default=2, help='how many seeds (%(default)s)')
    parser.add_argument('--first', type=int, default=1, help='the first of them, in thousands; 0 is the stored one (%(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch (%(default)s)')
    sys.exit(main(parser.parse_args()))

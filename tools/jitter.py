"Runs what trains on other kernels and from other seeds, and says what fails: nothing may rest on how one small training came out."
import argparse, os, shutil, subprocess, sys, tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
import nbformat

root = Path(__file__).resolve().parents[1]
kernels = {'this processor': {}, 'AVX2': dict(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2'),
    'SSE4.1': dict(ATEN_CPU_CAPABILITY='default', ONEDNN_MAX_CPU_ISA='SSE41')}
trainings = 'fit_two_stage(', 'make_runs(', 'fit_one_cycle(', 'fit_remedy(', 'train_remedy(', 'compare_remedies(', 'study('
beside = 'pyproject.toml', 'settings.ini', 'setup.py', 'README.md', 'pneumo_imbalance', 'benchmarks', 'nbs', 'tests'
shift = """
import os, fastai.torch_core
_seed = fastai.torch_core.set_seed
fastai.torch_core.set_seed = lambda s, reproducible=False: _seed(s + int(os.environ['PNEUMO_SHIFT']), reproducible)
"""
first = '#| hide\nimport pneumo_imbalance\n'
pytest = 'import pytest, sys\nsys.exit(pytest.main(sys.argv[1:]))'

def trains(path):
    "Does a notebook or a file of tests train a network? Only there do kernels and seeds decide anything."
    return any(o in path.read_text(encoding='utf-8') for o in trainings)

def copy_tree(dest):
    "Copies what is run, and what must lie beside it; the package shifts all seeds, in processes that are started later too"
    for o in beside: (shutil.copytree if (root/o).is_dir() else shutil.copy2)(root/o, dest/o)
    with open(dest/'pneumo_imbalance/__init__.py', 'a') as f: f.write(shift)

def shifted(path, seed, dest):
    "A copy of the notebook `path` that imports the package before anything else, for one seed"
    book = nbformat.read(path, 4)
    book.cells.insert(0, nbformat.v4.new_code_cell(first))
    nbformat.write(book, copy := dest/f'{path.stem}-{seed}.ipynb')
    return copy

def run(
    path, # A notebook, or a file of tests
    kernel, # One of `kernels`
    seed, # What every training adds to its seed
    threads, # Threads of torch
    tree): # Where `copy_tree` put its copies
    "The output of one run that failed, '' for one that passed"
    env = dict(os.environ, **kernels[kernel], OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads), PNEUMO_SHIFT=str(seed))
    env |= dict(PYTHONPATH=str(tree), PNEUMO_CACHE=str(tree/'cache'), PATH=f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}")
    test = [sys.executable, '-c', first + pytest, '-q', '-p', 'no:cacheprovider', str(tree/'tests'/path.name)]
    cmd = test if path.suffix == '.py' else ['nbdev-test', str(shifted(path, seed, tree/'nbs'))]
    out = subprocess.run(cmd, cwd=tree, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return out.stdout.strip() if out.returncode else ''

def main(args):
    "All runs, a line each, and a summary; exit code 1 if one fails"
    paths = [o.resolve() for o in args.paths] or [o for p in ('nbs/[!._]*.ipynb', 'tests/*.py') for o in sorted(root.glob(p)) if trains(o)]
    jobs = list(product(paths, args.kernels or kernels, [1000*o for o in range(args.first, args.first + args.seeds)]))
    failed, n_jobs = Counter(), args.jobs or max(1, os.cpu_count()//args.threads)
    with tempfile.TemporaryDirectory(prefix='pneumo_jitter_') as tmp, ThreadPoolExecutor(n_jobs) as pool:
        copy_tree(tree := Path(tmp).resolve())
        for (path,kernel,seed),says in zip(jobs, pool.map(lambda job: run(*job, args.threads, tree), jobs)):
            print(f"{'FAIL' if says else 'ok  '} {path.name}, {kernel}, seed + {seed}", *says.splitlines()[-14:], sep='\n     ', flush=True)
            failed[path.name, kernel] += bool(says)
    for (name,kernel),n in failed.items(): print(f'{name}, {kernel}: {args.seeds - n} of {args.seeds} passed')
    print(f'{len(jobs) - failed.total()} passed, {failed.total()} failed')
    return int(failed.total() > 0)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('paths', nargs='*', type=Path, help='notebooks, files of tests; none: all that train')
    parser.add_argument('--kernels', nargs='*', choices=list(kernels), help='whose kernels; none: all')
    parser.add_argument('--seeds', type=int, default=2, help='how many seeds (%(default)s)')
    parser.add_argument('--first', type=int, default=1, help='the first of them, in thousands; 0 is the stored one (%(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='threads of torch (%(default)s)')
    parser.add_argument('--jobs', type=int, help='runs at a time; none: as many as there are cores for')
    sys.exit(main(parser.parse_args()))

"Runs every check of `make test` in a copy of the working tree and ends with the line `N passed, N failed`."
import argparse, os, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from queue import SimpleQueue
from pathlib import Path
from xml.etree import ElementTree

root = Path(__file__).resolve().parents[1]
bin_dir = Path(sys.executable).parent
tally = dict(passed=0, failed=0)
not_ours = '.git', '.venv', '_docs', '_proc', 'build', 'dist', 'study'
training = 'study', 'study_resume', 'remedies', 'resume', 'model', 'elsewhere', 'dicom', 'app' # half of the time of all tests
longest = 'remedies', '62_study', '52_compare', 'pitfalls', 'tutorial', 'index', '22_audit', '33_train'

def run(
    *cmd, # Command and arguments; a name alone is looked up beside this Python first
    cwd, # Folder to run it in
    **env): # Further environment variables
    "Exit code and output (stdout and stderr together) of one command, on one thread, so that sums come out alike on every machine."
    env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', **env)
    env['PATH'] = f"{bin_dir}{os.pathsep}{env['PATH']}"
    res = subprocess.run(cmd, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return res.returncode, res.stdout.strip()

def report(
    ok, # Did the check pass?
    name, # What was checked
    out='', # What it printed; shown where it failed
    passed=None, # How many checks it stands for, if more than one
    failed=None): # How many of them failed
    "Adds one check, or a group that counted for itself, to the tally and prints its line."
    if not ok and out: print(out)
    print(f"{'ok  ' if ok else 'FAIL'} {name}", flush=True)
    tally['passed'] += passed if passed is not None else ok
    tally['failed'] += failed if failed is not None else not ok

def our_files():
    "Paths of all files that are tracked or could be: what git would commit, or without git all but build products."
    rc, out = run('git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', cwd=root)
    if rc == 0: names = out.strip('\0').split('\0')
    else: names = [str(p.relative_to(root)) for p in root.rglob('*') if not set(p.relative_to(root).parts) & set(not_ours)]
    return sorted({n for n in names if (root/n).is_file()})

def copy_tree(
    dest): # Folder to be made
    "Copies our files to `dest`."
    for n in our_files():
        (dest/n).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root/n, dest/n)

def snapshot(tree):
    "The bytes of every file below `tree`, by name."
    return {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob('*') if p.is_file() and '__pycache__' not in p.parts}

def changed(before, after):
    "Names of files that differ between two snapshots, or stand in one of them only."
    return sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))

def check_export(tree):
    "A fresh export and clean write what is there already; so does nbdev for the site's settings."
    before = snapshot(tree)
    refresh = 'from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()'
    done = [run(*cmd, cwd=tree) for cmd in (['nbdev-export'], ['nbdev-clean'], [sys.executable, '-c', refresh])]
    diff = changed(before, snapshot(tree))
    out = '\n'.join(out for rc,out in done if rc)
    if diff: out += f"\nA fresh export and clean change {', '.join(diff)}: run `make nbs` and commit what it writes."
    report(not out, 'a fresh export and clean leave no diff', out)

def check_style(tree):
    "The house style."
    rc, out = run('chkstyle', '--show-rule', cwd=tree)
    report(rc == 0, 'chkstyle', out)

def run_pytest(
    tree, # The copied tree
    files, # Tests to run
    part): # Name of the part
    "A part of the tests in `tests/`, each counted by itself."
    xml = tree/f'pytest-{part}.xml'
    rc, out = run(sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', f'--junitxml={xml}', *files, cwd=tree)
    n = dict(ElementTree.parse(xml).getroot().find('testsuite').attrib) if xml.exists() else {}
    n_bad = int(n.get('failures', 0)) + int(n.get('errors', 0)) or int(rc != 0)
    n_ok = max(0, int(n.get('tests', 0)) - n_bad - int(n.get('skipped', 0)))
    return rc == 0, f'pytest, {part}: {n_ok} of {n_ok + n_bad}', out, n_ok, n_bad

def run_wheel(tree):
    "The sdist and the wheel made from it are built; the wheel, alone in a folder, gives the whole package."
    dist, target = tree.parent/'dist', str(tree.parent/'target')
    rc, out = run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(dist), cwd=tree)
    code = f"import pneumo_imbalance.all as m; assert m.__file__.startswith({target!r}), 'not from the wheel: ' + m.__file__"
    if rc == 0:
        wheel = str(next(dist.glob('*.whl'), 'no wheel'))
        rc, out = run(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target', target, wheel, cwd=tree.parent)
    if rc == 0: rc, out = run(sys.executable, '-c', code, cwd=tree.parent, PYTHONPATH=target)
    return rc == 0, 'sdist and wheel; the wheel, installed into an empty folder, imports', out

def start_warm(tree):
    "A process that runs notebooks of `tree`: see tools/warm.py."
    env = dict(os.environ, OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', PATH=f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    return subprocess.Popen([sys.executable, root/'tools/warm.py'], cwd=tree, env=env, **pipes)

def run_notebook(
    nb, # Path of a notebook in the copied tree
    idle): # Queue of processes that wait for one
    "One notebook by `nbdev-test`, which saves its outputs."
    process = idle.get()
    print(nb, file=process.stdin, flush=True)
    rc = process.stdout.readline().strip()
    idle.put(process)
    log = nb.with_suffix('.log')
    return rc == '0', nb.name, log.read_text(errors='replace').strip() if log.exists() else f'{nb.name} did not run'

def timed(job, *where):
    "What `job` reports, its seconds in the name."
    start = time.monotonic()
    ok, name, *more = job(*where)
    return ok, f'{name} ({time.monotonic() - start:.0f} s)', *more

def waits(nb):
    "Where a notebook stands in the queue: those that take longest come first, or the last one would keep all waiting."
    return longest.index(nb.stem) if nb.stem in longest else len(longest)

def parts(tree):
    "The tests in two parts, side by side: those that train or start programs, and the others."
    files = {f'tests/{o.name}': o.stem[5:] in training for o in sorted((tree/'tests').glob('test_*.py'))}
    for part,trains in (('training', True), ('the rest', False)): yield run_pytest, tree, [k for k,v in files.items() if v == trains], part

def run_all(tree):
    "pytest, the wheel and every notebook side by side, each process on one thread; notebooks alone write into `tree`."
    apart = tree.parent/'apart'/tree.name
    shutil.copytree(tree, apart)
    nbs = sorted((tree/'nbs').glob('[!._]*.ipynb'), key=waits)
    n, idle = min(8, os.cpu_count() or 1), SimpleQueue()
    with ExitStack() as stack:
        for _ in range(n): idle.put(stack.enter_context(start_warm(tree)))
        pool = stack.enter_context(ThreadPoolExecutor(n))
        jobs = [pool.submit(timed, *o) for o in (*parts(apart), *((run_notebook, nb, idle) for nb in nbs), (run_wheel, apart))]
        for job in as_completed(jobs): report(*job.result())

def check_outputs(tree, before, strict):
    "Stored outputs that come out differently are named, and fail the run if `strict`."
    run('nbdev-clean', cwd=tree)
    diff = [n for n in changed(before, snapshot(tree/'nbs')) if n.endswith('.ipynb')]
    if strict: report(not diff, 'stored outputs come out the same', ', '.join(diff))
    elif diff: print(f"note: on this machine the stored outputs come out differently in {', '.join(diff)}")

def main(strict):
    "All checks, quick ones first."
    with tempfile.TemporaryDirectory(prefix='pneumo_check_') as tmp:
        tmp = Path(tmp).resolve()
        os.environ['PNEUMO_CACHE'] = str(tmp/'cache')
        tree = tmp/root.name
        copy_tree(tree)
        for check in (check_export, check_style): check(tree)
        before = snapshot(tree/'nbs')
        run_all(tree)
        check_outputs(tree, before, strict)
    print(f"{tally['passed']} passed, {tally['failed']} failed")
    return int(tally['failed'] > 0)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--strict', action='store_true', help='stored outputs that come out differently count as a failed check')
    sys.exit(main(parser.parse_args().strict))

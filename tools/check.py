"Runs every check of `make test` in a copy of the working tree and ends with the line `N passed, N failed`."
import argparse, os, shutil, subprocess, sys, tempfile
from pathlib import Path
from xml.etree import ElementTree
from warm import forked

root = Path(__file__).resolve().parents[1]
bin_dir = Path(sys.executable).parent
tally = dict(passed=0, failed=0)
not_ours = '.git', '.venv', '_docs', '_proc', 'build', 'dist', 'study'
longest = ('test_study', 'test_remedies', 'test_dist', 'remedies', '52_compare', 'test_audit_page', 'test_study_resume', 'test_elsewhere',
    'test_resume', 'test_scores', 'index', 'pitfalls', 'test_dicom', 'test_dirty', '33_train', 'test_executor', '62_study', 'tutorial',
    'test_train', 'howto_processes', 'test_fingerprint', 'elsewhere', '22_audit', 'test_app', 'test_model', 'howto_report', 'test_rescan')

def run(
    *cmd, # Command and arguments; a name alone is looked up beside this Python first
    cwd, # Folder to run it in
    **env): # Further environment variables
    "Exit code and output (stdout and stderr together) of one command."
    streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    res = subprocess.run(cmd, cwd=cwd, env=dict(os.environ, **env), text=True, **streams)
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

def run_export(tree):
    "A fresh export and clean write what is there already; so does nbdev for the site's settings."
    before = snapshot(tree)
    refresh = 'from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()'
    done = [run(*cmd, cwd=tree) for cmd in (['nbdev-export'], ['nbdev-clean'], [sys.executable, '-c', refresh])]
    diff = changed(before, snapshot(tree))
    print(*[out for rc,out in done if rc], sep='\n')
    if diff: print(f"A fresh export and clean change {', '.join(diff)}: run `make nbs` and commit what it writes.")
    return bool(diff) or any(rc for rc,_ in done)

def run_style(tree):
    "The house style."
    rc, out = run('chkstyle', '--show-rule', cwd=tree)
    print(out)
    return rc

def run_wheel(tree):
    "The sdist and the wheel made from it are built; the wheel, alone in a folder, gives the whole package."
    dist, target = tree.parent/'dist', str(tree.parent/'target')
    rc, out = run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(dist), cwd=tree)
    code = f"import pneumo_imbalance.all as m; assert m.__file__.startswith({target!r}), 'not from the wheel: ' + m.__file__"
    if rc == 0:
        wheel = str(next(dist.glob('*.whl'), 'no wheel'))
        rc, out = run(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target', target, wheel, cwd=tree.parent)
    if rc == 0: rc, out = run(sys.executable, '-c', code, cwd=tree.parent, PYTHONPATH=target)
    print(out)
    return rc

def run_notebook(
    nb): # Path of a notebook in the copied tree
    "One notebook by `nbdev-test`, which saves its outputs."
    from nbdev.test import nbdev_test
    os.chdir(nb.parents[1])
    return nbdev_test(str(nb), save=True, n_workers=0)

def run_pytest(
    file, # Path of a file of tests in another copy of the tree, which notebooks leave alone
    xml): # Where to write how many there were
    "The tests of one file, by pytest."
    import pytest
    os.chdir(file.parents[1])
    sys.path[0] = str(file.parents[1])
    quiet = '-q', '-p', 'no:cacheprovider', '-W', 'ignore::pytest.PytestAssertRewriteWarning' # hypothesis is imported already
    own = xml.with_suffix('')
    rc = pytest.main([*quiet, f'--basetemp={own}', f'--junitxml={xml}', f'tests/{file.name}'])
    shutil.rmtree(own, ignore_errors=True) # at once, while others compute: all together take a minute on a slow disk
    return 0 if rc == pytest.ExitCode.NO_TESTS_COLLECTED else rc # all that it needs is not installed

def counted(file, ok):
    "How many tests of a file passed and failed, as pytest wrote it; at least one failed where it did not end well."
    n = dict(ElementTree.parse(file).getroot().find('testsuite').attrib) if file.exists() else {}
    n_bad = int(n.get('failures', 0)) + int(n.get('errors', 0)) or int(not ok)
    return max(0, int(n.get('tests', 0)) - n_bad - int(n.get('skipped', 0))), n_bad

def waits(job):
    "Where a job stands in the queue: those that take longest come first, or the last one would keep all waiting."
    name = job[0].split('.')[0]
    return longest.index(name) if name in longest else len(longest)

def all_jobs(tree):
    "Everything that runs side by side, in copies of `tree`; notebooks alone write into `tree` itself."
    export, build, tests = (Path(shutil.copytree(tree, tree.parent/o/tree.name)) for o in ('export', 'build', 'tests'))
    yield 'chkstyle', run_style, tests
    yield 'a fresh export and clean leave no diff', run_export, export
    yield 'sdist and wheel; the wheel, installed into an empty folder, imports', run_wheel, build
    files = [(o.name, run_pytest, o, tree.parent/f'{o.stem}.xml') for o in sorted((tests/'tests').glob('test_*.py'))]
    yield from sorted(files + [(o.name, run_notebook, o) for o in sorted((tree/'nbs').glob('[!._]*.ipynb'))], key=waits)

def run_all(tree):
    "Each job in a process of its own, as many at a time as there are cores."
    jobs = list(all_jobs(tree))
    for what,rc,out,seconds,cpu in forked(jobs, min(8, os.cpu_count() or 1), tree):
        took = f'({seconds:.0f} s, {cpu:.0f} of them on a core)'
        if not what.endswith('.py'): report(not rc, f'{what} {took}', out)
        else:
            n = counted(tree.parent/f'{Path(what).stem}.xml', not rc)
            report(not rc, f'{what}: {n[0]} of {sum(n)} {took}', out, *n)

def check_outputs(tree, before, strict):
    "Stored outputs that come out differently are named, and fail the run if `strict`."
    run('nbdev-clean', cwd=tree)
    diff = [n for n in changed(before, snapshot(tree/'nbs')) if n.endswith('.ipynb')]
    if strict: report(not diff, 'stored outputs come out the same', ', '.join(diff))
    elif diff: print(f"note: on this machine the stored outputs come out differently in {', '.join(diff)}")

def main(strict):
    "All checks, on one thread each, so that sums come out alike on every machine."
    os.environ |= dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1', PATH=f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    with tempfile.TemporaryDirectory(prefix='pneumo_check_') as tmp:
        tmp = Path(tmp).resolve()
        os.environ['PNEUMO_CACHE'] = str(tmp/'cache')
        tree = tmp/root.name
        copy_tree(tree)
        before = snapshot(tree/'nbs')
        run_all(tree)
        check_outputs(tree, before, strict)
    print(f"{tally['passed']} passed, {tally['failed']} failed")
    return int(tally['failed'] > 0)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--strict', action='store_true', help='stored outputs that come out differently count as a failed check')
    rc = main(parser.parse_args().strict)
    sys.stdout.flush()
    os._exit(rc) # at once: to take down what was imported needs two seconds, and a library prints below the last line

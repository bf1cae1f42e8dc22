"Runs notebooks by `nbdev-test --save`, each in a fork of this process, which has imported what all import: six seconds less for each."
import os, sys, traceback
from importlib import import_module

def test(
    nb): # Path of a notebook
    "Exit code of `nbdev-test --save` on a notebook; what it prints goes into a file `.log` beside the tree."
    from nbdev.test import nbdev_test
    log = os.open(os.path.splitext(nb)[0] + '.log', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for fd in (1, 2): os.dup2(log, fd)
    try: nbdev_test(nb, save=True, n_workers=0)
    except SystemExit as e: return e.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0

if __name__ == '__main__': # a path a line in, its exit code a line out
    sys.path[0] = os.getcwd()
    for name in ('nbdev.showdoc', 'nbdev.test', 'pneumo_imbalance.all'): import_module(name)
    while line := sys.stdin.readline():
        if not (pid := os.fork()): os._exit(test(line.strip()))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

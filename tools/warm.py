"Runs checks in forks of one process that has imported what they all need: eight seconds less for each."
import gc, os, sys, tempfile, time, traceback
from importlib import import_module
from shutil import copyfile
from types import ModuleType

def keep_phantoms(
    folder): # Where to keep them
    "Each phantom of a data set is drawn once for all forks, for half of them are asked for again; the page of phantoms runs its own cells."
    from pneumo_imbalance import phantom
    folder.mkdir()
    write = phantom._write
    def kept(o, dest, size, opacity, seed):
        key = *(o.get(k) for k in ('patient', 'image', 'kind', 'rgb')), size, opacity*bool(o['kind']), seed
        file, part = folder/f'{key}', folder/f'{key} {os.getpid()}'
        if file.exists(): return copyfile(file, dest/o['path'])
        write(o, dest, size, opacity, seed)
        copyfile(dest/o['path'], part)
        part.replace(file)
    phantom._write = kept

def warm_up(
    tree): # Folder to import the package from
    "Imports what notebooks and tests need, once; the collector leaves it alone from then on, so that forks share it."
    sys.path.insert(0, str(tree))
    for name in ('nbdev.showdoc', 'nbdev.test', 'pytest', 'hypothesis', 'pneumo_imbalance.all'): import_module(name)
    keep_phantoms(tree.parent/'phantoms')
    gc.collect()
    gc.freeze()

def _child(call, args, log):
    "What a fork does: it runs a call, writes what that prints to `log`, and ends with its answer"
    for fd,file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log.fileno()), (2, log.fileno())): os.dup2(file, fd)
    sys.modules['__main__'] = ModuleType('__main__') # processes that it starts need nothing of this one's
    try: rc = call(*args)
    except SystemExit as e: rc = e.code
    except BaseException: rc = traceback.print_exc() or 1
    for o in (sys.stdout, sys.stderr): o.flush()
    os._exit(min(255, int(rc or 0)) if isinstance(rc, int|None) else 1)

def forked(
    jobs, # (what, call, *arguments) of each; the call answers with an exit code
    n, # How many run at a time
    tree): # Folder to import the package from, while the first job runs: that one needs nothing of it
    "Runs each job in a fork of this process, in their order; gives (what, exit code, output, seconds, CPU seconds) of each as it ends"
    jobs, running, warm = list(jobs), {}, False
    while jobs or running:
        while jobs and len(running) < n:
            (what, *call), log = jobs.pop(0), tempfile.TemporaryFile()
            if not (pid := os.fork()): _child(call[0], call[1:], log)
            running[pid] = what, log, time.monotonic()
            if not warm: warm = not warm_up(tree)
        pid, status, used = os.wait4(-1, 0)
        what, log, start = running.pop(pid)
        log.seek(0)
        out = log.read().decode(errors='replace').strip()
        log.close()
        yield what, os.waitstatus_to_exitcode(status), out, time.monotonic() - start, used.ru_utime + used.ru_stime

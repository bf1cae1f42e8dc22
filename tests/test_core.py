"What nobody watches, and what a killed process leaves: real processes, with their output in files."
import os, signal, subprocess, sys, time
from pathlib import Path
import pytest

posix = pytest.mark.skipif(os.name != 'posix', reason='processes are killed otherwise here')

def in_a_log(code, tmp_path, **env):
    "What a process writes to stdout and to stderr, both of them files, as under `nohup` or in CI"
    env = {k: v for k,v in os.environ.items() if k not in ('IN_TEST', 'TQDM_DISABLE')} | env
    with open(tmp_path/'out', 'w') as out, open(tmp_path/'err', 'w') as err:
        subprocess.run([sys.executable, '-c', code], env=env, stdout=out, stderr=err, check=True, timeout=300)
    return (tmp_path/'out').read_text(), (tmp_path/'err').read_text()

loops = """
import time
import pneumo_imbalance.core as m
list(m.track(range(100_000), 'short', 100_000))
m._every = .1
for _ in m.track(range(40), 'presizing'): time.sleep(.02)
"""

def test_long_loop_in_a_log_is_a_few_lines(tmp_path):
    out, err = in_a_log(loops, tmp_path)
    lines = err.splitlines()
    assert not out and '\r' not in err and 'short' not in err
    assert 2 <= len(lines) <= 8 and all(o.startswith('presizing: ') and o.endswith(' of 40') for o in lines)
    assert in_a_log(loops, tmp_path, IN_TEST='1') == in_a_log(loops, tmp_path, TQDM_DISABLE='1') == ('', '')

training = """
import torch
from fastai.basics import *
from fastai.callback.progress import ProgressCallback
from pneumo_imbalance.core import quiet
data = [(torch.zeros(2), torch.zeros(1)) for _ in range(4)]
learn = Learner(DataLoaders.from_dsets(data, data, bs=2, num_workers=0), nn.Linear(2, 1), loss_func=nn.MSELoss(), metrics=mae)
with quiet(learn): learn.fit(3)
assert learn.logger == print and hasattr(learn, 'progress')
"""

def test_training_in_a_log_is_a_line_an_epoch(tmp_path):
    out, err = in_a_log(training, tmp_path)
    lines = out.splitlines()
    assert '\r' not in out + err and len(lines) == 3
    for i,o in enumerate(lines, 1):
        assert o.startswith(f'epoch {i} of 3: train_loss ') and ', valid_loss ' in o and ', mae ' in o and ', time 00:' in o

filling = """
import sys, time
from pneumo_imbalance.core import deliver
with deliver(sys.argv[1]) as tmp:
    (tmp/'part.txt').write_text('half')
    print(tmp, flush=True)
    time.sleep(60)
"""

def filler(dest):
    "A process that fills a folder slowly, and the hidden folder that it fills"
    p = subprocess.Popen([sys.executable, '-c', filling, str(dest)], stdout=subprocess.PIPE, text=True)
    return p, Path(p.stdout.readline().strip()).parent

@posix
def test_what_a_killed_process_left_is_cleaned_and_nothing_else(tmp_path):
    "A living process keeps what it fills; a folder of the same kind of name that is not ours stays"
    from pneumo_imbalance.core import deliver
    (living, kept), (dead, left), mine = filler(tmp_path/'data'), filler(tmp_path/'data'), tmp_path/f'.data-{os.getpid()}'
    try:
        (mine/'mine').mkdir(parents=True)
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.exists() and kept.exists()
        with deliver(tmp_path/'data') as tmp: (tmp/'all.txt').write_text('all')
        assert {o.name for o in tmp_path.iterdir()} == {'data', kept.name, mine.name}
        assert (mine/'mine').exists() and (kept/'data/part.txt').exists()
    finally: living.kill()
    living.wait()

def test_two_processes_write_one_file(tmp_path):
    "Each writer's text is whole, the last one stays, and nothing is left beside it"
    code = "import sys; from pneumo_imbalance.core import write_whole\nfor _ in range(40): write_whole(sys.argv[1], sys.argv[2]*1_000_000)"
    both = [subprocess.Popen([sys.executable, '-c', code, str(tmp_path/'note'), o]) for o in 'ab']
    while any(p.poll() is None for p in both):
        if (tmp_path/'note').exists(): assert (tmp_path/'note').read_text() in ('a'*1_000_000, 'b'*1_000_000)
        time.sleep(.01)
    assert [p.returncode for p in both] == [0, 0] and [o.name for o in tmp_path.iterdir()] == ['note']

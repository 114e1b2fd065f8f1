"The pool: a worker or the parent killed, an error inside, memory, and that nobody stays behind"
import os, signal, subprocess, sys

import psutil
import pytest

from retina_nb.core import RunError
from retina_nb.data import run_jobs

from processes import descendants

def workers(of=None): return descendants('_serve', of)

def test_a_killed_worker_is_told_and_what_was_done_is_kept():
    done = []
    with pytest.raises(RunError, match='a worker process was killed, perhaps for lack of memory'):
        for _,result in run_jobs('operator:methodcaller', ['upper'], (['a'] for _ in range(10_000)), workers=2):
            done.append(result)
            if len(done) == 100: workers()[0].kill()
    assert set(done) == {'A'} and len(done) >= 100 and not workers()

def test_errors_are_told_as_they_were():
    with pytest.raises(RuntimeError, match="no attribute 'upper'"): list(run_jobs('operator:methodcaller', ['upper'], [[1]]*9, workers=2))
    assert not workers()

def test_a_caller_who_stops_leaves_nobody():
    for _ in run_jobs('operator:methodcaller', ['upper'], (['a'] for _ in range(10_000)), workers=3): break
    assert not workers()

GO = """
import signal; signal.signal(signal.SIGINT, signal.default_int_handler) # a shell may have switched it off
from retina_nb.data import run_jobs
for i,_ in enumerate(run_jobs('operator:methodcaller', ['upper'], (['a'] for _ in range(10**9)), workers=2)):
    if i == 10: print('ready', flush=True)
"""

@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT])
def test_workers_go_with_their_parent(how):
    p = subprocess.Popen([sys.executable, '-c', GO], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    try:
        p.stdout.readline()
        mine = workers(p.pid)
        assert len(mine) == 2
        if how == signal.SIGINT: os.killpg(p.pid, how)
        else: p.kill()
        p.wait(timeout=60)
        psutil.wait_procs(mine, timeout=10)
        assert not [w for w in mine if w.is_running() and w.status() != psutil.STATUS_ZOMBIE]
    finally:  # a parent that did not stop must not work on behind the tests
        if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)

def test_a_job_whose_worker_was_killed_is_done_by_another():
    "Workers are killed again and again, and every job is answered once; a job that kills each of its workers is an error"
    done = []
    for _, result in run_jobs('operator:methodcaller', ['upper'], ([f'job {i}'] for i in range(600)), workers=2, again=3, ahead=0):
        done.append(result)
        if len(done)%150 == 50 and (some := workers()): some[len(done)%len(some)].kill()
    assert sorted(done) == sorted(f'JOB {i}' for i in range(600)) and not workers()

DEADLY = """
import os, signal
def deadly(): return lambda what: os.kill(os.getpid(), signal.SIGKILL) if what == 'deadly' else what
"""

def test_a_job_that_kills_every_worker_is_an_error(tmp_path, monkeypatch):
    (tmp_path/'deadly_jobs.py').write_text(DEADLY)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    with pytest.raises(RunError, match='was killed'):
        list(run_jobs('deadly_jobs:deadly', [], [['a'], ['deadly'], ['b']], workers=1, again=2))
    assert not workers()

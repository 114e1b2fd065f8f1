"One writer a folder and a table: across processes and threads, after a kill, and never through a link."
import errno, gc, os, signal, subprocess, sys, threading

import pytest

from retina_nb.core import RunError
from retina_nb.locks import file_lock, out_lock

posix = pytest.mark.skipif(os.name == 'nt', reason='signals and links of POSIX')

HOLD = "import sys, time; from retina_nb.locks import out_lock\nwith out_lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"

@posix
@pytest.mark.parametrize('end', (signal.SIGKILL, signal.SIGTERM))
def test_one_writer_a_folder(tmp_path, end):
    p = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path/'run')], stdout=subprocess.PIPE)
    try:
        assert p.stdout.readline() == b'held\n'
        with pytest.raises(RunError, match=f'process {p.pid} .*is writing there') as e:
            with out_lock(tmp_path/'run'): pass
        assert str(tmp_path/'run') in str(e.value)
        p.send_signal(end); p.wait(10)
        with out_lock(tmp_path/'run') as d: assert d == tmp_path/'run'
        assert os.listdir(tmp_path/'run') == []
    finally: p.kill(); p.stdout.close(); p.wait()

def test_the_lock_holds_within_one_process_too(tmp_path):
    with out_lock(tmp_path/'a'):
        with pytest.raises(RunError, match='is writing there'), out_lock(tmp_path/'a'): pass
        with out_lock(tmp_path/'b'): pass
        with pytest.raises(RunError), out_lock(tmp_path/'a'): pass
    with out_lock(tmp_path/'a'): pass
    with pytest.raises(ValueError), out_lock(tmp_path/'a'): raise ValueError
    with out_lock(tmp_path/'a'): pass

TRY = "import sys; from retina_nb.locks import file_lock, out_lock\ntry:\n    with globals()[sys.argv[1]](sys.argv[2]): print('free')\nexcept Exception as e: print(e)"
def another(lock, path): return subprocess.run([sys.executable, '-c', TRY, lock, str(path)], capture_output=True, text=True).stdout.strip()

@pytest.mark.parametrize('lock', (out_lock, file_lock))
def test_a_refused_second_lock_leaves_the_first(tmp_path, lock):
    "To close a second handle would drop the POSIX lock of this process: another process would come in"
    with lock(tmp_path/'a'):
        for _ in range(2):
            with pytest.raises(RunError, match=f'process {os.getpid()} .*is writing there'), lock(tmp_path/'a'): pass
            gc.collect()
            assert f'process {os.getpid()} ' in another(lock.__name__, tmp_path/'a')
    assert another(lock.__name__, tmp_path/'a') == 'free'

def test_of_many_threads_one_gets_in(tmp_path):
    inside, most, refused, done = [], [], [], threading.Barrier(8)
    def work(i):
        try:
            with file_lock(tmp_path/'a.csv'): inside.append(i); most.append(len(inside)); done.wait(20); inside.remove(i)
        except RunError: refused.append(i); done.wait(20)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert most == [1] and len(refused) == 7 and os.listdir(tmp_path) == []

@posix
def test_a_table_has_one_writer_by_whatever_name(tmp_path):
    (tmp_path/'link.csv').symlink_to('a.csv')
    with file_lock(tmp_path/'a.csv') as real:
        assert real == tmp_path/'a.csv'
        for name in ('link.csv', '../' + tmp_path.name + '/a.csv'):
            with pytest.raises(RunError, match='is writing there'), file_lock(tmp_path/name): pass

@posix
@pytest.mark.parametrize('kind', ('link', 'hanging link', 'pipe', 'device'))
def test_what_is_no_lock_file_is_left_alone(tmp_path, kind):
    "A note is never written through a link, and nothing waits for a pipe"
    (tmp_path/'precious').write_text('x'); lock = tmp_path/'.a.csv.lock'
    if kind == 'pipe': os.mkfifo(lock)
    else: lock.symlink_to({'link': 'precious', 'hanging link': 'new', 'device': '/dev/null'}[kind])
    with pytest.raises(RunError, match=r'a\.csv\.lock: .*delete it'), file_lock(tmp_path/'a.csv'): pass
    assert (tmp_path/'precious').read_text() == 'x' and sorted(os.listdir(tmp_path)) == ['.a.csv.lock', 'precious']

@pytest.mark.parametrize('lock, name', ((out_lock, '.lock'), (file_lock, '.a.lock')))
def test_what_a_killed_job_left_is_taken_over(tmp_path, lock, name):
    "Whatever its note says; and what somebody else put in its place meanwhile is not ours to remove"
    file = (tmp_path/'a' if lock is out_lock else tmp_path)/name
    file.parent.mkdir(exist_ok=True); file.write_bytes(b'process 1 (x) on \xff\xfe\n'*100)
    with lock(tmp_path/'a'): assert file.read_text() == f"process {os.getpid()} {file.read_text().split(' ', 2)[2]}"
    assert not file.exists()
    with lock(tmp_path/'a'):
        file.unlink(); file.write_text('somebody else')
    assert file.read_text() == 'somebody else'

@posix
def test_a_file_system_without_locks_or_room(tmp_path, monkeypatch):
    "Then nothing can be held, and work goes on; within one process it is known all the same"
    import fcntl
    def no(*a): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(fcntl, 'lockf', no)
    with file_lock(tmp_path/'a.csv'):
        with pytest.raises(RunError, match='is writing there'), file_lock(tmp_path/'a.csv'): pass
    assert os.listdir(tmp_path) == []

def test_a_folder_in_the_place_of_a_lock(tmp_path):
    (tmp_path/'.lock').mkdir()
    with pytest.raises(RunError, match='in the place of a lock file'):
        with out_lock(tmp_path): pass

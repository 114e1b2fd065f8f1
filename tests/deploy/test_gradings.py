"A table of gradings has one writer; a killed one leaves what it did, and nothing in the way of the next."
import os, signal, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from retina_nb.core import RunError, SettingError, get_task
from retina_nb.deploy import Ungraded, grade_to_csv
from retina_nb.data.files import list_files
from retina_nb.deploy.grader import image_files
from retina_nb.disk import csv_rows

NAMES = [f'{i}.png' for i in range(6)]

class Slow:
    "A grader that grades nothing, and calls `before` ahead of each"
    def __init__(self, folder, before=lambda i: None): self.task, self.threshold, self.before, self.bundle = get_task('dr'), .5, before, SimpleNamespace(id='m', path=Path(folder)/'bundle')
    def grade_many(self, files, **kwargs):
        for i,f in enumerate(files): self.before(i); yield Ungraded(f, 'nothing to see')

WAITS = """import sys, time; sys.path.insert(0, sys.argv[2])
from test_gradings import *
def before(i):
    if i == 3: print('half', flush=True); sys.stdin.readline()
try: grade_to_csv(Slow(sys.argv[1], before), NAMES, sys.argv[1] + '/g.csv'); print('done', flush=True)
except RunError as e: print(e, flush=True)
"""

@pytest.fixture
def first(tmp_path):
    "Another process, half through the table g.csv"
    p = subprocess.Popen([sys.executable, '-c', WAITS, str(tmp_path), str(Path(__file__).parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'half\n'
    yield p
    p.kill(); p.communicate()

def files_of(out): return [r['file'] for r in csv_rows(out.read_text())]

@pytest.mark.parametrize('name', ('g.csv', 'link.csv'))
def test_a_second_writer_is_refused_and_the_first_ends_whole(tmp_path, first, name):
    out = tmp_path/'g.csv'
    if name == 'link.csv': (tmp_path/name).symlink_to('g.csv')
    part = (tmp_path/'g.csv.partial').read_bytes()
    for resume in (False, True):
        with pytest.raises(RunError, match=f'{name}: process {first.pid} .*is writing there; wait'): grade_to_csv(Slow(tmp_path), NAMES, tmp_path/name, resume=resume)
    assert (tmp_path/'g.csv.partial').read_bytes() == part and not out.exists()
    grade_to_csv(Slow(tmp_path), NAMES[:2], tmp_path/'other.csv')                          # beside it there is room
    assert first.communicate('\n')[0] == 'done\n' and files_of(out) == NAMES
    assert sorted(os.listdir(tmp_path)) == sorted({'g.csv', 'other.csv', name})

@pytest.mark.skipif(os.name == 'nt', reason='signals of POSIX')
@pytest.mark.parametrize('resume', (False, True))
def test_after_a_kill_the_next_one_goes_on(tmp_path, first, resume, capsys):
    first.send_signal(signal.SIGKILL); first.wait(10)
    assert set(os.listdir(tmp_path)) == {'.g.csv.lock', 'g.csv.partial'}
    assert len(grade_to_csv(Slow(tmp_path), NAMES, tmp_path/'g.csv', resume=resume)) == len(NAMES)
    assert files_of(tmp_path/'g.csv') == NAMES and os.listdir(tmp_path) == ['g.csv'] and capsys.readouterr() == ('', '')

def test_an_interrupted_one_lets_go(tmp_path):
    def stop(i):
        if i == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): grade_to_csv(Slow(tmp_path, stop), NAMES, tmp_path/'g.csv')
    assert os.listdir(tmp_path) == ['g.csv.partial']
    grade_to_csv(Slow(tmp_path), NAMES, tmp_path/'g.csv', resume=True)
    assert files_of(tmp_path/'g.csv') == NAMES

def test_lock_files_are_no_images(tmp_path):
    "Hidden files are neither graded, nor listed, nor a problem"
    for c in 'ab': (tmp_path/c).mkdir(); (tmp_path/c/'eye.png').write_bytes(b'x')
    for name in ('.lock', '.g.csv.lock', 'a/.lock', 'b/.eye.png.lock'): (tmp_path/name).write_text('process 1')
    assert image_files([tmp_path]) == [str(tmp_path/c/'eye.png') for c in 'ab'] and list_files(tmp_path) == ['a/eye.png', 'b/eye.png']

@pytest.mark.skipif(not os.path.exists('/proc/self'), reason='a file system that takes no file, even of the administrator')
def test_where_nothing_can_be_written(tmp_path):
    "As before there was a lock: an error of the file system that names the place, which the command says in one line"
    with pytest.raises(OSError) as e: grade_to_csv(Slow(tmp_path), NAMES, '/proc/g.csv')
    assert str(e.value.filename).startswith('/proc/') and 'g.csv' in str(e.value.filename)
    (tmp_path/'file').write_text('x')
    with pytest.raises(SettingError, match='file: .*not a folder'): grade_to_csv(Slow(tmp_path), NAMES, tmp_path/'file'/'g.csv')

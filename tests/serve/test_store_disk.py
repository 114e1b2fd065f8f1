"A full disk, a folder that may not be written to: a typed error in one line, nothing lost, and the store works afterwards"
import os, shutil, subprocess, tempfile
from pathlib import Path

import pytest

from retina_nb.serve import ReadOnlyStore, Store, StoreError, StoreFull
from conftest import a_grading, add_model, kept_photo as photo, send

def fill(store, name='fill', limit=5000):
    "Record until something happens: the keys that were acknowledged, and what happened"
    told = []
    for i in range(limit):
        try: store.record(photo(os.urandom(2000)), a_grading(i), key=f'{name} {i}', tags=dict(t='x'*900))
        except StoreError as e: return told, e
        told.append(f'{name} {i}')
    raise AssertionError('the disk did not fill')

def test_file_larger_than_it_may_be(tmp_path, elsewhere):
    "As under a quota: EFBIG"
    def _run():
        import resource
        with Store(tmp_path/'s') as s:
            add_model(s)
            send(s, 1)
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
            told, e = fill(s)
            more, err = fill(s, 'again')
            again = [type(err).__name__]
            told += more
            assert s.status()['request'] == 1 + len(told) # still to be read
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            assert send(s, 2).id and send(s, 1).repeated
            return type(e).__name__, str(e), again, told, s.check()
    kind, (name, words, again, told, faults) = elsewhere(_run)
    assert kind == 'value' and name == 'StoreFull' and again == ['StoreFull'] and 'make room' in words and '\n' not in words and faults == []
    with Store(tmp_path/'s') as s:
        assert s.check() == [] and {a.key for a in (s.answer(p.id) for p, _ in s.answers())} == {*told, 'key 1', 'key 2'}

def test_full_disk(tmp_path):
    "A small disk of its own: ENOSPC, for the database and for the pictures"
    disk = tmp_path/'disk'
    disk.mkdir()
    r = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(disk)], capture_output=True, text=True)
    if r.returncode: pytest.skip(f'no right to mount a small disk ({r.stderr.strip()[:80]})')
    try:
        with Store(disk/'s', keep_images=disk/'pictures') as s:
            add_model(s)
            (disk/'room').write_bytes(bytes(500_000))
            told, e = fill(s)
            assert isinstance(e, StoreFull) and 'make room' in str(e)
            (disk/'room').unlink()
            assert send(s, 'after').id and s.status()['request'] == len(told) + 1
            faults = [f for f in s.check() if 'belongs to no answer' not in f]
            assert faults == []
    finally: subprocess.run(['umount', '-l', str(disk)])

def test_pictures_that_cannot_be_kept_stop_the_answer(tmp_path, elsewhere):
    def _run():
        import resource
        with Store(tmp_path/'s', keep_images=tmp_path/'p') as s:
            add_model(s)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            try: s.record(photo(bytes(2_000_000)), a_grading(), key='k')
            except StoreFull as e: return str(e), s.status()['request'], s.check(), s.record(photo(b'small'), a_grading(), key='k').repeated
    kind, (words, n, faults, repeated) = elsewhere(_run)
    assert kind == 'value' and 'nothing was kept' in words and n == 0 and faults == [] and repeated is False
    assert not list((tmp_path/'p').rglob('*.tmp'))

def as_nobody(f):
    "Call `f` without the rights of root"
    def _call():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)
        return f()
    return _call

@pytest.fixture
def closed():
    "A folder with a store that may be read and not written to"
    d = Path(tempfile.mkdtemp(prefix='rnb_closed_'))
    with Store(d/'s') as s:
        add_model(s)
        send(s, 1)
    yield d
    for p in (d, *d.rglob('*')): os.chmod(p, 0o755 if p.is_dir() else 0o644)
    shutil.rmtree(d)

def test_read_only_folder(closed, elsewhere):
    for p in (closed, *closed.rglob('*')): os.chmod(p, 0o555 if p.is_dir() else 0o444)
    def _run(): return Store(closed/'s').status()
    kind, (name, words) = elsewhere(as_nobody(_run))
    assert (kind, name) == ('error', 'ReadOnlyStore') and 'permissions' in words and '\n' not in words
    kind, (name, words) = elsewhere(as_nobody(lambda: Store(closed/'new')))
    assert kind == 'error' and name in ('ReadOnlyStore', 'PermissionError', 'SettingError')
    for p in (closed, *closed.rglob('*')): os.chmod(p, 0o755 if p.is_dir() else 0o644)
    with Store(closed/'s') as s: assert send(s, 1).repeated and send(s, 2).id and s.check() == []

def test_permissions_taken_while_it_is_open(closed, elsewhere):
    "PRAGMA query_only stands in for a disk that was mounted anew, for reading"
    with Store(closed/'s') as s:
        with s.engine.connect() as conn: conn.exec_driver_sql('PRAGMA query_only=ON')
        with pytest.raises(ReadOnlyStore, match='may not be written to'): send(s, 5)
        s.close()
        assert send(s, 5).id and s.check() == []

def test_a_damaged_file_is_said_to_be(tmp_path):
    with Store(tmp_path) as s:
        add_model(s)
        for i in range(50): send(s, i)
        s.backup(tmp_path/'copy.db')
    data = bytearray((tmp_path/'copy.db').read_bytes())
    data[4096*3:4096*6] = os.urandom(4096*3)
    (tmp_path/'copy.db').write_bytes(data)
    def _found():
        try:
            with Store(tmp_path/'copy.db') as s: return s.check()
        except StoreError as e: return [str(e)]
    found = _found()
    assert found and all('\n' not in f for f in found)

"Forgetting a patient to the last byte, copies of a store in use, what `check` finds, the queue on both databases"
import os, shutil, sqlite3, threading, time
from pathlib import Path

import pytest, sqlalchemy as sa

from retina_nb.core import DataError, SettingError
from retina_nb.deploy import Ungraded
from retina_nb.serve import Conflict, Store, StoreError, photo
from retina_nb.serve.engine import read_setting
from retina_nb.serve.schema import image
from conftest import a_grading, add_model, send

PLANTED = [w.encode() for w in ('Jane Quixote', 'JQ_left_eye', 'visit-of-JQ', 'JQ-likes-tea', 'JQtagkey', 'JQ-told-me', 'JQ-note', 'JQ-alert', 'JQ-error',
                                'JQ-client', 'JQ-bytes')]

def plant(store, n=3):
    "A patient whose traces are in every field that takes free text, among others who stay"
    for i in range(n):
        send(store, f'before {i}')
        a = store.record([photo(b'\xff\xd8\xff JQ-bytes %d' % i, patient='Jane Quixote', name=f'JQ_left_eye{i}.jpg'), photo(b'JQ-bytes bad', name='JQ_left_eye.txt', patient='Jane Quixote')],
                         [a_grading(i), Ungraded('x', 'JQ-error: no picture')], key=f'visit-of-JQ {i}', client='JQ-client', tags=dict(remark='JQ-likes-tea'*20, JQtagkey=1))
        p = a.predictions[0].id
        store.give_feedback(p, 'correct', grade=1, who='Anna', reason='JQ-told-me '*30)
        store.queue_review(p, 'random', probability=.1)
        store.finish_review(store.lease_review('Anna')['id'], 'Anna', grade=2, note='JQ-note')
        store.raise_alert('reader', 'JQ-alert', prediction=p)
    send(store, 'after')
    return a

def planted_in(files): return {(p.name, w) for p in files if p.is_file() for data in [p.read_bytes()] for w in PLANTED if w in data}

@pytest.fixture
def keeping(url, tmp_path):
    with Store(url, keep_images=tmp_path/'pictures') as s:
        add_model(s)
        yield s

def files_of(store, tmp_path, request):
    "Every file of the database, after PostgreSQL has written its pages"
    if store.folder: return list(tmp_path.rglob('*'))
    cluster = request.getfixturevalue('cluster')
    cluster.sql('CHECKPOINT')
    return [*(cluster.folder/'data/base').rglob('*'), *(cluster.folder/'data/global').rglob('*'), *tmp_path.rglob('*')]

def test_no_byte_is_left(keeping, tmp_path, request):
    store = keeping
    plant(store)
    seen = {w for _, w in planted_in(files_of(store, tmp_path, request))}
    assert seen == set(PLANTED) - {b'Jane Quixote'} # they were there, and the name never was
    shas = {p.sha256 for p, _ in store.answers()}
    before = store.status()
    n = store.erase('Jane  Quixote')
    assert n == dict(photographs=6, predictions=6, requests=3, pictures=4) # the bad file was the same one three times
    assert planted_in(files_of(store, tmp_path, request)) == set()
    after = store.status()
    assert {p.sha256 for p, _ in store.answers()} == shas # hashes, and what the model said, stay
    assert after['prediction'] == before['prediction'] and after['feedback'] == before['feedback'] and after['subject'] == before['subject'] - 1
    assert store.check() == []
    events = [e for a in store.answers() for e in store.history(a[0].id)['events'] if e['kind'] == 'erased']
    assert events
    assert sum(p.is_file() for p in (tmp_path/'pictures').rglob('*')) == 8 # the others'
    with pytest.raises(DataError, match='no such patient'): store.erase('Jane Quixote')
    again = send(store, 'before 1')
    assert again.repeated # others are as they were

def test_an_erased_patient_may_come_back(keeping):
    a = plant(keeping, 1)
    keeping.erase('Jane Quixote')
    b = keeping.record(photo(b'new', patient='Jane Quixote'), a_grading(), key='visit-of-JQ 0')
    assert b.id != a.id and keeping.check() == []
    with keeping.read() as conn:
        assert conn.scalar(sa.select(sa.func.count()).select_from(image).where(image.c.subject.is_(None))) == 2

def test_a_picture_of_two_people_goes(keeping, tmp_path):
    "The same file was sent for another patient: its bytes are the erased patient's"
    for who in ('A', 'B'): keeping.record(photo(b'\xff\xd8\xffsame', patient=who), a_grading())
    keeping.erase('A')
    assert not [p for p in (tmp_path/'pictures').rglob('*') if p.is_file()]
    assert keeping.check() == [] and keeping.status()['subject'] == 1

def test_an_erasure_is_taken_up_again(keeping, tmp_path, monkeypatch):
    "Between the rows and the free pages the process ends: the store remembers, and the next call finishes"
    plant(keeping, 1)
    monkeypatch.setattr(Store, '_scrub', lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): keeping.erase('Jane Quixote')
    monkeypatch.undo()
    assert ['not finished' in f for f in keeping.check()] == [True]
    with pytest.raises(DataError): keeping.erase('Jane Quixote')
    assert keeping.check() == [] and (not keeping.folder or planted_in(tmp_path.rglob('*')) == set())

def test_a_picture_that_cannot_be_deleted_stops_it(keeping, tmp_path, monkeypatch):
    plant(keeping, 1)
    def _no(self, missing_ok=False): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(Path, 'unlink', _no)
    with pytest.raises(StoreError, match='nothing was erased'): keeping.erase('Jane Quixote')
    monkeypatch.undo()
    with keeping.read() as conn: assert not read_setting(conn, 'unclean')
    assert keeping.check() == [] and keeping.erase('Jane Quixote')['requests'] == 1

def test_readers_hold_an_erasure_up_and_are_told(tmp_path):
    "Somebody reads all the while: the rows are gone, and it is said that old bytes are not yet"
    with Store(tmp_path/'s') as store:
        add_model(store)
        plant(store, 1)
        reader = sqlite3.connect(tmp_path/'s/store.db', isolation_level=None)
        reader.execute('BEGIN')
        reader.execute('SELECT count(*) FROM image').fetchone()
        t = threading.Timer(1, lambda: None)
        t.start()
        from retina_nb.serve import upkeep
        connect = sqlite3.connect
        class _Quick: # the same with a shorter patience
            def __getattr__(self, name): return getattr(sqlite3, name)
            def connect(self, *a, **kw): return connect(*a, **{**kw, 'timeout': .3})
        upkeep.sqlite3 = _Quick()
        try:
            with pytest.raises(StoreError, match='run the same command again'): store.erase('Jane Quixote')
        finally: upkeep.sqlite3 = sqlite3
        assert any('not finished' in f for f in store.check())
        reader.close()
        with pytest.raises(DataError): store.erase('Jane Quixote')
        assert store.check() == [] and planted_in(tmp_path.rglob('*')) == set()

def test_copies_while_it_is_written(tmp_path):
    with Store(tmp_path/'s') as store:
        add_model(store)
        end, n = threading.Event(), [0]
        def _write():
            while not end.is_set():
                send(store, n[0])
                n[0] += 1
        threads = [threading.Thread(target=_write)]
        for t in threads: t.start()
        while n[0] < 5: time.sleep(.01)
        try:
            for i in range(4):
                low = n[0]
                store.backup(tmp_path/f'copy{i}.db')
                with Store(tmp_path/f'copy{i}.db') as copy:
                    assert copy.check() == [] and copy.status()['request'] >= low
                    assert send(copy, low - 1).repeated
        finally:
            end.set()
            for t in threads: t.join()
        assert store.check() == [] and not list(tmp_path.glob('.*tmp*'))
        store.backup(tmp_path/'copy0.db') # replaces an earlier copy
        (tmp_path/'mine').write_text('notes')
        for out, words in (('mine', 'no copy of a store'), ('s/store.db', 'store itself'), ('s', 'is a folder')):
            with pytest.raises(SettingError, match=words): store.backup(tmp_path/out)
        assert (tmp_path/'mine').read_text() == 'notes'

def test_postgresql_says_pg_dump(cluster):
    with Store(cluster.new()) as s, pytest.raises(SettingError, match='pg_dump'): s.backup('x.db')

def test_check_finds_pictures(keeping, tmp_path):
    for i in range(3): keeping.record(photo(b'\xff\xd8\xff%d' % i), a_grading(i))
    one, two, three = sorted(p for p in (tmp_path/'pictures').rglob('*') if p.is_file())
    one.write_bytes(b'exchanged')
    two.unlink()
    (three.parent/'stray.jpg').write_bytes(b'x')
    found = '\n'.join(keeping.check())
    assert 'was changed' in found and 'cannot be read' in found and 'stray.jpg: belongs to no answer' in found and len(found.splitlines()) == 3

def test_check_finds_broken_references(tmp_path):
    with Store(tmp_path) as s:
        add_model(s)
        send(s, 1)
        s.close()
        with sqlite3.connect(tmp_path/'store.db') as c: c.execute('DELETE FROM subject')
        assert any('points at a row of subject' in f for f in s.check())

def test_check_survives_values_of_another_kind(tmp_path):
    with Store(tmp_path) as s:
        add_model(s)
        send(s, 1)
        for change in ("UPDATE prediction SET probabilities='[1,'", "UPDATE audit SET at='yesterday'", "UPDATE setting SET value='x' WHERE name='audit'"):
            with sqlite3.connect(tmp_path/'store.db') as c:
                c.execute('SAVEPOINT a')
                c.execute(change)
            assert s.check(), change
            shutil.copy(tmp_path/'store.db', tmp_path/'x.db')
            with sqlite3.connect(tmp_path/'store.db') as c: assert c.execute('SELECT 1').fetchone()

def test_dicom_is_never_kept(keeping, tmp_path):
    a = keeping.record(photo(bytes(128) + b'DICM' + b'Doe^Jane'), a_grading())
    assert a.predictions[0].kept == '' and not [p for p in (tmp_path/'pictures').rglob('*') if p.is_file()]

def test_the_queue(store):
    "Leases, time-outs, and who may finish, on both databases"
    ids = [send(store, i).predictions[0].id for i in range(3)]
    for i in ids: store.queue_review(i, 'low confidence')
    assert store.queue_review(ids[0], 'low confidence') == store.reviews()[0]['id'] and len(store.reviews()) == 3
    got, lock = [], threading.Lock()
    def _take(who):
        r = store.lease_review(who)
        with lock: got.append(r and r['id'])
    threads = [threading.Thread(target=_take, args=(f'r{i}',)) for i in range(5)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len({g for g in got if g}) == 3 and got.count(None) == 2
    mine = store.reviews()[0]
    with pytest.raises(Conflict): store.finish_review(mine['id'], 'nobody', grade=1)
    with pytest.raises(SettingError): store.finish_review(mine['id'], mine['leased_by'], grade=9)
    assert store.finish_review(mine['id'], mine['leased_by'], grade=1)['result']['grade'] == 1
    assert store.feedback_of(mine['prediction'])[-1]['who'] == mine['leased_by']
    short = store.lease_review('s', minutes=.0005) or store.reviews()[0]
    assert short and store.check() == []

def test_keys_and_deployments(store):
    key = store.add_key('van', 'grader')
    assert store.visitor(key).role == 'grader' and store.visitor(key[:-2] + 'xx') is None and store.visitor('rnb_' + '\udcff') is None
    with pytest.raises(SettingError, match='already'): store.add_key('van')
    store.revoke_key('van')
    assert store.visitor(key) is None and store.add_key('van', 'admin') != key
    assert store.deployed() is None
    store.deploy('a1b2c3d4e5f6', share=.1, alias='candidate')
    assert store.deployed('candidate')['id'] == 'a1b2c3d4e5f6' and store.deployed() is None
    assert store.check() == []

def test_another_writers_long_work_is_waited_for_or_told(tmp_path):
    with Store(tmp_path) as s: add_model(s)
    other = sqlite3.connect(tmp_path/'store.db', isolation_level=None)
    other.execute('BEGIN IMMEDIATE')
    with Store(tmp_path, timeout=.3) as s, pytest.raises(StoreError, match='try again'): send(s, 1)
    other.execute('COMMIT')
    with Store(tmp_path, timeout=.3) as s: assert send(s, 1).id
    assert os.listdir(tmp_path)

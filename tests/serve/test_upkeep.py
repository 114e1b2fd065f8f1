"Forgetting a patient to the last byte, copies of a store in use, what `check` finds, the queue on both databases"
import os, sqlite3, threading, time
from pathlib import Path

import pytest, sqlalchemy as sa

from retina_nb.core import DataError, SettingError
from retina_nb.deploy import Ungraded
from retina_nb.serve import Conflict, Store, StoreError, photo as sent_photo
from retina_nb.serve.schema import image, request
from conftest import Child, a_grading, add_model, kept_photo as photo, send

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

def pictures(tmp_path): return sorted(p for p in (tmp_path/'pictures').glob('??/*') if p.is_file())

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
    if not store.folder: request.getfixturevalue('cluster').sql(f"SET search_path={store.engine.url.query['options'].rpartition('=')[2]}; ANALYZE") # as autovacuum does
    n = store.erase('Jane  Quixote')
    assert n == dict(photographs=6, predictions=6, requests=3, pictures=4) # the bad file was the same one three times
    assert planted_in(files_of(store, tmp_path, request)) == set()
    after = store.status()
    assert {p.sha256 for p, _ in store.answers()} == shas # hashes, and what the model said, stay
    assert after['prediction'] == before['prediction'] and after['feedback'] == before['feedback'] and after['subject'] == before['subject'] - 1
    assert store.check() == []
    events = [e for a in store.answers() for e in store.history(a[0].id)['events'] if e['kind'] == 'erased']
    assert events
    assert sum(p.is_file() for p in (tmp_path/'pictures').glob('??/*')) == 8 # the others'
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
    assert not [p for p in (tmp_path/'pictures').glob('??/*') if p.is_file()]
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

def test_a_picture_that_cannot_be_deleted_is_told_and_remembered(keeping, tmp_path, monkeypatch):
    "Two of the four go, two do not: no answer counts on a picture that is gone, and the next call deletes the rest"
    plant(keeping, 3)
    unlink, bad = Path.unlink, []
    def _no(self, missing_ok=False):
        if self.parent.parent.name == 'pictures' and len(bad) < 2:
            bad.append(self)
            raise PermissionError(13, 'Permission denied')
        unlink(self, missing_ok)
    monkeypatch.setattr(Path, 'unlink', _no)
    with pytest.raises(StoreError, match='could not be deleted .* 2 of the pictures .*run the same command again'): keeping.erase('Jane Quixote')
    monkeypatch.undo()
    assert len(pictures(tmp_path)) == 10 and ['not finished' in f for f in keeping.check()] == [True]
    with pytest.raises(DataError, match='earlier erasure was finished'): keeping.erase('Jane Quixote')
    assert len(pictures(tmp_path)) == 8 and keeping.check() == [] and (not keeping.folder or planted_in(tmp_path.rglob('*')) == set())

def test_the_end_of_an_erasure_that_is_not_committed(keeping, tmp_path):
    "The disk is full at the commit: nothing was erased, and no picture is gone"
    plant(keeping, 1)
    def _full(conn): raise sqlite3.OperationalError('disk I/O error')
    sa.event.listen(keeping.engine, 'commit', _full)
    with pytest.raises(Exception): keeping.erase('Jane Quixote')
    sa.event.remove(keeping.engine, 'commit', _full)
    assert keeping.check() == [] and len(pictures(tmp_path)) == 6 and keeping.erase('Jane Quixote')['pictures'] == 2

def test_pictures_of_who_was_refused_or_interrupted(keeping, tmp_path, monkeypatch):
    "A Conflict, a failed write: the picture goes again; what a kill has left is named by `check`, and goes with an erasure"
    keeping.record(photo(b'\xff\xd8\xffA', patient='A'), a_grading(), key='k')
    with pytest.raises(Conflict): keeping.record(photo(b'\xff\xd8\xffB', patient='B'), a_grading(), key='k')
    with monkeypatch.context() as m:
        m.setattr(Store, 'find', lambda self, key, body: None) # two at the same moment: neither was there when the other looked
        with pytest.raises(Conflict): keeping.record(photo(b'\xff\xd8\xffB', patient='B'), a_grading(), key='k')
    with monkeypatch.context() as m:
        m.setattr(Store, '_record', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises((KeyboardInterrupt, StoreError)): keeping.record(photo(b'\xff\xd8\xffC'), a_grading())
    with pytest.raises(StoreError): keeping.record([photo(b'\xff\xd8\xffD'), photo(b'\xff\xd8\xffA')], [a_grading(), a_grading(model='f'*12)])
    assert len(pictures(tmp_path)) == 1 and keeping.check() == []
    one = pictures(tmp_path)[0]
    stray, part, fresh = (one.with_name(n) for n in (one.name[:2] + '0'*62, '.retina_nb-a.tmp', one.name[:2] + '1'*62))
    for p, age in ((stray, 7200), (part, 7200), (fresh, 0)):
        p.write_bytes(b'JQ-bytes')
        os.utime(p, (time.time() - age,)*2)
    (one.parent/'thesis.docx').write_bytes(b'mine')
    os.utime(one.parent/'thesis.docx', (0, 0))
    assert sorted(Path(f.split(':')[0]).name for f in keeping.check()) == sorted([stray.name, part.name])
    keeping.erase('A')
    assert {p.name for p in pictures(tmp_path)} == {fresh.name, 'thesis.docx'} and keeping.check() == []

def test_an_erasure_finds_the_stray_of_the_same_photograph(keeping, tmp_path):
    with Store(keeping.engine.url.render_as_string(hide_password=False)) as other: # one that keeps nothing
        other.record(photo(b'\xff\xd8\xffA', patient='A'), a_grading())
    from retina_nb.serve.kept import put_picture
    put_picture(keeping.pictures, b'\xff\xd8\xffA') # and then it was killed
    keeping.erase('A')
    assert pictures(tmp_path) == []

def test_an_erasure_next_door_takes_no_picture_of_an_answer(keeping, tmp_path, monkeypatch):
    "The picture was there when it was looked for; then somebody with the same file is erased"
    keeping.record(photo(b'\xff\xd8\xffsame', patient='A'), a_grading())
    def _write(do, write=keeping.write):
        monkeypatch.delattr(keeping, 'write')
        keeping.erase('A')
        return write(do)
    monkeypatch.setattr(keeping, 'write', _write, raising=False)
    a = keeping.record(photo(b'\xff\xd8\xffsame', patient='B'), a_grading())
    assert keeping.kept_path(a.predictions[0].kept).read_bytes() == b'\xff\xd8\xffsame' and keeping.check() == []

def test_nobody_is_guessed_from_what_is_left(store):
    "Who has the whole database, salt and all, tries out names against everything that looks like a hash"
    import hashlib, hmac
    from retina_nb.serve.audit import digest_of
    from retina_nb.serve.schema import METADATA
    given = photo(b'eye', patient='Jane')
    body = store.body_hash([given], {})
    store.record(given, a_grading())
    def _left():
        with store.read() as conn: return str([conn.execute(sa.select(t)).all() for t in METADATA.tables.values()])
    def _guesses(said):
        words = [store.salt.hex(), *{w for r in said.split("'") for w in r.split(':') if len(w) in (24, 32, 64)}]
        key = hmac.new(store.salt, b'patient:Jane', hashlib.sha256).hexdigest()
        tried = {body, key, *(hmac.new(w.encode(), x.encode(), hashlib.sha256).hexdigest() for w in words for x in ('Jane', body, key))}
        with store.read() as conn: done = conn.execute(sa.select(request.c.id, request.c.done, request.c.begun)).one()
        tried |= {digest_of([*i, k, b, '', {}, done.done.isoformat()]) for k in (None, '') for b in [*tried, body] for i in ((), (done.id,))}
        return {t for t in tried if t in said}
    assert _guesses(_left())
    store.erase('Jane')
    assert not _guesses(_left()) and store.check() == []

def test_two_stores_do_not_share_a_folder(url, tmp_path):
    with Store(url, keep_images=tmp_path/'pictures') as one:
        add_model(one)
        one.record(photo(b'\xff\xd8\xff1', patient='A'), a_grading())
        with pytest.raises(SettingError, match='another store'): Store(tmp_path/'other', keep_images=tmp_path/'pictures')
        with Store(url, keep_images=tmp_path/'pictures'), Store(url, keep_images=tmp_path/'more') as same: # one store may have two folders
            a = same.record(photo(b'\xff\xd8\xff1', patient='A'), a_grading())
            assert a.predictions[0].kept and same.check() == []
    with Store(url) as s:
        s.erase('A')
        assert not pictures(tmp_path) and not list((tmp_path/'more').glob('??/*')) and s.check() == []

def _checked(say, url, pictures, n):
    with Store(url, keep_images=pictures) as s:
        say('ready')
        for i in range(n):
            a = s.record(photo(b'\xff\xd8\xff %d' % i, patient=f'P{i}'), a_grading(i), key=f'key {i}')
            s.give_feedback(a.predictions[0].id, 'agree')
            if i % 25 == 24: s.erase(f'P{i}')
    say('done')

def test_a_check_beside_a_writer_finds_nothing(keeping, url, tmp_path):
    "No false alarm of missing rows, of a chain that ends too early, or of a picture that is being recorded or erased"
    c = Child(_checked, url, tmp_path/'pictures', 150)
    c.first()
    faults, n = [], 0
    while not os.waitid(os.P_PID, c.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        faults += [f for f in keeping.check() if 'not finished' not in f]
        n += 1
    assert c.end() == (['ready', 'done'], 0) and n > 2
    assert faults == [] and keeping.check() == []

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
        with sqlite3.connect(tmp_path/'mlflow.db') as c: c.execute('CREATE TABLE precious (x)')
        (tmp_path/'gone.db-wal').write_bytes(b'x')
        for out, words in (('mine', 'no copy of a store'), ('mlflow.db', 'no copy of a store'), ('s/store.db', 'store itself'), ('s', 'is a folder'),
                           ('s/store.db-wal', 'log of SQLite'), ('new.db-journal', 'log of SQLite'), ('gone.db', 'gone.db-wal lies there')):
            with pytest.raises(SettingError, match=words): store.backup(tmp_path/out)
        assert (tmp_path/'mine').read_text() == 'notes' and store.check() == []
        with sqlite3.connect(tmp_path/'mlflow.db') as c: assert c.execute('SELECT name FROM sqlite_master').fetchall() == [('precious',)]

def _held(say, where, end):
    with Store(where) as s:
        send(s, 'theirs')
        say('ready')
        os.read(end, 1)
        for i in range(20): send(s, f'theirs {i}')
    say('done')

def test_a_copy_never_replaces_a_store_in_use_and_replaces_one_at_rest(tmp_path):
    "In use by another process: refused, and that one goes on. Then all of it is replaced, the log too"
    with Store(tmp_path/'a') as a, Store(tmp_path/'b') as b:
        for s in (a, b): add_model(s)
        for i in range(30): send(a, i)
    r, w = os.pipe()
    c = Child(_held, tmp_path/'b', r)
    assert c.first() == b'ready\n'
    with Store(tmp_path/'a') as a:
        with pytest.raises(SettingError, match='in use'): a.backup(tmp_path/'b/store.db')
        os.write(w, b'x')
        lines, status = c.end()
        assert lines[-1] == 'done' and status == 0
        with Store(tmp_path/'b') as b: assert b.check() == [] and b.status()['request'] == 21
        a.backup(tmp_path/'b/store.db')
        with Store(tmp_path/'b') as b: assert b.check() == [] and b.status()['request'] == 30 and b.salt == a.salt

def _killed(say, where):
    s = Store(where)
    for i in range(40): send(s, f'lost {i}')
    say('ready')
    time.sleep(60)

def test_a_copy_is_brought_back_over_a_store_that_was_killed(tmp_path):
    "Its log is still there, and is not played into the copy"
    with Store(tmp_path/'s') as s:
        add_model(s)
        for i in range(3): send(s, i)
        s.backup(tmp_path/'copy.db')
    c = Child(_killed, tmp_path/'s')
    c.first()
    c.kill()
    c.end()
    assert (tmp_path/'s/store.db-wal').stat().st_size > 0
    with Store(tmp_path/'copy.db') as copy: copy.backup(tmp_path/'s/store.db')
    with Store(tmp_path/'s') as s: assert s.check() == [] and s.status()['request'] == 3 and send(s, 1).repeated

def test_a_killed_backup_is_swept_out(tmp_path):
    with Store(tmp_path/'s') as s:
        for name, age in (('old', 7200), ('new', 0)):
            p = tmp_path/f'.retina_nb-copy-{name}.tmp'
            p.write_bytes(b'x')
            os.utime(p, (time.time() - age,)*2)
        s.backup(tmp_path/'copy.db')
    assert [p.name for p in tmp_path.glob('.*')] == ['.retina_nb-copy-new.tmp']

def test_postgresql_says_pg_dump(cluster):
    with Store(cluster.new()) as s, pytest.raises(SettingError, match='pg_dump'): s.backup('x.db')

def test_check_finds_pictures(keeping, tmp_path):
    for i in range(3): keeping.record(photo(b'\xff\xd8\xff%d' % i), a_grading(i))
    one, two, three = pictures(tmp_path)
    one.write_bytes(b'exchanged')
    two.unlink()
    stray = three.with_name(three.name[:2] + '0'*62 + '.jpg')
    stray.write_bytes(b'x')
    os.utime(stray, (0, 0))
    found = '\n'.join(keeping.check())
    assert 'was changed' in found and 'cannot be read' in found and f'{stray.name}: belongs to no answer' in found and len(found.splitlines()) == 3

def test_check_finds_broken_references(tmp_path):
    with Store(tmp_path) as s:
        add_model(s)
        send(s, 1)
        s.close()
        with sqlite3.connect(tmp_path/'store.db') as c: c.execute('DELETE FROM subject')
        assert any('points at a row of subject' in f for f in s.check())

BROKEN = [f"UPDATE {t} SET {c}='{v}'" for t, c, v in (
    ('prediction', 'probabilities', '[1,'), ('prediction', 'quality', '{'), ('prediction', 'grade', 'x'), ('prediction', 'grade', '77'),
    ('prediction', 'more', '{}'), ('request', 'tags', '[]'), ('request', 'tags', '{'), ('audit', 'at', 'yesterday'), ('setting', 'value', 'x'))]

@pytest.mark.parametrize('change', BROKEN)
def test_values_of_another_kind(tmp_path, retina_store, change):
    "`check` names it, and no command ends in a traceback"
    with Store(tmp_path) as s:
        add_model(s)
        send(s, 1)
        change += " WHERE name='audit'" if 'setting' in change else ''
        s.close()
        with sqlite3.connect(tmp_path/'store.db') as c: c.execute(change)
        assert s.check()
    for words in (['status'], ['export', '--out', tmp_path/'out'], ['replay'], ['check']):
        r = retina_store(tmp_path, *words)
        assert r.returncode in (0, 2) and r.stderr.count('\n') == (r.returncode == 2), (words, r.stderr)

def test_dicom_that_has_no_copy_is_not_kept(keeping, tmp_path):
    p, = keeping.record(sent_photo(bytes(128) + b'DICM' + b'Doe^Jane'), a_grading()).predictions
    assert p.kept == '' and not [p for p in (tmp_path/'pictures').glob('??/*') if p.is_file()]
    assert p.not_kept == 'cannot be decoded' and keeping.answer(p.id).predictions[0].not_kept == p.not_kept and keeping.check() == []
    with pytest.raises(DataError, match='was not kept .cannot be decoded'): keeping.picture(p)

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
    for r in store.reviews(): store.finish_review(r['id'], r['leased_by'], grade=1)
    late = store.queue_review(ids[0], 'random')
    for wrong in (True, 1.5): # no number of a class; None is one that cannot be graded
        with pytest.raises(SettingError): store.finish_review(late, 's', grade=wrong)
    assert store.lease_review('s', minutes=.005)['id'] == late and store.lease_review('t') is None
    time.sleep(.4)
    assert store.lease_review('t')['id'] == late # the first one's time is over
    with pytest.raises(Conflict, match='not on lease'): store.finish_review(late, 's', grade=1)
    assert store.finish_review(late, 't', grade=1)['done_by'] == 't' and store.check() == []

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

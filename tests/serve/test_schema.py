"Times, values and tables on both databases: what goes in comes out; migrations agree with the tables; strange stores are refused"
import contextlib, os, runpy, shutil, sqlite3, subprocess, sys, threading, time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest, sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings, strategies as st

from retina_nb.core import DataError, MissingPackage, SettingError
from retina_nb.serve import METADATA, NewerStore, Store, StoreBusy, StoreError, StoreFull, migrate, open_engine, store_url
from retina_nb.serve.engine import KNOWN, SCHEMA, VERSIONS, store_errors
from retina_nb.serve.schema import NaiveTime, alert, deployment, setting
from conftest import Child, add_model, send

def test_times_keep_their_moment(store):
    times = [datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=timezone(timedelta(hours=h))) for h in (-11, 0, 8, 14)] + [datetime(1970, 1, 1, tzinfo=UTC)]
    for i, t in enumerate(times):
        store.write(lambda conn, note, i=i, t=t: conn.execute(alert.insert().values(id=f'a{i}', at=t)))
    with store.read() as conn:
        got = conn.scalars(sa.select(alert.c.at).order_by(alert.c.id)).all()
        assert got == times and {t.tzinfo for t in got} == {UTC}
        assert conn.scalar(sa.select(alert.c.id).where(alert.c.at == times[2].astimezone(UTC))) == 'a2'  # and in a question

def test_naive_times_are_refused(store):
    with pytest.raises(NaiveTime): store.write(lambda conn, note: conn.execute(alert.insert().values(id='x', at=datetime.now(UTC).replace(tzinfo=None))))
    assert store.alerts() == []

@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False, allow_infinity=False)
                       | st.text(st.characters(blacklist_categories=['Cs'], blacklist_characters='\0'), max_size=9), max_size=5), st.floats(0, 1))
def test_values_keep_every_digit(store, value, share):
    def _job(conn, note):
        conn.execute(setting.delete().where(setting.c.name == 'x'))
        conn.execute(setting.insert().values(name='x', value=value))
        conn.execute(deployment.delete())
        conn.execute(deployment.insert().values(alias='a', bundle='a1b2c3d4e5f6', share=share, since=datetime.now(UTC)))
    store.write(_job)
    with store.read() as conn:
        assert conn.scalar(sa.select(setting.c.value).where(setting.c.name == 'x')) == value
        assert conn.scalar(sa.select(deployment.c.share)) == share

def test_migrations_and_tables_agree(store):
    with store.engine.connect() as conn:
        context = MigrationContext.configure(conn, opts=dict(compare_type=True, version_table=VERSIONS))
        assert compare_metadata(context, METADATA) == []

def test_scripts_lead_to_the_version_that_is_written(root):
    config = Config()
    config.set_main_option('script_location', str(root/'retina_nb/serve/migrations'))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [SCHEMA] and {s.revision for s in scripts.walk_revisions()} == set(KNOWN)

def test_a_newer_store_is_refused_by_name(url):
    Store(url).close()
    with open_engine(url).begin() as conn: conn.execute(sa.text(f"UPDATE {VERSIONS} SET version_num='0042'"))
    with pytest.raises(NewerStore, match="version '0042', this package knows up to '0002'"): Store(url)

def test_somebody_elses_tables_are_left_alone(url):
    with open_engine(url).begin() as conn: conn.execute(sa.text('CREATE TABLE request (name varchar)'))
    with pytest.raises(StoreError, match='something else'): Store(url)
    with open_engine(url).connect() as conn: assert sa.inspect(conn).get_table_names() == ['request']

def test_many_open_a_new_store_at_once(url):
    salts, errors = [], []
    def _open():
        try:
            with Store(url) as s: salts.append(s.salt)
        except Exception as e: errors.append(e)
    threads = [threading.Thread(target=_open) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not errors and len(salts) == 8 and len(set(salts)) == 1

def test_an_interrupted_migration_leaves_nothing(url, monkeypatch):
    from retina_nb.serve import engine as room
    whole = room._upgrade
    def _half(conn):
        whole(conn)
        raise KeyboardInterrupt
    monkeypatch.setattr(room, '_upgrade', _half)
    with pytest.raises(KeyboardInterrupt): migrate(open_engine(url))
    with open_engine(url).connect() as conn: assert sa.inspect(conn).get_table_names() == []
    monkeypatch.undo()
    Store(url).close()

@pytest.mark.parametrize('where,words', [('mysql://h/x', 'sqlite, postgresql'), ('sqlite://', 'in memory'), ('', 'names no store'),
                                         ('a\0b', 'names no store'), ('postgresql://h:port/x', 'not the URL'), ('s3://bucket/x', 'sqlite, postgresql')])
def test_what_is_no_store(where, words):
    with pytest.raises(SettingError, match=words): store_url(where)

def test_a_server_that_is_not_there_is_one_line_without_the_password(tmp_path):
    pytest.importorskip('psycopg')
    with pytest.raises(StoreError) as e: Store(f'postgresql://anna:geheim@/x?host={tmp_path}')
    assert 'cannot be reached' in str(e.value) and 'geheim' not in str(e.value) and '\n' not in str(e.value)

def test_postgresql_without_its_driver_says_what_to_install(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'psycopg', None)
    with pytest.raises(MissingPackage, match=r"retina_nb\[serve\]"): open_engine('postgresql://h/x')

def test_files_that_are_no_store(tmp_path):
    (tmp_path/'a.db').write_bytes(b'Dear colleague ' * 1000)
    with pytest.raises(StoreError, match='no database'): Store(tmp_path/'a.db')
    (tmp_path/'file').write_text('x')
    with pytest.raises(SettingError, match='is a file'): Store(tmp_path/'file'/'store')
    os.mkfifo(tmp_path/'pipe.db')
    with pytest.raises(SettingError, match='not a file'): Store(tmp_path/'pipe.db')
    with sqlite3.connect(tmp_path/'b.db') as c: c.execute('CREATE TABLE t (x)')
    with pytest.raises(StoreError, match='something else'): Store(tmp_path/'b.db')

def test_a_strangers_file_stays_as_it_is(tmp_path):
    "To the byte, and without files beside it: it is looked at, and not switched to another journal"
    with sqlite3.connect(tmp_path/'mlflow.db') as c: c.execute('CREATE TABLE runs (x)')
    c.close()
    with sqlite3.connect(tmp_path/'newer.db') as c:
        c.execute(f'CREATE TABLE {VERSIONS} (version_num)')
        c.execute(f"INSERT INTO {VERSIONS} VALUES ('0042')")
    c.close()
    (tmp_path/'letter.db').write_bytes(b'Dear colleague ' * 1000)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for p in before:
        with pytest.raises(StoreError): Store(p)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before

def test_a_store_is_in_wal_and_so_is_a_copy_of_one(tmp_path):
    with Store(tmp_path/'s') as s: s.backup(tmp_path/'copy.db')
    for f in ('s/store.db', 'copy.db'):
        with Store(tmp_path/f) as s, s.read() as conn: assert conn.exec_driver_sql('PRAGMA journal_mode').scalar() == 'wal'

def test_an_empty_file_is_no_store_until_something_is_written(tmp_path, retina_store):
    (tmp_path/'a.db').touch()
    r = retina_store(tmp_path/'a.db', 'status')
    assert r.returncode == 2 and 'no store here' in r.stderr and (tmp_path/'a.db').read_bytes() == b''
    Store(tmp_path/'a.db').close()
    assert retina_store(tmp_path/'a.db', 'status').returncode == 0

def test_a_store_that_does_not_say_its_version(url):
    Store(url).close()
    with open_engine(url).begin() as conn: conn.execute(sa.text(f'DELETE FROM {VERSIONS}'))
    with pytest.raises(StoreError, match='is damaged'): Store(url)

def test_a_schema_that_is_not_there(cluster):
    with pytest.raises(StoreError, match='schema that is not there'): Store(cluster.new() + '0')

def test_no_password_is_shown(tmp_path, cluster):
    url = cluster.new() + '&password=geheim&sslpassword=geheim'
    with Store(url) as s: assert 'geheim' not in s.name + repr(s) + str(s.status())
    with pytest.raises(StoreError) as e: Store(f'postgresql://anna@/x?host={tmp_path}&password=geheim&passfile=/geheim')
    assert 'geheim' not in str(e.value)

def test_a_writer_waits_no_longer_than_its_time(url):
    "Somebody else holds the lock of the writers: on both databases it is said after the time-out, and then it goes on"
    with Store(url, timeout=60) as holder, Store(url, timeout=.3) as other:
        add_model(holder)
        held, free = threading.Event(), threading.Event()
        def _hold(conn, note):
            held.set()
            free.wait(30)
        t = threading.Thread(target=holder.write, args=(_hold,))
        t.start()
        held.wait(20)
        try:
            start = time.monotonic()
            with pytest.raises(StoreBusy, match='try again'): send(other, 1)
            assert time.monotonic() - start < 20
        finally:
            free.set()
            t.join()
        assert send(other, 1).id and other.check() == []

def test_an_erasure_waits_no_longer_than_its_time(cluster):
    "A reader of PostgreSQL who does nothing holds the rewriting of tables up: it is said, writers are let in again, the next call finishes"
    url = cluster.new()
    with Store(url) as store, Store(url, timeout=.5) as eraser:
        add_model(store)
        send(store, 1)
        with store.engine.connect() as conn:
            conn.execute(sa.text('SELECT * FROM image')).all()
            start = time.monotonic()
            with pytest.raises(StoreError, match='again'): eraser.erase('P1')
            assert time.monotonic() - start < 20 and send(store, 2).id and any('not finished' in f for f in eraser.check())
        with pytest.raises(DataError): eraser.erase('P1')
        assert eraser.check() == []

def test_more_readers_than_connections(url):
    with Store(url, timeout=.3) as s, contextlib.ExitStack() as stack:
        add_model(s)
        a = send(s, 1)
        with pytest.raises(StoreBusy, match='all connections are in use'):
            for _ in range(60): stack.enter_context(s.read()).execute(sa.text('SELECT 1'))
        with pytest.raises(StoreBusy): s.answer(a.id)
        stack.close()
        assert s.answer(a.id).id == a.id

def test_one_connection_is_enough_for_an_answer(url):
    "Many threads that each wait for a second connection would wait for each other"
    with Store(url) as s:
        add_model(s)
        a = send(s, 1)
    with Store(url, timeout=1) as s:
        n = s.engine.pool.size() + s.engine.pool._max_overflow - 1
        with contextlib.ExitStack() as stack:
            for _ in range(n): stack.enter_context(s.read()).execute(sa.text('SELECT 1'))
            assert s.answer(a.id).gradings and len(list(s.answers())) == 2
        s._bundles.clear()

@pytest.mark.parametrize('code,kind,words', [('SQLITE_IOERR_READ', StoreError, 'check the disk'), ('SQLITE_IOERR_FSYNC', StoreError, 'check the disk'), ('SQLITE_IOERR_WRITE', StoreFull, 'full or broken'),
                                             ('SQLITE_FULL', StoreFull, 'is full'), ('SQLITE_LOCKED', StoreBusy, 'try again')])
def test_words_for_what_sqlite_says(code, kind, words):
    e = sqlite3.OperationalError('no')
    e.sqlite_errorname = code
    with pytest.raises(StoreError, match=words) as got, store_errors('here'): raise e
    assert type(got.value) is kind and ('full' in str(got.value)) == (kind is StoreFull)

def test_nothing_that_is_erased_is_sampled(store, request):
    "PostgreSQL keeps values of each column in its statistics: not of those that an erasure empties"
    if store.folder: pytest.skip('SQLite was never asked for statistics')
    from retina_nb.serve.migrations.versions import __path__ as where
    emptied = runpy.run_path(os.path.join(where[0], '0001_first.py'))['EMPTIED']
    for i in range(20): send(store, i)
    schema = store.engine.url.query['options'].rpartition('=')[2]
    request.getfixturevalue('cluster').sql(f'SET search_path={schema}; ANALYZE')
    with store.read() as conn: kept = {(r.tablename, r.attname) for r in conn.execute(sa.text('SELECT * FROM pg_stats WHERE schemaname=:s'), dict(s=schema))}
    assert ('prediction', 'grade') in kept and not kept & {(t, c) for t, cs in emptied.items() for c in cs}

def _in_a_copy(f):
    "Call `f` in a forked process; what it says"
    c = Child(lambda say: say(f()))
    said, status = c.end()
    assert status == 0
    return said[0]

def _tried(f):
    try: return f()
    except StoreError as e: return str(e)

def test_a_copied_process_opens_its_own(url):
    "The parent has it open and idle; the child opens its own, both write, the parent erases: as if they had never been one process"
    with Store(url) as s:
        add_model(s)
        send(s, 1)
        assert 'open it anew' in _in_a_copy(lambda: _tried(lambda: send(s, 2).id)) and 'open it anew' in _in_a_copy(lambda: _tried(s.status))
        r, w = os.pipe()
        def _child(say):
            with Store(url) as own:
                for i in range(30):
                    if i == 10: say('ten')
                    send(own, f'child {i}')
                os.read(r, 1) # the parent has erased
                for i in range(30): send(own, f'later {i}')
                say(own.check())
        c = Child(_child)
        c.first()
        for i in range(10): send(s, f'parent {i}')
        s.erase('P1')
        os.write(w, b'.')
        assert c.end() == (['ten', '[]'], 0)
        assert s.check() == [] and s.status()['request'] == 71
    os.close(r)
    os.close(w)

def test_a_process_copied_in_the_middle_of_a_read_is_told(tmp_path):
    with Store(tmp_path/'s') as s:
        add_model(s)
        with s.read() as conn:
            conn.execute(sa.text('SELECT * FROM image')).all()
            assert 'SQLite does not survive' in _in_a_copy(lambda: _tried(lambda: Store(tmp_path/'s')))
            assert Store(tmp_path/'other').check() == []
        assert _in_a_copy(lambda: _tried(lambda: Store(tmp_path/'s').check())) == '[]'

@pytest.mark.skipif(sys.platform != 'linux', reason='looks at /proc')
def test_the_server_of_the_tests_ends_with_them(cluster):
    "Killed outright, as by a time-out of CI: neither server nor folder stays"
    code = 'import sys; sys.path[:0] = sys.argv[1:]; import conftest as c; k = c.Cluster(c._binaries(), c._somebody()); print(k.folder, flush=True); input()'
    p = subprocess.Popen([sys.executable, '-c', code, os.path.dirname(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = Path(p.stdout.readline().strip())
    pid = int((folder/'data/postmaster.pid').read_text().split()[0])
    p.kill()
    p.wait()
    end = time.time() + 30
    while (folder.exists() or os.path.exists(f'/proc/{pid}')) and time.time() < end: time.sleep(.1)
    assert not folder.exists() and not os.path.exists(f'/proc/{pid}')

def test_a_moved_folder_is_the_same_store(tmp_path):
    with Store(tmp_path/'a', keep_images=tmp_path/'a/pictures') as s: salt = s.salt
    shutil.move(tmp_path/'a', tmp_path/'b')
    with Store(tmp_path/'b') as s: assert s.salt == salt and s.check() == []

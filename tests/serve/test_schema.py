"Times, values and tables on both databases: what goes in comes out; migrations agree with the tables; strange stores are refused"
import os, shutil, sqlite3, threading
from datetime import UTC, datetime, timedelta, timezone

import pytest, sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings, strategies as st

from retina_nb.core import MissingPackage, SettingError
from retina_nb.serve import METADATA, NewerStore, Store, StoreError, migrate, open_engine, store_url
from retina_nb.serve.engine import KNOWN, SCHEMA, VERSIONS
from retina_nb.serve.schema import NaiveTime, alert, deployment, setting

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
    with pytest.raises(NewerStore, match="version '0042', this package knows up to '0001'"): Store(url)

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

def test_a_moved_folder_is_the_same_store(tmp_path):
    with Store(tmp_path/'a', keep_images=tmp_path/'a/pictures') as s: salt = s.salt
    shutil.move(tmp_path/'a', tmp_path/'b')
    with Store(tmp_path/'b') as s: assert s.salt == salt and s.check() == []

"The chain finds whatever is done to it, on both databases"
import threading
from datetime import datetime, timedelta

import pytest, sqlalchemy as sa

from retina_nb.core import get_task
from retina_nb.deploy import Ungraded
from retina_nb.serve import METADATA, Event, Store, StoreError, check_audit, photo
from retina_nb.serve.audit import audit_hash, check_salt
from retina_nb.serve.schema import Moment, access, alert, audit, bundle, deployment, image, now, prediction, request, review, setting, subject
from retina_nb.serve.upkeep import _KINDS, _check_images, _check_rows
from conftest import a_grading, add_model, send

@pytest.fixture
def chain(store):
    a = send(store, 1)
    store.give_feedback(a.predictions[0].id, 'agree', who='Anna')
    store.erase('P1')
    send(store, 2)
    store.add_key('van')
    assert store.check() == []
    return store

def _do(store, *statements): store.write(lambda conn, note: [conn.execute(s) for s in statements])

def _rows(store):
    with store.read() as conn: return [dict(r) for r in conn.execute(sa.select(audit).order_by(audit.c.sequence)).mappings()]

@pytest.mark.parametrize('column', [c.name for c in audit.columns])
@pytest.mark.parametrize('which', [0, 3, -1])
def test_one_changed_value(chain, column, which):
    row = _rows(chain)[which]
    old = row[column]
    new = old + 1000 if column == 'sequence' else old + timedelta(microseconds=1) if column == 'at' else \
        old[:-1] + chr(ord(old[-1]) ^ 1) if old else 'x'
    _do(chain, audit.update().where(audit.c.sequence == row['sequence']).values({column: new}))
    assert any('audit' in f for f in chain.check())
    _do(chain, audit.update().where(audit.c.sequence == (new if column == 'sequence' else row['sequence'])).values({column: old}))
    assert chain.check() == []

def test_every_missing_row(chain):
    for row in _rows(chain):
        _do(chain, audit.delete().where(audit.c.sequence == row['sequence']))
        assert chain.check()
        _do(chain, audit.insert().values(**row))
        assert chain.check() == []

def test_the_end_cut_off_and_the_whole(chain):
    for n in (1, 3, len(_rows(chain))):
        with chain.engine.connect() as conn:
            conn.execute(audit.delete().where(audit.c.sequence > len(_rows(chain)) - n))
            assert check_audit(conn)
            conn.rollback()

@pytest.mark.parametrize('honest', [False, True])
def test_an_inserted_row(chain, honest):
    "At the end, with a hash that is right; and in the middle, all later ones moved up and hashed anew"
    last = _rows(chain)[-1]
    row = dict(sequence=last['sequence']+1, kind='key', reference='x', digest='', at=now(), previous=last['hash'] if honest else '0'*64)
    with chain.engine.connect() as conn:
        conn.execute(audit.insert().values(hash=audit_hash(row), **row))
        assert check_audit(conn)
        conn.rollback()
    rows = _rows(chain)
    middle = dict(rows[2], kind='key', reference='x')
    new, previous = [], rows[1]['hash']
    for i, r in enumerate([middle, *rows[2:]], 3):
        r = dict(r, sequence=i, previous=previous)
        new.append(r | dict(hash=audit_hash(r)))
        previous = new[-1]['hash']
    with chain.engine.connect() as conn:
        conn.execute(audit.delete().where(audit.c.sequence >= 3))
        conn.execute(audit.insert(), new)
        assert check_audit(conn)
        conn.rollback()

LEFT_OUT = {'image.name', 'image.kept', 'prediction.error', 'feedback.reason', 'alert.why', 'review.leased_by', 'review.leased_until'} # as 20_audit says

@pytest.fixture
def full(chain):
    "Rows in every table, in every state: one patient of two in a request erased, a review done, a key taken back, an alert seen"
    a = send(chain, 9)
    p = a.predictions[0].id
    chain.record([photo(b'one', patient='P9'), photo(b'two', patient='P10')], [a_grading(1), Ungraded('x', 'no picture')], key='both', tags=dict(a='b'))
    chain.erase('P10')
    chain.give_feedback(p, 'correct', grade=2, who='Ben')
    chain.queue_review(p, 'random', probability=.5)
    chain.finish_review(chain.lease_review('Anna')['id'], 'Anna', grade=1)
    chain.see_alert(chain.raise_alert('reader', 'too dark', prediction=p), 'Anna')
    chain.deploy('a1b2c3d4e5f6', share=.5, by='Anna')
    chain.revoke_key('van')
    assert chain.check() == []
    return chain

def _faults(conn): return [*check_audit(conn), *filter(None, [check_salt(conn)]), *_check_images(conn), *(f for k in _KINDS for f in _check_rows(conn, k))]

def _another(v, column):
    "Another value of the same kind"
    if isinstance(v, datetime): return v + timedelta(microseconds=1)
    if isinstance(v, bool): return not v
    if isinstance(v, (int, float)): return v + 1
    if isinstance(v, dict): return v | dict(grade=0, x=1)
    if isinstance(v, list): return v[::-1] + [0]
    if v is None: return now() if isinstance(column.type, Moment) else True if isinstance(column.type, sa.Boolean) else 1 if isinstance(column.type, (sa.Integer, sa.Double)) else 'x'
    return v[:-1] + chr(ord(v[-1]) ^ 1) if v else 'x'

@pytest.mark.parametrize('table', [t for t in METADATA.sorted_tables if t.name not in ('audit', 'setting')], ids=str)
def test_every_column_of_every_row(full, table):
    "One value altered behind the back of the chain is found, in whatever row; so is a row that is gone or was put in twice"
    key = next(iter(table.primary_key))
    with full.engine.connect() as conn:
        rows = [dict(r) for r in conn.execute(sa.select(table)).mappings()]
        assert rows
        for row in rows:
            for c in table.columns:
                if str(c) in LEFT_OUT or (c.name == 'subject' and row['subject'] is None): continue
                try:
                    with conn.begin_nested():
                        conn.execute(table.update().where(key == row[key.name]).values({c.name: _another(row[c.name], c)}))
                        found = _faults(conn)
                        raise ZeroDivisionError # back to the save point
                except (ZeroDivisionError, sa.exc.IntegrityError) as e: assert isinstance(e, sa.exc.IntegrityError) or found, (str(c), row)
            try:
                with conn.begin_nested():
                    conn.execute(table.delete().where(key == row[key.name]))
                    found = _faults(conn)
                    raise ZeroDivisionError
            except (ZeroDivisionError, sa.exc.IntegrityError) as e: assert isinstance(e, sa.exc.IntegrityError) or found, row
        conn.rollback()
    assert full.check() == []

def test_states_that_are_taken_back(full):
    "A key that was revoked lives again, a review is open again, an eye moves to another patient or to nobody, an erased request gets a client"
    with full.read() as conn: who = conn.scalars(sa.select(subject.c.id)).all()
    assert len(who) == 2
    for change in (access.update().values(revoked=None), review.update().values(done=None), review.update().values(result={}), alert.update().values(seen=None),
                   image.update().where(image.c.subject == who[0]).values(subject=who[1]), image.update().where(image.c.subject == who[0]).values(subject=None),
                   image.update().where(image.c.subject.is_(None)).values(subject=who[0]), request.update().where(request.c.key.is_(None)).values(client='forged'),
                   prediction.update().where(prediction.c.error != '').values(error=''), access.delete(), alert.delete(), deployment.delete(),
                   bundle.update().values(task=get_task('pneumonia').to_dict()), setting.delete().where(setting.c.name == 'salt'),
                   setting.update().where(setting.c.name == 'salt').values(value='0'*64), setting.update().where(setting.c.name == 'salt').values(value='zz')):
        with full.engine.connect() as conn:
            conn.execute(change)
            assert _faults(conn), str(change)
            conn.rollback()
    assert full.check() == []

@pytest.mark.parametrize('salt', [None, '0'*64, 'zz', 5], ids=str)
def test_a_store_without_its_salt_is_damaged(url, salt):
    with Store(url) as s:
        add_model(s)
        send(s, 1)
        which = setting.c.name == 'salt'
        _do(s, setting.delete().where(which) if salt is None else setting.update().where(which).values(value=salt))
        assert any('salt' in f for f in s.check())
    for _ in range(2):
        with pytest.raises(StoreError, match=r'damaged \(the salt'): Store(url)

def test_a_hash_that_was_written_down(chain):
    noted = chain.status()['audit']['hash']
    send(chain, 5)
    assert chain.check(last=noted) == [] and chain.check(last='0'*64) == [] and 'written anew' in chain.check(last='1'*64)[0]
    rows, previous = _rows(chain), '0'*64 # a whole new chain, with an honest end
    rows[1]['reference'] = 'x'
    for r in rows:
        r['previous'] = previous
        r['hash'] = previous = audit_hash(r)
    _do(chain, audit.delete(), audit.insert().values(rows), setting.update().where(setting.c.name == 'audit').values(value=dict(sequence=len(rows), hash=previous)))
    with chain.read() as conn: assert check_audit(conn) == [] and check_audit(conn, noted) != []

def test_one_chain_from_many_threads_and_two_stores(url):
    with Store(url) as one, Store(url) as two:
        add_model(one)
        def _go(s, k):
            for i in range(15): s.write(lambda conn, note: note(Event('row', f'{k}-{i}')))
        threads = [threading.Thread(target=_go, args=(s, f'{n}{k}')) for n, s in enumerate((one, two)) for k in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        rows = _rows(one)[2:] # after those of the salt and of the model
        assert len(rows) == 120 and [r['sequence'] for r in rows] == list(range(3, 123)) and two.check() == []
        for k in ('00', '13'): # each thread's own events in their order
            mine = [int(r['reference'].split('-')[1]) for r in rows if r['reference'].startswith(f'{k}-')]
            assert mine == list(range(15))

def test_only_ids_stand_in_it(chain):
    a = send(chain, 'Jane Doe')
    chain.give_feedback(a.predictions[0].id, 'correct', grade=1, who='Anna', reason='as Jane said')
    text = str(_rows(chain))
    assert not any(w in text for w in ('Jane', 'Anna', 'van', 'P1', 'key 1'))

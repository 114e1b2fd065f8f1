"The chain finds whatever is done to it, on both databases"
import threading
from datetime import timedelta

import pytest, sqlalchemy as sa

from retina_nb.serve import Event, Store, check_audit
from retina_nb.serve.audit import audit_hash
from retina_nb.serve.schema import access, audit, bundle, deployment, feedback, image, now, prediction, request, review
from retina_nb.serve.upkeep import _KINDS, _check_rows
from conftest import add_model, send

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

def test_rows_behind_the_chains_back(chain):
    a = send(chain, 9)
    p = a.predictions[0].id
    chain.give_feedback(p, 'correct', grade=2, who='Ben')
    chain.queue_review(p, 'random', probability=.5)
    chain.deploy('a1b2c3d4e5f6', share=.5)
    for change in (prediction.update().where(prediction.c.id == p).values(probabilities=[.2]*5), prediction.update().where(prediction.c.id == p).values(novel=None),
                   prediction.update().where(prediction.c.id == p).values(quality=dict(ok=True)), request.update().where(request.c.id == a.id).values(tags={}),
                   request.update().where(request.c.id == a.id).values(key=None), feedback.update().where(feedback.c.prediction == p).values(grade=0),
                   feedback.update().where(feedback.c.prediction == p).values(who='Anna'), feedback.delete().where(feedback.c.prediction == p),
                   image.update().where(image.c.id == a.predictions[0].image).values(sha256='0'*64), image.update().values(hmac='0'), image.update().values(size=1),
                   review.update().values(probability=1.), review.delete(), access.update().values(role='admin'), access.update().values(hash='0'),
                   bundle.update().values(folder='/elsewhere'), bundle.update().values(name='x'), deployment.update().values(share=1.), deployment.delete()):
        with chain.engine.connect() as conn:
            conn.execute(change)
            assert [f for k in _KINDS for f in _check_rows(conn, k)], change
            conn.rollback()
    assert chain.check() == []

def test_one_chain_from_many_threads_and_two_stores(url):
    with Store(url) as one, Store(url) as two:
        add_model(one)
        def _go(s, k):
            for i in range(15): s.write(lambda conn, note: note(Event('row', f'{k}-{i}')))
        threads = [threading.Thread(target=_go, args=(s, f'{n}{k}')) for n, s in enumerate((one, two)) for k in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        rows = _rows(one)[1:] # after the model's own
        assert len(rows) == 120 and [r['sequence'] for r in rows] == list(range(2, 122)) and two.check() == []
        for k in ('00', '13'): # each thread's own events in their order
            mine = [int(r['reference'].split('-')[1]) for r in rows if r['reference'].startswith(f'{k}-')]
            assert mine == list(range(15))

def test_only_ids_stand_in_it(chain):
    a = send(chain, 'Jane Doe')
    chain.give_feedback(a.predictions[0].id, 'correct', grade=1, who='Anna', reason='as Jane said')
    text = str(_rows(chain))
    assert not any(w in text for w in ('Jane', 'Anna', 'van', 'P1', 'key 1'))

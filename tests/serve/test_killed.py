"A process that records is killed at any moment: what it has acknowledged is there, nothing is there by half, and a retry gives one row"
import os, random, signal, time

import pytest, sqlalchemy as sa
from sqlalchemy import event

from retina_nb.serve import Store
from retina_nb.serve.schema import image, prediction, request, subject
from conftest import Child, a_grading, add_model, send

def _recorder(say, url, run, how, after):
    "Record request after request and say each one's key; die by one's own hand at a certain point, or be killed"
    store = Store(url)
    left = [after]
    def _die(*_):
        left[0] -= 1
        if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
    if how == 'before commit': event.listen(store.engine, 'commit', _die)
    if how == 'between statements': event.listen(store.engine, 'before_cursor_execute', _die)
    if how == 'after commit':
        commit = store._commit
        def _commit(jobs):
            commit(jobs)
            _die()
        store._commit = _commit
    say('ready')
    for i in range(10_000): say(f'{run}-{i}', send(store, f'{run}-{i}').id)

HOW = 'at random', 'before commit', 'after commit', 'between statements'

@pytest.mark.parametrize('kills', [pytest.param(15, id='15'), pytest.param(500, id='500', marks=pytest.mark.full)])
def test_sigkill(url, kills):
    with Store(url) as s: add_model(s)
    rng, told, flying = random.Random(16), {}, []
    for run in range(kills):
        how = HOW[run % len(HOW)]
        c = Child(_recorder, url, run, how, rng.randrange(60 if how == 'between statements' else 5))
        c.first()
        if how == 'at random':
            time.sleep(rng.random()*.15)
            c.kill()
        lines, status = c.end()
        assert status == signal.SIGKILL
        known = dict(line.split() for line in lines if line != 'ready')
        told |= known
        flying.append(f'{run}-{len(known)}') # what it was at when it died
    with Store(url) as s:
        assert s.check() == [] # the chain, and each row what it vouches for
        for n, id in told.items():
            a = send(s, n)
            assert a.repeated and a.id == id
            assert [g.probabilities for g in a.gradings] == [a_grading(f'{n} left').probabilities, a_grading(f'{n} right').probabilities]
        for n in flying:
            one, two = send(s, n), send(s, n)
            assert one.id == two.id and two.repeated and [g.to_dict() for g in one.gradings] == [g.to_dict() for g in two.gradings]
        with s.read() as conn:
            per = conn.execute(sa.select(sa.func.count(prediction.c.id)).select_from(
                request.outerjoin(prediction)).group_by(request.c.id)).scalars().all()
            assert set(per) == {2} and len(per) == len(told) + len(flying)
            assert conn.scalar(sa.select(sa.func.count()).select_from(image)) == 2*len(per)
            assert conn.scalar(sa.select(sa.func.count()).select_from(subject)) == len(per)
        assert s.check() == []
    assert told, 'no child got as far as acknowledging anything'

"The queue a page at a time, over HTTP too: none left out, none twice, and what it costs does not grow with what it holds"
import time

import pytest, sqlalchemy as sa

from retina_nb.core import DataError, SettingError
from retina_nb.deploy import ServiceClient
from retina_nb.serve import Running, Store, create_app
from retina_nb.serve.queue import predictions_of, queue_lengths, review_of, review_page, unseen_alerts, unsure_of
from clients import Client, picture
from conftest import send

def pages(store, state='open', limit=3):
    "Every case, page by page"
    found, after = [], ''
    while page := review_page(store, state, limit=limit, after=after):
        found += page
        after = page[-1]['id']
    return [r['id'] for r in found]

def test_pages(store):
    ids = [p.id for i in range(5) for p in send(store, i).predictions]
    cases = [store.queue_review(p, ('random', 'low confidence')[i%2]) for i, p in enumerate(ids)]
    with store.engine.begin() as c: # all at one moment: then their ids give the order
        from retina_nb.serve.schema import now, review
        c.execute(review.update().values(queued=now()))
    want = [r['id'] for r in store.reviews('all')]
    assert sorted(want) == sorted(cases)
    for limit in (1, 3, 7, 10, 50): assert pages(store, limit=limit) == want
    taken = store.lease_review('A')['id']
    store.finish_review(taken, 'A', grade=1)
    assert pages(store) == [i for i in want if i != taken] and pages(store, 'done') == [taken] and pages(store, 'all') == want
    held = store.lease_review('B')['id']
    assert held not in pages(store, 'free') and held in pages(store)
    rest = review_page(store, after=taken, limit=50) # a case that left the queue still tells where it was
    assert [r['id'] for r in rest] == want[want.index(taken)+1:]
    for state in ('open', 'free', 'done', 'all'):
        said = [r['reason'] for r in store.reviews(state)]
        assert {k: n for k, n in queue_lengths(store, state).items() if n} == {k: said.count(k) for k in set(said)}
    assert review_of(store, taken)['done_by'] == 'A' and set(predictions_of(store, ids)) == set(ids) and unsure_of(store, ids) == set(ids[1::2])
    for i in range(3): alert = store.raise_alert('reviewer', 'look', prediction=ids[i])
    store.see_alert(alert, 'A')
    assert unseen_alerts(store) == len(store.alerts()) == 2
    for bad in (dict(limit=0), dict(limit=1001), dict(limit=True), dict(limit='9')):
        with pytest.raises(SettingError): review_page(store, **bad)
    for f, kw in ((review_page, dict(after='x'*24)), (review_of, dict(id='x'*24))):
        with pytest.raises(DataError): f(store, **kw)

def test_what_a_page_costs(store):
    "As many questions for a long queue as for a short one"
    def _cost(f):
        n = []
        def _count(*a): n.append(1)
        sa.event.listen(store.engine, 'before_cursor_execute', _count)
        f()
        sa.event.remove(store.engine, 'before_cursor_execute', _count)
        return len(n)
    from retina_nb.serve.routes import cases_out
    class service: pass
    service.store = store
    costs = []
    for i in range(2):
        for j in range(9): store.queue_review(send(store, 10*i + j).predictions[0].id, 'random')
        costs.append([_cost(lambda: cases_out(review_page(store, limit=100), service)), _cost(lambda: queue_lengths(store)), _cost(lambda: unseen_alerts(store))])
        assert len(cases_out(review_page(store, limit=100), service)) == 9*(i + 1)
    assert costs[0] == costs[1]

@pytest.fixture(scope='module')
def reading(bundle, tmp_path_factory):
    d = tmp_path_factory.mktemp('queue')
    with Store(d/'store', keep_images=d/'pictures') as store, Running(create_app(store, bundle, low_confidence=1.)) as url:
        ask = Client(int(url.rpartition(':')[2]))
        while ask('GET', '/v1/health/ready').status != 200: time.sleep(.05)
        said = [ask.grade(picture(i)).json['gradings'][0] for i in range(7)]
        yield ask, store, said, ServiceClient(url)

def test_pages_over_http(reading):
    ask, store, _, client = reading
    all_ = [r['id'] for r in store.reviews('open')]
    found, after = [], ''
    while True:
        r = ask('GET', f'/v1/reviews?limit=3{after}').json
        assert len(r['reviews']) <= 3
        found += [c['id'] for c in r['reviews']]
        if not r['next']: break
        after = f"&after={r['next']}"
    assert found == all_ and len(all_) == 7 and [c['id'] for c in ask('GET', '/v1/reviews').json['reviews']] == all_
    for bad, status in (('limit=0', 422), ('limit=1001', 422), ('limit=x', 422), ('after=x', 404), ('after=' + '0'*24, 404), ('state=odd', 422)):
        r = ask('GET', f'/v1/reviews?{bad}')
        assert r.status == status and list(r.json) == ['error'], bad
    assert [c['id'] for c in client.reviews()] == all_ and len(client.reviews(most=4)) == 4 and client.reviews('done') == []
    import retina_nb.deploy.client as m
    m.PAGE, page = 2, m.PAGE
    try: assert [c['id'] for c in client.reviews('all')] == all_
    finally: m.PAGE = page
    assert client.waiting()['low confidence'] == 7 and b'retina_reviews_open{reason="low confidence"} 7.0' in ask('GET', '/metrics').body
    assert ask('GET', f'/v1/reviews/{all_[3]}/picture').body[:3] == b'\xff\xd8\xff' and ask('GET', f"/v1/reviews/{'0'*24}/picture").status == 404

def test_finish_says_what_the_answer_was(reading):
    "A case that was drawn by lot is that of an unsure answer all the same"
    ask, store, said, _ = reading
    p = said[0]['id']
    assert said[0]['low_confidence']
    store.queue_review(p, 'random')
    case = ask('POST', '/v1/reviews/lease', dict(who='Anna', reason='random')).json['review']
    done = ask('POST', f"/v1/reviews/{case['id']}/finish", dict(grade=1, who='Anna')).json['review']
    assert done['reason'] == 'random' and done['grading']['low_confidence'] and 'low confidence' in done['grading']['review']
    assert [c['grading']['low_confidence'] for c in ask('GET', '/v1/reviews?state=done').json['reviews']] == [True]

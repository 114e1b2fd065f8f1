"A candidate beside the live model: who is answered by whom, what nobody sees, and what sends it back"
import gc, hashlib, io, threading, time, weakref

import pytest, sqlalchemy as sa

from retina_nb.deploy import MockSettings, read_truth, write_mock, write_truth
from retina_nb.serve import Event, RolloutGate, Sent, Service, Store, judge, losses, paired_answers, photo, take_step
from retina_nb.serve.audit import digest_of
from retina_nb.serve.engine import Conflict, ReadOnlyStore, VERSIONS, open_engine
from retina_nb.serve.journal import Journal
from retina_nb.serve.limits import Refusal
from retina_nb.serve.models import Models
from retina_nb.serve.schema import deployment, now
from clients import Process, picture
from conftest import Child, a_grading, add_model

@pytest.fixture(scope='module')
def eyes():
    "Twenty photographs that carry their grades"
    drawn = [picture(i, size=64) for i in range(5)]
    return [write_truth(drawn[i%5], i%5, n=i) for i in range(20)]

@pytest.fixture(scope='module')
def mocks(tmp_path_factory):
    "Three models: two that are right nine times in ten, and one that is wrong four times in ten"
    d = tmp_path_factory.mktemp('mocks')
    how = dict(old=MockSettings(p_correct=.9, seed=1), new=MockSettings(p_correct=.9, seed=2), bad=MockSettings(p_correct=.6, seed=3))
    return {k: write_mock(d/k, settings=v) for k, v in how.items()}

@pytest.fixture
def service(mocks, tmp_path):
    s = Service(Store(tmp_path/'s'), journal=Journal(io.StringIO()), chance=lambda: .999, gate=RolloutGate(patients=5))
    s.start(mocks['old'], by='Anna')
    s.ids = {k: s.store.register(v) for k, v in mocks.items()}
    yield s
    s.close()
    s.store.close()

def ask(service, eye, patient=None, **kw): return service.answer(Sent([eye], dict(patient=patient) if patient else {}), **kw).answer

class Broken:
    "A model that cannot grade"
    def __init__(self, whole): self.bundle, self.task, self.threshold, self.identity = whole.bundle, whole.task, whole.threshold, whole.identity
    def __call__(self, *args, **kwargs): raise ValueError('a number that is none')

# --- decisions
def test_stores_made_before_still_check(url):
    "A store of the first version, with deployments, is brought up to date: nothing in it looks altered"
    Store(url).close()
    with Store(url) as s:
        add_model(s)
        at = now()
        row = dict(alias='live', bundle='a1b2c3d4e5f6', share=1., since=at, by='Anna')
        def _old(conn, note):
            n = conn.execute(deployment.insert().values(**row)).inserted_primary_key[0]
            note(Event('deploy', f'live:{n}', digest_of(['live', row['bundle'], 1., at.isoformat(), 'Anna'])))
        s.write(_old)
    with open_engine(url).begin() as conn:
        conn.execute(sa.text('ALTER TABLE deployment DROP COLUMN why'))
        conn.execute(sa.text(f"UPDATE {VERSIONS} SET version_num='0001'"))
    with Store(url) as s:
        assert s.check() == [] and s.status()['schema'] == '0002' and s.deployments()[0]['why'] == ''
        s.deploy('a1b2c3d4e5f6', 'candidate', share=.1, why='wrong on 3 of 40')
        assert s.check() == []
        with s.engine.begin() as conn: conn.execute(sa.text("UPDATE deployment SET why='fine' WHERE why<>''"))
        assert any('was altered' in f for f in s.check())
        with s.engine.begin() as conn: conn.execute(sa.text("UPDATE deployment SET why=''"))
        assert any('was altered' in f for f in s.check())

def test_what_stands_after_each_decision(store):
    for id in ('b'*12, 'c'*12): add_model(store, id)
    a, b, c = 'a1b2c3d4e5f6', 'b'*12, 'c'*12
    steps = [('live', a, 1, (a, None, 0)), ('candidate', b, 0, (a, b, 0)), ('candidate', b, .1, (a, b, .1)), ('withdrawn', c, 0, (a, b, .1)),
             ('withdrawn', b, 0, (a, None, 0)), ('candidate', c, .5, (a, c, .5)), ('canary', b, 1, (a, c, .5)), ('live', c, 1, (c, None, 0)),
             ('candidate', a, 1, (c, a, 1)), ('live', b, 1, (b, a, 1))]
    for i, (alias, id, share, then) in enumerate(steps, 1):
        store.deploy(id, alias, share=share)
        s = store.standing()
        assert (s.live, s.candidate, s.share, s.number) == (*then, i) and s.number == store.last_decision()
        assert (store.deployed('candidate') or {}).get('id') == s.candidate
    assert store.check() == []

def test_of_two_who_decide_on_the_same_one_is_first(store):
    add_model(store, 'b'*12)
    store.deploy('b'*12, 'candidate')
    seen, got = store.last_decision(), []
    def _back():
        try: got.append(store.deploy('b'*12, 'withdrawn', share=0., after=seen))
        except Conflict as e: got.append(e)
    ts = [threading.Thread(target=_back) for _ in range(6)]
    for t in ts: t.start()
    for t in ts: t.join()
    assert sum(isinstance(g, dict) for g in got) == 1 and [d['alias'] for d in store.deployments()] == ['candidate', 'withdrawn']

def test_killed_in_the_middle_of_a_step(tmp_path):
    "Whatever is there is whole: the last decision stands, its event with it"
    with Store(tmp_path/'s') as s:
        for id in ('a'*12, 'b'*12): add_model(s, id)
        s.deploy('a'*12)
    def _decide(say):
        with Store(tmp_path/'s') as s:
            for i in range(10_000):
                s.deploy('b'*12, 'candidate', share=i % 100/100, why=f'step {i}')
                if i == 5: say('begun')
    c = Child(_decide)
    c.first()
    time.sleep(.05)
    c.kill()
    c.end()
    with Store(tmp_path/'s') as s:
        rows = s.deployments()
        assert len(rows) > 6 and s.check() == []
        assert s.standing().share == rows[-1]['share'] and rows[-1]['why'] == f'step {len(rows) - 2}'

# --- who may be tried
def test_what_cannot_be_a_candidate(service, tmp_path):
    m, s = service.models, service.store
    with pytest.raises(Refusal, match='live already'): m.deploy(service.ids['old'], 'candidate')
    add_model(s, 'f'*12, task='oct')
    with pytest.raises(Refusal, match='answers oct, the live one dr'): m.deploy('f'*12, 'candidate')
    add_model(s, 'e'*12)
    with pytest.raises(Refusal, match='say other_preprocess'): m.deploy('e'*12, 'candidate')
    with pytest.raises(Refusal, match='not there any more'): m.deploy('e'*12, 'candidate', other_preprocess=True)
    with pytest.raises(Refusal, match='share is 2'): m.deploy(service.ids['new'], 'candidate', share=2)
    with pytest.raises(Refusal, match='only a candidate'): m.deploy(service.ids['new'], 'live', share=.5)
    with pytest.raises(Refusal, match='is no candidate'): m.deploy(service.ids['new'], 'withdrawn')
    with pytest.raises(Refusal, match='no model is live'), Store(tmp_path/'empty') as empty: Models(empty).decide(add_model(empty), 'candidate')
    assert [d['alias'] for d in s.deployments()] == ['live'] and m.now.candidate is None

# --- who is answered by whom
def test_a_patient_meets_one_model_at_a_step_and_nobody_changes_back(service, eyes):
    m = service.models
    by = {}
    for share in (.1, .5, 1.):
        m.deploy(service.ids['new'], 'candidate', share=share)
        for p in range(12):
            roles = {a.predictions[0].role for a in (ask(service, eyes[p], f'P{p}'), ask(service, eyes[p + 1], f' P{p} '), ask(service, eyes[p], f'P{p}', client='van'))}
            assert len(roles) == 1
            by.setdefault(p, []).append(roles.pop())
    assert all(r == sorted(r, key=['live', 'candidate'].index) for r in by.values()) and {r[-1] for r in by.values()} == {'candidate'}
    assert {'live', 'candidate'} == {r[1] for r in by.values()}

def test_without_a_patient_the_clients_key_decides_and_without_both_the_live_model(service, eyes):
    service.models.deploy(service.ids['new'], 'candidate', share=.5)
    now_, salt = service.models.now, service.store.salt
    roles = [ask(service, eyes[i], key=f'k{i}', client='van').predictions[0].role for i in range(12)]
    assert roles == [now_.choose(salt, f'request van:k{i}')[1] for i in range(12)] and set(roles) == {'live', 'candidate'}
    assert {ask(service, e).predictions[0].role for e in eyes[:6]} == {'live'}

def test_each_patient_of_a_mixed_request_gets_their_own_model(service, eyes):
    service.models.deploy(service.ids['new'], 'candidate', share=.5)
    ps = [photo(e, patient=f'P{i}') for i, e in enumerate(eyes[:12])]
    got = service._choose(ps, {}, '', 'k')
    want = [service._choose([photo(eyes[0], patient=f'P{i}')], {}, 'other', 'l')[0] for i in range(12)]
    assert got == want and {r for _, r in got} == {'live', 'candidate'}
    gs, by = service._grade_all(ps, type('O', (), dict(looked=False, grade_anyway=True))(), got)
    a = service._record(ps, gs, by, body='x', tags={})
    assert [(p.role, p.grading.model['id']) for p in a.predictions] == [(r, m.id) for m, r in want] and service.store.check() == []

def test_a_key_gets_its_answer_whoever_is_live(service, eyes):
    first = [ask(service, eyes[i], f'P{i}', key=f'{i}') for i in range(4)]
    for alias, share in (('candidate', .5), ('candidate', 1.), ('live', None)):
        service.models.deploy(service.ids['new'], alias, share=share)
        again = [ask(service, eyes[i], f'P{i}', key=f'{i}') for i in range(4)]
        assert [a.id for a in again] == [a.id for a in first] and all(a.repeated for a in again)
        assert [a.gradings[0].to_dict() for a in again] == [a.gradings[0].to_dict() for a in first]
    service.beside.wait()
    assert len(list(service.store.answers(role=None))) == 4 # the repeated ones had no shadow either

# --- the shadow
def test_the_shadow_is_stored_and_told_to_nobody(service, eyes):
    from retina_nb.serve.replies import answer_out
    service.models.deploy(service.ids['bad'], 'candidate')
    answers = [ask(service, eyes[i], f'P{i}') for i in range(10)]
    assert service.beside.wait()
    differ = 0
    for a in answers:
        full = service.store.answer(a.id)
        live, shadow = full.predictions
        assert (live.role, shadow.role, shadow.grading.model['id']) == ('live', 'shadow', service.ids['bad'])
        told = answer_out(full)
        assert [g['id'] for g in told['gradings']] == [live.id] and shadow.id not in str(told) and service.ids['bad'] not in str(told)
        assert service.the_grading(a.id) == live.id
        differ += live.grading.referable != shadow.grading.referable
    queued = [r for r in service.store.reviews() if r['reason'] == 'disagreement']
    assert differ > 0 and {r['prediction'] for r in queued} <= {p.predictions[0].id for p in answers} and all(r['probability'] == 1 for r in queued)
    assert service.store.check() == []

def test_readers_are_not_buried(mocks, eyes, tmp_path):
    s = Service(Store(tmp_path/'s'), journal=Journal(io.StringIO()), chance=lambda: .999, gate=RolloutGate(reading=2))
    s.start(mocks['old'])
    s.models.deploy(s.store.register(mocks['bad']), 'candidate')
    for i, e in enumerate(eyes): ask(s, e, f'P{i}')
    assert s.beside.wait() and sum(r['reason'] == 'disagreement' for r in s.store.reviews()) == 2
    w = judge(s.store, s.gate).weighed
    assert w.waiting > 2 and w.safe < 1 # those that nobody reads count against it
    s.close()
    s.store.close()

def test_a_busy_service_drops_shadows_and_answers(service, eyes):
    service.models.deploy(service.ids['new'], 'candidate')
    service.beside.most = 3
    for _ in range(service.limits.workers): service.turns.take() # as many gradings under way as there are cores
    for i in range(8): assert ask(service, eyes[i], f'P{i}').gradings
    got = service.meters.registry.get_sample_value
    assert got('retina_shadows_total', dict(outcome='dropped')) == 5 and got('retina_shadows_total', dict(outcome='done')) is None
    for _ in range(service.limits.workers): service.turns.give()
    assert service.beside.wait() and got('retina_shadows_total', dict(outcome='done')) == 3

def test_a_service_that_ends_does_not_wait_for_shadows(mocks, eyes, tmp_path):
    s = Service(Store(tmp_path/'s'), journal=Journal(io.StringIO()))
    s.start(mocks['old'])
    s.models.deploy(s.store.register(mocks['new']), 'candidate')
    s.turns.take()
    for _ in range(s.limits.workers): s.turns.take()
    for e in eyes[:5]: ask(s, e)
    start = time.monotonic()
    s.close()
    assert time.monotonic() - start < 5 and s.meters.registry.get_sample_value('retina_shadows_total', dict(outcome='dropped')) == 5
    assert s.store.check() == []
    s.store.close()

# --- back
def test_a_candidate_that_raises_hurts_nobody_and_is_gone(service, eyes):
    for share, wait in ((1., False), (0., True)): # as the one that answers, and as the shadow
        service.models.deploy(service.ids['new'], 'candidate', share=share)
        tried = service.models.now.candidate
        whole, tried.grader = tried.grader, Broken(tried.grader)
        a = ask(service, eyes[0], 'P1')
        assert [p.role for p in a.predictions] == ['live'] and a.gradings[0].model['id'] == service.ids['old']
        if wait: service.beside.wait()
        assert service.models.now.candidate is None # at once
        end = time.monotonic() + 20
        while service.store.standing().candidate and time.monotonic() < end: time.sleep(.02)
        last = service.store.deployments()[-1]
        assert (last['alias'], last['by']) == ('withdrawn', 'rollout') and 'no faults of the model: 1 so far' in last['why']
        tried.grader = whole
    end = time.monotonic() + 20
    while len(service.store.alerts(who='admin')) < 2 and time.monotonic() < end: time.sleep(.02)
    assert [a['why'].split(':')[0] for a in service.store.alerts(who='admin')] == [f"the candidate {service.ids['new']} was sent back"]*2
    assert 'a number that is none' not in service.journal.to.getvalue() and service.store.check() == []

def test_a_fault_ends_the_trial_also_where_the_store_takes_nothing(service, eyes, monkeypatch):
    service.models.deploy(service.ids['new'], 'candidate', share=1.)
    tried = service.models.now.candidate
    tried.grader = Broken(tried.grader)
    def _no(*args, **kwargs): raise ReadOnlyStore('may not be written to')
    monkeypatch.setattr(service.store, 'deploy', _no)
    assert ask(service, eyes[0], 'P1').predictions[0].role == 'live'
    assert service.models.now.candidate is None
    time.sleep(.2) # its thread has tried, and goes on
    assert ask(service, eyes[1], 'P2').predictions[0].role == 'live' and service.store.standing().candidate == service.ids['new']
    monkeypatch.undo()
    assert service.mind()['alias'] == 'withdrawn' and service.minder._thread.is_alive()

def read_all(service, eyes, answers):
    "Readers who see the truth"
    truth = {a.predictions[0].id: read_truth(eyes[i]) for i, a in enumerate(answers)}
    while (case := service.store.lease_review('Ben')) is not None: service.store.finish_review(case['id'], 'Ben', grade=truth[case['prediction']])

def test_a_worse_candidate_goes_back_and_two_services_write_it_once(service, mocks, eyes, tmp_path):
    service.models.deploy(service.ids['bad'], 'candidate', share=.5)
    answers = [ask(service, e, f'P{i}') for i, e in enumerate(eyes)]
    assert service.beside.wait()
    read_all(service, eyes, answers)
    other = Service(Store(tmp_path/'s'), journal=Journal(io.StringIO()), gate=service.gate)
    other.start(mocks['old'])
    assert other.models.now.candidate.id == service.ids['bad'] # it takes part
    ts = [threading.Thread(target=s.mind) for s in (service, other)]
    for t in ts: t.start()
    for t in ts: t.join()
    for s in (service, other): s.follow()
    rows = service.store.deployments()
    assert [d['alias'] for d in rows] == ['live', 'candidate', 'withdrawn'] and 'no worse than the live model: evidence' in rows[-1]['why']
    assert service.models.now.candidate is other.models.now.candidate is None
    assert ask(service, eyes[0], 'P0', key='later').predictions[0].role == 'live' and service.store.check() == []
    other.close()
    other.store.close()

def test_a_case_that_cannot_be_graded_is_waited_for_no_longer(service, eyes):
    service.models.deploy(service.ids['bad'], 'candidate')
    for i, e in enumerate(eyes): ask(service, e, f'P{i}')
    assert service.beside.wait()
    before = judge(service.store, service.gate).weighed
    while (case := service.store.lease_review('Ben')) is not None: service.store.finish_review(case['id'], 'Ben', grade=None)
    after = judge(service.store, service.gate).weighed
    assert before.waiting > 0 and after.waiting == 0 and after.harm == 1 and after.safe > before.safe

def test_a_slow_candidate_goes_back(store):
    from conftest import MODEL
    add_model(store, 'b'*12)
    store.deploy(MODEL)
    store.deploy('b'*12, 'candidate', share=.1)
    def _timed(seed, model, seconds):
        g = a_grading(seed, model=model)
        g.seconds = dict(prepare=seconds/2, model=seconds/2)
        return g
    for i in range(60):
        a = store.record(photo(f'{i}'.encode(), patient=f'P{i}'), _timed(i, MODEL, .1))
        store.add(a.id, _timed(i, 'b'*12, .4 if i > 5 else .1))
        if i == 40: assert not judge(store).failed # too few to tell
    v = judge(store)
    assert [r['condition'] for r in v.failed] == ['at most 2 times as slow'] and take_step(store, v, RolloutGate())['alias'] == 'withdrawn'

def test_only_the_first_day_of_a_patient_counts(store):
    from conftest import MODEL
    add_model(store, 'b'*12)
    store.deploy(MODEL)
    store.deploy('b'*12, 'candidate')
    for i, (patient, day) in enumerate([('P', 1), ('P', 1), ('P', 2), ('Q', 2)]):
        a = store.record(photo(f'{i}'.encode(), patient=patient), a_grading(i), tags=dict(taken=f'2026-03-0{day}T09:00:00+00:00'))
        store.add(a.id, a_grading(i + 10, model='b'*12))
    t = paired_answers(store)
    assert len(t) == 4 and t['unit'].nunique() == 2
    flipped = t.assign(candidate_referable=~t['live_referable'].astype(bool), label=0)
    lost = losses(flipped, a_grading(0).task)
    assert len(lost) == 2 and set(lost['wrong'].abs()) <= {0., 1.}
    q = flipped.copy()
    q.loc[2, 'label'] = 4 # the second day of P: no matter
    assert losses(q, a_grading(0).task)['wrong'].tolist() == lost['wrong'].tolist()

# --- restarts, and memory
def test_a_restart_keeps_what_was_decided(service, mocks, eyes, tmp_path):
    service.models.deploy(service.ids['new'], by='Anna')
    service.models.deploy(service.ids['bad'], 'candidate', share=.5, by='Anna')
    with Store(tmp_path/'s') as store:
        again = Service(store, journal=Journal(io.StringIO()))
        again.start(mocks['old'], by='retina_serve') # as the same command is typed once more
        assert (again.models.live.id, again.models.now.candidate.id, again.models.now.share) == (service.ids['new'], service.ids['bad'], .5)
        assert len(store.deployments()) == 3
        again.close()

def test_a_candidate_that_cannot_be_opened_here_is_withdrawn(service, mocks, tmp_path):
    import shutil
    away = shutil.copytree(mocks['new'], tmp_path/'away')
    with Store(tmp_path/'s') as store:
        id = store.register(away)
        store.deploy(id, 'candidate', share=.5, by='Ben')
        shutil.rmtree(away)
        service.follow()
        assert service.models.now.candidate is None and store.deployments()[-1]['alias'] == 'withdrawn' and 'not there any more' in store.deployments()[-1]['why']
        store.deploy(id, by='Ben') # and as the live one: the one before goes on, and somebody is told
        service.follow()
        n = len(store.alerts(who='admin'))
        service.follow()
        assert service.models.live.id == service.ids['old'] and n == len(store.alerts(who='admin')) == 2

def test_models_that_are_used_no_longer_are_let_go(service):
    service.models.deploy(service.ids['new'], 'candidate')
    tried = weakref.ref(service.models.now.candidate.grader)
    service.models.back()
    gc.collect()
    assert tried() is None and list(service.models.opened) == [service.ids['old']]
    for name in ('new', 'bad', 'old', 'new'): service.models.deploy(service.ids[name])
    assert set(service.models.opened) == {service.ids['new'], service.ids['old']}

# --- over HTTP
def test_a_trial_over_http(mocks, eyes, tmp_path):
    "Another process decides; the service follows within seconds; who reads a case sees neither model's word"
    with Process(tmp_path, mocks['old'], tmp_path/'s') as p, Store(tmp_path/'s') as store:
        p.ready()
        new = store.register(mocks['new'])
        r = p.ask('POST', '/v1/deployments', dict(bundle=new, alias='candidate', share=.1, why='more data'))
        assert r.status == 200 and (r.json['share'], r.json['alias']) == (.1, 'candidate'), r.body
        shown = {m['id']: m for m in p.ask('GET', '/v1/models').json['models']}
        assert (shown[new]['share'], shown[new]['aliases'], shown[new]['why']) == (.1, ['candidate'], 'more data')
        assert [m['share'] for m in shown.values() if m['live']] == [.9]
        for share in (2, -.1, 'x'): assert p.ask('POST', '/v1/deployments', dict(bundle=new, alias='candidate', share=share)).status == 422
        assert p.ask('POST', '/v1/deployments', dict(bundle=new, share=.5)).status == 422
        assert f'retina_candidate_share{{id="{new}"}} 0.1' in p.ask('GET', '/metrics').body.decode()
        store.deploy(new, 'candidate', share=1., by='somebody else')
        end, by = time.monotonic() + 8, None
        while by != new and time.monotonic() < end:
            by = p.ask.grade(eyes[0]).json['model']['id'] # of nobody: the live one's, until all are the candidate's
            time.sleep(.1)
        assert by == new and p.ask('GET', '/v1/health/ready').json['model'] != new # the live one is another
        told = p.ask.grade(eyes[1], dict(patient='P2'), key='k').json
        end = time.monotonic() + 20
        while len(ps := store.answer(told['id']).predictions) < 2 and time.monotonic() < end: time.sleep(.05)
        assert [q.role for q in ps] == ['candidate', 'shadow'], (store.deployments(), p.text())
        assert told['gradings'][0]['id'] == ps[0].id
        for id in (told['id'], ps[1].id):
            got = p.ask('GET', f'/v1/gradings/{id}').json
            assert [g['id'] for g in got['gradings']] == [ps[0].id] and ps[1].id not in str(got)
        store.queue_review(ps[0].id, 'random')
        case = store.lease_review('Ben', reason='random')
        for id in (told['id'], *(q.id for q in ps)):
            for more in ('', '/heat_map', '/history'): assert p.ask('GET', f'/v1/gradings/{id}{more}').status == 409, (id, more)
        shown = str(p.ask('GET', '/v1/reviews').json)
        assert ps[1].id not in shown and ps[0].id not in shown and new not in shown
        store.finish_review(case['id'], 'Ben', grade=0)
        r = p.ask('POST', '/v1/deployments', dict(bundle=new, alias='withdrawn', why='enough'))
        assert r.status == 200 and r.json['share'] == 0 and p.ask('POST', '/v1/deployments', dict(bundle=new, alias='withdrawn')).status == 409
        assert p.ask.grade(eyes[2], dict(patient='P1')).json['model']['id'] != new
    with Store(tmp_path/'s') as s: assert s.check() == [] and s.deployments()[-1]['why'] == 'enough'

@pytest.mark.full
def test_a_candidate_that_fails_is_gone_within_a_minute(mocks, eyes, tmp_path):
    "Nobody asks for a look: the service takes it by itself"
    with Process(tmp_path, mocks['old'], tmp_path/'s') as p, Store(tmp_path/'s') as store:
        p.ready()
        bad = store.register(mocks['bad'])
        store.deploy(bad, 'candidate', share=.5)
        time.sleep(3)
        for i, e in enumerate(eyes): p.ask.grade(e, dict(patient=f'P{i}'))
        time.sleep(3)
        truth = {}
        for a in store.answers(role=None): truth[a[0].id] = a[0]
        while (case := store.lease_review('Ben')) is not None:
            sha = truth[case['prediction']].sha256
            grade = next(read_truth(e) for e in eyes if hashlib.sha256(e).hexdigest() == sha)
            store.finish_review(case['id'], 'Ben', grade=grade)
        start = time.monotonic()
        while store.standing().candidate and time.monotonic() - start < 60: time.sleep(.2)
        assert store.deployments()[-1]['alias'] == 'withdrawn' and time.monotonic() - start < 60

def test_a_service_that_nobody_closes_ends(mocks, tmp_path):
    s = Service(Store(tmp_path/'s'), journal=Journal(io.StringIO()))
    s.start(mocks['old'])
    thread, seen = s.minder._thread, weakref.ref(s)
    assert thread.is_alive()
    s.store.close()
    del s
    end = time.monotonic() + 20
    while (seen() is not None or thread.is_alive()) and time.monotonic() < end:
        gc.collect()
        time.sleep(.05)
    assert seen() is None and not thread.is_alive()

def test_a_store_that_is_away_is_said_once(service, monkeypatch):
    def _no(): raise ReadOnlyStore('is away')
    monkeypatch.setattr(service.store, 'last_decision', _no)
    for _ in range(5):
        with pytest.raises(ReadOnlyStore) as e: service.follow()
        service._odd(e.value)
    assert service.journal.to.getvalue().count('"fault"') == 1
    monkeypatch.undo()
    service.follow()
    service._odd(ReadOnlyStore('again'))
    assert service.journal.to.getvalue().count('"fault"') == 2

def test_drift_sends_back_into_the_shadow_and_a_new_models_words_do_not(service, eyes, monkeypatch):
    from datetime import timedelta
    from types import SimpleNamespace
    from retina_nb.serve import trying
    taken = now() - timedelta(days=30)
    def _taken(days): return dict(taken=(taken + timedelta(days=days)).isoformat())
    service.answer(Sent([eyes[0]], _taken(0)))
    service.models.deploy(service.ids['new'], 'candidate', share=.5)
    def _found(*alarms): monkeypatch.setattr(trying, 'watch_store', lambda *args, **kwargs: SimpleNamespace(alarms=[
        SimpleNamespace(at=taken + timedelta(days=d), cause=c, verdict=f'{c} on day {d}') for d, c in alarms]))
    since = service.models.standing.since
    _found((-1, 'camera'), (0, 'camera'), (1, 'model'))
    assert trying.drift_since(service.store, since) == [] and service.mind() is None
    _found((-1, 'camera'), (1, 'camera'))
    service.watch()
    _until(lambda: service.models.now.share == 0)
    row = service.store.deployments()[-1]
    assert (row['alias'], row['share']) == ('candidate', 0.) and 'camera on day 1' in row['why'] and service.models.now.share == 0
    _until(lambda: service.store.alerts(who='admin'))
    assert 'is a shadow again' in service.store.alerts(who='admin')[-1]['why']
    service.watch()
    assert service.mind() is None and service.store.standing().candidate == service.ids['new'] # there it stays

def _until(done, seconds=20):
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end: time.sleep(.02)
    assert done()

def test_a_bad_candidate_goes_back_while_drift_is_looked_for_and_where_that_fails(service, eyes, monkeypatch):
    from retina_nb.serve import trying
    free, begun = threading.Event(), threading.Event()
    def _slow(*args, **kwargs):
        begun.set()
        free.wait(20)
        raise ValueError('a time that is none')
    monkeypatch.setattr(trying, 'watch_store', _slow)
    def _drift(v): return next((r['state'], r['found']) for r in v.rows if r['condition'] == 'no alarm of drift')
    service.models.deploy(service.ids['bad'], 'candidate', share=.5)
    answers = [ask(service, e, f'P{i}') for i, e in enumerate(eyes)]
    assert service.beside.wait() and service.mind() is None and _drift(service.verdict) == ('open', 'not looked at yet')
    watching = threading.Thread(target=service.watch)
    watching.start()
    assert begun.wait(20)
    read_all(service, eyes, answers)
    assert service.mind()['alias'] == 'withdrawn' and watching.is_alive()
    free.set()
    watching.join()
    service.models.deploy(service.ids['new'], 'candidate', share=.5)
    service.watch()
    service.mind()
    assert _drift(service.verdict) == ('open', 'cannot be watched (ValueError)') and not service.verdict.forward
    assert service.journal.to.getvalue().count('ValueError') == 2 and service.minder._thread.is_alive() and service.watcher._thread.is_alive()

def test_the_same_is_not_weighed_twice(service, eyes, monkeypatch):
    from retina_nb.serve import trying
    looked = []
    monkeypatch.setattr(trying, 'judge', lambda *args, **kwargs: looked.append(1) or judge(*args, **kwargs))
    service.minder.close() # looks that are not taken here
    service.models.deploy(service.ids['bad'], 'candidate')
    answers = [ask(service, eyes[0], 'P0')]
    def _looks(change=lambda: None):
        change()
        assert service.beside.wait()
        looked.clear()
        service.mind()
        service.mind()
        return len(looked)
    assert (_looks(), _looks(), service.verdict.weighed.patients) == (1, 0, 1)
    assert _looks(lambda: answers.extend(ask(service, e, f'P{i}') for i, e in enumerate(eyes[1:], 1))) == 1
    assert service.verdict.weighed.patients == len(eyes)
    assert _looks(lambda: read_all(service, eyes, answers)) == 1 and service.store.standing().candidate is None

def test_errors_and_the_gate_are_known_to_others_and_after_a_restart(service, mocks, eyes, tmp_path):
    from retina_nb.serve import gate_of
    def _kept(): return next(int(r['found'].split()[0]) for r in judge(service.store, gate_of(service.store)).rows if 'faults of the model' in r['condition'])
    assert gate_of(service.store) == service.gate
    service.gate = RolloutGate(patients=5, faults=9)
    service.models.deploy(service.ids['new'], 'candidate', share=1.)
    tried = service.models.now.candidate
    tried.grader = Broken(tried.grader)
    ask(service, eyes[0], 'P1')
    assert service.beside.wait() and service.mind() is None
    n = _kept()
    assert n in (1, 2) # 2: as the shadow too
    service.minder.close()
    with Store(tmp_path/'s') as store:
        again = Service(store, journal=Journal(io.StringIO()), gate=RolloutGate(patients=5, faults=n))
        again.start(mocks['old'])
        assert gate_of(service.store) == again.gate and _kept() == n and again.mind() is None
        again.models.now.candidate.grader = tried.grader
        ask(again, eyes[1], 'P2')
        again.mind()
        again.close()
    service.follow()
    assert service.store.deployments()[-1]['alias'] == 'withdrawn' and service.store.check() == []
    service.models.deploy(service.ids['bad'], 'candidate')
    assert _kept() == 0 # of another trial

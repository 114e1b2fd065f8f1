"The service as a process of its own: every address, keys, one row for one key, reviews that are blind, alerts, a healthy end"
import json, shutil, subprocess, sys, time

import pytest

from retina_nb.deploy import Grader, write_sums
from retina_nb.serve import Store
from servers import Handler, Server
from clients import Client, Process, form, large, picture, together

@pytest.fixture(scope='module')
def room(bundle, tmp_path_factory):
    "A service that keeps photographs and is never sure, without keys; (process, folder of its store)"
    d = tmp_path_factory.mktemp('room')
    with Process(d, bundle, d/'store', keep_images=repr(str(d/'store/pictures')), low_confidence='1.') as p:
        yield p.ready(), d/'store'

@pytest.fixture
def ask(room): return room[0].ask

def test_says_where_it_is_and_who_is_let_in(room):
    p, db = room
    assert 'only this machine is served' in p.told and str(db) in p.told and '/docs' in p.told

def test_a_grading(ask, bundle):
    eye = picture(1)
    r = ask.grade(eye, dict(hospital='A', age=61, patient='Mrs Example'))
    assert r.status == 200 and r.headers['x-content-type-options'] == 'nosniff' and r.headers['cache-control'] == 'no-store'
    a, want = r.json, Grader(bundle)(eye)
    assert a['probabilities'] == want.probabilities and a['grade'] == want.grade and a['name'] == want.name
    assert (a['referable'], a['threshold'], a['quality']) == (want.referable, .4, want.quality)
    assert a['model']['id'] == want.model['id'] and a['low_confidence'] and 'low confidence' in a['review']
    assert a['tags'] == dict(hospital='A', age=61) and 'Example' not in r.body.decode()
    for id in (a['id'], a['gradings'][0]['id']): assert ask('GET', f'/v1/gradings/{id}').json == a

def test_several_at_once(ask):
    r = ask.grade([picture(2), picture(3), b'Dear colleague'])
    gs = r.json['gradings']
    assert r.status == 200 and [g['grade'] is None for g in gs] == [False, False, True] and 'text' in gs[2]['error']
    said = ask('POST', f"/v1/gradings/{r.json['id']}/feedback", dict(verdict='agree'))
    assert said.status == 422 and '3 photographs' in said.error
    assert ask('POST', f"/v1/gradings/{gs[1]['id']}/feedback", dict(verdict='agree', who='Anna')).json['grade'] == gs[1]['grade']

def test_same_key(ask, room):
    eye, other = picture(4), picture(5)
    first = ask.grade(eye, dict(eye='left'), key='visit 1'.replace(' ', '%20'))
    again = ask.grade(eye, dict(eye='left'), key='visit%201')
    assert first.status == again.status == 200 and again.json == first.json and first.json['key'] == 'visit 1'
    assert again.headers['idempotent-replayed'] == 'true' and first.headers['idempotent-replayed'] is None
    assert ask.grade(other, dict(eye='left'), key='visit%201').status == 409
    assert ask.grade(eye, dict(eye='right'), key='visit%201').status == 409
    assert ask.grade(eye, dict(eye='left'), idempotency_key='visit 1').json == first.json

def test_same_key_at_the_same_time_is_one_row(ask, room):
    eye = picture(6)
    rs = together(6, lambda i: ask.grade(eye, key='together'))
    assert {r.status for r in rs} == {200} and len({r.body for r in rs}) == 1
    with Store(room[1]) as s: assert len([p for p, _ in s.answers() if p.id == rs[0].json['gradings'][0]['id']]) == 1
    assert len(ask('GET', f"/v1/gradings/{rs[0].json['id']}/history").json['reviews']) == 1

def test_feedback_and_history(ask, room):
    a = ask.grade(picture(7), dict(hospital='B')).json
    path = f"/v1/gradings/{a['id']}/feedback"
    assert ask('POST', path, dict(verdict='correct', grade=3, reason='haemorrhages', who='Anna')).json['grade'] == 3
    assert ask('POST', path, dict(verdict='agree', who='Ben')).json['who'] == 'Ben'
    for bad in (dict(verdict='perhaps'), dict(verdict='correct'), dict(verdict='correct', grade=5), dict(verdict='correct', grade='3'), {}, [],
                dict(verdict='agree', unknown=1)):
        r = ask('POST', path, bad)
        assert r.status == 422 and list(r.json) == ['error'], bad
    h = ask('GET', f"/v1/gradings/{a['id']}/history").json
    assert [f['who'] for f in h['feedback']] == ['Anna', 'Ben'] and h['answer'] == a
    assert [e['kind'] for e in h['events']][:2] == ['request', 'prediction'] and a['model']['id'] in h['models']
    assert str(room[1].parent) not in json.dumps(h)

def test_heat_map(ask):
    a = ask.grade(picture(8), query='?heat_map=true').json
    r = ask('GET', f"/v1/gradings/{a['id']}/heat_map")
    assert (r.status, r.body[:4]) == (200, b'\x89PNG') if 'heat_map' in a else r.status == 404
    if 'heat_map' in a: # how coarse it is goes with it, in both
        assert 'It is no outline of lesions' in a['map_note'] and r.headers['Map-Note'] == a['map_note'].replace('×', 'x')
    letter = ask.grade([picture(8), b'no picture']).json['gradings'][1]
    assert ask('GET', f"/v1/gradings/{letter['id']}/heat_map").status == 404

def test_review_is_blind(ask, room):
    a = ask.grade(picture(9)).json
    queue = ask('GET', '/v1/reviews')
    assert queue.status == 200 and a['gradings'][0]['id'] not in queue.body.decode() and 'probabilities' not in queue.body.decode()
    seen = set()
    while True: # until it is the one just sent
        case = ask('POST', '/v1/reviews/lease', dict(who='Anna', minutes=5)).json['review']
        assert case['id'] not in seen and 'grading' not in case and case['reason'] == 'low confidence'
        seen.add(case['id'])
        with Store(room[1]) as s: mine = next(r['prediction'] for r in s.reviews('all') if r['id'] == case['id'])
        for path in (f'/v1/gradings/{mine}', f'/v1/gradings/{mine}/history', f'/v1/gradings/{mine}/heat_map'):
            assert ask('GET', path).status == 409
        assert ask('GET', f"/v1/reviews/{case['id']}/picture").body[:3] == b'\xff\xd8\xff'
        assert ask('POST', f"/v1/reviews/{case['id']}/finish", dict(grade=1, who='Ben')).status == 409
        done = ask('POST', f"/v1/reviews/{case['id']}/finish", dict(grade=1, who='Anna', note='two microaneurysms')).json['review']
        assert done['result']['grade'] == 1 and done['grading']['id'] == mine and done['done_by'] == 'Anna'
        if mine == a['gradings'][0]['id']: break
    assert ask('GET', f'/v1/gradings/{mine}').status == 200
    assert [r['id'] for r in ask('GET', '/v1/reviews?state=done').json['reviews']].count(case['id']) == 1
    assert ask('GET', '/v1/reviews?state=odd').status == 422
    assert ask('POST', '/v1/reviews/lease', dict(who='')).status in (200, 422)

def test_review_is_blind_by_every_way(bundle, tmp_path):
    "Who has a photograph to read gets the model's word on it neither from another request, nor by sending it again, nor by agreeing unseen"
    from retina_nb.serve import Running, create_app
    with Store(tmp_path/'store', keep_images=tmp_path/'pictures') as store:
        anna, ben, van = [store.add_key(n, r) for n, r in (('Anna', 'reviewer'), ('Ben', 'admin'), ('van', 'grader'))]
        with Running(create_app(store, bundle, low_confidence=1.)) as url:
            port = int(url.rpartition(':')[2])
            anna, ben, van = Client(port, anna), Client(port, ben), Client(port, van)
            while anna('GET', '/v1/health/ready').status != 200: time.sleep(.05)
            eye = picture(9)
            first, second = van.grade(eye, key='one').json, van.grade(eye, dict(eye='left')).json
            p = first['gradings'][0]['id']
            store.queue_review(p, 'random')
            for client, who in ((ben, 'Ben'), (anna, '')): # Ben has read the very photograph that Anna takes now
                case = client('POST', '/v1/reviews/lease', dict(who=who)).json['review']
                assert case['sha256'] == first['sha256']
                if client is ben: assert 'grading' in ben('POST', f"/v1/reviews/{case['id']}/finish", dict(grade=1)).json['review']
            for a in (first, second):
                for path in ('', '/history', '/heat_map'): assert anna('GET', f"/v1/gradings/{a['id']}{path}").status == 409
                assert ben('GET', f"/v1/gradings/{a['id']}").status == van('GET', f"/v1/gradings/{a['id']}").status == 200
            done, = anna('GET', '/v1/reviews?state=done').json['reviews']
            assert not {'grading', 'result'} & set(done) and 'grading' in ben('GET', '/v1/reviews?state=done').json['reviews'][0]
            assert anna.grade(eye, key='one').status == anna.grade(eye).status == 409 and van.grade(eye, key='one').json == first
            assert anna.grade([picture(8), eye]).status == 409 and anna.grade(picture(8)).status == 200
            said = anna('POST', f'/v1/gradings/{p}/feedback', dict(verdict='agree'))
            assert said.status == 200 and said.json['grade'] is None
            assert van('POST', f'/v1/gradings/{p}/feedback', dict(verdict='agree')).status == 403
            assert ben('POST', f'/v1/gradings/{p}/feedback', dict(verdict='agree')).json['grade'] == first['grade']
            assert anna('POST', f"/v1/reviews/{case['id']}/finish", dict(grade=2)).json['review']['grading']['grade'] == first['grade']
            assert anna('GET', f"/v1/gradings/{p}").status == 200 and anna.grade(eye, key='one').json == first

def test_ungradable_calls_a_person(ask):
    import io
    import numpy as np
    from PIL import Image
    f = io.BytesIO()
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(f, 'PNG')
    a = ask.grade(f.getvalue()).json
    assert a['grade'] is None and 'blank' in a['ungradable'] and a['review']
    alert = next(x for x in ask('GET', '/v1/alerts').json['alerts'] if x['prediction'] == a['gradings'][0]['id'])
    assert 'cannot be graded' in alert['why']
    assert ask('POST', f"/v1/alerts/{alert['id']}/seen").status == 200
    assert alert['id'] not in [x['id'] for x in ask('GET', '/v1/alerts').json['alerts']]
    assert alert['id'] in [x['id'] for x in ask('GET', '/v1/alerts?seen=true').json['alerts']]
    assert ask.grade(f.getvalue(), query='?grade_anyway=true').json['grade'] is not None

def test_models_and_deployments(ask, room, bundle):
    m, = ask('GET', '/v1/models').json['models']
    assert m['live'] and m['golden'] == 8 and m['aliases'] == ['live']
    assert ask('POST', '/v1/deployments', dict(bundle=m['id'])).json['golden'] == 8
    assert ask('POST', '/v1/deployments', dict(bundle='0'*12)).status == 404
    assert ask('POST', '/v1/deployments', dict(bundle=m['id'], alias='../live')).status == 422
    assert ask('POST', '/v1/deployments', dict(bundle=str(bundle))).status == 404

def test_health_metrics_and_description(ask):
    assert ask('GET', '/v1/health/live').json == dict(status='live') and ask('GET', '/v1/health/ready').json['status'] == 'ready'
    text = ask('GET', '/metrics').body.decode()
    for name in ('retina_requests_total', 'retina_seconds_bucket', 'retina_grades_total', 'retina_reviews_open', 'retina_model{'): assert name in text
    doc = ask('GET', '/openapi.json').json
    assert {'/v1/gradings/{key}', '/v1/reviews/lease', '/v1/alerts/{id}/seen'} <= set(doc['paths'])
    assert all({'400', '401', '403', '503'} <= set(o['responses']) for p, ms in doc['paths'].items() for o in ms.values() if 'health' not in p)
    page = ask('GET', '/docs').body.decode()
    assert 'PUT /v1/gradings/{key}' in page and 'src=' not in page and 'https://' not in page

def test_nothing_of_a_patient_in_the_log_and_the_store_is_sound(room, ask):
    ask.grade(picture(10), dict(patient='Mrs Example', ward='Seven Oaks'), key='Example-in-1952')
    p, db = room
    text = p.text()
    for word in ('Example', 'Seven', 'in-1952', '.jpg', 'visit'): assert word not in text, word # none that an id of hexadecimal digits may hold
    assert {(l['event'], l.get('what')) for l in p.lines()} <= {('request', None), ('ready', None), ('rollout', 'now')} # no faults
    ids = [l['id'] for l in p.lines() if l['event'] == 'request']
    assert len(set(ids)) == len(ids) and ask('GET', '/v1/models').headers['x-request-id']
    with Store(db) as s:
        assert s.check() == []
        assert s.erase('Mrs Example')['photographs'] >= 1

def test_keys(bundle, tmp_path):
    with Store(tmp_path/'s') as s: keys = {role: s.add_key(role, role) for role in ('reader', 'grader', 'reviewer', 'admin')}
    with Process(tmp_path, bundle, tmp_path/'s') as p:
        p.ready()
        assert 'whoever shows a key' in p.told
        who, eye = {r: Client(p.ask.port, k) for r, k in keys.items()}, form([picture(1)])
        assert who['grader']('POST', '/v1/gradings', *eye).status == 200
        assert who['reader']('POST', '/v1/gradings', *eye).status == 403
        id = who['grader']('POST', '/v1/gradings', *eye).json['id']
        may = [('GET', f'/v1/gradings/{id}', None, 'reader'), ('POST', f'/v1/gradings/{id}/feedback', dict(verdict='agree'), 'reviewer'),
               ('GET', '/v1/reviews', None, 'reviewer'), ('POST', '/v1/deployments', dict(bundle='0'*12), 'admin'), ('GET', '/metrics', None, 'reader')]
        for method, path, body, least in may:
            for role in keys:
                ok = list(keys).index(role) >= list(keys).index(least)
                assert (who[role](method, path, body).status != 403) == ok, (path, role)
            r = p.ask(method, path, body)
            assert r.status == 401 and r.headers['www-authenticate'] == 'Bearer' and list(r.json) == ['error']
        for bad in ('', 'rnb_', keys['admin'][:-1], keys['admin'] + 'a', 'rnb_' + '0'*12 + '_' + 'a'*43, 'ü'.encode().decode('latin-1')):
            assert Client(p.ask.port, bad)('GET', '/v1/models').status == 401
        assert p.ask('GET', '/v1/models', X_API_Key=keys['reader']).status == 200
        assert p.ask('GET', '/v1/health/ready').status == 200
        with Store(tmp_path/'s') as s: s.revoke_key('admin')
        assert who['admin']('GET', '/v1/models').status == 401
        said = who['reviewer']('POST', f'/v1/gradings/{id}/feedback', dict(verdict='agree', who='Professor')).json['who']
        assert said == 'Professor (reviewer)' # nobody can speak as somebody else
        text = p.text()
        assert not any(k in text or k.split('_', 2)[2] in text for k in keys.values())

def test_alerts_reach_a_webhook_and_gradings_do_not_wait(bundle, tmp_path):
    class Hook(Handler):
        def do_POST(self):
            time.sleep(.5)
            self.server.got.append(json.loads(self.body()))
            self.answer({}, 500 if len(self.server.got) == 1 else 200)
    hook = Server(Hook, got=[])
    with Process(tmp_path, bundle, tmp_path/'s', low_confidence='1.', notify=f'Notify(webhook={hook.url!r}, pause=.1)') as p:
        p.ready()
        p.ask.grade(picture(0))
        start = time.time()
        ids = [p.ask.grade(picture(i)).json['gradings'][0]['id'] for i in (1, 2)]
        took, end = time.time() - start, time.time() + 20
        while len(hook.got) < 4 and time.time() < end: time.sleep(.05)
        assert {g['grading'] for g in hook.got} >= set(ids) and took < 5
        assert set(hook.got[0]) == {'alert', 'grading', 'why', 'at'} # neither a grade nor a patient
    hook.shutdown()

def test_a_model_that_answers_differently_here_is_not_ready(bundle, tmp_path):
    other = shutil.copytree(bundle, tmp_path/'other')
    golden = json.loads((other/'golden/golden.json').read_text())
    golden['images'][0]['probabilities']['fp32'].reverse()
    (other/'golden/golden.json').write_text(json.dumps(golden))
    write_sums(other)
    with Process(tmp_path, other, tmp_path/'s') as p:
        end = time.time() + 60
        while 'does not answer' not in (r := p.ask('GET', '/v1/health/ready')).error and time.time() < end: time.sleep(.1)
        assert r.status == 503 and p.ask('GET', '/v1/health/live').status == 200
        assert p.ask.grade(picture(1)).status == 503
        assert 'not ready' in [l['event'] for l in p.lines()]
    with Store(tmp_path/'s') as s: assert s.deployed() is None

def test_the_end_finishes_what_is_under_way(bundle, tmp_path):
    with Process(tmp_path, bundle, tmp_path/'s') as p:
        p.ready()
        eyes = [large(12, i) for i in range(3)]
        asked = together(4, lambda i: p.ask.grade(eyes[i], key=f'k{i}') if i < 3 else (time.sleep(.5), p.stop())[1])
        assert asked[3] == 0 and p.lines()[-1]['event'] == 'stopped' # an end that was asked for is no fault
        answered = [r for r in asked[:3] if not isinstance(r, Exception)]
        assert answered and all(r.status == 200 for r in answered)
    with Store(tmp_path/'s') as s:
        assert {r.json['id'] for r in answered} <= {s.answer(p_.id).id for p_, _ in s.answers()} and s.check() == []

def test_command(bundle, tmp_path, typed):
    script = tmp_path/'retina_serve' # as it is typed, whether or not it was installed
    script.write_text('from retina_nb.serve import retina_serve\nretina_serve()\n')
    def own(*args): return subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True, timeout=60)
    for args, why in [((tmp_path/'no',), 'no such bundle'), ((bundle, '--port', 99999), 'between 1 and 65535'),
                      ((bundle, '--ip', '0.0.0.0'), 'key add NAME'), ((bundle, '--cors', '*'), 'is no site'),
                      ((bundle, '--webhook', 'file:///etc/passwd'), 'a webhook is'), ((bundle, '--keep_images', 's3://a/b'), 'in a folder'),
                      ((bundle, '--low_confidence', 7), 'between 0 and 1'), ((bundle, '--db', 'mysql://a/b'), 'kind of database')]:
        db = () if '--db' in args else ('--db', tmp_path/'s')
        for run in [own]*(why == 'key add NAME') + [lambda *a: typed('retina_serve', *a)]: # one of them as a process of its own
            r = run(*args, *db)
            assert r.returncode == 2 and why in r.stderr and r.stderr.count('\n') == 1, r.stderr

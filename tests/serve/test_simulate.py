"A simulated world: the same for the same seed, as a service would have stored it, and its faults and readers as they were set"
import io, json
from dataclasses import replace

import numpy as np, pandas as pd, pytest, sqlalchemy as sa

from retina_nb.commands import _parse
from retina_nb.core import DataError, RetinaError, SettingError
from retina_nb.deploy import MockSettings, ServiceError, write_mock
from retina_nb.image import image_quality, read_image
from retina_nb.serve import Reader, SamplingPlan, Store, World, create_app, draw_pool, folder_pool, replay_store, retina_simulate, simulate_world
from retina_nb.serve.journal import Journal
from retina_nb.serve.listening import Running
from retina_nb.serve.schema import METADATA

SMALL = World(rate=14)

@pytest.fixture(scope='module')
def pool(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('RETINA_NB_CACHE', str(tmp_path_factory.mktemp('cache')))
        return draw_pool(40)

@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch): # no test draws into the cache of whoever runs it
    monkeypatch.setenv('RETINA_NB_CACHE', str(tmp_path_factory.getbasetemp()/'cache_of_simulations'))

@pytest.fixture(scope='module')
def mock(tmp_path_factory): return write_mock(tmp_path_factory.mktemp('m')/'mock', settings=MockSettings(.85))

class served:
    "A service in this process"
    def __init__(self, where, bundle, keep=None, **kw): self.where, self.bundle, self.keep, self.kw = where, bundle, keep, kw
    def __enter__(self):
        self.store = Store(self.where, keep_images=self.keep)
        self.running = Running(create_app(self.store, self.bundle, journal=Journal(io.StringIO()), **self.kw))
        self.url = self.running.__enter__()
        return self
    def __exit__(self, *a):
        self.running.__exit__(*a)
        self.store.close()

def rows(where, name):
    with Store(where) as s, s.read() as conn: return [dict(r) for r in conn.execute(sa.select(METADATA.tables[name])).mappings()]

# --- the world
def test_the_same_seed_gives_the_same_month():
    a, b = (list(World().happens(4, ['blur:machine=B2:day=3'], seed=5)) for _ in range(2))
    assert a == b and a != list(World().happens(4, seed=6))
    assert World.from_dict(json.loads(json.dumps(World().to_dict()))) == World()

def test_patients_are_as_they_were_ordered():
    w = World(weights=dict(A1=3), night=.5, returning=.3)
    shots = [s for d in w.happens(30, seed=1) for s in d]
    by = pd.Series([s.machine for s in shots]).value_counts(normalize=True)
    assert abs(by['A1'] - 3/7) < .03 and abs(by['C1'] - 1/7) < .03
    assert abs(np.mean([s.taken.hour >= 20 or s.taken.hour < 7 for s in shots]) - .5) < .03
    assert all(s.taken.tzinfo for s in shots) and {s.eye for s in shots} == {'left', 'right'}
    visits = pd.DataFrame([(s.patient, s.visit) for s in shots]).groupby(0)[1].nunique()
    assert abs((visits - 1).sum()/visits.sum() - .3) < .04
    assert abs(len(shots)/30 - 200) < 15 and {s.told == s.eye for s in shots} == {True}

def test_faults_hold_where_and_when_they_should():
    faults = ['eyes:hospital=A:day=5:strength=.5', 'prevalence:machine=C1:day=5:strength=5', 'darkness:all:day=8']
    shots = [s for d in World().happens(20, faults, seed=2) for s in d]
    wrong = pd.DataFrame([(s.hospital, s.day >= 5, s.told != s.eye) for s in shots]).groupby([0, 1])[2].mean()
    assert abs(wrong['A', True] - .5) < .05 and wrong['A', False] == wrong['B', True] == 0
    sick = lambda m, late: np.mean([s.truth >= 2 for s in shots if s.machine == m and (s.day >= 5) == late])
    assert sick('C1', True) > sick('C1', False) + .15 and abs(sick('A1', True) - sick('A1', False)) < .1
    assert {s.day for s in shots if s.spoiled} == set(range(8, 21))
    assert all('prevalence' in s.faults for s in shots if s.machine == 'C1' and s.day >= 5)

@pytest.mark.parametrize('line, why', [
    ('blurry:all:day=1', 'did you mean|blur'), ('blur:machine=Z9:day=1', 'B2'), ('blur:hospital=Z:day=1', 'A'), ('blur:all:day=31', 'after the last day'),
    ('blur:all:day=0', 'first day'), ('blur:all', 'write KIND'), ('blur', 'write KIND'), ('', 'kind of fault'), ('blur:machine=A1:hospital=A:day=1', 'write KIND'),
    ('blur:all:day=1:strength=-1', '0 to 20'), ('darkness:all:day=1:strength=nan', 'share of the light'), ('blur:all:day=1:power=3', 'is no fault'),
    ('model:machine=A1:day=2:bundle=x', 'model:all'), ('model:all:day=2', 'bundle=ID'), ('blur:all:day=2:bundle=x', 'bundle'), ('blur:all:day=1.5', 'no number')])
def test_faults_that_cannot_be(line, why):
    with pytest.raises(SettingError, match=why): World().check_faults([line], 30)

@pytest.mark.parametrize('bad', [
    dict(rate=-5), dict(rate=0), dict(rate='many'), dict(hospitals={}), dict(hospitals=dict(A=[])), dict(hospitals=dict(A=dict(machines=['x', 'x']))),
    dict(night=2), dict(prevalence=(.5, .5)), dict(prevalence=(1, 1, 1, 1, 1)), dict(start='Monday'), dict(weights=dict(A1=-1)), dict(ages=(500, 1)),
    dict(readers=[dict(name='')]), dict(readers=[dict(name='a', sensitivity=7)]), dict(readers=[dict(nam='a')]), dict(colour='red'), dict(hospitals=3), dict(weights=3)])
def test_worlds_that_cannot_be(bad):
    with pytest.raises(SettingError): World.from_dict(bad)

def test_readers_err_at_their_rates():
    r = Reader('r', sensitivity=.8, specificity=.9)
    said = {g: np.array([r.reads(g, f'{g}-{i}') for i in range(2000)]) for g in range(5)}
    assert all(abs((said[g] >= 2).mean() - .8) < .03 for g in (2, 3, 4)) and all(abs((said[g] < 2).mean() - .9) < .03 for g in (0, 1))
    assert set(said[3]) == {3, 1} and set(said[0]) == {0, 2}
    assert (said[2] == [r.reads(2, f'2-{i}') for i in range(2000)]).all() # the same photograph, the same word

# --- photographs
def test_faults_are_seen_in_the_pictures(pool):
    m = lambda *spoiled: image_quality(pool.picture(2, 3, spoiled)).measures
    plain = m()
    assert m(('blur', 1.))['sharpness'] < plain['sharpness'] - .05 and m(('darkness', .6))['brightness'] < .7*plain['brightness']
    assert m(('crop', .3))['coverage'] < plain['coverage'] and len(pool.picture(2, 3, [('compression', 15.)])) < len(pool.picture(2, 3))/2

def test_a_folder_needs_every_grade(tmp_path, pool):
    for g in range(5): (tmp_path/f'{g}.jpg').write_bytes(pool.picture(g, 0))
    (tmp_path/'labels.csv').write_text('image,label\n' + ''.join(f'{g}.jpg,{g}\n' for g in range(5)))
    assert len(folder_pool(tmp_path)) == 5
    (tmp_path/'labels.csv').write_text('image,label\n0.jpg,0\n')
    with pytest.raises(DataError, match='grade 1'): folder_pool(tmp_path)

# --- in a store, and over HTTP
@pytest.fixture(scope='module')
def both(tmp_path_factory, pool, mock):
    "The same three days in both ways"
    d, faults = tmp_path_factory.mktemp('both'), ['blur:machine=B2:day=2']
    with served(d/'http', mock) as s: over = simulate_world(s.url, World(rate=24), days=3, faults=faults, pool=pool, seed=4)
    within = simulate_world(d/'inside', World(rate=24), days=3, faults=faults, pool=pool, seed=4, bundle=mock)
    return d, over, within

def test_both_ways_give_the_same_answers(both):
    _, over, within = both
    same = [c for c in over.columns if c not in ('id', 'request')]
    pd.testing.assert_frame_equal(over[same], within[same])
    assert (over.grade == over.truth).mean() > .7 and set(over.machine[over.faults == 'blur']) == {'B2'}

def plain(row):
    "A row without what must differ: ids, secrets, times"
    return {k: v for k, v in row.items() if k not in ('id', 'request', 'image', 'subject', 'prediction', 'key', 'body', 'hmac', 'secret', 'seconds', 'leased_until')
            and not hasattr(v, 'isoformat')}

@pytest.mark.parametrize('table', ['request', 'image', 'prediction', 'bundle', 'deployment'])
def test_both_ways_write_the_same_rows(both, table):
    order = lambda rs: sorted(json.dumps(plain(r), sort_keys=True, default=str) for r in rs)
    http, inside = (rows(both[0]/where, table) for where in ('http', 'inside'))
    if table == 'deployment': http, inside = ([{k: v for k, v in r.items() if k != 'by'} for r in rs] for rs in (http, inside))
    assert order(http) == order(inside) and http
    assert [set(r) for r in http[:1]] == [set(r) for r in inside[:1]]

def test_what_must_be_read_is_read_in_both_ways(both):
    must = [sorted((r['reason'], r['probability']) for r in rows(both[0]/w, 'review') if r['probability'] == 1) for w in ('http', 'inside')]
    assert must[0] == must[1] and must[0]
    for w in ('http', 'inside'):
        assert all(r['done'] and r['done_by'].startswith('reader') and r['result']['grade'] in range(5) for r in rows(both[0]/w, 'review'))
        with Store(both[0]/w) as s: assert s.check() == [] and s.status()['queue'] == {}
    kinds = [pd.Series([r['kind'] for r in rows(both[0]/w, 'audit')]) for w in ('http', 'inside')]
    assert set(kinds[0]) == set(kinds[1])

def test_the_same_again_is_not_counted_twice(tmp_path, pool, mock):
    with served(tmp_path/'s', mock) as s:
        a = simulate_world(s.url, SMALL, days=1, pool=pool)
        b = simulate_world(s.url, SMALL, days=1, pool=pool)
        assert a.id.tolist() == b.id.tolist() and s.store.status()['prediction'] == len(a)
    simulate_world(tmp_path/'t', SMALL, days=1, pool=pool, bundle=mock)
    with pytest.raises(SettingError, match='another seed'): simulate_world(tmp_path/'t', SMALL, days=1, pool=pool)
    more = simulate_world(tmp_path/'t', SMALL, days=1, pool=pool, seed=1)
    with Store(tmp_path/'t') as s: assert s.check() == [] and s.status()['prediction'] > len(more)

def test_words_come_days_later(tmp_path, pool, mock):
    w, seen = replace(SMALL, rate=60, readers=(Reader('slow', days=3),)), {}
    def _look(day):
        with Store(tmp_path/'s') as s: seen[day] = len(s.reviews('done'))
    simulate_world(tmp_path/'s', w, days=5, pool=pool, bundle=mock, each_day=_look)
    assert seen[1] == seen[2] == seen[3] == 0 < seen[4] < seen[5]

@pytest.mark.full
def test_words_come_days_later_over_http(tmp_path, pool, mock):
    w, seen = replace(SMALL, rate=24, readers=(Reader('slow', days=3),)), {}
    with served(tmp_path/'h', mock, plan=SamplingPlan(random=.4)) as s: # whom the lot hits is the service's secret
        def _ask(day): seen[day] = len(s.store.reviews('done'))
        simulate_world(s.url, w, days=5, pool=pool, each_day=_ask)
        assert seen[1] == seen[2] == seen[3] == 0 < seen[4] < seen[5] and s.store.reviews('open') == []

def test_both_eyes_in_one_request(tmp_path, pool, mock):
    df = simulate_world(tmp_path/'s', replace(SMALL, together=1.), days=2, pool=pool, bundle=mock)
    assert (df.groupby('request').size() == 2).all() and df.groupby('request').patient.nunique().max() == 1
    assert all('eye' not in r['tags'] for r in rows(tmp_path/'s', 'request'))
    with served(tmp_path/'h', mock) as s:
        over = simulate_world(s.url, replace(SMALL, together=1.), days=2, pool=pool)
        assert over.sha256.tolist() == df.sha256.tolist() and s.store.status()['request'] == len(df)//2

def test_a_mock_says_that_its_kept_copies_cannot_be_replayed(tmp_path, pool, mock):
    with served(tmp_path/'s', mock, keep=tmp_path/'pictures') as s:
        df = simulate_world(s.url, SMALL, days=1, pool=pool, read=False)
        why = [r.why for r in replay_store(s.store)]
        p, = s.store.answer(df.request[0]).predictions
        assert len(why) == len(df) and all('a mock gave this answer' in w for w in why)
        assert np.array_equal(read_image(s.store.picture(p)), read_image(pool.photograph(next(SMALL.happens(1))[0])))

def test_a_second_reader_is_another_one(tmp_path, pool, mock):
    from retina_nb.serve.inside import Inside
    from retina_nb.serve.simulate import Desk
    with Store(tmp_path/'s') as store, Inside(store, pool, bundle=mock, plan=SamplingPlan(random=.3, second=1.)) as inside:
        shots, desk = next(SMALL.happens(1)), Desk(SMALL.readers)
        for s in shots: desk.show(pool.sha256(s), s.truth, 1)
        inside.answer([(f'k{s.number}', [s]) for s in shots])
        assert inside.read(lambda sha, had: desk.anybody(sha, 9, had)) == len(store.reviews('done')) and store.reviews('open') == []
        by = pd.DataFrame(store.reviews('done')).groupby('prediction').done_by.agg(['nunique', 'size'])
        assert (by['nunique'] == by['size']).all() and by['size'].max() == 2

def test_another_model_takes_over(tmp_path, pool, mock):
    bad = write_mock(tmp_path/'bad', settings=MockSettings(.6))
    for where in ('http', 'inside'):
        with served(tmp_path/where, mock) as s:
            id, first = s.store.register(bad), s.store.register(mock)
            fault = [f'model:all:day=2:bundle={id}']
            if where == 'http': df = simulate_world(s.url, SMALL, days=2, faults=fault, pool=pool)
        if where == 'inside': df = simulate_world(tmp_path/where, SMALL, days=2, faults=fault, pool=pool)
        assert set(df.model[df.day == 1]) == {first} and set(df.model[df.day == 2]) == {id}
    with pytest.raises(SettingError, match='no such model'): simulate_world(tmp_path/'inside', SMALL, days=2, faults=['model:all:day=1:bundle=nobody'], pool=pool)

@pytest.mark.full
def test_a_real_model_is_allowed_and_said(tmp_path, pool, bundle, capsys):
    with served(tmp_path/'h', bundle) as s: over = simulate_world(s.url, replace(SMALL, rate=10), days=1, pool=pool, read=False)
    assert 'is no mock' in capsys.readouterr().err
    within = simulate_world(tmp_path/'i', replace(SMALL, rate=10), days=1, pool=pool, read=False, bundle=bundle)
    assert over.grade.tolist() == within.grade.tolist()

# --- who may not, and who is not there
def test_keys_that_may_not(tmp_path, pool, mock, monkeypatch):
    with served(tmp_path/'s', mock) as s:
        keys = {role: s.store.add_key(role, role) for role in ('reader', 'grader', 'reviewer')}
        for role, what in (('reader', 'sending photographs'), ('grader', 'no_readers')):
            with pytest.raises(SettingError, match=what): simulate_world(s.url, SMALL, days=1, pool=pool, key=keys[role])
        with pytest.raises(SettingError, match='admin'):
            simulate_world(s.url, SMALL, days=1, pool=pool, key=keys['reviewer'], faults=['model:all:day=1:bundle=x'])
        for key in ('', 'rnb_wrong'):
            with pytest.raises(ServiceError, match='key'): simulate_world(s.url, SMALL, days=1, pool=pool, key=key)
        assert s.store.status()['request'] == 0
        df = simulate_world(s.url, SMALL, days=1, pool=pool, key=keys['grader'], read=False)
        assert s.store.status()['prediction'] == len(df)
        simulate_world(s.url, SMALL, days=1, pool=pool, key=keys['reviewer'])
        assert s.store.reviews('open') == []

@pytest.mark.parametrize('where', ['http://127.0.0.1:9', 'http://', 'ftp://x', 'mysql://x/y'])
def test_places_that_are_none(where, pool):
    with pytest.raises(RetinaError): simulate_world(where, SMALL, days=1, pool=pool)

def command(*args, capsys):
    "(status, stdout, stderr) of the command as it is typed"
    try: retina_simulate(**_parse(retina_simulate.__wrapped__, list(map(str, args))))
    except SystemExit as e: status = e.code
    else: status = 0
    return status, *capsys.readouterr()

def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('retina_nb.serve.simulate.draw_pool', lambda **k: draw_pool(5))
    run = lambda *a: command(*a, capsys=capsys)
    status, out, _ = run('--world')
    world = json.loads(out)
    assert status == 0 and world['hospitals']['A']['machines'] == ['A1', 'A2'] and World.from_dict(world) == World()
    (tmp_path/'w.json').write_text(json.dumps(dict(hospitals=dict(X=dict(machines=['X1'])), rate=20)))
    status, out, err = run(tmp_path/'s', '--days', 2, '--world', tmp_path/'w.json', '--fault', 'blur:machine=X1:day=2', '--truth', tmp_path/'t.csv')
    assert status == 0, err
    df = pd.read_csv(tmp_path/'t.csv')
    assert set(df.machine) == {'X1'} and str(len(df)) in out and 'blur' in out and {'id', 'truth', 'grade', 'taken', 'faults'} <= set(df)

@pytest.mark.parametrize('args, why', [
    ((), 'name a service'), (('S', '--days', '0'), 'days'), (('S', '--rate', '-3'), 'rate'), (('S', '--fault', 'blur:machine=Q:day=1'), 'Q'), (('S', '--world', 'none.json'), 'none.json'),
    (('S', '--fault', 'blur:all:day=40'), 'after the last day'), (('S', '--workers', '0'), 'workers'), (('http://127.0.0.1:9', '--days', '1'), 'cannot be reached'),
    (('http://127.0.0.1:9', '--bundle', 'x'), 'own model'), (('S', '--bundle', 'nowhere'), 'nowhere')])
def test_the_command_says_what_is_wrong(args, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('retina_nb.serve.simulate.draw_pool', lambda **k: draw_pool(5))
    status, _, err = command(*args, capsys=capsys)
    assert status == 2 and why in err and len(err.strip().splitlines()) == 1 and 'Traceback' not in err

def test_a_blurred_camera_sends_a_candidate_back_into_the_shadow(tmp_path, pool, mock):
    "Nothing here is a stand-in but the model: photographs, measures, alarm, verdict and step are those of a service"
    from retina_nb.serve.inside import Inside
    other, day = write_mock(tmp_path/'other', settings=MockSettings(.85, seed=5)), 14
    with Store(tmp_path/'s') as store, Inside(store, pool, bundle=mock, plan=SamplingPlan(near=0, random=0)) as inside:
        service = inside.service
        service.minder.close() # looks are taken here
        service.watcher.close()
        def _days(days):
            for shots in days: inside.answer([(f'k{s.number}', [s]) for s in shots])
        month = list(World(rate=60).happens(20, [f'blur:machine=B2:day={day}'], seed=3))
        _days(month[:day - 3])
        service.models.deploy(store.register(other), 'candidate', share=.5)
        _days(month[day - 3:day - 1])
        service.watch()
        assert service.mind() is None and (service.verdict.rows[-1]['condition'], service.verdict.rows[-1]['state']) == ('no alarm of drift', 'met')
        _days(month[day - 1:])
        service._drifted = 0, 0., [] # it is time to look again
        service.watch()
        row = service.mind()
        assert (row['alias'], row['share']) == ('candidate', 0.) and 'B2' in row['why'] and 'no alarm of drift' in row['why']
        assert service.models.now.share == 0 and 'is a shadow again' in store.alerts(who='admin')[-1]['why']

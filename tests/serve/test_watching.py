"A store is watched: what has changed, whose change it is, and what is not to be seen as one"
import random, resource, time
from types import SimpleNamespace
from datetime import UTC, datetime, timedelta

import pytest, sqlalchemy as sa
from answered import DIABETIC, MACHINES, SCREENING, START, fill
from conftest import MODEL, add_model
from retina_nb.core import SettingError
from retina_nb.serve import SamplingPlan, Store, watch_store
from retina_nb.serve.engine import write_setting
from retina_nb.serve.lost import LostSettings, cases_limit, cases_until, watch_mistakes
from retina_nb.serve.overview import overview_of
from retina_nb.serve.schema import bundle, now, prediction
from retina_nb.serve.watching import SAID, UNKNOWN, read_answers, read_mistakes, visits_of, watched_from

def blurred(h, m, d): return dict(sharpness=.3) if m == 'A2' and d >= 13 else {}

@pytest.fixture
def own(tmp_path):
    "A store of SQLite, with a model"
    with Store(tmp_path/'store') as s:
        add_model(s)
        yield s

def told(watched): return [(a.level, a.name, a.feature, a.cause) for a in watched.alarms]

def test_an_empty_store_has_a_clear_word(url):
    with Store(url) as s: w = watch_store(s)
    assert w.word == 'Nothing has been answered yet: there is nothing to watch.'
    assert (w.alarms, w.streams, w.machines, len(w.weekly), w.photographs) == ([], [], [], 0, 0)

def test_a_blurred_machine_is_named_on_both_databases(store):
    fill(store, what=blurred)
    w = watch_store(store)
    assert told(w)[:1] == [('machine', 'A2', 'sharpness', 'camera')], told(w)
    a = w.alarms[0]
    assert abs(a.since - (START + timedelta(days=13))) < timedelta(days=1) and a.lower and a.hospital == 'A'
    for part in ('Machine A2, hospital A', 'sharpness is lower since', 'visits say so', 'chance does as much at most once in', 'Look at its camera'): assert part in a.verdict
    assert all((x.level, x.name) == ('machine', 'A2') for x in w.alarms)

def test_other_patients_of_a_hospital_are_told_from_other_pictures(own):
    fill(own, 26, 16, shares=lambda h, m, d: DIABETIC if h == 'B' and d >= 11 else SCREENING)
    w = watch_store(own)
    assert [(a.level, a.name, a.cause) for a in w.alarms][:1] == [('hospital', 'B', 'patients')], told(w)
    s = w.alarms[0].shift
    assert s.kind == 'patients' and s.prevalence.now > s.prevalence.before + .1 and not s.unexplained

def test_photographs_that_change_everywhere_are_the_programs_fault(own):
    fill(own, 18, what=lambda h, m, d: dict(sharpness=.3) if d >= 12 else {})
    w = watch_store(own)
    assert [(a.level, a.cause) for a in w.alarms][:1] == [('all', 'program')], told(w)

def test_another_model_is_named_where_only_what_is_said_changed(own):
    add_model(own, 'ffffffffffff', 'second')
    fill(own, 20, model=lambda h, m, d: 'ffffffffffff' if d >= 12 else MODEL, what=lambda h, m, d: dict(sure=.35) if d >= 12 else {})
    w = watch_store(own)
    assert w.alarms and w.alarms[0].cause == 'model' and w.alarms[0].model == 'ffffffffffff', told(w)
    assert 'ffffffffffff began to answer' in w.alarms[0].verdict

SECOND = 'ffffffffffff'
def surer(h, m, d): return dict(sure=.35) if d >= 12 else {}

def test_a_model_that_was_given_a_larger_share_is_named(own):
    "It had begun to answer ten days before: its first answer tells nothing"
    add_model(own, SECOND, 'second')
    rng = random.Random(3)
    second = lambda d: rng.random() < (.1 if d < 12 else .9)
    fill(own, 20, model=lambda h, m, d: SECOND if d >= 2 and second(d) else MODEL, what=surer)
    w = watch_store(own)
    everywhere = [a for a in w.alarms if a.level == 'all']
    assert everywhere and {(a.cause, a.model) for a in everywhere} == {('model', SECOND)}, told(w)

@pytest.mark.parametrize('day', [11, 12, 13])
def test_a_camera_that_fails_as_a_model_takes_over_is_a_finding_of_its_own(own, day):
    add_model(own, SECOND, 'second')
    fill(own, 32, model=lambda h, m, d: SECOND if d >= 12 else MODEL,
         what=lambda h, m, d: surer(h, m, d) | (dict(sharpness=.25) if m == 'A2' and d >= day else {}))
    w = watch_store(own)
    assert ('machine', 'A2', 'sharpness', 'camera') in told(w), told(w)
    everywhere = [a for a in w.alarms if a.level == 'all']
    assert everywhere and {(a.cause, a.model) for a in everywhere} == {('model', SECOND)}, told(w)

def test_old_answers_without_measures_are_watched_by_what_they_have(own):
    fill(own, 20, machines=MACHINES[:2], what=lambda h, m, d: dict(measured=False, sure=.3 if m == 'A2' and d >= 12 else 1.))
    w = watch_store(own)
    assert set(w.streams[0]['features']) == {'confidence', 'referable'}
    assert 'No measures of the photographs are stored' in w.word
    assert any(a.name == 'A2' and a.feature in ('confidence', 'referable') for a in w.alarms), told(w)

@pytest.mark.parametrize('tags', [dict(), dict(hospital=None, machine=''), dict(hospital='  ', machine='\n')])
def test_without_tags_there_is_one_stream_called_unknown(own, tags):
    fill(own, 5, machines=[('', '')], tags=lambda h, m, at: dict(tags))
    w = watch_store(own)
    assert w.machines == [(UNKNOWN, UNKNOWN)] and 'No photograph has a tag that names its machine' in w.word

def test_odd_tags_become_names_that_can_be_shown(own):
    odd = [dict(machine='<script>' + 'x'*900), dict(machine=['a', 1], hospital={'b': 2}), dict(machine=7), dict(machine='a\x1b[31m\nb'),
           dict(taken='no time'), dict(taken='2026-05-04T08:00'), dict(taken='9999-99-99'),
           *(dict(taken=f'{y}-01-01T00:00:00Z') for y in ('0001', '1600', '1989', '2300', '9999'))]
    for i, t in enumerate(odd): fill(own, 1, 3, machines=[('H', 'M')], tags=lambda h, m, at, t=t: t, seed=i)
    w = watch_store(own)
    names = [n for pair in w.machines for n in pair]
    assert w.answers['at'].between(START - timedelta(days=1), START + timedelta(days=2)).all()
    assert w.photographs == 3*len(odd) and all(len(n) <= 60 and n.isprintable() for n in names), names

def test_shadow_answers_are_not_looked_at(own):
    n = fill(own, 8)
    fill(own, 8, role='shadow', seed=1, what=lambda h, m, d: dict(sharpness=.01))
    assert watch_store(own).photographs == n

def test_the_order_of_storing_does_not_matter_where_the_client_says_when(own, tmp_path):
    fill(own, 16, what=blurred)
    with Store(tmp_path/'other') as s:
        add_model(s)
        fill(s, 16, what=blurred, shuffled=True)
        s.write(lambda conn, note: conn.execute(prediction.update().values(at=datetime(2026, 9, 1, tzinfo=UTC))))
        a, b = visits_of(read_answers(own)), visits_of(read_answers(s))
        assert (a['at'] == b['at']).all() and (a['sharpness'] == b['sharpness']).all()
        assert told(watch_store(own)) == told(watch_store(s))

def test_two_eyes_are_one_visit(own):
    fill(own, 4, eyes=2)
    answers = read_answers(own)
    visits = visits_of(answers)
    assert len(answers) == 2*len(visits) == 2*4*12*4
    one = answers[answers['unit'] == visits['unit'].iloc[0]]
    assert one['sharpness'].mean() == pytest.approx(visits['sharpness'].iloc[0], rel=1e-5)

def test_answers_of_another_task_are_left_out(own):
    n = fill(own, 3)
    add_model(own, 'eeeeeeeeeeee', 'chest', task='pneumonia')
    with own.read() as conn: row = dict(conn.execute(sa.select(prediction)).mappings().first())
    two = row | dict(id='e'*24, place=1, bundle='eeeeeeeeeeee', probabilities=[.4, .6], grade=1, at=START - timedelta(days=1))
    own.write(lambda conn, note: conn.execute(prediction.insert(), two))
    assert watch_store(own).photographs == n

def plan_from_the_start(store, random=.1):
    "A plan that held when the first answers were given"
    row = dict(since=(START - timedelta(days=1)).isoformat(), plan=SamplingPlan(random=random).to_dict())
    store.write(lambda conn, note: write_setting(conn, 'plans', [row]))

def test_mistakes_in_drawn_cases_move_the_counter_and_others_do_not(own):
    fill(own, 30, 4)
    plan_from_the_start(own)
    rng = random.Random(0)
    with own.read() as conn: rows = list(conn.execute(sa.select(prediction.c.id, prediction.c.grade).order_by(prediction.c.at)))
    for i, (id, grade) in enumerate(rows[:400:2]):
        reason = 'random' if i % 4 else 'disagreement'
        own.queue_review(id, reason, probability=.1)
        r = own.lease_review('reader')
        wrong = reason != 'random' or rng.random() < (.08 if i < 100 else .6)
        own.finish_review(r['id'], 'reader', grade=(grade + 1) % 5 if wrong else grade)
    w = watch_store(own)
    assert w.lost.cases == 150 and w.lost.alarm is not None and w.lost.alarm > 70
    values = overview_of(own, w)
    assert values['lost']['alarmed'] > values['lost']['at'][0] and len(values['lost']['at']) == len(values['lost']['counter'])

def test_what_a_reader_said_in_the_case_counts_and_not_what_was_said_later(own):
    fill(own, 2, 4)
    plan_from_the_start(own)
    with own.read() as conn: id, grade = conn.execute(sa.select(prediction.c.id, prediction.c.grade)).first()
    own.queue_review(id, 'random', probability=.1)
    own.finish_review(own.lease_review('reader')['id'], 'reader', grade=(grade + 1) % 5)
    own.give_feedback(id, 'agree', who='who saw the answer')
    assert read_mistakes(own)['wrong'].tolist() == [True]
    own.write(lambda conn, note: conn.execute(bundle.update().values(task=dict(name='pneumonia'))))
    assert len(read_mistakes(own, task=SimpleNamespace(name='dr'))) == 0 # of another task

def _drawn(rng, n=9000, worse=False, at=START):
    "Cases as a plan draws them: three in twenty answers are unsure, a fifth near the threshold; (case, wrong)"
    plan, out = SamplingPlan(random=.1), []
    for i in range(n):
        zone = rng.choices(['low confidence', 'near the threshold', 'random'], (.15, .2, .65))[0]
        late = worse and i >= n/2 and zone == 'low confidence'
        wrong = rng.random() < (.9 if late else dict(random=.03).get(zone, .2))
        if rng.random() < plan.chance(zone):
            out.append((dict(id=f'{rng.getrandbits(96):024x}', at=at, probability=plan.chance(zone)), wrong))
    return out, [(START - timedelta(days=1), plan)]

def test_a_model_that_gets_worse_only_where_it_is_unsure_is_found_and_one_that_does_not_is_left_alone():
    from retina_nb.serve.watching import _stays
    found = {}
    for worse in (False, True):
        alarms, parts = [], []
        for seed in range(20):
            cases, plans = _drawn(random.Random(seed), worse=worse)
            kept = [(r, w) for r, w in cases if _stays(r, plans)]
            parts.append(len(kept)/9000)
            alarms.append(watch_mistakes([w for _, w in kept]).alarm)
        assert sum(parts)/len(parts) == pytest.approx(.1, abs=.005) # a tenth of all answers
        found[worse] = sum(a is not None for a in alarms)
        if worse: assert sum(a is not None and a < 450 for a in alarms) <= 3
    assert found[False] <= 3 and found[True] >= 12, found

def test_a_change_that_lasts_is_one_finding_until_it_has_gone_back(own, tmp_path):
    low = dict(sharpness=.2)
    fill(own, 75, what=lambda h, m, d: low if m == 'A1' and d >= 20 else {})
    a, = [a for a in watch_store(own).alarms if a.feature == 'sharpness']
    assert (a.name, a.again > 3) == ('A1', True) and a.at < START + timedelta(days=22) # when it was found first
    with Store(tmp_path/'twice') as s:
        add_model(s)
        fill(s, 70, what=lambda h, m, d: low if m == 'A1' and (20 <= d < 30 or d >= 45) else {})
        found = [a for a in watch_store(s).alarms if a.feature == 'sharpness']
        assert [a.name for a in found] == ['A1', 'A1'], told(watch_store(s))
        assert [(a.since - START).days for a in found] == pytest.approx([20, 45], abs=1)

def test_no_single_answer_can_be_told_from_a_line(own):
    fill(own, 2, 12, machines=[('A', 'A1')])
    fill(own, 2, 3, machines=[('B', 'B1')], seed=1)
    fill(own, 1, 12, machines=[('C', 'C1')], seed=2, tags=lambda h, m, at: dict(hospital=h, machine=m, taken=now().isoformat())) # today
    own.write(lambda conn, note: conn.execute(prediction.update().values(at=now())))
    values = overview_of(own)
    line = {s['name']: s['features'] for s in values['streams'] if s['level'] == 'machine'}
    for f in SAID:
        assert all(v is not None and round(v, 2) == v for v in line['A1'][f])
        assert line['B1'][f] == [None]*2 and line['C1'][f][-1] is None
    assert None not in line['B1']['sharpness']
    for r in values['weekly']: assert (r['expected'] is None) == (r['visits'] < 10 or r['week'] > (now() - timedelta(days=7)).date().isoformat()), r

def test_live_scores_are_told_by_machine_and_hospital_as_far_as_tags_tell(own, tmp_path):
    plan_from_the_start(own)
    fill(own, 6, machines=[('A', 'cam1'), ('B', 'cam1')])
    assert set(overview_of(own)['live']['groups']) == {'cam1, A', 'cam1, B'}
    for name, tags, groups in (('h', lambda h, m, at: dict(hospital=h), {'A', 'B'}), ('none', lambda h, m, at: {}, None),
                               ('odd', lambda h, m, at: dict(machine=[m], hospital=None), {"['A1'], unknown", "['B1'], unknown"})):
        with Store(tmp_path/name) as s:
            add_model(s)
            plan_from_the_start(s)
            fill(s, 6, machines=[('A', 'A1'), ('B', 'B1')], tags=tags)
            live = overview_of(s)['live']
            assert 'none' not in live and live['not_verified'] and (set(live['groups']) if 'groups' in live else None) == groups, live

def test_everybody_looks_from_the_same_monday_on(own):
    assert watched_from(own) is None
    fill(own, 100, 1)
    begin = watched_from(own)
    assert begin.weekday() == 0 and begin.hour == 0 and timedelta(90) <= START + timedelta(days=99) - begin < timedelta(97)
    assert watched_from(own, 1e9) is None
    with pytest.raises(SettingError, match='days'): watched_from(own, 0)

def test_a_time_without_a_zone_is_refused(own):
    with pytest.raises(SettingError, match='time zone'): watch_store(own, since=START.replace(tzinfo=None))

def test_only_answers_since_then_are_watched(own):
    fill(own, 10)
    assert watch_store(own, since=START + timedelta(days=5)).photographs == 5*12*4

@pytest.mark.parametrize('usual', [.02, .1, .3])
def test_the_limit_of_the_counter_lets_as_many_cases_pass_as_were_asked_for(usual):
    assert 490 < cases_until(cases_limit(usual, 2., 500.), usual, 2., usual) < 750 # it grows in steps
    with pytest.raises(SettingError): LostSettings(between=3)

@pytest.mark.full
def test_a_hundred_thousand_answers_are_watched_within_a_minute_in_flat_memory(own):
    n = fill(own, 100, 100, eyes=2, machines=[*MACHINES, ('A', 'A3')])
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, time.process_time()
    w = watch_store(own)
    assert n == w.photographs == 100_000
    assert time.process_time() - begin < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024 - before < 300

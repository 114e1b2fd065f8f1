"Drift by machine and hospital: the bound on false alarms, what is found and how it is named, and whatever a client may send"
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np, pytest

from retina_nb.core import DataError, SettingError, get_task
from retina_nb.deploy.grading import Grading, Ungraded
from retina_nb.deploy.remote import _quality
from retina_nb.serve import FEATURES, Alarm, Watcher, WatchSettings, features_of
from retina_nb.serve.replay import _difference
from retina_nb.serve.ranks import beside_others, grow, normal_scores, odds, rank_scores

START = datetime(2026, 5, 1, 8, tzinfo=UTC)
FOUR = WatchSettings(features=('sharpness', 'brightness', 'blue_to_red', 'referable'), false_alarms=.01) # what is found is no chance
PLACES = ('A', 'A1'), ('A', 'A2'), ('B', 'B1'), ('B', 'B2'), ('B', 'B3')

def visits(rng, n):
    "n visits of four figures that hang together"
    x = rng.normal(size=(n, 4))
    x[:,2] += x[:,1]
    return x

def feed(w, days, fault=None, *, seed=0, a_day=20, eyes=1, places=PLACES, begin=0):
    "Days of visits to a watcher; `fault` takes (day, hospital, machine, figures) and gives figures"
    rng, out = np.random.default_rng(seed), []
    for day in range(begin, begin + days):
        x = visits(rng, a_day*len(places)).reshape(a_day, len(places), 4)
        for v in range(a_day):
            for (h, m), figures in zip(places, x[v]):
                for _ in range(eyes):
                    y = figures + .1*rng.normal(size=4) if eyes > 1 else figures
                    y = fault(day, h, m, y.copy()) if fault else y
                    out += w.add(START + timedelta(days=day, minutes=20*v), h, m, f'{day}-{h}-{m}-{v}', dict(zip(w.settings.features, y)))
    return out + w.flush()

def shifted(machines, *, day=12, by=-2., figure=0):
    def fault(d, h, m, y):
        if d >= day and m in machines: y[figure] += by
        return y
    return fault

# --- the mathematics
def test_ranks_of_what_does_not_change_are_uniform_and_independent():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(120, 400)).round(1) # with many equal values
    z = rank_scores(x, rng.random(x.shape))[20:]
    assert abs(z.mean()) < .02 and abs(z.std() - 1) < .02
    assert abs(np.mean(z[1:]*z[:-1])) < .02

def test_the_mean_evidence_is_the_number_of_values():
    "What the bound on false alarms rests on: the mean of S after t values without a change is t"
    rng = np.random.default_rng(1)
    S, z = np.zeros((200_000, 2)), rng.normal(size=(12, 200_000))
    for o in z: S = grow(S, odds(o, (.5,)))
    assert S.mean() == pytest.approx(12, rel=.02)

def test_figures_beside_the_others_are_regressions():
    rng = np.random.default_rng(2)
    z = visits(rng, 300)
    M = beside_others(z, ridge=1e-9)
    for k in range(4):
        o = [i for i in range(4) if i != k]
        w = np.linalg.lstsq(z[:,o], z[:,k], rcond=None)[0]
        np.testing.assert_allclose((z @ M)[:,k], z[:,k] - z[:,o] @ w, atol=1e-8)

def test_a_watcher_ranks_as_the_study_does():
    "The benchmark simulates on arrays: it must be the same arithmetic"
    s = WatchSettings(features=FOUR.features, false_alarms=1e-9)
    w, x = Watcher(s), visits(np.random.default_rng(4), 260)
    for i, v in enumerate(x): w.add(START + timedelta(minutes=i), 'A', 'A1', '', dict(zip(s.features, v)))
    lots = np.random.default_rng(s.seed).random((len(x), 8))
    rest = np.full_like(x, np.nan)
    M = beside_others(normal_scores(x[:100], x[:100]))
    rest[100:] = normal_scores(x[:100], x[100:]) @ M
    z = np.concatenate([rank_scores(x, lots[:,:4]), rank_scores(rest, lots[:,4:])], 1)
    np.testing.assert_allclose(np.array([o for _, o in w.machines['A', 'A1'].scores]), z, atol=1e-9)
    S = np.zeros((8, 6))
    for o in z: S = grow(S, odds(o))
    np.testing.assert_allclose(w.machines['A', 'A1'].stream.S, S)

# --- false alarms
def many_months(eyes, counted_apart=False):
    "False alarms in five months of 5 machines, six patients a day each"
    w = Watcher(WatchSettings(features=FOUR.features))
    if counted_apart: # the mistake: each eye a visit of its own
        add = w.add
        w.add = lambda at, h, m, unit, figures: add(at, h, m, '', figures)
    return len(feed(w, 150, seed=5, a_day=6, eyes=eyes))

@pytest.mark.parametrize('eyes', [1, 2])
def test_false_alarms_stay_within_what_was_asked_for(eyes): assert many_months(eyes) <= 5

def test_eyes_counted_apart_would_break_it():
    "Else the test above could not fail"
    assert many_months(2, counted_apart=True) > 2*5

# --- what is found
def test_a_machine_out_of_focus_is_found_and_named():
    w = Watcher(FOUR)
    a = feed(w, 14, shifted(['B2']))[0]
    assert (a.level, a.name, a.hospital, a.feature, a.lower) == ('machine', 'B2', 'B', 'sharpness', True)
    begun = START + timedelta(days=12)
    assert begun - timedelta(hours=8) <= a.since <= begun + timedelta(hours=2)
    assert begun < a.at < begun + timedelta(hours=5) and a.visits < 15
    assert 'machine B2 of hospital B: sharpness is lower since 2026-05-1' in a.verdict and 'this machine alone' in str(a)
    assert 'by chance at most once in' in a.verdict

@pytest.mark.parametrize('by', [2., -2.])
def test_both_ways(by):
    a = feed(Watcher(FOUR), 14, shifted(['A1'], by=by, figure=3))[0]
    assert (a.name, a.feature, a.lower) == ('A1', 'referable', by < 0)

def test_a_hospital_is_its_patients():
    a = feed(Watcher(FOUR), 14, shifted(['B1', 'B2', 'B3'], by=1.5, figure=3))[0]
    assert (a.level, a.name, a.feature) == ('hospital', 'B', 'referable')
    assert {m for _, m in a.machines} == {'B1', 'B2', 'B3'} and 'patients' in a.verdict

def test_everything_is_the_model():
    told = feed(Watcher(FOUR), 14, shifted(['A1', 'A2', 'B1', 'B2', 'B3'], by=1.5, figure=3))
    assert ('all', '') in [(a.level, a.name) for a in told] and 'model' in told[-1].verdict
    assert len(told) <= 2 # at first it may look like one hospital

def test_a_fault_is_told_once_a_week_and_not_learned():
    w = Watcher(FOUR)
    told = feed(w, 28, shifted(['B2']))
    assert {a.name for a in told} == {'B2'} and 2 <= len(told) <= 3
    assert (told[1].at - told[0].at) >= timedelta(days=7)
    last = told[-1]
    seen = [at for at, _ in w.machines['B', 'B2'].rows if last.since.timestamp() <= at <= last.at.timestamp()]
    assert not seen # what the alarm was about is forgotten again

def test_a_machine_that_was_mended_raises_no_alarm():
    w = Watcher(FOUR)
    assert feed(w, 16, shifted(['B2']))
    assert feed(w, 12, seed=9, begin=16) == []

def test_the_first_visit_of_a_new_hospital_disturbs_no_alarm():
    "It is under way while another machine alarms"
    def begins(d, h, m, y):
        if (d, m) == (12, 'A1'): w.add(START + timedelta(days=d), 'C', 'C1', 'somebody', dict(sharpness=0.))
        return shifted(['B2'])(d, h, m, y)
    w = Watcher(FOUR)
    assert {a.name for a in feed(w, 16, begins)} == {'B2'}

def test_a_machine_that_was_renewed_begins_anew():
    w = Watcher(FOUR)
    feed(w, 16, shifted(['B2']))
    w.renew('B', 'B2')
    assert feed(w, 16, shifted(['B2'], day=0), seed=9, begin=16) == []
    with pytest.raises(DataError, match='not heard of'): w.renew('B', 'B9')

def test_a_new_machine_is_not_compared_with_the_others():
    w = Watcher(FOUR)
    feed(w, 12)
    odd = lambda d, h, m, y: y - 5 if m == 'C1' else y
    assert feed(w, 12, odd, places=[*PLACES, ('C', 'C1')], begin=12) == []
    assert ('C', 'C1') in w.machines

# --- visits
def test_a_visit_is_the_mean_of_its_eyes_and_ends_with_the_next_patient():
    w = Watcher(FOUR)
    for value, unit in ((1., 'p'), (3., 'p'), (9., 'q')): w.add(START, 'A', 'A1', unit, dict(sharpness=value))
    m = w.machines['A', 'A1']
    assert [y[0] for _, y in m.rows] == [2.]
    w.add(START, 'A', 'A1', 'p', dict(sharpness=100.)) # the same patient comes again that day: left out
    assert [y[0] for _, y in m.rows] == [2., 9.]
    w.add(START + timedelta(days=1), 'A', 'A1', 'p', dict(sharpness=5.))
    w.flush()
    assert [y[0] for _, y in m.rows] == [2., 9., 5.]
    w.flush()
    assert len(m.rows) == 3

def test_a_visit_that_goes_on_at_midnight_is_two():
    w = Watcher(FOUR)
    for hour in (23, 25): w.add(datetime(2026, 5, 1, tzinfo=UTC) + timedelta(hours=hour), 'A', 'A1', 'p', dict(sharpness=hour))
    w.flush()
    assert len(w.machines['A', 'A1'].rows) == 2

def test_days_that_alternate_count_a_patient_once_a_day():
    "A batch that was sorted by eye, not by day"
    w = Watcher(FOUR)
    for eye in (1., 2.):
        for day in range(6):
            for p in 'pq': w.add(START + timedelta(days=day), 'A', 'A1', p, dict(sharpness=eye))
    w.flush()
    m = w.machines['A', 'A1']
    assert [y[0] for _, y in m.rows] == [1.]*12
    for day in range(100): w.add(START + timedelta(days=day), 'A', 'A1', 'p', {})
    assert len(m.met) <= 7 # what is remembered of them has an end

def test_without_a_patient_each_photograph_is_a_visit():
    w = Watcher(FOUR)
    for unit in ('', None, ''): w.add(START, 'A', 'A1', unit, dict(sharpness=1.))
    assert len(w.machines['A', 'A1'].rows) == 3

def test_machines_do_not_end_the_visits_of_others():
    w = Watcher(FOUR)
    for m, unit in (('A1', 'p'), ('A2', 'q'), ('A1', 'p'), ('A2', 'q')): w.add(START, 'A', m, unit, dict(sharpness=1.))
    assert w.flush() == [] and [len(w.machines['A', m].rows) for m in ('A1', 'A2')] == [1, 1]

# --- whatever may come
def test_missing_figures_are_left_out():
    w = Watcher(FOUR)
    for i in range(60):
        w.add(START + timedelta(minutes=i), 'A', 'A1', '', dict(sharpness=i % 7, brightness=None, blue_to_red=float('nan'), other=3))
    m = w.machines['A', 'A1']
    assert [len(v) for v in m.values[:4]] == [60, 0, 0, 0]
    assert np.isfinite(m.stream.evidence) and np.isnan(m.scores[-1][1][1:4]).all()

def test_a_figure_that_is_missing_in_one_eye_is_that_of_the_other():
    w = Watcher(FOUR)
    w.add(START, 'A', 'A1', 'p', dict(sharpness=1., brightness=4.))
    w.add(START, 'A', 'A1', 'p', dict(sharpness=float('inf'), brightness=6.))
    w.flush()
    assert w.machines['A', 'A1'].rows[0][1][:2].tolist() == [1., 5.]

def test_a_fault_is_found_though_a_figure_comes_and_goes():
    def fault(d, h, m, y):
        if d % 2: y[1] = np.nan
        return shifted(['B2'])(d, h, m, y)
    a = feed(Watcher(FOUR), 15, fault)[0]
    assert (a.name, a.feature) == ('B2', 'sharpness')

def test_a_figure_that_never_changes_raises_no_alarm():
    def fault(d, h, m, y):
        y[0], y[1] = 0., 1.
        return y
    assert feed(Watcher(FOUR), 20, fault) == []

def test_a_constant_that_moves_is_found():
    def fault(d, h, m, y):
        y[0] = 0. if d < 12 or m != 'B2' else .1
        return y
    a = feed(Watcher(FOUR), 14, fault)[0]
    assert (a.name, a.feature, a.lower) == ('B2', 'sharpness', False)

@pytest.mark.parametrize('name', ['', None, 'day=12:strength=1', '../../x', '<b>', '机器 2', 7, 'x'*500, "'; drop table--"])
def test_machines_may_be_called_anything(name):
    w, odd = Watcher(FOUR), [('H', 'M'), ('H', name)]
    rng = np.random.default_rng(6)
    told = []
    for i in range(330):
        for h, m in odd:
            x = visits(rng, 1)[0]
            if i >= 300 and m == name: x[0] -= 3
            told += w.add(START + timedelta(minutes=5*i), h, m, '', dict(zip(FOUR.features, x)))
    assert [(a.level, a.name) for a in told] == [('machine', '' if name is None else str(name))]
    assert json.loads(json.dumps(told[0].to_dict()))['name'] == told[0].name

def test_no_tags_at_all_are_one_machine():
    w = Watcher(FOUR)
    w.add(START, None, None, None, {})
    w.add(START, '', ' ', '', {})
    assert list(w.machines) == [('', '')]

@pytest.mark.parametrize('at', ['yesterday', None, 3])
def test_a_time_that_is_none(at):
    with pytest.raises(DataError, match='no time'): Watcher(FOUR).add(at, 'A', 'A1', 'p', {})

def test_times_are_told_in_any_form():
    w = Watcher(FOUR)
    for at in ('2026-05-01T23:30:00+02:00', '2026-05-01T21:30:00Z', datetime(2026, 5, 1, 21, 30, tzinfo=UTC)): w.add(at, 'A', 'A1', '', {})
    assert len({at for at, _ in w.machines['A', 'A1'].scores}) == 1

@pytest.mark.parametrize('at', ['2026-05-01T23:30:00', START.replace(tzinfo=None)])
def test_a_time_without_a_zone_is_refused_by_the_watcher(at):
    w = Watcher(FOUR)
    with pytest.raises(DataError, match='no time zone'): w.add(at, 'A', 'A1', 'p', {})
    assert not w.machines

def test_a_figure_that_is_no_number():
    w = Watcher(FOUR)
    with pytest.raises(DataError, match="sharpness is 'high'"): w.add(START, 'A', 'A1', 'p', dict(sharpness='high'))
    assert not w.machines

def test_what_comes_late_does_no_harm():
    "Days out of order: nothing fails, and nothing is made up"
    w, rng = Watcher(FOUR), np.random.default_rng(7)
    days = rng.permutation(40)
    for day in days:
        for i, x in enumerate(visits(rng, 10)):
            w.add(START + timedelta(days=int(day), minutes=i), 'A', 'A1', f'{day}-{i}', dict(zip(FOUR.features, x)))
    assert w.alarms == [] and len(w.days) <= 31

def test_the_same_again_gives_the_same():
    a, b = (feed(Watcher(FOUR), 16, shifted(['B2'])) for _ in range(2))
    assert a == b and a

def test_what_is_remembered_has_an_end():
    w = Watcher(WatchSettings(features=FOUR.features, remembered=60))
    x = np.random.default_rng(0).normal(size=200)
    for i, v in enumerate(x): w.add(START + timedelta(minutes=i), 'A', 'A1', '', dict(sharpness=v))
    m = w.machines['A', 'A1']
    assert 30 <= len(m.rows) <= 60 and m.values[0] == sorted(y[0] for _, y in m.rows) == sorted(x[-len(m.rows):])

# --- saved and taken up again
def test_a_watch_is_taken_up_where_it_was_left():
    fault = shifted(['B2'], day=13)
    one, two = Watcher(FOUR), Watcher(FOUR)
    feed(one, 12, fault), feed(two, 12, fault)
    two.add(START + timedelta(days=12), 'A', 'A1', 'open', dict(sharpness=.3)) # in the midst of a visit
    one.add(START + timedelta(days=12), 'A', 'A1', 'open', dict(sharpness=.3))
    two = Watcher.from_dict(json.loads(json.dumps(two.to_dict(), allow_nan=False)))
    told = [feed(w, 5, fault, seed=8, begin=12) for w in (one, two)]
    assert told[0] == told[1] and told[0] and one.alarms == two.alarms
    assert isinstance(two.alarms[0], Alarm) and one.to_dict() == two.to_dict()

@pytest.mark.parametrize('wrong', [{}, dict(version=99), []])
def test_what_is_no_watch_is_not_taken_up(wrong):
    with pytest.raises(DataError): Watcher.from_dict(wrong)

# --- settings
def test_settings_come_back_from_json():
    s = WatchSettings(false_alarms=.25, features=('sharpness',))
    assert WatchSettings.from_dict(json.loads(json.dumps(s.to_dict()))) == s

@pytest.mark.parametrize('k', [dict(false_alarms=0), dict(features=()), dict(shifts=(0.,)), dict(shares=(.5, .5)), dict(shares=(.8, .8, .8)),
                               dict(young=0), dict(young=30, remembered=40), dict(alone=0), dict(features='sharpness')])
def test_settings_that_cannot_be(k):
    with pytest.raises(SettingError): WatchSettings(**k)

def test_a_setting_that_is_not_there():
    with pytest.raises(SettingError, match='false_alarms'): WatchSettings.from_dict(dict(false_alarm=1))

# --- figures of an answer
def test_figures_of_what_was_refused_are_none():
    assert features_of(Ungraded('x.jpg', 'no image')) == dict.fromkeys(FEATURES)

def test_figures_of_a_row():
    row = dict(quality=dict(ok=True, measures=dict(sharpness=.5, blue_to_red=float('nan'), strange=1.)), probabilities=[.2, .7, .1], positive=.1)
    f = features_of(row)
    assert list(f) == list(FEATURES) and (f['sharpness'], f['confidence'], f['referable']) == (.5, .7, .1)
    assert f['blue_to_red'] is None and f['brightness'] is None
    assert features_of(dict(quality={}, probabilities=None, positive=None)) == dict.fromkeys(FEATURES) # as older stores have it

def graded(**quality):
    model = dict(name='m', id='0', preprocess='0', precision='fp32')
    return Grading('eye.jpg', 0, 'No DR', [.9, .05, .03, .01, .01], False, .05, .5, dict(ok=True, score=.9, reasons=[]) | quality,
                   dict(prepare=.1, model=.1), model, get_task('dr'))

def test_an_answer_from_before_the_measures_replays_as_the_same():
    "They came later: an older store must not look as if its answers had changed"
    said = lambda g: _difference(lambda *a, **k: graded(measures=dict(sharpness=.5)), SimpleNamespace(grading=g), b'')
    assert said(graded()) == '' and said(graded(measures=dict(sharpness=.5))) == ''
    assert 'quality' in said(graded(measures=dict(sharpness=.4)))

def test_a_service_tells_the_measures_and_an_older_one_none():
    told = dict(ok=True, score=.9, reasons=[], measures=dict(sharpness=.5))
    assert _quality(told) == told
    assert _quality({k: v for k, v in told.items() if k != 'measures'}) == dict(ok=True, score=.9, reasons=[])

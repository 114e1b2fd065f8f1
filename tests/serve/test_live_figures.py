"What is read again, and the live figures made of it: draws, weights, old cases, a plan that changes, erased patients, several models, readers who differ"
import random
from datetime import UTC, datetime

import pandas as pd, pytest

from conftest import MODEL, add_model
from retina_nb.core import DataError, SettingError, get_task
from retina_nb.deploy import Grading
from retina_nb.serve import SamplingPlan, Store, follow_plan, live_scores, photo, plans_of, put_to_plan, queue_disagreements, readers_agree, readings_table, review_table, settled_table
from retina_nb.serve.replies import UNSURE

RULE, LOT = dict(score='probability', threshold=.5), SamplingPlan(near=0, random=.25)

def answer(positive=.02, sure=.95, model=MODEL):
    ps = [sure*(1-positive), (1-sure)*(1-positive), positive, 0., 0.]
    g = max(range(5), key=ps.__getitem__)
    return Grading('eye.jpg', g, get_task('dr').classes[g], ps, positive >= .5, positive, .5, dict(ok=True), {}, dict(name='by hand', id=model, precision='fp32'), get_task('dr'))

def put_all(store, names, gs, plan, rng, tags=None):
    "Answers that are put to the plan, ten photographs a request; the ids of their predictions"
    def also(conn, note, a):
        for p in a.predictions: put_to_plan(store, conn, note, p, plan, rule=RULE, u=rng.random())
    out = []
    for i in range(0, len(names), 10):
        a = store.record([photo(f'{n}'.encode(), patient=f'P{n}') for n in names[i:i+10]], gs[i:i+10], tags=tags, also=also)
        out += [p.id for p in a.predictions]
    return out

def put(store, n, g=None, plan=LOT, u=None, patient=None, role='live', tags=None):
    "An answer that is put to the plan; the id of its prediction"
    def also(conn, note, a):
        for p in a.predictions: put_to_plan(store, conn, note, p, plan, rule=RULE, u=u)
    a = store.record(photo(f'{n}'.encode(), patient=patient or f'P{n}'), g or answer(), role=role, tags=tags, also=None if u is None else also)
    return a.predictions[0].id

def read(store, grade, who='Anna', n=None):
    "Work through the queue"
    done = 0
    while (n is None or done < n) and (r := store.lease_review(who)) is not None:
        store.finish_review(r['id'], who, grade=grade(r['prediction']) if callable(grade) else grade)
        done += 1
    return done

def filled(store, n=60, seed=0, plan=LOT, tags=None):
    rng = random.Random(seed)
    follow_plan(store, plan)
    return put_all(store, range(n), [answer(.45, .6) if i % 10 == 0 else answer() for i in range(n)], plan, rng, tags)

@pytest.fixture
def lite(tmp_path):
    "A store on SQLite, for what does not depend on the database"
    with Store(tmp_path/'store') as s:
        add_model(s)
        yield s

def test_every_answer_has_its_chance(store):
    ids = filled(store)
    df = review_table(store).set_index('prediction')
    assert set(df.index) == set(ids) and set(df['chance']) == {1., .25}
    drawn = df['reason'] != ''
    assert (df['probability'][drawn] == df['chance'][drawn]).all() and df['probability'][~drawn].isna().all()
    assert (df['reason'][df['chance'] == 1] == UNSURE).all() and set(df['state']) == {'not drawn', 'waiting'}
    assert df['target'].isna().all() and live_scores(df).accuracy.value is None
    assert store.check() == []

def test_weights_make_the_whole_of_the_part(lite):
    ids = filled(lite, 200)
    wrong = {i for n, i in enumerate(ids) if n % 10 == 0 and n % 20 == 0}      # half of the unsure ones
    read(lite, lambda i: 2 if i in wrong else 0)
    live = live_scores(lite)
    assert abs(live.accuracy.value - (1 - len(wrong)/len(ids))) < .01
    assert live.naive.accuracy.off < -.02 and live.not_verified['verified'] == len(lite.reviews('done'))
    assert live.accuracy.ci95[0] < live.accuracy.value < 1 and live_scores(lite).to_dict() == live.to_dict()

def test_a_plan_says_what_it_is():
    assert SamplingPlan.from_json(SamplingPlan(random=.3, second=.1).to_json()) == SamplingPlan(random=.3, second=.1)
    for odd in (dict(random=-.1), dict(near='1'), dict(second=2), dict(others=1), 'no json', [1]):
        with pytest.raises(SettingError): SamplingPlan.from_json(odd)

def test_draws_are_as_often_as_they_say():
    rng = random.Random(3)
    plan = SamplingPlan(near=.5, margin=.2, random=.1)
    got = {}
    for g in (answer(.02), answer(.45, .95), answer(.45, .6)):
        z, n = plan.zone(g, RULE), 4000
        got[z] = sum(bool(plan.draw(g, RULE, rng.random())[0]) for _ in range(n))/n
        assert abs(got[z] - plan.chance(z)) < .03
    assert len(got) == 3 and 1. in got.values()

def test_who_was_before_the_plan_has_no_weight(lite):
    old = [put(lite, f'old {i}', answer(.45, .6)) for i in range(20)]
    for i in old: lite.queue_review(i, UNSURE)                               # as the service did before there was a plan
    read(lite, 0)
    df = review_table(lite)
    assert df['chance'].isna().all() and (df['state'] == 'verified').all()
    live = live_scores(lite)
    assert live.accuracy.value is None and live.not_verified['no_plan'] == 20 and live.not_verified['photographs'] == 0
    filled(lite, 80)
    read(lite, 0)
    assert live_scores(lite).not_verified['photographs'] == 80 and live_scores(lite).accuracy.value > .8

def test_a_plan_that_changes_in_mid_course(lite):
    filled(lite, 80)
    more = SamplingPlan(near=0, random=.5)
    follow_plan(lite, more)
    rng = random.Random(9)
    put_all(lite, [f'later {i}' for i in range(80)], [answer()]*80, more, rng)
    follow_plan(lite, SamplingPlan(near=.5, random=0))                        # draws none of the sure ones: nothing can be said of that time
    for i in range(20): put(lite, f'last {i}', None, SamplingPlan(near=.5, random=0), .5)
    follow_plan(lite, SamplingPlan(near=.5, random=0))
    assert len(plans_of(lite)) == 3
    df = review_table(lite)
    assert sorted(df['chance'].dropna().unique()) == [.25, .5, 1.] and df['chance'].isna().sum() == 20
    read(lite, 0)
    live = live_scores(lite)
    assert live.not_verified['no_plan'] == 20 and live.accuracy.value > .85

def test_what_nobody_asked_for_is_no_sample(lite):
    ids = filled(lite, 80)
    read(lite, 0)
    before = live_scores(lite).to_dict()
    df = review_table(lite).set_index('prediction')
    free = [i for i in ids if df['reason'][i] == ''][:10]
    for i in free[:5]: lite.give_feedback(i, 'correct', grade=4, who='Ben')   # in the panel
    for i in free[5:]: lite.queue_review(i, 'disagreement')                   # because two models differ
    assert read(lite, 4, 'Chen') == 5
    assert live_scores(lite).to_dict() == before
    df = review_table(lite).set_index('prediction')
    assert df['said'][free].tolist() == [4]*10 and df['target'][free].isna().all()

def test_a_reading_without_a_grade(lite):
    filled(lite, 80)
    n = read(lite, None, n=3)
    read(lite, 0)
    live = live_scores(lite)
    assert n == 3 and live.not_verified['no_grade'] == 3 and (review_table(lite)['state'] == 'no grade').sum() == 3
    assert live.not_verified['verified'] == len(lite.reviews('done')) - 3

def test_an_erased_patient_stays_in_the_figures(store):
    filled(store, 80, tags=dict(hospital='A'))
    read(store, 0)
    before = live_scores(store, by='hospital').to_dict()
    store.erase('P10')
    after = live_scores(store, by='hospital').to_dict()
    there, left = before.pop('groups')['A'], after.pop('groups')['A']
    assert after == before and before['n_images'] == 80
    assert (there['n_images'], left['n_images']) == (80, 70)                  # tags go with the ten of the request
    assert 'P10' not in str(review_table(store).to_dict()) and store.check() == []

def test_a_shadow_is_scored_on_the_same_readings(store):
    add_model(store, 'f0f0f0f0f0f0', 'shadow')
    ids = filled(store, 80)
    for n, i in enumerate(ids): store.add(store.answer(i).id, answer(.02 if n else .9, model='f0f0f0f0f0f0'), place=n % 10)
    read(store, 0)
    df = review_table(store)
    assert len(df) == 160 and df.groupby('role')['target'].count().nunique() == 1
    both = live_scores(store, by='bundle')
    assert set(both.groups) == {MODEL, 'f0f0f0f0f0f0'} and both.not_verified['photographs'] == 80
    one = review_table(store, bundle='f0f0f0f0f0f0')
    assert len(one) == 80 and one['chance'].notna().all() and (one['chance'] == 1).sum() == 8   # the zone is that of the answer that was told
    assert both.groups['f0f0f0f0f0f0'].to_dict() == live_scores(one).to_dict()

def test_when_it_was_taken_and_from_when_on(lite):
    follow_plan(lite, LOT)
    for i in range(4): put(lite, i, u=.9, tags=dict(taken=f'2026-03-0{i+1}T10:00:00+08:00', hospital='A', probability='odd'))
    df = review_table(lite, since=datetime(2026, 3, 3, tzinfo=UTC))
    assert len(df) == 2 and df['at'].tolist() == [datetime(2026, 3, d, 2, tzinfo=UTC) for d in (3, 4)]
    assert df['hospital'].tolist() == ['A']*2 and df['tag_probability'].tolist() == ['odd']*2 and df['probability'].isna().all()

def test_a_table_of_ones_own(tmp_path):
    df = pd.DataFrame(dict(target=[0]*12 + [None]*30, grade=0, probability=[.25]*12 + [None]*30, patient=range(42)))
    assert live_scores(df, 'dr').accuracy.value == 1 and live_scores(df, 'dr').accuracy.ci95[0] > .6
    for bad, why in ((df.drop(columns='probability'), 'probability'), (df.drop(columns='grade'), 'grade'), (df.assign(probability=None), 'row 0')):
        with pytest.raises(DataError, match=why): live_scores(bad, 'dr')
    with pytest.raises(SettingError, match='machine'): live_scores(df, 'dr', by='machine')
    with pytest.raises(SettingError, match='no model'), Store(tmp_path/'s') as s: review_table(s)

def test_a_photograph_sent_again_counts_once(lite):
    half = SamplingPlan(near=0, random=.5)
    follow_plan(lite, half)
    rng, n = random.Random(5), 600
    wrong = set(range(0, n, 5))
    put_all(lite, range(n), [answer()]*n, half, rng)
    for _ in range(2): put_all(lite, sorted(wrong), [answer()]*len(wrong), half, rng)   # the odd ones come three times
    df = review_table(lite)
    names = {photo(f'{i}'.encode()).sha256[:24]: i for i in range(n)}
    assert len(df) == n == df['image'].nunique()
    of = {p.id: names[p.sha256[:24]] for p, _ in lite.answers()}
    read(lite, lambda i: 2 if of[i] in wrong else 0)
    df = review_table(lite)
    live = live_scores(df)
    own = df['reason'] != ''
    assert (df['state'][own] == 'verified').all() and df['target'][~own].isna().all()   # the reading of a repeat makes it no case
    assert abs(own.mean() - .5) < .06 and abs(live.accuracy.value - .8) < .03 and live.not_verified['photographs'] == n

def test_each_side_needs_its_own_cases():
    df = pd.DataFrame(dict(target=[0]*40 + [2]*9, grade=0, probability=1., patient=range(49)))
    live = live_scores(df, 'dr')
    assert live.sensitivity.value is None and '9' in live.sensitivity.why and live.specificity.value == 1
    assert 'fewer than 10 verified ill patients' in str(live) and live.to_dict()['referable']['sensitivity']['why']
    more = pd.concat([df, df.tail(1)])                                          # the other eye of one of them makes no tenth
    assert live_scores(more, 'dr').sensitivity.value is None
    assert live_scores(pd.concat([df, df.tail(1).assign(patient=99)]), 'dr').sensitivity.value == 0

def test_two_different_people_read_what_is_read_twice(store):
    follow_plan(store, both := SamplingPlan(near=0, random=1, second=1))
    for i in range(12): put(store, i, None, both, .3)
    assert {r['reason'] for r in store.reviews()} == {'random', 'second reading'} and len(store.reviews()) == 24
    assert read(store, 0, 'Anna') == 12 and read(store, 1, 'Anna') == 0        # nobody gets both
    with pytest.raises(DataError, match='second'): readers_agree(store)
    assert read(store, lambda i: 1, 'Ben') == 12
    assert readings_table(store).groupby('reader')['grade'].unique().map(list).to_dict() == {'Anna': [0], 'Ben': [1]}
    assert readers_agree(store, n_boot=50).n_images == 12
    assert review_table(store)['target'].tolist() == [1]*12                    # the last word
    assert settled_table(store)['target'].isna().all() and settled_table(store, how='worst')['target'].tolist() == [1]*12
    assert len(queue_disagreements(store)) == 12 and queue_disagreements(store) == []
    read(store, 0, 'Chen')
    assert settled_table(store)['target'].tolist() == [0]*12 and settled_table(store)['chance'].tolist() == [1.]*12

def test_the_service_puts_every_answer_to_the_plan(tmp_path, bundle):
    import io
    from clients import picture
    from retina_nb.serve import Service
    from retina_nb.serve.journal import Journal
    from retina_nb.serve.uploads import Sent
    numbers = iter([.0, .999, .0, .999])
    plan = SamplingPlan(near=0, random=.5)
    with Store(tmp_path/'s') as store:
        service = Service(store, low_confidence=0., journal=Journal(io.StringIO()), plan=plan, chance=lambda: next(numbers))
        service.start(bundle)
        for i in range(4): service.answer(Sent([picture(i)]), key=f'{i}')
        service.answer(Sent([picture(0)]), key='0')                            # the same again draws no lot
        df = review_table(store)
        assert plans_of(store)[0][1] == plan and df['chance'].tolist() == [.5]*4
        assert df['reason'].tolist() == ['random', '']*2 and df['probability'].fillna(0).tolist() == [.5, 0]*2
        assert [r['reason'] for r in store.reviews()] == ['random']*2
        service.close()

def unlike(store, grades=(0, 3)):
    "A photograph that Anna has read at random and Ben a second time, each with a grade; its prediction"
    follow_plan(store, both := SamplingPlan(near=0, random=1, second=1))
    id = put(store, 'eye', None, both, .3)
    for who, g in zip(('Anna', 'Ben'), grades): assert read(store, g, who) == 1
    return id

def test_a_third_reader_is_a_third_person(store):
    "Who has read a photograph, in whatever role, is not asked to settle it"
    id = unlike(store)
    case, = queue_disagreements(store)
    assert store.lease_review('Anna') is None and store.lease_review('Ben') is None
    store.give_feedback(id, 'correct', grade=2, who='Dora')                   # was shown the answer
    assert store.lease_review('Dora') is None and store.lease_review('Dora', reason='disagreement') is None
    assert store.lease_review('Chen')['id'] == case

def test_the_photograph_counts_not_the_answer(store):
    "The same file sent again, or read by feedback alone: nobody gets it for a second reading who knows it"
    put(store, 'eye')
    first, = (p for p, _ in store.answers())
    store.give_feedback(first.id, 'correct', grade=2, who='Anna')
    again = put(store, 'eye')
    case = store.queue_review(again, 'second reading')
    assert store.lease_review('Anna') is None and store.lease_review('Ben')['id'] == case
    store.finish_review(case, 'Ben', grade=None)                              # without a grade there is no feedback
    for reason in ('disagreement', 'second reading'):
        third = put(store, 'eye')
        store.queue_review(third, reason)
        assert store.lease_review('Ben', reason=reason) is None
    assert store.lease_review('Chen') is not None

def test_nobody_has_both_cases_at_once(store):
    "Two leases by reason, and a lease that is over, bring nobody two cases of a photograph"
    follow_plan(store, both := SamplingPlan(near=0, random=1, second=1))
    put(store, 'eye', None, both, .3)
    hers = store.lease_review('Anna', reason='random')
    assert store.lease_review('Anna', reason='second reading') is None
    store.release_review(hers['id'], 'Anna')
    assert store.lease_review('Anna', reason='second reading') is None        # she may have looked at it
    assert store.lease_review('Ben', reason='random') and store.lease_review('Anna', reason='second reading')

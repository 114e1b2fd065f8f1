"What a model changes at a clinic: by hand, against workload, under every description of a clinic, and how often the intervals hold"
import json

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from retina_nb.core import DataError, SettingError, Task
from retina_nb.measure import Clinic, Screened, WAYS, clinic_impact, count_screened, example_predictions, impact_sentence, workload

FIGURES = 'read', 'referred', 'found', 'missed', 'needless', 'minutes', 'saved'

def table(*rows)->pd.DataFrame:
    "(patient, target, probability of grade 2) as predictions of dr"
    return pd.DataFrame([dict(image=f'{i}.jpg', patient=who, target=t, grade=2 if p >= .5 else 0, p_0=1-p, p_1=0., p_2=p, p_3=0., p_4=0.)
                         for i, (who, t, p) in enumerate(rows)])

# six healthy and four ill patients, of two eyes or one: at .5 the model refers 1 of the healthy and 3 of the ill; of one more of each it is not sure
HAND = table(('a', 0, .1), ('a', 1, .2), ('b', 0, .9), ('b', 0, .1), ('c', 0, .4), ('d', 0, .0), ('e', 1, .1), ('f', 0, .2),
             ('g', 2, .8), ('g', 0, .1), ('h', 0, .7), ('h', 3, .2), ('i', 4, .9), ('j', 2, .45), ('j', 2, .1))
UNSURE = (HAND.p_2.between(.4, .5)).to_numpy() # an eye of c and one of j

def test_by_hand():
    s = count_screened(HAND, [.5], unsure=UNSURE)
    assert (s.patients, s.referred, s.read, s.by) == ((6, 4), ((1, 3),), ((2, 4),), 'patient')
    clinic = Clinic(patients=1200, prevalence=.1, minutes=5, second=.5, sensitivity=.9, specificity=.8)
    rows = clinic_impact(s, clinic).set_index('way')
    ill, well = 120, 1080
    want = dict(reader=(1200, .9*ill + .2*well, .9*ill, .1*ill, .2*well, 9000, 0),
                both=(ill + well/3, .9*ill + .2*well/3, .9*ill, .1*ill, .2*well/3, 7.5*(ill + well/3), 9000 - 7.5*(ill + well/3)),
                model=(0, .75*ill + well/6, .75*ill, .25*ill, well/6, 0, 9000))
    for way, figures in want.items():
        assert rows.loc[way, list(FIGURES)].tolist() == pytest.approx(figures), way
    assert clinic_impact(HAND, clinic, [.5], unsure=UNSURE).equals(clinic_impact(s, clinic))

def test_an_eye_without_a_grade_is_seen_by_somebody():
    d = HAND.astype(dict(grade='Int64'))
    d.loc[[3, 9], 'grade'] = pd.NA                              # of b, who is referred anyway, and of g
    d.loc[[5], 'grade'] = pd.NA                                 # of d, whom nothing else would send
    d.loc[[3, 9, 5], [f'p_{j}' for j in range(5)]] = np.nan
    s = count_screened(d, [.5, .95])
    assert s.patients == (6, 4) and s.referred == ((2, 3), (2, 1)) == s.read

def test_without_a_truth_or_patients():
    d = HAND.assign(target=HAND.target.astype('Int64'))
    d.loc[0, 'target'] = pd.NA
    s = count_screened(d, [.5], unsure=UNSURE)                  # the mask is of all rows, also of those that do not count
    assert s.read == ((2, 4),) and s.patients == (6, 4)
    alone = count_screened(HAND.drop(columns='patient'), [.5])
    assert alone.by == 'image' and sum(alone.patients) == len(HAND)

@settings(max_examples=60, deadline=None)
@given(st.floats(.005, .9), st.floats(0, 60), st.floats(0, 1), st.floats(.5, 1), st.floats(.5, 1))
def test_what_must_hold_for_any_clinic(prevalence, minutes, second, sensitivity, specificity):
    clinic = Clinic(700, prevalence, minutes, second, sensitivity, specificity)
    assert Clinic.from_dict(json.loads(json.dumps(clinic.to_dict()))) == clinic
    t = clinic_impact(count_screened(HAND, [.15, .5, .85], unsure=UNSURE), clinic)
    assert np.allclose(t.found + t.missed, 700*prevalence) and np.allclose(t.minutes + t.saved, clinic.whole)
    assert np.allclose(t.found + t.needless, t.referred)
    for name in FIGURES:
        assert (t[f'{name}_low'] <= t[name] + 1e-9).all() and (t[name] <= t[f'{name}_high'] + 1e-9).all() and (t[f'{name}_low'] > -1e-9).all()
    by = {w: t[t.way == w].reset_index(drop=True) for w in WAYS}
    assert (by['both'].missed >= by['reader'].missed[0] - 1e-9).all()      # whom nobody reads nobody finds
    assert (by['both'].missed.diff().dropna() >= -1e-9).all() and (by['both'].read.diff().dropna() <= 1e-9).all()

def test_the_model_alone_is_workload():
    preds = example_predictions(200, seed=5)
    for p in (None, .03):
        a, b = clinic_impact(preds, Clinic(prevalence=p), ways=['model']), workload(preds, prevalence=p, n_boot=10)
        for name in ('referred', 'found', 'missed', 'needless'): assert a[name].to_numpy() == pytest.approx(b[name].to_numpy()), name

def test_a_prevalence_of_each_class_and_of_both_sides_agree():
    preds = example_predictions(400, seed=3)
    s = count_screened(preds, [.2, .6], classes=True)
    of = np.array(s.patients)/sum(s.patients)
    here, same = clinic_impact(preds, Clinic(), [.2, .6]), clinic_impact(s, Clinic(prevalence=tuple(of)))
    for name in FIGURES: assert here[name].to_numpy() == pytest.approx(same[name].to_numpy())
    assert s.patients == tuple(preds.groupby('patient').target.max().value_counts().sort_index())
    assert Screened.from_dict(json.loads(json.dumps(s.to_dict()))) == s

@pytest.mark.parametrize('fields, words', [
    (dict(prevalence=8), '8% is .08'), (dict(prevalence=0), 'between 0 and 1'), (dict(prevalence='many'), 'prevalence'), (dict(prevalence=True), 'prevalence'),
    (dict(prevalence=(.5, .6)), 'add up to 1'), (dict(prevalence=(1.2, -.2)), '0 or more'), (dict(prevalence=(1.,)), 'classes'), (dict(prevalence=float('nan')), 'prevalence'),
    (dict(minutes=-1), 'minutes'), (dict(minutes=float('inf')), 'minutes'), (dict(patients=0), 'patients'), (dict(second=2), 'second'), (dict(sensitivity=90), 'sensitivity'),
    (dict(specificity=None), 'specificity')])
def test_a_clinic_that_cannot_be(fields, words):
    with pytest.raises(SettingError, match=words): Clinic(**fields)

def test_what_is_refused():
    healthy = HAND[HAND.target < 2]
    healthy = healthy[~healthy.patient.isin(['g', 'h'])]
    for f, error, words in (
            (lambda: clinic_impact(healthy, Clinic(prevalence=.1)), DataError, 'no patients of one side'),
            (lambda: clinic_impact(HAND[HAND.target < 4], Clinic(prevalence=(.5, .2, .1, .1, .1)), [.5]), DataError, 'Proliferative'),
            (lambda: clinic_impact(HAND, ways=[]), SettingError, 'way'), (lambda: clinic_impact(HAND, thresholds=[0]), SettingError, 'thresholds'),
            (lambda: clinic_impact(HAND.drop(columns=[f'p_{j}' for j in range(5)])), DataError, 'p_0'),
            (lambda: count_screened(HAND, unsure=UNSURE.astype(float)), SettingError, 'true or false'),
            (lambda: count_screened(HAND, [.5], unsure=np.zeros((len(HAND), 3), bool)), SettingError, '15 rows'),
            (lambda: count_screened(example_predictions(20, task=Task(name='kinds', classes=('a', 'b')))), SettingError, 'nobody is referred'),
            (lambda: count_screened(example_predictions(20, task='oct'), classes=True), SettingError, 'no worse class'),
            (lambda: Screened.from_dict(dict(odd=1)), SettingError, 'no counts')):
        with pytest.raises(error, match=words): f()

def test_the_sentence_says_what_the_row_holds():
    clinic = Clinic(1000, .1, 4)
    t = clinic_impact(HAND, clinic, [.5], unsure=UNSURE).set_index('way', drop=False)
    both = impact_sentence(t.loc['both'], clinic)
    assert both.startswith('Of 1,000 patients, 400 (') and 'who refers 100 (' in both and '; 0 (0 to ' in both and '2,400 (' in both and 'of 4,000 reader minutes' in both
    assert impact_sentence(t.loc['reader'], clinic) == 'Of 1,000 patients, 1,000 go to a reader, who refers 100; 0 ill ones go home; 0 of 4,000 reader minutes are saved.'

# ---- do the intervals hold the truth as often as they say?

def held(t, truth, name): return ((t[f'{name}_low'] <= truth + 1e-9) & (truth <= t[f'{name}_high'] + 1e-9)).mean()

def drawn(x, n): return Screened((.5,)*len(x), n, tuple(g > 0 for g in range(len(n))), x, x, tuple(map(str, range(len(n)))))

@pytest.mark.parametrize('n, p, clinic', [
    ((400, 80), (.1, .9), Clinic(prevalence=.06)), ((150, 40), (.2, .97), Clinic(prevalence=.1)), ((1000, 25), (.02, .8), Clinic(prevalence=.01)),
    ((200, 60, 30, 12), (.05, .6, .9, .98), Clinic(prevalence=(.8, .1, .06, .04), sensitivity=.9, specificity=.95))])
def test_intervals_hold_the_truth_as_often_as_they_say(n, p, clinic):
    "4,000 tables a world; an interval of 95% may hold a little more often where counts are small, never much less"
    t = clinic_impact(drawn(np.random.default_rng(1).binomial(n, p, (4000, len(n))), n), clinic, ways=['both'])
    exact = clinic_impact(drawn(np.array(n)*np.array([p]), n), clinic, ways=['both']).iloc[0]
    for name in ('read', 'referred', 'missed', 'saved'): assert .93 <= held(t, exact[name], name) <= .995, name

@pytest.mark.full
def test_intervals_by_patient_hold_with_two_eyes_that_are_alike():
    "Eyes of a patient go together: counted by eye the intervals would be too short"
    world, clinic, at = dict(noise=.6, rho=.9), Clinic(prevalence=.08), [.2, .5]
    truth = clinic_impact(example_predictions(150_000, seed=99, **world), clinic, at, ways=['both'])
    each = [clinic_impact(example_predictions(250, seed=s, **world), clinic, at, ways=['both']).assign(k=range(2)) for s in range(800)]
    t = pd.concat(each)
    for k in range(2):
        for name in ('read', 'missed', 'saved'): assert .93 <= held(t[t.k == k], truth[name][k], name) <= .975, (k, name)

"What may not be scored is refused, by every public function of the wing, in one line that says where; and what must not matter does not"
import inspect, itertools, re

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import retina_nb.measure as measure
from retina_nb.core import DataError, RetinaError, SettingError
from retina_nb.measure import (ConformalSets, Ranking, average_precision, binary_counts, brier_each, cascade_predictions, cascade_report, choose_threshold,
                               class_f1, class_precision, class_sensitivity, compare_models, conformal_report, count_matrix, count_stat, delong, delong_test,
                               ece, evaluate, example_predictions, grade_at_threshold, keep_labels, log_loss_each, macro_auc, mean_stat, merge_labels,
                               patient_codes, plot_predictive_values, predictive_intervals, promote, proportion_interval, qwk, rank_stat,
                               reaches, reliability, resample, risk_coverage, roc_auc, roc_points, subgroup_scores)

NAN, INF = float('nan'), float('inf')
LABELS = [measure.accuracy, measure.adjacent_accuracy, measure.balanced_accuracy, measure.f1_macro, measure.kappa, measure.linear_kappa, measure.mae, qwk, count_matrix]
BAD_LABELS = {'nan': [0, 1, NAN], 'inf': [0, 1, INF], 'none': [0, 1, None], 'NA': pd.Series([0, 1, pd.NA], dtype='Int64'), 'halves': [0, 1, .5], 'negative': [0, 1, -1],
              'texts': ['0', '1', '2'], 'shorter': [0, 1], 'longer': [0, 1, 2, 0], 'empty': [], 'a matrix': [[0, 1, 2]], 'one number': 1, 'ragged': [[0], [1, 2], []]}

@pytest.mark.parametrize('bad', BAD_LABELS.values(), ids=BAD_LABELS)
@pytest.mark.parametrize('f', LABELS, ids=lambda f: f.__name__)
def test_labels(f, bad):
    for args in ((bad, [0, 1, 2]), ([0, 1, 2], bad)):
        with pytest.raises(SettingError) as e: f(*args)
        assert '\n' not in str(e.value) and len(str(e.value)) < 200

@pytest.mark.parametrize('f', LABELS, ids=lambda f: f.__name__)
def test_labels_beyond_the_classes(f):
    with pytest.raises(SettingError, match=r'0\.\.4; place 2 holds 5'): f([0, 1, 5], [0, 1, 2], 5)
    for k in (0, -1, 2.5, '5', NAN):
        with pytest.raises(SettingError): f([0, 1, 2], [0, 1, 2], k)

BINARY = [measure.sensitivity, measure.specificity, binary_counts]

@pytest.mark.parametrize('bad', [[0, 1, NAN], [0, 1, None], [0, 1, 2], [0, .5, 1], ['yes', 'no', 'no'], [True, False], [], [[1, 0, 1]]], ids=str)
@pytest.mark.parametrize('f', [*BINARY, roc_auc, average_precision, Ranking, roc_points, delong], ids=lambda f: f.__name__)
def test_truths_of_a_question(f, bad):
    other = [0, 1, 1] if f in BINARY else [.1, .2, .3]
    with pytest.raises(SettingError): f(bad, other)
    if f in BINARY:
        with pytest.raises(SettingError): f(other, bad)

@pytest.mark.parametrize('bad', [[.1, NAN, .3, .2], [.1, INF, .3, .2], [.1, None, .3, .2], ['.1', '.2', '.3', '.4'], [.1, .2, .3], [], [[.1, .2, .3, .4]]], ids=str)
def test_scores_of_a_question(bad):
    yes = [0, 1, 1, 0]
    asked = [roc_auc, average_precision, Ranking, roc_points, delong, lambda t, s: delong_test(t, s, [.1, .2, .3, .4]), lambda t, s: delong_test(t, [.1, .2, .3, .4], s),
             lambda t, s: rank_stat(t, s, unit=range(4)), lambda t, s: mean_stat([0, 1, 2, 3], 4, x=s)]
    for f in asked:
        with pytest.raises(SettingError): f(yes, bad)

def test_patients_of_delong_are_as_many_as_images():
    with pytest.raises(SettingError, match='patient has 3'): delong([0, 1, 1, 0], [.1, .2, .3, .4], patient=[1, 2, 3])
    with pytest.raises(SettingError, match='one model'): delong([0, 1, 1, 0])
    same = [delong([0, 1, 1, 0, 1, 0], [.1, .2, .3, .4, .9, .2], patient=p)[1] for p in (None, [None]*6, ['']*6, list('abcdef'))]
    for v in same[1:]: assert np.allclose(v, same[0])

@pytest.mark.parametrize('bad', [[[.55, .61], [.5, .5]], [[NAN, 1], [.5, .5]], [[INF, 0], [.5, .5]], [[-.5, 1.5], [.5, .5]], [[.5, .5]], [.5, .5], [['a', 'b'], [.5, .5]], [], [[], []]], ids=str)
@pytest.mark.parametrize('f', [macro_auc, brier_each, log_loss_each], ids=lambda f: f.__name__)
def test_probability_vectors(f, bad):
    with pytest.raises(SettingError): f([0, 1], bad)
    with pytest.raises(SettingError, match=r'0\.\.1'): f([0, 2], [[.5, .5], [.2, .8]])

@pytest.mark.parametrize('f', [class_sensitivity, class_precision, class_f1], ids=lambda f: f.__name__)
def test_counts(f):
    for bad in ([[1, 2]], [[1, -1], [0, 2]], [[1, NAN], [0, 2]], [1, 2], 'abc', [[[1, 2]]], []):
        with pytest.raises(SettingError): f(bad)

D = example_predictions(40, seed=1)

def spoilt(col, value, i=3):
    d = D.astype({'target': object, 'grade': object})
    d.loc[i, col] = value
    return d

TABLES = {'no target': D.drop(columns='target'), 'no grade': D.drop(columns='grade'), 'empty': D.iloc[:0], 'half a label': spoilt('target', .5), 'a label beyond': spoilt('target', 5),
          'a negative label': spoilt('grade', -1), 'a text': spoilt('target', 'somewhat'), 'no truth at all': D.assign(target=pd.NA), 'inf label': spoilt('grade', INF),
          'nan probability': D.assign(p_0=D.p_0.where(D.index != 3)), 'inf probability': D.assign(p_0=D.p_0.where(D.index != 3, INF)), 'beyond 1': D.assign(p_0=D.p_0 + 1),
          'not adding up': D.assign(p_0=D.p_0*.5), 'text probability': D.astype({'p_0': object}).assign(p_0='much'), 'another task': D.drop(columns='p_4'), 'a number': 3, 'nothing': None}
MORE = dict(cell_images=(0, 1), show_cell=(0, 1), grade_at_threshold=(.5,), plot_predictive_values=(.5,), keep_labels=([0, 1],), merge_labels=([(0, 1), (2, 3, 4)],), subgroup_scores=('eye',))
NO_TRUTH_NEEDED = {'read_predictions', 'grade_at_threshold', 'keep_labels', 'merge_labels', 'referral_rows', 'by_patient', 'ConfusionPanel'}

def of_tables():
    "Public functions whose first argument is a predictions table, with what else they need"
    for name in measure.__all__:
        f = getattr(measure, name)
        if not callable(f) or (isinstance(f, type) and name != 'ConformalSets'): continue
        first, *rest = inspect.signature(f).parameters.values()
        if first.annotation is not measure.PredictionsLike and 'PredictionsLike' not in str(first.annotation) and first.annotation != measure.PredictionsLike: continue
        needed = [p for p in rest if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if name in MORE or not needed: yield name
        elif len(needed) == 1 and needed[0].annotation == measure.PredictionsLike: yield name

NAMES = sorted(of_tables())

def test_the_face_is_covered():
    assert {'evaluate', 'promote', 'compare_models', 'ece', 'risk_coverage', 'confusion_matrix', 'choose_threshold', 'ConformalSets', 'subgroup_scores'} <= set(NAMES)

@pytest.mark.parametrize('what', TABLES)
def test_tables(what):
    bad = TABLES[what]
    for name in NAMES:
        f = getattr(measure, name)
        _, *rest = [p for p in inspect.signature(f).parameters.values() if p.default is p.empty and p.kind != p.VAR_KEYWORD]
        args = MORE.get(name) or (() if not rest else (D,))
        if what == 'no truth at all' and name in NO_TRUTH_NEEDED: continue
        try: list(x) if inspect.isgenerator(x := f(bad, *args)) else x
        except RetinaError as e: assert '\n' not in str(e), (name, e)
        else: pytest.fail(f'{name} took a table with {what}')
        finally: plt.close('all')

@pytest.mark.parametrize('f', [lambda t: evaluate(D, threshold=t), lambda t: promote(D, threshold=t), lambda t: subgroup_scores(D, 'eye', threshold=t), lambda t: grade_at_threshold(D, t),
                               lambda t: compare_models(D, D, thresholds=(t, None)), lambda t: plot_predictive_values(D, t), lambda t: evaluate(D, threshold=dict(threshold=t))])
@pytest.mark.parametrize('bad', [NAN, -.1, 'half'])
def test_thresholds(f, bad):
    with pytest.raises((SettingError, TypeError)) as e: f(bad)
    assert isinstance(e.value, SettingError), e.value

@pytest.mark.parametrize('kw', [dict(sensitivity=NAN), dict(sensitivity=1.5), dict(specificity=-1), dict(cost_ratio=NAN), dict(cost_ratio=-2), dict(cost_ratio=INF), dict(assurance=1), dict(assurance=NAN)], ids=str)
def test_wishes(kw):
    with pytest.raises(SettingError): choose_threshold(D, **kw)

@pytest.mark.parametrize('f', [lambda: evaluate(D, method='exact'), lambda: evaluate(D, n_boot=-1, method='bca'), lambda: evaluate(D, prevalence=NAN), lambda: evaluate(D, prevalence=1),
                               lambda: reliability(D, bins=0), lambda: ece(D, bins=2.5), lambda: ConformalSets(D, level=1), lambda: ConformalSets(D, level=NAN), lambda: risk_coverage(D, confidence=[1, 2]),
                               lambda: risk_coverage(D, confidence=np.full(len(D), NAN)), lambda: conformal_report(np.ones((3, 5), bool), D), lambda: conformal_report(np.full((len(D), 5), .5), D),
                               lambda: measure.apply_temperature(D, 0), lambda: measure.apply_temperature(D, NAN), lambda: measure.clopper_pearson(1, 2.5), lambda: measure.clopper_pearson(NAN, 3),
                               lambda: measure.clopper_pearson(1, 3, level=2), lambda: proportion_interval(1.2, 0, 3), lambda: proportion_interval(.5, -1, 3), lambda: predictive_intervals((.9, .95, 1), (.9, .8, .95), .1),
                               lambda: predictive_intervals((.9, .8, .95), (.9, .8, .95), 0), lambda: predictive_intervals((NAN, NAN, NAN), (.9, .8, .95), .1), lambda: measure.ratio_interval((.5, .4), (.5, .4, .6)),
                               lambda: resample([], 0), lambda: resample([], 3, n_boot=-1), lambda: count_stat(lambda cm: {}, [0, 1], [0], unit=[0, 1], n=2, k=2), lambda: count_stat(lambda cm: {}, [0, 2], [0, 1], unit=[0, 1], n=2, k=2),
                               lambda: count_stat(lambda cm: {}, [0, 1], [0, 1], unit=[0, 2], n=2, k=2), lambda: mean_stat([0, 1], 2, x=[1, 2, 3]), lambda: example_predictions(0), lambda: example_predictions(3, noise=0),
                               lambda: example_predictions(3, prevalence=[-1, 1, 1, 1, 1]), lambda: example_predictions(3, prevalence=[NAN]*5), lambda: example_predictions(3, rho=2), lambda: keep_labels(D, [0, 7]), lambda: keep_labels(D, [0, 0]),
                               lambda: merge_labels(D, [(0, 0, 1), (2, 3, 4)]), lambda: cascade_report(D, cost=[[1, 2], [3, 4]]), lambda: measure.cascade_cost('dr', missed=NAN), lambda: measure.compare_cost(D, D, cost=np.full((5, 5), NAN)),
                               lambda: measure.positive_score(D, (7,)), lambda: measure.cascade_losses(D)])
def test_settings(f):
    with pytest.raises((SettingError, DataError)) as e: f()
    assert '\n' not in str(e.value)

def test_one_half_summed_from_two_decimals_is_one_half():
    "All ways to write .50 as three numbers with two decimals, and every place that compares"
    ways = [(a/100, b/100, (50-a-b)/100) for a, b in itertools.product(range(1, 49), repeat=2) if a + b < 50]
    short = [w for w in ways if sum(w) < .5 and not np.asarray(w).sum() >= .5]
    assert len(short) > 40 and all(reaches(sum(w), .5) for w in ways) and not reaches(.499, .5)
    d = pd.DataFrame([dict(image=f'{i}.jpg', patient=i, target=2*(i%2), grade=2, p_0=.25, p_1=.25, p_2=a, p_3=b, p_4=c) for i, (a, b, c) in enumerate(short[:40])])
    ref = evaluate(d).referable
    assert ref.sensitivity.value == 1 and ref.specificity.value == 0
    assert (grade_at_threshold(d, .5).grade >= 2).all() and subgroup_scores(d, 'p_0', scores=('referable.sensitivity',)).value.eq(1).all()
    assert measure.by_patient(d, threshold=.5).referred.all()
    second, grades = keep_labels(d, (2, 3, 4))
    assert cascade_predictions(d, second, .5, task1='dr', task2=grades).reached.all()
    compared = compare_models(d, d.assign(p_2=d.p_2 + 1e-9)).set_index(['score', 'test'])
    assert compared.a['referable.sensitivity', 'jackknife'] == 1

SHUFFLED = dict(evaluate=lambda d: [f['ci95'] for f in (evaluate(d, seed=3).qwk, evaluate(d, seed=3).referable.auc)], bca=lambda d: evaluate(d, n_boot=200, method='bca').qwk.ci95,
                percentile=lambda d: evaluate(d, n_boot=200, method='percentile').referable.auc.ci95, ece=lambda d: [ece(d)['if_calibrated'][k] for k in ('mean', 'high', 'p')],
                reliability=lambda d: reliability(d)[['low', 'high']].to_numpy(), compare=lambda d: compare_models(d, d.assign(grade=0))[['low', 'high', 'p']].to_numpy(), groups=lambda d: subgroup_scores(d, 'eye')[['low', 'high']].to_numpy(),
                kinds=lambda d: measure.error_kinds(d)[['low', 'high']].to_numpy(), swaps=lambda d: measure.compare_confusion(d, d.assign(grade=0), n_perm=200)['p'],
                sets=lambda d: ConformalSets(d)(D).sum(0), held=lambda d: conformal_report(ConformalSets(D)(d), d)['coverage']['ci95'])

@pytest.mark.parametrize('how', SHUFFLED)
@pytest.mark.parametrize('patients', ['known', 'some blank', 'unknown', 'no images'])
@pytest.mark.filterwarnings('ignore:evaluate')
def test_the_order_of_rows_changes_no_interval(how, patients):
    d = example_predictions(230, seed=5)
    if patients == 'some blank': d.loc[:9, 'patient'] = [None, '', ' ', 'NA', NAN, '-', '?', '\t', None, NAN]
    if patients in ('unknown', 'no images'): d = d.drop(columns='patient')
    if patients == 'no images':
        if how in ('compare', 'swaps'): return
        d = d.drop(columns='image')
    a, b = (np.array(SHUFFLED[how](x), float) for x in (d, d.sample(frac=1, random_state=1)))
    assert np.allclose(a, b, atol=1e-9, equal_nan=True)

def test_blank_patients_are_people_of_their_own_and_that_is_said():
    d = example_predictions(100, seed=5)
    d.loc[:9, 'patient'] = [None, '', ' ', 'NA', NAN, '-', '?', '\t', None, NAN]
    assert patient_codes(d)[1] == 95 + 10
    said = ' '.join(evaluate(d).warnings)
    assert re.search(r'10 images without a patient', said), said
    blank = evaluate(d.assign(patient='  '))
    assert blank.n_patients is None and blank.intervals.unit == 'image'

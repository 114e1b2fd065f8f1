"Bootstrap over patients: same seed same figures, exact bounds, and intervals that hold the truth"
import numpy as np
import pytest
from scipy.stats import binom

from retina_nb.core import SettingError, get_task
from retina_nb.measure import WORLDS, Resampled, clopper_pearson, count_coverage, evaluate, example_predictions, patient_codes
from retina_nb.measure.evaluation import score_statistics
from retina_nb.measure.resampling import resample

@pytest.fixture(scope='module')
def preds(): return example_predictions(150, seed=3)

def test_empty_patients_are_patients_of_their_own(preds):
    d = preds.copy(); d.loc[:3, 'patient'] = None
    assert patient_codes(d)[1] == 148 + 4 and patient_codes(preds)[1] == 150
    assert any('4 images without a patient' in w for w in evaluate(d, n_boot=50)['warnings'])

def test_same_seed_same_intervals_whatever_the_block_size(preds):
    n = patient_codes(preds)[1]
    stats = lambda: score_statistics(preds, get_task('dr'), dict(referable=.5, vision_threatening=.5))[0]
    a, b = (resample(stats(), n, n_boot=60, seed=1, images=images) for images in (300, 2**20))
    for k in a: assert np.allclose(a[k].resampled, b[k].resampled, 1e-9, 1e-12, equal_nan=True) and np.allclose(a[k].left_out, b[k].left_out, 1e-9, 1e-12, equal_nan=True)

def test_a_difference_is_resampled_together():
    a, b = Resampled(.5, np.array([.4, .6]), np.array([.3, .5, .7])), Resampled(.7, np.array([.5, .9]), np.array([.6, .6, .9]))
    d = b - a
    assert d.value == pytest.approx(.2) and np.allclose(d.left_out, [.1, .3]) and np.allclose(d.resampled, [.3, .1, .2])
    with pytest.raises(AttributeError): d.value = 0

@pytest.mark.parametrize('n', [1, 7, 40])
def test_clopper_pearson_is_exact(n):
    "At each bound, as much or more (or less) than was found has a chance of 2.5%"
    for k in range(n+1):
        low, high = clopper_pearson(k, n)
        if k: assert binom.sf(k-1, n, low) == pytest.approx(.025, abs=1e-9)
        else: assert low == 0
        if k < n: assert binom.cdf(k, n, high) == pytest.approx(.025, abs=1e-9)
        else: assert high == 1
    for k, m in ((n+1, n), (-1, n), (0, 0)):
        with pytest.raises(SettingError): clopper_pearson(k, m)

@pytest.mark.parametrize('n', [10, 30, 200, 1000])
def test_perfect_and_hopeless_scores_have_intervals_with_length(n):
    "All right, all wrong, all alike: no score of ten patients or more is certain, and the interval shrinks as patients come"
    d = example_predictions(n, seed=1, prevalence=[1]*5)
    sure = d.assign(grade=d.target, **{f'p_{j}': (d.target == j).astype(float) for j in range(5)})
    s = evaluate(sure)
    for f in (s.qwk, s.accuracy, s.balanced_accuracy, s.f1_macro, s.kappa, s.linear_kappa, s.adjacent_accuracy): assert f.value == 1 and 0 < f.ci95[0] < 1 == f.ci95[1]
    assert s.mae.value == 0 == s.mae.ci95[0] < s.mae.ci95[1] < 1.5 and s.brier.ci95[0] == 0 < s.brier.ci95[1] and s.log_loss.value < 1e-9
    for f in (s.referable.auc, s.referable.average_precision, s.macro_auc):
        if n >= 30: assert f.value == 1 and .6 < f.ci95[0] < 1 == f.ci95[1]
    wrong = evaluate(d.assign(grade=(d.target + 1) % 5))
    assert wrong.accuracy.value == 0 == wrong.accuracy.ci95[0] < wrong.accuracy.ci95[1] < 1

@pytest.mark.parametrize('n', [1, 2, 5, 9])
def test_below_ten_patients_only_proportions_have_intervals_and_it_is_said(n):
    d = example_predictions(n, seed=2, prevalence=[1]*5)
    for x in (d, d.assign(grade=d.target), d.assign(grade=0)):
        s = evaluate(x, n_boot=50)
        for name in ('qwk', 'kappa', 'balanced_accuracy', 'f1_macro', 'mae', 'macro_auc', 'brier', 'log_loss'): assert s[name].ci95 == [None, None]
        low, high = s.accuracy.ci95
        assert low <= s.accuracy.value <= high and high - low > .2
        assert any('fewer than 10 patients' in w for w in s.warnings) and 'too few' in str(s)
        for method in ('bca', 'percentile'): assert evaluate(x, n_boot=50, method=method).qwk.ci95 == [None, None]

def test_one_side_of_few_patients_takes_the_interval_of_ranks_only():
    d = example_predictions(100, seed=2, prevalence=[90, 2, 4, 2, 2])
    s = evaluate(d)
    sick = d[d.target >= 2].patient.nunique()
    assert sick < 20 and (s.referable.auc.ci95[0] is None) == (sick < 10) and s.qwk.ci95[0] is not None and s.referable.sensitivity.ci95[0] is not None

def test_predictive_values_follow_from_the_bounds_of_their_parts():
    "Nobody of the healthy referred: the predictive value is 1, and at a low prevalence hardly anything is known of it"
    d = example_predictions(40, seed=3)
    d = d.assign(**{f'p_{j}': (d.target == j).astype(float) for j in range(5)})
    for prevalence in (.5, .05, .001):
        r = evaluate(d, prevalence=prevalence).referable
        low = r.specificity.ci95[0]
        assert r.ppv.value == 1 == r.ppv.ci95[1] and r.ppv.ci95[0] == pytest.approx(prevalence/(prevalence + (1-prevalence)*(1-low)), abs=1e-9)
        assert r.npv.value == 1 == r.npv.ci95[1] and r.npv.ci95[0] == pytest.approx((1-prevalence)/(1-prevalence + prevalence*(1-r.sensitivity.ci95[0])), abs=1e-9)

def test_the_three_methods_agree_on_many_patients():
    d = example_predictions(1500, seed=4)
    a, b, c = (evaluate(d, method=m, n_boot=600) for m in ('jackknife', 'bca', 'percentile'))
    for name in ('qwk', 'accuracy', 'balanced_accuracy', 'mae', 'brier', 'macro_auc'):
        wide = a[name].ci95[1] - a[name].ci95[0]
        for other in (b, c): assert np.allclose(a[name].ci95, other[name].ci95, atol=.25*wide), name

@pytest.mark.parametrize('world', ['clinic, near-perfect, 30 patients', 'screening, ordinary, 30 patients'])
def test_intervals_hold_in_a_sample_of_the_hardest_worlds(world):
    "0.86 is .95 less two and a half standard errors of 60 tables, and a little"
    held = count_coverage(world, n_tables=60, scores=('qwk', 'referable.auc', 'balanced_accuracy', 'mae', 'referable.sensitivity'), n_truth=20_000)
    assert (held[held.given > .3].held >= .86).all() and (held.length < .7).all(), held

@pytest.mark.full
@pytest.mark.parametrize('world', WORLDS)
def test_intervals_hold(world):
    "In 93% of worlds or more, give or take three standard errors; with 300 patients and an ordinary model in no more than 97%"
    held = count_coverage(world, n_tables=200, seed=50_000)
    held = held[held.given > .3]
    assert (held.held >= .93 - 3*held.error).all(), held
    if 'ordinary, 300' in world: assert (held.held <= .97 + 3*held.error).all(), held

@pytest.mark.full
def test_bootstrap_intervals_hold_for_many_patients():
    "BCa, by wish: fine with many patients and an ordinary model"
    held = count_coverage('clinic, ordinary, 300 patients', n_tables=200, method='bca', n_boot=600)
    assert held.held.between(.89, .99).all(), held

"Bootstrap over patients: same seed same figures, exact bounds, and intervals that hold the truth"
import numpy as np
import pytest
from scipy.stats import binom

from retina_nb.core import SettingError, get_task
from retina_nb.measure import Resampled, clopper_pearson, evaluate, example_predictions, patient_codes
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

def coverage(n_patients, sims, n_boot, scores, method='bca', n_truth=300_000):
    "How often the interval of each score holds its true value, known from a very large table"
    thr = dict(referable=.5, vision_threatening=.5)
    def run(df, n_boot, seed):
        n = patient_codes(df)[1]
        return resample(score_statistics(df, get_task('dr'), thr)[0], n, n_boot=n_boot, seed=seed, images=len(df))
    truth = {k: v.value for k, v in run(example_predictions(n_truth, seed=999), 1, 0).items()}
    held = {k: [] for k in scores}
    for s in range(sims):
        got = run(example_predictions(n_patients, seed=s), n_boot, s)
        for k in scores:
            lo, hi = got[k].interval(method=method)
            held[k].append(lo <= truth[k] <= hi)
    return {k: float(np.mean(v)) for k, v in held.items()}

SCORES = ('qwk', 'accuracy', 'balanced_accuracy', 'f1_macro', 'kappa', 'linear_kappa', 'mae', 'macro_auc', 'macro_average_precision', 'brier', 'log_loss',
          'referable.auc', 'referable.sensitivity', 'referable.specificity', 'referable.ppv', 'referable.average_precision', 'vision_threatening.auc',
          'vision_threatening.sensitivity', 'per_class.0.auc', 'per_class.2.sensitivity')

def test_intervals_hold_roughly():
    for k, c in coverage(200, 40, 200, ('qwk', 'brier', 'referable.auc', 'referable.sensitivity'), n_truth=40_000).items(): assert .86 <= c <= 1, (k, c)

@pytest.mark.full
def test_intervals_hold():
    "95% intervals hold the truth in 93% to 97% of 1,000 worlds, give or take what 1,000 worlds can tell (standard error 0.7%)"
    for k, c in coverage(800, 1000, 600, SCORES).items(): assert .925 <= c <= .975, (k, c)

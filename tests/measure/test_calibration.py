"Reliability adds up, a calibrated model is told from one that is too sure, the temperature finds the truth"
import matplotlib
matplotlib.use('Agg')
import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from retina_nb.core import DataError
from retina_nb.measure import (apply_temperature, brier_each, choose_threshold, ece, example_predictions, fit_temperature, plot_roc, prob_columns,
                               probabilities, reliability, risk_coverage)

def test_reliability_adds_up():
    d = example_predictions(300)
    r = reliability(d)
    assert r.n.sum() == 600 and (r.n*r.observed).sum() == pytest.approx((d.target >= 2).sum()) and ((r.low <= r.observed) & (r.observed <= r.high)).all()

def test_brier_of_two_classes_is_twice_sklearns():
    d = example_predictions(100, task='pneumonia')
    assert brier_each(d.target, probabilities(d)).mean() == pytest.approx(2*brier_score_loss(d.target, d.p_1), abs=1e-12)

def test_a_calibrated_model_shows_what_it_should():
    e = [ece(example_predictions(400, seed=s), draws=50) for s in range(12)]
    assert np.mean([x['value'] for x in e]) < np.mean([x['if_calibrated']['high'] for x in e])
    bad = ece(example_predictions(400, seed=0, sharpness=3))
    assert bad['value'] > 2*bad['if_calibrated']['high'] and bad['if_calibrated']['p'] < .01 and bad['ci95'] == [None, None] and bad['excess'] > .02

@pytest.mark.parametrize('sharpness', [.5, 1, 3])
def test_temperature_finds_the_truth(sharpness):
    assert fit_temperature(example_predictions(2000, sharpness=sharpness))['temperature'] == pytest.approx(sharpness, rel=.08)

def test_temperature_survives_certainty_and_keeps_grades():
    d = example_predictions(200)
    hard = d.assign(**{c: (d.grade == j).astype(float) for j, c in enumerate(prob_columns(d))})
    f = fit_temperature(hard)
    soft = apply_temperature(hard, f['temperature'])
    assert np.isfinite(f['log_loss_after']) and (probabilities(soft).argmax(1) == d.grade).all() and np.allclose(probabilities(soft).sum(1), 1)

@pytest.mark.parametrize('f', [reliability, ece, fit_temperature, choose_threshold, risk_coverage, plot_roc])
def test_probabilities_are_needed_and_asked_for(f):
    with pytest.raises(DataError, match='p_0 to p_4'): f(example_predictions(20)[['image', 'patient', 'target', 'grade']])

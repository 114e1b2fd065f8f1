"Risk and coverage, conformal sets that hold"
import numpy as np
import pytest

from retina_nb.core import DataError
from retina_nb.measure import ConformalSets, example_predictions, risk_coverage

def test_risk_coverage_ends_at_the_error_rate():
    d = example_predictions(200)
    r = risk_coverage(d)
    assert r.risk.iloc[-1] == pytest.approx((d.target != d.grade).mean()) and r.coverage.iloc[-1] == 1 and r.coverage.is_monotonic_increasing
    assert r.attrs['aurc_best'] <= r.attrs['aurc'] < r.attrs['risk_all']
    flat = risk_coverage(d, confidence=np.ones(len(d)))
    assert len(flat) == 1 and flat.attrs['aurc'] == pytest.approx(r.attrs['risk_all'])

def conformal_coverage(draws, n, level, **kw):
    out = []
    for s in range(draws):
        valid, test = (example_predictions(n, seed=2*s+i, sharpness=3) for i in (0, 1))
        sets = ConformalSets(valid, level=level, **kw)(test)
        held = sets[np.arange(len(test)), test.target]
        out.append([held.mean()] + [held[test.target == j].mean() for j in (0, 2)])
    return np.nanmean(out, 0), np.nanstd(out, 0)/np.sqrt(draws)

@pytest.mark.parametrize('level', [.9, .95])
def test_conformal_sets_hold(level):
    mean, se = conformal_coverage(60, 120, level)
    assert level - 2.5*se[0] <= mean[0] <= level + .025

@pytest.mark.full
def test_conformal_sets_hold_in_every_class():
    mean, se = conformal_coverage(150, 900, .8, by_class=True)
    assert (mean >= .8 - 2.5*se).all()
    mean, se = conformal_coverage(400, 120, .9)
    assert .9 - 2.5*se[0] <= mean[0] <= .92

def test_conformal_sets_ask_for_enough_patients_and_are_never_empty():
    d = example_predictions(100)
    with pytest.raises(DataError, match='need 99 validation patients; there are 50'): ConformalSets(d.head(100), level=.99)
    with pytest.raises(DataError, match='of each class'): ConformalSets(d, level=.9, by_class=True)
    assert ConformalSets(d, level=.3)(d).any(1).all()
    assert (ConformalSets(d, level=.9)(d) <= ConformalSets(d, level=.95)(d)).all(), 'a higher level only adds'

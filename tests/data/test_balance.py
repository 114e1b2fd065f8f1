"Class weights on random labels, and Bayes' rule on counted people"
import numpy as np
import pytest

from retina_nb.core import SettingError
from retina_nb.data import BALANCE, class_counts, class_weights, predictive_values

@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('how', BALANCE)
def test_weights_average_one_and_favour_the_rare(how, seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 7))
    labels = rng.choice(k, rng.integers(1, 300), p=rng.dirichlet(np.full(k, .5)))
    w,n = class_weights(labels, k, how), class_counts(labels, k)
    assert np.isclose(w[labels].mean(), 1) and (w[n == 0] == 0).all() and n.sum() == len(labels)
    order = np.argsort(n[n > 0])
    assert (np.diff(w[n > 0][order]) <= 1e-9).all(), 'no common class weighs more than a rarer one'
    if how == 'balanced': assert np.allclose((w*n)[n > 0], len(labels)/(n > 0).sum())

def test_effective_lies_between_none_and_balanced():
    labels = [0]*900 + [1]*100
    none,balanced = (class_weights(labels, 2, h) for h in ('none', 'balanced'))
    assert np.allclose(class_weights(labels, 2, 'effective', beta=0), none)
    assert np.allclose(class_weights(labels, 2, 'effective', beta=1-1e-9), balanced, rtol=1e-4)
    with pytest.raises(SettingError, match='choose one of none, sqrt, effective, balanced'): class_weights(labels, 2, 'inverse')

@pytest.mark.parametrize('seed', range(10))
def test_predictive_values_are_counts_of_people(seed):
    tp,fn,fp,tn = np.random.default_rng(seed).integers(1, 100, 4)
    ppv,npv = predictive_values(tp/(tp+fn), tn/(tn+fp), (tp+fn)/(tp+fn+fp+tn))
    assert np.isclose(ppv, tp/(tp+fp)) and np.isclose(npv, tn/(tn+fn))

def test_values_out_of_range_are_refused_and_missing_ones_pass():
    for bad in ((90, .9, .1), (.9, -.1, .1), (.9, .9, 1.1)):
        with pytest.raises(SettingError, match='from 0 to 1'): predictive_values(*bad)
    assert np.isnan(predictive_values(np.nan, .9, .1)[0]) and np.isnan(predictive_values(0., 1., .5)[0])

"Two models on the same patients: tables that do not pair, DeLong, stars that mean something"
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError
from retina_nb.measure import (compare_confusion, compare_models, confusion_matrix, delong, delong_test, example_predictions, pair_predictions,
                               plot_confusion_pair, probabilities)

@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')

@pytest.fixture(scope='module')
def preds(): return example_predictions(150, seed=3)

def test_tables_that_do_not_pair(preds):
    with pytest.raises(DataError, match='1 images are in one table only'): pair_predictions(preds, preds.iloc[1:])
    with pytest.raises(DataError, match='disagree on the truth'): pair_predictions(preds, preds.assign(target=(preds.target+1) % 5))
    with pytest.raises(DataError, match='repeats'): pair_predictions(preds, pd.concat([preds, preds.head(1)]))
    with pytest.raises(DataError, match="no column 'image'"): pair_predictions(preds, preds.drop(columns='image'))

def test_delong_by_hand_and_against_the_bootstrap():
    auc, V = delong([1,1,0,0,0], [.8,.4,.6,.4,.1])
    assert auc[0] == pytest.approx(.75) and V[0,0] == pytest.approx(1/12)
    a, b = example_predictions(1500, seed=1), example_predictions(1500, seed=1, noise=.5)
    yes, sa, sb = a.target >= 2, probabilities(a)[:,2:].sum(1), probabilities(b)[:,2:].sum(1)
    t = delong_test(yes, sa, sb, patient=a.patient)
    r = compare_models(a, b, n_boot=1000).set_index(['score', 'test']).loc[('referable.auc', 'jackknife')]
    assert t['difference'] == pytest.approx(r.difference, abs=1e-12) and abs(t['low']-r.low) < .002 and abs(t['high']-r.high) < .002
    with pytest.raises(DataError, match='at least two patients'): delong([1,0,0], [.1,.2,.3])

def test_delong_p_values_are_uniform_when_nothing_differs():
    rng, p = np.random.default_rng(0), []
    for _ in range(400):
        yes, base = rng.random(200) < .3, rng.normal(size=200)
        p.append(delong_test(yes, base + yes + rng.normal(size=200), base + yes + rng.normal(size=200))['p'])
    assert .02 < np.mean(np.array(p) < .05) < .09

def test_two_matrices():
    d = example_predictions(200)
    worse = example_predictions(200, noise=.9)
    c = compare_confusion(worse, d, n_perm=500)
    assert (c['difference'] == confusion_matrix(d) - confusion_matrix(worse)).all() and c['p'].min() < .05 and c['difference'].sum() == 0
    back = compare_confusion(d, worse, n_perm=500)
    assert (back['difference'] == -c['difference']).all() and (back['p'] == c['p']).all()
    same = compare_confusion(d, d, n_perm=50)
    assert not same['difference'].any() and (same['p'] == 1).all()
    axs = plot_confusion_pair(worse, d, n_perm=200)
    assert len(axs) == 3 and any('*' in t.get_text() for t in axs[2].texts)

@pytest.mark.full
def test_stars_by_chance():
    "Under equality the chance of any star is at most 5%, with correlated eyes"
    base = example_predictions(200, seed=5)
    def again(seed):
        "An equally good model whose errors go together in both eyes of a patient"
        rng = np.random.default_rng(seed)
        out = base.copy()
        flip = np.repeat(rng.random(200) < .3, 2)
        out['grade'] = np.where(flip, (base.target + np.repeat(rng.integers(0, 5, 200), 2)) % 5, base.target)
        return out
    hits = [(compare_confusion(again(2*s), again(2*s+1), n_perm=400)['p'] < .05).any() for s in range(300)]
    assert np.mean(hits) < .085

@pytest.mark.parametrize('score', ['referable.ppv', 'referable.npv', 'per_class.2.precision', 'referable.sensitivity'])
def test_each_model_rests_on_its_own_patients(score):
    "The patients whom the second model refers were counted for the first too"
    a, b = example_predictions(150, seed=4), example_predictions(150, seed=4, noise=.9)
    keys = dict(scores=(score,), thresholds=(.7, .1))
    one, two = compare_models(a, b, **keys).iloc[0], compare_models(b, a, scores=(score,), thresholds=(.1, .7)).iloc[0]
    assert (one.low, one.high, one.p) == pytest.approx((-two.high, -two.low, two.p)) and one.difference == pytest.approx(-two.difference)

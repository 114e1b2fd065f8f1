"Ranks with ties and weights against scikit-learn; what is no score is refused"
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sk

from retina_nb.core import SettingError
from retina_nb.measure import Ranking, average_precision, brier_each, example_predictions, probabilities, roc_auc

def close(a, b): assert (np.isnan(a) and np.isnan(b)) or abs(a-b) < 1e-12, (a, b)

@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=60))
@settings(max_examples=70, deadline=None)
@pytest.mark.filterwarnings('ignore')
def test_ranks_with_ties_and_weights_agree_with_sklearn(rows):
    yes, score, w = (np.array(c) for c in zip(*rows))
    auc, ap = Ranking(yes, score).auc_ap(w[None].astype(np.int32))
    if w[yes].sum() and w[~yes].sum():
        close(auc[0], sk.roc_auc_score(yes, score, sample_weight=w))
        close(ap[0], sk.average_precision_score(yes, score, sample_weight=w))
    else: assert np.isnan(auc[0])

def test_weights_are_counts_of_copies():
    rng = np.random.default_rng(0)
    df = example_predictions(60, seed=1)
    yes, s, unit = (df.target >= 2).to_numpy(), probabilities(df)[:,2:].sum(1).round(2), np.repeat(np.arange(60), 2)
    W = rng.integers(0, 4, (20, 60)).astype(np.int32)
    auc, ap = Ranking(yes, s, unit).auc_ap(W)
    for i, w in enumerate(W):
        rows = np.repeat(np.arange(120), w[unit])
        close(auc[i], roc_auc(yes[rows], s[rows])); close(ap[i], average_precision(yes[rows], s[rows]))

def test_large_tables_do_not_overflow():
    n = 300_000
    rng = np.random.default_rng(0)
    yes, s = rng.random(n) < .5, rng.random(n)
    close(roc_auc(yes, s), sk.roc_auc_score(yes, s))

@pytest.mark.parametrize('f', [roc_auc, average_precision])
def test_what_is_no_score_is_refused(f):
    with pytest.raises(SettingError, match='place 1 holds nan'): f([0,1,1,0], [.1,np.nan,.3,.2])
    with pytest.raises(SettingError, match='truth has 2, score has 3'): f([0,1], [.1,.2,.3])
    with pytest.raises(SettingError, match='true labels has|target has'): brier_each([0,1], np.full((3,2), .5))

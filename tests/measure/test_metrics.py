"Scores against scikit-learn on tables of every shape, and properties that must hold for all of them"
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn import metrics as sk
from retina_nb.measure import metrics as m
from retina_nb.core import SettingError
from retina_nb.measure.predictions import example_predictions, prob_columns, probabilities

def tables(max_k=6, max_n=60):
    return st.integers(2, max_k).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.tuples(st.integers(0, k-1), st.integers(0, k-1)), min_size=1, max_size=max_n)))

def close(a, b): assert (np.isnan(a) and np.isnan(b)) or abs(a-b) < 1e-12, (a, b)

@given(tables())
@settings(max_examples=70, deadline=None)
@pytest.mark.filterwarnings('ignore')
def test_counts_agree_with_sklearn(x):
    k, pairs = x
    t, g = np.array(pairs).T
    labels = list(range(k))
    assert (m.count_matrix(t, g, k) == sk.confusion_matrix(t, g, labels=labels)).all()
    close(m.accuracy(t, g, k), sk.accuracy_score(t, g))
    close(m.balanced_accuracy(t, g, k), sk.recall_score(t, g, labels=np.unique(t), average='macro', zero_division=0))
    close(m.f1_macro(t, g, k), sk.f1_score(t, g, average='macro', zero_division=0))
    close(m.mae(t, g, k), sk.mean_absolute_error(t, g))
    if len(set(t) | set(g)) > 1:
        for ours, weights in ((m.kappa, None), (m.linear_kappa, 'linear'), (m.qwk, 'quadratic')):
            close(ours(t, g, k), sk.cohen_kappa_score(t, g, labels=labels, weights=weights))
    else: assert np.isnan(m.qwk(t, g, k))

def test_qwk_does_not_depend_on_the_number_of_unused_classes():
    t, g = [0,1,2,2,1], [0,2,2,1,1]
    assert m.qwk(t, g, 3) == pytest.approx(m.qwk(t, g, 9), abs=1e-15)

def test_constant_answers_earn_nothing():
    t = np.random.default_rng(0).integers(0, 5, 400)
    for c in range(5):
        assert m.qwk(t, np.full(400, c), 5) == 0 and m.kappa(t, np.full(400, c), 5) == pytest.approx(0, abs=1e-12)
        assert m.balanced_accuracy(t, np.full(400, c), 5) == pytest.approx(.2)

def test_labels_outside_the_task_are_refused():
    with pytest.raises(SettingError, match=r'0\.\.4'): m.count_matrix([0, 5], [0, 1], 5)
    with pytest.raises(SettingError): m.count_matrix([0, -1], [0, 1], 5)

@pytest.mark.parametrize('task', ['dr', 'oct', 'pneumonia', 'pneumonia_type'])
def test_examples_have_the_shape_of_their_task(task):
    from retina_nb.core import get_task
    df = example_predictions(200, task=task)
    assert len(prob_columns(df)) == len(get_task(task)) and np.allclose(probabilities(df).sum(1), 1)
    assert set(df.target) <= set(range(len(get_task(task)))) and (df.groupby('patient').size() == 2).all()
    with pytest.raises(SettingError, match='fractions'): example_predictions(5, task=task, prevalence=[.5])

@pytest.mark.parametrize('target, grade, words', [([1,2,3], [1], 'target has 3, grade has 1'), ([0,.5], [0,1], 'place 1 holds 0.5'), ([0,np.nan], [0,1], 'place 1 holds nan'),
                                                  ([0,None], [0,1], 'place 1 holds None'), (['0','x'], [0,1], 'whole numbers'), ([[0],[1]], [0,1], 'shape')])
def test_what_is_no_label_is_refused(target, grade, words):
    "A score of nonsense would look like any other score"
    for f in (m.qwk, m.accuracy, m.mae, m.count_matrix):
        with pytest.raises(SettingError, match=words): f(target, grade)

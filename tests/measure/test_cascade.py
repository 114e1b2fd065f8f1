"A cascade loses nobody silently, and is judged end to end"
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from retina_nb.core import DataError
from retina_nb.measure import (cascade_cost, cascade_losses, cascade_predictions, cascade_report, compare_cost, evaluate, example_predictions,
                               final_task, keep_labels, merge_labels, prob_columns, probabilities, write_evaluation)

def table(yes, score):
    "Stage one from truths and scores"
    score = np.asarray(score, float)
    return pd.DataFrame(dict(image=range(len(score)), patient=range(len(score)), target=np.asarray(yes, int), grade=(score >= .5).astype(int), p_0=1-score, p_1=score))

@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')

def test_cascade_by_hand():
    one = table([0,0,1,1,1], [.1,.6,.9,.8,.2])
    two = pd.DataFrame(dict(image=[1,2,3], target=[None,0,1], grade=[1,0,0]))
    d, task = cascade_predictions(one, two, .5), final_task('pneumonia', 'pneumonia_type')
    assert d.grade.tolist() == [0,2,1,1,0] and d.target.tolist()[:4] == [0,0,1,2] and pd.isna(d.target[4]), 'its kind is nowhere to be read'
    assert prob_columns(d) == []
    assert cascade_losses(d, task).to_dict('records')[0] == {'class': 'NORMAL', 'n': 2, 'lost_at_one': 0, 'wrong_at_two': 1, 'right': 1}
    r = cascade_report(d, task, n_boot=20)
    assert r['sensitivity']['value'] == 1 and r['specificity']['value'] == .5 and r['cost']['value'] == pytest.approx((1+2)/4)
    with pytest.raises(DataError, match='no prediction for 1'): cascade_predictions(one, two.iloc[1:], .5)

@given(st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_cascade_loses_nobody_silently(threshold):
    first = example_predictions(60, seed=2)
    second, grades = keep_labels(example_predictions(60, seed=2, noise=.2), (2,3,4))
    task = final_task('dr', grades)
    d = cascade_predictions(first, second, threshold, task1='dr', task2=grades)
    rows = cascade_losses(d, task)
    assert rows.n.sum() == len(first) and (rows.n == rows.lost_at_one + rows.wrong_at_two + rows.right).all()
    assert (d.grade > 0).equals(d.reached) and np.allclose(probabilities(d).sum(1), 1)
    assert (d.target > 0).tolist() == (first.target >= 2).tolist()

def test_a_cascade_is_a_table_like_any_other(tmp_path):
    first = example_predictions(80, seed=2)
    second, grades = keep_labels(first, (2,3,4))
    d, task = cascade_predictions(first, second, .2, task1='dr', task2=grades), final_task('dr', grades)
    s = evaluate(d, task, threshold=.2, n_boot=20)
    assert 'no referable DR' in s['classes'] and 'referable DR: sensitivity' in str(s)
    assert s['referable']['sensitivity']['value'] == pytest.approx((d.reached[d.target > 0]).mean())
    write_evaluation(s, d, tmp_path, task)
    assert (tmp_path/'figures'/'roc.png').is_file()

def test_ends_of_the_threshold():
    first = example_predictions(60, seed=2)
    second, grades = keep_labels(first, (2,3,4))
    task = final_task('dr', grades)
    everyone, nobody = (cascade_report(cascade_predictions(first, second, t, task1='dr', task2=grades), task, n_boot=10) for t in (0, 1.1))
    assert everyone['sensitivity']['value'] == 1 and everyone['specificity']['value'] == 0
    assert nobody['sensitivity']['value'] == 0 and nobody['specificity']['value'] == 1 and nobody['right_at_two']['value'] is None

def test_cost_against_a_single_model():
    first = example_predictions(100, seed=2)
    second, grades = keep_labels(first, (2,3,4))
    task, single = final_task('dr', grades), merge_labels(first, [(0,1), (2,), (3,), (4,)])
    same = compare_cost(single, single, task, n_boot=20)
    low, high = same['difference']['ci95']
    assert same['difference']['value'] == 0 and -.1 < low < 0 < high < .1
    free = compare_cost(single, cascade_predictions(first, second, .5, task1='dr', task2=grades), task, cost=np.zeros((4,4)), n_boot=20)
    assert free['b']['value'] == 0
    assert cascade_cost(task)[2,0] == 10 and cascade_cost(task)[0,3] == 1 and cascade_cost(task)[1,2] == 2

"Thresholds against every other threshold, scikit-learn and simulation; evaluations as files"
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import roc_curve

from retina_nb.core import DataError, SettingError
from retina_nb.disk import read_json, write_json
from retina_nb.measure import (PUBLISHED, choose_threshold, decisions, evaluate, example_predictions, probabilities, roc_points, store_decisions,
                               write_evaluation)

@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')

def table(yes, score):
    score = np.asarray(score, float)
    return pd.DataFrame(dict(image=range(len(score)), patient=range(len(score)), target=np.asarray(yes, int), grade=(score >= .5).astype(int), p_0=1-score, p_1=score))

def test_roc_is_sklearns():
    rng = np.random.default_rng(0)
    yes, score = rng.random(300) < .3, rng.random(300).round(2)
    fpr, tpr, thr = roc_curve(yes, score, drop_intermediate=False)
    r = roc_points(yes, score)
    assert np.allclose(1-r.specificity, fpr) and np.allclose(r.sensitivity, tpr) and np.allclose(r.threshold, thr)

@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=4, max_size=50), st.sampled_from(['sensitivity', 'specificity', 'cost_ratio']), st.floats(.05, 1))
@settings(max_examples=70, deadline=None)
def test_the_wish_is_fulfilled_and_nothing_better_exists(rows, wish, x):
    yes, score = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])/10
    if yes.all() or not yes.any():
        with pytest.raises(DataError): choose_threshold(table(yes, score), 'pneumonia', **{wish: x})
        return
    want = x if wish != 'cost_ratio' else 1/x
    t = choose_threshold(table(yes, score), 'pneumonia', **{wish: want})
    at = lambda thr: ((score[yes] >= thr).mean(), (score[~yes] < thr).mean())
    sens, spec = at(t['threshold'])
    assert (sens, spec) == pytest.approx((t['sensitivity'], t['specificity'])), 'the threshold gives what it says'
    every = [at(c) for c in np.append(np.unique(score), 2)]
    if wish == 'sensitivity': assert sens >= want-1e-9 and spec >= max(b for a, b in every if a >= want-1e-9) - 1e-9
    elif wish == 'specificity': assert spec >= want-1e-9 and sens >= max(a for a, b in every if b >= want-1e-9) - 1e-9
    else:
        cost = lambda a, b: want*(1-a)*yes.sum() + (1-b)*(~yes).sum()
        assert cost(sens, spec) <= min(cost(a, b) for a, b in every) + 1e-9

def test_assurance_lowers_the_threshold_and_needs_patients():
    d = example_predictions(600, seed=1)
    a, b = (choose_threshold(d, sensitivity=.9, assurance=x)['threshold'] for x in (None, .95))
    assert b < a
    with pytest.raises(DataError, match='at least 299 patients'): choose_threshold(d.head(40), sensitivity=.99, assurance=.95)
    with pytest.raises(SettingError, match='one of'): choose_threshold(d, sensitivity=.9, cost_ratio=3)

@pytest.mark.full
def test_assurance_is_kept():
    world = example_predictions(150_000, seed=7)
    seen = probabilities(world)[:,2:].sum(1)[(world.target >= 2).to_numpy()]
    kept = [(seen >= choose_threshold(example_predictions(400, seed=s), sensitivity=.9, assurance=.95)['threshold']).mean() >= .9 for s in range(400)]
    assert np.mean(kept) >= .95 - 2*.011

def test_published_points_carry_their_source():
    for p in PUBLISHED: assert 0 < p['sensitivity'] < 1 and 0 < p['specificity'] < 1 and 'doi:' in p['source']

def test_evaluation_as_files(tmp_path):
    d = example_predictions(80)
    s = evaluate(d, n_boot=30)
    out = write_evaluation(s, d, tmp_path/'e')
    assert {f.name for f in (out/'figures').iterdir()} == {f'{n}.png' for n in ('confusion', 'confusion_normalised', 'flow', 'roc', 'reliability', 'net_benefit', 'risk_coverage')}
    assert read_json(out/'metrics.json') == dict(s) and len(pd.read_csv(out/'predictions.csv')) == 160 and not plt.get_fignums()

@pytest.mark.parametrize('task', ['oct', 'pneumonia', 'pneumonia_type'])
def test_evaluation_of_other_tasks_as_files(task, tmp_path):
    d = example_predictions(60, task=task)
    write_evaluation(evaluate(d, n_boot=10), d, tmp_path)
    assert (tmp_path/'figures'/'roc.png').is_file()

def test_evaluation_of_odd_tables_as_files(tmp_path):
    d = example_predictions(60)
    for name, x in dict(bare=d[['target', 'grade']], healthy=d[d.target == 0]).items():
        write_evaluation(evaluate(x, 'dr', n_boot=10), x, tmp_path/name, 'dr')
        assert (tmp_path/name/'metrics.json').is_file()

def test_decisions_are_stored_with_the_run(tmp_path):
    write_json(tmp_path/'config.json', dict(task='dr', arch='x'))
    example_predictions(200, seed=1).to_csv(tmp_path/'predictions_valid.csv', index=False)
    found = store_decisions(tmp_path, sensitivity=.95)
    config = read_json(tmp_path/'config.json')
    assert config['arch'] == 'x' and config['operating_point'] == found['operating_point'] and config['operating_point']['target_sensitivity'] == .95
    assert config['calibration']['temperature'] > 0
    assert 'operating_point' not in decisions(example_predictions(60, prevalence=[1,1,0,0,0]))

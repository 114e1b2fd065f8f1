"Calibration, thresholds, abstention and conformal sets against hand-worked cases, scikit-learn and simulation; cascades"
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import brier_score_loss, roc_curve

from retina_nb.measure import operating as op
from retina_nb.measure.cascade import cascade, cascade_cost, cascade_losses, cascade_report, collapse, compare_cost, final_task, restrict
from retina_nb.core import DataError, SettingError, read_json, write_json, get_task
from retina_nb.measure.evaluation import evaluate
from retina_nb.measure.metrics import brier_each, example_predictions, prob_columns, probs

@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')

def table(yes, score):
    score = np.asarray(score, float)
    return pd.DataFrame(dict(image=range(len(score)), patient=range(len(score)), target=np.asarray(yes, int), grade=(score >= .5).astype(int), p_0=1-score, p_1=score))

# ------------------------------------------------------------------------------------------------ calibration
def test_reliability_adds_up():
    d = example_predictions(300)
    r = op.reliability(d)
    assert r.n.sum() == 600 and (r.n*r.observed).sum() == pytest.approx((d.target >= 2).sum()) and ((r.low <= r.observed) & (r.observed <= r.high)).all()

def test_brier_of_two_classes_is_twice_sklearns():
    d = example_predictions(100, task='pneumonia')
    assert brier_each(d.target, probs(d)).mean() == pytest.approx(2*brier_score_loss(d.target, d.p_1), abs=1e-12)

def test_a_calibrated_model_shows_what_it_should():
    e = [op.ece(example_predictions(400, seed=s), n_boot=10) for s in range(12)]
    assert np.mean([x['value'] for x in e]) < np.mean([x['if_calibrated']['high'] for x in e])
    bad = op.ece(example_predictions(400, seed=0, sharpness=3))
    assert bad['value'] > 2*bad['if_calibrated']['high'] and bad['ci95'][0] > bad['if_calibrated']['high']

@pytest.mark.parametrize('sharpness', [.5, 1, 3])
def test_temperature_finds_the_truth(sharpness):
    assert op.fit_temperature(example_predictions(2000, sharpness=sharpness))['temperature'] == pytest.approx(sharpness, rel=.08)

def test_temperature_survives_certainty_and_keeps_grades():
    d = example_predictions(200)
    hard = d.assign(**{c: (d.grade == j).astype(float) for j, c in enumerate(prob_columns(d))})
    f = op.fit_temperature(hard)
    soft = op.apply_temperature(hard, f['temperature'])
    assert np.isfinite(f['log_loss_after']) and (probs(soft).argmax(1) == d.grade).all() and np.allclose(probs(soft).sum(1), 1)

@pytest.mark.parametrize('f', [op.reliability, op.ece, op.fit_temperature, op.choose_threshold, op.risk_coverage, op.plot_roc])
def test_probabilities_are_needed_and_asked_for(f):
    with pytest.raises(DataError, match='p_0 to p_4'): f(example_predictions(20)[['image', 'patient', 'target', 'grade']])

# ------------------------------------------------------------------------------------------------ thresholds
def test_roc_is_sklearns():
    rng = np.random.default_rng(0)
    yes, score = rng.random(300) < .3, rng.random(300).round(2)
    fpr, tpr, thr = roc_curve(yes, score, drop_intermediate=False)
    r = op.roc_points(yes, score)
    assert np.allclose(1-r.specificity, fpr) and np.allclose(r.sensitivity, tpr) and np.allclose(r.threshold, thr)

@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=4, max_size=50), st.sampled_from(['sensitivity', 'specificity', 'cost_ratio']), st.floats(.05, 1))
@settings(max_examples=70, deadline=None)
def test_the_wish_is_fulfilled_and_nothing_better_exists(rows, wish, x):
    yes, score = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])/10
    if yes.all() or not yes.any():
        with pytest.raises(DataError): op.choose_threshold(table(yes, score), 'pneumonia', **{wish: x})
        return
    want = x if wish != 'cost_ratio' else 1/x
    t = op.choose_threshold(table(yes, score), 'pneumonia', **{wish: want})
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
    a, b = (op.choose_threshold(d, sensitivity=.9, assurance=x)['threshold'] for x in (None, .95))
    assert b < a
    with pytest.raises(DataError, match='at least 299 patients'): op.choose_threshold(d.head(40), sensitivity=.99, assurance=.95)
    with pytest.raises(SettingError, match='one of'): op.choose_threshold(d, sensitivity=.9, cost_ratio=3)

@pytest.mark.full
def test_assurance_is_kept():
    world = example_predictions(150_000, seed=7)
    seen = probs(world)[:,2:].sum(1)[(world.target >= 2).to_numpy()]
    kept = [(seen >= op.choose_threshold(example_predictions(400, seed=s), sensitivity=.9, assurance=.95)['threshold']).mean() >= .9 for s in range(400)]
    assert np.mean(kept) >= .95 - 2*.011

def test_published_points_carry_their_source():
    for p in op.PUBLISHED: assert 0 < p['sensitivity'] < 1 and 0 < p['specificity'] < 1 and 'doi:' in p['source']

# ------------------------------------------------------------------------------------------------ abstention, conformal
def test_risk_coverage_ends_at_the_error_rate():
    d = example_predictions(200)
    r = op.risk_coverage(d)
    assert r.risk.iloc[-1] == pytest.approx((d.target != d.grade).mean()) and r.coverage.iloc[-1] == 1 and r.coverage.is_monotonic_increasing
    assert r.attrs['aurc_best'] <= r.attrs['aurc'] < r.attrs['risk_all']
    flat = op.risk_coverage(d, confidence=np.ones(len(d)))
    assert len(flat) == 1 and flat.attrs['aurc'] == pytest.approx(r.attrs['risk_all'])

def conformal_coverage(draws, n, level, **kw):
    out = []
    for s in range(draws):
        valid, test = (example_predictions(n, seed=2*s+i, sharpness=3) for i in (0, 1))
        sets = op.ConformalSets(valid, level=level, **kw)(test)
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
    with pytest.raises(DataError, match='need 99 validation patients; there are 50'): op.ConformalSets(d.head(100), level=.99)
    with pytest.raises(DataError, match='of each class'): op.ConformalSets(d, level=.9, by_class=True)
    assert op.ConformalSets(d, level=.3)(d).any(1).all()
    assert (op.ConformalSets(d, level=.9)(d) <= op.ConformalSets(d, level=.95)(d)).all(), 'a higher level only adds'

# ------------------------------------------------------------------------------------------------ files
def test_evaluation_as_files(tmp_path):
    d = example_predictions(80)
    s = evaluate(d, n_boot=30)
    out = op.write_evaluation(s, d, tmp_path/'e')
    assert {f.name for f in (out/'figures').iterdir()} == {f'{n}.png' for n in ('confusion', 'confusion_normalised', 'roc', 'reliability', 'risk_coverage')}
    assert read_json(out/'metrics.json') == dict(s) and len(pd.read_csv(out/'predictions.csv')) == 160 and not plt.get_fignums()

@pytest.mark.parametrize('task', ['oct', 'pneumonia', 'pneumonia_type'])
def test_evaluation_of_other_tasks_as_files(task, tmp_path):
    d = example_predictions(60, task=task)
    op.write_evaluation(evaluate(d, n_boot=10), d, tmp_path)
    assert (tmp_path/'figures'/'roc.png').is_file()

def test_evaluation_of_odd_tables_as_files(tmp_path):
    d = example_predictions(60)
    for name, x in dict(bare=d[['target', 'grade']], healthy=d[d.target == 0]).items():
        op.write_evaluation(evaluate(x, 'dr', n_boot=10), x, tmp_path/name, 'dr')
        assert (tmp_path/name/'metrics.json').is_file()

def test_decisions_are_stored_with_the_run(tmp_path):
    write_json(tmp_path/'config.json', dict(task='dr', arch='x'))
    example_predictions(200, seed=1).to_csv(tmp_path/'predictions_valid.csv', index=False)
    found = op.store_decisions(tmp_path, sensitivity=.95)
    config = read_json(tmp_path/'config.json')
    assert config['arch'] == 'x' and config['operating_point'] == found['operating_point'] and config['operating_point']['target_sensitivity'] == .95
    assert config['calibration']['temperature'] > 0
    assert 'operating_point' not in op.decisions(example_predictions(60, prevalence=[1,1,0,0,0]))

# ------------------------------------------------------------------------------------------------ cascades
def test_cascade_by_hand():
    one = table([0,0,1,1,1], [.1,.6,.9,.8,.2])
    two = pd.DataFrame(dict(image=[1,2,3], target=[None,0,1], grade=[1,0,0]))
    d, task = cascade(one, two, .5), final_task('pneumonia', 'pneumonia_type')
    assert d.grade.tolist() == [0,2,1,1,0] and d.target.tolist()[:4] == [0,0,1,2] and pd.isna(d.target[4]), 'its kind is nowhere to be read'
    assert prob_columns(d) == []
    assert cascade_losses(d, task).to_dict('records')[0] == {'class': 'NORMAL', 'n': 2, 'lost_at_one': 0, 'wrong_at_two': 1, 'right': 1}
    r = cascade_report(d, task, n_boot=20)
    assert r['sensitivity']['value'] == 1 and r['specificity']['value'] == .5 and r['cost']['value'] == pytest.approx((1+2)/4)
    with pytest.raises(DataError, match='no prediction for 1'): cascade(one, two.iloc[1:], .5)

@given(st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_cascade_loses_nobody_silently(threshold):
    first = example_predictions(60, seed=2)
    second, grades = restrict(example_predictions(60, seed=2, noise=.2), (2,3,4))
    task = final_task('dr', grades)
    d = cascade(first, second, threshold, 'dr', grades)
    rows = cascade_losses(d, task)
    assert rows.n.sum() == len(first) and (rows.n == rows.lost_at_one + rows.wrong_at_two + rows.right).all()
    assert (d.grade > 0).equals(d.reached) and np.allclose(probs(d).sum(1), 1)
    assert (d.target > 0).tolist() == (first.target >= 2).tolist()

def test_a_cascade_is_a_table_like_any_other(tmp_path):
    first = example_predictions(80, seed=2)
    second, grades = restrict(first, (2,3,4))
    d, task = cascade(first, second, .2, 'dr', grades), final_task('dr', grades)
    s = evaluate(d, task, threshold=.2, n_boot=20)
    assert 'no referable DR' in s['classes'] and 'referable DR: sensitivity' in str(s)
    assert s['referable']['sensitivity']['value'] == pytest.approx((d.reached[d.target > 0]).mean())
    op.write_evaluation(s, d, tmp_path, task)
    assert (tmp_path/'figures'/'roc.png').is_file()

def test_ends_of_the_threshold():
    first = example_predictions(60, seed=2)
    second, grades = restrict(first, (2,3,4))
    task = final_task('dr', grades)
    everyone, nobody = (cascade_report(cascade(first, second, t, 'dr', grades), task, n_boot=10) for t in (0, 1.1))
    assert everyone['sensitivity']['value'] == 1 and everyone['specificity']['value'] == 0
    assert nobody['sensitivity']['value'] == 0 and nobody['specificity']['value'] == 1 and nobody['right_at_two']['value'] is None

def test_cost_against_a_single_model():
    first = example_predictions(100, seed=2)
    second, grades = restrict(first, (2,3,4))
    task, single = final_task('dr', grades), collapse(first, [(0,1), (2,), (3,), (4,)])
    same = compare_cost(single, single, task, n_boot=20)
    assert same['difference']['value'] == 0 and same['difference']['ci95'] == [0, 0]
    free = compare_cost(single, cascade(first, second, .5, 'dr', grades), task, cost=np.zeros((4,4)), n_boot=20)
    assert free['b']['value'] == 0
    assert cascade_cost(task)[2,0] == 10 and cascade_cost(task)[0,3] == 1 and cascade_cost(task)[1,2] == 2

"Foreign tables, absent classes, one row, one patient: figures or null, and what was left out is said"
import copy, json, pickle

import numpy as np
import pandas as pd
import pytest

from retina_nb.core import Run, Task
from retina_nb.disk import read_json, write_json
from retina_nb.measure import (Condition, Scores, compare_models, evaluate, example_predictions, prob_columns, promote, qwk, subgroup_scores)

@pytest.fixture(scope='module')
def preds(): return example_predictions(150, seed=3)

def test_a_table_from_elsewhere(tmp_path):
    "Made with scikit-learn only"
    from sklearn.datasets import make_classification
    from sklearn.linear_model import LogisticRegression
    X, y = make_classification(900, n_classes=5, n_informative=8, random_state=0)
    p = LogisticRegression(max_iter=500).fit(X[:600], y[:600]).predict_proba(X[600:])
    pd.DataFrame(dict(target=y[600:], grade=p.argmax(1), **{f'p_{j}': p[:,j].round(3) for j in range(5)})).to_csv(tmp_path/'p.csv', index=False)
    s = evaluate(tmp_path/'p.csv', n_boot=200)
    assert s['n_patients'] is None and s['intervals']['unit'] == 'image' and any('patient' in x for x in s['left_out'])
    assert s['macro_auc']['value'] > .6 and json.loads(json.dumps(s)) == s

def test_a_table_from_elsewhere_by_the_command(command, tmp_path):
    "Handwritten digits 0 to 4 by logistic regression, standing for grades: a CSV that this package has had no part in"
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    X, y = load_digits(n_class=5, return_X_y=True)
    p = LogisticRegression(max_iter=200).fit(X[::2], y[::2]).predict_proba(X[1::2])
    table = pd.DataFrame(p, columns=[f'p_{j}' for j in range(5)]).assign(target=y[1::2], grade=p.argmax(1))
    table.to_csv(tmp_path/'theirs.csv', index=False)
    done = command('retina_evaluate', tmp_path/'theirs.csv', '--n_boot', 100)
    assert done.returncode == 0, done.stderr
    m = json.loads((tmp_path/'eval'/'theirs'/'metrics.json').read_text())
    assert m['accuracy']['value'] == pytest.approx((table.target == table.grade).mean()) and m['n_patients'] is None
    assert (tmp_path/'eval'/'theirs'/'figures'/'roc.png').is_file()

def test_a_rare_class_is_one_short_warning():
    d = example_predictions(40, seed=1)
    d = d.assign(target=d.target.where(d.index > 3, 4), hospital='A')
    w = [x for x in evaluate(d, n_boot=100, method='bca')['warnings'] if 'resamples' in x]
    assert len(w) == 1 and len(w[0]) < 200 and 'class 4' in w[0]

def test_shape_of_the_result(preds):
    s = evaluate(preds, n_boot=300)
    for k in ('accuracy', 'balanced_accuracy', 'qwk', 'macro_auc', 'f1_macro'):
        lo, hi = s[k]['ci95']
        assert lo <= s[k]['value'] <= hi
    for k in ('auc', 'sensitivity', 'specificity'): assert len(s['referable'][k]['ci95']) == 2
    assert s['referable']['threshold'] == .5 and s['n_images'] == 300 and s['n_patients'] == 150 and s['task'] == 'dr' and s['seed'] == 42
    assert np.sum(s['confusion']) == 300 and set(s['majority']) == {'accuracy', 'balanced_accuracy', 'qwk', 'grade'}
    assert s['qwk']['value'] == pytest.approx(qwk(preds.target, preds.grade), abs=1e-12)
    assert 'not for diagnosis' in str(s) and 'majority' in str(s) and '<table>' in s._repr_html_()
    assert json.loads(json.dumps(s)) == s

def test_scores_as_attributes_and_as_a_table(preds, tmp_path):
    s = evaluate(preds, n_boot=50)
    assert s.qwk.value == s['qwk']['value'] and s.referable.auc.ci95 == s['referable']['auc']['ci95'] and s.per_class[1].name == 'Mild'
    assert {'qwk', 'referable', 'to_frame'} <= set(dir(s)) and 'auc' in dir(s.referable)
    with pytest.raises(AttributeError, match="no 'auc' here; there are .*qwk"): _ = s.auc
    with pytest.raises(AttributeError, match='there are value, ci95'): _ = s.qwk.low
    assert not hasattr(s, '_repr_latex_') and copy.deepcopy(s) == s == pickle.loads(pickle.dumps(s)) and type(copy.copy(s)) is Scores
    f = s.to_frame()
    assert f.columns.tolist() == ['value', 'low', 'high', 'majority'] and f.loc['qwk', 'value'] == s.qwk.value and f.loc['qwk', 'majority'] == 0
    assert {'referable.auc', 'vision_threatening.sensitivity', 'per_class.4.f1', 'mae', 'adjacent_accuracy'} <= set(f.index) and f.index.is_unique
    write_json(tmp_path/'metrics.json', s)
    again = Scores(read_json(tmp_path/'metrics.json'))
    assert again == s and str(again) == str(s) and again.to_frame().equals(f)

@pytest.mark.parametrize('task', ['oct', 'pneumonia', 'pneumonia_type'])
def test_other_tasks(task):
    s = evaluate(example_predictions(150, task=task), n_boot=100)
    assert s['task'] == task and (s['qwk']['value'] is None) == (task == 'oct') and str(s)

def test_a_task_of_ones_own(tmp_path):
    own = Task(name='glaucoma_of_a_test', classes=('healthy', 'glaucoma'), positive=(1,), positive_name='glaucoma', title='Glaucoma')
    d = example_predictions(60, task=own)
    s = evaluate(d, n_boot=20)
    assert (s.task, s.title, s.positive_name) == ('glaucoma_of_a_test', 'Glaucoma', 'glaucoma') and s.referable.auc.value > .5
    d.to_csv(tmp_path/'p.csv', index=False)
    assert evaluate(tmp_path/'p.csv', n_boot=20) == s
    write_json(tmp_path/'task.json', own.to_dict())
    assert evaluate(d.drop(columns='task'), tmp_path/'task.json', n_boot=20).qwk == s.qwk

def test_missing_columns_are_left_out_and_said(preds):
    s = evaluate(preds[['image', 'patient', 'target', 'grade']], n_boot=50)
    assert 'macro_auc' not in s and 'auc' not in s['referable'] and any('p_0 to p_4' in x for x in s['left_out'])
    assert s['referable']['threshold'] is None and s['referable']['sensitivity']['value'] is not None

def test_absent_class_gives_null_and_a_warning(preds):
    s = evaluate(preds[preds.target != 3], n_boot=50)
    assert s['macro_auc'] == dict(value=None, ci95=[None, None]) and any('3 (Severe)' in x for x in s['warnings'])
    assert s['per_class'][3]['sensitivity']['value'] is None and s['qwk']['value'] is not None
    one = evaluate(preds[preds.target == 0].assign(grade=0), n_boot=50)
    assert one['qwk']['value'] is None and one['referable']['auc']['value'] is None and str(one)

def test_unknown_targets_are_counted_not_scored(preds):
    d = preds.copy()
    d['target'] = d['target'].astype('Int64'); d.loc[:9, 'target'] = pd.NA
    s = evaluate(d, n_boot=50)
    assert s['n_images'] == 290 and any('10 images without a target' in w for w in s['warnings'])

def test_one_row_and_one_patient(preds):
    s = evaluate(preds.head(1), n_boot=20)
    assert s['n_images'] == 1 and str(s)
    assert evaluate(preds.head(2), n_boot=20)['n_patients'] == 1

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('seed', range(12))
def test_tiny_tables_of_every_task_give_figures_or_null_without_a_murmur(seed):
    d = example_predictions(1 + seed % 6, seed=seed, task=['dr', 'oct', 'pneumonia', 'pneumonia_type'][seed % 4], noise=[.05, .3, 2][seed % 3])
    if seed % 5 == 0: d = d.drop(columns=prob_columns(d))
    s = evaluate(d, n_boot=30)
    json.dumps(s, allow_nan=False)
    assert str(s) and not promote(d, [Condition('qwk', at_least=1.1)], n_boot=20)
    promote(d, n_boot=20); subgroup_scores(d, 'hospital', n_boot=20); compare_models(d, d, n_boot=20)

def test_row_order_and_names_of_patients_do_not_matter(preds):
    a, b = (evaluate(d, n_boot=20) for d in (preds, preds.sample(frac=1, random_state=0).assign(patient=lambda d: 'x'+d.patient)))
    for k in ('qwk', 'accuracy', 'macro_auc', 'brier'): assert a[k]['value'] == pytest.approx(b[k]['value'], abs=1e-12)

def test_a_run_brings_its_threshold(preds, tmp_path):
    preds.to_csv(tmp_path/'predictions.csv', index=False)
    write_json(tmp_path/'config.json', dict(task='dr', operating_point=dict(threshold=.2)))
    for what in (Run(tmp_path), tmp_path, str(tmp_path)):
        r = evaluate(what, n_boot=20)['referable']
        assert (r['threshold'], r['threshold_from']) == (.2, 'chosen on validation')
    assert evaluate(tmp_path, threshold=.7, n_boot=20)['referable']['threshold'] == .7

@pytest.mark.parametrize('method', ['bca', 'percentile'])
def test_the_note_names_what_made_each_interval(method):
    "One positive patient in many: its sensitivity has no bootstrap interval, whatever was asked for"
    d = example_predictions(100, seed=2)
    few = d[(d.target < 2) | d.patient.isin(d.patient[d.target >= 2].unique()[:4])]
    s = evaluate(few, n_boot=200, method=method)
    by, sens = s['intervals']['by_score'], s['referable']['sensitivity']
    assert by['referable.sensitivity'] in ('share', 'exact') and by['accuracy'] == method and by['referable.auc'] == 'none'
    assert sens == evaluate(few, n_boot=200)['referable']['sensitivity'] and s['referable']['auc']['ci95'] == [None, None]
    whole = evaluate(few, n_boot=200)
    for name in ('referable.ppv', 'per_class.4.precision', 'per_class.0.sensitivity'):
        at = s.to_frame().loc[name], whole.to_frame().loc[name]
        if by.get(name) in ('share', 'exact'): assert at[0].equals(at[1]), name

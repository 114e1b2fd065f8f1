"Foreign tables, missing columns and absent classes; intervals that hold; paired comparison and DeLong"
import json

import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError, Run, RunError, get_task, write_json
from retina_nb.measure.evaluation import (check_predictions, evaluate, interval, pair, patient_codes, read_predictions, resample,
                                statistics)
from retina_nb.measure.metrics import example_predictions, prob_columns, probs, qwk
from retina_nb.measure.compare_models import compare_models, delong, delong_test, promote, subgroups

@pytest.fixture(scope='module')
def preds(): return example_predictions(150, seed=3)

BAD = {'target 7': ('target', 7, 'target is 7'), 'target 1.5': ('target', 1.5, 'whole number'), 'target in words': ('target', 'Mild', "'Mild'"),
       'negative target': ('target', -1, 'target is -1'), 'no grade': ('grade', None, 'grade is empty'), 'grade 5': ('grade', 5, 'grade is 5'),
       'probability over 1': ('p_2', 1.2, 'p_2 is outside'), 'negative probability': ('p_0', -.1, 'p_0 is outside'),
       'probability missing': ('p_1', None, 'p_1 is missing'), 'probability in words': ('p_1', 'high', 'p_1 is missing or not a number'),
       'infinite': ('p_3', float('inf'), 'p_3 is outside'), 'sum': ('p_0', .01, 'add up to')}

@pytest.mark.parametrize('case', BAD)
def test_bad_rows_of_a_file_are_named(case, preds, tmp_path):
    col, value, words = BAD[case]
    d = preds.head(20).astype({col: object})
    d.loc[d.index[7], col] = value
    if case == 'sum': d.loc[d.index[7], 'p_0'] = (preds.p_0[7] + .5) % 1
    d.to_csv(tmp_path/'p.csv', index=False)
    with pytest.raises(DataError) as e: read_predictions(tmp_path/'p.csv')
    assert words in str(e.value) and 'line 9' in str(e.value) and 'p.csv' in str(e.value) and preds.image[7] in str(e.value)

@pytest.mark.parametrize('text, words', [('', 'not readable'), ('image,grade\na,1\n', "no column 'target'"), ('image,target\na,1\n', "no column 'grade'"),
                                         ('target,grade\n', 'empty'), ('target,grade\n,1\n', 'no row has a target'), ('target,grade,p_0\n1,1,1\n', 'p_0 to p_4'),
                                         ('image,target,grade\na,1,1\nb,1,1\na,2,1\n', 'line 4 (a): the image is already in line 2')])
def test_bad_files(text, words, tmp_path):
    (tmp_path/'p.csv').write_text(text)
    with pytest.raises(DataError, match=words.replace('(', r'\(').replace(')', r'\)')): read_predictions(tmp_path/'p.csv')

def test_what_is_no_table_at_all(tmp_path):
    (tmp_path/'p.csv').write_bytes(bytes(range(256))*20)
    for f in (tmp_path/'p.csv', tmp_path/'none.csv'):
        with pytest.raises(DataError, match=f.name): evaluate(f)
    (tmp_path/'folder').mkdir()
    with pytest.raises(RunError, match='not a run folder'): evaluate(tmp_path/'folder')

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

def test_predictions_in_every_form(preds, tmp_path):
    from retina_nb.measure.confusion import confusion_matrix, plot_confusion
    from retina_nb.measure.operating import choose_threshold
    write_json(tmp_path/'run'/'config.json', dict(task='dr')); preds.to_csv(tmp_path/'run'/'predictions.csv', index=False)
    want = confusion_matrix(preds)
    for form in (tmp_path/'run', str(tmp_path/'run'), Run(tmp_path/'run'), tmp_path/'run'/'predictions.csv'):
        assert (confusion_matrix(form) == want).all()
        assert choose_threshold(form)['threshold'] == choose_threshold(preds)['threshold']
    assert plot_confusion(str(tmp_path/'run')) is not None
    assert promote(form, n_boot=50)['n_images'] == len(preds) and len(subgroups(form, 'eye', n_boot=20)) and len(compare_models(form, preds, n_boot=20))
    for f in (evaluate, confusion_matrix, plot_confusion, choose_threshold):
        with pytest.raises(RunError, match='no such run folder'): f('runs/nope')
        with pytest.raises(DataError, match='no such file'): f('nope.csv')
        with pytest.raises(DataError, match='not int'): f(3)
    (tmp_path/'run'/'predictions.csv').unlink()
    for f in (evaluate, confusion_matrix):
        with pytest.raises(RunError, match='--resume'): f(tmp_path/'run')

def test_a_rare_class_is_one_short_warning():
    d = example_predictions(40, seed=1)
    d = d.assign(target=d.target.where(d.index > 3, 4), hospital='A')
    w = [x for x in evaluate(d, n_boot=100)['warnings'] if 'resamples' in x]
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

@pytest.mark.parametrize('task', ['oct', 'pneumonia', 'pneumonia_type'])
def test_other_tasks(task):
    s = evaluate(example_predictions(150, task=task), n_boot=100)
    assert s['task'] == task and (s['qwk']['value'] is None) == (task == 'oct') and str(s)

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

def test_empty_patients_are_patients_of_their_own(preds):
    d = preds.copy(); d.loc[:3, 'patient'] = None
    assert patient_codes(d)[1] == 148 + 4 and patient_codes(preds)[1] == 150
    assert any('4 images without a patient' in w for w in evaluate(d, n_boot=50)['warnings'])

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
    assert str(s) and not promote(d, [dict(score='qwk', at_least=1.1)], n_boot=20)
    promote(d, n_boot=20); subgroups(d, 'hospital', n_boot=20); compare_models(d, d, n_boot=20)

def test_row_order_and_names_of_patients_do_not_matter(preds):
    a, b = (evaluate(d, n_boot=20) for d in (preds, preds.sample(frac=1, random_state=0).assign(patient=lambda d: 'x'+d.patient)))
    for k in ('qwk', 'accuracy', 'macro_auc', 'brier'): assert a[k]['value'] == pytest.approx(b[k]['value'], abs=1e-12)

def test_same_seed_same_intervals_whatever_the_block_size(preds):
    unit, n, _ = patient_codes(preds)
    stats = lambda: statistics(preds, 'dr', dict(referable=.5, vision_threatening=.5))[0]
    a, b = (resample(stats(), n, 60, 1, images) for images in (300, 2**20))
    for k in a: assert np.allclose(a[k][2], b[k][2], 1e-9, 1e-12, equal_nan=True) and np.allclose(a[k][1], b[k][1], 1e-9, 1e-12, equal_nan=True)

def test_a_run_brings_its_threshold(preds, tmp_path):
    preds.to_csv(tmp_path/'predictions.csv', index=False)
    write_json(tmp_path/'config.json', dict(task='dr', operating_point=dict(threshold=.2)))
    for what in (Run(tmp_path), tmp_path, str(tmp_path)):
        r = evaluate(what, n_boot=20)['referable']
        assert (r['threshold'], r['threshold_from']) == (.2, 'chosen on validation')
    assert evaluate(tmp_path, threshold=.7, n_boot=20)['referable']['threshold'] == .7

def test_tables_that_do_not_pair(preds):
    with pytest.raises(DataError, match='1 images are in one table only'): pair(preds, preds.iloc[1:])
    with pytest.raises(DataError, match='disagree on the truth'): pair(preds, preds.assign(target=(preds.target+1) % 5))
    with pytest.raises(DataError, match='repeats'): pair(preds, pd.concat([preds, preds.head(1)]))
    with pytest.raises(DataError, match="no column 'image'"): pair(preds, preds.drop(columns='image'))

def test_delong_by_hand_and_against_the_bootstrap():
    auc, V = delong([1,1,0,0,0], [.8,.4,.6,.4,.1])
    assert auc[0] == pytest.approx(.75) and V[0,0] == pytest.approx(1/12)
    a, b = example_predictions(1500, seed=1), example_predictions(1500, seed=1, noise=.5)
    yes, sa, sb = a.target >= 2, probs(a)[:,2:].sum(1), probs(b)[:,2:].sum(1)
    t = delong_test(yes, sa, sb, a.patient)
    r = compare_models(a, b, n_boot=1000).set_index(['score', 'test']).loc[('referable.auc', 'bootstrap')]
    assert t['difference'] == pytest.approx(r.difference, abs=1e-12) and abs(t['low']-r.low) < .002 and abs(t['high']-r.high) < .002
    with pytest.raises(DataError, match='at least two patients'): delong([1,0,0], [.1,.2,.3])

def test_delong_p_values_are_uniform_when_nothing_differs():
    rng, p = np.random.default_rng(0), []
    for _ in range(400):
        yes, base = rng.random(200) < .3, rng.normal(size=200)
        p.append(delong_test(yes, base + yes + rng.normal(size=200), base + yes + rng.normal(size=200))['p'])
    assert .02 < np.mean(np.array(p) < .05) < .09

def test_subgroups_partition_and_mark_the_small(preds):
    t = subgroups(preds, 'hospital', scores=('accuracy',), n_boot=50)
    assert t[t.tag == 'hospital'].n_images.sum() == len(preds) and set(t.group) >= {'all', 'A', 'B'}
    assert (t.small == (t.rests_on < 20)).all()
    gap = preds.copy(); gap.loc[:9, 'hospital'] = None
    assert '(missing)' in set(subgroups(gap, 'hospital', scores=('accuracy',), n_boot=10).group)

def test_the_gate_stays_shut():
    d = example_predictions(300, seed=4)
    rng = np.random.default_rng(0)
    majority = d.assign(grade=0, **{c: float(c == 'p_0') for c in prob_columns(d)})
    for bad in [majority] + [d.assign(**{c: d[c].to_numpy()[o] for c in ['grade'] + prob_columns(d)}) for o in (rng.permutation(len(d)) for _ in range(5))]:
        assert not promote(bad, n_boot=200)
    for score in ('qwk', 'balanced_accuracy'): assert not promote(majority, [dict(score=score, above='majority')], n_boot=200)

def test_one_comparison_alone_lets_few_shuffled_models_pass():
    "A one-sided 2.5% test, and a gate has several of them"
    d, rng = example_predictions(300, seed=4), np.random.default_rng(0)
    passed = [bool(promote(d.assign(grade=d.grade.to_numpy()[rng.permutation(len(d))])[['patient', 'target', 'grade']], [dict(score='qwk', above='majority')], n_boot=200)) for _ in range(80)]
    assert np.mean(passed) < .09

# ------------------------------------------------------------------------------------------------ coverage
def coverage(n_patients, sims, n_boot, scores, method='bca', n_truth=300_000):
    "How often the interval of each score holds its true value, known from a very large table"
    thr = dict(referable=.5, vision_threatening=.5)
    def run(df, n_boot, seed):
        n = patient_codes(df)[1]
        return resample(statistics(df, 'dr', thr)[0], n, n_boot, seed, len(df))
    truth = {k: v[0] for k, v in run(example_predictions(n_truth, seed=999), 1, 0).items()}
    held = {k: [] for k in scores}
    for s in range(sims):
        got = run(example_predictions(n_patients, seed=s), n_boot, s)
        for k in scores:
            lo, hi = interval(got[k][0], got[k][2], got[k][1], method)
            held[k].append(lo <= truth[k] <= hi)
    return {k: float(np.mean(v)) for k, v in held.items()}

SCORES = ('qwk', 'accuracy', 'balanced_accuracy', 'f1_macro', 'kappa', 'linear_kappa', 'mean_grade_error', 'macro_auc', 'macro_average_precision', 'brier', 'log_loss',
          'referable.auc', 'referable.sensitivity', 'referable.specificity', 'referable.ppv', 'referable.average_precision', 'vision_threatening.auc',
          'vision_threatening.sensitivity', 'per_class.0.auc', 'per_class.2.sensitivity')

def test_intervals_hold_roughly():
    for k, c in coverage(200, 40, 200, ('qwk', 'brier', 'referable.auc', 'referable.sensitivity'), n_truth=40_000).items(): assert .86 <= c <= 1, (k, c)

@pytest.mark.full
def test_intervals_hold():
    "95% intervals hold the truth in 93% to 97% of 1,000 worlds, give or take what 1,000 worlds can tell (standard error 0.7%)"
    for k, c in coverage(800, 1000, 600, SCORES).items(): assert .925 <= c <= .975, (k, c)

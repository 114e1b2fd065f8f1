"People instead of eyes, images without a grade, macular oedema: by hand, and against scikit-learn"
import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError
from retina_nb.measure import (by_patient, confusion_matrix, dme_figures, evaluate, example_predictions, intention_to_diagnose, plot_confusion,
                               read_predictions, referral_rows)

@pytest.fixture(scope='module')
def preds(): return example_predictions(120, seed=3)

def test_the_worse_eye_decides(preds):
    s = evaluate(preds, threshold=.3)
    up = preds[['p_2', 'p_3', 'p_4']].sum(axis=1) >= .3
    ill, sent = (x.groupby(preds.patient).any() for x in (preds.target >= 2, up))
    p = s['patients']
    assert (p['n'], p['n_positive']) == (120, ill.sum()) and 'worse eye' in p['rule']
    assert p['sensitivity']['value'] == pytest.approx(sent[ill].mean()) and p['specificity']['value'] == pytest.approx(1-sent[~ill].mean())
    assert p['referred']['value'] == pytest.approx(sent.mean()) and s['referable']['referred']['value'] == pytest.approx(up.mean())
    for f in (p['sensitivity'], p['specificity'], p['referred']): assert f['ci95'][0] < f['value'] < f['ci95'][1]

MARKS = {'ungradable': lambda d: d.assign(ungradable=[True]*8 + [False]*(len(d)-8)), 'in words': lambda d: d.assign(ungradable=['blurred']*8 + ['']*(len(d)-8)),
         'error': lambda d: d.assign(error=['too dark']*8 + [None]*(len(d)-8)),
         'no grade': lambda d: d.assign(**{c: d[c].astype(object).where(d.index >= 8, None) for c in ('grade', 'p_0', 'p_1', 'p_2', 'p_3', 'p_4')})}

@pytest.mark.parametrize('mark', MARKS)
def test_every_way_to_say_that_there_is_no_grade(mark, preds, tmp_path):
    MARKS[mark](preds).to_csv(tmp_path/'p.csv', index=False)
    s = evaluate(tmp_path/'p.csv', n_boot=20)
    itd, n = s['intention_to_diagnose'], len(preds)
    assert (s['n_images'], itd['n_images'], itd['n_ungradable']) == (n-8, n, 8) and any('8 images without a grade' in w for w in s['warnings'])
    assert itd['as_referred']['sensitivity']['value'] >= itd['as_missed']['sensitivity']['value']
    assert itd['as_referred']['specificity']['value'] < itd['as_missed']['specificity']['value']
    yes = preds.target >= 2
    up = (preds[['p_2', 'p_3', 'p_4']].sum(axis=1) >= .5).to_numpy()
    for rule, said in (('as_referred', True), ('as_missed', False)):
        sent = np.where(preds.index < 8, said, up)
        assert itd[rule]['sensitivity']['value'] == pytest.approx(sent[yes].mean()) and itd[rule]['specificity']['value'] == pytest.approx(1-sent[~yes].mean())
        assert itd[rule]['referred']['value'] == pytest.approx(sent.mean()) and itd[rule]['patients']['n'] == 120
    assert confusion_matrix(tmp_path/'p.csv').sum() == n-8 and plot_confusion(tmp_path/'p.csv') is not None

def test_a_grade_that_is_missing_beside_its_probabilities_is_a_fault(preds, tmp_path):
    d = preds.astype(dict(grade=object))
    d.loc[3, 'grade'] = None
    d.to_csv(tmp_path/'p.csv', index=False)
    with pytest.raises(DataError, match='line 5.*grade is empty'): read_predictions(tmp_path/'p.csv')
    with pytest.raises(DataError, match='no row has a grade'): evaluate(preds.assign(ungradable='yes'))

def test_by_the_command(command, preds, tmp_path):
    import json
    MARKS['error'](preds).to_csv(tmp_path/'p.csv', index=False)
    done = command('retina_evaluate', tmp_path/'p.csv', '--n_boot', 20)
    assert done.returncode == 0, done.stderr
    assert 'counted as referred' in done.stdout and 'counted as missed' in done.stdout and 'by patient, worse eye: sensitivity' in done.stdout
    m = json.loads((tmp_path/'eval'/'p'/'metrics.json').read_text())
    assert m['patients']['n'] == 116 and m['intention_to_diagnose']['n_ungradable'] == 8 and (tmp_path/'eval'/'p'/'figures'/'flow.png').is_file()

@pytest.mark.parametrize('tag, least', [([0, 1, 2], 2), ([0, 1], 1), ([0, 2], 2)])
def test_oedema_counts_from_the_value_that_is_referable(tag, least, preds):
    d = preds.assign(dme=np.resize(tag, len(preds)))
    f = dme_figures(d, n_boot=20)
    assert f['dme_from'] == least and f['n_positive'] == ((d.target >= 2) | (d.dme >= least)).sum()
    assert evaluate(d, n_boot=20)['referable_with_dme']['dme_from'] == least

def test_patients_that_nobody_knows(preds):
    bare = preds.drop(columns='patient')
    own = preds.assign(patient=preds.image.str.removesuffix('.jpg'))
    for d in (bare, own, preds.assign(patient=None), preds.assign(patient='train/' + own.patient)):
        with pytest.warns(UserWarning, match='patients are unknown'): s = evaluate(d, n_boot=20)
        assert s['patients'] is None and s['warnings'][0].startswith('PATIENTS UNKNOWN') and 'PATIENTS UNKNOWN' in str(s).splitlines()[1]
        assert 'PATIENTS UNKNOWN' in s._repr_html_() and any('worse eye' in x for x in s['left_out'])
    with pytest.raises(DataError, match='by patient'): by_patient(bare)

def test_what_has_no_positives_has_no_referrals():
    s = evaluate(example_predictions(60, task='pneumonia_type'), n_boot=20)
    assert s['patients']['n'] == 60
    d = example_predictions(40, prevalence=[1,1,0,0,0])
    assert evaluate(d, n_boot=20)['patients']['sensitivity']['value'] is None
    assert len(referral_rows(d.assign(ungradable=[True]*5+[False]*75), ungradable='referred')) == 80

def test_a_collapsed_model_is_told():
    d = example_predictions(100)
    w = [x for x in evaluate(d.assign(grade=0), n_boot=20)['warnings'] if 'every image the class 0' in x]
    assert len(w) == 1 and 'try more epochs' in w[0]
    nearly = d.assign(grade=[2] + [0]*(len(d)-1))
    assert any('% of the images the class 0' in x for x in evaluate(nearly, n_boot=20)['warnings'])
    for fine in (d, d.assign(target=0, grade=0)): assert not any('the class 0' in x for x in evaluate(fine, n_boot=20)['warnings'])

def test_grade_and_referral_that_disagree_are_counted_and_explained(preds):
    s = evaluate(preds, threshold=.05, n_boot=20)
    up, graded = preds[['p_2', 'p_3', 'p_4']].sum(axis=1) >= .05, preds.grade >= 2
    c = s['referable']['contradictions']
    assert c == dict(referred_with_negative_grade=int((up & ~graded).sum()), not_referred_with_positive_grade=int((graded & ~up).sum()))
    assert 'grade and referral disagree' in str(s) and sum(c.values()) > 0

def test_no_interval_prints_well():
    s = evaluate(example_predictions(4, seed=1), n_boot=20)
    assert s['qwk']['ci95'] == [None, None] and 'too few' in str(s) and 'nan' not in str(s).lower() and s.to_frame().low.isna().any()

def test_two_classes_are_not_led_by_kappa_of_grades():
    for task in ('pneumonia', 'oct'):
        s = evaluate(example_predictions(60, task=task), n_boot=20)
        names = [r[0] for r in s.rows()]
        assert names[0] == 'Balanced accuracy' and 'Quadratic weighted kappa' not in names and 'Mean absolute error' not in names
    assert evaluate(example_predictions(60), n_boot=20).rows()[0][0] == 'Quadratic weighted kappa'

def test_published_points_are_not_drawn_over_drawings():
    import matplotlib.pyplot as plt

    from retina_nb.measure import plot_roc
    d = example_predictions(60)
    said = lambda x, **kw: ' '.join(line.get_label() for line in plot_roc(x, **kw).lines)
    assert 'published' in said(d) and 'published' not in said(d.assign(source='synth')) and 'published' in said(d.assign(source='synth'), published=True)
    assert 'published' not in said(d.assign(seed=range(len(d)), camera='c'))    # the generator's own tags
    plt.close('all')

def test_pandas_missing_values_are_read(preds):
    d = preds.assign(grade=preds.grade.astype('Int64').mask(preds.index < 4), **{f'p_{j}': preds[f'p_{j}'].mask(preds.index < 4) for j in range(5)})
    assert intention_to_diagnose(d, n_boot=20)['n_ungradable'] == 4 and pd.isna(read_predictions(d).grade[0])

def test_folds_of_unknown_patients_warn():
    from retina_nb.data import kfold, patients_unknown
    r = pd.DataFrame(dict(image=[f'IDRiD_{i:03d}.jpg' for i in range(40)], label=[i % 5 for i in range(40)], eye='', source='x', split=''))
    with pytest.warns(UserWarning, match='kfold: patients are unknown.*--patient_col'): kfold(r.assign(patient=r.image.str[:-4]), 2, content=False)
    told = r.assign(patient=[f'p{i//2}' for i in range(40)])
    assert len(kfold(told, 2, content=False)) == 2 and patients_unknown(told) == ''
    for name in ('train/row 3', 'row 7'): assert 'unknown' in patients_unknown(pd.DataFrame(dict(image=['a', 'b'], patient=[name, name + '1'])))

@pytest.mark.parametrize('tag, same', [(['M0', 'M1'], [0, 1]), (['M0', 'M2'], [0, 2]), (['no', 'Yes '], [0, 1]), ([False, True], [0, 1]), ('no', 0), (['0', '2.0'], [0, 2]),
                                       (['negative', 'Positive'], [0, 1]), (['No DME', 'DME'], [0, 1]), (['none', 'present'], [0, 1]), (['None', 'M2'], [0, 2]), (['neg', 'pos'], [0, 1]), (['no-dme', 'Absent', 'yes'], [0, 0, 1])])
def test_oedema_in_the_words_of_programmes(tag, same, preds):
    said, number = (evaluate(preds.assign(dme=np.resize(np.array(t, object), len(preds))), n_boot=20) for t in (tag, same))
    assert said['referable_with_dme'] == number['referable_with_dme'] and not any('oedema' in s for s in said['left_out'])

def test_oedema_that_nobody_can_read_is_named_and_stops_nothing(preds):
    s = evaluate(preds.assign(dme='perhaps'), n_boot=20)
    (why,) = [x for x in s['left_out'] if 'oedema' in x]
    assert 'referable_with_dme' not in s and f"{len(preds)} of {len(preds)} images, whose dme is 'perhaps'" in why
    half = evaluate(preds.assign(dme=np.resize(np.array(['M0', 'x', 'M1', ''], object), len(preds))), n_boot=20)
    assert half['referable_with_dme']['n'] == len(preds)//2 and any("60 of 240 images, whose dme is 'x'" in x for x in half['left_out'])
    for bad in ('perhaps', -3, np.inf):
        with pytest.raises(DataError, match=str(bad)): dme_figures(preds.assign(dme=bad))
    with pytest.raises(DataError, match='empty'): dme_figures(preds.assign(dme=''))

@pytest.mark.parametrize('word', ['none', '-', '+', '++', 'unknown', '?', -1, 'CSME', 'mild'])
def test_every_word_for_oedema_that_is_not_read_is_counted(word, preds):
    "Images whose tag was a word for nobody left the figure and were not named"
    s = evaluate(preds.assign(dme=np.resize(np.array([0, 2, word, None, '', 'NA'], object), len(preds))), n_boot=20)
    (why,) = [x for x in s['left_out'] if 'oedema' in x]
    assert s['referable_with_dme']['n'] == len(preds)//3 and f"{len(preds)//6} of {len(preds)} images, whose dme is '{word}':" in why
    for silent in (None, '', 'NA', np.nan): assert not any('oedema' in x for x in evaluate(preds.assign(dme=np.resize(np.array([0, 1, silent], object), len(preds))), n_boot=20)['left_out'])

def test_none_beside_oedema_of_an_image_without_a_grade(preds):
    d = preds.assign(dme='none', error=None).astype(dict(dme=object))
    d.loc[0, ['dme', 'error']] = ['yes', 'too dark']
    assert dme_figures(d.set_axis([0]*len(d)), n_boot=20)['n'] == len(d)-1

def test_no_auc_where_a_rule_stands_in_for_scores(preds):
    d = preds.assign(ungradable=preds.index % 7 == 0)
    for rule in ('as_referred', 'as_missed'):
        f = intention_to_diagnose(d, n_boot=20)[rule]
        assert 'auc' not in f and 'auc' not in f['patients'] and f['patients']['n'] == 120
    people = by_patient(d, ungradable='referred').set_index('patient').score
    lost = d.groupby('patient').ungradable.any()
    assert people.isna().equals(lost.rename('score')) and by_patient(d).score.notna().all()

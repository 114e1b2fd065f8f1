"What a bundle knows of a clinic: counts that are made, checked, handed on, and shown beside the slider; or not shown"
import json, re, shutil
from types import SimpleNamespace

import pytest

from retina_nb.core import BundleError, get_task
from retina_nb.disk import read_json, write_json
from retina_nb.deploy import Grader, GradingPanel, clinic_counts, clinic_html, patient_counts, write_sums
from retina_nb.deploy.exporter import _curve
from retina_nb.deploy.unsure import EVEN, unsure_rule
from retina_nb.measure import Clinic, clinic_impact, example_predictions
from retina_nb.synth import synth_eye
from random_model import shared

DR = get_task('dr')

@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    "As of a run that kept its predictions on the validation split (a whole export is tried in test_novelty.py)"
    d = shutil.copytree(shared()[1], tmp_path_factory.mktemp('clinic')/'bundle')
    run = SimpleNamespace(predictions_valid=example_predictions(150))
    rule = unsure_rule(run, DR, .437)
    config = read_json(d/'config.json') | dict(operating_point=dict(threshold=.437), unsure=rule, operating_curve=_curve(run, DR, .437, rule))
    write_json(d/'config.json', config); write_sums(d)
    return d

def test_patients_are_counted_and_opening_a_bundle_checks_them(bundle, tmp_path):
    config = read_json(bundle/'config.json')
    s = clinic_counts(config)
    assert sum(s.patients) == 150 and s.by == 'patient' and .437 in s.thresholds and s.at(.437).thresholds == (.437,)
    valid, rule = example_predictions(150), config['unsure']
    p = valid[['p_2', 'p_3', 'p_4']].sum(axis=1)
    sure = dict(probability=valid[[f'p_{j}' for j in range(5)]].max(axis=1), distance=(p - .437).abs())
    sure['lead'] = valid[[f'p_{j}' for j in range(5)]].apply(lambda r: r.nlargest(2).iloc[0] - r.nlargest(2).iloc[1], axis=1)
    read = ((p >= .437) | (sure[rule['score']] <= rule['threshold'])).groupby(valid.patient).max()
    ill = (valid.target >= 2).groupby(valid.patient).max()
    assert s.at(.437).read == (((read & ~ill).sum(), (read & ill).sum()),)
    Grader(bundle)
    bad = shutil.copytree(bundle, tmp_path/'bad')
    config['operating_curve']['patients']['read'][3] = [10**6, 10**6]
    write_json(bad/'config.json', config); write_sums(bad)
    with pytest.raises(BundleError, match='operating_curve.patients: no more referred'): Grader(bad)

def test_without_a_rule_the_plain_one_counts():
    run = SimpleNamespace(predictions_valid=example_predictions(60))
    assert patient_counts(run, DR, threshold=.4) == patient_counts(run, DR, threshold=.4, rule=EVEN) != patient_counts(run, DR, threshold=.4, rule=unsure_rule(run, DR, .4))

@pytest.mark.parametrize('told', [None, 7, 'x', [], {}, dict(patients=None), dict(patients=7), dict(patients={}), dict(patients=dict(thresholds=[.1]))])
def test_what_is_no_count_is_not_known(told):
    "A service may be of another version, or lie"
    assert clinic_counts(dict(operating_curve=told)) is None and clinic_html(dict(operating_curve=told), .4) == ''

def test_counts_that_contradict_themselves_are_not_known(bundle):
    good = read_json(bundle/'config.json')['operating_curve']['patients']
    assert clinic_counts(dict(operating_curve=dict(patients=good | dict(later='more')))) is not None
    for odd in (dict(patients=[0, 20]), dict(positive=[True, False]), dict(by='eye'), dict(thresholds=good['thresholds'][:-1]), dict(groups=['x'*300, 'y']),
                dict(read=[[-1, 0]]*len(good['read'])), dict(thresholds=[float('nan')]*len(good['thresholds']))):
        assert clinic_counts(dict(operating_curve=dict(patients=good | odd))) is None, odd

def figures(text): return re.findall(r'\d[\d,]*(?: \([\d,]+ to [\d,]+\))?', re.search('<p class="rnb-clinic">(.*?)</p>', text)[1])

def test_the_line_follows_slider_prevalence_and_minutes(bundle, tmp_path):
    panel = GradingPanel(bundle, feedback=tmp_path/'f.csv')
    panel.viewer.send = lambda m, buffers=None: None
    panel.session.add('eye.png', synth_eye(3, grade=2, size=128).image); panel.refresh(new=True)
    line, s = panel.clinic, clinic_counts(panel.session.grader.config)
    assert line.layout.display is None and line.prevalence.value == pytest.approx(100*s.patients[1]/150, abs=.06)
    line.prevalence.value, line.minutes.value = 4, 5
    for at in (.1, .9, .437):
        panel.threshold.value = at
        want = clinic_impact(s.at(at), Clinic(prevalence=.04, minutes=5), ways=['both']).iloc[0]
        n, read, _, missed, saved, whole = figures(line.said.value)
        assert (n, whole) == ('1,000', '5,000') and read.startswith(f'{want["read"]:,.0f} (') and missed.startswith(f'{want.missed:,.0f} (') and saved.startswith(f'{want.saved:,.0f} (')
    assert 'the 150 patients' in line.said.value

def test_a_bundle_that_knows_no_patients_says_nothing(tmp_path):
    panel = GradingPanel(shared()[1], feedback=tmp_path/'f.csv')
    panel.viewer.send = lambda m, buffers=None: None
    panel.session.add('eye.png', synth_eye(3, grade=2, size=128).image); panel.refresh(new=True)
    assert panel.clinic.layout.display == 'none' and not panel.clinic.said.value and json.dumps(panel.session.grader.config.get('operating_curve')) == 'null'

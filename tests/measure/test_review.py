"External validation, planning, net benefit, scales, the flow of a study, differences between groups: by hand and against other packages"
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError, SettingError, read_json
from retina_nb.measure import (apply_temperature, calibration_slope, clopper_pearson, decisions, evaluate, example_predictions, expected_width,
                               external, external_table, flow_table, from_etdrs, from_scale, holm, net_benefit, patients_for_bound, patients_for_width,
                               plot_flow, plot_net_benefit, point_sentence, power, recalibrate, rescale, subgroup_differences, to_scale, workload, write_external, yes_no)

@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')

@pytest.fixture(scope='module')
def home(): return example_predictions(300, seed=1)

@pytest.fixture(scope='module')
def away(): return example_predictions(300, seed=2, noise=.8, sharpness=2)

# --- external validation
def test_slope_and_intercept_are_those_of_a_logistic_regression(away):
    from scipy.optimize import minimize
    yes, p = yes_no(away, 'dr')
    z = np.log(np.clip(p, 1e-6, 1-1e-6)/(1-np.clip(p, 1e-6, 1-1e-6)))
    loss = lambda b: np.logaddexp(0, -(2*yes-1)*(b[0]+b[1]*z)).sum()
    both, alone = minimize(loss, [0, 1], tol=1e-10).x, minimize(lambda a: loss([a[0], 1]), [0], tol=1e-10).x
    c = calibration_slope(away)
    assert c['slope']['value'] == pytest.approx(both[1], abs=2e-4) and c['intercept']['value'] == pytest.approx(alone[0], abs=2e-4)
    for f in c.values(): assert f['ci95'][0] < f['value'] < f['ci95'][1]

def test_the_threshold_travels_and_the_rest_is_mended(home, away):
    x = external(home, away, n_boot=100)
    yes, p = yes_no(away, 'dr')
    assert x['outside']['sensitivity']['value'] == pytest.approx((p[yes] >= x['threshold']).mean()) and x['development']['sensitivity']['value'] >= .9
    assert abs(x['recalibrated']['slope']['value']-1) < abs(x['outside']['slope']['value']-1)
    t = external_table(x)
    assert 'calibration slope (1 is right)' in t[''].tolist() and t.shape == (11, 4)
    assert yes_no(recalibrate(apply_temperature(home, .4), how='intercept'), 'dr')[1].mean() == pytest.approx(yes_no(home, 'dr')[0].mean(), abs=.03)

def test_external_beside_an_evaluation_or_a_reason(home, away, tmp_path):
    assert 'External validation' in write_external(home, away, tmp_path/'a', n_boot=50)
    assert read_json(tmp_path/'a'/'external.json')['outside']['n_images'] == 600 and (tmp_path/'a'/'figures'/'external.png').is_file()
    for bad in (away[away.target < 2], away[['image', 'target', 'grade']]):
        assert write_external(home, bad, tmp_path/'b').startswith('no external validation') and not (tmp_path/'b').exists()

# --- planning
def test_widths_by_simulation():
    rng = np.random.default_rng(1)
    for p, n in ((.9, 20), (.5, 60)):
        drawn = [np.diff(clopper_pearson(int(x), n))[0] for x in rng.binomial(n, p, 3000)]
        assert expected_width(p, n) == pytest.approx(np.mean(drawn), abs=.006)
    n = patients_for_width(.9, .2, .1)
    assert expected_width(.9, n['n_side']) <= .2 < expected_width(.9, n['n_side']-1) and n['n_patients'] == n['n_side']*10
    b = patients_for_bound(.95, .85, .2, power=.9)['n_side']
    assert np.mean([clopper_pearson(int(x), b)[0] >= .85 for x in rng.binomial(b, .95, 3000)]) == pytest.approx(.92, abs=.05)
    for bad in (lambda: patients_for_width(.9, 0, .1), lambda: patients_for_bound(.8, .9, .1), lambda: expected_width(1., 20)):
        with pytest.raises(SettingError): bad()

def test_power_grows_with_patients_and_finds_no_loss_where_there_is_none():
    truth = example_predictions(800, seed=3)
    rng = np.random.default_rng(0)
    worse = truth.assign(grade=np.where(rng.random(len(truth)) < .25, rng.permutation(truth.grade), truth.grade))
    t = power(truth, worse, (20, 150), studies=60, n_boot=100)
    assert t.power[0] < t.power[1] and t.loss[0] > .05 and power(truth, truth, 60, studies=40, n_boot=60).power[0] == 0

@pytest.mark.full
def test_eighty_patients_notice_a_loss_of_seven_hundredths_about_every_other_time():
    mix = (.45, .15, .2, .1, .1)
    truth = example_predictions(5000, seed=3, prevalence=mix)
    def graded(noise, seed):
        like, rng, g = example_predictions(5000, seed=3, noise=noise, prevalence=mix), np.random.default_rng(seed), truth.target.to_numpy().copy()
        for j in range(5): g[truth.target == j] = rng.choice(like.grade[like.target == j], (truth.target == j).sum())
        return truth.assign(grade=g)
    t = power(graded(.41, 1), graded(.53, 2), 80, studies=1000, n_boot=400)
    assert .06 < t.loss[0] < .09 and .45 < t.power[0] < .65

# --- net benefit and workload
def test_net_benefit_is_its_formula_and_workload_counts_people(home):
    up, yes = home[['p_2', 'p_3', 'p_4']].sum(axis=1) >= .2, home.target >= 2
    sent, ill = up.groupby(home.patient).any(), yes.groupby(home.patient).any()
    b = net_benefit(home, [.2], n_boot=50).iloc[0]
    assert b.model == pytest.approx((sent & ill).mean() - (sent & ~ill).mean()*.2/.8) and b.everybody == pytest.approx(ill.mean() - (~ill).mean()*.25)
    w = workload(home, [.2], persons=300, n_boot=50).iloc[0]
    assert (w.referred, w.found, w.missed, w.needless) == pytest.approx((sent.sum(), (sent & ill).sum(), (ill & ~sent).sum(), (sent & ~ill).sum()))
    rare = workload(home, [.2], prevalence=.01, n_boot=20).iloc[0]
    assert rare.found + rare.missed == pytest.approx(10) and rare.referred_per_found > w.referred_per_found
    none = workload(home, [1e-12], n_boot=20).iloc[0]
    assert none.missed == pytest.approx(0, abs=1e-9) and none.missed_low == 0 and none.missed_high > 0
    for bad in ([0], [1.2], []):
        with pytest.raises(SettingError): net_benefit(home, bad)

# --- scales
def test_scales_there_and_back():
    assert to_scale([0, 1, 2, 3, 4], 'uk').tolist() == ['R0', 'R1', 'R2', 'R2', 'R3'] and from_scale(['R0', 'R1', 'R2M1', 'R3S'], 'uk').tolist() == [0, 1, 2, 4]
    assert to_scale([1, 1], 'uk', referable_dme=[True, False]).tolist() == ['R1M1', 'R1M0'] and from_etdrs([10, 20, 43, 53, 65]).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="'X1' is no grade of uk"): from_scale(['R0', 'X1'], 'uk')
    d = example_predictions(60)
    uk, scots = evaluate(rescale(d, 'uk'), n_boot=20), evaluate(rescale(d, 'scotland'), n_boot=20)
    assert uk['referable']['prevalence'] == pytest.approx((d.target >= 2).mean()) and scots['referable']['prevalence'] == pytest.approx((d.target >= 3).mean())
    assert uk['referable']['auc']['value'] == pytest.approx(evaluate(d, n_boot=20)['referable']['auc']['value'], abs=1e-9)

# --- flow
def test_everybody_is_in_one_box(home):
    d = home.assign(target=home.target.where(home.index > 4), ungradable=[False]*590 + [True]*10)
    t = flow_table(d, threshold=.3, before={'no consent': 3}).set_index('box').images
    assert t['start'] == 603 and t['graded'] == 585 and t[['true positive', 'false positive', 'false negative', 'true negative']].sum() == 585
    up, yes = d[['p_2', 'p_3', 'p_4']].sum(axis=1) >= .3, d.target >= 2
    keep = (d.index > 4) & ~d.ungradable
    assert (t['true positive'], t['false negative']) == ((up & yes & keep).sum(), (~up & yes & keep).sum())
    words = ' '.join(x.get_text() for x in plot_flow(flow_table(d)).texts)
    assert 'ungradable' in words and '10 images' in words
    assert 'ungradable' not in ' '.join(x.get_text() for x in plot_flow(flow_table(home)).texts)

# --- differences
def test_holm_is_that_of_r():
    assert holm([.01, .02, .03, .04]).tolist() == pytest.approx([.04, .06, .06, .06]) and holm([.001, .2, .9]).tolist() == pytest.approx([.003, .4, .9])
    assert np.isnan(holm([np.nan])[0])

def test_differences_are_found_where_they_are_and_adjusted(home):
    blind = example_predictions(300, seed=1, noise=3.)
    d = home.assign(grade=home.grade.where(home.hospital != 'B', blind.grade))
    t = subgroup_differences(d, ['hospital', 'eye'], scores=('accuracy', 'qwk'))
    b = t[(t.group == 'B') & (t.score == 'accuracy')].iloc[0]
    right = (d.grade == d.target)
    assert b.difference == pytest.approx(right[d.hospital == 'B'].mean() - right[d.hospital != 'B'].mean()) and b.rests_on == home[home.hospital == 'B'].patient.nunique()
    worse = t[(t.group == 'B') & (t.score == 'qwk')].iloc[0]
    assert worse.p_holm < .01 and worse.high < 0
    assert (t.p_holm.dropna() >= t.p.dropna() - 1e-12).all() and (t[t.tag == 'eye'].p_holm > .05).all()
    few = subgroup_differences(home.head(24), 'hospital')
    assert few.low.isna().all() and few.p_holm.isna().all()

# --- few positives
def test_few_positives_get_the_careful_threshold_and_carry_their_interval():
    few, more, many = (decisions(example_predictions(n, seed=5))['operating_point'] for n in (40, 200, 900))
    assert few['sensitivity'] == 1 and few['n_positive_patients'] < 29 and 'cannot show a sensitivity of 90%' in few['note']
    assert more['assurance'] == .95 and more['sensitivity'] > .9 and 'assurance' not in many and many['n_positive_patients'] >= 100
    for p in (few, more, many):
        said = point_sentence(p, 'referable DR')
        assert '95% interval' in said and f"{p['n_positive_images']} images of {p['n_positive_patients']} patients" in said and p['sensitivity_ci95'][0] < p['sensitivity']
    assert decisions(example_predictions(40, seed=5), assurance=None)['operating_point'].get('assurance') is None

def test_one_patient_has_a_curve_without_numbers():
    "A table of one patient ended in a traceback and half of an evaluation's folder"
    from retina_nb.measure import net_benefit, plot_net_benefit
    r = np.random.default_rng(0)
    target, p = r.integers(0, 5, 60), r.dirichlet(np.ones(5), 60)
    one = pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(60)], patient='7', target=target, grade=p.argmax(1),
                            **{f'p_{i}': p[:, i] for i in range(5)}))
    ax = plot_net_benefit(net_benefit(one, n_boot=20))
    assert ax.get_title(loc='left')
    plt.close(ax.figure)

# --- what is counted, and what it is called
def test_benefit_says_images_and_what_was_resampled(home):
    images, people, nobody = net_benefit(home, [.2], by='image', n_boot=20), net_benefit(home, [.2], n_boot=20), net_benefit(home.drop(columns='patient'), [.2], n_boot=20)
    assert [t.attrs['n'] for t in (images, people, nobody)] == [600, 300, 600]
    said = [plot_net_benefit(t).get_figure() for t in (images, people, nobody)]
    words = [' '.join(t.get_text() for ax in f.axes for t in [*ax.texts, ax.title, ax._left_title]) for f in said]
    assert '600 images; band: 95% over patients' in words[0] and '300 patients; band: 95% over patients' in words[1] and '600 images; band: 95% over images' in words[2]
    load = workload(home, [.2], by='image', n_boot=20).attrs
    assert (load['by'], load['over'], load['n']) == ('image', 'patient', 600)

def test_the_flow_counts_patients_as_the_scores_do(home):
    gaps = home.assign(patient=home.patient.where(home.index >= 40, ' '))
    t = flow_table(gaps).set_index('box').patients
    assert t['table'] == evaluate(gaps, n_boot=20)['n_patients'] == 320 and t['referred'] + t['not referred'] >= 320
    assert flow_table(home).patients.iloc[0] == 300 and flow_table(home.drop(columns='patient')).patients.isna().all()

def test_two_groups_are_one_comparison(home):
    for method in ('jackknife', 'percentile'):
        t = subgroup_differences(home, 'eye', scores=('accuracy',), method=method, n_boot=100)
        assert len(t) == 2 and t.p_holm.tolist() == pytest.approx([t.p[0]]*2) and t.difference.sum() == pytest.approx(0)
    t = subgroup_differences(home.assign(side=home.eye.str[0]), ['eye', 'side', 'hospital'], scores=('accuracy',))
    first = t[~t.tag.eq('side') & t.group.ne('right')]
    assert len(t) == 7 and holm(first.p).tolist() == pytest.approx(first.p_holm.tolist()) and t[t.tag != 'hospital'].p_holm.nunique() == 1

def test_recalibrated_grades_follow_their_probabilities(away):
    p = [f'p_{j}' for j in range(5)]
    d = recalibrate(away)
    assert (d.grade == d[p].to_numpy().argmax(1)).all() and (d.grade != away.grade).any()
    own = away.assign(grade=(away.grade + 1) % 5)
    assert (recalibrate(own).grade == own.grade).all()

def test_a_given_threshold_has_no_wish_of_ours(home, away):
    x = external(home, away, threshold=.3, n_boot=20)
    assert x['wish'] is None and x['outside_threshold'] is None and x['threshold'] == .3
    both, none = external(home, away, threshold=.3, sensitivity=.8, n_boot=20), external(home, away, n_boot=20)
    assert both['wish'] == .8 and both['outside_threshold']['sensitivity'] >= .8 and none['wish'] == .9 and none['outside_threshold']['sensitivity'] >= .9

@pytest.mark.parametrize('bad', [dict(prevalence=0), dict(prevalence=3), dict(prevalence=-.1), dict(prevalence=float('nan')), dict(rho=5), dict(rho=-1), dict(images=0), dict(images=1.5)])
def test_plans_that_cannot_be(bad):
    settings = dict(prevalence=.2) | bad
    for plan in (lambda: patients_for_bound(.9, .8, **settings), lambda: patients_for_width(.9, .2, **settings)):
        with pytest.raises(SettingError, match=next(iter(bad))): plan()

def test_power_that_cannot_be(home):
    for x in (0, 1, 2):
        with pytest.raises(SettingError, match='power'): patients_for_bound(.9, .8, .2, power=x)
    for bad in (dict(n_patients=0), dict(n_patients=[20, -1]), dict(n_patients=[20, 30.5]), dict(n_patients=[20, np.nan]), dict(n_patients=[20, np.inf]), dict(n_patients=[]), dict(n_patients=['20']), dict(n_patients=20, studies=0), dict(n_patients=20, n_boot=0)):
        with pytest.raises(SettingError, match='whole number'): power(home, home, **bad)

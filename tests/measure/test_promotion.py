"The gate stays shut in doubt, and its conditions fit into a file"
import numpy as np
import pytest

from retina_nb.core import SettingError
from retina_nb.disk import read_json, write_json
from retina_nb.measure import GATE, Condition, evaluate, example_predictions, prob_columns, promote, read_gate

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
    passed = [bool(promote(d.assign(grade=d.grade.to_numpy()[rng.permutation(len(d))])[['patient', 'target', 'grade']], [Condition('qwk', above='majority')], n_boot=200)) for _ in range(80)]
    assert np.mean(passed) < .09

def test_conditions_as_json(tmp_path):
    conditions = [*GATE, Condition('qwk', not_below='current', margin=.02, min_patients=50), Condition('accuracy', at_least=.5, subgroups='eye')]
    write_json(tmp_path/'gate.json', [c.to_dict() for c in conditions])
    assert read_gate(tmp_path/'gate.json') == conditions == read_gate(read_json(tmp_path/'gate.json'))
    d = example_predictions(100, seed=4)
    assert promote(d, tmp_path/'gate.json', current=d, n_boot=50)['conditions'] == promote(d, conditions, current=d, n_boot=50)['conditions']
    with pytest.raises(AttributeError): conditions[0].at_least = 0
    with pytest.raises(SettingError, match='nope.json'): read_gate(tmp_path/'nope.json')

@pytest.mark.parametrize('c, words', [(dict(score='qwk'), 'something to require'), (dict(at_least=.5), 'needs a score'), (dict(score='qwk', atleast=.5), "'atleast'"),
                                      (dict(score='qwk', above='best'), "'majority' or 'current'"), (dict(score='qwk', above='majority', subgroups='eye'), 'subgroups take')])
def test_conditions_that_say_nothing(c, words):
    with pytest.raises(SettingError, match=words): promote(example_predictions(30), [c], n_boot=10)

@pytest.mark.parametrize('n', [1, 2, 10, 19])
def test_few_patients_never_pass(n):
    "Perfect answers for a handful of patients show very little"
    d = example_predictions(n, seed=1, prevalence=[1]*5)
    d = d.assign(grade=d.target, **{f'p_{j}': (d.target == j).astype(float) for j in range(5)})
    for c in (dict(at_least=.5), dict(low_at_least=.5), dict(above='majority'), dict(above='current'), dict(not_below='current')):
        decision = promote(d, [Condition('qwk', **c)], current=d.assign(grade=0), n_boot=100)
        assert not decision and any(w in str(decision) for w in ('are needed', 'could not', 'undefined'))
    assert not promote(d, n_boot=100)

def test_the_end_that_hurts_decides():
    d = example_predictions(300, seed=4)
    point = dict(threshold=.2)
    for score in ('qwk', 'accuracy', 'referable.auc', 'referable.sensitivity'):
        f = evaluate(d, threshold=.2)
        for part in score.split('.'): f = f[part]
        between = (f.value + f.ci95[0])/2
        assert not promote(d, [Condition(score, at_least=between)], **point) and promote(d, [Condition(score, at_least=f.ci95[0] - 1e-6)], **point)
    brier = evaluate(d).brier
    assert not promote(d, [Condition('brier', at_most=(brier.value + brier.ci95[1])/2)]) and promote(d, [Condition('brier', at_most=brier.ci95[1] + 1e-6)])

@pytest.mark.parametrize('score', ['mae', 'brier', 'log_loss'])
def test_less_of_an_error_is_better(score):
    d, worse = example_predictions(300, seed=4), example_predictions(300, seed=4, noise=.8)
    assert promote(d, [Condition(score, above='current')], current=worse) and not promote(worse, [Condition(score, above='current')], current=d)
    assert not promote(worse, [Condition(score, not_below='current', margin=.01)], current=d)
    with pytest.raises(SettingError, match='at_most'): Condition(score, at_least=.1)

@pytest.mark.parametrize('bad', [dict(at_least=float('nan')), dict(at_least='high'), dict(at_least=True), dict(at_least=.5, margin=-1), dict(at_least=.5, min_patients=0), dict(at_least=.5, min_patients=2.5)], ids=str)
def test_conditions_with_nonsense(bad):
    with pytest.raises(SettingError): Condition('qwk', **bad)

def test_a_group_of_few_patients_is_named_and_does_not_pass():
    d = example_predictions(200, seed=4)
    d = d.assign(hospital=np.where(d.patient.isin(d.patient.unique()[:9]), 'tiny', 'large'))
    said = promote(d, [Condition('qwk', at_least=.3, subgroups='hospital')])
    assert said and 'too small to judge: tiny' in str(said)
    alone = promote(d[d.hospital == 'tiny'], [Condition('qwk', at_least=.3, subgroups='hospital', min_patients=1)])
    assert not alone and 'no interval' in str(alone)

@pytest.mark.parametrize('condition, word', [(Condition('mae', at_most=5., subgroups='hospital', min_patients=5), 'highest'), (Condition('accuracy', at_least=.01, subgroups='hospital', min_patients=5), 'lowest')])
def test_the_worst_group_is_called_what_it_is(condition, word):
    "Of an error the worst group is the highest"
    found = promote(example_predictions(120, seed=3), [condition], n_boot=20)['conditions'][0]
    assert found['met'] and f'groups judged, {word} ' in found['found']

"A probe as a run: the last layer is the best one, the network stays, and what comes of it is an ordinary run"

import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from retina_nb.core import DataError, Run, RunError, SettingError, get_task
from retina_nb.data import load_records
from retina_nb.deploy import Grader, export
from retina_nb.image import Preprocess
from retina_nb.measure import evaluate, qwk
from retina_nb.synth import sample_dir
from retina_nb.train import PROBE_CS, TrainConfig, by_hand, encode, fit_head, make_loss, predict, probe_run, train, train_probe, views
from retina_nb.train.loader import prepare

SMALL = dict(arch='test_resnet', size=48, pretrained=False, progress=False)

@pytest.fixture(scope='module')
def records(): return load_records(str(sample_dir())).groupby('label').head(40).reset_index(drop=True).assign(split='')

@pytest.fixture(scope='module')
def first(records, tmp_path_factory): return train(records, out=tmp_path_factory.mktemp('probe')/'first', epochs=1, **SMALL)

@pytest.fixture(scope='module')
def probe(records, first): return train_probe(records, weights=first, out=first.path.parent/'probe', progress=False)

# --- the layer

def _data(k, n=200, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    return np.stack([3*y + rng.normal(0, 1, n), rng.normal(50, 9, n), rng.normal(0, 1e-3, n)], 1), y

@pytest.mark.parametrize('k', [2, 3, 5])
def test_without_an_order_it_is_the_multinomial_regression(k):
    x, y = _data(k)
    w, b = fit_head(x, y, k, ordinal=False, c=1.)
    z = (x - x.mean(0))/(x.std(0) + 1e-6)
    want = LogisticRegression(C=1., max_iter=2000).fit(z, y).predict_proba(z)
    got = torch.from_numpy(x.astype(np.float64) @ w.T.astype(np.float64) + b).softmax(1).numpy()
    assert np.abs(got - want).max() < 1e-3

@pytest.mark.parametrize('k', [3, 5])
def test_with_an_order_each_question_is_asked_of_those_that_reach_it(k):
    x, y = _data(k)
    w, b = fit_head(x, y, k, c=1.)
    z = (x - x.mean(0))/(x.std(0) + 1e-6)
    for j in range(k-1):
        m = LogisticRegression(C=1., max_iter=2000).fit(z[y >= j], y[y >= j] > j)
        assert np.abs(1/(1 + np.exp(-(x @ w[j] + b[j]))) - m.predict_proba(z)[:, 1]).max() < 1e-3

@pytest.mark.parametrize('there', [[0], [4], [0, 4], [1, 2], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize('ordinal', [True, False])
def test_classes_without_a_photograph_are_never_said(there, ordinal):
    x, y = _data(len(there))
    y = np.array(there)[y]
    w, b = fit_head(x, y, 5, ordinal=ordinal, c=1.)
    raw = torch.from_numpy(x @ w.T + b)
    if ordinal:
        worse = raw.sigmoid().cumprod(1)
        p = torch.cat([torch.ones(len(x), 1), worse], 1) - torch.cat([worse, torch.zeros(len(x), 1)], 1)
    else: p = raw.softmax(1)
    said = set(p.argmax(1).tolist())
    assert np.isfinite(w).all() and np.isfinite(b).all() and said <= set(there), said

def test_features_that_never_change_do_no_harm():
    x, y = _data(3)
    w, _ = fit_head(np.c_[x, np.full(len(x), 7.)], y, 3)
    assert np.isfinite(w).all() and abs(w[:, -1]).max() < 1e-2

# --- the run

def test_the_network_stays_as_it_was(first, probe):
    a, b = (load_file(r.path/'model.safetensors') for r in (first, probe))
    body = [k for k in a if k.startswith('net.body.')]
    assert body and all(torch.equal(a[k], b[k]) for k in body)
    assert probe.config['loss'] == 'corn' and b['net.head.weight'].shape[0] == 4

def test_it_is_a_run_like_any_other(first, probe, records, tmp_path):
    assert probe.finished and len(probe.history) == 1 and probe.config['by_hand']
    probe.check()
    assert evaluate(probe)['qwk']['value'] == pytest.approx(probe.metrics['qwk']['value'])
    p = probe.predictions
    again = predict(probe, p.assign(label=p['target']))
    assert np.abs(again.filter(like='p_').to_numpy() - p.filter(like='p_').to_numpy()).max() < 1e-5
    said = Grader(export(probe, tmp_path/'b'))(p['image'].iloc[0], grade_anyway=True)
    assert np.abs(np.array(said.probabilities) - p.filter(like='p_').to_numpy()[0]).max() < 1e-3

def test_what_is_decided_on_validation_is_decided_by_layers_that_had_not_seen_it(first, probe, records):
    "Five folds by patient; whoever graded a validation photograph learned from neither it nor another of its patient"
    r = probe.records
    both = pd.concat([r[r.split == part] for part in ('train', 'valid')])
    assert probe.config['cross_fitted'] and 'cross_fitted' not in first.config
    fold = probe_run._folds(r, TrainConfig.of_run(probe.config).data_seed)
    assert len(fold) == len(both) and len(set(fold)) == 5 and both.assign(fold=fold).groupby('patient').fold.nunique().max() == 1
    x, c, y = encode(both, first, size=48), probe.history.freedom[0], both.label.to_numpy(int)
    raw = probe_run._unseen(x, y, fold, get_task('dr'), c)
    for f in set(fold):
        w, b = fit_head(x[fold != f], y[fold != f], 5, c=c)
        assert np.abs(raw[fold == f].numpy() - (x[fold == f] @ w.T + b)).max() < 1e-4
    own = predict(probe, both[both.split == 'valid']).filter(like='p_').to_numpy() # what the finished layer says of photographs that it has learned from
    there = probe.predictions_valid
    assert there.image.tolist() == both.image[both.split == 'valid'].astype(str).tolist()
    assert np.abs(own - there.filter(like='p_').to_numpy()).max() > .01

def test_the_layer_has_learned_from_both_parts(first, probe):
    r = probe.records
    both = pd.concat([r[r.split == part] for part in ('train', 'valid')])
    images = prepare(both, Preprocess.from_json(probe.config['preprocess']), progress=False)
    x = np.concatenate([encode(view(torch.from_numpy(np.array(images))).contiguous().numpy(), first, size=48) for view in views('dr')])
    y, c, head = both.label.to_numpy(int), probe.history.freedom[0], load_file(probe.path/'model.safetensors')
    def says(w, b): return 1/(1 + np.exp(-(x[:len(y)] @ np.asarray(w).T + np.asarray(b))))
    has, only = says(head['net.head.weight'], head['net.head.bias']), np.tile((both.split == 'train').to_numpy(), 8)
    assert np.abs(has - says(*fit_head(x, np.tile(y, 8), 5, c=c))).max() < 1e-2
    assert np.abs(has - says(*fit_head(x[only], np.tile(y, 8)[only], 5, c=c))).max() > .05
    fold, loss = probe_run._folds(r, TrainConfig.of_run(probe.config).data_seed), make_loss('corn', 5)
    kappas = {c: qwk(y, loss.probs(probe_run._unseen(x, y, fold, get_task('dr'), c)).argmax(1).numpy(), 5) for c in PROBE_CS}
    assert kappas[c] == max(kappas.values()) > min(kappas.values())

def test_few_patients_make_fewer_folds(first, records, tmp_path):
    some = records.groupby('label').head(2).assign(split=['train', 'valid']*5)
    some = some.assign(patient=some.split)
    some = pd.concat([some, records.tail(3).assign(split='test')], ignore_index=True)
    run = train_probe(some, weights=first, out=tmp_path/'r', progress=False)
    assert run.finished and len(run.predictions_valid) == 5

def test_it_learns_something(probe, records):
    "Better than the network that always says the commonest grade, on features of one epoch"
    assert probe.history['train_qwk'].iloc[0] > .1

@pytest.mark.parametrize('how', [lambda r: str(r.path), lambda r: r.path/'model.safetensors'])
def test_weights_by_any_name(first, probe, records, tmp_path, how):
    run = train_probe(records, weights=how(first), out=tmp_path/'r', progress=False)
    assert (run.path/'model.safetensors').read_bytes() == (probe.path/'model.safetensors').read_bytes()

@pytest.mark.parametrize('bad, why', [(dict(epochs=3), 'epochs'), (dict(lr=.1), 'lr'), (dict(siez=3), 'size'), (dict(arch='resnet18'), 'another architecture')])
def test_options_that_a_probe_has_not(first, records, tmp_path, bad, why):
    with pytest.raises(SettingError, match=why): train_probe(records, weights=first, out=tmp_path/'r', progress=False, **bad)
    assert not (tmp_path/'r').exists()

def test_what_is_there_is_kept(first, probe, records, tmp_path):
    before = (probe.path/'model.safetensors').read_bytes()
    with pytest.raises(RunError, match='holds a run'): train_probe(records, weights=first, out=probe.path, progress=False)
    assert (probe.path/'model.safetensors').read_bytes() == before
    with pytest.raises(RunError, match='no such weights'): train_probe(records, weights=tmp_path/'none', out=tmp_path/'r')
    with pytest.raises(DataError): train_probe(records.assign(label=None), weights=first, out=tmp_path/'r', progress=False)
    assert not (tmp_path/'r').exists()

def test_command(first, records, tmp_path, typed):
    records.drop(columns='split').to_csv(tmp_path/'eyes.csv', index=False)
    def run(*args): return typed('retina_probe', *args, cwd=tmp_path)
    r = run('eyes.csv', 'no/run')
    assert r.returncode == 2 and 'no such weights' in r.stderr and 'Traceback' not in r.stderr
    r = run('eyes.csv', first.path, '--out', 'made')
    assert r.returncode == 0 and 'run: made' in r.stdout and 'retina_report' in r.stdout, r.stderr
    assert Run(tmp_path/'made').finished

# --- tables of others

@pytest.mark.parametrize('spoil, why', [
    (lambda t: None, 'a table is needed, not NoneType'), (lambda t: t.drop(columns=['p_1', 'target']), 'has no column target, p_1'),
    (lambda t: t.iloc[1:], 'is in one only'), (lambda t: t.assign(image=['other.png', *t.image[1:]]), 'other.png is in one only'),
    (lambda t: t.iloc[::-1], 'in its order'), (lambda t: pd.concat([t, t.head(1)]), 'in its order')])
def test_a_validation_table_of_other_photographs_is_refused(probe, spoil, why):
    by_hand._check_valid(probe.predictions_valid, probe.records, 5)
    with pytest.raises(DataError, match=why): by_hand._check_valid(spoil(probe.predictions_valid), probe.records, 5)

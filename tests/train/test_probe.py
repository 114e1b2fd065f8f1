"Labels drawn as whole patients, and readers of frozen features: properties over many tables, and what is refused."
import sys
from pathlib import Path
import numpy as np, pandas as pd, pytest

torch = pytest.importorskip('torch')
from hypothesis import given, settings, strategies as st
from retina_nb.core import DataError, SettingError
from retina_nb.image.borders import fill_borders, white_borders
from retina_nb.image.preprocess import Preprocess
from retina_nb.measure.evaluation import evaluate
from retina_nb.train.network import Net
from retina_nb.train.probe import draw_labels, encode, knn_predictions, linear_probe, load_encoder

def table(n=120, patients=40, k=4, seed=0):
    rng = np.random.default_rng(seed); who = rng.integers(patients, size=n)
    label = np.where(rng.random(n) < .1, rng.integers(k, size=n), who % k)   # some patients have images of two classes
    split = np.where(np.arange(patients) % 5 < 3, 'train', np.where(np.arange(patients) % 5 < 4, 'valid', 'test'))[who]
    return pd.DataFrame(dict(image=[f'{i}.png' for i in range(n)], label=pd.array(label, dtype='Int64'), patient=who.astype(str), split=split, task='oct'))

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 50))
def test_whole_patients_nested_and_whatever_the_order(seed, n, draw):
    r = table(seed=seed)
    try: more = draw_labels(r, per_class=n+1, seed=draw)
    except DataError: return
    few = draw_labels(r, per_class=n, seed=draw)
    assert not (few & ~more).any() and few.sum() < more.sum() and (r.split[more] == 'train').all()
    assert not set(r.patient[few]) & set(r.patient[(r.split == 'train') & ~few])
    assert r.patient[few].nunique() == n*4
    other = r.sample(frac=1, random_state=seed)
    assert set(other.image[draw_labels(other, per_class=n, seed=draw)]) == set(r.image[few])

def test_draws_differ_by_seed_and_a_fraction_takes_one_of_each_class_at_least():
    r = table()
    assert any((draw_labels(r, per_class=2, seed=0) != draw_labels(r, per_class=2, seed=s)).any() for s in (1, 2))
    some = draw_labels(r, fraction=.01)
    assert r.patient[some].nunique() == 4 and r.label[some].nunique() >= 3
    assert (draw_labels(r, fraction=1.) == (r.split == 'train')).all()
    bare = r.assign(label=r.label.mask(r.patient == r.patient[0]))           # who has no label is not drawn
    assert r.patient[0] not in set(bare.patient[draw_labels(bare, fraction=1.)])

@pytest.mark.parametrize('how', (dict(), dict(per_class=1, fraction=.5), dict(per_class=0), dict(fraction=0), dict(fraction=2.)))
def test_draws_that_mean_nothing_are_refused(how):
    with pytest.raises(SettingError): draw_labels(table(), **how)

def test_a_frozen_network_sees_each_picture_alone():
    x = np.random.default_rng(0).integers(0, 256, (7, 48, 48, 3), dtype=np.uint8)
    net = Net('test_resnet', 1, n_in=1).train()
    a = encode(x, net, device='cpu', task='oct', size=48)
    assert a.dtype == np.float32 and np.abs(encode(x, net, bs=2, device='cpu', task='oct', size=48) - a).max() < 1e-4 and not net.training
    assert np.array_equal(encode(x, None, arch='test_resnet', size=48, device='cpu', seed=3), encode(x, None, arch='test_resnet', size=48, device='cpu', seed=3))
    assert encode(x[:0], net, device='cpu', size=48).shape[0] == 0

def test_an_encoder_without_its_settings_is_named_by_the_caller(tmp_path):
    from safetensors.torch import save_file
    save_file(Net('test_resnet', 3).state_dict(), tmp_path/'model.safetensors')
    net, pre = load_encoder(tmp_path/'model.safetensors', arch='test_resnet', size=64, task='oct')
    assert pre == Preprocess.for_task('oct', size=64) and not net.training
    with pytest.raises(SettingError, match='another architecture'): load_encoder(tmp_path/'model.safetensors', size=64)
    with pytest.raises(SettingError, match='no such'): load_encoder(tmp_path/'none.safetensors', arch='test_resnet')

@pytest.mark.parametrize('reader', (knn_predictions, linear_probe))
@pytest.mark.parametrize('n', (1, 3))
def test_readers_read_what_is_there_and_nothing_where_there_is_nothing(reader, n):
    r, rng = table(400, 120), np.random.default_rng(0)
    known = draw_labels(r, per_class=n, seed=1)
    there = np.eye(4)[r.label.astype(int)] + rng.normal(0, .15, (len(r), 4))
    p = reader(there, r, known)
    assert list(p.image) == list(r.image[r.split == 'test']) and np.allclose(p[[f'p_{j}' for j in range(4)]].sum(axis=1), 1)
    assert evaluate(p, n_boot=0).macro_auc.value > .95
    assert .3 < evaluate(reader(rng.normal(size=(len(r), 8)), r, known), n_boot=0).macro_auc.value < .7

@pytest.mark.parametrize('reader', (knn_predictions, linear_probe))
def test_what_cannot_be_read_is_said(reader):
    r = table(); x = np.ones((len(r), 3)); known = draw_labels(r, per_class=2)
    with pytest.raises(DataError, match='both known'): reader(x, r, known | (r.split == 'test').to_numpy())
    with pytest.raises(DataError, match='is needed'): reader(x[1:], r, known)
    with pytest.raises(DataError, match='no labels'): reader(x, r, known & False)
    with pytest.raises(DataError, match='no pictures'): reader(x, r, known, on='nowhere')

def test_a_class_that_nobody_labelled_has_no_probability():
    r = table(); known = draw_labels(r, per_class=2) & (r.label < 3).to_numpy()
    p = linear_probe(np.random.default_rng(0).normal(size=(len(r), 3)), r, known)
    assert (p.p_3 < 1e-6).all()

def test_borders_of_a_turned_scan():
    rng = np.random.default_rng(0); scan = rng.integers(0, 60, (224, 300), dtype=np.uint8); scan[100:104] = 255
    assert fill_borders(scan) is scan
    for part in (np.s_[:30], np.s_[-1:], np.s_[:, :3], np.s_[:, -40:]):
        a = scan.copy(); a[part] = 255
        out = fill_borders(a)
        assert out[part].max() < 60 and white_borders(a)[part].all() and (out[101, 60:200] == 255).all()
    usual, before = Preprocess.for_task('oct'), Preprocess.for_task('oct', crop='none', fit='pad')
    assert (usual.crop, usual.fit, usual.hash) == ('oct', 'cut', 'ba0a9fe00b25') and before.hash == 'bb3279ba48e0'   # stored by older models, which keep theirs

def test_the_study_means_over_draws_and_keeps_to_its_plan(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2]/'benchmarks'))
    try: import few_labels as f
    finally: sys.path.pop(0)
    cells = f.wanted(f.Plan())
    assert len(set(cells)) == len(cells) and len(set(map(f.key_of, cells))) == len(cells)
    assert sum(c[:2] == ('scratch', '10 a class') for c in cells) == 15 and sum(c[:2] == ('scratch', 'all') for c in cells) == 3
    r = table(400, 120); known = draw_labels(r, per_class=3)
    p = [linear_probe(np.eye(4)[r.label.astype(int)] + np.random.default_rng(s).normal(0, .8, (len(r), 4)), r, known) for s in (0, 1)]
    a, b = (f.scored(x, 100)['macro_auc'] for x in p)
    assert abs(f.mean_of([a, b]).value - (a.value + b.value)/2) < 1e-9
    d = f.paired({(0, 0): dict(macro_auc=a)}, {(0, 0): dict(macro_auc=a), (1, 0): dict(macro_auc=b)})
    assert d['n'] == 1 and d['value'] == 0 and f.paired({}, {}) is None
    file = tmp_path/'t.json'; f.Results(file, f.QUICK).add(dict(cell=cells[0], seconds=1.))
    assert f.key_of(cells[0]) in f.Results(file, f.QUICK).d['runs']
    with pytest.raises(SystemExit, match='another plan'): f.Results(file, f.Plan())

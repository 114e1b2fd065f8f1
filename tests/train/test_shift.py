"One source left out: what is trained on, what is tested on, and what is refused before anything is trained"
import json, shutil, warnings
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from retina_nb.core import DataError, Run, RunError, SettingError, Task
from retina_nb.data import load_records
from retina_nb.measure import evaluate
from retina_nb.synth import sample_dir
from retina_nb.train import TrainConfig, join_sources, leave_out, leave_source_out, plot_shift, seed_means, shift, train

TINY = dict(arch='test_resnet', size=28, epochs=1, pretrained=False, progress=False)

@pytest.fixture(scope='module')
def sources():
    "Three hospitals of the sample as data sets of their own, with patients of the same names"
    r = load_records(sample_dir()).assign(split='')
    out = {k: r[r.hospital == k].head(80).reset_index(drop=True) for k in sorted(r.hospital.unique())[:3]}
    return {k: g.assign(patient=[f'p{i//2}' for i in range(len(g))]) for k, g in out.items()}

@pytest.fixture(scope='module')
def joined(sources): return join_sources(sources)

@pytest.fixture(scope='module')
def tried(joined, tmp_path_factory):
    out = tmp_path_factory.mktemp('shift')
    return out, leave_source_out(joined, out, seeds=2, seed=7, **TINY)

def test_every_source_is_whole_and_nobody_is_in_two(sources, joined):
    assert joined.groupby('source').image.agg(list).to_dict() == {k: g.image.tolist() for k, g in sources.items()}
    assert joined.groupby('patient').source.nunique().max() == 1
    assert joined.patient.nunique() == sum(g.patient.nunique() for g in sources.values())

def test_an_official_test_part_is_used_for_nothing(sources):
    a, b = list(sources.values())[:2]
    a = a.assign(split=['test' if i%3 == 0 else '' for i in range(len(a))])
    got = join_sources(dict(a=a, b=b))
    assert set(got.image[got.source == 'a']) == set(a.image[a.split != 'test']) and (got.split == '').all()
    with pytest.raises(DataError, match='b: all its images are of an official test part'): join_sources(dict(a=a, b=b.assign(split='test')))

def test_the_left_out_source_is_the_test_and_nothing_else(joined, sources):
    for name in sources:
        r = leave_out(joined, name)
        assert set(r.source[r.split == 'test']) == {name} == set(r.source) - set(r.source[r.split != 'test'])
        assert (r.source == name).sum() == len(sources[name]) and len(r) == len(joined)
        assert not set(r.patient[r.split == 'train']) & set(r.patient[r.split == 'valid'])
    one, _, three = sources
    r = leave_out(joined, one, train_on=[three])
    assert set(r.source) == {one, three}

@pytest.mark.parametrize('how', ['the same file', 'a copy under another name', 'in an npz'])
def test_a_photograph_of_two_sources_is_tested_and_not_trained_on(how, sources, tmp_path):
    a, b = (g.head(40).reset_index(drop=True) for g in list(sources.values())[:2])
    twin = b.image.iloc[5]
    if how == 'a copy under another name': twin = str(shutil.copy(twin, tmp_path/'another.jpg'))
    elif how == 'in an npz':
        pixels = np.stack([np.asarray(Image.open(f).convert('RGB').resize((32, 32))) for f in b.image[:8]])
        np.savez(tmp_path/'x.npz', train_images=pixels, train_labels=b.label[:8].to_numpy())
        b = b.head(8).assign(image=[f'{tmp_path}/x.npz::train/{i}' for i in range(8)])
        twin = b.image.iloc[5]
    a.loc[3, 'image'] = twin
    with pytest.warns(UserWarning, match='1 image of other sources lie'): r = leave_out(join_sources(dict(a=a, b=b), 'dr'), 'b')
    assert twin not in set(r.image[r.source == 'a']) and len(r) == len(a) + len(b) - 1

def test_a_row_says_what_the_run_says(tried, joined):
    t = tried[1]
    assert t.groupby('left_out').seed.agg(list).map(tuple).unique().tolist() == [(7, 8)]
    for r in t.itertuples():
        run = Run(r.run)
        s, own = evaluate(run), evaluate(run.predictions_valid, threshold=run.config['operating_point'])
        assert (r.qwk, r.auc, r.sensitivity) == (s.qwk.value, s.referable.auc.value, s.referable.sensitivity.value)
        assert [r.auc_low, r.auc_high] == pytest.approx(s.referable.auc.ci95) and r.own_qwk == own.qwk.value and r.own_specificity == own.referable.specificity.value
        assert (r.images, r.patients) == ((joined.source == r.left_out).sum(), joined.patient[joined.source == r.left_out].nunique())
        assert set(run.records.source[run.records.split == 'test']) == {r.left_out}
    m = seed_means(t)
    for name, g in t.groupby('left_out'): assert m.loc[name, 'auc'] == pytest.approx(g.auc.mean()) and m.loc[name, 'auc_low'] < g.auc.mean()
    assert len(plot_shift(t, score='auc').get_yticks()) == 3

def test_what_is_finished_is_read_and_other_settings_are_refused(tried, joined):
    out, t = tried
    files = sorted(out.rglob('model.safetensors'))
    before = [f.stat().st_mtime_ns for f in files]
    again = leave_source_out(joined, out, seeds=2, seed=7, **TINY)
    assert [f.stat().st_mtime_ns for f in files] == before
    pd.testing.assert_frame_equal(again, t)
    with pytest.raises(RunError, match='lr='): leave_source_out(joined, out, seeds=1, seed=7, lr=.1, **TINY)

def test_what_cannot_be_done_is_said_before_anything_is_trained(joined, sources, tmp_path):
    def refused(kind, words, **kw):
        with pytest.raises(kind, match=words): leave_source_out(kw.pop('sources', joined), tmp_path/'no', **TINY | kw)
        assert not (tmp_path/'no').exists()
    name = next(iter(sources))
    refused(SettingError, 'no source is called .Nowhere.', left_out='Nowhere')
    refused(SettingError, 'no source is called .Nowhere.', train_on=['Nowhere'])
    refused(SettingError, 'cannot be left out', left_out=name, train_on=[name])
    refused(SettingError, 'cannot be left out', left_out=name, train_on=[])
    refused(SettingError, 'left_out is empty', left_out=[])
    for bad in (0, -1, None, '2', 1.5): refused(SettingError, 'seeds=', seeds=bad)
    for bad in (-1, 'x', None): refused(SettingError, 'seed=', seed=bad)
    refused(DataError, 'dr', task='oct')
    refused(DataError, '4 images without a source', sources=joined.assign(source=joined.source.where(joined.index > 3)))
    refused(DataError, "no column 'source'", sources=joined.drop(columns='source'))
    for column in ('image', 'label', 'patient'): refused(DataError, f'b: the records have no column .{column}.', sources=dict(a=sources[name], b=sources[name].drop(columns=column)))
    for no_sources in (None, ['a', 'b'], 'photographs'): refused(SettingError, 'sources=', sources=no_sources)
    refused(DataError, 'nothing is left to train on', sources=dict(a=sources[name], b=sources[name]))
    refused(SettingError, 'at least two', sources=dict(only=sources[name]))
    refused(SettingError, "did you mean 'epochs'", epoch=3)
    refused(DataError, 'sources of different tasks|of the task', sources=dict(a=sources[name].assign(task='dr'), b=sources[name].assign(task='oct', label=sources[name].label.clip(upper=3))))
    refused(DataError, 'no_such', sources=dict(a=tmp_path/'no_such', b=sources[name]))

@pytest.mark.parametrize('out', ['', ' ', 's3://bucket/x', None, 5])
def test_a_place_that_is_no_folder_is_refused(out, joined, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match='a folder on this machine'): leave_source_out(joined, out, **TINY)
    (tmp_path/'file').touch()
    with pytest.raises(RunError, match='is a file'): leave_source_out(joined, 'file', **TINY)
    assert [f.name for f in tmp_path.iterdir()] == ['file']

@pytest.mark.parametrize('a, b, says', [('../../esc', 'b', 'a name is also a folder'), ('..', 'b', 'a name is also'), ('/tmp/abs', 'b', 'a name is also'), ('', 'b', 'a name is also'),
                                        ('x'*300, 'b', 'a name is also'), ('shift.csv', 'b', 'a name is also'), ('Figures', 'b', 'a name is also'), ('a.', 'b', 'a name is also'),
                                        ('x y', 'x_y', 'would share a folder'), ('Hill', 'hill', 'would share a folder'), (1, '1', 'two sources of one name')])
def test_names_that_cannot_be_folders_are_refused(a, b, says, sources, tmp_path):
    tables = list(sources.values())
    with pytest.raises(SettingError, match=says): leave_source_out({a: tables[0], b: tables[1]}, tmp_path/'out', **TINY)
    assert not list(tmp_path.iterdir())

def test_a_table_that_is_none_of_ours_is_refused(tried):
    for f in (seed_means, plot_shift):
        for bad in (None, [], {}, tried[1][:0]):
            with pytest.raises(DataError, match='no rows'): f(bad)
        with pytest.raises(DataError, match="no column 'left_out'"): f(tried[1].drop(columns='left_out'))
        with pytest.raises(DataError, match="no column 'own_qwk'"): f(tried[1].drop(columns='own_qwk'))
    for score in ('f1', ['qwk'], None):
        with pytest.raises(SettingError, match='score='): plot_shift(tried[1], score=score)
    assert list(seed_means(tried[1], 'qwk')) == ['seeds', 'qwk', 'qwk_low', 'qwk_high']

def test_rows_may_be_numbered_as_they_like(sources):
    a, b = list(sources.values())[:2]
    assert len(join_sources(dict(a=a.set_axis([0]*len(a)), b=b))) == len(a) + len(b)

def test_a_task_of_ones_own(tmp_path, sources):
    two = Task('seen', ('clear', 'lesions'), positive='lesions')
    tables = {k: g.assign(label=(g.label > 0).astype(int), task='seen') for k, g in list(sources.items())[:2]}
    t = leave_source_out(tables, tmp_path/'runs', seeds=1, task=two, **TINY)
    assert set(t.left_out) == set(tables) and t.auc.between(0, 1).all() and Run(t.run[0]).task == two

def test_the_command(sources, tmp_path, typed):
    for k, g in sources.items(): g.to_csv(tmp_path/f'{k}.csv', index=False)
    a, b = list(sources)[:2]
    how = ['--arch', 'test_resnet', '--size', '28', '--epochs', '1', '--no_pretrained', '--seeds', '1']
    done = typed('retina_shift', f'{a}={a}.csv', f'{b}={b}.csv', '--left_out', b, '--out', 'out', *how, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    t = pd.read_csv(tmp_path/'out'/'shift.csv')
    assert t.left_out.tolist() == [b] and t.trained_on.tolist() == [a] and f'{t.qwk[0]:.3f}' in done.stdout and (tmp_path/'out'/'figures'/'qwk.png').is_file()
    assert f'left out: {b}; trained on: {a}; seed 42' in done.stdout
    assert json.loads((tmp_path/'out'/b.replace(' ', '_')/'seed42'/'config.json').read_text())['seed'] == 42

@pytest.mark.parametrize('words, says', [(['photographs'], 'NAME=DATA'), (['a=x.csv'], 'at least two'), (['a=x.csv', 'a=y.csv'], 'two sources of one name'),
                                         (['a=', 'b=x.csv'], 'NAME=DATA'), (['=x', 'b=x.csv'], 'NAME=DATA'), (['a=nowhere', 'b=nowhere'], 'nowhere')])
def test_bad_words_are_one_line(words, says, tmp_path, typed):
    done = typed('retina_shift', *words, '--out', 'out', '--no_pretrained', cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1 and not (tmp_path/'out').exists()

@pytest.mark.parametrize('way', ['its own run', 'one before it', 'copies of the files'])
def test_weights_that_have_seen_the_source_are_named(way, tried, joined, tmp_path):
    t, table = tried[1], joined
    mine, other = t.left_out[0], next(n for n in t.left_out if n != t.left_out[0])
    weights = Path(t.run[0])/'model.safetensors'
    if way == 'one before it':
        later = tmp_path/'later'
        later.mkdir()
        Run(t.run[0]).records.head(0).to_csv(later/'records.csv', index=False)
        (later/'config.json').write_text(json.dumps(Run(t.run[0]).config | dict(weights=str(weights))))
        weights = later/'model.safetensors'
    if way == 'copies of the files': table = joined.assign(image=[str(shutil.copy(f, tmp_path/f'{i}{Path(f).suffix}')) for i, f in enumerate(joined.image)])
    n = int((joined.source == other).sum())
    with pytest.warns(UserWarning, match=f'{other}: the run of the weights learned from {n} images of it'): shift._divided(table, [other], None, 1, 42, weights)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for known in (weights, None, tmp_path/'foreign.safetensors'): shift._divided(table, [mine], None, 1, 42, known)

def test_weights_of_a_run_have_rates_of_their_own(tried, joined, tmp_path, capsys):
    "And the training says which; foreign weights keep theirs"
    t = tried[1]
    weights = t.run[0] + '/model.safetensors'
    foreign = str(shutil.copy(weights, tmp_path/'model.safetensors'))
    assert (TrainConfig(weights=weights).lr, TrainConfig(weights=weights).lr_mult) == (3e-3, 1.)
    assert (TrainConfig(weights=foreign).lr, TrainConfig(weights=foreign).lr_mult) == (1e-3, 10.)
    run = train(leave_out(joined, t.left_out[0]), out=tmp_path/'on', weights=weights, **TINY | dict(progress=True))
    assert 'lr=0.003, lr_mult=1' in capsys.readouterr().out and (run.config['lr'], run.config['lr_mult']) == (3e-3, 1.)
    assert TrainConfig.of_run(run.config).lr_mult == 1.

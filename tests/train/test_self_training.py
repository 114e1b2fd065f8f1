"Training without labels: folders of nothing but images, a kill, a collapse, what may not be continued, and training after it"
import json, shutil, signal, subprocess, sys, warnings
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import load_file

from retina_nb.core import DataError, RunError, SettingError
from retina_nb.data.records import load_records
from retina_nb.data.split import split_records
from retina_nb.synth.dataset import sample_dir

TINY = dict(arch='test_resnet', size=32, bs=32, epochs=3, lr=5e-3)

def pretrain(*args, **kwargs):
    from retina_nb.train.self_training import pretrain as f
    return f(*args, **TINY | dict(progress=False) | kwargs)

@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    "Pictures and nothing else"
    out = tmp_path_factory.mktemp('bare')
    for f in load_records(sample_dir())['image'].head(96).map(Path):
        (out/f.name).write_bytes(f.read_bytes())
    assert len(list(out.iterdir())) > 32
    return out

@pytest.fixture(scope='module')
def done(bare, tmp_path_factory): return pretrain(bare, out=tmp_path_factory.mktemp('runs')/'done')

def test_a_bare_folder_is_enough(done, bare):
    assert done.finished and done.records['label'].isna().all() and len(done.records) == len(list(bare.iterdir()))
    assert list(done.history['epoch']) == [0, 1, 2]
    assert {'train_loss', 'contrastive_accuracy', 'alignment', 'uniformity', 'spread'} <= set(done.history)
    assert 'knn_accuracy' not in done.history and 'valid_loss' not in done.history
    done.check()

def test_labels_are_not_read(done, bare, tmp_path):
    "Labels that make no sense change neither weights nor the hash of the data"
    odd = load_records(bare).assign(label=[7.5]*len(done.records))
    run = pretrain(odd, out=tmp_path/'odd')
    assert (run.path/'model.safetensors').read_bytes() == (done.path/'model.safetensors').read_bytes()
    assert run.config['data']['hash'] == done.config['data']['hash']

KILLED = '''
import os, signal, sys
from fastai.callback.core import Callback
from retina_nb.train.checkpoint import epoch_of
from retina_nb.train.self_training import pretrain
class Kill(Callback):
    order = 99
    def after_batch(self):
        if (epoch_of(self.learn), self.iter) == (2, 1): os.kill(os.getpid(), signal.SIGKILL)
pretrain(sys.argv[1], out=sys.argv[2], progress=False, cbs=Kill(), **eval(sys.argv[3]))
'''

@pytest.mark.parametrize('how', [pytest.param(dict(part=16), marks=pytest.mark.full), dict(pairs='patient', method='vicreg', optimiser='lars', lr=.1)], ids=['simclr', 'others'])
def test_after_a_kill_the_same_weights(bare, tmp_path, how):
    data = tmp_path/'records.csv' # two pictures a patient
    r = load_records(bare)
    r.assign(patient=[f'p{i//2}' for i in range(len(r))], label=0).to_csv(data, index=False)
    options = TINY | how
    p = subprocess.run([sys.executable, '-c', KILLED, str(data), str(tmp_path/'killed'), repr(options)], capture_output=True, text=True)
    assert p.returncode == -signal.SIGKILL, p.stderr
    assert len(pd.read_csv(tmp_path/'killed'/'history.csv')) == 2
    with pytest.raises(RunError, match='holds a run already'): pretrain(data, out=tmp_path/'killed', **how)
    a, b = pretrain(data, out=tmp_path/'killed', resume=True, **how), pretrain(data, out=tmp_path/'whole', **how)
    assert (a.path/'model.safetensors').read_bytes() == (b.path/'model.safetensors').read_bytes()
    assert a.history.drop(columns='seconds').equals(b.history.drop(columns='seconds'))
    assert not (a.path/'checkpoint.safetensors').exists()

def test_a_finished_run_stays(done, bare):
    before = (done.path/'model.safetensors').stat().st_mtime_ns
    assert pretrain(bare, out=done.path, resume=True).finished
    assert (done.path/'model.safetensors').stat().st_mtime_ns == before

def test_other_settings_or_images_do_not_go_on(done, bare, tmp_path):
    with pytest.raises(RunError, match='pretrained with seed=42, not 1'): pretrain(bare, out=done.path, resume=True, seed=1)
    with pytest.raises(RunError, match='pretrained with views='): pretrain(bare, out=done.path, resume=True, views='imagenet')
    with pytest.raises(RunError, match='other images'): pretrain(load_records(bare).head(40), out=done.path, resume=True)

def test_trainings_and_pretrainings_keep_apart(done, tmp_path):
    from retina_nb.train.training import train
    r = split_records(load_records(sample_dir()), seed=42).groupby(['split', 'label'], group_keys=False).head(6)
    settings = dict(arch='test_resnet', size=32, epochs=1, progress=False)
    with pytest.raises(RunError, match='a pretraining'): train(r, out=done.path, resume=True, pretrained=False, **settings)
    run = train(r, out=tmp_path/'t', weights=str(done.path/'model.safetensors'), **settings)
    with pytest.raises(RunError, match='holds a training'): pretrain(r, out=run.path, resume=True)

def test_training_begins_with_what_was_learned(done):
    from retina_nb.train.learner import make_net
    from retina_nb.train.config import TrainConfig
    net = make_net(TrainConfig(arch='test_resnet', size=32, weights=str(done.path/'model.safetensors')), 5)
    learned = load_file(done.path/'model.safetensors')
    for k,v in net.state_dict().items():
        if k.startswith('body.'): assert torch.equal(v, learned[f'net.{k}']), k

def test_a_collapse_ends_it_with_a_sentence(bare, tmp_path, capfd):
    from fastai.callback.core import Callback
    class Flatten(Callback):
        "Make the projection say the same of everything"
        def after_step(self):
            with torch.no_grad():
                for p in self.model.head[-1].parameters(): p.zero_().add_(1e-3)
                self.model.head[-1].weight.zero_()
    with pytest.raises(RunError, match=r'^collapsed in epoch 1: the network says the same') as e:
        pretrain(bare, out=tmp_path/'c', epochs=5, cbs=Flatten())
    assert '\n' not in str(e.value)
    assert len(pd.read_csv(tmp_path/'c'/'history.csv')) == 2 and (tmp_path/'c'/'checkpoint.safetensors').is_file()

def test_neighbours_are_asked_only_where_labels_are(tmp_path):
    r = load_records(sample_dir())
    r = r[r['split'].isin(['', 'train'])].head(64)
    run = pretrain(r.assign(label=r['label'].where(np.arange(64) % 2 == 0)), out=tmp_path/'k', knn=3, epochs=2)
    assert run.history['knn_accuracy'].between(0, 1).all()
    with pytest.raises(DataError, match='knn'): pretrain(r.assign(label=np.nan), out=tmp_path/'none', knn=3)

def test_test_patients_are_not_seen(tmp_path):
    r = split_records(load_records(sample_dir()), seed=1)
    run = pretrain(r, out=tmp_path/'s', epochs=1)
    assert set(run.records['split']) == {'train'}
    assert not set(run.records['patient']) & set(r['patient'][r['split'] != 'train'])

def test_one_patient_or_one_image_is_refused(bare, tmp_path):
    with pytest.raises(DataError, match='one patient'): pretrain(load_records(bare).assign(patient='a'), out=tmp_path/'p')
    with pytest.raises(DataError, match='the only image'): pretrain(load_records(bare).head(1), out=tmp_path/'i')
    assert not (tmp_path/'p').exists() and not (tmp_path/'i').exists()

def test_a_broken_image_is_named_or_left_out(bare, tmp_path):
    folder = tmp_path/'data'
    folder.mkdir()
    for f in list(bare.iterdir())[:40]: (folder/f.name).write_bytes(f.read_bytes())
    (folder/'zz_broken.png').write_bytes(b'nothing')
    with pytest.raises(DataError, match='1 of 41 rows cannot be used: zz_broken.png') as e: pretrain(folder, out=tmp_path/'b')
    assert '\n' not in str(e.value) and not (tmp_path/'b').exists()
    with pytest.warns(UserWarning, match='left out'): run = pretrain(folder, out=tmp_path/'b2', skip_bad=True, epochs=1)
    assert len(run.records) == 40

@pytest.mark.parametrize('wrong,said', [(dict(method='byol'), 'choose one of simclr, vicreg'), (dict(siz=3), 'size'),
    (dict(pairs='eyes'), 'choose one of same, patient'), (dict(arch='resnet1'), 'unknown architecture'), (dict(bs=2), 'at least 4'),
    (dict(views='odd'), 'unknown views'), (dict(weights='none.safetensors'), 'no such weights'), (dict(track_uri='x'), 'track')])
def test_wrong_options_in_one_line(bare, tmp_path, wrong, said):
    with pytest.raises(SettingError, match=said) as e: pretrain(bare, out=tmp_path/'w', **wrong)
    assert '\n' not in str(e.value)
    assert not (tmp_path/'w'/'history.csv').exists()

def test_the_command(bare, tmp_path, capsys):
    from retina_nb.train.self_training import retina_pretrain
    retina_pretrain(str(bare), out=str(tmp_path/'r'), **TINY | dict(epochs=1))
    said = capsys.readouterr().out
    assert 'partner found' in said and said.strip().splitlines()[-1].startswith('next: retina_train DATA --weights')
    assert 'all images were learned from' in said and 'a column split' in said
    with pytest.raises(SystemExit) as e: retina_pretrain(str(bare), out=str(tmp_path/'r'), **TINY | dict(epochs=1))
    assert e.value.code == 2 and 'holds a run already' in capsys.readouterr().err

def test_the_command_says_what_it_left_aside(bare, tmp_path, capsys):
    from retina_nb.train.self_training import retina_pretrain
    table = pd.DataFrame(dict(image=sorted(map(str, bare.iterdir())))).iloc[:32].assign(label=0)
    table = table.assign(patient=table.index, split=['train', 'train', 'valid', 'test']*(len(table)//4))
    table.to_csv(tmp_path/'t.csv', index=False)
    retina_pretrain(str(tmp_path/'t.csv'), out=str(tmp_path/'r'), **TINY | dict(epochs=1, pairs='patient'))
    said = capsys.readouterr()
    assert 'no patient has two images' in said.err
    assert f'the training part alone was learned from; {len(table)//2} images left aside' in said.out

def test_a_table_needs_no_labels(bare, tmp_path, typed):
    files = sorted(map(str, bare.iterdir()))[:32]
    pd.DataFrame(dict(image=files)).to_csv(tmp_path/'a.csv', index=False)
    pd.DataFrame(dict(scan=files, who=[i//2 for i in range(32)], grade_by_nobody='?')).to_csv(tmp_path/'b.csv', index=False)
    words = [w for k,v in (TINY | dict(epochs=1)).items() for w in (f'--{k}', str(v))]
    for name, more, n in (('a', [], None), ('a', ['--layout', 'records'], None), ('b', ['--image_col', 'scan', '--patient_col', 'who'], 16)):
        got = typed('retina_pretrain', str(tmp_path/f'{name}.csv'), '--out', str(tmp_path/f'{name}{len(more)}'), *words, *more)
        assert got.returncode == 0, got.stderr
        assert '32 images of' in got.stdout and (n is None or f'of {n} patients' in got.stdout)
    assert load_file(tmp_path/'a0'/'model.safetensors')
    got = typed('retina_train', str(tmp_path/'a.csv'), '--out', str(tmp_path/'t'))    # which a training cannot do without
    assert got.returncode == 2 and 'one for the image and one for the label' in got.stderr
    (tmp_path/'c.csv').write_text('picture,who\nx.png,1\n')
    got = typed('retina_pretrain', str(tmp_path/'c.csv'), '--out', str(tmp_path/'c'))
    assert got.returncode == 2 and 'its columns are picture, who' in got.stderr and not (tmp_path/'c').exists()

def test_what_belongs_to_a_training_is_answered(bare, tmp_path, typed):
    got = typed('retina_pretrain', str(bare), '--out', str(tmp_path/'r'), '--accumulate', '4')
    assert got.returncode == 2 and 'part=N takes a large one piece by piece' in got.stderr and not (tmp_path/'r').exists()

@pytest.mark.parametrize('text,said', [('{"rotate": 3}', ''), ('\ufeff{"rotate": 3}', ''), ('{"zoom": 3}', 'v.json: unknown fields: zoom'), ('rotate: 3', 'not readable as JSON'), (None, 'No such file')])
def test_views_from_a_file(bare, tmp_path, typed, text, said):
    if text: (tmp_path/'v.json').write_text(text, encoding='utf-8')
    words = [w for k,v in (TINY | dict(epochs=1)).items() for w in (f'--{k}', str(v))]
    got = typed('retina_pretrain', str(bare), '--out', str(tmp_path/'r'), '--views', str(tmp_path/'v.json'), *words)
    if said: assert got.returncode == 2 and said in got.stderr and len(got.stderr.strip().splitlines()) == 1
    else: assert got.returncode == 0 and json.loads((tmp_path/'r'/'config.json').read_text())['views']['rotate'] == 3

@pytest.mark.parametrize('before,after', [(1, 3), (3, 1)])
def test_grey_weights_serve_colour_and_back(bare, tmp_path, before, after):
    from retina_nb.train import Net, load_weights
    run = pretrain(bare, out=tmp_path/'r', channels=before, epochs=1)
    nets = [Net('test_resnet', 5, n_in=n).eval() for n in (before, after)]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert [load_weights(n, run.path/'model.safetensors')['left'] for n in nets] == [['head.weight', 'head.bias']]*2
    grey = torch.rand(2, 1, 48, 48).expand(2, 3, 48, 48)
    assert torch.allclose(*(n.features(grey) for n in nets), atol=1e-5)

def test_a_body_that_fits_in_part_is_named(tmp_path):
    from safetensors.torch import save_file
    from retina_nb.train import Net, load_weights
    state = Net('test_resnet', 5).state_dict()
    gone = [k for k in state if k.startswith('body.') and 'running' in k][:4]
    old = {k: v for k,v in state.items() if 'num_batches' not in k}
    save_file(old, tmp_path/'old.safetensors')
    with warnings.catch_warnings():                # counts of batches, which older versions did not keep, decide nothing
        warnings.simplefilter('error')
        load_weights(Net('test_resnet', 5), tmp_path/'old.safetensors')
    save_file({k: v for k,v in state.items() if k not in gone}, tmp_path/'part.safetensors')
    with pytest.warns(UserWarning, match=f'4 of .* tensors of test_resnet are not in it.*{gone[0]}'): found = load_weights(Net('test_resnet', 5), tmp_path/'part.safetensors')
    assert set(gone) <= set(found['left'])

@pytest.mark.parametrize('how', ['the same files', 'copies', 'others'])
def test_a_test_part_that_was_pretrained_on_is_named(done, bare, tmp_path, how):
    from retina_nb.train import train, train_probe
    r = load_records(sample_dir())
    r = (r[96:192] if how == 'others' else r[:96]).reset_index(drop=True)
    if how == 'copies': r = r.assign(image=[str(shutil.copy(f, tmp_path/f'{i}{Path(f).suffix}')) for i,f in enumerate(r['image'])])
    r = split_records(r.assign(split=''), seed=1)
    r.attrs['task'] = 'dr'
    n, weights = int((r['split'] == 'test').sum()), done.path/'model.safetensors'
    ways = dict(train=lambda out: train(r, out=out, weights=str(weights), arch='test_resnet', size=32, epochs=1, progress=False),
                probe=lambda out: train_probe(r, out=out, weights=weights, progress=False))
    for name, go in ways.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            go(tmp_path/name)
        told = [str(w.message) for w in said if 'the run of the weights' in str(w.message)]
        assert told == ([] if how == 'others' else [f'the test part: the run of the weights learned from {n} images of it, so it is not unseen'])

def test_weights_tell_what_they_have_seen(done, bare, tmp_path, monkeypatch):
    "All rows of a pretraining, by a path that was written in another folder; a past that cannot be read is said and stops nothing"
    from retina_nb.train.run_folder import _taught, warn_of_seen
    names = sorted(map(str, bare.iterdir()))
    marked = load_records(bare, warn=False).head(40).assign(split='test')          # no part is named for training: all are learned from
    first = pretrain(marked, out=tmp_path/'there'/'first', epochs=1)
    assert sorted(_taught(str(first.path/'model.safetensors'))) == sorted(marked['image'])
    monkeypatch.chdir(tmp_path/'there')
    again = pretrain(names[0].rpartition('/')[0], out=tmp_path/'there'/'runs'/'again', epochs=1, weights='first/model.safetensors')
    for here in (tmp_path/'there', tmp_path):
        monkeypatch.chdir(here)
        assert set(_taught(again.path/'model.safetensors')) == set(names) and len(_taught(again.path/'model.safetensors')) == len(names) + 40
    (first.path/'config.json').write_text('{')
    with pytest.warns(UserWarning, match='first: what these weights have seen could not be read'): assert len(_taught(again.path/'model.safetensors')) == len(names)
    with pytest.warns(UserWarning, match='learned from 3 images of it'): warn_of_seen(again.path/'model.safetensors', {'the test part': names[:3]})

def test_records_at_hand_keep_their_place(bare, monkeypatch):
    "A table is asked for its near copies too, as a training asks"
    from retina_nb.train import self_training
    asked = []
    monkeypatch.setattr(self_training, 'as_records', lambda r, *a, **k: asked.append(k.get('size')) or r)
    r = load_records(bare, warn=False)
    assert self_training._pictures(r, self_training.PretrainConfig(size=64)) is r and asked == [64]

def test_mlflow_follows(bare, tmp_path):
    pytest.importorskip('mlflow')
    run = pretrain(bare, out=tmp_path/'m', track='mlflow', epochs=1)
    assert json.loads((run.path/'mlflow.json').read_text())['id']

def told(tmp_path, capsys, *args, **options):
    "What the command says on stderr where it stops with 2: one line, and nothing that looks finished"
    from retina_nb.train.self_training import retina_pretrain
    with pytest.raises(SystemExit) as e: retina_pretrain(*map(str, args), **TINY | options)
    err = [l for l in capsys.readouterr().err.splitlines() if l.startswith('error')]
    assert e.value.code == 2 and len(err) == 1, err
    return err[0]

def test_labels_that_are_permuted_change_no_byte(tmp_path):
    r = load_records(sample_dir()).head(64)
    mixed = r.assign(label=r['label'].sample(frac=1, random_state=3).to_numpy())
    assert (mixed['label'] != r['label']).any()
    a, b, c = (pretrain(x, out=tmp_path/n, epochs=1) for n, x in (('a', r), ('b', mixed), ('c', r.drop(columns='label'))))
    assert a.config['data']['hash'] == b.config['data']['hash'] == c.config['data']['hash']
    assert len({(x.path/'model.safetensors').read_bytes() for x in (a, b, c)}) == 1

def test_a_table_without_a_split(bare, tmp_path):
    run = pretrain(load_records(bare).drop(columns='split'), out=tmp_path/'r', epochs=1)
    assert run.finished and 'split' not in run.records and len(run.records) == len(list(bare.iterdir()))

def test_a_classifier_is_not_asked_of_it(done, tmp_path):
    "Whatever wants a trained classifier says what the run holds, and what to type"
    from retina_nb.deploy.exporter import export
    from retina_nb.deploy.mistaken import mistaken
    from retina_nb.measure.evaluation import evaluate
    from retina_nb.report.run_report import report
    from retina_nb.train.compare_runs import compare
    from retina_nb.train.ensemble import train_ensemble
    from retina_nb.train.prediction import evaluate_run, load_model, predict
    doors = dict(evaluate=lambda: evaluate(done), evaluate_run=lambda: evaluate_run(done), with_data=lambda: evaluate_run(done.path, 'synth:4'),
        load_model=lambda: load_model(done), predict=lambda: predict(done, done.records), compare=lambda: compare([done.path]*2), learner=lambda: done.learner(),
        ensemble=lambda: train_ensemble([done], tmp_path/'e'), export=lambda: export(done.path, tmp_path/'b'), report=lambda: report(done.path),
        predictions=lambda: done.predictions, valid=lambda: done.predictions_valid)
    for name, door in doors.items():
        with pytest.raises(RunError, match='holds weights from pretraining, not a classifier: train one with retina_train DATA --weights') as e: door()
        assert '\n' not in str(e.value) and 'model.safetensors --task dr --arch test_resnet --size 32' in str(e.value), name
    assert 'holds weights from pretraining' in mistaken(done.path) and not list(tmp_path.iterdir())

def test_a_disk_that_is_full_leaves_nothing_half_written(bare, done, tmp_path, capsys, monkeypatch):
    "In the middle and at the end; afterwards the same command with --resume makes the same weights"
    import errno
    from retina_nb.train import checkpoint, run_folder
    from retina_nb.train.self_training import retina_pretrain
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, 'No space left on device')
    out, n = tmp_path/'r', []
    def third(*args, **kwargs):
        n.append(1)
        return full() if len(n) == 3 else whole(*args, **kwargs)
    whole = checkpoint.write_file
    with monkeypatch.context() as m:
        m.setattr(checkpoint, 'write_file', third)
        assert 'disk is full' in told(tmp_path, capsys, bare, out=str(out))
    with monkeypatch.context() as m:
        m.setattr(run_folder, 'write_file', full)
        assert 'disk is full' in told(tmp_path, capsys, bare, out=str(out), resume=True)
    assert not (out/'model.safetensors').exists() and not (out/'metrics.json').exists() and (out/'checkpoint.safetensors').exists()
    retina_pretrain(str(bare), out=str(out), resume=True, **TINY)
    assert (out/'model.safetensors').read_bytes() == (done.path/'model.safetensors').read_bytes()

def test_a_key_stops_it_and_it_goes_on(bare, done, tmp_path, capsys):
    from fastai.callback.core import Callback
    class Key(Callback):
        order = 99
        def after_batch(self):
            if self.epoch == 1 and self.iter == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): pretrain(bare, out=tmp_path/'r', cbs=Key())
    assert 'stopped after 1 of 3 epochs' in capsys.readouterr().err
    run = pretrain(bare, out=tmp_path/'r', resume=True)
    assert (run.path/'model.safetensors').read_bytes() == (done.path/'model.safetensors').read_bytes()

def test_what_is_damaged_is_named(bare, done, tmp_path):
    "A checkpoint that was cut, a run whose weights were changed, a folder of somebody else"
    import shutil
    cut = Path(shutil.copytree(done.path, tmp_path/'cut'))
    for f in ('model.safetensors', 'metrics.json'): (cut/f).unlink()
    (cut/'checkpoint.safetensors').write_bytes(b'short')
    with pytest.raises(RunError, match='not a readable checkpoint'): pretrain(bare, out=cut, resume=True)
    changed = Path(shutil.copytree(done.path, tmp_path/'changed'))
    (changed/'model.safetensors').write_bytes(b'others')
    with pytest.raises(RunError, match='is not what the training wrote'): pretrain(bare, out=changed, resume=True)
    (tmp_path/'theirs').mkdir()
    (tmp_path/'theirs'/'notes.txt').touch()
    with pytest.raises(RunError, match='not a run folder'): pretrain(bare, out=tmp_path/'theirs')
    assert [f.name for f in (tmp_path/'theirs').iterdir()] == ['notes.txt']

def test_what_the_pictures_are_not_is_said(bare, tmp_path):
    "Labels cannot show that photographs are taken for scans: the pictures do"
    from retina_nb.train.self_training import pictures_to_learn_from
    with pytest.warns(UserWarning, match='does not look like an OCT scan .* --task'): pictures_to_learn_from(load_records(bare, 'oct', warn=False), 'oct')

@pytest.mark.parametrize('wrong,said', [(dict(method='SimCLR'), 'did you mean simclr'), (dict(method='vic-reg'), 'did you mean vicreg'), (dict(views='fundis'), 'did you mean fundus'),
    (dict(optimiser='lar'), 'did you mean lars'), (dict(part=1), 'at least 2'), (dict(accumulate=2), 'part=N takes a large one piece by piece'), (dict(temperature=0), 'between 0.01'),
    (dict(size=8), 'at least 28'), (dict(bs=1), 'at least 4'), (dict(crop='x'), 'choose one of fundus'), (dict(warmup=1.), 'less than 1'), (dict(knn=-1), 'at least 0')])
def test_near_misses_in_one_line(bare, tmp_path, wrong, said):
    with pytest.raises(SettingError, match=said) as e: pretrain(bare, out=tmp_path/'w', **wrong)
    assert '\n' not in str(e.value) and not (tmp_path/'w').exists()

def test_a_batch_larger_than_the_data_and_parts_that_leave_one_over(bare, tmp_path):
    "Taken whole; 2 views of 24 pictures in parts of 47 would leave a part of one, which cannot be normalised"
    r = load_records(bare).head(24)
    assert pretrain(r, out=tmp_path/'a', bs=500, part=47, epochs=1).finished

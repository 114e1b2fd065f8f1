"Training, prediction, comparison and report: what a kill, a bad option, bad data or too little memory does"
import json, multiprocessing, os, random, signal, socket, subprocess, sys, time, warnings
from pathlib import Path

import numpy as np, pandas as pd, pytest

from retina_nb.core import DataError, Run, RunError, SettingError
from retina_nb.data.records import load_records
from retina_nb.data.split import split_records
from retina_nb.synth.dataset import sample_dir

TINY = dict(arch='test_resnet', size=48, epochs=2, no_pretrained=True)
SMALL = dict(arch='test_resnet', size=32, epochs=3, pretrained=False, progress=False)

@pytest.fixture(scope='module')
def records_csv(tmp_path_factory):
    "A small records table over the sample, with every grade in every split"
    r = split_records(load_records(sample_dir()), seed=42).groupby(['split', 'label'], group_keys=False).head(8)
    f = tmp_path_factory.mktemp('records')/'records.csv'
    r.to_csv(f, index=False)
    return f

@pytest.fixture(scope='module')
def records(records_csv): return load_records(records_csv)

@pytest.fixture
def command(capsys):
    "One of the package's commands, called in this process as its console script would; (status, stdout, stderr)"
    from retina_nb.train.compare_runs import retina_compare
    from retina_nb.train.prediction import retina_evaluate
    from retina_nb.report.run_report import retina_report
    from retina_nb.train.training import retina_train
    here = dict(retina_train=retina_train, retina_evaluate=retina_evaluate, retina_compare=retina_compare, retina_report=retina_report)
    def _call(name, *args, **kwargs):
        capsys.readouterr()
        try: here[name](*[[str(x) for x in a] if isinstance(a, list) else str(a) for a in args], **{k: str(v) if isinstance(v, Path) else v for k,v in kwargs.items()})
        except SystemExit as e: status = e.code
        else: status = 0
        said = capsys.readouterr()
        return status, said.out, said.err
    return _call

def errors(stderr): return [l for l in stderr.splitlines() if l.startswith('error:')]

@pytest.fixture(scope='module')
def trained(records_csv, tmp_path_factory):
    "A run made by the command itself, in a process of its own"
    out = tmp_path_factory.mktemp('runs')/'one'
    exe = Path(sys.executable).with_name('retina_train')
    p = subprocess.run([str(exe), str(records_csv), '--out', str(out), '--arch', 'test_resnet', '--size', '48', '--epochs', '2', '--no_pretrained'], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    assert 'weighted kappa' in p.stdout and 'Traceback' not in p.stderr
    return out

def apart(f, *args, **kwargs):
    "A process of its own that has the modules loaded but has run nothing: torch must not be forked after it has trained"
    m = multiprocessing.get_context('forkserver')
    m.set_forkserver_preload(['retina_nb.train.training'])
    p = m.Process(target=f, args=args, kwargs=kwargs)
    p.start()
    return p

def test_a_run_holds_what_the_interface_promises(trained):
    for f in ('config.json', 'records.csv', 'history.csv', 'model.safetensors', 'predictions.csv', 'predictions_valid.csv', 'metrics.json', 'figures/curves.png', 'figures/confusion.png'):
        assert (trained/f).stat().st_size > 0, f
    r = Run(trained)
    assert list(r.history.epoch) == [0, 1]
    assert list(r.predictions.columns[:4]) == ['image', 'patient', 'target', 'grade']
    assert not set(r.predictions.patient) & set(r.records.patient[r.records.split == 'train'])
    np.testing.assert_allclose(r.predictions[[f'p_{i}' for i in range(5)]].sum(axis=1), 1, atol=1e-6)
    m = r.metrics
    assert {'accuracy', 'balanced_accuracy', 'qwk', 'macro_auc', 'f1_macro', 'referable', 'confusion', 'majority', 'n_images', 'n_patients', 'seed', 'task'} <= set(m)
    assert np.sum(m['confusion']) == m['n_images'] == len(r.predictions)
    assert not list(trained.glob('*.pkl')) + list(trained.glob('*.pth'))
    c = r.config
    assert c['parameters'] > 3e5 and c['flops'] > 1e6 and c['peak_memory_mb'] > 0 and c['seconds'] > 0 and c['processes'] == 1 and c['data']['hash']
    assert {'retina_nb', 'torch', 'fastai', 'timm'} <= set(c['versions'])
    assert c['ema'] == 0 and c['mix'] == 'none' and c['precision'] == 'fp32' # every option is written down

def test_same_seed_same_bytes_and_a_finished_run_is_left_alone(trained, records_csv, tmp_path, command):
    out = tmp_path/'again'
    assert command('retina_train', records_csv, out=out, **TINY)[0] == 0
    assert (out/'model.safetensors').read_bytes() == (trained/'model.safetensors').read_bytes()
    assert not (out/'checkpoint.safetensors').exists()
    before = (out/'metrics.json').stat().st_mtime_ns
    assert command('retina_train', records_csv, out=out, resume=True, **TINY)[0] == 0
    assert (out/'metrics.json').stat().st_mtime_ns == before
    status, _, err = command('retina_train', records_csv, out=out, **TINY)
    assert status == 2 and '--resume' in errors(err)[0]
    status, _, err = command('retina_train', records_csv, out=out, resume=True, lr=.5, **TINY)
    assert status == 2 and 'lr=' in errors(err)[0]
    whole = (out/'model.safetensors').read_bytes()
    (out/'model.safetensors').write_bytes(whole[:len(whole)//2])
    status, _, err = command('retina_train', records_csv, out=out, resume=True, **TINY)
    assert status == 2 and 'model.safetensors' in errors(err)[0] and 'cut short' in errors(err)[0]

def _kill_check(records, tmp_path, kills, opts, seed=1):
    "Kill trainings at random moments, resuming each until it ends, `kills` times in all; every one ends as the run that was left alone"
    from retina_nb.train.training import train
    apart(print).join() # the first one waits for the imports
    start = time.perf_counter()
    apart(train, records, out=tmp_path/'whole', **opts).join()
    took, whole = time.perf_counter() - start, Run(tmp_path/'whole')
    def same(out):
        assert Run(out).finished and not (out/'checkpoint.safetensors').exists()
        for f in ('model.safetensors', 'predictions.csv'): assert (out/f).read_bytes() == (whole.path/f).read_bytes(), f
        pd.testing.assert_frame_equal(Run(out).history.drop(columns='seconds'), whole.history.drop(columns='seconds'))
    rnd, died, n, end = random.Random(seed), 0, 0, time.time() + 900
    while died < kills and time.time() < end:
        p = apart(train, records, out=tmp_path/f'killed{n}', resume=True, **opts)
        p.join(rnd.uniform(.05, .7*took))
        if p.is_alive():
            p.kill(); p.join()
            died += 1
        else:
            assert p.exitcode == 0, 'what a kill left could not be resumed'
            same(tmp_path/f'killed{n}')
            n += 1
    assert died == kills
    apart(train, records, out=tmp_path/f'killed{n}', resume=True, **opts).join()
    same(tmp_path/f'killed{n}')

def test_sigkill_at_random_moments_changes_nothing(records, tmp_path): _kill_check(records, tmp_path, 1, SMALL)

@pytest.mark.full
def test_sigkill_at_twenty_random_moments_changes_nothing(records, tmp_path):
    _kill_check(records, tmp_path, 20, SMALL | dict(epochs=14, ema=.9, best=True, mix='mixup', accumulate=2, bs=8))

class Interrupt:
    "Stop after an epoch, as a kill would"
    def __new__(cls, epoch):
        from fastai.callback.core import Callback
        from retina_nb.train.checkpoint import epoch_of
        class Stop(Callback):
            order = 99
            def after_epoch(self):
                if epoch_of(self.learn) == epoch: raise SystemExit
        return Stop()

@pytest.fixture(scope='module')
def start_weights(records, tmp_path_factory):
    from retina_nb.train.training import train
    return str(train(records, out=tmp_path_factory.mktemp('start')/'run', **SMALL|dict(epochs=1)).path/'model.safetensors')

@pytest.mark.parametrize('recipe', [
    dict(ema=.9, best=True, mix='mixup', accumulate=3, bs=8),
    dict(freeze_epochs=2, epochs=2, start_size=28, precision='bf16', mix='cutmix'),
    pytest.param(dict(loss='ce', smoothing=.1, class_weights='sqrt', sampling='balanced', channels=1, channels_last=False), marks=pytest.mark.full),
    pytest.param(dict(arch='torchvision/resnet18', epochs=2, loss='regression', size=32), marks=pytest.mark.full),
    pytest.param(dict(compile=True, epochs=2), marks=pytest.mark.full)], ids=lambda r: ' '.join(r))
def test_resuming_is_exact_with_every_recipe(records, tmp_path, recipe, start_weights):
    from retina_nb.train.config import TrainConfig
    from retina_nb.train.training import train
    opts = SMALL | recipe | (dict(weights=start_weights) if 'freeze_epochs' in recipe else {})
    whole = train(records, out=tmp_path/'whole', **opts)
    n = TrainConfig.of_run(whole.config).n_epochs
    for stop in range(n - 1): # one more epoch each time
        with pytest.raises(SystemExit): train(records, out=tmp_path/'parts', cbs=[Interrupt(stop)], resume=True, **opts)
    parts = train(records, out=tmp_path/'parts', resume=True, **opts)
    assert (parts.path/'model.safetensors').read_bytes() == (whole.path/'model.safetensors').read_bytes()
    assert parts.history.drop(columns='seconds').equals(whole.history.drop(columns='seconds'))
    for k,v in recipe.items(): assert whole.config[k] == v
    assert list(whole.history.epoch) == list(range(n))
    if 'best' in recipe: assert whole.config['best_epoch'] == whole.history.qwk.idxmax()
    from retina_nb.train.prediction import predict
    assert predict(whole, whole.records[whole.records.split == 'test'], progress=False).p_1.tolist() == pytest.approx(whole.predictions.p_1.tolist(), abs=1e-6)

def test_early_stopping_is_remembered(records, tmp_path):
    from retina_nb.train.training import train
    opts = SMALL | dict(epochs=9, lr=1e-6, patience=1, aug=0.)
    run = train(records, out=tmp_path/'run', **opts)
    n = len(run.history)
    assert n < 9 and run.config['best_epoch'] == run.history.qwk.idxmax()
    with pytest.raises(SystemExit): train(records, out=tmp_path/'b', cbs=[Interrupt(0)], **opts)
    assert len(train(records, out=tmp_path/'b', resume=True, **opts).history) == n
    assert (tmp_path/'b'/'model.safetensors').read_bytes() == (run.path/'model.safetensors').read_bytes()

def test_ctrl_c_ends_cleanly_and_can_be_resumed(records_csv, records, tmp_path):
    from retina_nb.train.training import train
    out, exe = tmp_path/'run', Path(sys.executable).with_name('retina_train')
    p = subprocess.Popen([str(exe), str(records_csv), '--out', str(out), '--arch', 'test_resnet', '--size', '32', '--epochs', '60', '--no_pretrained'],
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.time() + 100
    while not (out/'history.csv').is_file() and p.poll() is None and time.time() < end: time.sleep(.02)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 130 and 'Traceback' not in err and '--resume' in err and 'of 60 epochs' in err, err
    reached = len(Run(out).history)
    assert 1 <= reached < 60
    class Enough(Exception): pass
    from fastai.callback.core import Callback
    class First(Callback):
        def before_train(self): raise Enough(self.epoch)
    with pytest.raises(Enough, match=rf'\b({reached-1}|{reached})\b'): # the checkpoint is a moment later than the history
        train(records, out=out, resume=True, cbs=[First()], **SMALL | dict(epochs=60))

@pytest.mark.parametrize('args, says', [
    (dict(task='glaucoma'), 'glaucoma'), (dict(arch='resnet81'), 'resnet81'), (dict(arch='torchvision/resnet81'), 'resnet18'), (dict(loss='mse'), 'mse'),
    (dict(size=8), 'size=8'), (dict(epochs=0), 'epochs=0'), (dict(lr=-1), 'lr=-1'), (dict(bs=1), 'bs=1'), (dict(sampling='fair'), 'fair'),
    (dict(contrast='hdr'), 'hdr'), (dict(aug=-1), '-1'), (dict(weights='model.pth'), 'model.pth'), (dict(mix='blend'), 'cutmix'), (dict(precision='fp8'), 'bf16'),
    (dict(ema=1.), 'ema=1'), (dict(smoothing=.1), "'ce'"), (dict(freeze_epochs=1), 'frozen'), (dict(start_size=99), 'size=48'), (dict(channels=2), 'channels'),
    (dict(accumulate=0), 'accumulate=0'), (dict(track='excel'), 'mlflow'), (dict(class_weights='balanced'), "'ce'")], ids=str)
def test_bad_options_are_one_line_and_leave_nothing(records_csv, tmp_path, command, args, says):
    status, _, err = command('retina_train', records_csv, out=tmp_path/'run', **TINY | args)
    assert status == 2 and len(errors(err)) == 1 and says in errors(err)[0] and 'Traceback' not in err
    assert not (tmp_path/'run').exists()

def test_options_by_a_wrong_name_get_the_right_one(records):
    from retina_nb.train.training import train
    with pytest.raises(SettingError, match="'pretraned': did you mean 'pretrained'"): train(records, pretraned=False)
    with pytest.raises(SettingError, match="did you mean 'epochs'"): train(records, epoch=3)
    with pytest.raises(DataError, match='not a list'): train([1, 2, 3])
    with pytest.raises(DataError, match='no/such'): train('no/such/folder', pretrained=False)

@pytest.mark.full
def test_data_may_be_named(tmp_path):
    from retina_nb.train.training import train
    assert len(train('synth:120', out=tmp_path/'run', **SMALL|dict(epochs=1)).records) == 120

def test_bad_data_is_refused_before_the_first_epoch(tmp_path, records_csv, command):
    table = pd.read_csv(records_csv)
    changes = [('grade7', dict(label=7), '7'), ('missing', dict(image='gone.jpg'), 'gone.jpg')]
    for name, change, says in changes:
        bad = table.copy()
        for k,v in change.items(): bad.loc[3, k] = v
        bad.to_csv(tmp_path/f'{name}.csv', index=False)
        status, _, err = command('retina_train', tmp_path/f'{name}.csv', out=tmp_path/name, **TINY)
        assert status == 2 and len(errors(err)) == 1 and says in errors(err)[0], err
        assert not (tmp_path/name).exists()
    whole = [('no4', table[table.label != 4], 'Proliferative'), ('unlabelled', table.assign(label=pd.NA), 'label'),
             ('one_patient', table.assign(patient='a', split=''), 'patient')]
    for name, bad, says in whole:
        bad.to_csv(tmp_path/f'{name}.csv', index=False)
        status, _, err = command('retina_train', tmp_path/f'{name}.csv', out=tmp_path/name, **TINY)
        assert status == 2 and len(errors(err)) == 1 and says in errors(err)[0], err
        assert not (tmp_path/name).exists()

def test_a_class_absent_from_validation_and_test_is_a_warning_and_null(tmp_path, records_csv, command):
    t = pd.read_csv(records_csv)
    t[(t.label != 3) | (t.split == 'train')].to_csv(tmp_path/'r.csv', index=False)
    status, _, err = command('retina_train', tmp_path/'r.csv', out=tmp_path/'run', **TINY)
    assert status == 0 and 'Severe' in err and 'valid split' in err and 'test split' in err, err
    m = Run(tmp_path/'run').metrics
    assert np.sum(m['confusion'][3]) == 0
    text = json.dumps(m)
    assert 'NaN' not in text and 'null' in text

def test_skip_bad_leaves_out_and_says_so(tmp_path, records_csv, command):
    bad = pd.read_csv(records_csv)
    i = bad.index[(bad.split == 'train') & (bad.label == 0)][0]
    bad.loc[i, 'image'] = 'gone.jpg'
    bad.to_csv(tmp_path/'r.csv', index=False)
    status, _, err = command('retina_train', tmp_path/'r.csv', out=tmp_path/'run', skip_bad=True, **TINY)
    assert status == 0, err
    assert len(Run(tmp_path/'run').records) == len(bad) - 1 and 'gone.jpg' in err

@pytest.mark.parametrize('arch', ['resnet18', 'torchvision/resnet18'])
def test_imagenet_weights_without_a_network_fail_in_seconds(records_csv, tmp_path, monkeypatch, command, arch):
    "A host that accepts and never answers: the worst kind of network"
    import torchvision
    s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
    monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{s.getsockname()[1]}')
    class Weights:
        class DEFAULT: url = f'http://127.0.0.1:{s.getsockname()[1]}/nothing-like-it.pth'
    monkeypatch.setattr(torchvision.models, 'get_model_weights', lambda name: Weights)
    start = time.perf_counter()
    status, _, err = command('retina_train', records_csv, out=tmp_path/'run', arch=arch)
    s.close()
    assert status == 2 and '--no_pretrained' in errors(err)[0] and len(errors(err)) == 1
    assert time.perf_counter() - start < 8 and not (tmp_path/'run').exists()

def test_out_of_memory_halves_the_batch_and_is_remembered(records, tmp_path):
    import torch
    from fastai.callback.core import Callback
    from retina_nb.train.training import train
    class SmallDevice(Callback):
        "Room for batches of 8, from the second epoch on"
        order = -8
        def before_batch(self):
            if self.training and self.epoch and len(self.x) > 8: raise torch.OutOfMemoryError('CUDA out of memory')
    with pytest.warns(UserWarning, match='bs=8 and accumulate=4'): run = train(records, out=tmp_path/'run', cbs=[SmallDevice()], **SMALL)
    assert run.config['memory'] == [dict(epoch=1, bs=16, accumulate=2), dict(epoch=1, bs=8, accumulate=4)]
    assert run.config['bs'] == 32 and run.finished and list(run.history.epoch) == [0, 1, 2]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        with pytest.raises(SystemExit): train(records, out=tmp_path/'b', cbs=[SmallDevice(), Interrupt(1)], **SMALL)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        train(records, out=tmp_path/'b', cbs=[SmallDevice()], resume=True, **SMALL)
    assert not [w for w in said if 'out of memory' in str(w.message)] # begun with the batch that worked
    assert (tmp_path/'b'/'model.safetensors').read_bytes() == (run.path/'model.safetensors').read_bytes()
    class NoRoom(Callback):
        order = -8
        def before_batch(self):
            if self.training: raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    with pytest.raises(RunError, match='--size'), pytest.warns(UserWarning): train(records, out=tmp_path/'c', cbs=[NoRoom()], **SMALL)

def test_nan_stops_with_the_last_epoch_kept(records, tmp_path):
    from fastai.callback.core import Callback
    from retina_nb.train.training import train
    class Poison(Callback):
        order = -10
        def after_loss(self):
            if self.training and self.epoch == 1: self.learn.loss_grad = self.loss_grad*float('nan'); self.learn.loss = self.loss_grad.clone()
    with pytest.raises(RunError, match='^the loss became nan in epoch 1'): train(records, out=tmp_path/'run', cbs=[Poison()], **SMALL)
    assert (tmp_path/'run'/'checkpoint.safetensors').is_file() and not Run(tmp_path/'run').finished
    assert train(records, out=tmp_path/'run', resume=True, **SMALL).finished

def test_evaluate_a_run_new_data_and_a_table(trained, tmp_path, command):
    status, said, err = command('retina_evaluate', trained, out=tmp_path/'a', n_boot=200)
    assert status == 0 and 'weighted kappa' in said, err
    a = json.loads((tmp_path/'a'/'metrics.json').read_text())
    assert a['qwk']['value'] == pytest.approx(Run(trained).metrics['qwk']['value'])
    assert a['referable']['threshold'] == pytest.approx(Run(trained).metrics['referable']['threshold'])
    status, _, err = command('retina_evaluate', tmp_path/'a'/'predictions.csv', out=tmp_path/'b', n_boot=200)
    assert status == 0, err
    assert json.loads((tmp_path/"b"/"metrics.json").read_text())["qwk"] == a["qwk"]
    load_records(sample_dir()).head(40).drop(columns='split').to_csv(tmp_path/'forty.csv', index=False)
    status, _, err = command('retina_evaluate', trained, data=str(tmp_path/'forty.csv'), n_boot=100, out=tmp_path/'c')
    assert status == 0, err
    assert json.loads((tmp_path/'c'/'metrics.json').read_text())['n_images'] == 40
    status, _, err = command('retina_evaluate', tmp_path/'a'/'predictions.csv', data='synth:100')
    assert status == 2 and len(errors(err)) == 1
    status, _, err = command('retina_evaluate', tmp_path/'nothing')
    assert status == 2 and 'nothing' in errors(err)[0]

def test_compare_and_report(trained, records_csv, tmp_path, command):
    other = tmp_path/'other'
    assert command('retina_train', records_csv, out=other, loss='regression', **TINY)[0] == 0
    status, said, err = command('retina_compare', [trained, other], out=tmp_path/'cmp')
    assert status == 0 and 'other' in said, err
    table = pd.read_csv(tmp_path/'cmp'/'comparison.csv')
    assert list(table.loss) == ['qwk', 'regression'] and (tmp_path/'cmp'/'figures'/'comparison.png').is_file()
    assert (table.flops > 1e6).all() and (table.parameters > 1e5).all() and (table.seconds > 0).all()
    status, _, err = command('retina_compare', [trained, trained])
    assert status == 2 and 'once' in errors(err)[0]
    status, _, err = command('retina_report', tmp_path)
    assert status == 2 and len(errors(err)) == 1

def test_mlflow_has_settings_curves_scores_and_the_bundle(records, tmp_path):
    mlflow = pytest.importorskip('mlflow', reason='mlflow-skinny is not installed')
    from retina_nb.train.trackers import default_uri
    from retina_nb.train.training import train
    with pytest.raises(SystemExit): train(records, out=tmp_path/'run', track='mlflow', cbs=[Interrupt(0)], **SMALL)
    run = train(records, out=tmp_path/'run', track='mlflow', resume=True, **SMALL)
    client = mlflow.MlflowClient(tracking_uri=default_uri(run.path))
    found = client.search_runs([client.get_experiment_by_name('retina_nb').experiment_id])
    assert len(found) == 1 # the resumed run goes on in the same one
    d = found[0].data
    assert d.params['arch'] == 'test_resnet' and d.params['data.hash'] == run.config['data']['hash']
    assert [m.step for m in client.get_metric_history(found[0].info.run_id, 'qwk')] == [0, 1, 2]
    assert d.metrics['test_qwk'] == pytest.approx(run.metrics['qwk']['value'])
    from retina_nb.deploy.exporter import retina_export
    retina_export(str(run.path), out=str(tmp_path/'bundle'), register='eyes')
    version, = client.search_model_versions("name = 'eyes'")
    assert version.run_id == found[0].info.run_id and int(version.version) == 1
    assert {f.name for f in (tmp_path/'bundle').iterdir()} == {f.path.rpartition('/')[2] for f in client.list_artifacts(version.run_id, 'bundle')}

def test_tensorboard_draws_frozen_other_and_resumed_epochs_one_after_the_other(records, tmp_path, start_weights):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator', reason='tensorboard is not installed')
    from retina_nb.train.training import train
    how = SMALL | dict(weights=start_weights, freeze_epochs=1, track='tensorboard')
    with pytest.raises(SystemExit): train(records, out=tmp_path/'run', cbs=[Interrupt(1)], **how)
    run = train(records, out=tmp_path/'run', resume=True, **how)
    board = accumulator.EventAccumulator(str(run.path/'tensorboard')).Reload()
    steps = [e.step for e in board.Scalars('qwk')]
    assert len(run.history) == 4 and steps == [steps[0]*i for i in (1, 2, 3, 4)]
    assert [e.value for e in board.Scalars('qwk')] == pytest.approx(list(run.history.qwk), abs=1e-6)
    assert [(e.step, e.value) for e in board.Scalars('test_qwk')] == [(steps[-1], pytest.approx(run.metrics['qwk']['value']))]

@pytest.mark.parametrize('epochs', [2, pytest.param(8, marks=pytest.mark.full)])
def test_two_processes_train_as_one(records, tmp_path, epochs):
    "Through torchrun, over gloo: the same images once an epoch, scores as of one process within noise, and a resume"
    from retina_nb.train.training import train
    common = ['--arch', 'test_resnet', '--size', '48', '--epochs', str(epochs), '--no_pretrained', '--bs', '32', '--ema', '.9', '--best']
    full = split_records(load_records(sample_dir()), seed=42)
    if epochs < 8: full = full.groupby(['split', 'label']).head(16).reset_index(drop=True)
    full.to_csv(tmp_path/'all.csv', index=False)
    def two(*more):
        return subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m', 'retina_nb.train.training',
                               str(tmp_path/'all.csv'), '--out', str(tmp_path/'two'), *common, *more], capture_output=True, text=True, timeout=900, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    p = two()
    assert p.returncode == 0, p.stderr[-3000:]
    pair, one = Run(tmp_path/'two'), train(full, out=tmp_path/'one', arch='test_resnet', size=48, epochs=epochs, pretrained=False, bs=32, ema=.9, best=True, progress=False)
    assert pair.config['processes'] == 2 and pair.finished
    assert pair.predictions.image.tolist() == one.predictions.image.tolist()
    a, b = pair.metrics['qwk'], one.metrics['qwk']
    if epochs == 8: assert max(a['ci95'][0], b['ci95'][0]) < min(a['ci95'][1], b['ci95'][1]) and abs(a['value'] - b['value']) < .2 # learned by then
    from retina_nb.train.prediction import predict
    again = predict(pair, pair.records[pair.records.split == 'test'], progress=False)
    np.testing.assert_allclose(again.p_1, pair.predictions.p_1, atol=1e-5)
    assert two('--resume').returncode == 0
    with pytest.raises(RunError, match='processes=2'): train(full, out=tmp_path/'two', arch='test_resnet', size=48, epochs=epochs, pretrained=False, bs=32, ema=.9, best=True, progress=False, resume=True)

def test_shares_of_processes_cover_every_image_once():
    from retina_nb.train.distributed import _share
    rnd = random.Random(0)
    for _ in range(200):
        n = rnd.randint(1, 6); per = rnd.randint(2, 9); bs = n*per; size = rnd.randint(2*n, 200)
        order = rnd.sample(range(size), size)
        whole = [_share(order, bs, r, n, True) for r in range(n)]
        assert sorted(sum(whole, [])) == list(range(size))
        parts = [_share(order, bs, r, n, False) for r in range(n)]
        steps = {-(-len(p)//per) for p in parts}
        assert len(steps) == 1 # everyone takes the same number of steps
        assert size - len(sum(parts, [])) < 2*n and all(len(p) % per != 1 for p in parts) # none alone in a batch

def test_a_cache_is_trained_on_by_way_of_itself(records, tmp_path):
    from retina_nb.data.cache import cache_records
    from retina_nb.train.training import train
    cache_records(records, tmp_path/'cache', size=64, progress=False)
    run = train(str(tmp_path/'cache'), out=tmp_path/'run', **SMALL|dict(epochs=1))
    assert run.config['preprocess']['via'] == 64 and len(run.records) == len(records)
    assert train(str(tmp_path/'cache'), out=tmp_path/'run', resume=True, **SMALL|dict(epochs=1)).finished

"Training, prediction, comparison and report from the command line: what a kill, a bad option or bad data does"
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path

import numpy as np, pandas as pd, pytest

from retina_nb.core import DataError, Run, RunError, SettingError
from retina_nb.data import load_records
from retina_nb.split import split_records
from retina_nb.synth import sample_dir

TINY = ['--arch', 'test_resnet', '--size', '48', '--epochs', '2', '--no_pretrained']

@pytest.fixture(scope='module')
def records_csv(tmp_path_factory):
    "A small records table over the sample, with every grade in every part"
    r = split_records(load_records(sample_dir()), seed=42).groupby(['split', 'label'], group_keys=False).head(10)
    f = tmp_path_factory.mktemp('records')/'records.csv'
    r.to_csv(f, index=False)
    return f

def run(name, *args, timeout=300, **env):
    "One of the package's commands; returns (status, stdout, stderr)"
    exe = Path(sys.executable).with_name(name)
    p = subprocess.run([str(exe), *map(str, args)], capture_output=True, text=True, timeout=timeout, env={**os.environ, 'OMP_NUM_THREADS': '1', **env})
    return p.returncode, p.stdout, p.stderr

def errors(stderr): return [l for l in stderr.splitlines() if l.startswith('error:')]

@pytest.fixture(scope='module')
def trained(records_csv, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs')/'one'
    status, said, err = run('retina_train', records_csv, '--out', out, *TINY)
    assert status == 0, err
    return out

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

def test_same_seed_same_bytes_and_resume_after_sigkill(trained, records_csv, tmp_path):
    "Killed after its first epoch and resumed, a run ends with the weights of one that went through"
    out = tmp_path/'killed'
    exe = Path(sys.executable).with_name('retina_train')
    p = subprocess.Popen([str(exe), str(records_csv), '--out', str(out), *TINY], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    end = time.time() + 200
    while not (out/'checkpoint.safetensors').is_file() and p.poll() is None and time.time() < end: time.sleep(.01)
    p.send_signal(signal.SIGKILL); p.wait()
    assert (out/'config.json').is_file() and not (out/'metrics.json').is_file()
    status, _, err = run('retina_train', records_csv, '--out', out, *TINY)
    assert status == 2 and '--resume' in errors(err)[0]
    status, _, err = run('retina_train', records_csv, '--out', out, *TINY, '--resume')
    assert status == 0, err
    assert (out/'model.safetensors').read_bytes() == (trained/'model.safetensors').read_bytes()
    assert not (out/'checkpoint.safetensors').exists()
    before = (out/'metrics.json').stat().st_mtime_ns
    assert run('retina_train', records_csv, '--out', out, *TINY, '--resume')[0] == 0
    assert (out/'metrics.json').stat().st_mtime_ns == before
    status, _, err = run('retina_train', records_csv, '--out', out, *TINY, '--resume', '--lr', '0.5')
    assert status == 2 and 'lr=' in errors(err)[0]

@pytest.mark.parametrize('args, says', [
    (['--task', 'glaucoma'], 'glaucoma'), (['--arch', 'resnet81'], 'resnet81'), (['--loss', 'mse'], 'mse'), (['--size', '8'], 'size=8'),
    (['--epochs', '0'], 'epochs=0'), (['--lr', '-1'], 'lr=-1'), (['--bs', '1'], 'bs=1'), (['--sampling', 'fair'], 'fair'),
    (['--contrast', 'hdr'], 'hdr'), (['--aug', '-1'], '-1'), (['--weights', 'model.pth'], 'model.pth')])
def test_bad_options_are_one_line_and_leave_nothing(records_csv, tmp_path, args, says):
    status, _, err = run('retina_train', records_csv, '--out', tmp_path/'run', *TINY, *args)
    assert status == 2 and len(errors(err)) == 1 and says in errors(err)[0] and 'Traceback' not in err
    assert not (tmp_path/'run').exists()

def test_bad_data_is_refused_before_the_first_epoch(tmp_path, records_csv):
    table = pd.read_csv(records_csv)
    for name, change, says in [('grade7', dict(label=7), '7'), ('missing', dict(image='gone.jpg'), 'gone.jpg')]:
        bad = table.copy()
        for k,v in change.items(): bad.loc[3, k] = v
        bad.to_csv(tmp_path/f'{name}.csv', index=False)
        status, _, err = run('retina_train', tmp_path/f'{name}.csv', '--out', tmp_path/name, *TINY)
        assert status == 2 and len(errors(err)) == 1 and says in errors(err)[0], err
        assert not (tmp_path/name).exists()
    table[table.label != 4].to_csv(tmp_path/'no4.csv', index=False)
    status, _, err = run('retina_train', tmp_path/'no4.csv', '--out', tmp_path/'no4', *TINY)
    assert status == 2 and 'Proliferative' in errors(err)[0]

def test_skip_bad_leaves_out_and_says_so(tmp_path, records_csv):
    bad = pd.read_csv(records_csv)
    i = bad.index[(bad.split == 'train') & (bad.label == 0)][0]
    bad.loc[i, 'image'] = 'gone.jpg'
    bad.to_csv(tmp_path/'r.csv', index=False)
    status, _, err = run('retina_train', tmp_path/'r.csv', '--out', tmp_path/'run', *TINY, '--skip_bad')
    assert status == 0, err
    assert len(Run(tmp_path/'run').records) == len(bad) - 1 and 'gone.jpg' in err

def test_imagenet_weights_without_a_network_fail_in_seconds(records_csv, tmp_path):
    "A host that accepts and never answers: the worst kind of network"
    s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()
    from retina_nb import model
    start = time.time()
    old = os.environ.get('HF_ENDPOINT')
    os.environ['HF_ENDPOINT'] = f'http://127.0.0.1:{s.getsockname()[1]}'
    try:
        with pytest.raises(SettingError, match='--no_pretrained'): model.Net('resnet18', 5, pretrained=True)
    finally:
        s.close()
        os.environ.pop('HF_ENDPOINT') if old is None else os.environ.update(HF_ENDPOINT=old)
    assert time.time() - start < 5

def test_evaluate_a_run_new_data_and_a_table(trained, tmp_path):
    status, said, err = run('retina_evaluate', trained, '--out', tmp_path/'a', '--n_boot', '200')
    assert status == 0 and 'weighted kappa' in said, err
    a = json.loads((tmp_path/'a'/'metrics.json').read_text())
    assert a['qwk']['value'] == pytest.approx(Run(trained).metrics['qwk']['value'])
    assert a['referable']['threshold'] == pytest.approx(Run(trained).metrics['referable']['threshold'])
    status, _, err = run('retina_evaluate', tmp_path/'a'/'predictions.csv', '--out', tmp_path/'b', '--n_boot', '200')
    assert status == 0, err
    assert json.loads((tmp_path/"b"/"metrics.json").read_text())["qwk"] == a["qwk"]
    status, _, err = run('retina_evaluate', trained, '--data', 'synth:100', '--n_boot', '100')
    assert status == 0, err
    assert json.loads((trained/'eval'/'synth_100'/'metrics.json').read_text())['n_images'] == 100
    status, _, err = run('retina_evaluate', tmp_path/'a'/'predictions.csv', '--data', 'synth:100')
    assert status == 2 and len(errors(err)) == 1
    status, _, err = run('retina_evaluate', tmp_path/'nothing')
    assert status == 2 and 'nothing' in errors(err)[0]

def test_compare_and_report(trained, records_csv, tmp_path):
    other = tmp_path/'other'
    assert run('retina_train', records_csv, '--out', other, *TINY, '--loss', 'regression')[0] == 0
    status, said, err = run('retina_compare', trained, other, '--out', tmp_path/'cmp')
    assert status == 0 and 'other' in said, err
    table = pd.read_csv(tmp_path/'cmp'/'comparison.csv')
    assert list(table.loss) == ['qwk', 'regression'] and (tmp_path/'cmp'/'figures'/'comparison.png').is_file()
    status, _, err = run('retina_compare', trained, trained)
    assert status == 2 and 'once' in errors(err)[0]
    status, said, err = run('retina_report', trained)
    assert status == 0, err
    page = (trained/'report.html').read_text()
    assert 'not for diagnosis' in page and 'http-equiv' not in page and len(page) < 5e6
    status, _, err = run('retina_report', tmp_path)
    assert status == 2 and len(errors(err)) == 1

def test_nan_stops_with_the_last_epoch_kept(records_csv, tmp_path):
    from fastai.callback.core import Callback
    from retina_nb.train import train
    class Poison(Callback):
        order = -10
        def after_loss(self):
            if self.training and self.epoch == 1: self.learn.loss_grad = self.loss_grad*float('nan'); self.learn.loss = self.loss_grad.clone()
    with pytest.raises(RunError, match='epoch 1'):
        train(load_records(records_csv), arch='test_resnet', size=48, epochs=3, out=tmp_path/'run', pretrained=False, progress=False, cbs=[Poison])
    assert (tmp_path/'run'/'checkpoint.safetensors').is_file() and not Run(tmp_path/'run').finished

def test_records_without_labels_are_refused(tmp_path):
    from retina_nb.train import train
    r = load_records(sample_dir()).head(20).assign(label=pd.NA)
    with pytest.raises(DataError, match='label'): train(r, arch='test_resnet', size=48, epochs=1, out=tmp_path/'run', pretrained=False, progress=False)

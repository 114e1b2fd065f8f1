"A network, loss, augmentation, metric and task of one's own, through training, resuming, prediction, export and the commands"
import json, subprocess, sys

import numpy as np, pandas as pd, pytest

torch = pytest.importorskip('torch')
from torch import nn
from retina_nb.core import Run, RunError, SettingError, Task, with_task
from retina_nb.data import load_records, split_records
from retina_nb.synth import sample_dir
from retina_nb.train import GradeLoss, Net, predict, train

SMALL = dict(size=32, epochs=2, progress=False)

def whole(n_out): return nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_out))
def body(): return nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU())
def shy(raw, y): return nn.functional.cross_entropy(raw, y) + .01*raw.square().mean()
def sure(p, y): return p.max(1)[0].mean()

class Doubled(GradeLoss):
    "Outputs that mean something else: half of them are thrown away"
    @property
    def n_out(self): return 2*self.k
    def probs(self, raw): return raw[:,:self.k].softmax(1)
    def forward(self, raw, y, reduction='mean'): return nn.functional.nll_loss(self.probs(raw).log(), y, reduction=reduction)

@pytest.fixture(scope='module')
def records():
    return split_records(load_records(sample_dir()), seed=42).groupby(['split', 'label'], group_keys=False).head(8).reset_index(drop=True)

def held_out(run): return run.records[run.records.split == 'test']

def same(run, **given):
    "Does prediction say again what the training wrote?"
    again = predict(run, held_out(run), progress=False, **given)
    np.testing.assert_allclose(again.p_1, run.predictions.p_1, atol=1e-6)
    return True


@pytest.mark.parametrize('arch', [whole, whole(5), body(), body], ids=['function', 'module', 'body', 'class'])
def test_a_network_of_ones_own(records, tmp_path, arch):
    if arch is body: arch = lambda n_out: body()
    before = {k: v.clone() for k,v in arch.state_dict().items()} if isinstance(arch, nn.Module) else {}
    run = train(records, arch=arch, out=tmp_path/'run', **SMALL)
    assert run.finished and run.config['own'] == ['arch'] and not run.config['pretrained']
    with pytest.raises(RunError, match='model='): predict(run, held_out(run), progress=False)
    assert same(run, model=arch)
    for k,v in before.items(): assert torch.equal(arch.state_dict()[k], v), 'the module that was given was changed'

def test_a_timm_model_as_an_object_is_the_one_by_name(records, tmp_path):
    import timm
    backbone = timm.create_model('test_resnet', num_classes=0, global_pool='')
    net = Net(backbone, 5)
    assert net.has_map and net.head.weight.shape == Net('test_resnet', 5).head.weight.shape
    features = timm.create_model('test_vit', num_classes=0, img_size=32)
    run = train(records, arch=features, out=tmp_path/'run', **SMALL)
    assert same(run, model=features)

def test_networks_that_cannot_be_used_are_named():
    for arch, says in ((lambda n: nn.Linear(7, n), 'does not take'), (lambda n: 'net', 'not a module'), (nn.Flatten(0), 'feature map')):
        with pytest.raises(SettingError, match=says): Net(arch, 5)

@pytest.mark.parametrize('loss', [shy, nn.CrossEntropyLoss(label_smoothing=.1), nn.CrossEntropyLoss], ids=['function', 'module', 'class'])
def test_a_plain_loss_is_not_needed_to_read_the_run(records, tmp_path, loss):
    run = train(records, arch='test_resnet', pretrained=False, loss=loss, out=tmp_path/'run', **SMALL)
    assert run.config['own'] == ['loss'] and run.config['softmax'] and same(run)

@pytest.mark.parametrize('loss', [Doubled, Doubled(5)], ids=['class', 'module'])
def test_a_loss_with_another_meaning_is(records, tmp_path, loss):
    run = train(records, arch='test_resnet', pretrained=False, loss=loss, out=tmp_path/'run', **SMALL)
    with pytest.raises(RunError, match='loss='): predict(run, held_out(run), progress=False)
    assert same(run, loss=loss)

def test_mixup_takes_a_loss_of_ones_own(records, tmp_path):
    assert train(records, arch='test_resnet', pretrained=False, loss=shy, mix='mixup', out=tmp_path/'run', **SMALL).finished

def test_augmentation_and_metrics(records, tmp_path):
    from torchvision.transforms import v2
    from fastai.metrics import accuracy
    seen = []
    def watch(a):
        if a.min() != a.max(): seen.append((tuple(a.shape), float(a.min()) >= 0 and float(a.max()) <= 1)) # a grey one is the trial
        return a
    run = train(records, arch='test_resnet', pretrained=False, aug=[v2.RandomHorizontalFlip(), watch], metrics=[sure, accuracy], out=tmp_path/'run', **SMALL)
    n = (run.records.split == 'train').sum()
    assert set(seen) == {((3, 32, 32), True)} and len(seen) in (2*n, 2*(n - 1)) # every training picture once an epoch, and no other
    h = run.history
    assert {'sure', 'train_sure', 'own_accuracy'} <= set(h) and np.allclose(h.own_accuracy, h.accuracy)
    p = run.predictions[[f'p_{i}' for i in range(5)]].to_numpy()
    assert run.metrics['own']['sure']['value'] == pytest.approx(p.max(1).mean(), abs=1e-5) and run.config['metrics'][0].endswith('.sure')
    assert same(run) # without any of it
    with pytest.raises(SettingError, match='keep its size'):
        train(records, arch='test_resnet', pretrained=False, aug=[v2.Resize(16)], out=tmp_path/'other', **SMALL)

def test_what_is_ones_own_can_be_resumed_and_taken_over(records, tmp_path):
    from fastai.callback.core import Callback
    class Stop(Callback):
        order = 99
        def after_epoch(self): raise SystemExit
    how = dict(arch=whole, loss=shy, metrics=[sure], aug=[nn.Identity()], **SMALL)
    a = train(records, out=tmp_path/'a', **how)
    with pytest.raises(SystemExit): train(records, out=tmp_path/'b', cbs=[Stop()], **how)
    with pytest.raises(RunError, match='arch='): train(records, out=tmp_path/'b', resume=True, **how | dict(arch='test_resnet', pretrained=False))
    b = train(records, out=tmp_path/'b', resume=True, **how)
    assert (a.path/'model.safetensors').read_bytes() == (b.path/'model.safetensors').read_bytes()
    with pytest.raises(RunError, match='model='): a.learner(progress=False)
    learn = a.learner(model=whole, loss=shy, progress=False)
    with learn.no_bar(): assert learn.validate()[1] == pytest.approx(a.history.accuracy.iloc[-1])

def test_freezing_needs_a_head(records, tmp_path):
    weights = train(records, arch=whole, out=tmp_path/'run', **SMALL).path/'model.safetensors'
    with pytest.raises(SettingError, match='no head'): train(records, arch=whole, weights=weights, freeze_epochs=1, out=tmp_path/'other', **SMALL)

def test_a_run_of_ones_own_is_exported_compared_and_explained(records, tmp_path):
    from retina_nb.deploy import export, load_bundle
    from retina_nb.explain import grad_cam, untrained
    from retina_nb.train import compare, load_model
    run = train(records, arch=body(), loss=shy, out=tmp_path/'run', **SMALL)
    with pytest.raises(RunError, match='model='): export(run, tmp_path/'bundle')
    load_bundle(export(run, tmp_path/'bundle', model=body()))
    other = train(records, arch='test_resnet', pretrained=False, out=tmp_path/'other', **SMALL)
    assert compare([run, other]).arch.tolist()[0].endswith('Sequential')
    model = load_model(run, model=body())
    maps = grad_cam(model, np.zeros((2, 32, 32, 3), np.uint8), 1)
    assert maps.shape == (2, 32, 32) and not torch.equal(untrained(model).body[0].weight, model.body[0].weight)

@pytest.fixture
def lesions(tmp_path):
    "A task of one's own, as a file"
    f = tmp_path/'lesions.json'
    f.write_text(Task('lesions', ('clear', 'lesions'), positive='lesions').to_json())
    return f

def test_a_task_of_ones_own_through_the_commands(records, tmp_path, lesions, capsys):
    from retina_nb.train import retina_compare, retina_evaluate, retina_train
    table = tmp_path/'two.csv'
    records.assign(label=(records.label > 0).astype(int)).drop(columns='task', errors='ignore').to_csv(table, index=False)
    for name in 'ab': retina_train(str(table), out=str(tmp_path/name), task=str(lesions), arch='test_resnet', size=32, epochs=1, no_pretrained=True, seed=ord(name))
    run = Run(tmp_path/'a')
    assert run.task.classes == ('clear', 'lesions') and run.config['task'] == 'lesions' and run.config['loss'] == 'ce'
    assert list(run.predictions)[-1] == 'task' and set(run.predictions.task) == {'lesions'} and run.metrics['task'] == 'lesions'
    retina_compare([str(tmp_path/'a'), str(tmp_path/'b')], out=str(tmp_path/'cmp'))
    preds = run.predictions.drop(columns='task')
    preds.to_csv(tmp_path/'preds.csv', index=False)
    retina_evaluate(str(tmp_path/'preds.csv'), task=str(lesions), out=str(tmp_path/'eval'), n_boot=100)
    retina_evaluate(str(run.path), data=str(table), out=str(tmp_path/'more'), n_boot=100)
    got = [json.loads((tmp_path/d/'metrics.json').read_text()) for d in ('eval', 'more')]
    assert [g['task'] for g in got] == ['lesions']*2 and got[1]['n_images'] == len(records)
    assert 'lesions' in capsys.readouterr().out

def test_columns_of_ones_own_through_the_commands(records, tmp_path, capsys):
    from retina_nb.train import retina_evaluate, retina_train
    table, names = tmp_path/'mine.csv', dict(image='photo', label='severity', patient='person')
    records[list(names)].rename(columns=names).to_csv(table, index=False)
    columns = {f'{k}_col': v for k,v in names.items()}
    retina_train(str(table), out=str(tmp_path/'run'), arch='test_resnet', size=32, epochs=1, no_pretrained=True, **columns)
    assert "'severity'" in capsys.readouterr().out and Run(tmp_path/'run').records.patient.nunique() == records.patient.nunique()
    retina_evaluate(str(tmp_path/'run'), data=str(table), out=str(tmp_path/'eval'), n_boot=100, **columns)
    assert json.loads((tmp_path/'eval'/'metrics.json').read_text())['n_images'] == len(records)

def test_a_run_of_ones_own_task_is_read_in_a_fresh_process(records, tmp_path):
    "Nothing but the folder says what the labels mean"
    t = Task('tri', ('none', 'some', 'much'), ordinal=True, positive=('some', 'much'))
    run = train(with_task(records.assign(label=records.label.clip(upper=2)), t), arch='test_resnet', pretrained=False, out=tmp_path/'run', **SMALL)
    code = f"from retina_nb.core import Run; r = Run({str(run.path)!r}); print(r.task.classes, r.task.positive)"
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert said.stdout.strip() == "('none', 'some', 'much') (1, 2)", said.stderr

def test_a_table_is_scored_without_torch(tmp_path):
    pd.DataFrame(dict(image=list('abcd'), patient=list('aabb'), target=[0,1,2,3], grade=[0,1,2,2])).to_csv(tmp_path/'t.csv', index=False)
    code = ("import sys; from retina_nb.train import retina_evaluate; "
            f"retina_evaluate({str(tmp_path/'t.csv')!r}, out={str(tmp_path/'out')!r}, n_boot=50); print([m for m in ('torch', 'fastai', 'timm') if m in sys.modules])")
    said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.strip().endswith('[]'), said.stdout + said.stderr

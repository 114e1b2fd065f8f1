"TrainConfig: any settings to JSON and back, runs of earlier versions, every wrong option by its name, objects by theirs"
import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given, settings, strategies as st

torch = pytest.importorskip('torch')
from retina_nb.core import SettingError, Task
from retina_nb.train import CrossEntropy, TrainConfig, make_learner, train

OPTIONS = dict(arch=st.sampled_from(['resnet18', 'torchvision/resnet18']), size=st.integers(28, 512), epochs=st.integers(1, 99), bs=st.integers(2, 512),
    lr=st.none() | st.floats(1e-6, 1), loss=st.sampled_from([None, 'ce', 'qwk', 'corn', 'regression', 'focal']), seed=st.integers(0, 2**31), pretrained=st.booleans(),
    contrast=st.sampled_from([None, 'none', 'clahe', 'ben_graham']), aug=st.floats(0, 3), sampling=st.sampled_from(['none', 'sqrt', 'effective', 'balanced']),
    channels=st.sampled_from([1, 3]), lr_mult=st.floats(1, 100), mix=st.sampled_from(['none', 'mixup', 'cutmix']), ema=st.floats(0, .999), best=st.booleans(),
    patience=st.integers(0, 9), accumulate=st.integers(1, 8), channels_last=st.booleans(), task=st.sampled_from(['dr', Task('six_steps', tuple('abcdef'), ordinal=True)]))

@given(st.fixed_dictionaries({}, optional=OPTIONS))
@settings(max_examples=80, deadline=None)
def test_any_settings_come_back_from_json(options):
    c = TrainConfig(**options)
    assert TrainConfig.from_json(c.to_json()) == c and TrainConfig.from_dict(json.loads(c.to_json())).to_dict() == c.to_dict()
    for k,v in options.items():
        if v is not None and k not in ('best', 'task'): assert getattr(c, k) == v

def test_frozen_and_complete():
    c = TrainConfig()
    with pytest.raises(FrozenInstanceError): c.lr = 1.
    assert None not in (c.lr, c.loss, c.contrast) and not c.own and not c.lost
    assert replace(c, size=96).preprocess.size == 96

# what a run of the version before this one wrote
EARLIER = dict(task='dr', classes=['No DR', 'Mild', 'Moderate', 'Severe', 'Proliferative'], arch='resnet10t', size=64, epochs=2, bs=32, lr=.003, loss='qwk', seed=42,
    pretrained=False, weights=None, aug=1., sampling='natural', preprocess=dict(size=64, crop='fundus', fit='pad', via=128, via_quality=95, contrast='clahe',
    mean=[.485,.456,.406], std=[.229,.224,.225], version=2), preprocess_hash='882c5cc7e491', channels=3, class_weights='none', smoothing=0., freeze_epochs=0, lr_mult=10.,
    mix='none', start_size=None, ema=0., best=False, patience=0, precision='fp32', accumulate=1, channels_last=True, compile=False,
    processes=1, data=dict(hash='2c686dec50d0'), calibration=dict(temperature=.05), seconds=3.8)

def test_runs_of_earlier_versions_can_be_read():
    c = TrainConfig.of_run(EARLIER)
    assert (c.sampling, c.contrast, c.preprocess.via, c.lr, c.epochs) == ('none', 'clahe', 128, .003, 2)
    assert c.preprocess.to_dict() == EARLIER['preprocess']

def test_unknown_keys_are_refused_with_the_nearest():
    with pytest.raises(SettingError, match="'epoch': did you mean 'epochs'"): TrainConfig.from_dict(dict(epoch=3))
    with pytest.raises(SettingError, match="unknown option 'processes'"): TrainConfig.from_dict(EARLIER)
    with pytest.raises(SettingError, match='not readable'): TrainConfig.from_json('{"epochs": ')

@pytest.mark.parametrize('option, value, says', [
    ('epochs', 'ten', "epochs='ten': a whole number"), ('epochs', 2.5, 'epochs=2.5'), ('epochs', True, 'epochs=True'), ('size', 27, 'size=27'), ('bs', 1, 'bs=1'),
    ('lr', 0, 'lr=0'), ('lr', 'high', 'a number'), ('loss', 'mse', "'mse'"), ('loss', 7, '7'), ('aug', -1, 'aug=-1'), ('aug', 'much', 'transforms'), ('aug', [3], '3'),
    ('sampling', 'natural', 'effective'), ('class_weights', 'x', "class weights 'x'"), ('mix', 'blend', 'cutmix'), ('precision', 'fp8', 'bf16'), ('ema', 1, 'ema=1'),
    ('smoothing', -.1, 'smoothing=-0.1'), ('channels', 2, 'channels 2'), ('metrics', ['f1'], "'f1'"), ('metrics', 3, 'a list'), ('best', 1, 'True or False'),
    ('patience', -1, 'patience=-1'), ('accumulate', 0, 'accumulate=0'), ('lr_mult', .5, 'lr_mult=0.5'), ('start_size', 500, 'size=224'), ('contrast', 'hdr', 'hdr'),
    ('task', 'nonsense', 'nonsense'), ('weights', 3, 'a text')], ids=str)
def test_a_wrong_value_is_named(option, value, says):
    with pytest.raises(SettingError) as e:
        c = TrainConfig(**{option: value})
        from retina_nb.train.augment import own_transforms
        own_transforms(c.aug) # a list is looked at when loaders are made
    assert says in str(e.value)

def test_options_that_rule_each_other_out():
    for options, says in ((dict(task='oct', loss='qwk'), 'ordered'), (dict(smoothing=.1), "'ce'"), (dict(pretrained=False, freeze_epochs=1), 'frozen'),
                          (dict(loss='focal', class_weights='sqrt'), "'focal'"), (dict(loss=CrossEntropy(3)), '3 classes')):
        with pytest.raises(SettingError, match=says): TrainConfig(**options)

def test_objects_are_known_by_their_names():
    class Net(torch.nn.Module): pass
    def sure(p, y): return p.max(1)[0].mean()
    c = TrainConfig(arch=Net(), loss=torch.nn.functional.cross_entropy, aug=[torch.nn.Identity()], metrics=[sure])
    d = json.loads(c.to_json())
    assert d['own'] == ['arch', 'loss', 'aug', 'metrics'] and d['arch'].endswith('Net') and d['loss'] == 'torch.nn.functional.cross_entropy' and d['metrics'][0].endswith('.sure')
    again = TrainConfig.from_dict(d)
    assert again.to_dict() == c.to_dict() and set(again.lost) == set(c.own) and not c.lost and not again.pretrained

def test_every_option_shows_itself_and_is_documented():
    import inspect
    from fastcore.docments import docments
    from retina_nb.train import retina_train
    names = [f.name for f in fields(TrainConfig)]
    for f in (train, make_learner):
        assert set(names) - {'task'} <= set(inspect.signature(f).parameters) and all(docments(f, returns=False).values())
    shown = set(inspect.signature(retina_train).parameters)
    assert set(names) - shown == {'metrics', 'cache', 'pretrained', 'channels_last'} and all(docments(retina_train, returns=False).values())

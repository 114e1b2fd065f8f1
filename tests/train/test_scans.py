"OCT on the rails: what the task sees by default, and that trainings, caches and bundles of earlier versions go on with what they have stored"
import json, os
from dataclasses import replace
from pathlib import Path

import cv2, numpy as np, pytest

torch = pytest.importorskip('torch')
from retina_nb.core import ImageError, Run, SettingError
from retina_nb.data.cache import _near_contract, cache_fields, cache_records
from retina_nb.core import get_task
from retina_nb.data.records import load_records
from retina_nb.image.borders import white_borders
from retina_nb.image.preprocess import Preprocess
from retina_nb.train.config import TrainConfig
from retina_nb.train.loader import _contract, prepare
from retina_nb.train.pretext import PretrainConfig

CLASSES = 'CNV', 'DME', 'DRUSEN', 'NORMAL'
BEFORE = dict(crop='none', fit='pad')

@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "Drawn scans of 24 patients, wider than high, turned on white"
    root, rng = tmp_path_factory.mktemp('scans'), np.random.default_rng(0)
    for i in range(48):
        a = rng.integers(5, 50, (64, 96), dtype=np.uint8)
        a[20+i%4*3:26+i%4*3] = 160
        a = cv2.warpAffine(a, cv2.getRotationMatrix2D((48, 32), 12, 1), (96, 64), borderValue=255)
        f = root/CLASSES[i%4]/f'{CLASSES[i%4]}-{i//2:04}-{i}.png'
        f.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(f), a)
    return root

@pytest.fixture
def records(scans): return load_records(scans, 'oct', warn=False)

def as_before(run):
    "The settings of a run as an earlier version wrote them, without crop and fit"
    c = json.loads((run/'config.json').read_text())
    assert c['preprocess']['crop'] == 'none' and c['preprocess']['fit'] == 'pad'
    (run/'config.json').write_text(json.dumps({k: v for k, v in c.items() if k not in BEFORE}))

@pytest.mark.parametrize('config', [TrainConfig, PretrainConfig])
def test_every_door_has_the_same_default(config, records):
    "White filled, the middle square, nothing squashed; what was stored before, or is asked for by name, stays"
    usual = Preprocess.for_task('oct', size=64)
    c = config(task='oct', size=64)
    assert c.preprocess == usual and (usual.crop, usual.fit) == ('oct', 'cut') and replace(_contract(records, 'oct'), size=64) == usual
    a = usual(records.image[0])
    assert a.max() < 215 and not white_borders(a).any() and Preprocess.for_task('oct', size=64, **BEFORE)(records.image[0]).max() > 250
    asked = config(task='oct', size=64, **BEFORE)
    early = {k: v for k, v in asked.to_dict().items() if k not in BEFORE}
    for o in (config.from_dict(early), config.of_run(early | dict(device='CPU')), config.from_dict(asked.to_dict())): assert o == asked and o.preprocess == asked.preprocess
    assert config.from_dict(c.to_dict()) == c and config(task='pneumonia').preprocess.fit == 'pad' and config().preprocess.crop == 'fundus'
    with pytest.raises(SettingError, match="crop is 'round'"): config(task='oct', crop='round')
    with pytest.raises(SettingError, match="fit is 'stretch'"): config(task='oct', fit='stretch')

@pytest.mark.parametrize('made', [{}, BEFORE], ids=['now', 'before'])
def test_caches_of_both_kinds_are_read(records, tmp_path, made):
    pre = Preprocess.for_task('oct', size=16, via=48, **made)
    cache_records(records, tmp_path/'c', pre=pre, progress=False, workers=1)
    cached = load_records(tmp_path/'c', 'oct', warn=False)
    for config in (TrainConfig(task='oct', size=32).through_cache(cached), PretrainConfig(task='oct', size=32, cache=cache_fields(cached, 'oct'))):
        assert (config.preprocess.crop, config.preprocess.fit, config.preprocess.via) == (pre.crop, pre.fit, 48)
        assert type(config).from_dict(config.to_dict()) == config
        assert np.array_equal(prepare(cached, config.preprocess, progress=False), prepare(records, config.preprocess, progress=False))
    assert _contract(cached, 'oct').crop == pre.crop and _near_contract(get_task('oct'), tmp_path/'c', 48) == pre
    with pytest.raises(ImageError, match='crop'): prepare(cached, TrainConfig(task='dr', size=32).through_cache(cached).preprocess, progress=False)

class Stop(Exception): pass

def stopping():
    from fastai.callback.core import Callback
    class At(Callback):
        order = 90
        def after_epoch(self): raise Stop('now')
    return At()

@pytest.mark.parametrize('which', ['train', 'pretrain'])
def test_what_an_earlier_version_began_goes_on_bit_for_bit(records, tmp_path, which):
    from retina_nb import train as wing
    how = dict(arch='test_resnet', size=32, epochs=2, progress=False) | (dict(pretrained=False) if which == 'train' else {})
    f = getattr(wing, which)
    with pytest.raises(Stop): f(records, out=tmp_path/'a', cbs=stopping(), **how, **BEFORE)
    as_before(tmp_path/'a')
    a, b = f(records, out=tmp_path/'a', resume=True, **how), f(records, out=tmp_path/'b', **how, **BEFORE)
    assert (a.path/'model.safetensors').read_bytes() == (b.path/'model.safetensors').read_bytes()
    assert a.config['preprocess'] == b.config['preprocess'] and a.config['preprocess']['crop'] == 'none'
    assert f(records, out=tmp_path/'a', resume=True, **how).finished
    new = f(records, out=tmp_path/'n', **how)
    assert new.config['preprocess']['crop'] == 'oct' and (new.path/'model.safetensors').read_bytes() != (b.path/'model.safetensors').read_bytes()

@pytest.fixture
def stored(tmp_path):
    "Runs of random weights with the contract of now and that of before"
    from random_model import random_run
    out = {}
    for name, more in (('now', {}), ('before', BEFORE)):
        pre = Preprocess.for_task('oct', size=64, **more)
        out[name] = random_run(tmp_path/name, 'oct', preprocess=pre.to_dict(), preprocess_hash=pre.hash), pre
    return out

def test_a_model_sees_what_its_run_has_stored(stored):
    from retina_nb.train import load_encoder, load_model
    for run, pre in stored.values():
        assert load_model(run).preprocess == pre and load_encoder(run)[1] == pre and load_encoder(run, size=32)[1] == replace(pre, size=32)

@pytest.mark.full
def test_a_bundle_sees_what_its_run_has_stored(stored, tmp_path):
    from retina_nb.deploy import Grader, export
    for name, (run, pre) in stored.items(): assert Grader(export(Run(run), tmp_path/f'{name}_bundle')).preprocess == pre

@pytest.mark.skipif(not os.environ.get('RETINA_NB_DATA'), reason='RETINA_NB_DATA is not set')
def test_no_real_scan_loses_retina():
    "What is filled is white, next to nothing of it darker, and the whole height of the scan is seen"
    files = sorted(Path(os.environ['RETINA_NB_DATA'], 'oct2017').glob('train/*/*.jpeg'))[::16]
    if not files: pytest.skip('no OCT scans there')
    for f in files:
        a = cv2.imread(str(f), 0)
        m = white_borders(a)
        inner = cv2.erode(m.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1) > 0 # without the two pixels more
        assert (inner & (a < 200)).mean() < .001, f
        box, (h, w) = Preprocess.for_task('oct').frame(str(f)).box, a.shape
        assert box[1] == 0 and box[3] == h and box[2] - box[0] == h <= w, (f, box)

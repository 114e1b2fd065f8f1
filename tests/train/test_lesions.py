"Marks of lesions: what is learned from, what a run holds, what it marks, and what is refused"
import subprocess, sys

import numpy as np, pandas as pd, pytest, torch
from PIL import Image

from retina_nb.core import DataError, RunError, SettingError
from retina_nb.deploy import Grader, export
from retina_nb.image import Preprocess
from retina_nb.synth import LESION_GROUPS, varied_eye, write_varied
from retina_nb.train import (LesionConfig, Net, encode, lesion_dice, lesion_maps, lesion_statistics, marked_records, model_cost, plot_lesions,
                             predict, prepare_marked, read_mask, train, train_lesions, train_probe)

SMALL = dict(size=96, piece=64, epochs=2, bs=8, progress=False)

@pytest.fixture(scope='module')
def eyes(tmp_path_factory):
    d = tmp_path_factory.mktemp('marked')/'eyes'
    write_varied(d, 60, size=128)
    return d

@pytest.fixture(scope='module')
def marker(eyes): return train_lesions(eyes, out=eyes.parent/'marker', **SMALL)

@pytest.fixture(scope='module')
def graded(eyes, marker):
    return train(eyes, out=eyes.parent/'graded', arch='lesion_net', size=96, epochs=1, weights=marker.path/'model.safetensors', progress=False)

@pytest.fixture(scope='module')
def photo(): return varied_eye(3, 2, size=200).image

# --- what is counted

def _maps(*places, c=1, side=32):
    m = torch.full((1, c, side, side), -12.)
    for y, x in places: m[0, :, y, x] = 12.
    return m

@pytest.mark.parametrize('places, emptiest, fullest', [([], 0, 0), ([(4, 4)], 0, 1), ([(4, 4), (4, 25), (25, 4), (25, 25)], 1, 1),
                                                       ([(2, 2), (2, 8), (8, 2)], 0, 3)])
def test_marks_are_counted_by_quadrant(places, emptiest, fullest):
    s = torch.expm1(lesion_statistics(_maps(*places))[0])
    assert s[2].round() == len(places) and s[3].round() == emptiest and s[4].round() == fullest

def test_a_large_lesion_is_one_mark_and_much_area():
    m = _maps()
    m[..., 4:9, 4:9] = torch.linspace(8, 12, 25).view(5, 5)
    s = torch.expm1(lesion_statistics(m)[0])
    assert s[2].round() == 1 and abs(s[0] - 25) < 1

@pytest.mark.parametrize('size', [32, 50, 96, 97, 224, 256])
def test_pictures_of_any_size(size):
    net = Net('lesion_net', 5).eval()
    with torch.no_grad(): assert net(torch.randn(2, 3, size, size)).shape == (2, 5)

def test_it_is_a_network_like_any_other():
    assert not Net('lesion_net', 5).has_map and model_cost(Net('lesion_net', 5), 64)['parameters'] < model_cost(Net('resnet18', 5), 64)['parameters']/10
    code = "from retina_nb.train.model import build_model; from retina_nb.train import TrainConfig; print(build_model(TrainConfig(arch='lesion_net', size=64).to_dict()).net.arch)"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.stdout.strip() == 'lesion_net', r.stderr # in a new process too, where nobody has imported its room

def test_no_weights_can_be_had_for_it(eyes, tmp_path):
    with pytest.raises(SettingError, match='no ImageNet weights.*--no_pretrained'): train(eyes, out=tmp_path/'r', arch='lesion_net', size=96)

# --- data

@pytest.mark.parametrize('change, why', [
    (lambda r: r.drop(columns='mask'), "no column 'mask'"), (lambda r: r.assign(mask=[None, *r['mask'][1:]]), 'has no mask'),
    (lambda r: r.assign(mask=['gone.png', *r['mask'][1:]]), 'gone.png: no such mask'), (lambda r: r.head(0), 'no records'),
    (lambda r: r[r.split == 'train'].head(1), 'too few|more are needed|patient')])
def test_records_that_cannot_be_learned_from(eyes, change, why):
    with pytest.raises(DataError, match=why): marked_records(change(marked_records(eyes)))

def _as_png(a, file):
    Image.fromarray(a).save(file)
    return file

@pytest.mark.parametrize('name, a, why', [('colour', np.zeros((8, 8, 3), np.uint8), 'grey picture'), ('deep', np.zeros((8, 8), np.uint16), '8 bits'),
                                         ('high', np.full((8, 8), 32, np.uint8), 'holds 32.*31'), ('white', np.full((8, 8), 255, np.uint8), 'holds 255')])
def test_masks_that_are_none(tmp_path, name, a, why):
    with pytest.raises(DataError, match=f'{name}.png.*{why}'): read_mask(_as_png(a, tmp_path/f'{name}.png'))

@pytest.mark.parametrize('bad', [b'', b'text', b'\x89PNG\r\n\x1a\n'])
def test_masks_that_cannot_be_read(tmp_path, bad):
    (tmp_path/'m.png').write_bytes(bad)
    with pytest.raises(DataError, match='m.png'): read_mask(tmp_path/'m.png')

def test_a_mask_of_another_photograph_is_named(eyes, tmp_path):
    r = marked_records(eyes).head(3)
    wrong = _as_png(np.zeros((40, 50), np.uint8), tmp_path/'wrong.png')
    with pytest.raises(DataError, match='wrong.png: is 50 x 40 pixels, its photograph'):
        prepare_marked(r.assign(mask=[*r['mask'][:2], str(wrong)]), Preprocess(size=64), progress=False)

def test_marks_lie_where_the_lesions_are(eyes):
    "A mask that is one dot comes out where the same dot in the photograph does"
    r = marked_records(eyes).head(1)
    h, w = read_mask(r['mask'].iloc[0]).shape
    for y, x in ((h//2, w//2), (h//3, w//2), (h//2, 2*w//3)):
        photo, mask = np.full((h, w, 3), 90, np.uint8), np.zeros((h, w), np.uint8)
        photo[y-4:y+4, x-4:x+4], mask[y-4:y+4, x-4:x+4] = 255, 1 << 2
        _as_png(photo, eyes.parent/'dot.png'), _as_png(mask, eyes.parent/'dot_mask.png')
        row = r.assign(image=str(eyes.parent/'dot.png'), mask=str(eyes.parent/'dot_mask.png'))
        (img,), (marks,) = prepare_marked(row, Preprocess(size=64, contrast='none'), progress=False)
        seen, marked = np.argwhere(img[..., 0] > 200).mean(0), np.argwhere(marks[..., 2] > 127).mean(0)
        assert np.abs(seen/2 - marked).max() < 1 and not marks[..., [0, 1, 3, 4]].any()

def test_parts_are_dealt_by_patient_where_there_are_none(eyes):
    r = marked_records(marked_records(eyes).drop(columns='split'))
    assert set(r['split']) == {'train', 'valid', 'test'} and (r.groupby('patient')['split'].nunique() == 1).all()

def test_masks_are_found_from_anywhere(eyes, monkeypatch, tmp_path):
    "A folder by its relative name, read twice, and from another folder afterwards"
    monkeypatch.chdir(eyes.parent)
    r = marked_records('eyes')
    monkeypatch.chdir(tmp_path)
    assert marked_records(r)['mask'].tolist() == r['mask'].tolist() == marked_records(eyes)['mask'].tolist()

# --- runs

def test_a_run_holds_what_a_run_holds(marker):
    assert marker.finished and len(marker.history) == 2 and set(marker.metrics['dice']) == set(LESION_GROUPS)
    assert {'dice', *(f'dice_{g}' for g in LESION_GROUPS)} <= set(marker.history.columns)
    assert (marker.path/'figures'/'curves.png').is_file() and not (marker.path/'checkpoint.safetensors').exists()
    marker.check()
    assert LesionConfig.of_run(marker.config).piece == 64
    with pytest.raises(RunError, match='--arch lesion_net'): marker.predictions

def test_the_same_settings_give_the_same_weights(eyes, marker, tmp_path):
    again = train_lesions(eyes, out=tmp_path/'again', **SMALL)
    assert (again.path/'model.safetensors').read_bytes() == (marker.path/'model.safetensors').read_bytes()

def test_what_was_interrupted_goes_on(eyes, marker, tmp_path):
    from fastai.callback.core import Callback
    class Stop(Callback):
        order = 90
        def after_epoch(self): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train_lesions(eyes, out=tmp_path/'r', cbs=[Stop()], **SMALL)
    assert not (tmp_path/'r'/'model.safetensors').exists()
    run = train_lesions(eyes, out=tmp_path/'r', resume=True, **SMALL)
    assert (run.path/'model.safetensors').read_bytes() == (marker.path/'model.safetensors').read_bytes()

@pytest.mark.parametrize('how, why', [(dict(lr=.01), 'lr='), (dict(epochs=3), 'epochs='), (dict(seed=1), 'seed=')])
def test_another_training_does_not_go_on_in_a_folder(eyes, marker, how, why):
    before = (marker.path/'model.safetensors').read_bytes()
    with pytest.raises(RunError, match=why): train_lesions(eyes, out=marker.path, resume=True, **SMALL | how)
    with pytest.raises(RunError, match='--resume'): train_lesions(eyes, out=marker.path, **SMALL)
    assert (marker.path/'model.safetensors').read_bytes() == before

def test_a_run_of_grades_is_not_written_over(eyes, graded):
    with pytest.raises(RunError, match='another training'): train_lesions(eyes, out=graded.path, resume=True, **SMALL)

@pytest.mark.parametrize('bad, why', [(dict(piece=30), 'piece'), (dict(piece=65), 'even'), (dict(size=63), 'size'), (dict(lr=0.), 'lr'), (dict(lr='x'), 'lr'),
                                      (dict(epochs=0), 'epochs'), (dict(task='pneumonia'), 'of the fundus'), (dict(jitter=-1.), 'jitter'),
                                      (dict(seed=-1), 'seed'), (dict(channels=1), 'colour'), (dict(ephocs=3), 'epochs'), (dict(n=3), 'at least 20')])
def test_settings_that_cannot_be(tmp_path, bad, why):
    with pytest.raises(SettingError, match=why): train_lesions(out=tmp_path/'r', **bad)
    assert not (tmp_path/'r').exists()

# --- what is marked

def test_every_thing_with_such_a_network_can_be_asked(marker, graded, photo):
    from retina_nb.train import load_model
    for model in (marker, marker.path, str(marker.path), marker.path/'model.safetensors', graded, load_model(graded)):
        maps = lesion_maps(model, photo)
        assert list(maps) == list(LESION_GROUPS)
        assert all(m.shape == photo.shape[:2] and m.dtype == np.float32 and 0 <= m.min() <= m.max() <= 1 for m in maps.values())

def test_files_bytes_and_arrays_are_marked_alike(marker, photo, tmp_path):
    file = _as_png(photo, tmp_path/'p.png')
    a, b, c = (lesion_maps(marker, x)['dark'] for x in (photo, file, file.read_bytes()))
    assert (a == b).all() and (b == c).all()

def test_networks_that_mark_nothing(eyes, tmp_path, photo):
    other = train(eyes, out=tmp_path/'r', arch='test_resnet', size=64, epochs=1, pretrained=False, progress=False)
    with pytest.raises(RunError, match=r'its network is test_resnet.*retina_lesions'): lesion_maps(other, photo)
    with pytest.raises(RunError, match='no config.json|not a run'): lesion_maps(tmp_path, photo)
    for bad in (None, 3, {}):
        with pytest.raises(SettingError, match='a run, its folder'): lesion_maps(bad, photo)

def test_maps_of_another_photograph_are_not_drawn(marker, photo):
    with pytest.raises(DataError, match='not of this photograph'): plot_lesions(photo[10:], lesion_maps(marker, photo))
    ax = plot_lesions(photo, {k: np.full(photo.shape[:2], .9, np.float32)*(np.arange(photo.shape[1]) > 50) for k in LESION_GROUPS})
    assert len(ax.get_legend().get_texts()) == len(LESION_GROUPS)
    assert plot_lesions(photo, {'dark': np.zeros(photo.shape[:2], np.float32)}).get_legend() is None

def test_dice_of_the_masks_themselves_is_one(eyes, marker, monkeypatch):
    "Where a network marked what the masks mark, Dice would be 1; where it marks nothing, 0"
    from retina_nb.train.lesion_network import LesionNet
    r = marked_records(eyes)
    marks = prepare_marked(r[r.split == 'test'], LesionConfig.of_run(marker.config).preprocess, progress=False)[1]
    there = (marks > 127).any((0, 1, 2))
    truth = (torch.from_numpy(marks).permute(0, 3, 1, 2) > 127).float()*2 - 1
    monkeypatch.setattr(LesionNet, 'maps', lambda self, x: truth[:len(x)])
    t = lesion_dice(marker, eyes)
    assert (t['dice'] == there.astype(float)).all() and (t['photographs'] == (marks > 127).any((1, 2)).sum(0)).all()
    monkeypatch.setattr(LesionNet, 'maps', lambda self, x: -torch.ones_like(truth[:len(x)]))
    assert (lesion_dice(marker, eyes)['dice'] == 0).all()

# --- grades from it

def test_grades_start_from_the_very_weights(marker, eyes):
    from retina_nb.train import load_encoder
    from safetensors.torch import load_file
    net, _ = load_encoder(marker)
    held = load_file(marker.path/'model.safetensors')
    assert all(torch.equal(v, held[f'net.{k}']) for k, v in net.state_dict().items() if k.startswith('body.'))
    f = encode(marked_records(eyes).head(6), marker)
    assert f.shape == (6, 8*len(LESION_GROUPS)) and np.isfinite(f).all()

def test_the_scale_is_that_of_the_training_pictures(marker, eyes):
    r = marked_records(eyes)
    f = encode(r[r.split == 'train'], marker)
    assert np.abs(f.mean(0)).max() < .3 and (f.std(0) < 1.5).all()

def test_a_probe_on_it_keeps_its_marks(marker, eyes, photo, tmp_path):
    run = train_probe(eyes, weights=marker, out=tmp_path/'probe', progress=False)
    a, b = lesion_maps(marker, photo), lesion_maps(run, photo)
    assert all(np.abs(a[k] - b[k]).max() < 1e-5 for k in LESION_GROUPS) and run.config['arch'] == 'lesion_net'

@pytest.mark.parametrize('int8', [False, True])
def test_it_can_be_shipped(graded, tmp_path, photo, int8):
    bundle, file = export(graded, tmp_path/'bundle', int8=int8), _as_png(photo, tmp_path/'p.png')
    said = Grader(bundle)(file, grade_anyway=True)
    p = predict(graded, pd.DataFrame(dict(image=[str(file)], patient=['a'], label=[2]))).filter(like='p_').to_numpy()[0]
    assert np.abs(np.array(said.probabilities) - p).max() < (.2 if int8 else 1e-3)

def test_commands(tmp_path, typed):
    def run(*args): return typed('retina_lesions', *args, cwd=tmp_path)
    for args, why in ((['no/such'], 'no/such'), (['--lr', 'much'], 'lr')):
        r = run(*args)
        assert r.returncode == 2 and why in r.stderr and 'Traceback' not in r.stderr, r.stderr
    write_varied(tmp_path/'eyes', 30, size=96)
    r = run('eyes', '--out', 'made', '--size', 64, '--piece', 32, '--epochs', 1, '--bs', 8)
    assert r.returncode == 0, r.stderr
    assert 'Dice' in r.stdout and 'retina_probe DATA made --out made_graded' in r.stdout

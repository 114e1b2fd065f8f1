"Eyes drawn for transfer: the truth stays the truth, and nothing but the lesions tells the grade"
import cv2, numpy as np, pytest
from pathlib import Path

from retina_nb.core import DataError, SettingError
from retina_nb.data import load_records
from retina_nb.synth import (LESION_GROUPS, global_statistics, boosted_probe, file_statistics, lesion_bits, other_camera, synth_truth,
                             varied_dataset, varied_eye, write_varied)
from retina_nb.synth.geometry import KINDS

@pytest.mark.parametrize('grade', range(5))
@pytest.mark.parametrize('size', [64, 128, 320])
def test_the_grade_follows_from_the_masks_of_the_same_eye(grade, size):
    e = varied_eye(11, grade, size=size)
    assert e.grade == grade and e.image.shape[0] == size and e.image.dtype == np.uint8
    assert e.masks.keys() == set(KINDS) and all(m.shape == e.image.shape[:2] for m in e.masks.values())
    assert (lesion_bits(e.masks) > 0).any() == (grade > 0)

def test_every_kind_of_lesion_is_in_one_group():
    grouped = [k for kinds in LESION_GROUPS.values() for k in kinds]
    assert sorted(grouped) == sorted(KINDS)

def test_one_seed_and_eye_are_one_picture():
    a, b = varied_eye(5, 3, 'left'), varied_eye(5, 3, 'left')
    assert (a.image == b.image).all() and a.scene.marks[0].density == b.scene.marks[0].density
    for other in (varied_eye(5, 3, 'right'), varied_eye(6, 3, 'left')): assert (a.image.shape, a.image.tobytes()) != (other.image.shape, other.image.tobytes())

@pytest.mark.parametrize('shape', [(64, 64, 3), (97, 131, 3), (256, 320, 3)])
def test_another_camera_keeps_size_and_black(shape):
    img = np.zeros(shape, np.uint8)
    cv2.circle(img, (shape[1]//2, shape[0]//2), shape[0]//3, (200, 120, 80), -1)
    for s in range(20):
        out = other_camera(img, np.random.default_rng(s))
        assert out.shape == shape and out.dtype == np.uint8 and out.flags.c_contiguous
        assert out[:4, :4].max() < 16 # JPEG rings a little

@pytest.mark.parametrize('bad, why', [(np.zeros((8, 8)), 'uint8'), (np.zeros((8, 8, 3)), 'uint8'), (np.zeros((8, 8, 4), np.uint8), 'uint8'), ('a.jpg', 'uint8')])
def test_another_camera_refuses_what_is_no_picture(bad, why):
    with pytest.raises(SettingError, match=why): other_camera(bad, np.random.default_rng(0))

@pytest.mark.parametrize('strength', [-.1, 2.5, float('nan')])
def test_strengths_that_cannot_be(strength):
    with pytest.raises(SettingError, match='strength'): other_camera(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0), strength)

@pytest.fixture(scope='module')
def written(tmp_path_factory):
    d = tmp_path_factory.mktemp('varied')/'set'
    write_varied(d, 41, seed=3, size=96)
    return d

def test_a_folder_is_a_data_set_like_any_other(written):
    df = load_records(str(written))
    assert df.attrs['problems'] == [] # the masks are no photographs that were forgotten
    assert len(df) == 41 and set(df['split']) == {'train', 'valid', 'test'} and set(df['label']) <= set(range(5))
    by_patient = df.groupby('patient')['split'].nunique()
    assert (by_patient == 1).all()
    for row in df.itertuples():
        mask, img = cv2.imread(str(written/row.mask), cv2.IMREAD_UNCHANGED), cv2.imread(row.image)
        assert mask.ndim == 2 and mask.shape == img.shape[:2] and mask.any() == (row.label > 0) and mask.max() < 2**len(LESION_GROUPS)

def test_the_clear_eye_of_the_seed_is_never_taken_for_its_truth(written):
    df = load_records(str(written))
    with pytest.raises(DataError, match='has no seed'): synth_truth(df['image'].iloc[0])

def test_what_is_there_is_not_replaced_unasked(written):
    before = (written/'records.csv').read_bytes()
    with pytest.raises(DataError): write_varied(written, 8, size=96)
    assert (written/'records.csv').read_bytes() == before
    with pytest.raises(SettingError, match='size'): write_varied(written.parent/'other', 8, size=7)
    assert not (written.parent/'other').exists()

def test_the_cached_set_is_drawn_once(monkeypatch, tmp_path):
    monkeypatch.setenv('RETINA_NB_CACHE', str(tmp_path))
    a = varied_dataset(8, 1, 64)
    stamp = (a/'records.csv').stat().st_mtime_ns
    assert varied_dataset(8, 1, 64) == a and (a/'records.csv').stat().st_mtime_ns == stamp
    assert varied_dataset(8, 2, 64) != a and varied_dataset(8, 1, 64, strength=.5) != a

def test_no_shortcut_to_the_grade(tmp_path):
    "Colour, size and file tell little of the grade: balanced accuracy of boosted trees stays under .35 (chance is .20)"
    df = write_varied(tmp_path/'s', 300, seed=9, size=128)
    images = [cv2.imread(str(tmp_path/'s'/f))[..., ::-1] for f in df['image']]
    X = np.stack([np.r_[global_statistics(im), file_statistics(Path(tmp_path/'s'/f).read_bytes())] for im, f in zip(images, df['image'])])
    found = boosted_probe(X, df['label'].to_numpy())
    assert found < .35, found

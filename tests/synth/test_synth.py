"The synthetic eyes: determinism, no shortcut, what data sets promise, the command, bad input"
import hashlib, os, subprocess, sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError, SettingError
from retina_nb.data import load_records
from retina_nb.image import read_image
from retina_nb.synth.look import CAMERAS, HOSPITALS, draw_look
from retina_nb.synth.geometry import KINDS, grade_from_lesions
from retina_nb.synth.probe import band_statistics, boosted_probe, file_statistics, global_statistics, linear_probe, look_statistics
from retina_nb.synth.render import synth_eye, synth_patient
from retina_nb.synth.dataset import plan_synth, sample_dir, synth_dataset, synth_truth, write_sample, write_synth

def digest(folder): return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob('*')) if p.is_file()}
def probe(n, seed):
    grades = np.random.default_rng(seed).permutation(np.arange(n) % 5)
    eyes = [synth_eye(seed*100_000 + i, int(g), 'left' if i%2 else 'right') for i,g in enumerate(grades)]
    X = np.stack([global_statistics(e.image) for e in eyes])
    return X, grades

# --- the grade
@pytest.mark.parametrize('grade', range(5))
def test_grade_follows_from_what_was_drawn(grade):
    for s in range(40):
        e = synth_eye(7*s + grade, grade, 'left' if s%2 else 'right', size=48)
        assert e.grade == grade == grade_from_lesions(e.counts)
        assert {k for k in KINDS if e.counts[k].any()} == {k for k,m in e.masks.items() if m.any()}

@pytest.mark.full
def test_grade_follows_in_thousands_of_eyes():
    for s in range(4000): assert synth_eye(s, s%5, 'left' if s%3 else 'right', size=32).grade == s%5

@pytest.mark.parametrize('camera', CAMERAS)
def test_every_lesion_is_in_the_picture(camera):
    "Microaneurysms and haemorrhages can be counted in their masks: none merges with another or lies outside the field"
    e = synth_eye(12, 3, 'right', size=768, camera=camera)
    for k in ('microaneurysm', 'haemorrhage'):
        n = cv2.connectedComponents(e.masks[k].astype(np.uint8))[0] - 1
        assert abs(n - e.counts[k].sum()) <= .03*n, k
        assert e.image[e.masks[k]].max(-1).min() > 5

def test_lesions_are_darker_or_brighter_than_their_surroundings():
    dark = dict(microaneurysm=[], haemorrhage=[]); bright = dict(hard_exudate=[], cotton_wool_spot=[])
    for s in range(30):
        e = synth_eye(s, 2 + s%2, size=256)
        g, lesion = e.image[...,1].astype(float), np.any(list(e.masks.values()), 0).astype(np.uint8)
        for kinds, sign in ((dark, -1), (bright, 1)):
            for k in kinds:
                m = e.masks[k].astype(np.uint8)
                ring = (cv2.dilate(m, np.ones((9,9))) > 0) & (cv2.dilate(lesion, np.ones((3,3))) == 0)
                if m.any() and ring.any(): kinds[k].append(sign*(g[m > 0].mean() - g[ring].mean()))
    for k, v in {**dark, **bright}.items(): assert np.median(v) > 6 and np.mean(np.array(v) > 0) > .9, k

# --- determinism
def test_same_seed_same_eye_whatever_was_drawn_before():
    a = synth_eye(5, 3, 'left')
    np.random.seed(0); np.random.rand(10)
    synth_eye(6, 4); synth_eye(5, 0, 'right')
    b = synth_eye(5, 3, 'left')
    assert (a.image == b.image).all() and a.disc == b.disc and a.look == b.look
    assert (synth_eye(5, 3, 'right').image.shape != a.image.shape) or (synth_eye(5, 3, 'right').image != a.image).any()

def test_patients_do_not_depend_on_how_many_are_asked_for():
    small, large = plan_synth(60), plan_synth(200)
    cols = ['patient', 'eye', 'seed', 'camera', 'hospital', 'age']
    assert small[cols].equals(large.head(60)[cols])
    assert large.seed.nunique() == 100
    assert set(plan_synth(60, seed=1).seed).isdisjoint(small.seed)

@pytest.mark.parametrize('size', [64, 100, 257, 1024])
def test_the_scene_is_the_same_at_every_size(size):
    a, b = synth_eye(5, 3, size=256), synth_eye(5, 3, size=size)
    assert b.image.dtype == np.uint8 and b.image.shape[0] == size and all(m.shape == b.image.shape[:2] for m in b.masks.values())
    assert np.allclose(np.array(b.fovea)/size, np.array(a.fovea)/256, atol=.02)
    assert all((a.counts[k] == b.counts[k]).all() for k in KINDS)
    small = cv2.resize(b.image, a.image.shape[1::-1], interpolation=cv2.INTER_AREA if size > 256 else cv2.INTER_LINEAR)
    assert np.corrcoef(small[...,1].ravel(), a.image[...,1].ravel())[0,1] > .9

def test_the_grade_moves_nothing_but_lesions():
    for s in range(10):
        eyes = [synth_eye(s, g) for g in range(5)]
        assert len({e.look for e in eyes}) == 1 and len({e.disc for e in eyes}) == 1 and len({e.image.shape for e in eyes}) == 1
        for e in eyes[1:]:
            seen = cv2.dilate(np.any(list(e.masks.values()), 0).astype(np.uint8), np.ones((9,9))) > 0
            if not e.counts['vitreous_haemorrhage'].any(): # a cloud reaches beyond its outline
                assert np.abs(e.image[~seen].astype(int) - eyes[0].image[~seen]).mean() < 6

# --- eyes and patients
def test_disc_is_nasal_and_two_eyes_belong_together():
    for s in range(20):
        l, r = synth_patient(s, size=64)
        assert l.disc[0] < l.fovea[0] and r.disc[0] > r.fovea[0]
        assert abs(l.grade - r.grade) <= 1 and (l.camera, l.hospital, l.age, l.look.pigment) == (r.camera, r.hospital, r.age, r.look.pigment)
        assert l.camera in HOSPITALS[l.hospital] and l.patient == r.patient == str(s)

# --- no shortcut
def check_no_shortcut(n, seed, penalties):
    X, y = probe(n, seed)
    for C in penalties: assert linear_probe(X, y, C) < .35, C
    assert linear_probe(np.c_[X, y + np.random.default_rng(0).normal(0, .3, n)], y) > .7 # the probe does find a shortcut

@pytest.mark.full # nbs/synth/25_probe asks 200 eyes
def test_no_shortcut(): check_no_shortcut(500, 3, (.1, 1.))

def test_colour_size_and_file_do_not_know_the_grade(tmp_path):
    "What has nothing to do with disease, asked of the photographs as they are saved, by a straight line and by trees"
    records = load_records(synth_dataset(400, seed=77, prevalence=(.2,)*5)); y = records.label.to_numpy(int)
    data = [Path(f).read_bytes() for f in records.image]
    look, file = (np.stack([f(d) for d in data]) for f in (lambda d: look_statistics(read_image(d)), file_statistics))
    told = np.c_[look, file, y + np.random.default_rng(0).normal(0, .3, len(y))]
    for probe in (linear_probe, boosted_probe):
        for X in (look, file, np.c_[look, file]): assert probe(X, y) < .32, (probe, X.shape)
        assert probe(told, y) > .5 # it finds a shortcut where there is one

def test_detail_tells_the_grade_without_any_place():
    "What is said of scores on the sample: numbers that know widths and no places do well"
    y = np.arange(150) % 5; bands = np.stack([band_statistics(synth_eye(7000 + i, int(g), size=240).image) for i,g in enumerate(y)])
    assert bands.shape == (150, 36) and linear_probe(bands, y) > .33
    flipped = np.stack([band_statistics(np.ascontiguousarray(synth_eye(7000 + i, int(g), size=240).image[::-1, ::-1])) for i,g in enumerate(y[:5])])
    assert np.allclose(flipped, bands[:5], rtol=.02, atol=.05) # it knows no place

@pytest.mark.full
@pytest.mark.parametrize('seed', [11, 12])
def test_no_shortcut_in_a_large_set(seed): check_no_shortcut(2000, seed, (.01, .1, 1., 10.))

def test_tags_do_not_know_the_grade():
    df = plan_synth(3000)
    X = np.c_[pd.get_dummies(df.hospital), pd.get_dummies(df.camera), df.age].astype(float)
    assert linear_probe(X, df.label.to_numpy()) < .25

# --- data sets
@pytest.mark.parametrize('n', [1, 2, 3, 7, 100, 101, 333])
def test_plan(n):
    df = plan_synth(n)
    assert len(df) == n and df.image.is_unique and (df.groupby('patient').split.nunique() == 1).all()
    assert list(df.columns[:6]) == ['image', 'label', 'patient', 'eye', 'split', 'source']
    if n >= 100: assert (df.groupby('split').label.nunique() == 5).all() and df.split.nunique() == 3

def test_write_is_whole_or_absent(tmp_path, monkeypatch):
    import retina_nb.synth.dataset as S
    draw = S._write_eye
    def fails(out, row, *a):
        if row.Index == 5: raise KeyboardInterrupt
        return draw(out, row, *a)
    monkeypatch.setattr(S, '_write_eye', fails)
    with pytest.raises(KeyboardInterrupt): write_synth(tmp_path/'a', 8, size=48)
    assert not list(tmp_path.iterdir())

def test_workers_and_order_do_not_matter(tmp_path):
    write_synth(tmp_path/'a', 9, size=64, workers=1); write_synth(tmp_path/'b', 9, size=64, workers=4)
    assert digest(tmp_path/'a') == digest(tmp_path/'b')

def test_synth_dataset_is_cached_and_loads(tmp_path, monkeypatch):
    monkeypatch.setenv('RETINA_NB_CACHE', str(tmp_path))
    out = synth_dataset(6, size=48)
    stamp = (out/'records.csv').stat().st_mtime_ns
    assert synth_dataset(6, size=48) == out and (out/'records.csv').stat().st_mtime_ns == stamp
    assert synth_dataset(6, seed=1, size=48) != out and synth_dataset(6, size=48, prevalence=(1,1,1,1,1)) != out
    df = pd.read_csv(out/'records.csv')
    assert all((out/o).is_file() for o in df.image) and len(df) == 6

def test_truth_of_a_file_and_of_a_row(tmp_path):
    for layout in ('records', 'pairs'):
        df = write_synth(tmp_path/layout, 6, seed=9, size=80, layout=layout)
        for r in df.itertuples():
            e = synth_truth(tmp_path/layout/r.image)
            assert (e.grade, e.eye, e.patient) == (r.label, r.eye, r.patient)
            stored = cv2.imread(str(tmp_path/layout/r.image))[...,::-1]
            assert stored.shape == e.image.shape and np.abs(stored.astype(int) - e.image).mean() < 5
    (tmp_path/'x/images').mkdir(parents=True); (tmp_path/'x/images/a.jpg').write_bytes(b'')
    with pytest.raises(DataError, match='not a synthetic'): synth_truth(tmp_path/'x/images/a.jpg')
    with pytest.raises(DataError, match='no seed'): synth_truth(dict(image='a.jpg', eye='left', label=1))

# --- the sample
def test_sample_keeps_its_promises(root):
    folder = root/'data'
    if not (folder/'images').is_dir(): pytest.skip('no sample beside the package: an installed copy makes it in the cache')
    assert sample_dir() == folder
    assert sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) <= 8e6
    names, grades = ({p: (folder/f'{p}_{k}.csv').read_text().split() for p in ('train','test')} for k in ('img','label'))
    tags = pd.read_csv(folder/'tags.csv', dtype=dict(patient=str)).set_index('image')
    assert 300 <= len(tags) <= 500 and sorted(tags.index) == sorted(names['train'] + names['test']) == sorted(p.stem for p in (folder/'images').iterdir())
    assert set(tags.loc[names['train']].patient).isdisjoint(tags.loc[names['test']].patient)
    assert (tags.groupby('patient').eye.nunique() == 2).all()
    n = pd.Series(grades['test']).value_counts()
    assert sorted(n.index) == list('01234') and n.min() >= 10 and n.idxmax() == '0'

def test_sample_is_what_the_command_makes(root):
    "A few of its images, decoded: equal on the machine that made them, one grey level apart at most elsewhere"
    folder = root/'data'
    if not (folder/'images').is_dir(): pytest.skip('no sample beside the package')
    for p in sorted((folder/'images').iterdir())[::40]:
        e = synth_truth(p)
        again = cv2.imdecode(cv2.imencode('.jpg', e.image[...,::-1], [cv2.IMWRITE_JPEG_QUALITY, CAMERAS[e.camera].jpeg])[1], cv2.IMREAD_COLOR)
        assert np.abs(cv2.imread(str(p)).astype(int) - again).max() <= 1, p.name

@pytest.mark.full
def test_sample_has_the_same_bytes_again(tmp_path, root):
    write_sample(tmp_path/'a'); write_sample(tmp_path/'b')
    assert digest(tmp_path/'a') == digest(tmp_path/'b')

def test_same_bytes_in_another_process(tmp_path):
    code = 'import sys; from retina_nb.synth.dataset import write_synth; write_synth(sys.argv[1], 6, size=128, layout="pairs")'
    for o in 'ab':
        env = {**os.environ, 'PYTHONHASHSEED': str(ord(o)), 'OMP_NUM_THREADS': '1' if o == 'a' else '2'}
        subprocess.run([sys.executable, '-c', code, str(tmp_path/o)], check=True, capture_output=True, env=env)
    assert digest(tmp_path/'a') == digest(tmp_path/'b')

def test_command_refuses_a_folder_that_is_not_its_own(tmp_path, command):
    (tmp_path/'thesis.docx').write_text('years of work')
    r = command('retina_sample', '--out', tmp_path)
    assert r.returncode == 2 and 'thesis.docx' in r.stderr and len(r.stderr.strip().splitlines()) == 1 and 'Traceback' not in r.stderr
    assert (tmp_path/'thesis.docx').read_text() == 'years of work'

@pytest.mark.full
def test_command_makes_the_committed_sample(tmp_path, command, root):
    (tmp_path/'d').mkdir(); (tmp_path/'d/README.md').write_text('kept')
    assert command('retina_sample', '--out', tmp_path/'d').returncode == 0
    a, b = digest(tmp_path/'d'), digest(root/'data')
    assert (tmp_path/'d/README.md').read_text() == 'kept'
    assert sorted(a) == sorted(b) and all(a[k] == b[k] for k in a if k.endswith('.csv'))

# --- bad input
@pytest.mark.parametrize('call, what', [
    (lambda: synth_eye(1, grade=5), 'grade is 5'), (lambda: synth_eye(1, eye='both'), "'both'"), (lambda: synth_eye(-1), 'seed is -1'),
    (lambda: synth_eye(1, size=16), 'size is 16'), (lambda: synth_eye(1, size=10**6), 'size is'), (lambda: synth_eye(1, sharpness=1), "'sharpness'"),
    (lambda: synth_eye(1, camera='Z'), "'Z'"), (lambda: plan_synth(0), 'n is 0'), (lambda: plan_synth(5, seed=-3), 'seed is -3'),
    (lambda: plan_synth(5, prevalence=(1,2,3)), 'prevalence'), (lambda: plan_synth(5, fractions=(1,)), 'fractions'),
    (lambda: grade_from_lesions(dict(drusen=1)), "'drusen'"), (lambda: draw_look(1, 'x'), "'x'")])
def test_bad_settings(call, what):
    with pytest.raises(SettingError, match=what): call()

@pytest.mark.full
def test_speed():
    "At least 30 images a second on one core at 256 px"
    import time
    n = cv2.getNumThreads(); cv2.setNumThreads(1)
    try:
        synth_eye(0, 3)
        t = time.process_time()
        for s in range(60): synth_eye(s, s%5)
        assert 60/(time.process_time() - t) > 30
    finally: cv2.setNumThreads(n)

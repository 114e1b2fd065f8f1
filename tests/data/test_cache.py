"The cache: killed at any moment, resumed, changed, refused; and its pixels, which are the grader's."
import json, os, random, resource, shutil, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path

import cv2, numpy as np, pandas as pd, pytest
from PIL import Image

from retina_nb.data import cache as C
from retina_nb.data.manifest import JOURNAL, read_cache
from retina_nb.data.cache import cache_fields, cache_names, cache_records
from retina_nb.core import DataError, ImageError, RunError, SettingError
from retina_nb.data.records import load_records
from retina_nb.data.checks import require_usable
from retina_nb.image.read import read_image
from retina_nb.image.preprocess import Preprocess, cache_note
from retina_nb.synth.render import synth_eye

REAL = os.environ.get('RETINA_NB_DATA')
real = pytest.mark.skipif(not REAL, reason='RETINA_NB_DATA is not set')

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A records folder: 64 photographs of 600 px, two of them bad, one without a field"
    d = tmp_path_factory.mktemp('photos'); (d/'raw').mkdir()
    eyes = [cv2.cvtColor(synth_eye(s, size=600).image, cv2.COLOR_RGB2BGR) for s in range(4)]
    rows = []
    for i in range(64):
        a = np.ascontiguousarray(eyes[i%4][:, ::1-2*(i//4%2)]); a = (a*(.6 + .4*(i//8)/8)).astype(np.uint8)
        cv2.imwrite(str(d/f'raw/{i:02}_left.jpg'), a, [cv2.IMWRITE_JPEG_QUALITY, 92]); rows.append((f'raw/{i:02}_left.jpg', i%5, f'p{i}', 'left', i/10))
    (d/'raw/07_left.jpg').write_text('not a picture'); (d/'raw/21_left.jpg').write_bytes((d/'raw/22_left.jpg').read_bytes()[:9000])
    cv2.imwrite(str(d/'raw/30_left.jpg'), np.random.default_rng(0).integers(0, 255, (300,400,3), dtype=np.uint8))
    rows.append(('raw/missing_left.jpg', 1, 'p99', 'left', 1.))
    pd.DataFrame(rows, columns=['image','label','patient','eye','age']).to_csv(d/'records.csv', index=False)
    return d

@pytest.fixture
def mine(photos, tmp_path): return Path(shutil.copytree(photos, tmp_path/'photos'))

def records(d): return load_records(d, warn=False)
def cache(d, out, **kw): return cache_records(records(d), out, **dict(dict(size=160, workers=1, progress=False), **kw))
def tree(d): return {str(f.relative_to(d)): f.read_bytes() for f in sorted(Path(d).rglob('*')) if f.is_file()}

@pytest.fixture(scope='module')
def peace(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp('peace')/'cache'; cache(photos, out)
    return out

# ---- killed

GO = 'import sys; from retina_nb.data.cache import retina_cache; retina_cache(sys.argv[1], out=sys.argv[2], size=160, workers=2)'

def start(photos, out, **kw): return subprocess.Popen([sys.executable, '-c', GO, str(photos), str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **kw)

def children(pid): return [int(p) for t in Path(f'/proc/{pid}/task').glob('*/children') for p in t.read_text().split()] if Path('/proc').exists() else []

def killings(photos, peace, out, n, seed):
    rng, stopped, whole = random.Random(seed), 0, tree(peace)
    for _ in range(n):
        p = start(photos, out); goal = rng.randrange(1, 60); had = len(list(Path(out).glob('images/**/*.jpg'))); until = time.time() + 60
        while p.poll() is None and time.time() < until and len(list(Path(out).glob('images/**/*.jpg'))) < min(had + goal, 62): time.sleep(.001)
        time.sleep(rng.random()*.03); kids = children(p.pid)
        p.kill(); p.wait(); stopped += p.returncode == -signal.SIGKILL
        for f in Path(out).glob('images/**/*.jpg'): assert f.read_bytes() == whole[str(f.relative_to(out))] # under its name only when whole
        until = time.time() + 10
        while time.time() < until and any(Path(f'/proc/{k}').exists() and 'Z' not in Path(f'/proc/{k}/stat').read_text().rsplit(')')[1][:3] for k in kids): time.sleep(.01)
        assert time.time() < until # no worker stays behind
        if len(list(Path(out).glob('images/**/*.jpg'))) >= 62 or rng.random() < .15: shutil.rmtree(out, ignore_errors=True)
    assert stopped >= n//2
    assert cache(photos, out, workers=2)['n_cached'] == 62
    assert tree(out) == whole

def test_killed_at_any_moment(photos, peace, tmp_path): killings(photos, peace, tmp_path/'out', 3, 1)

@pytest.mark.full
def test_killed_at_twenty_moments(photos, peace, tmp_path): killings(photos, peace, tmp_path/'out', 20, 2)

def test_stopped_by_the_keyboard(photos, peace, tmp_path):
    p = start(photos, tmp_path/'out', start_new_session=True)
    while p.poll() is None and len(list((tmp_path/'out').glob('images/**/*.jpg'))) < 4: time.sleep(.002)
    os.killpg(p.pid, signal.SIGINT); _, err = p.communicate(timeout=30)
    assert p.returncode in (130, 0) and len(err.strip().splitlines()) <= 1 and 'Traceback' not in err
    cache(photos, tmp_path/'out'); assert tree(tmp_path/'out') == tree(peace)

# ---- torn, changed, unchanged

def test_torn_files_and_journal(photos, peace, tmp_path):
    out = Path(shutil.copytree(peace, tmp_path/'out')); names = sorted(read_cache(out)['files'])
    data = (out/names[0]).read_bytes(); (out/names[0]).write_bytes(data[:len(data)//2])
    (out/names[1]).write_bytes(b'\0'*len((out/names[1]).read_bytes())); (out/names[2]).unlink()
    (out/'images/raw/.x.jpg.1.tmp').write_bytes(b'half')
    (out/JOURNAL).write_text(json.dumps([names[3], dict(read_cache(out)['files'][names[3]])]) + '\n["images/raw/00_le')
    assert cache(photos, out)['n_new'] == 3 and tree(out) == tree(peace)

def test_unchanged_images_are_not_opened(photos, peace, tmp_path, monkeypatch):
    out = Path(shutil.copytree(peace, tmp_path/'out'))
    monkeypatch.setattr(C, '_work', lambda pre, out, image, name, known: dict(error='opened') if image[-11:-9] not in ('07', '21') else dict(error='bad'))
    assert cache(photos, out)['n_cached'] == 62 and cache(photos, out)['n_unreadable'] == 2

def test_changed_touched_gone(mine, tmp_path):
    out, raw = tmp_path/'out', mine/'raw'; cache(mine, out); old = tree(out)
    os.utime(raw/'01_left.jpg'); cv2.imwrite(str(raw/'02_left.jpg'), cv2.imread(str(raw/'03_left.jpg'))); (raw/'04_left.jpg').unlink(); shutil.copy(raw/'05_left.jpg', raw/'07_left.jpg'); (raw/'06_left.jpg').write_text('gone')
    c = cache(mine, out); new = tree(out)
    assert (c['n_cached'], c['n_unreadable'], c['n_missing']) == (62, 2, 1)
    assert {k for k in old if k.endswith('.jpg') and old[k] != new.get(k)} == {'images/raw/02_left.jpg', 'images/raw/06_left.jpg'}
    assert 'images/raw/07_left.jpg' in new and 'images/raw/04_left.jpg' in new # a cached picture outlives its photograph
    assert read_image(out/'images/raw/02_left.jpg').shape == (160,160,3) and cache(mine, out)['n_new'] == 0

# ---- refused, in one line

def refused(r, *says):
    assert r.returncode == 2 and len(r.stderr.strip().splitlines()) == 1 and all(s in r.stderr for s in says), r.stderr

def test_command(mine, tmp_path, command):
    r = command('retina_cache', mine, '--out', tmp_path/'out', '--size', 160, '--workers', 2)
    assert r.returncode == 0 and '62 new' in r.stdout and '1 not on disk' in r.stdout and '2 cannot be read' in r.stdout and '1 without a clear field' in r.stdout and not r.stderr, r
    s = json.loads((tmp_path/'out/summary.json').read_text()); said = {Path(p['file']).name: p['what'] for p in s['problems']}
    assert 'text' in said['07_left.jpg'] and 'end early' in said['21_left.jpg'] and 'not on disk' in said['records.csv']
    refused(command('retina_cache', mine, '--out', tmp_path/'out', '--size', 128), 'via is 160 there and 128 here')
    refused(command('retina_cache', mine/'raw', '--out', mine/'raw/cache'), 'inside the data set')

def test_folders_that_are_in_the_way(photos, tmp_path):
    (tmp_path/'other').mkdir(); (tmp_path/'other/thesis.txt').write_text('mine'); (tmp_path/'file').write_text('')
    for out, says in ((tmp_path/'other', 'not a cache'), (tmp_path/'file', 'is a file'), (tmp_path/'file/x', 'is a file'), ('/proc/x', 'cannot be written')):
        with pytest.raises(RunError, match=says): cache(photos, out)
    assert (tmp_path/'other/thesis.txt').read_text() == 'mine' and len(list((tmp_path/'other').iterdir())) == 1

@pytest.mark.parametrize('workers', (1, 2))
def test_full_disk(photos, tmp_path, workers):
    "A limit on the size of files stands for the end of the disk"
    lim = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    r = subprocess.run([sys.executable, '-c', GO.replace('workers=2', f'workers={workers}'), str(photos), str(tmp_path/'out')], capture_output=True, text=True, preexec_fn=lim, timeout=60)
    refused(r, 'cannot be written', 'File too large', 'kept')

def test_one_at_a_time(photos, tmp_path):
    p = start(photos, tmp_path/'out')
    while p.poll() is None and not list((tmp_path/'out').glob('images/**/*.jpg')): time.sleep(.002)
    try:
        if p.poll() is None:
            os.kill(p.pid, signal.SIGSTOP)
            with pytest.raises(RunError, match='is writing there'): cache(photos, tmp_path/'out')
    finally: p.kill(); p.communicate()

def test_settings(photos, tmp_path):
    for kw in (dict(workers=0), dict(size=4), dict(quality=20), dict(pre=Preprocess())):
        with pytest.raises(SettingError): cache(photos, tmp_path/'out', **kw)

# ---- the pixels

@pytest.mark.parametrize('workers', (None, 3))
def test_workers_change_nothing(photos, peace, tmp_path, workers):
    cache(photos, tmp_path/'out', workers=workers); assert tree(tmp_path/'out') == tree(peace)

@pytest.mark.parametrize('quality', (95, None))
@pytest.mark.parametrize('contrast', ('none', 'ben_graham', 'clahe'))
def test_cache_and_grader_see_the_same(photos, tmp_path, quality, contrast):
    few = records(photos).iloc[[0, 9, 30]]; cache_records(few, tmp_path/'out', size=256, quality=quality, workers=1, progress=False)
    made = load_records(tmp_path/'out', warn=False)
    for size in (64, 224, 256):
        pre = Preprocess.for_task('dr', size=size, contrast=contrast, **cache_fields(made))
        for a, b in zip(few.image, made.image): assert (pre(b) == pre(a)).all() and (pre(Path(b).read_bytes()) == pre(Path(a).read_bytes())).all() and (pre(Image.open(b)) == pre(a)).all()

def test_a_mismatch_names_the_field(peace, tmp_path):
    f = peace/'images/raw/00_left.jpg'; pre = Preprocess(size=64, via=160)
    for p, says in ((replace(pre, via=None), 'via is None here and 160 there'), (replace(pre, via=256), 'via is 256'), (replace(pre, fit='cut'), 'fit is'), (replace(pre, crop='none'), 'crop is'), (replace(pre, via_quality=90), 'via_quality is 90')):
        with pytest.raises(ImageError, match=f'00_left.jpg.*{says}'): p(f)
    Image.open(f).resize((100,100)).save(tmp_path/'small.jpg', comment=Image.open(f).info['comment'])
    with pytest.raises(ImageError, match='was changed'): pre(tmp_path/'small.jpg')

def test_notes(tmp_path):
    pre = Preprocess(size=64, via=64); eye = synth_eye(0, size=128).image
    for q in (95, None):
        p = replace(pre, via_quality=q); data = p.to_cache(eye)
        assert cache_note(data) == p.first_half and cache_note(bytearray(data)) == p.first_half
        assert Image.open(__import__('io').BytesIO(data)).size == (64, 64) and read_image(data).shape == (64,64,3)
    for other in (b'', b'retina_nb cache', b'\xff\xd8retina_nb cache {"via": ', eye, tmp_path, tmp_path/'no.jpg', 'm.npz::train/1', None): assert cache_note(other) is None

def test_archive_and_cache_of_a_cache(tmp_path, peace):
    a = np.stack([cv2.resize(synth_eye(i, size=64).image, (64,64)) for i in range(4)]); np.savez(tmp_path/'retinamnist.npz', train_images=a, train_labels=np.arange(4)[:,None])
    cache(tmp_path/'retinamnist.npz', tmp_path/'out', size=48); made = load_records(tmp_path/'out')
    assert [Path(i).name for i in made.image] == [f'{i}.jpg' for i in range(4)] and made.label.tolist() == [0,1,2,3]
    pre = Preprocess(size=32, **cache_fields(made)); assert (pre(made.image[2]) == pre(a[2])).all()
    good = records(peace); good = good[good.error == '']
    cache_records(good, tmp_path/'again', size=160, workers=1, progress=False)
    assert sorted(v for k,v in tree(tmp_path/'again').items() if k.endswith('jpg')) == sorted(v for k,v in tree(peace).items() if k.endswith('jpg'))
    assert cache_records(good, tmp_path/'other', size=128, workers=1, progress=False)['n_unreadable'] == len(good) # not cropped twice

def test_xrays_are_not_cropped(tmp_path):
    for c in ('NORMAL', 'PNEUMONIA'):
        (tmp_path/f'x/train/{c}').mkdir(parents=True); cv2.imwrite(str(tmp_path/f'x/train/{c}/IM-{len(c)}-0001.jpg'), np.full((90,120), 120, np.uint8))
    r = load_records(tmp_path/'x', 'pneumonia', warn=False); cache_records(r, tmp_path/'out', size=64, workers=1, progress=False)
    made = load_records(tmp_path/'out', 'pneumonia'); a = read_image(made.image[0])
    assert 'crop_sure' not in made and a[:6].max() < 12 and a[20:44].min() > 100

# ---- a cache is DATA

def test_records_survive(photos, peace):
    a, b = records(photos), records(peace)
    assert b.attrs['layout'] == 'records' and len(a) == len(b)
    for c in ('label', 'patient', 'eye', 'split', 'source', 'age'): assert a[c].astype(str).tolist() == b[c].astype(str).tolist(), c
    assert b.crop_sure.value_counts().to_dict() == {1: 61, 0: 1} and b.set_index(a.image.map(lambda f: Path(f).name)).crop_sure['30_left.jpg'] == 0
    assert {Path(f).name for f in a.image[b.error != '']} == {'07_left.jpg', '21_left.jpg', 'missing_left.jpg'}
    with pytest.raises(DataError, match='3 of 65'): require_usable(b)
    with pytest.warns(UserWarning): assert len(require_usable(b, skip_bad=True)) == 62

def test_names():
    n = cache_names(['/d/a/x.png', '/d/a/x.tif', '/d/b/x.png', '/e/f/y.jpg', '', '/d/ü [1].jpg', '/d/A/X.jpg'], '/d')
    assert len({v.lower() for v in n.values()}) == len(n) == 6 and not any('..' in v or v.startswith('/') for v in n.values())
    assert n['/d/b/x.png'] == 'images/b/x.jpg' and n['/e/f/y.jpg'] == 'images/f/y.jpg'

@pytest.mark.full
def test_explore_takes_a_cache(peace, tmp_path, command):
    r = command('retina_explore', peace, '--out', tmp_path/'e')
    assert r.returncode == 0 and json.loads((tmp_path/'e/summary.json').read_text())['n_images'] == 65

@real
def test_real_photographs(tmp_path):
    d = tmp_path/'few'; d.mkdir()
    for f in [*sorted(Path(REAL).glob('idrid-fullsize/*.jpg'))[:2], *sorted(Path(REAL).glob('eyepacs-sample/train/*'))[:2]]: os.symlink(f, d/f.name)
    c = cache(d, tmp_path/'out', size=512); made = records(tmp_path/'out'); raw = records(d)
    assert c['n_cached'] == 4 and (made.crop_sure == 1).all()
    pre = Preprocess(size=224, contrast='ben_graham', **cache_fields(made))
    for a, b in zip(raw.image, made.image): assert (pre(a) == pre(b)).all()

@pytest.mark.filterwarnings('ignore:no image of class')
def test_train_on_a_cache_and_grade_photographs(tmp_path):
    "A model trained from a cache says so in its contract, and gives photographs and cached pictures the same probabilities"
    pytest.importorskip('torch')
    from retina_nb.train import load_model, predict, train
    from retina_nb.synth.dataset import write_synth
    write_synth(tmp_path/'eyes', 60, size=96); raw = load_records(tmp_path/'eyes', warn=False)
    cache_records(raw, tmp_path/'cache', size=80, workers=1, progress=False); made = load_records(tmp_path/'cache')
    run = train(made, size=64, epochs=1, bs=16, pretrained=False, out=tmp_path/'run', progress=False)
    assert run.config['preprocess']['via'] == 80 and Preprocess.from_json(run.config['preprocess']).hash == run.config['preprocess_hash']
    a, b = (predict(run, r.iloc[:8], progress=False)[[f'p_{k}' for k in range(5)]].to_numpy() for r in (raw, made))
    assert (a == b).all()
    model = load_model(run); model.preprocess = replace(model.preprocess, via=None)
    with pytest.raises(ImageError, match='via is None here and 80 there'): predict(model, made.iloc[:2], progress=False)

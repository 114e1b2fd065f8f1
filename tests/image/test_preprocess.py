"The preprocessing contract: the field, golden results, the same bits everywhere, strict storage."
import hashlib, io, json, os, pickle, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import cv2, numpy as np, pytest
from PIL import Image

from retina_nb.core import ImageError, SettingError
from retina_nb.image.read import read_image
from retina_nb.image.preprocess import Preprocess
from retina_nb.image.contrast import ben_graham, clahe
from retina_nb.image.field import find_field, resize
from retina_nb.synth.render import synth_eye

REAL = os.environ.get('RETINA_NB_DATA')
real = pytest.mark.skipif(not REAL, reason='RETINA_NB_DATA is not set')

def disc(w=600, h=400, cx=300, cy=200, r=180, level=150, back=0, seed=0):
    y,x = np.mgrid[:h,:w]; a = np.where((np.hypot(x-cx, y-cy) <= r)[...,None], np.array([level, level*.5, level*.2]), back)
    return (a + np.random.default_rng(seed).normal(0, 1.5, a.shape)).clip(0,255).astype(np.uint8)

def jpeg(a, **kw):
    buf = io.BytesIO(); Image.fromarray(a).save(buf, 'JPEG', **{'quality': 92, **kw}); return buf.getvalue()

# ---- the field

@pytest.mark.parametrize('kw', [dict(), dict(r=300), dict(cx=120, cy=150), dict(r=60), dict(level=25), dict(level=255), dict(back=60), dict(cx=590, r=250), dict(w=2000, h=1500, cx=1000, cy=750, r=700), dict(w=120, h=80, cx=60, cy=40, r=36)])
def test_field_is_found(kw):
    a = disc(**kw); f = find_field(a); want = dict(cx=300, cy=200, r=180) | kw
    assert f.sure, f
    assert abs(f.r/want['r']-1) < .03 and np.hypot(f.cx-want['cx'], f.cy-want['cy']) < .03*want['r'] + 1
    x0,y0,x1,y1 = f.box; h,w = a.shape[:2]
    assert 0 <= x0 < x1 <= w and 0 <= y0 < y1 <= h

@pytest.mark.parametrize('name', ['black', 'white', 'noise', 'grey', 'gradient', 'stripes', 'inside', 'rectangle', 'tiny'])
def test_no_field_keeps_the_whole_picture(name):
    y,x = np.mgrid[:300,:400]; rng = np.random.default_rng(0); rgb = lambda g: np.repeat(np.asarray(g)[...,None], 3, axis=2).clip(0,255).astype(np.uint8)
    a = dict(black=rgb(x*0), white=rgb(x*0+255), noise=rng.integers(0,255,(300,400,3),dtype=np.uint8), grey=rgb(x*0+90), gradient=rgb(x*.6), stripes=rgb((x//20%2)*200),
             inside=disc(r=500), rectangle=rgb(((x>60)&(x<340)&(y>50)&(y<250))*180), tiny=rgb(x[:16,:16]*9))[name]
    f = find_field(a)
    assert not f.sure and f.box == (0, 0, a.shape[1], a.shape[0])
    out = Preprocess(size=64)(a)
    assert abs(out.astype(float).sum()/64**2 - a.astype(float).sum()/max(a.shape)**2) < 12 # nothing lost, nothing blanked

def test_writing_and_notch_do_not_move_it():
    a = disc(); f = find_field(a)
    b = cv2.rectangle(cv2.putText(a.copy(), 'OD 1968-01-02', (5,30), 0, 1, (255,255,255), 2), (470,80), (500,100), (150,75,30), -1)
    g = find_field(b)
    assert g.sure and abs(g.r/f.r-1) < .02

@pytest.mark.parametrize('seed', range(12))
def test_field_of_synthetic_eyes(seed):
    e = synth_eye(seed, size=300); f = find_field(e.image); g = find_field(cv2.resize(e.image, None, fx=3, fy=3))
    assert f.sure and g.sure and abs(g.r/3/f.r-1) < .02

# ---- the result

@pytest.mark.parametrize('contrast', ['none', 'ben_graham', 'clahe'])
@pytest.mark.parametrize('size', [16, 33, 128, 512])
def test_shapes(contrast, size):
    for src in (disc(), disc(r=500), np.zeros((40,90,3), np.uint8), disc(w=17, h=16)):
        out = Preprocess(size=size, contrast=contrast)(src)
        assert out.shape == (size,size,3) and out.dtype == np.uint8 and out.flags.c_contiguous

def test_every_source_gives_the_same(tmp_path):
    pre, a = Preprocess(size=100), disc(); (tmp_path/'a.png').write_bytes(b''); Image.fromarray(a).save(tmp_path/'a.png')
    data = (tmp_path/'a.png').read_bytes()
    for src in (tmp_path/'a.png', str(tmp_path/'a.png'), data, bytearray(data), memoryview(data), Image.open(tmp_path/'a.png'), io.BytesIO(data)):
        assert (pre(src) == pre(a)).all()
    with pytest.raises(ImageError, match='no.png'): pre(tmp_path/'no.png')

MODES = ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB', 'I;16', 'F']

@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_golden_modes_by_orientations(mode, orientation, tmp_path):
    "The same eye in 12 modes, turned 8 ways, comes out upright and alike"
    from test_read import STORED, as_mode
    eye = synth_eye(7, size=160).image
    im, _, _ = as_mode(mode, np.ascontiguousarray(STORED[orientation](eye)))
    exif = Image.Exif(); exif[0x0112] = orientation
    fmt = {'PA': 'png', 'LA': 'png', 'P': 'png'}.get(mode, 'tiff')
    (im.convert('RGBA') if mode == 'PA' else im).save(tmp_path/f'a.{fmt}', exif=exif)
    pre = Preprocess(size=96)
    out, want = pre(tmp_path/f'a.{fmt}').astype(float), pre(as_mode(mode, eye)[1].round().astype(np.uint8)).astype(float)
    assert np.abs(out-want).mean() < (14 if mode == '1' else 3)   # black and white pixels average differently
    if mode != '1': assert np.corrcoef(out[...,1].ravel(), pre(eye)[...,1].ravel())[0,1] > .9

GOLDEN = Path(__file__).with_name('golden_preprocess.json') # means of 8 x 8 squares by mode; written anew, after a look at them, when VERSION is raised: python tests/image/test_preprocess.py

def golden_eye(n=96):
    "A field with a disc, a vessel and a dark spot, from whole-number arithmetic alone"
    y,x = np.mgrid[:n,:n+32]; d = (x-64)**2 + (y-48)**2
    a = np.dstack([190 - d//20, 95 - d//30 + x//4, 30 + y//3])
    a[(x-88)**2 + (y-44)**2 < 60] = 240, 215, 150; a[(abs(y-30-x//8) < 2)] = 110, 30, 20; a[(x-50)**2 + (y-64)**2 < 9] = 90, 12, 8
    return np.where((d <= 42**2)[...,None], a, 0).clip(0,255).astype(np.uint8)

def golden_means(mode, orientation, folder):
    from test_read import STORED, as_mode
    im, _, _ = as_mode(mode, np.ascontiguousarray(STORED[orientation](golden_eye()))); exif = Image.Exif(); exif[0x0112] = orientation
    f = folder/f"a.{'png' if mode in ('PA', 'LA', 'P') else 'tiff'}"
    (im.convert('RGBA') if mode == 'PA' else im).save(f, exif=exif)
    return Preprocess(size=64)(f).reshape(8, 8, 8, 8, 3).mean(axis=(1,3))

@pytest.mark.parametrize('mode', MODES)
def test_golden_record(mode, tmp_path):
    "What this version made of each mode when it was released, in all orientations; palettes and black-and-white by a wider margin"
    from retina_nb.image.preprocess import VERSION
    golden = json.loads(GOLDEN.read_text())
    assert golden['version'] == VERSION
    for o in range(1, 9): assert np.abs(golden_means(mode, o, tmp_path) - np.array(golden['modes'][mode])).max() < (12 if mode in ('1', 'P', 'PA') else 1.5), o

def test_lesions_survive_scaled_decoding():
    "Dark spots of 3 to 6 pixels of the photograph: their contrast after scaled decoding against full, at 512 px"
    rng = np.random.default_rng(0); a = disc(2400, 1600, 1200, 800, 760); spots = [(int(x), int(y), int(r)) for x,y,r in zip(rng.integers(800, 1600, 60), rng.integers(400, 1200, 60), rng.integers(3, 7, 60))]
    for x,y,r in spots: cv2.circle(a, (x,y), r, (70, 20, 15), -1, cv2.LINE_AA)
    pre = Preprocess(size=512); data = jpeg(a); full, scaled = (pre(o)[...,1].astype(float) for o in (read_image(data), data))
    assert read_image(data, short_side=512).shape[0] == 800   # it was decoded at a half
    f = find_field(a); k = 512/f.square[2]
    def contrast(g, x, y): i, j = round((y-f.square[1])*k), round((x-f.square[0])*k); return np.median(g[i-8:i+9,j-8:j+9]) - g[i-1:i+2,j-1:j+2].min()
    c = np.array([[contrast(full, x, y), contrast(scaled, x, y)] for x,y,_ in spots])
    assert (c[:,0] > 5).all() and (c[:,1] > .85*c[:,0]).all() and c[:,1].mean() > .95*c[:,0].mean()
    assert np.abs(full-scaled).mean() < .5

def test_same_bits_in_every_process(tmp_path):
    files = []
    for i in range(6): f = tmp_path/f'{i}.jpg'; f.write_bytes(jpeg(synth_eye(i, size=700).image)); files.append(str(f))
    for pre in (Preprocess(size=224), Preprocess(size=128, contrast='ben_graham', via=256)):
        one = [pre(f).tobytes() for f in files]
        with ThreadPoolExecutor(4) as pool: assert [o.tobytes() for o in pool.map(pre, files)] == one
        code = ('import sys,hashlib; from concurrent.futures import ProcessPoolExecutor; from retina_nb.image.preprocess import Preprocess\n'
                'if __name__ == "__main__":\n  pre = Preprocess.from_json(sys.argv[1])\n'
                '  with ProcessPoolExecutor(int(sys.argv[2])) as p: print(hashlib.sha256(b"".join(o.tobytes() for o in p.map(pre, sys.argv[3:]))).hexdigest())')
        (tmp_path/'go.py').write_text(code)
        for n in ('3',) if pre.via else ('1', '2'):
            out = subprocess.run([sys.executable, str(tmp_path/'go.py'), pre.to_json(), n, *files], capture_output=True, text=True, check=True).stdout.strip()
            assert out == hashlib.sha256(b''.join(one)).hexdigest()

def test_through_the_cache_equals_serving():
    src = jpeg(synth_eye(1, size=700).image)
    for q in (95, None):
        for c in ('none', 'ben_graham'):
            pre = Preprocess(size=160, via=320, via_quality=q, contrast=c)
            assert (pre.finish(read_image(pre.to_cache(src))) == pre(src)).all()

def test_small_field_in_a_large_jpeg_is_not_blurred():
    a = np.zeros((1600,2400,3), np.uint8); e = cv2.resize(synth_eye(2, size=600).image, (600,600)); a[200:800,300:900] = e
    got, want = Preprocess(size=512)(jpeg(a, quality=97)), Preprocess(size=512)(a)
    assert np.abs(got.astype(int)-want).mean() < 2

def test_ben_graham_forgets_the_light():
    a = resize(synth_eye(3, size=400).image, 256)
    y = np.linspace(.6, 1, 256)[:,None,None]; b = (a*y).astype(np.uint8)
    assert np.abs(ben_graham(a).astype(int)-ben_graham(b)).mean() < .5*np.abs(a.astype(int)-b).mean()
    assert (ben_graham(np.zeros((128,128,3), np.uint8)) == 128).all()
    assert clahe(a).shape == a.shape

@pytest.mark.parametrize('seed', (0, 5))
def test_quick_blur_stays_within_its_bound(seed):
    "On the result's scale, where a grey level of the photograph counts four, against the same Gaussian at full size"
    from retina_nb.image.contrast import _disc
    a = Preprocess(size=512)(synth_eye(seed, size=700).image).astype(np.float32); lit = (_disc(512, .97)*(a.max(axis=2) > 8)).astype(np.float32)
    blur = lambda x: cv2.GaussianBlur(x, (0,0), 512/60)
    want = (4*(a - blur(a*lit[...,None])/(blur(lit)[...,None] + 1e-3)) + 128).clip(0, 255)
    d = np.abs(ben_graham(a.astype(np.uint8)) - want)[_disc(512, .9) > 0]
    assert d.mean() < 4 and np.percentile(d, 99) < 20

def test_ben_graham_is_grey_where_there_is_no_picture():
    out = Preprocess(size=256, contrast='ben_graham')(disc(r=260))   # cut above and below
    assert (out[:24] == 128).all() and (out[-24:] == 128).all() and (out[:6,:,:] == 128).all() and (out[:,:6] == 128).all()
    assert (out[40:-40,40:-40] > 60).all()                           # and no dark rim next to the cut

def test_normalisation():
    pre, a = Preprocess(size=32), np.random.default_rng(0).integers(0, 256, (5,32,32,3), dtype=np.uint8)
    x = pre.to_input(a)
    assert x.shape == (5,3,32,32) and x.dtype == np.float32
    want = (a.astype(np.float64)/255 - pre.mean)/pre.std
    assert np.abs(x.transpose(0,2,3,1)-want).max() < 1e-5
    for bad in (a.astype(float), a[...,0], a[0,0], a.transpose(0,3,1,2)):
        with pytest.raises(SettingError): pre.to_input(bad)

# ---- storage

def test_frozen_hashable_picklable():
    pre = Preprocess(mean=[.5,.5,.5], std=np.array([.2,.2,.2]))
    with pytest.raises(FrozenInstanceError): pre.size = 3
    assert pickle.loads(pickle.dumps(pre)) == pre and len({pre, replace(pre)}) == 1
    assert Preprocess.from_json(json.dumps(asdict(pre))) == pre and Preprocess.from_json(pre.to_dict()).hash == pre.hash

def test_every_field_counts():
    pre, other = Preprocess(), dict(size=256, crop='none', fit='cut', via=512, via_quality=90, contrast='clahe', mean=(0,0,0), std=(1,1,1))
    hashes = {pre.hash}
    for k,v in other.items():
        p = replace(pre, **{k: v}); hashes.add(p.hash)
        with pytest.raises(SettingError, match=f'differs: {k} is'): pre.check(p)
    assert len(hashes) == len(other)+1 and set(other) | {'version'} == set(asdict(pre))
    pre.check(pre.to_dict())

@pytest.mark.parametrize('kw', [dict(size=8), dict(size=2.5), dict(size=None), dict(size='224'), dict(crop='x'), dict(via=100), dict(via_quality=0), dict(contrast='hdr'), dict(mean=(0,)), dict(std=(0,0,0)), dict(mean='abc'), dict(version=99), dict(fit='crop')])
def test_impossible_settings(kw):
    with pytest.raises(SettingError, match=next(iter(kw))): Preprocess(**kw)

@pytest.mark.parametrize('text', ['', '{}', '[1]', 'null', '[[1, 2]]', '{"size": 224, "extra": 1}'])
def test_broken_json(text):
    with pytest.raises(SettingError): Preprocess.from_json(text)

def test_tasks():
    seen = {t: (p.crop, p.fit) for t in ('dr', 'oct', 'pneumonia', 'pneumonia_type') for p in [Preprocess.for_task(t)]}
    assert seen == dict(dr=('fundus', 'pad'), oct=('oct', 'cut'), pneumonia=('none', 'pad'), pneumonia_type=('none', 'pad'))
    assert Preprocess.for_task('dr', 128, stats='half').mean == (.5,.5,.5)
    with pytest.raises(SettingError): Preprocess.for_task('dr', stats='x')

# ---- real photographs

@real
def test_real_fields():
    files = [*sorted(Path(REAL).glob('eyepacs-sample/train/*')), *sorted(Path(REAL).glob('idrid/**/*.jpg'))[::8]]
    fs = [find_field(read_image(f, short_side=320)) for f in files]
    assert all(f.sure for f in fs)
    xray = sorted(Path(REAL).glob('chest_xray/train/*/*'))[::200]
    assert xray and not any(find_field(read_image(f)).sure for f in xray)

@real
def test_scaled_and_full_decode_agree_on_real_photographs():
    for f in sorted(Path(REAL).glob('idrid-fullsize/*'))[:3]:
        for size in (224, 512):
            pre = Preprocess(size=size); d = np.abs(pre(f).astype(int)-pre(read_image(f)))
            assert d.mean() < 1.5, (f.name, size, d.mean())

if __name__ == '__main__':
    import tempfile
    from retina_nb.image.preprocess import VERSION
    sys.path.insert(0, str(Path(__file__).parent))
    with tempfile.TemporaryDirectory() as d:
        GOLDEN.write_text(json.dumps(dict(version=VERSION, modes={m: golden_means(m, 1, Path(d)).round(1).tolist() for m in MODES})) + '\n')

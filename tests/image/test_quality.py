"Quality: faults lower it, size does not matter, bad files get a row."
import os
from pathlib import Path

import cv2, numpy as np, pytest
from PIL import Image

from retina_nb.core import ImageError
from retina_nb.image.read import read_image
from retina_nb.image.field import find_field
from retina_nb.image.judged import quality_table
from retina_nb.image.quality import LIMITS, Quality, image_quality, quality_points
from retina_nb.synth.render import synth_eye

REAL = os.environ.get('RETINA_NB_DATA')
real = pytest.mark.skipif(not REAL, reason='RETINA_NB_DATA is not set')
EYES = [synth_eye(s, size=300).image for s in range(20, 26)]

FAULTS = {'blur': (lambda a, k: cv2.GaussianBlur(a, (0,0), k*2*find_field(a).r) if k else a, (0, .006, .01, .014, .02, .03), 'out of focus'),
          'dark': (lambda a, k: (a*(1-k)).astype(np.uint8), (0, .3, .5, .7, .85, .93), 'too dark'),
          'haze': (lambda a, k: (a*(1-k)+200*k).astype(np.uint8), (0, .2, .35, .5, .65, .8), 'hazy, too little contrast'),
          'cut': (lambda a, k: np.ascontiguousarray(a[:,int(find_field(a).box[0] + 2*find_field(a).r*k):]), (0, .15, .3, .45, .6, .75), 'field cut off, or its edge not found')}

@pytest.mark.parametrize('name', FAULTS)
def test_growing_faults_lower_the_score(name):
    f, steps, reason = FAULTS[name]
    for a in EYES:
        qs = [image_quality(f(a, k)) for k in steps]; s = np.array([q.score for q in qs])
        assert qs[0].ok and (np.diff(s) < .02).all() and s[-1] < .2*s[0], (name, s)
        assert not qs[-1].ok and reason in qs[-1].reasons, (name, qs[-1])
        oks = [q.ok for q in qs]; assert oks == sorted(oks, reverse=True)

@pytest.mark.parametrize('side', (128, 200, 512, 1500))
def test_size_does_not_matter(side):
    for a in EYES[:4]:
        b = cv2.resize(a, (round(a.shape[1]*side/a.shape[0]), side), interpolation=cv2.INTER_AREA if side < len(a) else cv2.INTER_CUBIC)
        assert image_quality(b).ok and abs(image_quality(b).score-image_quality(a).score) < .15

@pytest.mark.parametrize('name', ['black', 'white', 'noise', 'grey', 'tiny'])
def test_what_is_no_fundus_fails(name):
    a = dict(black=np.zeros((100,100,3), np.uint8), white=np.full((100,100,3), 255, np.uint8), noise=np.random.default_rng(0).integers(0,255,(200,200,3),dtype=np.uint8),
             grey=np.repeat(cv2.cvtColor(EYES[0], cv2.COLOR_RGB2GRAY)[...,None], 3, axis=2), tiny=np.zeros((16,300,3), np.uint8))[name]
    q = image_quality(a)
    assert not q.ok and q.reasons and 0 <= q.score < .5 and all(np.isfinite(v) for v in q.measures.values())

def test_points():
    for l in LIMITS.values():
        x = np.linspace(0, 3*l.at, 50); p = [quality_points(v, l) for v in x]
        assert quality_points(l.at, l) == pytest.approx(.5) and (np.diff(p)*np.sign(l.power) >= 0).all() and 0 <= min(p) <= max(p) <= 1
    assert quality_points(-1, LIMITS['redness']) == 0

def test_table(tmp_path):
    Image.fromarray(EYES[0]).save(tmp_path/'good.png'); (tmp_path/'bad.jpg').write_text('no image')
    t = quality_table([tmp_path/'good.png', tmp_path/'bad.jpg', tmp_path/'none.jpg'], workers=2)
    assert t.ok.tolist() == [True, False, False] and 'text' in t.reasons[1] and 'no such file' in t.reasons[2] and np.isnan(t.score[1])
    assert t.score[0] == image_quality(tmp_path/'good.png').score
    assert len(quality_table([])) == 0
    with pytest.raises(ImageError, match='bad.jpg'): image_quality(tmp_path/'bad.jpg')

def test_shows_itself():
    q = image_quality(EYES[0]//12)
    assert isinstance(q, Quality) and str(q).startswith('poor') and 'too dark' in str(q)

@real
def test_real_photographs_pass():
    "On the half that set the limits and on the half that did not"
    idrid = sorted(Path(REAL).glob('idrid/**/*.jpg'))
    for files in (idrid[:206] + sorted(Path(REAL).glob('eyepacs-sample/train/*')), idrid[206:]):
        assert quality_table(files, workers=2).ok.mean() >= .98
    xray = sorted(Path(REAL).glob('chest_xray/train/*/*'))[::300]
    assert not quality_table(xray, workers=2).ok.any()

@real
def test_real_photographs_made_worse_fail():
    for f in sorted(Path(REAL).glob('idrid/**/*.jpg'))[206::20]:
        a = read_image(f, short_side=256)
        for name,(make, steps, reason) in FAULTS.items():
            qs = [image_quality(make(a, k)) for k in steps]
            assert reason in qs[-1].reasons and (np.diff([q.score for q in qs]) < .03).all(), (f, name)

@real
def test_the_same_photograph_at_two_sizes_gets_the_same_verdict():
    small = {f.name: f for f in Path(REAL).glob('idrid/**/*.jpg')}
    pairs = [(image_quality(f), image_quality(small[f.name])) for f in sorted(Path(REAL).glob('idrid-fullsize/**/*.jpg')) if f.name in small]
    assert len(pairs) > 20 and sum(a.ok == b.ok for a,b in pairs) >= .95*len(pairs)

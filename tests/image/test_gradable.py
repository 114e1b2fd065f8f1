"What cannot be graded: siblings of each kind, and what must not be refused."
import numpy as np, pytest

from retina_nb.core import SettingError
from retina_nb.image import image_quality, ungradable
from retina_nb.synth import synth_eye

y, x = np.mgrid[:240,:320]
rng = np.random.default_rng(0)

def grey(a): return np.repeat(np.clip(a, 0, 255).astype(np.uint8)[...,None], 3, 2)
def layers(): return grey(70 + 60*np.sin(y/8) + 6*np.sin(x/5) + rng.normal(0, 4, y.shape))
def ribs(): return grey(120 + 50*np.sin(x/20) + 10*np.sin(y/12) + rng.normal(0, 4, y.shape))
def page(): return grey(np.where((y % 14 < 4) & (x % 9 < 5) & (x > 40), 20, 255))
def dog(): return np.dstack([150 + 60*np.sin(x/30 + y/50), 110 + 50*np.sin(y/17), 80 + 40*np.cos(x/11)]).clip(0, 255).astype(np.uint8)
def blank(v): return np.full((240,320,3), v, np.uint8)
def noise(): return rng.integers(0, 256, (240,320,3), dtype=np.uint8)

FOREIGN = dict(layers=layers(), ribs=ribs(), page=page(), inverted=255 - page(), dog=dog(), black=blank(0), white=blank(255), grey=blank(99),
               red=np.full((240,320,3), (180,60,20), np.uint8), noise=noise())

@pytest.mark.parametrize('name', FOREIGN)
def test_what_is_no_fundus_is_refused(name): assert ungradable(FOREIGN[name])

@pytest.mark.parametrize('grade', range(5))
def test_eyes_are_not_refused(grade):
    eye = synth_eye(40 + grade, grade=grade, size=300).image
    assert not ungradable(eye)
    q = image_quality(eye//3)
    assert not ungradable(eye//3, quality=q) and ungradable(eye//14)

@pytest.mark.parametrize('name', [o for o in FOREIGN if o != 'layers'])
def test_what_is_no_oct_is_refused(name):
    if name != 'inverted': assert ungradable(FOREIGN[name], 'oct'), name # white lines on black may be a scan

@pytest.mark.parametrize('name', ['layers', 'page', 'dog', 'black', 'white', 'grey', 'red', 'noise'])
def test_what_is_no_xray_is_refused(name): assert ungradable(FOREIGN[name], 'xray'), name

def test_their_own_kind_is_not_refused():
    assert not ungradable(FOREIGN['layers'], 'oct') and not ungradable(FOREIGN['ribs'], 'xray')
    with pytest.raises(SettingError, match='mri'): ungradable(FOREIGN['ribs'], 'mri')

def test_real_scans_and_photographs(real_data):
    "Nearly none of the real pictures of a kind are refused; nearly all of the others are"
    def some(folder, step): return sorted(p for p in (real_data/folder).rglob('*') if p.suffix.lower() in ('.jpg', '.jpeg', '.png'))[::step]
    files = dict(xray=some('chest_xray', 60), oct=some('oct2017', 15), fundus=some('eyepacs-small', 4))
    for kind,shown in files.items():
        for asked in files:
            refused = np.mean([bool(ungradable(f, asked)) for f in shown])
            assert refused <= .1 if kind == asked else refused >= .9, (kind, asked, refused)

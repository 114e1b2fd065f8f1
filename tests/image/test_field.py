"The frame: where the model's square lies in a photograph, there and back"
from dataclasses import FrozenInstanceError, replace

import cv2, numpy as np, pytest

from retina_nb.core import DataError
from retina_nb.image import Preprocess, read_image
from retina_nb.image.field import Frame, find_field, whole_picture
from retina_nb.synth.render import synth_eye

EYES = {c: synth_eye(5, grade=3, size=300, camera=c) for c in 'ABCD'}
CONTRACTS = {'fundus': Preprocess(size=96), 'cache': Preprocess(size=96, via=128, via_quality=None), 'pad': Preprocess(size=96, crop='none'),
             'cut': Preprocess(size=96, crop='none', fit='cut'), 'squash': Preprocess(size=96, crop='none', fit='squash'), 'large': Preprocess(size=700)}

@pytest.mark.parametrize('camera', EYES)
@pytest.mark.parametrize('name', CONTRACTS)
def test_apply_is_what_the_model_sees(name, camera):
    pre, a = CONTRACTS[name], EYES[camera].image
    f = pre.frame(a)
    assert (f.apply(a) == pre(a)).all() and (pre.finish(pre.square(a)[0]) == pre(a)).all()
    assert f == pre.frame(a) == pre.square(a)[1] and len({f, pre.frame(a)}) == 1
    assert f.apply(a, 33).shape == (33,33,3) and f.size == pre.size and (f.width, f.height) == a.shape[1::-1]

@pytest.mark.parametrize('name', CONTRACTS)
def test_masks(name):
    e = EYES['A']; f = CONTRACTS[name].frame(e.image)
    for kind in ('haemorrhage', 'microaneurysm'):
        m = e.masks[kind]
        near, cover = f.mask(m), f.coverage(m)
        assert near.dtype == m.dtype and near.shape == cover.shape == (f.size,)*2 and cover.dtype == np.float32 and 0 <= cover.min() <= cover.max() <= 1
        assert abs(near.mean() - cover.mean()) < .2*cover.mean() + .002
        assert (cover[near] > 0).all() or f.size > 300   # what the nearest pixel marks is covered in part
        shrunk = cv2.connectedComponents(m.astype(np.uint8))[0] - 1
        found = cv2.connectedComponents((cover > 0).astype(np.uint8))[0] - 1
        if f.size <= 128: assert 0 < found <= shrunk
    labels = np.arange(f.height*f.width).reshape(f.height, f.width)      # every pixel a label of its own: the nearest is never mixed
    got, inside = f.mask(labels), f.mask(np.ones_like(labels)) > 0
    y, x = np.divmod(got, f.width)
    x0, y0, x1, y1 = f.box; ys, xs = np.mgrid[:f.size,:f.size]
    assert (np.abs(x - (x0 + (xs+.5)*(x1-x0)/f.size - .5)) <= .5 + 1e-9)[inside].all() and (np.abs(y - (y0 + (ys+.5)*(y1-y0)/f.size - .5)) <= .5 + 1e-9)[inside].all()

@pytest.mark.parametrize('camera', EYES)
@pytest.mark.parametrize('name', CONTRACTS)
@pytest.mark.parametrize('n', (6, 24, None))
def test_there_and_back(name, camera, n):
    "A bump on the photograph, taken to the square and back, lies where it lay"
    a = EYES[camera].image; f = CONTRACTS[name].frame(a); h, w = a.shape[:2]
    y, x = np.mgrid[:h,:w]; cx, cy = w*.55, h*.45
    bump = np.exp(-((x-cx)**2 + (y-cy)**2)/(2*(.08*h)**2))
    there = f.apply((bump*255).astype(np.uint8)).astype(np.float32)
    if n: there = cv2.resize(there, (n, n), interpolation=cv2.INTER_AREA)
    back = f.back(there)
    assert back.shape == (h, w) and back.dtype == np.float32
    weight = np.where(back > .5*back.max(), back, 0)
    assert np.hypot((x*weight).sum()/weight.sum() - cx, (y*weight).sum()/weight.sum() - cy) < (1.5 if n is None else .6*w/n)

def test_back_fills_what_was_not_seen():
    a = EYES['A'].image; f = CONTRACTS['cut'].frame(a)
    b = f.back(np.ones((5,5)), fill=-1)
    x0, y0, x1, y1 = f.box
    assert (b[y0:y1,x0:x1] == 1).all() and (b == -1).sum() == b.size - (x1-x0)*(y1-y0)
    assert np.isnan(f.back(np.ones((5,5)), fill=np.nan)).any()

def test_box_and_fractions():
    f = CONTRACTS['pad'].frame(np.zeros((200,300,3), np.uint8))
    assert f.box == (0, -50, 300, 250) and np.allclose(f.fractions, (0, -.25, 1, 1.5)) and not f.field.sure
    g = CONTRACTS['fundus'].frame(EYES['A'].image)
    assert g.field == find_field(EYES['A'].image) and g.box[:2] == g.field.square[:2] and g.box[2]-g.box[0] == g.box[3]-g.box[1] == g.field.square[2]
    small = cv2.resize(EYES['A'].image, None, fx=.5, fy=.5, interpolation=cv2.INTER_AREA)
    assert np.abs(np.subtract(CONTRACTS['fundus'].frame(small).fractions, g.fractions)).max() < .02

def test_any_source(tmp_path):
    from PIL import Image
    a = EYES['B'].image; Image.fromarray(a).save(tmp_path/'a.png')
    assert CONTRACTS['fundus'].frame(tmp_path/'a.png') == CONTRACTS['fundus'].frame(a) == CONTRACTS['fundus'].frame(Image.fromarray(a))
    grey = a[...,1]
    assert CONTRACTS['fundus'].frame(grey) == CONTRACTS['fundus'].frame(read_image(grey))

def test_what_does_not_lie_on_the_photograph_is_refused():
    f = CONTRACTS['fundus'].frame(EYES['A'].image)
    for call in (f.apply, f.mask, f.coverage, f.cut):
        with pytest.raises(DataError, match='photograph'): call(EYES['A'].image[:-1])
    with pytest.raises(FrozenInstanceError): f.box = (0,0,1,1)

def test_a_box_wholly_outside():
    f = Frame(40, 30, (100, 100, 120, 120), (8,), whole_picture(40, 30))
    assert f.apply(np.full((30,40,3), 9, np.uint8)).max() == 0 and not f.mask(np.ones((30,40), bool)).any() and (f.back(np.ones((8,8))) == 0).all()
    assert replace(f, box=(-5, -5, 50, 50)).mask(np.ones((30,40), bool)).any()

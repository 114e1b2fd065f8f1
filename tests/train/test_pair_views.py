"Views of pictures: what holds for every list and every batch, not for the pictures of the notebook alone"
import pytest, torch

from retina_nb.core import SettingError
from retina_nb.train import VIEWS, Views, make_views, read_views

STILL = dict(area=(1, 1), rotate=0, flip=False, brightness=0, contrast=0)

def seeded(seed=1): return torch.Generator().manual_seed(seed)
def pictures(n=8, c=3, h=48, w=48, seed=0): return torch.randint(256, (n, c, h, w), generator=seeded(seed), dtype=torch.uint8)

@pytest.mark.parametrize('name', VIEWS)
@pytest.mark.parametrize('c,h,w', [(1, 48, 48), (3, 48, 48), (3, 40, 64)])
def test_every_list(name, c, h, w):
    "Floats from 0 to 1, of the same shape; the same state of the generator, the same views, and none of another picture"
    x = pictures(c=c, h=h, w=w)
    before, y = x.clone(), make_views(x, VIEWS[name], seeded())
    assert y.shape == x.shape and y.dtype == torch.float32 and 0 <= y.min() and y.max() <= 1 and torch.isfinite(y).all()
    assert torch.equal(x, before) and torch.equal(y, make_views(x, VIEWS[name], seeded()))
    assert not torch.equal(y, make_views(x, VIEWS[name], seeded(2)))
    other = x.clone()
    other[3] = 0
    changed = (make_views(other, VIEWS[name], seeded()) - y).abs().amax((1, 2, 3)) > 1e-5
    assert changed.nonzero().flatten().tolist() == [3]

@pytest.mark.parametrize('name', ['oct', 'xray'])
def test_grey_is_colour_in_one_channel(name):
    "A grey batch may be kept in one channel, and spread to three after its views were made"
    x = pictures(c=1)
    y, y3 = make_views(x, VIEWS[name], seeded()), make_views(x.repeat(1, 3, 1, 1), VIEWS[name], seeded())
    assert torch.allclose(y.expand_as(y3), y3, atol=1e-5)

def test_floats_are_not_written_to():
    "Where nothing changes, the views are still a copy"
    x = pictures().float()/255
    before = x.clone()
    make_views(x, Views(**STILL), seeded()).zero_()
    make_views(x, Views(**STILL, blur=2., blurred=1., speckle=.5), seeded())
    assert torch.equal(x, before)

def test_global_generator_is_left_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for v in VIEWS.values(): make_views(pictures(), v, seeded())
    assert torch.equal(state, torch.get_rng_state())

def test_torch_seed_counts_without_a_generator():
    def one():
        torch.manual_seed(5)
        return make_views(pictures(), VIEWS['oct'])
    assert torch.equal(one(), one())

def test_a_turn_keeps_shapes_in_an_oblong_picture():
    "A disc stays a disc, however a picture that is wider than high is turned"
    y, x = torch.meshgrid(torch.arange(60.), torch.arange(120.), indexing='ij')
    disc = (((x - 59.5)**2 + (y - 29.5)**2) < 20**2).float()[None,None].repeat(6, 1, 1, 1)
    turned = make_views(disc, Views(**(STILL | dict(rotate=180., outside='background'))), seeded())
    assert (turned - disc).abs().mean() < .01

def test_crops_show_at_least_the_smallest_share():
    "A ramp tells where a view looks: its range is the side of the crop, and it lies inside the picture"
    ramp = torch.linspace(0, 1, 64).expand(500, 1, 64, 64)
    y = make_views(ramp, Views(**(STILL | dict(area=(.25, .81)))), seeded())
    span = (y.amax((1, 2, 3)) - y.amin((1, 2, 3)))*64/63
    assert .48 < span.min() < .55 and .85 < span.max() < .92

def test_shares_and_ranges_are_as_asked():
    x = torch.full((2000, 3, 4, 4), .5)
    lit = make_views(x, Views(**(STILL | dict(brightness=.4, jittered=.75))), seeded())[:,0,0,0]
    assert ((lit - .5).abs() > 1e-6).float().mean() == pytest.approx(.75, abs=.03) and .3 <= lit.min() < .31 and .69 < lit.max() <= .7
    red = torch.tensor([.8, .2, .2]).view(1, 3, 1, 1).expand(2000, 3, 2, 2)
    grey = make_views(red, Views(**STILL, grey=.3), seeded())
    assert ((grey[:,0] - grey[:,1]).abs().amax((1, 2)) < 1e-3).float().mean() == pytest.approx(.3, abs=.03)
    luma = torch.tensor([.299, .587, .114]).view(3, 1, 1)
    assert ((grey*luma).sum(1) - (red*luma).sum(1)).abs().max() < 1e-3

def test_background_is_where_nothing_was():
    x = torch.full((20, 1, 32, 32), .9)
    y = make_views(x, Views(**(STILL | dict(rotate=45., outside='background'))), seeded(), background=.2)
    assert y.min() == pytest.approx(.2, abs=1e-5) and y.max() == pytest.approx(.9, abs=1e-5)
    assert make_views(x, Views(**(STILL | dict(rotate=45.))), seeded()).min() == pytest.approx(.9, abs=1e-5)

@pytest.mark.parametrize('change,said', [(dict(area=(0, 1)), 'area'), (dict(area=(.5, 1.2)), 'area'), (dict(area=[.5]), 'area'), (dict(area='ab'), 'area'),
    (dict(aspect=.5), 'aspect'), (dict(rotate=-1), 'rotate'), (dict(brightness=2), 'brightness'), (dict(grey='no'), 'grey'), (dict(blur=float('nan')), 'blur'),
    (dict(speckle=True), 'speckle'), (dict(flip=1), 'flip'), (dict(outside='black'), 'outside')])
def test_refused_in_one_line(change, said):
    with pytest.raises(SettingError, match=said) as e: Views(**change)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('text', ['', '[1]', '{', '{"area": [0.5, 1], "colour": 1}', '{"area": null}', 3, None])
def test_malformed_json_is_refused(text):
    with pytest.raises(SettingError) as e: read_views(text)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('x', [None, torch.rand(3, 8, 8), torch.rand(2, 2, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.int64)])
def test_what_is_no_batch(x):
    with pytest.raises(SettingError, match='views'): make_views(x, VIEWS['oct'])

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('name', VIEWS)
def test_same_moves_on_a_gpu(name):
    "All but the grain is the same there; the grain is the same from call to call"
    x = pictures()
    calm = Views(**(VIEWS[name].to_dict() | dict(speckle=0.)))
    assert (make_views(x.cuda(), calm, seeded()).cpu() - make_views(x, calm, seeded())).abs().mean() < 1e-3
    assert torch.equal(make_views(x.cuda(), VIEWS[name], seeded()), make_views(x.cuda(), VIEWS[name], seeded()))

"What the explain notebook tests badly: every loss and backbone, bad input, maps that say nothing, determinism"
import numpy as np, pytest

torch = pytest.importorskip('torch')
from retina_nb.core import DataError, SettingError
from retina_nb.explain.methods import METHODS, carry, grad_cam, integrated_gradients, mark_maps, occlusion, other_eyes, plot_explanation, random_maps, rank_agreement, score_explanations, truths, untrained
from retina_nb.train.losses import make_loss
from retina_nb.train.model import GradingModel, Net
from retina_nb.image.preprocess import Preprocess
from retina_nb.synth.render import plan_synth, synth_eye, write_synth

def model(arch='test_resnet', loss='ce', size=64, k=5):
    torch.manual_seed(0)
    l = make_loss(loss, k)
    m = GradingModel(Net(arch, l.n_out), l, Preprocess(size=size)).eval()
    torch.nn.init.normal_(m.head.weight, std=1.)
    return m

@pytest.fixture(scope='module')
def some(): return np.random.default_rng(0).integers(0, 255, (3,64,64,3)).astype(np.uint8)

@pytest.mark.parametrize('loss', ['ce', 'focal', 'corn', 'qwk', 'regression'])
def test_every_loss_can_be_explained(loss, some):
    m = model(loss=loss)
    for f in (grad_cam, lambda *a: integrated_gradients(*a, steps=4), lambda *a: occlusion(*a, patch=32, stride=32)):
        a = f(m, some, (2,3,4))
        assert a.shape == (3,64,64) and a.dtype == np.float32 and np.isfinite(a).all()

def test_integrated_gradients_add_up_whatever_is_asked(some):
    from retina_nb.explain.methods import Evidence, _asked, blurred
    m = model()
    for about in (None, 0, (3,4)):
        x = m.normalise(torch.from_numpy(some))
        with torch.no_grad():
            yes = _asked(m, x, about)
            rise = (Evidence(m)(x, yes) - Evidence(m)(blurred(x), yes)).numpy()
        off = np.abs(integrated_gradients(m, some, about, steps=200).sum((1,2)) - rise).max()
        assert off < .03*max(1, np.abs(rise).max()), (about, off, rise)

def test_asking_for_a_class_and_for_all_others_are_opposites(some):
    m = model()
    a, b = (integrated_gradients(m, some, about, steps=8) for about in (0, (1,2,3,4)))
    assert np.allclose(a, -b, atol=1e-4*np.abs(a).max())

def test_the_answer_is_explained_by_default(some):
    m = model()
    grade = int(m(torch.from_numpy(some[:1])).argmax())
    assert np.allclose(grad_cam(m, some[0]), grad_cam(m, some[0], grade))

def test_frozen_weights_and_training_mode_do_not_matter(some):
    m = model()
    want = grad_cam(m, some, 1)
    for p in m.parameters(): p.requires_grad_(False)
    m.train()
    with torch.no_grad(): assert np.allclose(grad_cam(m, some, 1), want)
    assert m.training   # left as it was found

def test_without_a_feature_map_grad_cam_says_so(some):
    m = model()
    m.net.has_map = False
    with pytest.raises(SettingError, match='feature map'): grad_cam(m, some)

@pytest.mark.parametrize('f', METHODS.values(), ids=list(METHODS))
@pytest.mark.parametrize('images, about, words', [(np.zeros((2,32,32,3), np.uint8), 1, r'\(64, 64, 3\)'), (np.zeros((64,64,3)), 1, 'float64'),
                                                  (np.zeros((64,64,3), np.uint8), 9, '0 to 4'), (np.zeros((64,64,3), np.uint8), (), 'not all')])
def test_bad_input(f, images, about, words):
    with pytest.raises(SettingError, match=words): f(model(), images, about)

def test_no_images_no_maps():
    assert grad_cam(model(), np.zeros((0,64,64,3), np.uint8)).shape == (0,64,64)

@pytest.mark.parametrize('camera', 'ABC')
def test_masks_follow_the_photograph(camera):
    "A lesion that is painted white in the photograph is where its mask says in the model's input"
    eye, pre = synth_eye(7, grade=0, size=256, camera=camera), Preprocess(size=96)
    h, w = eye.image.shape[:2]
    mask = np.zeros((h, w), bool)
    mask[h//2-9:h//2+9, w//2+11:w//2+29] = True
    painted = np.where(mask[...,None], np.uint8(255), eye.image)
    seen = (pre(painted).astype(int) - pre(eye.image)).sum(-1)
    carried = carry(pre, eye.image, mask)
    assert abs(np.array(np.nonzero(seen > seen.max()/2)).mean(1) - np.array(np.nonzero(carried > .5)).mean(1)).max() < .75
    assert carry(pre, eye.image, ~mask & False).max() == 0 and carry(pre, eye.image, np.ones_like(mask)).max() == 1

def test_truths_are_of_the_photographs_on_disk(tmp_path):
    write_synth(tmp_path/'d', 6, size=96, prevalence=(0,0,.5,.5,0))
    from retina_nb.data.records import load_records
    records = load_records(tmp_path/'d')
    images, lesions, field = truths(records, Preprocess(size=64))
    assert images.shape == (6,64,64,3) and lesions.any((1,2)).all() and field.mean() > .5 and not (lesions & ~field).sum() > .02*lesions.sum()
    from PIL import Image
    Image.new('RGB', (50, 40)).save(records.image[0])
    with pytest.raises(DataError, match='not the picture that was drawn'): truths(records.assign(), Preprocess(size=64))

def test_marks_of_maps_that_say_nothing_are_chance():
    rng = np.random.default_rng(0)
    lesions, field = rng.random((4,16,16)) < .2, np.ones((4,16,16), bool)
    got = mark_maps(np.zeros((4,16,16)), lesions, field)
    assert np.allclose(got.pointing, got.chance) and np.allclose(got.energy, got.chance)
    uniform = mark_maps(np.ones((4,16,16)), lesions, field)
    assert np.allclose(uniform.pointing, uniform.chance) and np.allclose(uniform.energy, uniform.chance)

def test_what_lies_outside_the_field_does_not_count():
    lesions, field = np.zeros((1,8,8), bool), np.zeros((1,8,8), bool)
    lesions[0,4,4], field[0,2:6,2:6] = True, True
    heat = np.zeros((1,8,8)); heat[0,0,0], heat[0,4,4] = 100, 1
    assert mark_maps(heat, lesions, field, tolerance=0).iloc[0].tolist() == [1, 1, 1/16]

def test_random_maps_earn_chance_and_perfect_ones_all():
    rng = np.random.default_rng(1)
    lesions, field = rng.random((60,16,16)) < .1, np.ones((60,16,16), bool)
    maps = dict(noise=rng.random((60,16,16)), perfect=lesions.astype(float))
    t = score_explanations(maps, lesions, field, [f'{i//2}' for i in range(60)], tolerance=0, n_boot=300).set_index(['map','mark'])
    assert t.value['perfect','pointing'] == 1 and t.diff_low['perfect','energy'] > .8
    assert t.diff_low['noise','energy'] < 0 < t.diff_high['noise','energy'] + .01
    versus = score_explanations(maps, lesions, field, list(range(60)), against='noise', tolerance=0, n_boot=100).set_index(['map','mark'])
    assert versus.difference['noise','energy'] == 0 and versus.diff_low['perfect','energy'] > .5
    with pytest.raises(SettingError, match='no map'): score_explanations(maps, lesions, field, list(range(60)), against='noises')

def test_other_eyes_never_comes_from_the_same_patient():
    who = np.repeat([f'p{i}' for i in range(5)], [3,1,2,2,2])
    given = other_eyes(np.arange(10)[:,None,None]*np.ones((1,2,2)), who)[:,0,0].astype(int)
    assert (who[given] != who).all() and sorted(given) == list(range(10))

def test_untrained_leaves_the_model_and_the_generator_alone(some):
    m = model()
    before, state = m.head.weight.clone(), torch.get_rng_state()
    u = untrained(m, seed=1)
    assert torch.equal(m.head.weight, before) and torch.equal(torch.get_rng_state(), state) and not torch.equal(next(u.body.parameters()), next(m.body.parameters()))

def test_rank_agreement_of_noise_is_nothing():
    a = np.random.default_rng(0).random((5,20,20))
    assert abs(np.mean(rank_agreement(a, np.random.default_rng(1).random((5,20,20)), np.ones((5,20,20), bool)))) < .1

def test_overlays_of_flat_and_signed_maps_can_be_drawn(some):
    import matplotlib.pyplot as plt
    for heat in (np.zeros((64,64)), np.linspace(-1, 1, 4096).reshape(64,64)): plot_explanation(some[0], heat, heat > .9)
    plt.close('all')

"What the explain notebook tests badly: every loss and backbone, bad input, maps that say nothing, determinism"
import numpy as np, pytest

torch = pytest.importorskip('torch')
from retina_nb.core import SettingError
from retina_nb.explain import METHODS, grad_cam, integrated_gradients, occlusion, plot_explanation
from retina_nb.image import Preprocess
from retina_nb.train import GradingModel, Net, make_loss

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

def test_overlays_of_flat_and_signed_maps_can_be_drawn(some):
    import matplotlib.pyplot as plt
    for heat in (np.zeros((64,64)), np.linspace(-1, 1, 4096).reshape(64,64)): plot_explanation(some[0], heat, heat > .9)
    plt.close('all')

"The loader: the same batches by seed at any number of workers, sampling, augmentation, a cache as source."
import numpy as np, pytest

torch = pytest.importorskip('torch')
from retina_nb.data.cache import cache_records
from retina_nb.core import SettingError, set_seed
from retina_nb.data.records import load_records
from retina_nb.train.loader import BatchDL, GradedImages, loaders
from retina_nb.train.augment import Blur, Tint, augmentations
from retina_nb.image.preprocess import Preprocess
from retina_nb.synth.dataset import write_synth

@pytest.fixture(scope='module')
def records(tmp_path_factory):
    d = tmp_path_factory.mktemp('eyes'); write_synth(d, 40, size=96)
    r = load_records(d, warn=False).iloc[:36].reset_index(drop=True)
    return r.assign(split=['train']*26 + ['valid']*10)

PRE = Preprocess(size=64)
def batches(records, seed, pre=PRE, **kw):
    set_seed(seed); dls = loaders(records, pre, bs=8, device='cpu', progress=False, workers=1, **kw)
    return [torch.cat([x for x,_ in dl]) for dl in (dls.train, dls.train, dls.valid)], [torch.cat([y for _,y in dl]) for dl in (dls.train, dls.valid)]

@pytest.mark.parametrize('sampling', ('none', 'balanced'))
def test_same_by_seed_at_any_number_of_workers(records, sampling):
    kw = dict(sampling=sampling, aug=augmentations('dr', hue=.03, blur=1))
    (a, a2, v), (y, _) = batches(records, 1, **kw); (b, b2, w), (z, _) = batches(records, 1, num_workers=2, **kw); (c, *_), _ = batches(records, 2, **kw)
    assert torch.equal(a, b) and torch.equal(a2, b2) and torch.equal(v, w) and torch.equal(y, z)
    assert not torch.equal(a, a2) and not torch.equal(a, c)      # every epoch differs, and every seed

def test_without_augmentation_the_input_is_the_grader_s(records):
    (a, _, v), (y, _) = batches(records, 3, aug=0)
    want = PRE.to_input(np.stack([PRE(f) for f in records.image]))
    assert np.abs(v.numpy() - want[26:]).max() < 1e-5
    assert all(np.abs(want[:26]-o.numpy()).reshape(26, -1).max(1).min() < 1e-5 for o in a) and sorted(y.tolist()) == sorted(records.label[:26])

def test_a_cache_gives_the_same_batches(records, tmp_path):
    cache_records(records, tmp_path/'c', size=96, workers=1, progress=False); made = load_records(tmp_path/'c')
    pre = Preprocess(size=64, via=96)
    (a, *_), _ = batches(records, 4, pre); (b, *_), _ = batches(made, 4, pre); (c, *_), _ = batches(made, 4, None)
    assert torch.equal(a, b) and c.shape[-1] == 96

@pytest.mark.parametrize('task,flips', (('dr', True), ('oct', True), ('pneumonia', False)))
def test_mirrors(task, flips):
    "A half-bright picture: after augmentation without turning, is the bright half ever on the other side?"
    x = torch.zeros(64, 3, 16, 16); x[..., :8] = 1
    from fastai.torch_core import TensorImage
    def seen(**kw):
        set_seed(0); out = TensorImage(x.clone())
        for t in augmentations(task, .02, **kw): out = t(out, split_idx=0)
        return (out[..., 8:].mean((1,2,3)) > .5).any().item()
    assert seen() == flips and not seen(mirror=False)

def test_blur_and_tint_leave_validation_and_shapes_alone():
    from fastai.torch_core import TensorImage
    x = TensorImage(torch.rand(5, 3, 20, 24))
    for t in (Tint(.05), Blur(2, fraction=1.), Blur(1, fraction=0.)):
        set_seed(0); y = t(x, split_idx=0)
        assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1 and torch.equal(t(x, split_idx=1), x)
    assert torch.equal(Blur(1, fraction=0.)(x, split_idx=0), x)

@pytest.mark.parametrize('kw', (dict(strength=-1), dict(hue=.9), dict(blur=-1)))
def test_impossible_augmentation(kw):
    with pytest.raises(SettingError): augmentations('dr', **kw)

def test_batches_equal_items():
    a = np.random.default_rng(0).integers(0, 255, (10,8,8,3), dtype=np.uint8); ds = GradedImages(a, range(10), list('abcdefghij'))
    got = list(BatchDL(ds, bs=4, num_workers=0))
    assert [len(x) for x,_ in got] == [4,4,2] and torch.equal(torch.cat([x for x,_ in got]), torch.from_numpy(a)) and torch.cat([y for _,y in got]).tolist() == list(range(10))

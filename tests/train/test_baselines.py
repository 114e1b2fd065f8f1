"VGG16, InceptionV3, ResNet50 and ResNet50V2: sizes, channels, two steps, export, the guard, int8, maps, a table of all"
from functools import partial

import numpy as np, pandas as pd, pytest

torch = pytest.importorskip('torch')
import timm
from PIL import Image
from torch import nn
from retina_nb.core import SettingError, Task
from retina_nb.deploy import open_session, parity, quantise, scan_onnx, to_onnx
from retina_nb.image import Preprocess
from retina_nb.train import GradingModel, Net, check_size, compare, differing, make_learner, make_loss, side_by_side, together, train

FOUR = 'vgg16', 'inception_v3', 'resnet50', 'resnetv2_50'
LEAST = dict(vgg16=32, inception_v3=75, resnet50=28, resnetv2_50=28)   # 28 is the least of any training

def thin(arch):
    "The same layers, fewer of them: what there is to export is the same in kind, in a fraction of the time"
    make = partial(timm.create_model, arch, num_classes=0, in_chans=1)
    if arch == 'vgg16': return make(mlp_ratio=.002)
    if arch != 'inception_v3': return make(layers=(1, 1, 1, 1), global_pool='')
    net = make(global_pool='')
    for name in ('5d', '6b', '6c', '6d', '7c'): setattr(net, f'Mixed_{name}', nn.Identity())   # one of each kind stays
    return net

def learned(net, size, n=4):
    "Two steps, and batch normalisation that has seen as many pictures as it needs for probabilities off the ends"
    torch.manual_seed(0)
    x, y = torch.randn(n, net.n_in, size, size), torch.arange(n) % net.n_out
    opt, losses = torch.optim.SGD(net.parameters(), 1e-3), []
    for _ in range(2):
        out = net.train()(x)
        assert isinstance(out, torch.Tensor) and out.shape == (n, net.n_out), 'one answer, no second one of auxiliary logits'
        loss = nn.functional.cross_entropy(out, y)
        opt.zero_grad(); loss.backward(); opt.step()
        losses.append(loss.item())
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.momentum = None; m.reset_running_stats()
    with torch.no_grad(): net(x)
    assert np.isfinite(losses).all() and all(p.grad is not None for p in net.parameters())
    return net.eval()

def exported(net, size, task, check_int8=False):
    "To ONNX and through the guard; the same answers there, none of them at an end"
    model = GradingModel(net, make_loss('ce', net.n_out), Preprocess.for_task(task, size=size), task).eval()
    xs = [np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8) for i in range(3)]
    with torch.no_grad():
        most = model.raw(torch.from_numpy(np.stack(xs))).abs().max()
        for p in net.head.parameters(): p.div_(most)
    data = to_onnx(model, size)
    found, session = scan_onnx(data), open_session(data, 1)
    assert parity(model, session, [(str(i), x) for i,x in enumerate(xs)])['max_difference'] < 1e-4
    p = session.run(None, {'image': np.stack(xs)})
    assert .001 < p[0].min() and p[0].max() < .999 and p[0].shape == (3, net.n_out), 'a comparison of ones and zeros shows little'
    assert found['outputs'] == ['probabilities', 'cam'][:1 + net.has_map] and found['work'] < 1e11
    if net.has_map: np.testing.assert_allclose(p[1].mean((2, 3)) + net.head.bias.detach().numpy(), model.raw(torch.from_numpy(np.stack(xs))).detach().numpy(), atol=1e-3)
    if check_int8:
        small = quantise(data, xs)
        q = open_session(small, 1).run(['probabilities'], {'image': np.stack(xs)})[0]
        assert len(small) < .4*len(data) and np.allclose(q.sum(1), 1, atol=1e-4) and np.abs(q - p[0]).max() < .2
    return model

@pytest.fixture(scope='module')
def scans(tmp_path_factory):
    "Grey pictures of two kinds, three a patient, in three parts by patient; one more than whole batches in the training"
    folder, rows, rng = tmp_path_factory.mktemp('scans'), [], np.random.default_rng(0)
    for i in range(57):
        who, kind = i//3, (i//3) % 2
        a = rng.integers(0, 90, (40, 40), dtype=np.uint8)
        a[10:14+12*kind] += 100
        Image.fromarray(a).save(folder/f'{i}.png')
        rows.append(dict(image=str(folder/f'{i}.png'), label=kind, patient=str(who), split='train' if who < 11 else 'valid' if who < 15 else 'test'))
    return pd.DataFrame(rows).assign(task='pneumonia')

@pytest.mark.turns(2)
@pytest.mark.parametrize('arch', FOUR)
def test_each_learns_and_is_exported(arch):
    "At one pixel more than its least size, grey, two classes; with one block of a kind, or a narrow classifier"
    size = LEAST[arch] + 1
    net = Net(thin(arch), 2, n_in=1, size=size)
    assert net.has_map == (arch != 'vgg16')
    model = exported(learned(net, size), size, 'pneumonia', check_int8=arch == 'resnetv2_50')
    from retina_nb.explain import grad_cam, occlusion
    pictures = np.zeros((1, size, size, 3), np.uint8)
    if net.has_map: assert grad_cam(model, pictures, 1).shape == (1, size, size)
    else:
        with pytest.raises(SettingError, match='use integrated_gradients or occlusion'): grad_cam(model, pictures, 1)
        assert occlusion(model, pictures, 1, patch=33, stride=33).shape == (1, size, size)

@pytest.mark.full
@pytest.mark.parametrize('arch', [*FOUR, 'torchvision/vgg16', 'torchvision/resnet50'])
@pytest.mark.parametrize('channels, task', [(1, 'oct'), (3, 'dr')])
def test_each_whole(arch, channels, task):
    from retina_nb.core import get_task
    size = 77
    net = Net(arch, len(get_task(task)), n_in=channels)
    assert net.has_map == (arch != 'vgg16')
    exported(learned(net, size), size, task, check_int8=arch != 'vgg16')   # its classifier takes minutes

# --- sizes

@pytest.mark.parametrize('channels', [1, pytest.param(3, marks=pytest.mark.full)])
def test_the_least_size_is_named(channels):
    for arch, least in LEAST.items():
        for size in (least, 97): check_size(arch, size, channels)
        if least > 28:
            with pytest.raises(SettingError, match=f'{arch}: .*takes {least} or more; use --size {least}'): check_size(arch, least - 1, channels)
    for arch in ('vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224'):
        for size in (222, 225):
            with pytest.raises(SettingError, match=f'takes pictures of 224 pixels a side, not of {size}; use --size 224'): check_size(arch, size, channels)
    with pytest.raises(SettingError, match='unknown architecture'): check_size('inception_v33', 96)
    with pytest.raises(SettingError, match='from timm'): check_size('torchvision/inception_v3', 96)

@pytest.mark.parametrize('arch', ['inception_v3', 'vgg16'])
def test_what_is_said_is_what_happens(arch):
    "The network itself refuses one pixel less, and takes the size that is named"
    net = Net(thin(arch), 2, n_in=1, size=96).eval()
    with pytest.raises(RuntimeError): net(torch.zeros(1, net.n_in, LEAST[arch] - 1, LEAST[arch] - 1))
    assert net(torch.zeros(1, net.n_in, LEAST[arch], LEAST[arch])).shape == (1, 2)

def test_a_size_that_is_too_small_is_said_before_anything_is_read(tmp_path, monkeypatch):
    from retina_nb.train import pretrain
    def no(*a, **k): raise AssertionError('the data were read')
    monkeypatch.setattr('retina_nb.train.learner.load_records', no)
    for f in (train, pretrain):
        with pytest.raises(SettingError, match='75 or more'): f('synth:120', arch='inception_v3', size=74, pretrained=False, out=tmp_path/'run')
    with pytest.raises(SettingError, match='75 or more'): train('synth:120', arch='inception_v3', size=96, start_size=74, pretrained=False, out=tmp_path/'run')
    assert not (tmp_path/'run').exists()

# --- weights from elsewhere, without a network

@pytest.mark.parametrize('arch', [*FOUR, 'torchvision/vgg16'])
def test_imagenet_weights_without_a_network(arch, scans, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(SettingError, match='--no_pretrained') as e: train(scans, arch=arch, size=96, out=tmp_path/'run')
    assert arch in str(e.value) and '\n' not in str(e.value)

# --- a table of several

def test_one_table_of_the_same_training(scans, tmp_path):
    "The same patients, steps and augmentation: what differs is the architecture, and the table says so"
    how = dict(size=32, epochs=1, bs=8, channels=1, pretrained=False, progress=False)
    runs = [train(scans, arch=a, out=tmp_path/a.replace('/', '_'), **how) for a in ('resnet10t', 'test_resnet')]
    sides = together(runs)
    assert differing(sides) == ['arch'] and (scans.split == 'train').sum() % 8 == 1   # and no batch of one
    table = compare(sides)
    assert table.parameters[0] > 4e6 and (table.seconds > 0).all() and table.n_test.nunique() == 1
    shown = side_by_side(table, ['balanced_accuracy', 'accuracy', 'macro_auc'])
    assert list(shown) == ['run', 'arch', 'size', 'weights', 'balanced accuracy', 'accuracy', 'AUC', 'M parameters', 'seconds']
    other = train(scans, arch='test_resnet', out=tmp_path/'other', **how | dict(aug=0.))
    pair = together([runs[1], other])
    assert differing(pair) == ['aug']
    pair['other'].config['data'] = dict(hash='of other patients')
    assert differing(pair) == ['aug', 'records']

def test_a_last_batch_of_one_is_left_out(scans):
    "Batch normalisation cannot learn from one picture whose map is a single place"
    learn = make_learner(scans, arch='resnet10t', size=28, bs=8, channels=1, pretrained=False, progress=False, epochs=1, task=Task('two', ['a', 'b']))
    assert {len(x) for x, _ in learn.dls.train} == {8}
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4)

"Losses without labels: gradients, symmetry, hidden patients, extremes, and lightly's loss beside ours"
import os, subprocess, sys
from pathlib import Path

import numpy as np, pytest, timm, torch

from retina_nb.core import SettingError
from retina_nb.train import (
    VIEWS, alignment, contrastive_accuracy, forward_in_parts, is_collapsed, make_views, nt_xent, spread, uniformity, vicreg)
from retina_nb.train.contrast import _similarity

def batch(n=10, d=6, seed=0, dtype=torch.float32):
    return torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed)).to(dtype).unbind(0)

def slow(z1, z2, temperature, patient):
    "NT-Xent as the paper says it, in double precision and in loops"
    z, who, n, total = np.concatenate([z1, z2]).astype(float), [*patient, *patient], len(z1), 0.
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    for i in range(2*n):
        partner = (i + n) % (2*n)
        rest = sum(np.exp(z[i] @ z[j]/temperature) for j in range(2*n) if j == partner or who[j] != who[i])
        total -= np.log(np.exp(z[i] @ z[partner]/temperature)/rest)
    return total/(2*n)

@pytest.mark.parametrize('temperature', [.1, .5, 2.])
@pytest.mark.parametrize('patient', [range(10), [0]*5 + [1]*5, [0, 0, 1, 2, 2, 2, 3, 4, 5, 5]])
def test_as_the_slow_loop(temperature, patient):
    z1, z2 = batch()
    given = None if isinstance(patient, range) else patient
    assert float(nt_xent(z1, z2, temperature=temperature, patient=given)) == pytest.approx(slow(z1.numpy(), z2.numpy(), temperature, patient), abs=1e-5)

@pytest.mark.parametrize('loss', [nt_xent, vicreg])
def test_gradient_is_that_of_small_steps(loss):
    "Against central differences; the loss counts in single precision, so the steps are not tiny"
    z1, z2 = batch(5, 4)
    z1.requires_grad_()
    loss(z1, z2).backward()
    with torch.no_grad():
        for i, j in ((0, 0), (2, 3), (4, 1)):
            step = torch.zeros_like(z1)
            step[i,j] = 1e-2
            slope = float(loss(z1 + step, z2) - loss(z1 - step, z2))/2e-2
            assert float(z1.grad[i,j]) == pytest.approx(slope, abs=1e-3, rel=1e-2)

@pytest.mark.parametrize('loss', [nt_xent, vicreg])
def test_order_of_pictures_and_of_views_does_not_count(loss):
    z1, z2 = batch()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    assert float(loss(z1[order], z2[order])) == pytest.approx(float(loss(z1, z2)), rel=1e-5)
    assert float(loss(z2, z1)) == pytest.approx(float(loss(z1, z2)), rel=1e-5)
    assert float(loss(z1, z2[order])) > float(loss(z1, z1))

def test_hidden_are_the_patient_and_the_view_itself():
    "Minus infinity where a view meets itself or another picture of its patient, never at its partner; names of patients do not count"
    z1, z2 = batch()
    patient = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    similar, partner = _similarity(z1, z2, patient)
    hidden = {(i, j) for i, j in (similar == -torch.inf).nonzero().tolist()}
    twice = {0: 1, 1: 0, 10: 11, 11: 10}
    assert hidden == {(i, i) for i in range(20)} | {(i, j) for i, k in twice.items() for j in (k, (k + 10) % 20)}
    assert partner.tolist() == [*range(10, 20), *range(10)]
    assert float(nt_xent(z1, z2, patient=patient)) == float(nt_xent(z1, z2, patient=patient*7 - 3))

@pytest.mark.parametrize('scale', [1e-6, 1., 1e6])
def test_lengths_do_not_count(scale):
    z1, z2 = batch()
    assert float(nt_xent(z1*scale, z2)) == pytest.approx(float(nt_xent(z1, z2)), rel=1e-4)

@pytest.mark.parametrize('loss', [nt_xent, vicreg])
def test_extremes_are_finite(loss):
    "Projections that are all zero, all the same, or of half precision: finite losses and gradients, or a start could end in nan"
    for z in (torch.zeros(6, 4), torch.ones(6, 4), torch.eye(6, 4)*1e3, torch.randn(6, 4).half()):
        a = z.clone().requires_grad_()
        l = loss(a, z)
        l.backward()
        assert torch.isfinite(l) and torch.isfinite(a.grad).all() and l.dtype == torch.float32

def test_one_patient_asks_nothing():
    z1, z2 = batch()
    z1.requires_grad_()
    l = nt_xent(z1, z2, patient=[4]*10)
    l.backward()
    assert float(l.detach()) == 0 and z1.grad.abs().max() == 0

def test_watching():
    z1, z2 = batch(400, 32)
    assert contrastive_accuracy(z1, z1) == 1 and contrastive_accuracy(z1, z2) < .02
    assert alignment(z1, z1) < 1e-9 and alignment(z1, z2) == pytest.approx(2, abs=.05)
    assert uniformity(z1) < -3.5 and uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-5)
    assert spread(z1) == pytest.approx(1, abs=.01) and spread(torch.ones(5, 3)) < 1e-5
    assert not is_collapsed(z1) and is_collapsed(torch.ones(5, 3)) and is_collapsed(torch.zeros(5, 3)) and is_collapsed(z1*float('inf'))
    assert type(is_collapsed(z1)) is bool and type(is_collapsed(z1*float('inf'))) is bool

def test_an_untrained_network_has_not_collapsed():
    "As it trains, on pictures that are much alike: a false alarm would end a training before it began"
    torch.manual_seed(0)
    net = torch.nn.Sequential(timm.create_model('resnet10t', num_classes=0), torch.nn.Linear(512, 128))
    x = torch.linspace(0, 1, 64).expand(32, 3, 64, 64)*torch.linspace(.5, 1, 32).view(32, 1, 1, 1)
    with torch.no_grad(): z = net(make_views(x, VIEWS['oct'], torch.Generator().manual_seed(0)))
    assert spread(z) > .2 and not is_collapsed(z)

@pytest.mark.parametrize('part', [1, 3, 7, 20, 50])
@pytest.mark.parametrize('loss', [nt_xent, vicreg])
def test_parts_have_the_gradient_of_the_whole(part, loss):
    both, found = torch.cat(batch()), []
    for whole in (True, False):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Linear(16, 4))
        l = loss(*(net(both) if whole else forward_in_parts(net, both, part=part)).chunk(2))
        l.backward()
        found.append([l.detach(), *(p.grad for p in net.parameters())])
    for a, b in zip(*found): assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)

def test_parts_with_dropout():
    "What is dropped on the way forward is what has no gradient: the random numbers are the same the second time"
    first = []
    def network(x):
        y = torch.nn.functional.dropout(x, .5)
        first.append(y.detach())
        return y
    x = torch.cat(batch()).requires_grad_()
    forward_in_parts(network, x, part=8).sum().backward()
    assert torch.equal(x.grad != 0, torch.cat(first[:3]) != 0)

@pytest.mark.parametrize('call', [lambda a, b: nt_xent(a, b[:4]), lambda a, b: vicreg(a[:1], b[:1]), lambda a, b: nt_xent(a[None], b[None]),
    lambda a, b: nt_xent(a, b, temperature=-1), lambda a, b: nt_xent(a, b, patient=[1, 2]), lambda a, b: uniformity(a[:1]), lambda a, b: alignment(a, b.T)])
def test_refused_in_one_line(call):
    with pytest.raises(SettingError) as e: call(*batch())
    assert '\n' not in str(e.value)

@pytest.fixture(scope='module')
def lightly(tmp_path_factory):
    "A folder that holds lightly alone: the one that RETINA_NB_LIGHTLY names, or one made for these tests; its torch is the one here"
    if os.environ.get('RETINA_NB_LIGHTLY'): return Path(os.environ['RETINA_NB_LIGHTLY'])
    folder = tmp_path_factory.mktemp('lightly')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', folder, 'lightly==1.6.0'], check=True)
    return folder

_THEIRS = '''
import sys, numpy as np, torch
from lightly.loss import NTXentLoss, VICRegLoss
out = []
for i, t in enumerate((.1, .2, .5, 1.)):
    z = torch.tensor(np.load(sys.argv[1])[f'z{i}']).requires_grad_()
    for loss in (NTXentLoss(temperature=t), VICRegLoss()):
        l = loss(z[0], z[1])
        out.append(np.append(torch.autograd.grad(l, z)[0].numpy().ravel(), l.item()))
np.savez(sys.argv[2], *out)
'''

@pytest.mark.full
def test_as_lightly(lightly, tmp_path):
    "Loss and gradient on random batches, within a millionth (VICReg's, which is larger, of itself)"
    zs = [torch.stack(batch(n, d, seed)).numpy() for seed, (n, d) in enumerate([(4, 3), (33, 16), (128, 64), (256, 128)])]
    np.savez(tmp_path/'z.npz', **{f'z{i}': z for i, z in enumerate(zs)})
    subprocess.run([sys.executable, '-c', _THEIRS, tmp_path/'z.npz', tmp_path/'out.npz'], check=True, env=os.environ | {'PYTHONPATH': str(lightly)}, timeout=300)
    theirs = iter(np.load(tmp_path/'out.npz').values())
    for z, t in zip(zs, (.1, .2, .5, 1.)):
        for loss in (lambda a, b, t=t: nt_xent(a, b, temperature=t), vicreg):
            a = torch.tensor(z).requires_grad_()
            l = loss(*a)
            ours = np.append(torch.autograd.grad(l, a)[0].numpy().ravel(), l.item())
            np.testing.assert_allclose(ours, next(theirs), atol=1e-6, rtol=1e-6 if loss is not vicreg else 1e-5)

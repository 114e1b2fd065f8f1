"Bundles: export of many kinds of model, parity, int8, corrupted and hostile folders, the commands."
import json, os, pickle, random, shutil, struct, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest

from retina_nb.core import BundleError, RunError, Task, get_task
from retina_nb.disk import write_json
from retina_nb.deploy import (check_bundle, export, load_bundle, open_session, parity, quantise, scan_onnx, to_onnx, try_int8,
                              write_sums)
from random_model import random_run, shared

@pytest.fixture(scope='module')
def run(): return shared()[0]

@pytest.fixture(scope='module')
def bundle(): return shared()[1]

@pytest.fixture
def copy(bundle, tmp_path): return Path(shutil.copytree(bundle, tmp_path/'b'))

# ---- export

def test_export_is_whole_and_checks_out(bundle):
    b = load_bundle(bundle)
    assert {p.name for p in bundle.iterdir()} == {'model.safetensors','model.onnx','config.json','card.md','SHA256SUMS','golden'}
    assert all(r['ok'] for r in check_bundle(b)) and len(check_bundle(b)) == 8
    c = b.config
    assert c['parity']['max_difference'] < 1e-4 and c['parity']['grades_changed'] == 0
    assert b.task.name == 'dr' and b.operating_point['threshold'] == .4 and c['preprocess_hash'] == b.preprocess.hash
    assert 'not for diagnosis' in b.card
    assert subprocess.run(['sha256sum', '-c', '--quiet', 'SHA256SUMS'], cwd=bundle).returncode == 0

def test_nothing_about_the_exporting_machine(bundle):
    for f in bundle.rglob('*'):
        if f.is_file(): assert not any(o.encode() in f.read_bytes() for o in (str(Path.home())+'/', 'site-packages', str(bundle.parent)) if len(o) > 3), f

@pytest.mark.parametrize('arch,loss,task', [('resnet10t','corn','dr'), pytest.param('mobilenetv3_small_050','ce','pneumonia', marks=pytest.mark.full)])
def test_other_heads_and_backbones(arch, loss, task, tmp_path):
    b = load_bundle(export(random_run(tmp_path/'r', task, arch=arch, loss=loss), tmp_path/'b'))
    s = open_session(b.onnx()[0], 1)
    for n in (1, 3, 8):
        out = s.run(None, {'image': np.random.default_rng(n).integers(0, 256, (n,64,64,3), dtype=np.uint8)})
        assert out[0].shape == (n, len(b.task)) and np.allclose(out[0].sum(1), 1, atol=1e-5)
        if len(out) > 1: assert out[1].shape[:2] == (n, len(b.task) if loss == 'ce' else 1)
    assert all(r['ok'] for r in check_bundle(b))

@pytest.mark.full
@pytest.mark.parametrize('arch,size', [('resnet18',224), ('efficientnet_b0',96), ('convnext_atto',64), ('vit_tiny_patch16_224',224)])
@pytest.mark.parametrize('loss', ['ce','focal','corn','qwk','regression'])
def test_every_head_on_every_kind_of_backbone(arch, size, loss, tmp_path):
    assert all(r['ok'] for r in check_bundle(export(random_run(tmp_path/'r', arch=arch, size=size, loss=loss), tmp_path/'b')))

def test_disagreement_is_named():
    import torch
    class M(torch.nn.Module):
        def __init__(self, b): super().__init__(); self.w = torch.nn.Parameter(torch.tensor(b))
        def forward(self, x): m = x.float().mean((1,2,3))/255; return torch.stack([m*self.w, 1-m*self.w], 1)
    s = open_session(to_onnx(M(.9), 16), 1)
    xs = [(f'eye{i}.jpg', np.full((16,16,3), 20*i, np.uint8)) for i in range(12)]
    assert parity(M(.9), s, xs)['images'] == 12
    with pytest.raises(BundleError, match=r'eye1\.jpg: PyTorch and ONNX Runtime disagree'): parity(M(.8), s, xs)

def test_export_touches_nothing_that_is_not_a_bundle(run, tmp_path):
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.txt').write_text('years of work')
    with pytest.raises(BundleError, match='not a bundle'): export(run, tmp_path/'mine')
    assert (tmp_path/'mine'/'thesis.txt').read_text() == 'years of work'

def test_a_kill_leaves_no_half_bundle(run, tmp_path, monkeypatch):
    import retina_nb.deploy.exporter as B
    def stop(*a, **kw): raise KeyboardInterrupt
    monkeypatch.setattr(B, 'write_golden', stop)
    with pytest.raises(KeyboardInterrupt): export(run, tmp_path/'b')
    assert not list(tmp_path.iterdir())

def test_unfinished_run_is_refused(run, tmp_path):
    r = Path(shutil.copytree(run, tmp_path/'r')); (r/'model.safetensors').unlink()
    with pytest.raises(RunError, match='not finished'): export(r, tmp_path/'b')

# ---- int8

def test_int8_needs_images_to_be_judged_on(bundle):
    model, about = try_int8((bundle/'model.onnx').read_bytes(), [], [], targets=np.array([]), task=get_task('dr'))
    assert model is None and about['shipped'] == 'fp32' and '50 needed' in about['reason']

def test_int8_ships_or_says_why(bundle):
    data = (bundle/'model.onnx').read_bytes()
    xs = [np.random.default_rng(i).integers(0, 256, (64,64,3), dtype=np.uint8) for i in range(60)]
    y = np.concatenate([open_session(data, 1).run(['probabilities'], {'image': x[None]})[0] for x in xs]).argmax(1)
    model, about = try_int8(data, xs[:16], xs, targets=y, task=get_task('dr'))
    assert (set(about['table']) == {'fp32','int8 static','int8 dynamic'} and about['table']['fp32']['score'] in (1, pytest.approx(1))) or np.isnan(about['table']['fp32']['score'])
    assert (model is None) == (about['shipped'] == 'fp32') and about['reason']
    small = quantise(data, xs[:16])
    assert len(small) < .4*len(data) and scan_onnx(small)['outputs'] == ['probabilities','cam']

# ---- hostile and damaged bundles

CANARY = 'retina_nb_canary_fired'

class Bomb:
    def __reduce__(self): return os.system, (f'touch {os.environ.get("TMPDIR", "/tmp")}/{CANARY}',)

def flip(b, r): f = r.choice(files(b)); d = bytearray(f.read_bytes()); d[r.randrange(len(d))] ^= 1 << r.randrange(8); f.write_bytes(d)
def cut(b, r): f = r.choice(files(b)); d = f.read_bytes(); f.write_bytes(d[:r.randrange(len(d))])
def grow(b, r): f = r.choice(files(b)); f.write_bytes(f.read_bytes() + r.randbytes(r.randrange(1, 999)))
def remove(b, r): r.choice(files(b)).unlink()
def swap(b, r):
    f, g = r.sample(files(b), 2); d = f.read_bytes(); f.write_bytes(g.read_bytes()); g.write_bytes(d)
def link(b, r): f = r.choice(files(b)); t = b.parent/'outside'; t.write_bytes(f.read_bytes()); f.unlink(); f.symlink_to(t)
def link_folder(b, r): (b/'golden').rename(b.parent/'golden'); (b/'golden').symlink_to(b.parent/'golden')
def sparse(b, r):
    f = r.choice(files(b))
    with open(f, 'r+b') as o: o.truncate(2**34)
def fifo(b, r): f = r.choice(files(b)); f.unlink(); os.mkfifo(f)
def folder(b, r): f = r.choice(files(b)); f.unlink(); f.mkdir()
# the same with hashes made to fit: the form itself must be refused
def pickled(b, r): (b/r.choice(['model.safetensors','model.onnx','config.json'])).write_bytes(pickle.dumps(Bomb())); write_sums(b)
def header(b, r): (b/'model.safetensors').write_bytes(struct.pack('<Q', 2**r.randrange(20, 63)) + b'{}' + r.randbytes(99)); write_sums(b)
def offsets(b, r):
    h = json.dumps({'w': dict(dtype='F32', shape=[9], data_offsets=r.choice([[0, 2**40], [-4, 4], [8, 4], 'ab', None]))}).encode()
    (b/'model.safetensors').write_bytes(struct.pack('<Q', len(h)) + h); write_sums(b)
def graph(b, r): d = (b/'model.onnx').read_bytes(); (b/'model.onnx').write_bytes(r.choice([b'', d[:len(d)//2], r.randbytes(5000), b'\x3a\xff\xff\xff\xff\x7f' + d])); write_sums(b)
def external(b, r):
    import onnx
    m = onnx.load(b/'model.onnx'); t = m.graph.initializer[0]; t.ClearField('raw_data'); t.data_location = 1
    t.external_data.add(key='location', value='/etc/passwd'); (b/'model.onnx').write_bytes(m.SerializeToString()); write_sums(b)
def custom(b, r):
    import onnx
    m = onnx.load(b/'model.onnx'); m.graph.node[3].domain = 'com.evil'; (b/'model.onnx').write_bytes(m.SerializeToString()); write_sums(b)
def _onnx(b, change):
    import onnx
    m = onnx.load(b/'model.onnx'); change(m, onnx)
    (b/'model.onnx').write_bytes(m.SerializeToString()); write_sums(b)
def branch(b, r):
    def change(m, onnx):
        inner = onnx.helper.make_graph([onnx.helper.make_node('Identity', ['x'], ['y'])], 'g', [], [])
        m.graph.node[2].attribute.append(onnx.helper.make_attribute('then_branch', inner))
    _onnx(b, change)
def function(b, r): _onnx(b, lambda m, onnx: m.functions.add(name='f', domain='com.evil'))
def sparse_weights(b, r): _onnx(b, lambda m, onnx: m.graph.sparse_initializer.add())
def unknown_field(b, r): # a field that ONNX does not have: of the model, and of one of its weights
    d = (b/'model.onnx').read_bytes()
    if r.random() < .5: d += b'\xfa\x7f\x03abc'
    else:
        import onnx
        m = onnx.load_from_string(d); t = m.graph.initializer[0]; t.MergeFromString(b'\xfa\x7f\x03abc'); d = m.SerializeToString()
    (b/'model.onnx').write_bytes(d); write_sums(b)
def settings(b, r):
    c = json.loads((b/'config.json').read_text())
    key, value = r.choice([('format_version', 99), ('format_version', None), ('format', 'x'), ('preprocess_hash', '0'), ('preprocess', {}), ('task_detail', None), ('task', 'x'),
                           ('preprocess', c['preprocess'] | dict(version=99)), ('preprocess', 'x'), ('operating_point', dict(threshold='high')), ('operating_point', []),
                           ('task_detail', c['task_detail'] | dict(positive=[77])), ('task_detail', c['task_detail'] | dict(classes='abc'))])
    (b/'config.json').write_text(json.dumps(c | {key: value})); write_sums(b)
def json_bomb(b, r): (b/'config.json').write_text(r.choice(['['*200_000, '{"a":'*100_000, '9'*100_000, '[]', 'null', '{"format": NaN}'])); write_sums(b)
def names(b, r):
    f = b/'SHA256SUMS'; f.write_text(f.read_text() + '0'*64 + '  ' + r.choice(['../evil', '/etc/passwd', 'golden/../../x.png', 'weights.pkl', 'a'*5000]) + '\n')

ATTACKS = [flip, cut, grow, remove, swap, link, link_folder, sparse, fifo, folder, pickled, header, offsets, graph, external, custom, branch, function, sparse_weights,
           unknown_field, settings, json_bomb, names]

HEAVY = (flip, cut, grow, swap, sparse, pickled, header, offsets, graph, external, custom, branch, function, sparse_weights,
         unknown_field) # they write into a large file

def files(b): return sorted(p for p in b.rglob('*') if p.is_file() and not p.is_symlink())

def attack(bundle, tmp, seed):
    "One corrupted copy: must be a `BundleError`, soon"
    r, how = random.Random(seed), ATTACKS[seed % len(ATTACKS)]
    b = tmp/f'{seed}'/'b'
    shutil.copytree(bundle, b, copy_function=os.link)
    for f in files(b):      # copies on write: only what is changed costs a copy
        if f.stat().st_size < 2**20 or how in HEAVY: d = f.read_bytes(); f.unlink(); f.write_bytes(d)
    how(b, r)
    start = time.process_time() # its own: the machine may do much else
    with pytest.raises(BundleError) as e: load_bundle(b)
    took = time.process_time() - start
    shutil.rmtree(tmp/f'{seed}')
    return how.__name__, took, str(e.value)

def _attacks(bundle, tmp_path, n, monkeypatch):
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    done = [attack(bundle, tmp_path, seed) for seed in range(n)]
    assert max(t for _,t,_ in done) < 2, max(done, key=lambda o: o[1])
    assert all(len(msg) < 600 and '\n' not in msg for *_,msg in done)
    assert not (tmp_path/CANARY).exists() and not Path('/tmp', CANARY).exists()

def test_corrupted_bundles(bundle, tmp_path, monkeypatch): _attacks(bundle, tmp_path, 2*len(ATTACKS), monkeypatch)

@pytest.mark.full
def test_200_corrupted_bundles(bundle, tmp_path, monkeypatch): _attacks(bundle, tmp_path, 200, monkeypatch)

def test_loading_and_refusing_takes_little_memory(bundle, tmp_path):
    b = Path(shutil.copytree(bundle, tmp_path/'b'))
    header(b, random.Random(0))
    code = f'''from retina_nb.deploy.bundle import load_bundle
from retina_nb.core import BundleError
load_bundle({str(bundle)!r})
try: load_bundle({str(b)!r})
except BundleError as e: print(e)
print(next(int(o.split()[1])//1024 for o in open("/proc/self/status") if o.startswith("VmHWM")))'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert int(out.stdout.split()[-1]) < 500, out

def test_an_unlisted_file_is_never_opened(copy):
    (copy/'extra.pkl').write_bytes(pickle.dumps(Bomb()))
    assert load_bundle(copy).task.name == 'dr'

def test_newer_version_is_named(copy):
    c = json.loads((copy/'config.json').read_text()); write_json(copy/'config.json', c | dict(format_version=2)); write_sums(copy)
    with pytest.raises(BundleError, match='version 2; this retina_nb reads version 1'): load_bundle(copy)

def test_a_changed_preprocessing_is_noticed(copy):
    c = json.loads((copy/'config.json').read_text()); c['preprocess']['contrast'] = 'clahe'; write_json(copy/'config.json', c); write_sums(copy)
    with pytest.raises(BundleError, match='prepares images differently'): load_bundle(copy)

def test_check_finds_other_weights(copy, tmp_path):
    import onnx
    m = onnx.load(copy/'model.onnx')
    from onnx import numpy_helper
    for i,t in enumerate(m.graph.initializer):
        if t.name.endswith('head.weight'): m.graph.initializer[i].CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(t), t.name))
    (copy/'model.onnx').write_bytes(m.SerializeToString()); write_sums(copy)
    assert not all(r['ok'] for r in check_bundle(copy))

# ---- a task of somebody's own

def test_a_task_of_ones_own_travels_whole(tmp_path):
    "Six words in another order, under a name that this session knows nothing of, and beside another task of the same name"
    from retina_nb.core import TASKS, forget_task
    from retina_nb.deploy import Grader
    mine = Task('macula', ('clear', 'drusen', 'fluid'), positive='fluid', positive_name='wet macula', modality='oct')
    one = export(random_run(tmp_path/'r1', mine), tmp_path/'b1')
    forget_task('macula')
    other = Task('macula', ('dry', 'wet'), positive='wet', modality='oct')
    two = export(random_run(tmp_path/'r2', other), tmp_path/'b2')
    forget_task('macula')
    a, b = load_bundle(one), load_bundle(two)
    assert a.task == mine and b.task == other and 'macula' not in TASKS     # opening a bundle gives its name to nothing
    assert 'wet macula when the probabilities of the classes fluid' in a.card or 'operating_point' not in a.config or not a.operating_point
    g = Grader(a)(np.full((80,90,3), 99, np.uint8), grade_anyway=True)
    assert g.name in mine.classes and 'wet macula' in g.verdict() and len(g.probabilities) == 3
    assert all(r['ok'] for r in check_bundle(a))

# ---- commands

def test_commands(run, bundle, tmp_path, command, typed):
    r = command('retina_export', run, '--out', tmp_path/'b')
    assert r.returncode == 0 and 'no grade changed' in r.stdout, r.stderr
    assert (tmp_path/'b'/'model.onnx').read_bytes() == (bundle/'model.onnx').read_bytes()   # same run, same graph
    r = typed('retina_check', tmp_path/'b')
    assert r.returncode == 0 and 'all 8 golden images come out as at the export' in r.stdout
    f = tmp_path/'b'/'model.onnx'; d = bytearray(f.read_bytes()); d[1000] ^= 1; f.write_bytes(d)
    r = typed('retina_check', tmp_path/'b')
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and 'model.onnx is damaged' in r.stderr
    for bad in (['no/such/run', '--out', tmp_path/'c'], [run], [run, '--out', run]):
        r = typed('retina_export', *bad)
        assert r.returncode == 2 and r.stderr.count('\n') == 1 and not (tmp_path/'c').exists(), r

"Hostile models and settings: what is refused, with which words, before anything runs; and what a model answers."
import json, os, random, shutil, subprocess, sys, time
from pathlib import Path

import numpy as np, onnx, pytest
from onnx import TensorProto as T, helper as h

import fuzz
from random_model import shared
from random_operators import small_model
from retina_nb.core import BundleError
from retina_nb.deploy import Grader, check_bundle, checked_onnx, load_bundle, open_session, scan_onnx, sound_answer, write_sums

@pytest.fixture(scope='module')
def data(): return (shared()[1]/'model.onnx').read_bytes()

@pytest.fixture(scope='module')
def small(): return small_model().SerializeToString()

def changed(data, change):
    m = onnx.ModelProto.FromString(data)
    change(m, m.graph)
    return m.SerializeToString()

def add(g, *nodes): g.node.extend(nodes)
def node(*args, **kwargs): return h.make_node(*args, **kwargs)
def weight(g, name, values, kind=T.INT64): g.initializer.append(h.make_tensor(name, kind, np.shape(values), np.ravel(values).tolist()))

INNER = h.make_graph([h.make_node('Identity', ['a'], ['b'])], 'inner', [], [])
SPARSE = h.make_sparse_tensor(h.make_tensor('v', T.FLOAT, [1], [1.]), h.make_tensor('i', T.INT64, [1], [0]), [3])
OUTSIDE = h.make_tensor('v', T.FLOAT, [1], [1.])
OUTSIDE.ClearField('float_data'); OUTSIDE.data_location = T.EXTERNAL; OUTSIDE.external_data.add(key='location', value='/etc/passwd')
SPARSE_OUTSIDE = h.make_sparse_tensor(OUTSIDE, h.make_tensor('i', T.INT64, [1], [0]), [3])

def external(m, g): g.initializer.append(OUTSIDE)
def field(g, i, name, v): setattr(g.node[i], name, v)
def many(g, n): add(g, *[node('MatMul', ['big', 'big' if i == 0 else f'm{i}'], [f'm{i+1}']) for i in range(n)])

HOSTILE = { # name: (words of the refusal, what is changed)
    'loop': ('sub-graphs', lambda m, g: add(g, node('Loop', ['', ''], ['l'], body=INNER))),
    'a loop without a body': ('Loop', lambda m, g: add(g, node('Loop', ['', ''], ['l']))),
    'a graph as a setting': ('sub-graphs', lambda m, g: g.node[0].attribute.append(h.make_attribute('body', INNER))),
    'graphs as a setting': ('sub-graphs', lambda m, g: g.node[0].attribute.append(h.make_attribute('bodies', [INNER]))),
    'a sparse constant': ('sparse', lambda m, g: add(g, node('Constant', [], ['c'], sparse_value=SPARSE))),
    'a sparse constant in another file': ('sparse', lambda m, g: add(g, node('Constant', [], ['c'], sparse_value=SPARSE_OUTSIDE))),
    'a constant in another file': ('another file', lambda m, g: add(g, node('Constant', [], ['c'], value=OUTSIDE))),
    'a weight in another file': ('another file', external),
    'sparse weights': ('sparse', lambda m, g: g.sparse_initializer.append(SPARSE)),
    'a function': ('functions', lambda m, g: m.functions.add(name='f', domain='d')),
    'a training graph': ('training', lambda m, g: m.training_info.add()),
    'notes': ('notes', lambda m, g: m.metadata_props.add(key='ort_config', value='{}')),
    'a custom domain': ('custom operator', lambda m, g: field(g, 0, 'domain', 'com.microsoft')),
    'an unknown domain imported': ('other operators', lambda m, g: m.opset_import.add(domain='com.evil', version=1)),
    'operators imported twice': ('other operators', lambda m, g: m.opset_import.add(domain='', version=9)),
    'old operators': ('other operators', lambda m, g: setattr(m.opset_import[0], 'version', 1)),
    'an overload': ('function', lambda m, g: field(g, 0, 'overload', 'x')),
    'text in a tensor': ('text', lambda m, g: g.initializer[0].string_data.append(b'x')),
    'a tensor of text': ('no numbers', lambda m, g: g.initializer.append(h.make_tensor('t', T.STRING, [1], [b'x']))),
    'a tensor without content': ('does not hold', lambda m, g: g.initializer.append(T(name='t', data_type=1, dims=[2**20]))),
    'a tensor of negative size': ('does not hold', lambda m, g: g.initializer.append(T(name='t', data_type=1, dims=[-1]))),
    'random': ('RandomNormal', lambda m, g: add(g, node('RandomNormal', [], ['r'], shape=[2]))),
    'a size that the photograph decides': ('NonZero', lambda m, g: add(g, node('NonZero', ['x'], ['nz']))),
    'the same in two steps': ('cannot be told', lambda m, g: add(g, node('Cast', ['m'], ['k'], to=T.INT64), node('Squeeze', ['k'], ['s']), node('Range', ['s', 's', 's'], ['r']))),
    'a step of zero': ('not above zero', lambda m, g: add(g, node('Conv', ['x', 'x'], ['c'], strides=[0, 0]))),
    'a window below zero': ('not above zero', lambda m, g: add(g, node('MaxPool', ['x'], ['c'], kernel_shape=[-1, 2]))),
    'a name given twice': ('given twice', lambda m, g: g.initializer.append(g.initializer[0])),
    'a hidden default of the input': ('given twice', lambda m, g: weight(g, 'image', [[[[1]]]], T.UINT8)),
    'a node out of order': ('nothing before it gives', lambda m, g: g.node.insert(0, node('Relu', ['z'], ['early']))),
    'fill': ('GiB', lambda m, g: (weight(g, 's', [2**20, 2**20]), add(g, node('ConstantOfShape', ['s'], ['f'])))),
    'tile': ('GiB', lambda m, g: (weight(g, 's', [1, 2**30, 1, 1]), add(g, node('Tile', ['x', 's'], ['f'])))),
    'expand': ('GiB', lambda m, g: (weight(g, 's', [2**20, 2**20, 5]), add(g, node('Expand', ['probabilities', 's'], ['f'])))),
    'resize': ('GiB', lambda m, g: (weight(g, 's', [1, 2**20, 2**20, 3]), add(g, node('Resize', ['x', '', '', 's'], ['f'])))),
    'pad': ('GiB', lambda m, g: (weight(g, 's', [0]*7 + [2**40]), add(g, node('Pad', ['x', 's'], ['f'])))),
    'convolution': ('GiB|multiply-adds', lambda m, g: (weight(g, 's', [2]*4), add(g, node('ConstantOfShape', ['s'], ['f']), node('Conv', ['x', 'f'], ['c'], pads=[2**15]*4)))),
    '400 products': ('multiply-adds|GiB', lambda m, g: (weight(g, 's', [1400, 1400]), add(g, node('ConstantOfShape', ['s'], ['big'])), many(g, 400))),
    'many operators': ('operators', lambda m, g: add(g, *[node('Relu', ['m'], [f'r{i}']) for i in range(11_000)])),
    'free sides': ('cannot be told', lambda m, g: setattr(g.input[0].type.tensor_type.shape.dim[1], 'dim_param', 's')),
    'a lie about a size': ('GiB', lambda m, g: (weight(g, 's', [2**20, 2**20]), add(g, node('ConstantOfShape', ['s'], ['f'])), g.value_info.append(h.make_tensor_value_info('f', 1, [1])))),
}

@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_models(small, name):
    words, change = HOSTILE[name]
    start = time.perf_counter()
    bad = changed(small, change)
    for look in (scan_onnx, checked_onnx, open_session):
        with pytest.raises(BundleError, match=words): look(bad)
    assert time.perf_counter() - start < 20

def varint(n, extra=0):
    "A number as protobuf spells it, `extra` bytes longer than needed"
    out = []
    while True:
        out.append(n & 127); n >>= 7
        if not n: break
    out += [0]*extra
    return bytes([*(o | 128 for o in out[:-1]), out[-1]])

def part(number, content, extra=0): return varint(number << 3 | 2, extra) + varint(len(content)) + content

def test_what_another_reader_would_see(small):
    "Fields under long spellings, twice, or unknown: a scanner may pass over what the runtime runs"
    m = onnx.ModelProto.FromString(small)
    loop = h.make_node('Loop', ['', ''], ['l'], body=INNER).SerializeToString()
    hidden = OUTSIDE.SerializeToString()
    head = small[:small.index(part(7, m.graph.SerializeToString()))]
    tail = small[len(head) + len(part(7, m.graph.SerializeToString())):]
    for extra in (1, 2, 3):
        for number, content in ((1, loop), (5, hidden)):          # a node, and a weight, of the graph
            graph = m.graph.SerializeToString() + part(number, content, extra)
            for bad in (head + part(7, graph) + tail, head + part(7, graph, extra) + tail):
                with pytest.raises(BundleError): scan_onnx(bad)
    huge = varint((2**32 + (7 << 3)) | 2) # a field number beyond 32 bits, of which some readers keep only the lower ones
    for bad in (small + part(7, m.graph.SerializeToString()), small + b'\x08\x0a', small + part(2047, b'abc'), part(20, b'') + small, small + huge + varint(0),
                small + b'\x0b\x0c', small[:-1], small + b'\x00', small + b'\x3a\xff\xff\xff\xff\x7f'):
        with pytest.raises(BundleError): scan_onnx(bad)

def test_small_files_do_not_become_large():
    "Two bytes a part become a hundred in memory; an attribute of packed numbers eight times its size"
    for bad in (part(7, b'\x0a\x00'*3_000_000), part(7, part(5, b'\x0a\x00'*3_000_000)), part(7, part(1, part(5, part(8, b'\x01'*20_000_000)))), b'\x32\x00'*3_000_000):
        start = time.perf_counter()
        with pytest.raises(BundleError): scan_onnx(bad)
        assert time.perf_counter() - start < 10

def test_an_honest_model_passes_unchanged(small, data):
    for d in (small, data):
        clean = checked_onnx(onnx.ModelProto.FromString(d).SerializeToString(deterministic=True))
        assert clean == d and checked_onnx(clean) is clean
    found = scan_onnx(data)
    assert found['sizes']['probabilities'] == (1, (1, 5)) and found['work'] < 1e9 and found['memory'] < 2**28

# ---- in a bundle

@pytest.fixture
def copy(tmp_path):
    b = Path(shutil.copytree(shared()[1], tmp_path/'b'))
    def put(data): (b/'model.onnx').write_bytes(data); write_sums(b); return b
    return put

def answering(kind):
    "The small model with another answer"
    def change(m, g):
        last = next(n for n in g.node if 'probabilities' in n.output)
        last.output[0] = 'before'
        if kind == 'zeros': add(g, node('Sub', ['before', 'before'], ['probabilities']))
        elif kind == 'negative': weight(g, 'by', [9., -8., 0, 0, 0], T.FLOAT); add(g, node('Mul', ['before', 'by'], ['probabilities']))
        elif kind == 'nan': add(g, node('Sub', ['before', 'before'], ['zero']), node('Div', ['zero', 'zero'], ['probabilities']))
        elif kind == 'infinite': add(g, node('Sub', ['before', 'before'], ['zero']), node('Reciprocal', ['zero'], ['probabilities']))
        elif kind == 'half': add(g, node('Mul', ['before', 'before'], ['probabilities']))
        elif kind == '1,000 classes': add(g, node('Concat', ['before']*200, ['probabilities'], axis=1))
        elif kind == 'four classes': weight(g, 'a', [0]); weight(g, 'z', [4]); weight(g, 'ax', [1]); add(g, node('Slice', ['before', 'a', 'z', 'ax'], ['probabilities']))
        elif kind == 'turned': add(g, node('Transpose', ['before'], ['probabilities'], perm=[1, 0]))
        elif kind == 'whole numbers': add(g, node('Cast', ['before'], ['probabilities'], to=T.INT64))
        elif kind == 'double': add(g, node('Cast', ['before'], ['probabilities'], to=T.DOUBLE))
    return change

@pytest.mark.parametrize('kind', ['1,000 classes', 'four classes', 'turned', 'whole numbers', 'double'])
def test_answers_of_another_form_are_refused_at_load(small, copy, kind):
    with pytest.raises(BundleError, match='probabilities have shape|given'): load_bundle(copy(changed(small, answering(kind))))

@pytest.mark.parametrize('kind', ['zeros', 'negative', 'nan', 'infinite', 'half'])
def test_answers_that_are_no_probabilities(small, copy, kind):
    b = copy(changed(small, answering(kind)))
    for look in (lambda: Grader(b)(np.full((80, 90, 3), 99, np.uint8), name='eye.jpg'), lambda: check_bundle(b)):
        with pytest.raises(BundleError, match='no probabilities|not finite'): look()

def test_other_inputs_and_outputs(small, copy):
    def side(m, g): g.input[0].type.tensor_type.shape.dim[1].dim_value = 65
    def kind(m, g): g.input[0].type.tensor_type.elem_type = T.FLOAT
    def two(m, g): g.input.append(h.make_tensor_value_info('other', T.FLOAT, [1]))
    def secret(m, g): g.output.append(h.make_tensor_value_info('z', T.FLOAT, ['n', 5]))
    def batch(m, g): g.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    for change in (side, kind, two, secret, batch):
        with pytest.raises(BundleError): load_bundle(copy(changed(small, change)))

def test_a_sound_answer_is_kept():
    p = sound_answer(np.float32([.2, .3, .5]), 3)
    assert p.sum() == pytest.approx(1, abs=1e-12) and np.allclose(p, [.2, .3, .5])

def test_one_answer_has_a_deadline(small):
    def slow(m, g): weight(g, 's', [900, 900]); add(g, node('ConstantOfShape', ['s'], ['c']), node('Add', ['c', 'mean'], ['big'])); many(g, 100)
    s = open_session(changed(small, slow), 1, deadline=.1)
    start = time.perf_counter()
    with pytest.raises(BundleError, match='longer than 0.1 s'): s.run(None, {'image': np.zeros((1, 64, 64, 3), np.uint8)})
    assert time.perf_counter() - start < 10

# ---- settings

def test_770_changed_settings(tmp_path, monkeypatch):
    "Each is refused when the bundle is opened, or good in grader, card and panel; the graph, which stays the same, is opened once"
    from retina_nb.core import RetinaError
    from retina_nb.deploy import bundle as B, grader as G, hub_card, words
    from retina_nb.deploy.session import Session
    b = Path(shutil.copytree(shared()[1], tmp_path/'b'))
    config = fuzz.filled(json.loads((b/'config.json').read_text()))
    (b/'config.json').write_text(json.dumps(config)); write_sums(b)
    s = Session(load_bundle(b), feedback=tmp_path/'f.csv')
    s.add('eye.png', np.full((80, 90, 3), 99, np.uint8))
    if s.state == 'withheld': s.reveal()
    session = s.grader._session
    for name in ('_verify', '_check_graph', '_check_safetensors'): monkeypatch.setattr(B, name, lambda *a: None)
    monkeypatch.setattr(B.Bundle, 'onnx', lambda self, precision='auto': (b'', 'fp32'))
    monkeypatch.setattr(G, 'open_session', lambda *a, **kw: session)
    ended = dict(refused=0, good=0)
    for seed in range(770):
        (b/'config.json').write_text(json.dumps(fuzz.changed(config, random.Random(seed))), encoding='utf-8', errors='surrogatepass')
        try: found = load_bundle(b)
        except RetinaError as e:
            assert '\n' not in str(e) and len(str(e)) < 600, seed
            str(e).encode(); ended['refused'] += 1
            continue
        s.grader = Grader(found)
        s.task, s.threshold = found.task, s.grader.threshold
        texts = [found.card, hub_card(found), repr(found), repr(s.grader), words.head_html(s.grader)]
        if len(found.task) == 5:
            for t in (s.grader.threshold, .01, .99):
                s.threshold = t
                if s.task.positive: texts.append(words.referral_html(s))
            texts += [words.verdict_html(s.current, s.task), words.table_html(s), s.to_csv()]
        for o in texts: o.encode()
        ended['good'] += 1
    assert ended['refused'] > 300 and ended['good'] > 50, ended

@pytest.mark.parametrize('bad', [5, [1], 'x', {}, dict(applies='no'), dict(images=9, refused=0, applies='no'), dict(images=9, refused=0, applies=0), dict(images=9, refused=10, applies=False), dict(images=-1, refused=0, applies=True), dict(images=9, applies=True)])
def test_a_word_that_would_switch_off_the_rule_for_what_cannot_be_graded(tmp_path, bad):
    b = Path(shutil.copytree(shared()[1], tmp_path/'b'))
    config = json.loads((b/'config.json').read_text())
    for good in (dict(images=9, refused=1, applies=True), None):
        (b/'config.json').write_text(json.dumps(config | dict(gradable=good))); write_sums(b)
        assert Grader(b).judges is True
    (b/'config.json').write_text(json.dumps(config | dict(gradable=bad))); write_sums(b)
    with pytest.raises(BundleError, match='gradable'): load_bundle(b)

def test_a_name_may_not_rewrite_the_terminal(tmp_path):
    b = Path(shutil.copytree(shared()[1], tmp_path/'b'))
    config = json.loads((b/'config.json').read_text())
    for bad in ('\x1b[2J', 'a\x00', '\ud800', '\u202egnp.exe', 'x'*300):
        (b/'config.json').write_text(json.dumps(config | dict(name=bad))); write_sums(b)
        with pytest.raises(BundleError, match='config.json') as e: load_bundle(b)
        assert str(e.value).isprintable()

# ---- nothing is reported

def test_the_runtime_is_told_to_report_nothing():
    "ONNX Runtime reports to its makers unless this is set before it is imported"
    code = 'import os, sys; from retina_nb.deploy import load_bundle; assert "onnxruntime" not in sys.modules; print(os.environ["ORT_DISABLE_TELEMETRY"])'
    env = {k: v for k,v in os.environ.items() if k != 'ORT_DISABLE_TELEMETRY'}
    r = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert r.stdout == '1\n', r.stderr

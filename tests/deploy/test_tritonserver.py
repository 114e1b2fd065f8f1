"""The written model repository on a real tritonserver, as the wheel of nvidia-pytriton carries it (tests/triton_server.py says where it is made).
The Python backend has to agree with `Grader`; the ONNX backend too, where a wheel has it"""
import io, json, os, shutil, signal, threading, time, urllib.error, urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np, pytest
from PIL import Image

import triton_server
from random_model import random_run, shared
from retina_nb.core import BundleError
from retina_nb.deploy import Grader, ask_triton, export, load_bundle, to_triton
from retina_nb.synth import synth_eye
from triton_server import Tritonserver

pytestmark = pytest.mark.full

def picture(i=0, size=160, kind='JPEG'):
    "A synthetic eye as a file"
    f = io.BytesIO()
    Image.fromarray(synth_eye(i, grade=i%5, size=size).image).save(f, kind)
    return f.getvalue()

@pytest.fixture(scope='module')
def bundle(): return load_bundle(shared()[1])

@pytest.fixture(scope='module')
def other(tmp_path_factory):
    "Another bundle whose photographs are prepared alike"
    d = tmp_path_factory.mktemp('other')
    return load_bundle(export(random_run(d/'run', arch='test_resnet'), d/'bundle'))

@pytest.fixture(scope='module')
def wider(tmp_path_factory):
    "A bundle whose photographs are prepared otherwise"
    d = tmp_path_factory.mktemp('wider')
    return load_bundle(export(random_run(d/'run', size=96), d/'bundle'))

@pytest.fixture(scope='module')
def made():
    try: triton_server.environment()
    except triton_server.Missing as e: pytest.skip(f'no tritonserver here: {e}')

@pytest.fixture(scope='module')
def server(made, bundle, tmp_path_factory):
    d = tmp_path_factory.mktemp('repository')
    to_triton(bundle, d, 'retina', backend='python', max_batch=8, threads=1)
    to_triton(bundle, d, 'onnx')
    shutil.copytree(to_triton(bundle, tmp_path_factory.mktemp('more'), 'broken', backend='python'), d/'broken')
    (d/'broken'/'1'/'model.onnx').write_bytes(b'no network')
    with Tritonserver(d) as s: yield s

@pytest.fixture(scope='module')
def grader(bundle): return Grader(bundle, threads=1)

@pytest.fixture(scope='module')
def eyes(): return [picture(i, size=120 + 40*i, kind='PNG' if i % 2 else 'JPEG') for i in range(11)]

@pytest.fixture(scope='module')
def want(grader, eyes): return np.array([grader(e).probabilities for e in eyes])

def test_agrees_with_the_grader(server, bundle, eyes, want):
    at_once = ask_triton(server.url, bundle, eyes, name='retina') # more than the 8 that it takes at once
    alone = np.concatenate([ask_triton(server.url, bundle, [e], name='retina') for e in eyes])
    assert np.abs(at_once - want).max() < 1e-6 and np.abs(alone - want).max() < 1e-6

def test_requests_that_wait_together_get_their_own_rows(server, bundle, eyes, want):
    def count():
        s = server.get('/models/retina/stats')['model_stats'][0]
        return s['inference_count'], s['execution_count']
    before = count()
    def client(i): return [ask_triton(server.url, bundle, [eyes[(i + j) % 11]], name='retina')[0] for j in range(6)]
    with ThreadPoolExecutor(16) as pool: got = list(pool.map(client, range(16)))
    for i, rows in enumerate(got):
        for j, p in enumerate(rows): assert np.abs(p - want[(i + j) % 11]).max() < 1e-6
    images, runs = (z - a for a, z in zip(before, count()))
    assert images == 96 and runs < 96 # some of them shared a run

def test_the_onnx_backend_where_there_is_one(server, bundle, eyes, want):
    state = next(m for m in server.get('/repository/index', b'{}') if m['name'] == 'onnx')
    if state['state'] == 'READY':
        assert np.abs(ask_triton(server.url, bundle, eyes, name='onnx') - want).max() < 1e-6
    else:
        with pytest.raises(BundleError, match="model 'onnx' is in the server's repository and does not answer: .*backend library"):
            ask_triton(server.url, bundle, eyes, name='onnx')

def refused(server, bundle, name, why):
    with pytest.raises(BundleError) as e: ask_triton(server.url, bundle, [picture(0)], name=name)
    said = str(e.value)
    assert server.url in said and why in said and '\n' not in said and len(said) < 500, said

def test_models_that_do_not_answer(server, bundle, other, wider):
    refused(server, bundle, 'retinas', "has no model 'retinas'; it has: retina")
    refused(server, bundle, 'broken', "model 'broken' is in the server's repository and does not answer")
    refused(server, other, 'retina', f'bundle {bundle.id} is served there, this one is {other.id}')
    refused(server, wider, 'retina', f'prepared as {bundle.preprocess.hash}, this bundle prepares them as {wider.preprocess.hash}')

def infer(server, head, data=b''):
    head = json.dumps(head).encode()
    headers = {'Inference-Header-Content-Length': str(len(head)), 'Content-Type': 'application/octet-stream'}
    try:
        with urllib.request.urlopen(urllib.request.Request(f'{server.url}/v2/models/retina/infer', head + data, headers), timeout=30) as r: return r.status, r.read()
    except urllib.error.HTTPError as e: return e.code, e.read()

def test_bad_tensors_are_refused_and_hurt_nobody(server, bundle, eyes, want):
    size = bundle.preprocess.size
    def tensor(shape, kind='UINT8', name='image', n=None):
        n = int(np.prod(shape)) if n is None else n
        return dict(inputs=[dict(name=name, shape=shape, datatype=kind, parameters=dict(binary_data_size=n))]), bytes(n)
    good = [1, size, size, 3]
    assert infer(server, *tensor(good))[0] == 200
    bad = [tensor([1, size, size, 4]), tensor([1, 2*size, size, 3]), tensor([size, size, 3]), tensor([0, size, size, 3]), tensor([9, size, size, 3]),
           tensor([-1, size, size, 3], n=0), tensor(good, n=10), tensor(good, kind='INT8'), tensor(good, kind='FP32', n=4*size*size*3),
           tensor(good, name='photo'), (dict(inputs=[]), b''), ({}, b''), (dict(tensor(good)[0], outputs=[dict(name='grade')]), tensor(good)[1])]
    for head, data in bad:
        status, said = infer(server, head, data)
        assert 400 <= status <= 500 and 'error' in json.loads(said), (head, status, said)
    assert np.abs(ask_triton(server.url, bundle, eyes, name='retina') - want).max() < 1e-6

def test_a_server_without_a_model(made, bundle, tmp_path):
    with Tritonserver(tmp_path) as s: refused(s, bundle, 'retina', "has no model 'retina'; it has: none that answers")
    to_triton(bundle, tmp_path, 'retina', backend='python')
    with Tritonserver(tmp_path, '--model-control-mode', 'explicit') as s:
        refused(s, bundle, 'retina', "model 'retina' is in the server's repository and does not answer: it was not loaded")
        s.get('/repository/models/retina/load', b'{}')
        assert ask_triton(s.url, bundle, [picture(0)], name='retina').shape == (1, 5)

class Clients:
    "Four clients that ask on and on; how far right answers were off, and what errors said"
    def __init__(self, url, bundle, eyes, want):
        self.right, self.wrong, self._over = [], [], threading.Event()
        def _ask(i):
            while not self._over.is_set():
                i = (i + 1) % len(eyes)
                try: p = ask_triton(url, bundle, [eyes[i]], name='retina', timeout=20)[0]
                except BundleError as e:
                    self.wrong.append(str(e))
                    time.sleep(.05)
                else: self.right.append(float(np.abs(p - want[i]).max()))
        self._threads = [threading.Thread(target=_ask, args=(i,)) for i in range(4)]
        for t in self._threads: t.start()
    def wait(self, n, seconds=60):
        "Until so many more right answers are there"
        n, end = len(self.right) + n, time.time() + seconds
        while len(self.right) < n and time.time() < end: time.sleep(.05)
        assert len(self.right) >= n, self.wrong[-2:]
    def __enter__(self): return self
    def __exit__(self, *_):
        self._over.set()
        for t in self._threads: t.join()

def test_killed_at_work(made, bundle, eyes, want, tmp_path):
    "Every answer is right or an error of one line, however many are under way; a server that is started again answers as before"
    to_triton(bundle, tmp_path, 'retina', backend='python', threads=1)
    with Tritonserver(tmp_path) as s, Clients(s.url, bundle, eyes, want) as c:
        c.wait(4)
        s.kill()
        time.sleep(.5)
        with Tritonserver(tmp_path, port=s.port): c.wait(8)
    assert c.wrong and all('no usable answer' in w and s.url in w and '\n' not in w for w in c.wrong), c.wrong[:3]
    assert max(c.right) < 1e-6

def test_the_process_of_the_model_is_killed(made, bundle, eyes, want, tmp_path):
    "Triton goes on to call such a model ready, and refuses each request until the model is loaded again: nobody waits in vain, none is answered wrongly"
    to_triton(bundle, tmp_path, 'retina', backend='python', threads=1)
    with Tritonserver(tmp_path, '--model-control-mode', 'explicit', '--load-model', 'retina') as s, Clients(s.url, bundle, eyes, want) as c:
        c.wait(4)
        for pid in s.models(): os.kill(pid, signal.SIGKILL)
        end = time.time() + 60
        while not c.wrong and time.time() < end: time.sleep(.05)
        s.get('/repository/models/retina/load', b'{}')
        c.wait(8)
    assert c.wrong and all('the server answers 500' in w and s.url in w and '\n' not in w for w in c.wrong), c.wrong[:3]
    assert max(c.right) < 1e-6

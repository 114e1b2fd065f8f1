"""A model behind Triton and behind `retina_serve`, asked by the same client on the same cores: tritonserver's Python backend (its ONNX backend too, where the server has it), the service's route for prepared pictures, and photographs as taken, prepared by the client for Triton or sent to the service, which stores the answer. One picture a request, 1, 4 and 16 requests under way. ResNet-18 at 224 px with random weights: only time is measured. tests/triton_server.py says where the server comes from"""
import http.client, json, os, re, subprocess, sys, tempfile, threading, time, uuid
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent/'tests'))
from bench_grader import run_folder
from bench_service import Served, eyes, form, spent
from retina_nb.deploy import Grader, export, load_bundle, to_triton
from triton_server import Tritonserver

THREADS = 2
AT_ONCE = 1, 4, 16
NAME = 'retina'

class Roomy(Served):
    "The service, told to take as many requests at a time as are sent here; by itself it takes eight on two cores, and tells the others to try again"
    def __init__(self, bundle, db):
        code = f'from retina_nb.serve import Limits, serve\nserve({str(bundle)!r}, {str(db)!r}, port=0, low_confidence=0., limits=Limits(in_flight={2*max(AT_ONCE)}))\n'
        self.db, self.log = db, open(f'{db}.log', 'w+b')
        self.process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=self.log, stdin=subprocess.DEVNULL, text=True)
        self.port = int(re.search(r':(\d+)', self.process.stdout.readline())[1])
        while self.ask(self.connect(), 'GET', '/v1/health/ready')[0] != 200: time.sleep(.05)

def tensor(x):
    "(body, headers) of a request for prepared pictures, as `ask_triton` sends it"
    image = dict(name='image', shape=x.shape, datatype='UINT8', parameters=dict(binary_data_size=x.nbytes))
    head = json.dumps(dict(inputs=[image], outputs=[dict(name='probabilities', parameters=dict(binary_data=False))])).encode()
    return head + x.tobytes(), {'Inference-Header-Content-Length': str(len(head)), 'Content-Type': 'application/octet-stream'}

def ask(conn, method, path, body, headers):
    "The probabilities of one picture"
    conn.request(method, path, body, headers)
    r = conn.getresponse()
    said = r.read()
    if r.status != 200: raise RuntimeError(f'{path}: {r.status}: {said[:300]}')
    said = json.loads(said)
    if 'gradings' in said: return said['gradings'][0]['probabilities']
    return next(o['data'] for o in said['outputs'] if o['name'] == 'probabilities')

class Way:
    "A way to ask: what is sent (bytes or a file), how it becomes a request, and to whom"
    def __init__(self, what, kind, things, port, request, processes): self.what, self.kind, self.things, self.port, self.request, self.processes = what, kind, things, port, request, processes
    def one(self, conn, thing): return ask(conn, *self.request(thing))
    def connect(self): return http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
    def cpu(self): return sum(map(spent, self.processes()))

def prepared(what, port, processes, pictures, name=NAME):
    "Prepared pictures to a server of the protocol"
    def _request(x): return ('POST', f'/v2/models/{name}/infer', *tensor(x[None]))
    return Way(what, 'prepared picture', pictures, port, _request, processes)

def from_file(what, port, processes, photographs, pre, name=NAME):
    "Photographs that the client prepares"
    def _request(data): return ('POST', f'/v2/models/{name}/infer', *tensor(pre(data)[None]))
    return Way(what, 'photograph', photographs, port, _request, processes)

def graded(what, port, processes, photographs):
    "Photographs to the service, each under a key of its own"
    def _request(data):
        body, kind = form([data])
        return 'PUT', f'/v1/gradings/{uuid.uuid4().hex}', body, {'Content-Type': kind}
    return Way(what, 'photograph', photographs, port, _request, processes)

def send(way, n, at_once):
    "`n` requests, so many under way at once: seconds that each took, seconds for all, processor seconds of server and client"
    turn, took, failed = iter([way.things[i % len(way.things)] for i in range(n)]), [], []
    def _client():
        conn = way.connect()
        try:
            while (o := next(turn, None)) is not None:
                t = time.perf_counter()
                way.one(conn, o)
                took.append(time.perf_counter() - t)
        except Exception as e: failed.append(e)
        finally: conn.close()
    threads = [threading.Thread(target=_client) for _ in range(at_once)]
    cpu, mine, start = way.cpu(), time.process_time(), time.perf_counter()
    for t in threads: t.start()
    for t in threads: t.join()
    whole = time.perf_counter() - start
    if failed: raise failed[0]
    return took, whole, way.cpu() - cpu + time.process_time() - mine

def measure(ways, n, repeats):
    "A row for each way and number of requests at once; the ways take turns"
    found = {(w.what, w.kind, k): [] for w in ways for k in AT_ONCE}
    for w in ways: send(w, 4, 2) # warm
    for _ in range(repeats):
        for k in AT_ONCE:
            for w in ways: found[w.what, w.kind, k].append(send(w, n, k))
    for (what, kind, k), runs in found.items():
        ms = 1e3*np.concatenate([r[0] for r in runs])
        yield dict(what=f'{kind}, {k} at once: {what}', way=what, kind=kind, at_once=k, unit='images/s', ours=float(np.median([n/r[1] for r in runs])), range=[min(n/r[1] for r in runs), max(n/r[1] for r in runs)],
                   p50=float(np.percentile(ms, 50)), p95=float(np.percentile(ms, 95)), processor_ms=float(np.median([1e3*r[2]/n for r in runs])), requests=n*repeats, load=os.getloadavg())

def agreement(ways, want):
    "How far each way is from `Grader` on the same photographs, in probability"
    for w in ways:
        conn = w.connect()
        off = max(np.abs(np.array(w.one(conn, o)) - p).max() for o, p in zip(w.things, want))
        conn.close()
        yield dict(what=f'{w.kind}: {w.what}, from Grader', way=w.what, kind=w.kind, unit='probability', ours=float(off), goal=1e-6, reached=bool(off < 1e-6))

def bench(quick):
    n, repeats = (24, 3) if quick else (64, 5)
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        files, which = eyes(d/'eyes')
        b = load_bundle(export(run_folder(d/'run'), d/'fp32'))
        data, pictures = [f.read_bytes() for f in files], [b.preprocess(f) for f in files]
        to_triton(b, d/'models', NAME, backend='python')
        to_triton(b, d/'models', 'each', backend='python', threads=1, instances=THREADS) # as the service does it
        to_triton(b, d/'models', 'onnx')
        with Tritonserver(d/'models') as t, Roomy(b.path, d/'store') as s:
            def triton(): return [t.process.pid, *t.models()]
            def service(): return [s.process.pid]
            has = {m['name']: m for m in t.get('/repository/index', b'{}')}
            ways = [prepared('Triton, Python backend', t.port, triton, pictures), prepared('Triton, Python backend, an instance a core', t.port, triton, pictures, name='each'),
                    prepared('service, /v2', s.port, service, pictures, name=b.name),
                    from_file('Triton, an instance a core, prepared by the client', t.port, triton, data, b.preprocess, name='each'), graded('service, /v1/gradings, answers stored', s.port, service, data)]
            onnx = has['onnx']['state'] == 'READY'
            if onnx: ways.insert(2, prepared('Triton, ONNX backend', t.port, triton, pictures, name='onnx'))
            yield dict(what=f"this tritonserver ({t.get('')['version']}) has the ONNX backend" if onnx else f"this tritonserver ({t.get('')['version']}) has no ONNX backend: {has['onnx']['reason'][:120]}",
                       unit='', ours=int(onnx), onnx=onnx, version=t.get('')['version'], photographs=which)
            want = [g.probabilities for g in Grader(b).grade_many(files)]
            yield from agreement(ways, want)
            yield from measure(ways, n, repeats)

"""The service: photographs a second through `retina_serve` in a process of its own, sent by four clients on the same cores, against bare `Grader.grade_many` on the same files: photographs of IDRiD as taken, found through RETINA_NB_DATA, or synthetic eyes of 10 megapixels. Each photograph under a key of its own, every answer stored (SQLite) before it is told, photographs not kept. ResNet-18 at 224 px with random weights: only time and memory are measured. A batch is long enough that its first and its last photographs, while which not all clients are at work, hardly count"""
import csv, http.client, json, os, re, signal, subprocess, sys, tempfile, threading, time, uuid
from pathlib import Path

import numpy as np

from bench_grader import int8_bundle, run_folder
from retina_nb.deploy import Grader, export
from timing import compare, seconds

THREADS = 2
CLIENTS = 4
TAGS = dict(hospital='A', eye='left')

def form(files, tags=None):
    "(multipart body, its type)"
    b = uuid.uuid4().hex
    parts = [('file"; filename="eye.jpg', f) for f in files] + [('tags', json.dumps(tags or TAGS).encode())]
    body = b''.join(f'--{b}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n'.encode() + d + b'\r\n' for n, d in parts)
    return body + f'--{b}--\r\n'.encode(), f'multipart/form-data; boundary={b}'

class Served:
    "`retina_serve` in a process of its own"
    def __init__(self, bundle, db, *options):
        script = Path(f'{db}.py') # as it is typed, whether or not it was installed
        script.write_text('from retina_nb.serve import retina_serve\nretina_serve()\n')
        self.log = open(f'{db}.log', 'w+b')
        self.process = subprocess.Popen([sys.executable, str(script), str(bundle), '--db', str(db), '--port', '0', *options],
                                        stdout=subprocess.PIPE, stderr=self.log, stdin=subprocess.DEVNULL, text=True)
        self.db, said = db, self.process.stdout.readline()
        self.port = int(re.search(r':(\d+)', said)[1])
        while self.ask(self.connect(), 'GET', '/v1/health/ready')[0] != 200: time.sleep(.05)
    def connect(self): return http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
    def ask(self, conn, method, path, body=None, kind='application/json'):
        conn.request(method, path, body, {'Content-Type': kind})
        r = conn.getresponse()
        return r.status, r.read()
    def send(self, bodies, clients=CLIENTS):
        "Send each of some bodies under a new key, by so many clients at once; seconds that each took"
        turn, took = iter(bodies), []
        def _client():
            conn = self.connect()
            while (b := next(turn, None)) is not None:
                t = time.perf_counter()
                status, said = self.ask(conn, 'PUT', f'/v1/gradings/{uuid.uuid4().hex}', *b)
                if status != 200: raise RuntimeError(f'{status}: {said[:200]}')
                took.append(time.perf_counter() - t)
            conn.close()
        threads = [threading.Thread(target=_client) for _ in range(clients)]
        for t in threads: t.start()
        for t in threads: t.join()
        if len(took) != len(bodies): raise RuntimeError(f'{len(bodies)} sent, {len(took)} answered')
        return took
    def memory(self):
        "Megabytes in memory now"
        return next(int(l.split()[1])/1024 for l in open(f'/proc/{self.process.pid}/status') if l.startswith('VmRSS'))
    def __enter__(self): return self
    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.process.stdout.close(); self.log.close()

def grouped(data, n):
    "Bodies of `n` photographs each"
    return [form(data[i:i+n]) for i in range(0, len(data), n)]

def at_once(served, bodies):
    "Seconds that `/v1/health/live` took, asked every 10 ms while photographs are sent"
    took, over = [], threading.Event()
    def _ask():
        conn = served.connect()
        while not over.is_set():
            took.append(seconds(lambda: served.ask(conn, 'GET', '/v1/health/live')))
            time.sleep(.01)
        conn.close()
    watcher = threading.Thread(target=_ask)
    watcher.start()
    try: served.send(bodies)
    finally:
        over.set()
        watcher.join()
    return took

def by_locust(served, span, d):
    "What locust measures with four users at once; share of the cores that locust took itself"
    prefix, cmd = d/'locust', [sys.executable, '-m', 'locust', '-f', str(Path(__file__).with_name('locustfile.py')), '--headless', '-u', '4', '-r', '4']
    cmd += ['-t', f'{span}s', '--host', f'http://127.0.0.1:{served.port}', '--csv', str(prefix), '--only-summary']
    r = subprocess.run(cmd, capture_output=True, text=True, cwd=Path(__file__).parent)
    if not Path(f'{prefix}_stats.csv').exists(): raise RuntimeError(r.stderr[-1000:])
    all_ = next(o for o in csv.DictReader(open(f'{prefix}_stats.csv')) if o['Name'] == 'Aggregated')
    own = json.loads(Path(f'{prefix}_client.json').read_text())
    return dict(requests=int(all_['Request Count']), failures=int(all_['Failure Count']), p50=float(all_['50%']), p95=float(all_['95%']),
                p99=float(all_['99%']), per_second=float(all_['Requests/s']), client=own['cpu']/own['seconds']/cores())

def cores(): return len(os.sched_getaffinity(0))

def bound(what, value, goal, unit, **more):
    "A row without a baseline, for a figure that has to stay below its goal"
    return dict(what=what, unit=unit, ours=value, goal=goal, reached=value <= goal, load=os.getloadavg(), **more)

def against(name, served, files, grader, repeats):
    "Images a second through the service, and bare"
    data = [f.read_bytes() for f in files]
    def many(): return list(grader.grade_many(files))
    for n in (1, 4):
        bodies, what = grouped(data, n), 'one photograph' if n == 1 else f'{n} photographs'
        row = compare(f'{name}: {what} a request, against Grader.grade_many', lambda: served.send(bodies), many, items=len(files), unit='images/s', goal=.85, repeats=repeats)
        yield row | dict(load=os.getloadavg())

def spent(pid):
    "Seconds of processor time that a process has taken"
    f = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(f[11]) + int(f[12]))/os.sysconf('SC_CLK_TCK')

def by_processor(name, served, files, grader, repeats):
    "Processor time a photograph, the client's own included: says less of waiting, and nothing of who else is at work"
    data, ours, bare = [f.read_bytes() for f in files], {1: [], 4: []}, []
    for _ in range(repeats):
        bare.append(seconds(lambda: list(grader.grade_many(files)), time.process_time))
        for n, took in ours.items():
            before = spent(served.process.pid)
            client = seconds(lambda: served.send(grouped(data, n)), time.process_time)
            took.append(client + spent(served.process.pid) - before)
    for n, took in ours.items():
        ratios, ms = [b/a for a, b in zip(took, bare)], 1e3/len(files)
        yield dict(what=f'{name}: {n} a request, processor time of grade_many to that of service and client', unit='ms a photograph',
                   ours=ms*float(np.median(took)), baseline=ms*float(np.median(bare)), ratio=float(np.median(ratios)), ratio_range=[min(ratios), max(ratios)],
                   goal=.85, reached=bool(np.median(ratios) >= .85), load=os.getloadavg())

def eyes(d, n=10):
    "Photographs as taken (IDRiD, 12 megapixels), found through RETINA_NB_DATA; without it synthetic eyes of 10 megapixels; and what they are"
    real = sorted(Path(os.environ['RETINA_NB_DATA']).glob('idrid-fullsize/*.jpg'))[:n] if os.environ.get('RETINA_NB_DATA') else []
    if real: return real, 'IDRiD, 4288 x 2848'
    from soak import pictures
    d.mkdir()
    for i, p in enumerate(pictures(n, least=10, most=10)): (d/f'{i}.jpg').write_bytes(p)
    return sorted(d.iterdir()), 'synthetic, 10 megapixels'

def sure(grader, files):
    "The probability up to which the model is not sure of a tenth of some photographs"
    return float(np.quantile([g.confidence for g in grader.grade_many(files, grade_anyway=True)], .1))

def bench(quick):
    repeats, n = (3, 24) if quick else (7, 120)
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        files, which = eyes(d/'eyes')
        fp32 = export(run_folder(d/'run'), d/'fp32')
        for bundle in (fp32, int8_bundle(fp32, d/'int8', files)):
            grader = Grader(bundle)
            kind = bundle.name if bundle.name != 'int8' or grader.precision == 'int8' else 'int8, run as fp32'
            with Served(bundle, d/f'store_{bundle.name}', '--low_confidence', f'{sure(grader, files):.6f}') as served:
                yield from against(f'{kind}, {which}', served, (files*n)[:n], grader, repeats)
                yield from by_processor(f'{kind}, {which}', served, (files*n)[:n], grader, repeats)
                if bundle is not fp32: continue
                took = 1e3*np.array(at_once(served, grouped([f.read_bytes() for f in files]*(2 if quick else 10), 1)))
                for q in (95, 99): yield bound(f'health under load, {q}th percentile', float(np.percentile(took, q)), 100, 'ms')
                got = by_locust(served, 20 if quick else 60, d)
                yield bound('locust, 4 users at once, 95th percentile', got['p95'], 1000, 'ms', locust=got)
                yield bound('locust, requests that failed', got['failures'], 0, 'requests')
                yield dict(what="locust's own share of the cores", unit='share', ours=got['client'])
                yield dict(what='memory of the service after all this', unit='MB', ours=served.memory())

"""The service: photographs a second through `retina_serve` in a process of its own, sent by four clients on the same cores, against bare `Grader.grade_many` on the same files. Each photograph under a key of its own, every answer stored (SQLite) before it is told, photographs not kept. ResNet-18 at 224 px with random weights: only time and memory are measured"""
import functools, http.client, itertools, json, os, re, signal, subprocess, sys, tempfile, threading, time, uuid
from pathlib import Path

import numpy as np

from bench_grader import int8_bundle, photographs, run_folder
from retina_nb.deploy import Grader, export
from retina_nb.serve import Store
from timing import compare

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

def health(served, bodies):
    "Milliseconds until /v1/health/live answers, asked every 10 ms while photographs are sent"
    took, over = [], threading.Event()
    def _ask():
        conn = served.connect()
        while not over.is_set():
            t = time.perf_counter()
            served.ask(conn, 'GET', '/v1/health/live')
            took.append(1e3*(time.perf_counter() - t))
            time.sleep(.01)
    watcher = threading.Thread(target=_ask)
    watcher.start()
    try: served.send(bodies)
    finally:
        over.set()
        watcher.join()
    return took

def rows(name, bundle, files, repeats, d):
    "What one model gives, on one set of photographs"
    data, grader = [f.read_bytes() for f in files], Grader(bundle)
    many = lambda: list(grader.grade_many(files))
    with Served(bundle, d/f'store_{name[:4]}') as served:
        for n in (1, 4):
            bodies, what = grouped(data, n), 'one a request' if n == 1 else f'{n} a request'
            yield compare(f'{name}, {what}, against Grader.grade_many', lambda: served.send(bodies), many, items=len(files), unit='images/s', goal=.85, repeats=repeats)

def bench(quick):
    repeats = 3 if quick else 7
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        kind, (files, _) = next(iter(photographs(d).items()))
        files = (files*100)[:24 if quick else 96]
        fp32 = export(run_folder(d/'run'), d/'fp32')
        yield from rows(f'fp32, {kind}', fp32, files, repeats, d)
        yield from rows(f'int8, {kind}', int8_bundle(fp32, d/'int8', files), files, repeats, d)

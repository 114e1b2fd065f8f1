"A service in a process of its own, as `retina_serve` starts it, and a client that needs nothing but sockets"
import http.client, io, json, re, signal, socket, subprocess, sys, threading, time, uuid
from pathlib import Path

from PIL import Image

def picture(i=0, size=160, kind='JPEG'):
    "A synthetic eye as a file"
    from retina_nb.synth.render import synth_eye
    f = io.BytesIO()
    Image.fromarray(synth_eye(i, grade=i%5, size=size).image).save(f, kind)
    return f.getvalue()

def large(megapixels=10, seed=0):
    "A large photograph, enlarged from a small one"
    w = round((megapixels*1e6)**.5)
    im = Image.open(io.BytesIO(picture(seed))).resize((w, w))
    f = io.BytesIO()
    im.save(f, 'JPEG', quality=90)
    return f.getvalue()

def form(files, tags=None, more=()):
    "(multipart body, its type)"
    b = uuid.uuid4().hex
    parts = [('file"; filename="Mrs Example.jpg', f) for f in files] + list(more)
    if tags is not None: parts.append(('tags', json.dumps(tags).encode()))
    body = b''.join(f'--{b}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n'.encode() + d + b'\r\n' for n, d in parts)
    return body + f'--{b}--\r\n'.encode(), f'multipart/form-data; boundary={b}'

class Reply:
    def __init__(self, r):
        self.status, self.headers, self.body = r.status, r.headers, r.read()
    @property
    def json(self): return json.loads(self.body)
    @property
    def error(self): return self.json['error']

class Client:
    def __init__(self, port, key=None): self.port, self.key = port, key
    def __call__(self, method, path, body=None, kind='application/json', timeout=60, **headers):
        conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        h = {'Content-Type': kind} | ({'Authorization': f'Bearer {self.key}'} if self.key else {})
        try:
            conn.request(method, path, json.dumps(body) if isinstance(body, (dict, list)) else body,
                         h | {k.replace('_', '-'): v for k, v in headers.items()})
            return Reply(conn.getresponse())
        finally: conn.close()
    def grade(self, files, tags=None, key=None, query='', **headers):
        body, kind = form([files] if isinstance(files, bytes) else files, tags)
        where = f'/v1/gradings/{key}' if key else '/v1/gradings'
        return self('PUT' if key else 'POST', where + query, body, kind, **headers)
    def raw(self, data, seconds=2):
        "What comes back for some bytes; the connection may be closed early"
        with socket.create_connection(('127.0.0.1', self.port), timeout=seconds) as s:
            out = b''
            try:
                s.sendall(data)
                while got := s.recv(65536): out += got
            except (ConnectionError, TimeoutError): pass
            return out

class Process:
    "`serve(bundle, db, ...)` in a process; lines of its journal in `lines()`"
    def __init__(self, folder, bundle, db, **kwargs):
        self.folder = Path(folder)
        said = ', '.join(f'{k}={v}' for k, v in kwargs.items())
        code = ('from retina_nb.serve import Entry, Limits, Notify, serve, trace_to\n'
                f'serve({str(bundle)!r}, {str(db)!r}, port=0, {said})\n')
        self.log = open(self.folder/f'log{time.monotonic_ns()}', 'w+b')
        self.proc = subprocess.Popen([sys.executable, '-c', code], cwd=self.folder, stdout=subprocess.PIPE, stderr=self.log,
                                     stdin=subprocess.DEVNULL, text=True)
        self.told = self.proc.stdout.readline()
        m = re.search(r'http://[\d.]+:(\d+)', self.told)
        assert m, self.text()
        self.ask = Client(int(m[1]))
    def ready(self, seconds=60):
        end = time.time() + seconds
        while (r := self.ask('GET', '/v1/health/ready')).status != 200:
            assert r.status == 503 and time.time() < end, r.body
            time.sleep(.05)
        return self
    def text(self):
        self.log.seek(0)
        return self.log.read().decode()
    def lines(self):
        "What it tells of itself; what a decoder in C prints of a damaged picture is left out"
        return [json.loads(l) for l in self.text().splitlines() if l.startswith('{')]
    def kill(self):
        self.proc.kill()
        self.proc.wait()
    def stop(self, how=signal.SIGTERM):
        if self.proc.poll() is None: self.proc.send_signal(how)
        self.proc.stdout.close()
        return self.proc.wait(60)
    def __enter__(self): return self
    def __exit__(self, *_):
        self.stop()
        self.log.close()

def together(n, f):
    "Call f(i) in `n` threads at once; what each gave, or its error"
    out = [None]*n
    def _one(i):
        try: out[i] = f(i)
        except Exception as e: out[i] = e
    ts = [threading.Thread(target=_one, args=(i,)) for i in range(n)]
    for t in ts: t.start()
    for t in ts: t.join()
    return out

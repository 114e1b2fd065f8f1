"A service under attack and under load: bodies of every kind, addresses and headers, bombs, floods, a process that is killed"
import collections, gzip, json, random, re, socket, statistics, struct, threading, time, zlib

import psutil, pytest, schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from retina_nb.serve import Store
from clients import Client, Process, form, large, picture, together
from strangers import KINDS, WHO, http, replies

@pytest.fixture(scope='module')
def room(bundle, tmp_path_factory):
    "A service with narrow limits; (process, its folder)"
    d = tmp_path_factory.mktemp('room')
    with Process(d, bundle, d/'store', keep_images=repr(str(d/'store/pictures')), names='("clinic.example",)',
                 limits='Limits(body_mb=4, files=3, in_flight=4, pixels=20_000_000, seconds=3)') as p:
        yield p.ready(), d

@pytest.fixture
def ask(room):
    yield room[0].ask
    assert room[0].ask('GET', '/v1/health/live').status == 200
    bad = [l for l in room[0].lines() if l['event'] in ('fault', 'trouble')]
    assert not bad, bad

# --- limits
def test_a_body_is_too_large(ask):
    for n in (5*2**20, 40*2**20):
        r = ask.grade(b'a'*n)
        assert r.status == 413 and '4 MB' in r.error
    r = ask('POST', '/v1/gradings', iter([b'a'*2**20]*8), form([b''])[1]) # in pieces, without a length
    assert r.status == 413 and list(r.json) == ['error']
    assert ask('POST', '/v1/reviews/lease', b' '*2**21).status == 413
    assert ask.grade([picture(0)]*4).status == 400 # more files than are taken
    assert ask.grade([picture(0)]*3).status == 200

def test_packed_bodies(ask):
    body, kind = form([picture(1)])
    assert ask('POST', '/v1/gradings', gzip.compress(body), kind, Content_Encoding='gzip').status == 200
    bomb = gzip.compress(bytes(2**29), 9)
    start = time.time()
    r = ask('POST', '/v1/gradings', bomb, kind, Content_Encoding='gzip')
    assert r.status == 413 and time.time() - start < 3
    for data, coding, status in [(gzip.compress(body)[:-9], 'gzip', 400), (body, 'gzip', 400), (body, 'br', 415),
                                 (gzip.compress(body)*2, 'gzip', 400), (body, 'gzip, gzip', 415)]:
        assert ask('POST', '/v1/gradings', data, kind, Content_Encoding=coding).status == status

def _bomb(w, h):
    "A PNG of some kilobytes that says it has w x h pixels"
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    head = struct.pack('>IIBBBBB', w, h, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(bytes(min((w//8 + 1)*h, 10**7)))) + chunk(b'IEND', b'')

def test_too_many_pixels(ask):
    start = time.time()
    assert ask.grade(_bomb(6000, 6000)).status == 413
    for size in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (0, 0)): assert ask.grade(_bomb(*size)).status in (413, 422), size
    assert time.time() - start < 10

def test_a_flood_and_health_meanwhile(ask):
    "More at a time than are taken: some are told to come again, and health is answered at once"
    eye, slow = large(8), []
    def _one(i):
        if i < 12: return ask.grade(eye)
        for _ in range(10):
            start = time.time()
            assert ask('GET', '/v1/health/live').status == 200
            slow.append(time.time() - start)
            time.sleep(.05)
    rs = together(13, _one)
    assert rs[12] is None, rs[12]
    seen = [r.status for r in rs[:12]]
    assert set(seen) == {200, 429} and seen.count(200) >= 4
    assert all(r.headers['retry-after'] == '1' and 'busy' in r.error for r in rs[:12] if r.status == 429)
    assert sorted(slow)[len(slow)//2] < .25 and max(slow) < 2, slow

def test_who_sends_slowly_is_not_waited_for(ask, room):
    start = time.time()
    with socket.create_connection(('127.0.0.1', ask.port), timeout=15) as s:
        s.sendall(b'POST /v1/gradings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 9999\r\n\r\n--b')
        said = s.recv(65536)
    assert b'408' in said.split(b'\r\n')[0] and time.time() - start < 12

# --- addresses and headers
PLACES = ['../../etc/passwd', '..%2f..%2fetc%2fpasswd', '%2e%2e/%2e%2e/etc/passwd', '....//....//etc/passwd', '/etc/passwd', '%00', 'a%00b', '%c0%ae%c0%ae/',
          '..\\..\\windows', 'C:%5Cwindows', 'file:///etc/passwd', '%252e%252e%252fetc', '~root', '$(id)', "';drop table image;--", '%0d%0aX-Evil:1',
          '{7*7}', '<script>', 'a'*500, '\u202e'.encode().decode('latin-1'), '.', '..', '%ff%fe', '*', '|id']

def test_addresses_lead_nowhere_else(ask, room):
    before = set(room[1].rglob('*'))
    for place in PLACES:
        for path in (f'/v1/gradings/{place}', f'/v1/reviews/{place}/picture', f'/{place}', f'/v1/gradings/{place}/history', f'/docs/{place}'):
            said = ask.raw(f'GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n'.encode('latin-1'))
            status = int(said.split()[1])
            assert 400 <= status < 500 and b'root:' not in said and b'X-Evil' not in said.split(b'\r\n\r\n')[0], (path, said[:200])
            assert not re.search(rb'Traceback|/usr/|site-packages', said), path
    eye, kind = form([picture(2)])
    for place in PLACES: # as keys and as names of files
        head = f'PUT /v1/gradings/{place} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {len(eye)}\r\n\r\n'
        assert int(ask.raw(head.encode('latin-1') + eye).split()[1]) in (200, 400, 404, 405, 409, 414, 422), place
        body, kind2 = form([], more=[(f'file"; filename="{place}', picture(3))])
        assert ask('POST', '/v1/gradings', body, kind2).status in (200, 400)
    new = set(room[1].rglob('*')) - before
    assert all((room[1]/'store') in p.parents for p in new), new

def test_headers(ask, room):
    p = room[0]
    for host, status in [('evil.example', 403), ('127.0.0.1.evil.example', 403), ('clinic.example', 200), ('localhost:1', 200), ('[::1]', 200), ('', 403)]:
        said = ask.raw(f'GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n'.encode())
        assert int(said.split()[1]) == status, host
    for name, value in [('Origin', 'https://evil.example'), ('Origin', 'null'), ('Origin', 'http://['), ('Sec-Fetch-Site', 'cross-site'),
                        ('X-Forwarded-For', '10.0.0.7'), ('Forwarded', 'for=10.0.0.7'), ('Authorization', 'Bearer rnb_x')]:
        r = ask('GET', '/v1/models', **{name: value})
        assert r.status in (401, 403) and r.headers['access-control-allow-origin'] is None, name
    assert ask('GET', '/v1/models', Cookie='a'*20_000).status == 431
    assert ask('GET', '/v1/models?' + 'a'*3000).status == 414
    assert b' 400 ' in ask.raw(b'GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ' + b'a'*10**6).split(b'\r\n')[0]
    for evil in (b'X-A: b\nX-B: c\r\n', b'X\x00: 1\r\n', b': 1\r\n', b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', b'Content-Length: -1\r\n',
                 b'Content-Length: 1\r\nContent-Length: 2\r\n', b'Host: evil.example\r\n'):
        said = ask.raw(b'POST /v1/reviews/lease HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n' + evil + b'\r\n{}')
        assert said == b'' or int(said.split()[1]) >= 400, evil
    assert 'evil' not in p.text()
    r = ask('OPTIONS', '/v1/models', Origin='https://evil.example', Access_Control_Request_Method='GET')
    assert r.status == 403 and r.headers['access-control-allow-origin'] is None

def test_a_named_site_may_ask(bundle, tmp_path):
    with Process(tmp_path, bundle, tmp_path/'s', origins='("https://clinic.example",)') as p:
        r = p.ready().ask('GET', '/v1/models', Origin='https://clinic.example')
        assert r.status == 200 and r.headers['access-control-allow-origin'] == 'https://clinic.example'
        r = p.ask('OPTIONS', '/v1/gradings', Origin='https://clinic.example', Access_Control_Request_Method='POST')
        assert r.status == 200 and 'POST' in r.headers['access-control-allow-methods']
        r = p.ask('GET', '/v1/models', Origin='https://evil.example')
        assert r.status == 403 and r.headers['access-control-allow-origin'] is None

# --- bodies of every kind
def _sent(port, data):
    "What comes back for some bytes; where nothing does, the client closes its side and listens on"
    out = b''
    with socket.create_connection(('127.0.0.1', port), timeout=.4) as s:
        try:
            s.sendall(data)
            try:
                while got := s.recv(65536): out += got
            except TimeoutError:
                s.settimeout(10)
                s.shutdown(socket.SHUT_WR)
                while got := s.recv(65536): out += got
        except ConnectionError: pass # it does not want to hear more
    return replies(out)

class Watcher:
    "Asks for the health again and again; how long that took"
    def __init__(self, ask): self.ask, self.took, self.over = ask, [], threading.Event()
    def _look(self):
        while not self.over.wait(.05):
            start = time.perf_counter()
            assert self.ask('GET', '/v1/health/live').status == 200
            self.took.append(time.perf_counter() - start)
    def __enter__(self):
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self
    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

def _documented(ask):
    "Called with the first line of a request: the statuses that the description names for it"
    paths = [(re.sub(r'\{\w+\}', '[^/]+', p), ms) for p, ms in ask('GET', '/openapi.json').json['paths'].items()]
    def _of(data):
        method, path = (data.split(b' ', 2) + [b'', b''])[:2]
        fit = [ms for p, ms in paths if re.fullmatch(p, path.decode('latin-1').partition('?')[0])]
        known = set().union(*(ms.get(method.decode('latin-1').lower(), {}).get('responses', {}) for ms in fit))
        return known | ({'405'} if fit else {'404', '405', '200'}) | {'400', '401', '403', '414', '431'} # those of every address
    return _of

@pytest.mark.parametrize('n', [pytest.param(299, id='299'), pytest.param(10_000, id='10000', marks=pytest.mark.full)])
def test_what_strangers_send(ask, room, n):
    "Each is answered with a status that the description names and a sentence, in bounded memory, while the health is answered; no word of theirs gets into the log"
    p, rng, ids = room[0], random.Random(91), [ask.grade(picture(0, 64)).json['id'], 'ab'*12]
    process, documented, statuses, files = psutil.Process(p.proc.pid), _documented(ask), collections.Counter(), set(room[1].parent.rglob('*'))
    before, most = process.memory_info().rss, 0
    with Watcher(ask) as health:
        for i in range(n):
            data = KINDS[i % len(KINDS)](rng, ids)
            for status, headers, body in _sent(ask.port, data):
                what = i, KINDS[i % len(KINDS)].__name__, status, body[:200], data[:300]
                statuses[status] += 1
                assert str(status) in documented(data) and status != 500, what
                if status >= 400 and not data.startswith(b'HEAD'):
                    assert headers['content-type'] == 'application/json' and list(json.loads(body)) == ['error'], what
                assert 'x-evil' not in headers and headers['x-content-type-options'] == 'nosniff', what
            most = max(most, process.memory_info().rss)
    assert len(statuses) >= 9, statuses # all of it is tried
    assert statistics.median(health.took) < .1, sorted(health.took)[-5:]
    assert most - before < 2**30, f'{(most - before) >> 20} MB more'
    text = p.text()
    assert [l for l in text.splitlines() if not l.startswith('{')] == [] and 'Traceback' not in text
    assert {json.loads(l)['event'] for l in text.splitlines()} <= {'ready', 'request', 'server'}
    assert not [w for w in WHO if w in text]
    assert all(room[1]/'store' in f.parents for f in set(room[1].parent.rglob('*')) - files)

def test_no_second_request_is_hidden_in_a_first(ask):
    "Two readings of where a body ends: the second request is answered only where both agree"
    hidden = http('GET', '/v1/health/live')
    inner = b'0\r\n\r\n' + hidden
    for heads in ((f'Content-Length: {len(inner)}', 'Transfer-Encoding: chunked'), ('Transfer-Encoding: chunked', 'Content-Length: 4'), ('Transfer-Encoding: chunked', 'Transfer-Encoding: x'),
                  ('Transfer-Encoding : chunked', f'Content-Length: {len(inner)}'), ('Content-Length: 5', 'Content-Length: 6'), ('Content-Length: 5, 6',), ('Transfer-Encoding: xchunked',)):
        for method in ('GET', 'POST'):
            rs = _sent(ask.port, http(method, '/v1/reviews/lease', inner, 'Content-Type: application/json', *heads, length=False, close=False))
            assert [r[0] for r in rs] == [400], (heads, rs)
    two = http('GET', '/v1/health/live', close=False) + hidden # and where nothing is hidden, both are
    assert [r[0] for r in _sent(ask.port, two)] == [200, 200]

def test_a_client_that_closes_its_side_gets_its_answer(ask):
    body, kind = form([picture(4)])
    with socket.create_connection(('127.0.0.1', ask.port), timeout=10) as s:
        s.sendall(http('PUT', '/v1/gradings/half', body, f'Content-Type: {kind}', close=False))
        s.shutdown(socket.SHUT_WR)
        out = b''
        while got := s.recv(65536): out += got
    assert replies(out)[0][0] == 200

# --- the description
@pytest.fixture(scope='module')
def keyed(bundle, tmp_path_factory):
    "(a service with a key for each role, the keys by role)"
    d = tmp_path_factory.mktemp('keyed')
    with Store(d/'s') as s: keys = {role: s.add_key(role, role) for role in ('reader', 'grader', 'reviewer', 'admin')}
    with Process(d, bundle, d/'s', low_confidence='1.', limits='Limits(body_mb=4)') as p: yield p.ready(), keys

def _breaches(port, key, **config):
    "(what of the description does not hold, how many requests were tried)"
    headers = {'Authorization': f'Bearer {key}'}
    checks = dict(positive_data_acceptance=dict(enabled=False), # no random file is a photograph
                  allow_header_conformance=dict(enabled=False)) # two descriptions share an address: PUT with a key, GET with an id
    config = SchemathesisConfig.from_dict({'seed': 16, 'headers': headers, 'checks': checks, 'suppress-health-check': ['all'], 'continue-on-failure': True, 'request-timeout': 20, **config})
    schema, found, n = schemathesis.openapi.from_url(f'http://127.0.0.1:{port}/openapi.json', config=config, headers=headers), [], 0
    for e in from_schema(schema).execute():
        if isinstance(e, (events.NonFatalError, events.FatalError)): found.append(str(getattr(e, 'value', None) or e.exception))
        if isinstance(e, events.ScenarioFinished):
            n += len(e.recorder.interactions)
            for checks in e.recorder.checks.values():
                found += [(c.name, c.failure_info.failure.message[:300], c.failure_info.code_sample[:300]) for c in checks if c.failure_info]
    return found, n

FEW = dict(generation={'max-examples': 2, 'database': 'none'}, phases=dict(examples=dict(enabled=False), coverage=dict(enabled=False), stateful=dict(enabled=False)))
MANY = dict(generation={'max-examples': 40, 'database': 'none'})

@pytest.mark.parametrize('role, how', [pytest.param('admin', FEW, id='few'), *(pytest.param(r, MANY, id=f'many-{r}', marks=pytest.mark.full) for r in ('reader', 'grader', 'reviewer', 'admin'))])
def test_the_description_holds(keyed, role, how):
    "schemathesis: no fault, no status, type or form that the description does not name, nothing taken that it forbids, no way in without a key"
    p, keys = keyed
    found, n = _breaches(p.ask.port, keys[role], **how)
    assert found == [] and n > 40
    assert not [l for l in p.lines() if l['event'] in ('fault', 'trouble', 'stray')]

def test_methods_that_an_address_does_not_take(keyed):
    p, keys = keyed
    ask = Client(p.ask.port, keys['admin'])
    for path, ms in ask('GET', '/openapi.json').json['paths'].items():
        for method in {'GET', 'PUT', 'POST', 'DELETE', 'PATCH', 'TRACE', 'PROPFIND'} - {m.upper() for m in ms}:
            r = ask(method, path.replace('{id}', 'ab'*12), X_HTTP_Method_Override='GET', X_Method_Override='GET')
            if path in ('/v1/gradings/{id}', '/v1/gradings/{key}'): assert r.status in (404, 405, 415) # they share an address
            else: assert r.status == 405 and r.headers['allow'] and list(r.json) == ['error'], (method, path, r.status)

def test_a_key_tells_nothing_and_wrong_ones_are_counted(keyed):
    "Never there, taken back, or right but for its end: the same answer; many of them are slowed, and right ones are not"
    p, keys = keyed
    with Store(p.folder/'s') as s:
        gone = s.add_key('gone')
        s.revoke_key('gone')
    def _plain(r): return r.status, r.body, *sorted((k.lower(), v) for k, v in r.headers.items() if k.lower() not in ('date', 'x-request-id', 'connection'))
    said = [Client(p.ask.port, k)(method, path) for k in (gone, 'rnb_' + '0'*12 + '_' + 'a'*43, keys['admin'][:-1] + '~', keys['admin'] + ' ' + keys['admin'])
            for method, path in (('GET', '/v1/models'), ('GET', '/v1/nothing'), ('DELETE', '/v1/models'))]
    assert len({_plain(r) for r in said}) == 1 and said[0].status == 401 and len(said) == 12
    start = time.perf_counter()
    assert Client(p.ask.port, keys['reader'])('GET', '/v1/models').status == 200
    right = time.perf_counter() - start
    start = time.perf_counter()
    assert Client(p.ask.port, 'x')('GET', '/v1/models').status == 401
    assert right < .4 < time.perf_counter() - start
    noticed = [l for l in p.lines() if l['event'] == 'wrong keys']
    assert [l['count'] for l in noticed] == [10] and noticed[0]['address'] == '127.0.0.1'
    assert b'retina_wrong_keys_total 13.0' in Client(p.ask.port, keys['reader'])('GET', '/metrics').body

def test_whoever_was_passed_on_is_no_neighbour(ask):
    "Without keys, a proxy on this machine lets nobody in, whatever it or its client writes"
    for name in ('X-Forwarded-For', 'X-Forwarded-Host', 'X-Forwarded-Proto', 'X-Real-IP', 'X-Client-IP', 'True-Client-IP', 'CF-Connecting-IP', 'Forwarded', 'Via', 'X-Original-Forwarded-For', 'Fastly-Client-IP', 'X-Envoy-External-Address'):
        for said in ('127.0.0.1', '::1', 'for=127.0.0.1', 'localhost', ''):
            assert ask('GET', '/v1/models', **{name: said}).status == 401, (name, said)
    for said in ('127.0.0.1', 'evil.example'):
        assert _sent(ask.port, http('GET', '/v1/models', b'', f'X-Forwarded-Host: {said}', host='evil.example'))[0][0] == 403
    assert _sent(ask.port, http('GET', 'http://127.0.0.1/v1/models', host='evil.example'))[0][0] == 403 # DNS rebinding
    assert _sent(ask.port, http('GET', 'http://evil.example/v1/models'))[0][0] in (200, 403, 404)

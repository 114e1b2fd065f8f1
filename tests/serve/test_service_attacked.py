"A service under attack and under load: bodies of every kind, addresses and headers, bombs, floods, a process that is killed"
import gzip, json, random, re, shutil, socket, struct, time, zlib

import pytest

from retina_nb.serve import Store
from random_model import shared
from clients import Process, form, large, picture, together

@pytest.fixture(scope='module')
def bundle(tmp_path_factory): return shutil.copytree(shared()[1], tmp_path_factory.mktemp('b')/'model')

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
def _mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        i, n = rng.randrange(len(data) + 1), rng.choice((0, 1, 2, 16, 200))
        data[i:i+n] = rng.choice((b'', rng.randbytes(rng.choice((1, 4, 64))), b'\r\n--', b'"', b'\0', data[:n]))
    return bytes(data)

def _value(rng, depth=0):
    plain = [None, True, -1, 0, 2, 10**400, 1.5, float('nan'), float('inf'), '', 'agree', 'correct', 'Anna', '\ud800', '\0', 'a'*5000, '../x', "'"]
    if depth > 3 or rng.random() < .7: return rng.choice(plain)
    if rng.random() < .5: return [_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(('verdict', 'grade', 'who', 'a', '')): _value(rng, depth + 1) for _ in range(rng.randint(0, 3))}

def _bad_request(rng, ids):
    "(path, body, type, headers): a request of which something is wrong, or nearly so"
    what = rng.random()
    if what < .35: # a photograph or its form, damaged
        body, kind = form([_mutated(rng, picture(0, 64)) if rng.random() < .5 else picture(0, 64)], {'a': 1})
        return '/v1/gradings', body if rng.random() < .4 else _mutated(rng, body), kind, {}
    if what < .55: # tags
        tags = json.dumps(_value(rng)).encode() if rng.random() < .7 else rng.choice((b'{"a":'*9999, b'\xff', b'NaN', b'{"patient": "\\u0000"}'))
        body, kind = form([picture(0, 64)], more=[('tags', tags)])
        return '/v1/gradings', body, kind, {}
    if what < .9: # JSON
        path = rng.choice((f'/v1/gradings/{ids[0]}/feedback', '/v1/reviews/lease', f'/v1/reviews/{ids[1]}/finish', '/v1/deployments', f'/v1/alerts/{ids[1]}/seen'))
        keys = ('verdict', 'grade', 'reason', 'who', 'minutes', 'note', 'bundle', 'alias')
        body = json.dumps({k: _value(rng) for k in rng.sample(keys, rng.randint(0, 4))}).encode()
        return path, body if rng.random() < .8 else _mutated(rng, body), rng.choice(('application/json', 'text/plain', '')), {}
    kind = rng.choice(('multipart/form-data', 'multipart/form-data; boundary="', 'multipart/form-data; boundary=' + 'b'*300, 'application/json', 'image/jpeg'))
    return '/v1/gradings', rng.randbytes(rng.randint(0, 3000)), kind, rng.choice(({}, dict(Content_Encoding='gzip'), dict(Idempotency_Key='a'*300)))

@pytest.mark.parametrize('n', [pytest.param(300, id='300'), pytest.param(10_000, id='10000', marks=pytest.mark.full)])
def test_bad_bodies(ask, n):
    "Every one is answered, with a status that the description names, and no traceback"
    rng, doc = random.Random(91), ask('GET', '/openapi.json').json['paths']
    ids = [ask.grade(picture(0, 64)).json['id'], 'ab'*12]
    known = {re.sub(r'\{\w+\}', '[^/]+', p): set(ms['post']['responses']) for p, ms in doc.items() if 'post' in ms}
    for i in range(n):
        path, body, kind, headers = _bad_request(rng, ids)
        r = ask('POST', path, body, kind, **headers)
        assert r.status != 500 and (r.status == 200 or list(r.json) == ['error']), (i, path, r.status, r.body[:300])
        documented = next(s for p, s in known.items() if re.fullmatch(p, path))
        assert str(r.status) in documented, (i, path, r.status, r.body[:200])

# --- killed
@pytest.mark.parametrize('kills', [pytest.param(2, id='2'), pytest.param(40, id='40', marks=pytest.mark.full)])
def test_killed(bundle, tmp_path, kills):
    "What a client was told is there; what it was not told, it asks again, and there is one row"
    rng, told, tried = random.Random(3), {}, set()
    eyes = [picture(i, 96) for i in range(4)]
    for run in range(kills):
        p = Process(tmp_path, bundle, tmp_path/'s', low_confidence='1.').ready()
        def _client(i):
            for n in range(500):
                key = f'{run}-{i}-{n}'
                tried.add(key)
                told[key] = p.ask.grade(eyes[i], key=key).json
        def _one(i):
            if i < 4: return _client(i)
            time.sleep(.3 + rng.random())
            p.kill()
        together(5, _one)
    with Process(tmp_path, bundle, tmp_path/'s', low_confidence='1.') as q:
        q.ready()
        for key in sorted(told)[:40]: assert q.ask.grade(eyes[int(key.split('-')[1])], key=key).json == told[key]
        lost = sorted(tried - set(told))
        for key in lost: assert q.ask.grade(eyes[int(key.split('-')[1])], key=key).status == 200
    with Store(tmp_path/'s') as s:
        keys = [s.answer(o.id).key for o, _ in s.answers()]
        assert len(keys) == len(set(keys)) == len(tried) and set(keys) == tried and s.check() == []
        assert len(s.reviews()) == len(tried) # and nobody who should be seen by a person is forgotten
    assert told and lost

"Places as users and networks treat them: a real object store, a web server that cuts, points elsewhere or lies, and what is wrong with settings"
import contextlib, datetime, http.server, os, pickle, ssl, subprocess, sys, threading, time, tracemalloc

import pytest

from retina_nb.core import SettingError
from retina_nb.storage import StorageError, place_at, read_start, read_url, url_info, url_infos
from stores import KEYS

SECRET = KEYS['AWS_SECRET_ACCESS_KEY']

def fails(f, *args, error=StorageError, **kw):
    "The message of the error, which has one line and no secret"
    with pytest.raises(error) as e: f(*args, **kw)
    text = str(e.value)
    assert '\n' not in text and SECRET not in text and len(text) < 400
    return text

# --- an object store
ODD = ['a b.jpg', 'ü é.jpg', '漢字/眼.png', 'plus+sign.jpg', 'per%20cent.jpg', '100%.jpg', 'hash#1?x=y&z.jpg', "quote'\".jpg", '[b]{c}~*.jpg', 'a=b,c;d@e!$.jpg']

def test_names_that_people_give(s3, tmp_path):
    for place in place_at(s3), place_at(str(tmp_path/'odd')):
        for name in ODD: assert place.create(name, name.encode())
        assert [f.name for f in place.files()] == sorted(ODD, key=str.encode)
        for name in ODD:
            assert place.read(name) == name.encode() and place.size(name) == len(name.encode())
            if '://' in place.where: assert read_url(place.at(name)) == name.encode() and url_info(place.at(name)).name == name.rpartition('/')[2]

@pytest.mark.parametrize('name', ['new\nline.jpg', 'back\\slash.jpg', 'bell\a.jpg'])
def test_a_name_that_would_be_changed_is_refused(s3, name):
    place = place_at(s3)
    for act in (place.write, place.create):
        said = fails(act, name, b'x', error=SettingError)
        assert 'change or refuse' in said and '\n' not in said
    assert list(place.files()) == []

@pytest.mark.parametrize('slip', ['s3:/clinic/eyes', 'S3:/clinic', 'gs:/clinic/a', 'https:/clinic.example/1.jpg'])
def test_one_stroke_too_few_makes_no_folder(slip, tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'eyes').mkdir()
    (tmp_path/'eyes'/'1.jpg').write_bytes(b'x')
    assert 'did you mean ' + slip.replace(':/', '://') in fails(place_at, slip, error=SettingError)
    for command in (('retina_push', 'eyes', slip), ('retina_grade', 'bundle', 'eyes', '--engine', 'local', '--out', slip)):
        r = typed(*command)
        assert r.returncode == 2 and 'An address has two strokes' in r.stderr and r.stderr.count('\n') == 1, r
    assert [f.name for f in tmp_path.iterdir()] == ['eyes']

def test_a_name_leads_nowhere_else(s3, tmp_path):
    for place in place_at(s3), place_at(str(tmp_path)):
        for name in '../x', 'a/../../x', '/etc/passwd', 'a//b', '', '.', 'a\0b':
            for f in place.read, place.at, place.drop, place.size: fails(f, name, error=SettingError)

def test_whole_or_not_at_all(s3, tmp_path):
    big = os.urandom(2**20)*20
    for place in place_at(s3), place_at(str(tmp_path)):
        assert place.create('one', b'1') and not place.create('one', b'2') and place.read('one') == b'1'
        place.write('one', b'3')
        place.write('empty', b'')
        place.write('big', big)
        assert (place.read('one'), place.read('empty'), place.read('big') == big) == (b'3', b'', True)
        assert place.holds('big', big) and not place.holds('big', big[::-1]) and not place.holds('none', b'')
        assert 'limit' in fails(place.read, 'big', 2**20)
        place.drop('one')
        place.drop('one')
        assert place.size('one') == -1 and place.info('one') is None

def test_of_many_who_claim_a_name_one_gets_it(s3, tmp_path):
    code = ('import sys\nfrom retina_nb.storage import place_at\n'
            'print(sum(place_at(sys.argv[1]).create(f"c/{i}", sys.argv[2].encode()) for i in range(20)))')
    for where in s3, str(tmp_path):
        procs = [subprocess.Popen([sys.executable, '-c', code, where, str(n)], stdout=subprocess.PIPE, text=True) for n in range(3)]
        assert sum(int(p.communicate(timeout=60)[0]) for p in procs) == 20
        assert sorted(f.name for f in place_at(where).files('c')) == sorted(f'c/{i}' for i in range(20))

def test_an_object_changed_underneath_is_never_half_of_each(s3, monkeypatch):
    import retina_nb.storage as m
    place, piece = place_at(s3), m._piece
    place.write('eye', b'a'*20_000_000)
    def changing(place, name, start, *rest):
        got = piece(place, name, start, *rest)
        if start == 0: place.write('eye', b'b'*20_000_000)
        return got
    monkeypatch.setattr(m, '_piece', changing)
    assert 'changed meanwhile' in fails(place.read, 'eye')
    monkeypatch.undo()
    old = place.info('eye').etag
    place.write('eye', b'c')
    with pytest.raises(StorageError) as e: place.read('eye', etag=old)
    assert e.value.why == 'changed' and place.read('eye', etag=place.info('eye').etag) == b'c'

def test_what_is_wrong_is_said_at_once(s3, cloud_env):
    place_at(s3).write('x', b'x')
    begin = time.time()
    assert 'no such bucket' in fails(place_at('s3://nowhere/x').read, 'y') and 'no such bucket' in fails(list, place_at('s3://nowhere/x').files())
    assert 'nothing of this name' in fails(place_at(s3).read, 'none')
    assert list(place_at(s3 + '/nothing').files()) == []
    with cloud_env.context() as m:
        m.setenv('AWS_ACCESS_KEY_ID', 'stranger')
        assert 'may not' in fails(place_at(s3).read, 'x')
    with cloud_env.context() as m:
        m.setenv('AWS_SECRET_ACCESS_KEY', 'guessed')
        assert 'may not' in fails(place_at(s3).read, 'x') and 'may not' in fails(place_at(s3).write, 'x', b'y')
    with cloud_env.context() as m:
        for k in KEYS: m.delenv(k)
        assert 'without keys' in fails(place_at(s3).read, 'x')
    with cloud_env.context() as m:
        m.delenv('AWS_SECRET_ACCESS_KEY')
        assert 'AWS_SECRET_ACCESS_KEY' in fails(place_at, s3, error=SettingError)
    for address in 'http://127.0.0.1:9', 'https://no-such-host.invalid':
        with cloud_env.context() as m:
            m.setenv('AWS_ENDPOINT_URL', address)
            assert 'cannot be reached' in fails(place_at(s3).read, 'x')
    assert time.time() - begin < 20
    assert SECRET not in repr(place_at(s3)) and SECRET.encode() not in pickle.dumps(place_at(s3))

@pytest.mark.parametrize('where', ['s3://', 's3://name:secret@clinic/eyes', 's3://clinic/../x', 's3://Clinic/x', 's3://clinic//x', 'ftp://clinic/x', 'az://c/x'])
def test_addresses_that_are_none(s3, where): assert 'secret' not in fails(place_at, where, error=SettingError)

def test_keys_of_a_profile(s3, cloud_env, tmp_path):
    for k in KEYS: cloud_env.delenv(k)
    (tmp_path/'keys').write_text(f'[clinic]\naws_access_key_id = tests\naws_secret_access_key = {SECRET}\n')
    cloud_env.setenv('AWS_SHARED_CREDENTIALS_FILE', str(tmp_path/'keys'))
    cloud_env.setenv('AWS_PROFILE', 'clinic')
    place_at(s3).write('x', b'x')
    cloud_env.setenv('AWS_PROFILE', 'other')
    assert "'other'" in fails(place_at, s3, error=SettingError)
    (tmp_path/'keys').write_text(f'aws_secret_access_key = {SECRET}\n[')
    fails(place_at, s3, error=SettingError)

def test_a_copied_process_is_told(s3, tmp_path):
    "obstore's threads do not live on after a fork: an error at once, where it would wait for ever"
    code = ("import os, sys\nfrom retina_nb.storage import place_at\nplace_at(sys.argv[1]).size('x')\n"
            "if os.fork() == 0:\n    try: place_at(sys.argv[1]).size('x')\n    except Exception as e: print(e, flush=True)\n    os._exit(0)\nos.wait()")
    r = subprocess.run([sys.executable, '-c', code, s3], capture_output=True, text=True, timeout=60)
    assert "'spawn'" in r.stdout, r.stderr

@pytest.mark.full
def test_ten_thousand_objects_are_listed_in_flat_memory(s3): _list_many(s3, 10_000)

def test_a_thousand_objects_come_in_pages(s3): _list_many(s3, 1_200)

def _list_many(s3, n):
    from concurrent.futures import ThreadPoolExecutor
    place = place_at(s3)
    names = [f'{i//1000:02}/{i:05}.jpg' for i in range(n)]
    with ThreadPoolExecutor(16) as pool: list(pool.map(lambda name: place.write(name, b'.'), names))
    tracemalloc.start()
    assert sum(f.bytes for f in place.files()) == n
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
    assert [f.name for f in place.files()] == names and [f.name for f in place.files(start_after=names[n//2])] == names[n//2+1:]
    assert [f.name for f in place.files('01')] == [o for o in names if o.startswith('01/')]
    assert sum(f is not None for f in url_infos([place.at(o) for o in [*names[:200], 'none']]).values()) == 200

# --- a web server
class Web(http.server.BaseHTTPRequestHandler):
    data, asked = bytes(range(256))*4000, []
    def do_HEAD(self): self.do_GET()
    def do_GET(self):
        what, _, where = self.path[1:].partition('/')
        Web.asked.append((self.command, self.path, self.headers.get('Range')))
        return getattr(self, what.partition('?')[0])(where)
    def _say(self, status, data=b'', cut=None, length=True, **headers):
        self.send_response(status)
        for k, v in headers.items(): self.send_header(k.replace('_', '-'), v)
        if length: self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if self.command == 'GET': self.wfile.write(data[:cut])
    def _range(self): return int((self.headers.get('Range') or 'bytes=0-')[6:].split('-')[0])
    def plain(self, _): self._say(200, self.data)
    def lengthless(self, _): self._say(200, self.data, length=False)
    def ranged(self, _):
        n = self._range()
        self._say(206 if n else 200, self.data[n:], cut=300_000, ETag='"one"')
    def cutting(self, _): self._say(200, self.data, cut=300_000)
    def other(self, _):
        "Another content each time, cut at the first"
        n = len(Web.asked)
        self._say(200, bytes([n%256])*len(self.data), cut=1000 if n < 2 else None, ETag=f'"{n}"')
    def object(self, _):
        dated = dict(ETag='"one"', Last_Modified='Fri, 27 Nov 2026 00:00:00 GMT', Content_Range=f'bytes 0-{len(self.data)-1}/{len(self.data)}')
        self._say(206 if self.headers.get('Range') else 200, self.data, **dated)
    def status(self, where): self._say(int(where.partition('?')[0]))
    def to(self, where):
        from urllib.parse import unquote
        self._say(302, Location=unquote(where))
    def log_message(self, *_): pass

@contextlib.contextmanager
def serving(context=None, host='127.0.0.1'):
    server = http.server.ThreadingHTTPServer((host, 0), Web)
    if context: server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Web.asked = []
    try: yield f"http{'s' if context else ''}://{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

@pytest.fixture
def web():
    with serving() as address: yield address

def test_other_stores_are_asked_for_the_object_and_nothing_else(web, cloud_env):
    "Google's and Microsoft's protocol, as far as a small server can play them; without keys unsigned, and nobody is asked for keys"
    cloud_env.setenv('STORAGE_EMULATOR_HOST', web)
    cloud_env.setenv('AZURE_STORAGE_ENDPOINT', web)
    cloud_env.setenv('AZURE_STORAGE_ACCOUNT_NAME', 'clinic')
    cloud_env.setenv('HOME', '/none')
    for url in 'gs://object/a b.jpg', 'az://object/a b.jpg':
        Web.asked = []
        assert read_url(url) == Web.data and url_info(url).bytes == len(Web.data)
        assert [o[:2] for o in Web.asked] == [('GET', '/object/a%20b%2Ejpg' if url[0] == 'g' else '/object/a%20b.jpg'), ('HEAD', Web.asked[0][1])]
    cloud_env.delenv('AZURE_STORAGE_ACCOUNT_NAME')
    assert 'AZURE_STORAGE_ACCOUNT_NAME' in fails(read_url, 'az://eyes/1.jpg', error=SettingError)

@pytest.fixture(scope='module')
def certificate(tmp_path_factory):
    "A certificate of this machine, of its own"
    import ipaddress
    x509, hashes, serialization, ec = (pytest.importorskip(f'cryptography.{n}') for n in (
        'x509', 'hazmat.primitives.hashes', 'hazmat.primitives.serialization', 'hazmat.primitives.asymmetric.ec'))
    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'tests')]), datetime.datetime.now(datetime.UTC)
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1).not_valid_before(now - datetime.timedelta(1))
            .not_valid_after(now + datetime.timedelta(1)).add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address('127.0.0.1'))]), False)
            .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256()))
    file = tmp_path_factory.mktemp('tls')/'both.pem'
    file.write_bytes(cert.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                                                       serialization.NoEncryption()))
    return file

def test_encrypted_with_and_without_ranges(certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context) as address:
        assert 'cannot be reached' in fails(read_url, f'{address}/plain/a.jpg') # who is that?
        monkeypatch.setenv('SSL_CERT_FILE', str(certificate))
        assert read_url(f'{address}/plain/a%20b.jpg') == read_url(f'{address}/ranged/ü b.jpg?sig=1') == Web.data
        assert url_info(f'{address}/plain/a.jpg').bytes == len(Web.data) and read_start(f'{address}/plain/a.jpg', 100) == Web.data[:100]
        plain = address.replace('https', 'http')
        assert 'unencrypted' in fails(read_url, f'{address}/to/{plain}/plain/x')

def test_a_cut_connection(web):
    assert read_url(f'{web}/ranged/a.jpg') == Web.data # in four parts
    assert [r for _, _, r in Web.asked] == [None, 'bytes=300000-', 'bytes=600000-', 'bytes=900000-']
    begin = time.time()
    assert 'cut after 300,000 bytes' in fails(read_url, f'{web}/cutting/a.jpg')
    assert time.time() - begin < 10 and read_url(f'{web}/lengthless/a.jpg') == Web.data

def test_a_file_exchanged_meanwhile_is_of_one_piece(web):
    got = read_url(f'{web}/other/a.jpg')
    assert len(set(got)) == 1 and len(got) == len(Web.data)

def test_too_large(web):
    for kind in 'plain', 'lengthless', 'ranged': assert 'limit' in fails(read_url, f'{web}/{kind}/a.jpg', 1000)

def test_a_signature_is_not_told(web):
    for status, says in (403, 'login'), (401, 'login'), (404, 'nothing of this name'), (500, 'the server says 500'), (418, 'says 418'):
        text = fails(read_url, f'{web}/status/{status}?X-Amz-Signature={SECRET}')
        assert says in text and '?...' in text
    assert url_info(f'{web}/status/404') is None

@pytest.mark.parametrize('to', ['http://127.0.0.2:1/x', 'http://localhost:1/x', 'http://169.254.169.254/latest', 'http://[::1]:1/', 'http://10.0.0.1/x', 'http://metadata.google.internal/x',
                                'http://[fd00:ec2::254]/', 'file:///etc/passwd', 'ftp://127.0.0.1/x', 'http://me:word@127.0.0.1/x'])
def test_redirects_that_are_not_followed(web, to, monkeypatch):
    monkeypatch.setenv('AWS_ALLOW_HTTP', 'true')
    begin = time.time()
    text = fails(read_url, f'{web}/to/{to}', error=(StorageError, SettingError))
    assert 'not followed' in text or 'no address' in text or 'says 302' in text, text
    assert time.time() - begin < 5 and len(Web.asked) == 1

def test_redirects_that_are(web):
    assert read_url(f'{web}/to/{web}/plain/x') == Web.data
    assert 'says 302' in fails(read_url, f'{web}/to/{web}/to/{web}/to/{web}/to/{web}/to/{web}/to/{web}/to/{web}/plain/x')

def test_only_ones_own_machine_is_spoken_to_in_the_open():
    for url in 'http://clinic.example/1.jpg', 'http://192.168.1.7/1.jpg': assert 'unencrypted' in fails(read_url, url, error=SettingError)
    assert 'hands out keys' in fails(read_url, 'https://169.254.169.254/latest/meta-data')
    begin = time.time()
    assert 'cannot be reached' in fails(read_url, 'https://no-such-host.invalid/1.jpg?sig=' + SECRET) and time.time() - begin < 10

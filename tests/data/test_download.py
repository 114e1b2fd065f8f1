"Downloads against a server on this machine: resume, damage, silence; and the command"
import hashlib, http.server, threading, time

import pytest

from retina_nb.core import DataError, SettingError
from retina_nb.data.download import DOWNLOADS, INSTRUCTIONS, download_file, get_dataset

DATA = bytes(range(251))*5000
MD5 = hashlib.md5(DATA).hexdigest()

@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        asked,cut,damage,ranges,code = [], None, False, True, 200
        def log_message(self, *args): pass
        def do_GET(self):
            rng = self.headers.get('Range')
            Handler.asked.append(rng)
            if Handler.code != 200: self.send_error(Handler.code); return
            start = int(rng[6:-1]) if rng and Handler.ranges else 0
            if start >= len(DATA): self.send_error(416); return
            body = DATA[start:]
            if Handler.damage: body = body[:-5] + b'wrong'
            self.send_response(206 if start else 200); self.send_header('Content-Length', str(len(body))); self.end_headers()
            self.wfile.write(body if Handler.cut is None else body[:Handler.cut])
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    s.handler,s.url = Handler, f'http://127.0.0.1:{s.server_port}/x.npz'
    yield s
    s.shutdown(); s.server_close()

def get(s, f, **kw): return download_file(s.url, f, MD5, progress=False, **kw)

def test_whole(server, tmp_path):
    f = get(server, tmp_path/'deep'/'x.npz')
    assert f.read_bytes() == DATA and [o.name for o in f.parent.iterdir()] == ['x.npz']
    get(server, f)
    assert len(server.handler.asked) == 1, 'a good file is not fetched again'

def test_resumes_where_it_stopped(server, tmp_path):
    server.handler.cut = 400_000
    for _ in range(2):
        with pytest.raises(DataError, match='call again'): get(server, tmp_path/'x.npz')
    assert not (tmp_path/'x.npz').exists(), 'half a file must not look whole'
    server.handler.cut = None
    assert get(server, tmp_path/'x.npz').read_bytes() == DATA
    assert server.handler.asked == [None, 'bytes=400000-', 'bytes=800000-']

def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.handler.cut = 400_000
    with pytest.raises(DataError): get(server, tmp_path/'x.npz')
    server.handler.cut,server.handler.ranges = None,False
    assert get(server, tmp_path/'x.npz').read_bytes() == DATA

def test_a_part_that_was_complete(server, tmp_path):
    (tmp_path/'x.npz.part').write_bytes(DATA)
    assert get(server, tmp_path/'x.npz').read_bytes() == DATA

@pytest.mark.parametrize('old', [b'', b'rubbish'*1000])
def test_damage_is_found_and_not_kept(server, tmp_path, old):
    if old: (tmp_path/'x.npz.part').write_bytes(old)
    else: server.handler.damage = True
    with pytest.raises(DataError, match='MD5'): get(server, tmp_path/'x.npz')
    assert not list(tmp_path.iterdir())
    server.handler.damage = False
    assert get(server, tmp_path/'x.npz').read_bytes() == DATA

def test_an_old_file_that_is_wrong_is_replaced(server, tmp_path):
    (tmp_path/'x.npz').write_bytes(b'something else')
    assert get(server, tmp_path/'x.npz').read_bytes() == DATA

def test_error_pages(server, tmp_path):
    server.handler.code = 404
    with pytest.raises(DataError, match='404'): get(server, tmp_path/'x.npz')
    assert not list(tmp_path.iterdir())

def test_nobody_answers(tmp_path):
    t = time.time()
    with pytest.raises(DataError, match='online'): download_file('http://127.0.0.1:9/x.npz', tmp_path/'x.npz', MD5, timeout=3, progress=False)
    assert time.time() - t < 5 and not list(tmp_path.iterdir())

def test_names():
    with pytest.raises(SettingError, match='octmnist_224'): get_dataset('nothing')
    for n,how in INSTRUCTIONS.items():
        with pytest.raises(SettingError): get_dataset(n)
        assert 'http' in how
    assert {o.task for o in DOWNLOADS.values()} == {'dr', 'oct', 'pneumonia'}

def test_command(command, tmp_path):
    r = command('retina_get', 'eyepacs')
    assert r.returncode == 0 and 'kaggle competitions download -c diabetic-retinopathy-detection' in r.stdout
    r = command('retina_get', 'unknown')
    assert (r.returncode, r.stdout, len(r.stderr.splitlines())) == (2, '', 1) and 'retinamnist' in r.stderr
    # a proxy that refuses connections stands for a machine that is offline
    t = time.time()
    r = command('retina_get', 'retinamnist', '--out', tmp_path, https_proxy='http://127.0.0.1:9', HTTPS_PROXY='http://127.0.0.1:9', no_proxy='', NO_PROXY='')
    assert r.returncode == 2 and len(r.stderr.splitlines()) == 1 and 'online' in r.stderr and time.time() - t < 30
    assert not list(tmp_path.iterdir())

def test_real_file_is_the_official_one(real_data):
    assert hashlib.md5((real_data/'medmnist'/'retinamnist.npz').read_bytes()).hexdigest() == DOWNLOADS['retinamnist'].md5

"The panel's door, on a running server: who comes in, how many at a time, and when a page's process ends."
import json, os, re, signal, socket, stat, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from browsers import WAIT, chromium, free_port
from random_model import shared

pytest.importorskip('voila', reason='voila is not installed')

class Page:
    "The page of a bundle, with two places and less patience than usual"
    def __init__(self, d):
        from retina_nb.deploy.page import _SERVE, _settings_env, voila_settings, write_page
        self.port, self.token = free_port(), 'a-token-of-this-test'
        settings = voila_settings(self.port, pages=2)
        settings['PanelKernels'] |= dict(patience=8, every=1)
        (d/'voila.json').write_text(json.dumps(settings))
        env = _settings_env(bundle=shared()[1], max_mb=64, feedback=d/'feedback.csv', token=self.token)
        self.log = d/'log.txt'
        self.proc = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', _SERVE, write_page(d).name], cwd=d, env=env,
                                     stdout=open(self.log, 'w'), stderr=subprocess.STDOUT)
        for _ in range(600):
            try: socket.create_connection(('127.0.0.1', self.port), 1).close(); break
            except OSError: time.sleep(.1)
    def get(self, path='/', method='GET', **headers):
        c = HTTPConnection('127.0.0.1', self.port, timeout=120)
        c.putrequest(method, path, skip_host='Host' in headers)
        for k,v in headers.items(): c.putheader(k.replace('_', '-'), v)
        c.endheaders()
        r = c.getresponse()
        body = r.read().decode('utf-8', 'replace')
        c.close()
        return r.status, body, r.headers
    def kernels(self):
        "The processes behind the pages: children of the server"
        out = subprocess.run(['ps', '-eo', 'pid,ppid,args'], capture_output=True, text=True).stdout
        rows = [line.split(None, 2) for line in out.splitlines()[1:]]
        return [r for r in rows if r[1] == str(self.proc.pid) and 'ipykernel' in r[2]]
    def empty(self, seconds):
        "Wait until no process is left"
        end = time.time() + seconds
        while self.kernels() and time.time() < end: time.sleep(.5)
        return not self.kernels()
    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        try: self.proc.wait(20)
        except subprocess.TimeoutExpired: self.proc.kill(); self.proc.wait()

@pytest.fixture(scope='module')
def page(tmp_path_factory):
    p = Page(tmp_path_factory.mktemp('door'))
    yield p
    p.stop()

def test_the_door_is_shut(page):
    for path in ('/', '/?token=', '/?token=guess', '/voila/static/voila.js', '/api/kernels/x', '/voila/files/voila.json', '/nothing'):
        status, body, headers = page.get(path)
        assert status == 403 and 'The panel is locked' in body, path
        assert 'Set-Cookie' not in headers and "default-src 'none'" in headers['Content-Security-Policy']
    with_token = f'/?token={page.token}'
    for host in ('evil.example', f'evil.example:{page.port}', '127.0.0.1.evil.example', '10.0.0.1', '', 'localhost.', '127.0.0.1@evil.example'):
        assert page.get(with_token, Host=host)[0] in (400, 403), host
    known = dict(Authorization=f'token {page.token}')
    for site in ('cross-site', 'same-site'):                                           # a page of somebody else asks, before cookies are looked at
        status, body, _ = page.get(Sec_Fetch_Site=site, Sec_Fetch_Mode='no-cors', Sec_Fetch_Dest='image')
        assert status == 403 and 'Another page has sent you here' in body, site
    for origin in ('http://evil.example', 'null', 'http://[', 'http://[::1', 'http://[x]', '', f'http://127.0.0.1:{page.port}, http://evil.example', 'http://127.0.0.1:1'):
        assert page.get(Origin=origin, **known)[0] == 403, origin
    assert page.get('/voila/static/require.min.js', Origin=f'http://127.0.0.1:{page.port}', **known)[0] == 200
    assert page.get(Sec_Purpose='prefetch', **known)[0] == 403
    for method in ('POST', 'PUT', 'DELETE', 'OPTIONS', 'HEAD'): assert page.get(method=method)[0] == 403, method
    assert page.get('/api/kernels/x/channels', Upgrade='websocket', Connection='Upgrade', Sec_WebSocket_Key='x'*22 + '==', Sec_WebSocket_Version='13')[0] == 403
    assert page.kernels() == []                                                        # and nothing was started for any of them

def test_a_token_then_a_cookie_and_room_for_so_many(page):
    status, body, headers = page.get(f'/?token={page.token}')
    assert status == 200 and 'jupyter-config-data' in body
    loaded = re.findall(r'''(?:src|href)=["']?(https?:)?//''', body) + re.findall(r'import[^;]*https?://', body)
    assert not loaded and page.token not in body                                       # no other host; the token is not handed on
    cookies = [c for c in headers.get_all('Set-Cookie') if c.startswith('retina_panel_')]
    assert len(cookies) == 1 and page.token not in cookies[0] and all(o in cookies[0] for o in ('HttpOnly', 'SameSite=Strict'))
    known = dict(Cookie=cookies[0].split(';')[0])
    assert page.get('/voila/static/require.min.js', **known)[0] == 200
    asked = page.get(Sec_Fetch_Site='cross-site', **known)
    assert asked[0] == 403 and 'href="/"' in asked[1]                                   # a link from elsewhere: one click more
    for path in ('/', '/voila/static/require.min.js', '/api/kernels/x'):
        for site in ('cross-site', 'same-site'): assert page.get(path, Sec_Fetch_Site=site, Sec_Fetch_Mode='no-cors', **known)[0] == 403, (path, site)
    with ThreadPoolExecutor(6) as pool: found = list(pool.map(lambda _: page.get(**known), range(6)))   # as a page with pictures would
    assert len(page.kernels()) <= 2 and [s for s,*_ in found].count(503) >= 4, found
    full = next(b for s,b,_ in found if s == 503)
    assert 'All places are taken' in full and 'href="/"' in full
    assert page.empty(40), 'processes without a page are still there'
    assert page.get(Host=f'localhost:{page.port}', Sec_Fetch_Site='same-origin', **known)[0] == 200
    log = page.log.read_text()
    assert page.token not in log and 'Traceback' not in log, log

def test_closing_the_page_ends_its_process(page):
    with chromium() as b:
        tab, asked = b.new_page(), []
        tab.on('request', lambda r: asked.append(r.url))
        tab.goto(f'http://127.0.0.1:{page.port}/?token={page.token}', wait_until='domcontentloaded')
        tab.wait_for_function('document.querySelector(".rnb-panel")?.innerText.includes("No photograph yet")', timeout=WAIT)
        assert 'token' not in tab.url                                                   # nor does it stay in the address bar
        time.sleep(11)                                                                  # longer than the patience: it is there
        assert len(page.kernels()) >= 1
        tab.close()
        assert page.empty(40)
        own = ('http://127.0.0.1:', 'ws://127.0.0.1:', 'data:', 'blob:')
        assert all(u.startswith(own) for u in asked), [u for u in asked if not u.startswith(own)]

def test_the_command_says_what_is_wrong_and_where_it_looked(command, tmp_path):
    for args, word in (([tmp_path/'no'], str(tmp_path/'no')), ([shared()[1], '--pages', 0], 'pages is 0'), ([shared()[1], '--port', 0], 'port is 0')):
        r = command('retina_panel', *args)
        assert r.returncode == 2 and r.stderr.count('\n') == 1 and word in r.stderr, r

def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s: s.bind(('::1', 0)); return True
    except OSError: return False

@pytest.mark.parametrize('ip', ('127.0.0.1', 'localhost', '', '0.0.0.0', '::1', '::'))
def test_a_port_is_free_or_taken_at_every_kind_of_address(ip):
    from retina_nb.core import SettingError
    from retina_nb.deploy.page import _free
    six = ':' in ip
    if six and not has_ipv6(): pytest.skip('no IPv6 on this machine')
    port = free_port(); _free(ip, port)
    for kind, where in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
        if kind == socket.AF_INET6 and not has_ipv6(): continue
        with socket.socket(kind) as s:
            if kind == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            s.bind((where, port)); s.listen()
            hit = {'127.0.0.1': '127.0.0.1' == where, '0.0.0.0': '127.0.0.1' == where, '::1': '::1' == where, '::': '::1' == where}.get(ip, True)
            if ip == 'localhost' and where not in {a[4][0] for a in socket.getaddrinfo(ip, port)}: hit = False
            if not hit: _free(ip, port)
            else:
                with pytest.raises(SettingError, match='choose another port with --port') as e: _free(ip, port)
                assert (f'[{ip}]:{port}' if six else f'{ip}:{port}') in str(e.value)

@pytest.mark.parametrize('ip', ('192.0.2.1', '2001:db8::1', 'no.such.name.invalid', '999.1.1.1', 'a..b', 'x'*300))
def test_an_address_of_another_machine(ip):
    from retina_nb.core import SettingError
    from retina_nb.deploy.page import _free
    with pytest.raises(SettingError, match='another (address )?with --ip'): _free(ip, free_port())

def test_the_panel_on_ipv6(tmp_path):
    "The command prints an address in brackets, and the door knows it as one of its own"
    if not has_ipv6(): pytest.skip('no IPv6 on this machine')
    port, log = free_port(), tmp_path/'log.txt'
    args = ['-c', 'from retina_nb.deploy.page import retina_panel; import sys; retina_panel(sys.argv[1], port=int(sys.argv[2]), ip="::1", feedback=sys.argv[3], no_browser=True)']
    proc = subprocess.Popen([sys.executable, '-W', 'ignore', *args, shared()[1], str(port), str(tmp_path/'f.csv')], stdout=open(log, 'w'), stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            if 'token=' in log.read_text() or proc.poll() is not None: break
            time.sleep(.1)
        assert f'http://[::1]:{port}/?token=' in log.read_text(), log.read_text()
        c = HTTPConnection('::1', port, timeout=60); c.request('GET', '/')
        r = c.getresponse(); assert r.status == 403 and 'The panel is locked' in r.read().decode(); c.close()
    finally:
        proc.send_signal(signal.SIGTERM)
        try: proc.wait(20)
        except subprocess.TimeoutExpired: proc.kill(); proc.wait()

def test_the_browser_gets_a_file_of_its_own(tmp_path, monkeypatch):
    "The token is in no list of processes: the browser opens a file that only its user can read"
    import retina_nb.deploy.page as P
    opened = []
    monkeypatch.setattr(P.webbrowser, 'open', lambda url: opened.append(url))
    monkeypatch.setenv('DISPLAY', ':9')
    P._open_browser(tmp_path, 'http://127.0.0.1:1/?token=t')
    assert opened == [(tmp_path/'open.html').as_uri()] and 'token=t' in (tmp_path/'open.html').read_text()
    assert os.name == 'nt' or stat.S_IMODE((tmp_path/'open.html').stat().st_mode) == 0o600
    for k in ('DISPLAY', 'WAYLAND_DISPLAY', 'BROWSER'): monkeypatch.delenv(k, raising=False)
    if sys.platform == 'linux':
        P._open_browser(Path(tmp_path)/'x', 'http://127.0.0.1:1/')                      # no screen, no browser
        assert len(opened) == 1

"A service is killed at any moment: what it has acknowledged is there, nothing is there by half, a retry gives one row, and nobody who should be told is forgotten"
import email, email.policy, json, os, random, re, resource, signal, socket, socketserver, subprocess, sys, threading, time

from http.client import HTTPException

import pytest

from retina_nb.serve import Store
from servers import Handler, Server
from clients import Client, Process, form, picture, together
from strangers import http as request_of, replies

# A process that has imported everything forks one service after another: a new interpreter for each would take most of the time.
NURSERY = '''
import json, os, signal, sys
from retina_nb.serve import serve
from retina_nb.serve.notices import Notify
from retina_nb.serve.writing import Database
from retina_nb.serve.answering import Service
from retina_nb.serve import routes
from sqlalchemy import event
import retina_nb.serve.service, retina_nb.deploy, cv2, PIL.Image, onnxruntime, alembic.command
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def die_at(how, after):
    left = [after]
    def die(*_):
        left[0] -= 1
        if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
    def around(owner, name, before=False):
        f = getattr(owner, name)
        def g(*args, **kwargs):
            if before: die()
            out = f(*args, **kwargs)
            if not before: die()
            return out
        setattr(owner, name, g)
    if how == 'between statements':
        init = Database.__init__
        def _init(self, *args, **kwargs):
            init(self, *args, **kwargs)
            event.listen(self.engine, 'before_cursor_execute', die)
        Database.__init__ = _init
    if how == 'before commit': around(Database, '_commit', before=True)
    if how == 'after commit': around(Database, '_commit')
    if how == 'before reply': around(Service, 'answer')
    if how == 'before it is noted': around(Service, '_told', before=True)

for line in sys.stdin:
    o = json.loads(line)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        out = os.open(o['out'], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        for n in (1, 2): os.dup2(out, n)
        die_at(o['how'], o['after'])
        try: serve(o['bundle'], o['db'], port=0, low_confidence=1., notify=Notify(**o['notify']))
        finally: os._exit(0)
    print(pid, flush=True)
'''

class Nursery:
    "Services in forked processes"
    def __init__(self, folder):
        self.folder, self.n = folder, 0
        self.proc = subprocess.Popen([sys.executable, '-c', NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
    def start(self, bundle, db, how='', after=0, **notify):
        "(pid, a client)"
        self.n += 1
        out = self.folder/f'out{self.n}'
        out.touch()
        self.proc.stdin.write(json.dumps(dict(out=str(out), bundle=str(bundle), db=str(db), how=how, after=after, notify=notify)) + '\n')
        self.proc.stdin.flush()
        self.pid, end = int(self.proc.stdout.readline()), time.time() + 60
        while 'is served at' not in (text := out.read_text()): # or it has died
            assert time.time() < end, text
            if not self.alive(): return None
            time.sleep(.01)
        return Client(int(text.split('is served at http://127.0.0.1:')[1].split()[0]))
    def alive(self):
        if not self.n: return False
        try: os.kill(self.pid, 0)
        except ProcessLookupError: return False
        return True
    def kill(self, how=signal.SIGKILL):
        end = time.time() + 60
        if self.alive(): os.kill(self.pid, how)
        while self.alive() and time.time() < end: time.sleep(.01)
        assert not self.alive()
    def close(self):
        self.proc.stdin.close()
        self.proc.stdout.close()
        self.proc.wait(60)

@pytest.fixture(scope='module')
def _nursery(tmp_path_factory):
    n = Nursery(tmp_path_factory.mktemp('nursery'))
    yield n
    n.close()

@pytest.fixture
def nursery(_nursery):
    yield _nursery
    _nursery.kill()

class Hook(Handler):
    "A webhook that remembers what it was told, and takes nothing for as long as it is closed"
    def do_POST(self):
        said = json.loads(self.body())
        if self.server.open: self.server.got.append(said)
        self.answer({}, 200 if self.server.open else 503)

def ready(ask, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        try:
            if ask('GET', '/v1/health/ready').status == 200: return True
        except (OSError, HTTPException): return False # it has died
        time.sleep(.01)
    raise AssertionError('not ready')

HOW = 'at random', 'between statements', 'before commit', 'after commit', 'before reply', 'before it is noted'

@pytest.mark.parametrize('url, kills', [pytest.param('sqlite', 6, id='sqlite-6'), pytest.param('postgresql', 2, id='postgresql-2'),
                                        *(pytest.param(db, 500, id=f'{db}-500', marks=pytest.mark.full) for db in ('sqlite', 'postgresql'))], indirect=['url'])
def test_killed(bundle, nursery, url, kills):
    rng, told, tried, eyes = random.Random(16), {}, {}, [picture(i, 64, 'JPEG') for i in range(3)]
    hook, db = Server(Hook, got=[], open=True), url
    with Store(db) as s: first = s.check()
    assert first == []
    for run in range(kills):
        how = HOW[run % len(HOW)]
        after = rng.randrange({'between statements': 120, 'before it is noted': 4}.get(how, 8))
        hook.open = rng.random() < .7
        ask = nursery.start(bundle, db, how, after, webhook=hook.url, pause=.02)
        if ask is None or not ready(ask): continue
        def _client(i):
            for n in range(200):
                key = f'{run}-{i}-{n}'
                tried[key] = i
                told[key] = ask.grade(eyes[i], dict(n=n), key=key).json # until it dies
        def _one(i):
            if i < 3: return _client(i)
            pause, end = rng.random()*.3, time.time() + 20
            while not any(k.startswith(f'{run}-') for k in list(told)) and nursery.alive() and time.time() < end: time.sleep(.01)
            time.sleep(pause)
            nursery.kill()
        together(4, _one)
    hook.open = True
    ask = nursery.start(bundle, db, webhook=hook.url, pause=.02)
    assert ready(ask)
    def _again(key): return ask.grade(eyes[tried[key]], dict(n=int(key.split('-')[2])), key=key)
    sample = sorted(told) if len(told) < 80 else rng.sample(sorted(told), 80)
    for key in sample: # what a client was told is said again, to the letter
        r = _again(key)
        assert r.json == told[key] and r.headers['idempotent-replayed'] == 'true', key
    lost = sorted(set(tried) - set(told))
    for key in lost: # what it was not told, it asks again
        one, two = _again(key), _again(key)
        assert one.status == 200 and one.json == two.json, key
    with Store(db) as s: alerts, end = {a['id'] for a in s.alerts(seen=True)}, time.time() + 60
    while not alerts <= {g['alert'] for g in hook.got} and time.time() < end: time.sleep(.02)
    assert alerts <= {g['alert'] for g in hook.got} # at least once
    nursery.kill(signal.SIGTERM)
    with Store(db) as s:
        assert s.check() == []
        keys = [s.answer(p.id).key for p, _ in s.answers()]
        assert sorted(keys) == sorted(tried) # each once, whole
        cases, alerts, said = s.reviews('all'), s.alerts(seen=True), {p.id for p, _ in s.answers()}
        assert sorted(r['prediction'] for r in cases) == sorted(a['prediction'] for a in alerts) == sorted(said) # each is unsure, and each waits for a person, once
        assert s.owed('webhook') == []
        assert {k: s.answer(a['id']).id for k, a in told.items()} == {k: a['id'] for k, a in told.items()}
    assert told and lost
    hook.shutdown()

def test_notices_outlive_a_kill(bundle, nursery, tmp_path):
    "What nobody took before the kill is sent after it, once; what somebody has seen meanwhile is not"
    hook, db, eye = Server(Hook, got=[], open=False), tmp_path/'s', picture(1, 64)
    ask = nursery.start(bundle, db, webhook=hook.url, pause=5)
    assert ready(ask)
    for i in range(3): assert ask.grade(eye, key=f'k{i}').status == 200
    alerts = ask('GET', '/v1/alerts').json['alerts']
    assert ask('POST', f"/v1/alerts/{alerts[0]['id']}/seen").status == 200
    nursery.kill()
    assert hook.got == []
    hook.open = True
    ask = nursery.start(bundle, db, webhook=hook.url)
    end = time.time() + 30
    while len(hook.got) < 2 and time.time() < end: time.sleep(.02)
    assert ready(ask) and ask.grade(eye, key='k3').status == 200
    while len(hook.got) < 3 and time.time() < end: time.sleep(.02)
    new = ask('GET', '/v1/alerts').json['alerts'][-1]
    assert sorted(g['alert'] for g in hook.got) == sorted(a['id'] for a in [*alerts[1:], new])
    assert all(set(g) == {'alert', 'grading', 'why', 'at'} for g in hook.got)
    hook.shutdown()

# --- an end that was asked for
def test_what_was_accepted_is_answered_before_the_end(bundle, tmp_path):
    "SIGTERM while one client is still sending, one waits for its answer and one holds its connection open: who was heard gets an answer, and the end is none of a fault"
    body, kind = form([picture(1)])
    def _open(path, n):
        s = socket.create_connection(('127.0.0.1', p.ask.port), timeout=30)
        s.sendall(request_of('PUT', path, body, f'Content-Type: {kind}', close=False)[:n])
        return s
    def _rest(s):
        out = b''
        while got := s.recv(65536): out += got
        return replies(out)
    with Process(tmp_path, bundle, tmp_path/'s') as p:
        p.ready()
        length = len(request_of('PUT', '/v1/gradings/slow', body, f'Content-Type: {kind}', close=False))
        idle, slow, slower, unheard = _open('/v1/gradings/idle', length), _open('/v1/gradings/slow', 400), _open('/v1/gradings/slow', 400), _open('/v1/gradings/slow', 20)
        first = b''
        while b'\r\n\r\n' not in first or len(first.partition(b'\r\n\r\n')[2]) < int(re.search(rb'content-length: (\d+)', first.lower())[1]): first += idle.recv(65536)
        assert b' 200 ' in first.split(b'\r\n')[0]
        start, ended = time.time(), []
        stopping = threading.Thread(target=lambda: ended.append(p.stop()))
        stopping.start()
        time.sleep(.5)
        data = request_of('PUT', '/v1/gradings/slow', body, f'Content-Type: {kind}', close=False)
        for s in (slow, slower): s.sendall(data[400:900])
        time.sleep(.3)
        for s in (slow, slower): s.sendall(data[900:])
        said = [_rest(s) for s in (slow, slower)]
        assert [[r[0] for r in rs] for rs in said] == [[200], [200]] and len({rs[0][2] for rs in said}) == 1
        assert _rest(idle) == [] and _rest(unheard) == [] # closed, and nothing of theirs is lost
        with pytest.raises(OSError): socket.create_connection(('127.0.0.1', p.ask.port), timeout=5)
        stopping.join(60)
        assert ended == [0] and time.time() - start < 20 and p.lines()[-1]['event'] == 'stopped'
    for s in (idle, slow, slower, unheard): s.close()
    with Store(tmp_path/'s') as s:
        assert sorted(s.answer(x.id).key for x, _ in s.answers()) == ['idle', 'slow'] and s.check() == []

# --- databases and disks
def test_a_morning_on_either_database(bundle, nursery, url):
    ask, eye = nursery.start(bundle, url), picture(1, 64)
    assert ready(ask)
    first = ask.grade(eye, dict(hospital='A', patient='P1'), key='k').json
    assert ask.grade(eye, dict(hospital='A', patient='P1'), key='k').json == first and ask.grade(picture(2, 64), key='k').status == 409
    rs = together(4, lambda i: ask.grade(eye, key=f'same {i%2}'.replace(' ', '%20')))
    assert {r.status for r in rs} == {200} and len({r.json['id'] for r in rs}) == 2
    assert ask('GET', f"/v1/gradings/{first['id']}").json == first
    assert ask('POST', f"/v1/gradings/{first['id']}/feedback", dict(verdict='correct', grade=3, who='Anna')).json['grade'] == 3
    case = ask('POST', '/v1/reviews/lease', dict(who='Anna')).json['review']
    assert ask('GET', f"/v1/gradings/{first['id']}").status == 409 # the oldest case is hers
    assert ask('POST', f"/v1/reviews/{case['id']}/finish", dict(grade=2, who='Anna')).status == 200
    alerts = ask('GET', '/v1/alerts').json['alerts']
    assert len(alerts) == 3 and ask('POST', f"/v1/alerts/{alerts[0]['id']}/seen").status == 200
    assert len(ask('GET', f"/v1/gradings/{first['id']}/history").json['feedback']) == 2
    assert ask('GET', '/v1/gradings/' + 'ab'*12).status == 404 and ask('GET', '/metrics').status == 200
    nursery.kill(signal.SIGTERM)
    with Store(url) as s: assert s.check() == [] and s.status()['request'] == 3

def test_the_database_goes_away_and_comes_back(bundle, nursery, cluster):
    url, eye = cluster.new(), picture(1, 64)
    ask = nursery.start(bundle, url)
    assert ready(ask) and ask.grade(eye, key='before').status == 200
    cluster._run('pg_ctl', '-D', cluster.folder/'data', '-m', 'immediate', '-w', 'stop')
    try:
        for r in (ask.grade(eye, key='meanwhile'), ask('GET', '/v1/models'), ask('GET', '/v1/alerts'), ask('GET', '/metrics')):
            assert r.status == 503 and int(r.headers['retry-after']) > 0 and list(r.json) == ['error'] and str(cluster.folder) not in r.error
        assert ask('GET', '/v1/health/live').status == 200
    finally:
        options = f"-c listen_addresses='' -c unix_socket_directories={cluster.folder} -c fsync=off -c max_connections=200"
        cluster._run('pg_ctl', '-D', cluster.folder/'data', '-l', cluster.folder/'log', '-o', options, '-w', '-t', '60', 'start')
    assert ready(ask) and ask.grade(eye, key='before').headers['idempotent-replayed'] == 'true'
    one, two = (ask.grade(eye, key='meanwhile') for _ in range(2))
    assert one.status == 200 and one.json == two.json
    nursery.kill(signal.SIGTERM)
    with Store(url) as s: assert s.check() == [] and s.status()['request'] == 2

def test_a_full_disk_and_a_service_that_lives_on(bundle, nursery, tmp_path):
    "No file may grow any longer, that of the log neither: a clear answer, and everything as before once there is room"
    db, eye = tmp_path/'s', picture(1, 64)
    ask = nursery.start(bundle, db)
    assert ready(ask) and ask.grade(eye, key='before').status == 200
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.prlimit(nursery.pid, resource.RLIMIT_FSIZE, (4096, hard))
    said = [ask.grade(eye, key=f'full{i}') for i in range(3)]
    assert {r.status for r in said} == {503} and all('disk' in r.error and int(r.headers['retry-after']) > 0 for r in said), [r.body for r in said]
    assert ask.grade(eye, key='before').status == 200 and ask('GET', '/v1/models').status == 200 # what is there can be read
    resource.prlimit(nursery.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert [ask.grade(eye, key=f'full{i}').status for i in range(3)] == [200]*3
    nursery.kill(signal.SIGTERM)
    with Store(db) as s: assert s.check() == [] and s.status()['request'] == 4

def test_a_folder_that_may_only_be_read(bundle, nursery, tmp_path):
    "A disk that is mounted anew for reading, as after a fault: a clear answer, and everything as before afterwards"
    disk, eye = tmp_path/'disk', picture(1, 64)
    disk.mkdir()
    r = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=20m', 'tmpfs', str(disk)], capture_output=True, text=True)
    if r.returncode: pytest.skip(f'no right to mount a small disk ({r.stderr.strip()[:80]})')
    try:
        ask = nursery.start(bundle, disk/'s')
        assert ready(ask) and ask.grade(eye, key='before').status == 200
        nursery.kill(signal.SIGTERM)
        subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
        assert nursery.start(bundle, disk/'s') is None and 'Traceback' not in (nursery.folder/f'out{nursery.n}').read_text()
        subprocess.run(['mount', '-o', 'remount,rw', str(disk)], check=True)
        ask = nursery.start(bundle, disk/'s')
        assert ready(ask)
        (disk/'fill').write_bytes(bytes(2**20))
        with open(disk/'fill', 'ab') as f: # until nothing is left
            try:
                while True: f.write(bytes(2**16)); f.flush()
            except OSError: pass
        r = ask.grade(eye, key='full')
        assert r.status == 503 and 'disk' in r.error and r.headers['retry-after']
        (disk/'fill').unlink()
        assert ask.grade(eye, key='full').status == 200
        nursery.kill(signal.SIGTERM)
        with Store(disk/'s') as s: assert s.check() == [] and s.status()['request'] == 2
    finally: subprocess.run(['umount', '-l', str(disk)])

# --- e-mail
class Post(socketserver.ThreadingTCPServer):
    "A server that takes e-mail; what it does is its `mood`, one for each connection, the last one from then on"
    allow_reuse_address = daemon_threads = True
    def __init__(self, *mood):
        super().__init__(('127.0.0.1', 0), Letter)
        self.mood, self.got, self.times = list(mood), [], []
        threading.Thread(target=self.serve_forever, daemon=True).start()
    def handle_error(self, *_): pass # a client that has had enough

class Letter(socketserver.StreamRequestHandler):
    def handle(self):
        post = self.server
        mood = post.mood.pop(0) if len(post.mood) > 1 else post.mood[0]
        post.times.append(time.monotonic())
        def _say(line): self.wfile.write(line.encode() + b'\r\n')
        if mood == 'away': return None
        if mood == 'busy': return _say('421 later')
        if mood == 'silent': return time.sleep(30)
        if mood == 'slow': time.sleep(1)
        _say('220 post')
        while line := self.rfile.readline().strip().upper():
            if line.startswith(b'RCPT') and mood == 'refuses': _say('550 nobody of that name')
            elif line.startswith(b'DATA'):
                _say('354 go on')
                letter = b''
                while (more := self.rfile.readline()) not in (b'.\r\n', b''): letter += more
                post.got.append(email.message_from_bytes(letter, policy=email.policy.default))
                _say('250 taken')
            else: _say('221 bye' if line.startswith(b'QUIT') else '250 well')

def test_an_alert_by_email(bundle, nursery, tmp_path):
    "Away, busy, refusing and silent servers are tried again with longer pauses, no grading waits for them; what arrives names the alert and nobody"
    post, eye = Post('away', 'busy', 'refuses', 'silent', 'slow', 'well'), picture(1, 64)
    ask = nursery.start(bundle, tmp_path/'s', email='anna@clinic.example, ben@clinic.example', smtp=f'127.0.0.1:{post.server_address[1]}', pause=.1, timeout=1.5)
    assert ready(ask)
    start = time.monotonic()
    said = [ask.grade(eye, dict(patient='Zyxwhite', hospital='A'), key=f'k{i}').json for i in range(2)]
    assert time.monotonic() - start < 3
    end = time.time() + 40
    while len(post.got) < 2 and time.time() < end: time.sleep(.02)
    alerts = ask('GET', '/v1/alerts').json['alerts']
    assert {m['Message-ID'] for m in post.got} == {f"<{a['id']}@retina_nb.invalid>" for a in alerts}
    for m in post.got:
        assert m['To'] == 'anna@clinic.example, ben@clinic.example' and m['Date'] and 'a case needs a person' in m['Subject']
        text = m.get_content()
        a = next(a for a in alerts if a['id'] in text)
        assert a['prediction'] in text and 'Zyxwhite' not in m.as_string() and said[0]['name'] not in text
    assert len(post.times) >= 6 # four times in vain
    nursery.kill(signal.SIGTERM)
    with Store(tmp_path/'s') as s: assert s.owed('email') == []
    post.shutdown()

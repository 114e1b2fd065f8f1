"A service is killed at any moment: what it has acknowledged is there, nothing is there by half, a retry gives one row, and nobody who should be told is forgotten"
import http.client, json, os, random, shutil, signal, subprocess, sys, time

import pytest

from retina_nb.serve import Store
from random_model import shared
from servers import Handler, Server
from clients import Client, picture, together

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
        try: os.kill(self.pid, 0)
        except ProcessLookupError: return False
        return True
    def kill(self, how=signal.SIGKILL):
        end = time.time() + 60
        if self.alive(): os.kill(self.pid, how)
        while self.alive() and time.time() < end: time.sleep(.01)
        assert not self.alive()
    def close(self):
        if self.n: self.kill()
        self.proc.stdin.close()
        self.proc.stdout.close()
        self.proc.wait(60)

@pytest.fixture(scope='module')
def bundle(tmp_path_factory): return shutil.copytree(shared()[1], tmp_path_factory.mktemp('b')/'model')

@pytest.fixture
def nursery(tmp_path):
    n = Nursery(tmp_path)
    yield n
    n.close()

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
        except (OSError, http.client.HTTPException): return False # it has died
        time.sleep(.01)
    raise AssertionError('not ready')

HOW = 'at random', 'between statements', 'before commit', 'after commit', 'before reply', 'before it is noted'

@pytest.mark.parametrize('kills', [pytest.param(6, id='6'), pytest.param(500, id='500', marks=pytest.mark.full)])
def test_killed(bundle, nursery, tmp_path, kills):
    rng, told, tried, eyes = random.Random(16), {}, {}, [picture(i, 64, 'JPEG') for i in range(3)]
    hook, db = Server(Hook, got=[], open=True), tmp_path/'s'
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
            time.sleep(.05 + rng.random()*.3)
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

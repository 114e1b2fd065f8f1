"What the tests of the store share: both databases, a model without a file, gradings made by hand, children that are killed"
import contextlib, gc, io, os, pickle, pwd, random, select, shlex, shutil, signal, subprocess, sys, tempfile, time
from dataclasses import replace
from pathlib import Path

import psycopg, pytest

from retina_nb.core import get_task
from retina_nb.deploy import Grading
from retina_nb.serve import Event, Store, photo
from retina_nb.serve.answers import bundle_digest
from retina_nb.serve.schema import bundle as models, now

MODEL = 'a1b2c3d4e5f6'

# --- PostgreSQL, of the session's own
def _binaries():
    "The folder with initdb and pg_ctl; None where PostgreSQL is not installed"
    found = shutil.which('initdb')
    places = sorted(Path('/usr/lib/postgresql').glob('*/bin'), key=lambda p: float(p.parent.name), reverse=True)
    return Path(found).parent if found else next((p for p in places if (p/'initdb').exists()), None)

def _somebody():
    "Who runs the server: PostgreSQL refuses root"
    if os.geteuid(): return {}
    for name in ('postgres', 'nobody'):
        with contextlib.suppress(KeyError):
            who = pwd.getpwnam(name)
            return dict(user=who.pw_uid, group=who.pw_gid, extra_groups=[])
    return None

class Cluster:
    "A PostgreSQL server on a socket in a folder of its own"
    def __init__(self, programs, who):
        self.programs, self.who, self.n = programs, who, 0
        self.folder = Path(tempfile.mkdtemp(prefix='rnb_pg_'))
        if who: os.chown(self.folder, who['user'], who['group'])
        self._run('initdb', '-D', self.folder/'data', '-U', 'store', '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8', '--no-sync')
        self._watch()
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c fsync=off -c max_connections=200"
        self._run('pg_ctl', '-D', self.folder/'data', '-l', self.folder/'log', '-o', options, '-w', '-t', '60', 'start')
    def _watch(self):
        "A shell that ends the server and removes its folder once this process is gone, in whatever way: then its pipe ends"
        mine, self.alive = os.pipe()
        pg_ctl, folder = (shlex.quote(str(p)) for p in (self.programs/'pg_ctl', self.folder))
        self.watcher = subprocess.Popen(['/bin/sh', '-c', f'cat; {pg_ctl} -D {folder}/data -m immediate -w stop; rm -rf {folder}'], cwd='/', stdin=mine,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **self.who)
        os.close(mine)
    def _run(self, name, *args):
        r = subprocess.run([str(self.programs/name), *map(str, args)], cwd=self.folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                           env={**os.environ, 'TZ': 'Asia/Taipei'}, **self.who)
        assert r.returncode == 0, r.stdout + r.stderr
    def sql(self, text, db='postgres'):
        with psycopg.connect(f'host={self.folder} user=store dbname={db}', autocommit=True) as c: c.execute(text)
    def new(self):
        "The URL of an empty place: a schema of its own, which is there at once, where a database would take half a second"
        self.n += 1
        self.sql(f'CREATE SCHEMA t{self.n}')
        return f'postgresql://store@/postgres?host={self.folder}&options=-csearch_path%3Dt{self.n}'
    def stop(self):
        if keep := os.environ.get('RETINA_NB_PG_LOG'): shutil.copy(self.folder/'log', keep)
        os.close(self.alive)
        self.watcher.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

@pytest.fixture(scope='session')
def cluster():
    programs, who = _binaries(), _somebody()
    if programs is None: pytest.skip('PostgreSQL is not installed (apt install postgresql): tried on SQLite only')
    if who is None: pytest.skip('PostgreSQL refuses root, and there is no other user')
    c = Cluster(programs, who)
    yield c
    c.stop()

@pytest.fixture(params=['sqlite', 'postgresql'])
def url(request, tmp_path):
    "An empty store, on one database after the other"
    return str(tmp_path/'store') if request.param == 'sqlite' else request.getfixturevalue('cluster').new()

# --- models and gradings
@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    "A copy of the small model, for the tests of a file to do with as they please"
    from random_model import shared
    return Path(shutil.copytree(shared()[1], tmp_path_factory.mktemp('b')/'model'))

def add_model(store, id=MODEL, name='by hand', task='dr', folder='/nowhere'):
    "A bundle's row, without a bundle"
    row = dict(id=id, name=name, task=get_task(task).to_dict(), preprocess='57aca2d25500', folder=folder, registered=now())
    row |= dict(run='', data='', code='')
    store.write(lambda conn, note: (conn.execute(models.insert().values(**row)), note(Event('bundle', id, bundle_digest(row)))))
    return id

def a_grading(seed=0, file='eye.jpg', model=MODEL):
    "A grading made of a seed, with every digit that a float has"
    rng, task = random.Random(seed), get_task('dr')
    ps = [rng.random() for _ in task.classes]
    ps = [p/sum(ps) for p in ps]
    grade, pos = max(range(5), key=ps.__getitem__), sum(ps[2:])
    return Grading(file, grade, task.classes[grade], ps, pos >= .4, pos, .4, dict(ok=rng.random() > .3, score=rng.random(), reasons=['hazy']),
                   dict(prepare=rng.random(), model=rng.random()), dict(name='by hand', id=model, preprocess='57aca2d25500', precision='fp32'),
                   task, novelty=rng.random()*2, novel=rng.random() > .5, trained_on='trained on synthetic eyes')

@pytest.fixture
def store(url):
    with Store(url) as s:
        add_model(s)
        yield s

def kept_photo(data, **kw):
    "A few bytes that stand for a photograph, kept as they are where photographs are kept"
    return replace(photo(data, **kw), copy=data)

def send(store, n, **kw):
    "Record a request of two photographs that is made of a number"
    return store.record([kept_photo(f'{n} left'.encode(), patient=f'P{n}'), kept_photo(f'{n} right'.encode(), patient=f'P{n}')],
                        [a_grading(f'{n} left'), a_grading(f'{n} right')], key=f'key {n}', tags=dict(n=str(n)), **kw)

# --- children
class Child:
    """A forked process that says things through a pipe. What the parent holds is frozen first, or the child's garbage collection might close a
    session of ONNX Runtime that an earlier test left in a cycle, and wait for threads that it has not"""
    def __init__(self, f, *args):
        self.r, w = os.pipe()
        gc.freeze()
        self.pid = os.fork()
        if self.pid: gc.unfreeze()
        if self.pid == 0:
            status = 1
            try:
                os.close(self.r)
                f(lambda *words: os.write(w, (' '.join(map(str, words)) + '\n').encode()), *args)
                status = 0
            except BaseException as e:
                print(f'child: {type(e).__name__}: {e}', file=sys.stderr, flush=True)
            finally: os._exit(status)
        os.close(w)
        self.said = b''
    def first(self, timeout=30):
        "Wait for its first line"
        end = time.time() + timeout
        while b'\n' not in self.said and select.select([self.r], [], [], max(0, end - time.time()))[0]:
            more = os.read(self.r, 65536)
            if not more: break
            self.said += more
        return self.said
    def kill(self):
        with contextlib.suppress(ProcessLookupError): os.kill(self.pid, signal.SIGKILL)
    def end(self, silent=60):
        "(its whole lines, its status); one that says nothing for so many seconds is killed"
        while True:
            if not select.select([self.r], [], [], silent)[0]: self.kill()
            if not (more := os.read(self.r, 65536)): break
            self.said += more
        os.close(self.r)
        _, status = os.waitpid(self.pid, 0)
        return self.said.decode().split('\n')[:-1], status

@pytest.fixture
def elsewhere():
    "Call a function in a forked process: its value, or its error"
    def _call(f):
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(r)
            try: got = 'value', f()
            except BaseException as e: got = 'error', (type(e).__name__, str(e))
            with os.fdopen(w, 'wb') as out: pickle.dump(got, out)
            os._exit(0)
        os.close(w)
        with os.fdopen(r, 'rb') as f_: data = f_.read()
        os.waitpid(pid, 0)
        return pickle.loads(data)
    return _call

@pytest.fixture
def retina_store(monkeypatch):
    "The command line as a user types it, read and run in this process: retina_store(db, 'status') -> CompletedProcess"
    from retina_nb.commands import _parse
    from retina_nb.serve import retina_store
    def _run(*args, **env):
        for k, v in env.items(): monkeypatch.setenv(k, v)
        out, err, status = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try: retina_store(**_parse(retina_store.__wrapped__, [*map(str, args)]))
            except SystemExit as e: status = e.code or 0
        return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())
    return _run

@pytest.fixture
def as_program(tmp_path):
    "The same as a program of its own"
    script = tmp_path/'retina_store'
    script.write_text('from retina_nb.serve import retina_store\nretina_store()\n')
    def _run(*args, **env):
        return subprocess.run([sys.executable, str(script), *map(str, args)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                              stdin=subprocess.DEVNULL, env={**os.environ, **env})
    return _run

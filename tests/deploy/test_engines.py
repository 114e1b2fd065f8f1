"Shards on Dask and on Ray, while workers, scheduler and client are killed: every image exactly once in the result, none lost"
import contextlib, importlib, io, os, random, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
from PIL import Image

from retina_nb.core import RunError
from retina_nb.deploy import engines
from retina_nb.deploy.bulk_run import grade_bulk
from retina_nb.deploy.engines import _on_dask, dask_engine
from retina_nb.storage import place_at
from retina_nb.synth import synth_eye

import stores
from processes import descendants
from random_model import shared

ROOT = Path(__file__).resolve().parents[2]
N, PER_SHARD = 48, 2
CLIENT = """import sys
from retina_nb.core import RetinaError
from retina_nb.deploy.bulk_run import grade_bulk
bundle, where, out, engine, scheduler, per_shard = sys.argv[1:]
try: grade_bulk(bundle, where, out, engine=engine, workers=2, scheduler=scheduler or None, per_shard=int(per_shard), progress=False)
except RetinaError as e: sys.exit(str(e))
"""
FAULTY = """import os, signal
def grade(job):
    if job['shard'] == 1: os.kill(os.getpid(), signal.SIGKILL)
    if job['shard'] == 2: raise ValueError('a fault\\nof the program')
    return dict(shard=job['shard'], images=1, bad=0, skipped=False, seconds=0., error='')
"""
ENV = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT='2s')

def end(*procs):
    "Kill processes and what they have started"
    for p in procs:
        try: mine = [psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True)]
        except psutil.NoSuchProcess: mine = []
        for o in mine:
            try: o.kill()
            except psutil.NoSuchProcess: pass
        p.wait()

@pytest.fixture(scope='module')
def eyes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('engines')/'eyes'
    folder.mkdir()
    for i in range(N): Image.fromarray(synth_eye(i, size=72).image).save(folder/f'{i:03d}.png')
    return folder

def index_of(out):
    "The table of a grading, wherever it lies"
    place = place_at(str(out))
    return pd.concat([pd.read_parquet(io.BytesIO(place.read(f.name))) for f in place.files('index')], ignore_index=True)

@pytest.fixture(scope='module')
def whole(eyes, tmp_path_factory):
    "What a grading comes to that nobody disturbed: summary and table"
    out = tmp_path_factory.mktemp('whole')/'out'
    return grade_bulk(shared()[1], eyes, out, workers=1, per_shard=PER_SHARD, progress=False), index_of(out)

class Dask:
    "A Dask cluster of the usual kind: a scheduler and two workers, each with a process that starts it again, on loopback"
    def __init__(self, folder): self.folder, self.port, self.procs = folder, stores.free_ports(1)[0], []
    address = property(lambda self: f'tcp://127.0.0.1:{self.port}')
    def _run(self, what, *options):
        cmd = [sys.executable, '-m', f'distributed.cli.dask_{what}', *options, '--host', '127.0.0.1', '--no-dashboard']
        self.procs.append(subprocess.Popen(cmd, cwd=self.folder, env={**os.environ, **ENV}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return self.procs[-1]
    def start(self):
        end(*self.procs)
        self.procs = []
        self.scheduler = self._run('scheduler', '--port', str(self.port))
        self._run('worker', self.address, '--nworkers', '2', '--nthreads', '1', '--death-timeout', '60', '--local-directory', str(self.folder))
        return self
    def workers(self):
        "The processes that do the work; not those that watch them"
        return descendants('spawn_main', self.procs[1].pid)

@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    cluster = Dask(tmp_path_factory.mktemp('dask'))
    yield cluster.start()
    end(*cluster.procs)

@pytest.fixture
def dask(cluster):
    "The cluster, whatever the test before has done to it"
    return cluster if all(p.poll() is None for p in cluster.procs) else cluster.start()

def begin(eyes, out, engine, scheduler='', python=sys.executable, **env):
    cmd = [str(python), '-c', CLIENT, str(shared()[1]), str(eyes), str(out), engine, scheduler, str(PER_SHARD)]
    return subprocess.Popen(cmd, env={**os.environ, **ENV, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def done(out):
    "How many shards have a result"
    return sum('/' not in f.name and f.name.endswith('.parquet') for f in place_at(str(out)).files())

def wait_for(out, n, client, seconds=120):
    "Wait until `n` shards are done, or the client is through"
    stop = time.time() + seconds
    while done(out) < n and client.poll() is None:
        assert time.time() < stop, f'only {done(out)} shards are done'
        time.sleep(.01)

def as_it_should_be(out, whole, client):
    said = client.communicate(timeout=180)[0]
    assert client.returncode == 0, said
    summary, table = whole
    pd.testing.assert_frame_equal(index_of(out).drop(columns='seconds', errors='ignore'), table.drop(columns='seconds', errors='ignore'))
    assert len(table) == summary['graded'] == N and done(out) == N/PER_SHARD

VICTIMS = ('dask', 'worker'), ('dask', 'scheduler'), ('dask', 'client'), ('local', 'worker'), ('local', 'client'), ('dask alone', 'client')

@pytest.mark.turns(3)
@pytest.mark.parametrize('seed', [*range(3), *(pytest.param(s, marks=pytest.mark.full) for s in range(3, 23))])
def test_whoever_is_killed_every_image_is_there_once(seed, eyes, whole, dask, tmp_path, request):
    engine, victim = VICTIMS[seed%len(VICTIMS)]
    rng, out, own = random.Random(seed), tmp_path/'out', engine != 'dask'
    if seed > 2 and seed%4 < 2: out = f"{request.getfixturevalue('s3')}/out"  # the result in an object store
    if engine == 'dask' and isinstance(out, str): dask.start()  # workers have the keys in their environment
    how = dict(engine=engine.split()[0], scheduler='' if own else dask.address)
    client = begin(eyes, out, **how)
    try:
        wait_for(out, rng.randrange(N//PER_SHARD*2//3), client)
        time.sleep(rng.uniform(0, .1))
        if victim == 'client': end(client) if rng.random() < .5 else client.kill()
        elif victim == 'scheduler': dask.scheduler.kill()
        else: rng.choice(psutil.Process(client.pid).children(recursive=True) if own else dask.workers()).kill()
        said = client.communicate(timeout=180)[0]
        if victim == 'scheduler': assert client.returncode == 1 and 'the scheduler was lost' in said.splitlines()[-1], said
        if victim == 'scheduler': dask.start()
        if victim == 'worker': assert client.returncode == 0, said
        else: client = begin(eyes, out, **how)
        as_it_should_be(out, whole, client)
    finally: end(client)

def test_a_shard_that_kills_its_workers_is_told_and_the_others_are_done(dask, tmp_path, monkeypatch):
    (dask.folder/'faulty_shards.py').write_text(FAULTY)
    monkeypatch.syspath_prepend(str(dask.folder))
    grade = importlib.import_module('faulty_shards').grade
    told = {t['shard']: t for t in _on_dask([dict(shard=k, images=1) for k in range(6)], None, dask.address, grade)}
    assert len(told) == 6 and [k for k in told if told[k]['error']] and 'workers died' in told[1]['error']
    assert told[2]['error'] == 'ValueError: a fault of the program' and not any(told[k]['error'] for k in (0, 3, 4, 5))

@pytest.mark.parametrize('address', ['tcp://127.0.0.1:9', '127.0.0.1:9', 'nothing://here', 'no-such-host.invalid:8786'])
def test_no_scheduler_there(address, monkeypatch):
    monkeypatch.setattr(engines, '_PATIENCE', 1)
    begun = time.time()
    with pytest.raises(RunError, match='no Dask scheduler answers there') as e: list(dask_engine([dict(shard=0)], scheduler=address))
    assert '\n' not in str(e.value) and address in str(e.value) and time.time() - begun < 30

@pytest.mark.parametrize('failure, says', [(TimeoutError(), 'Dask: no worker came'), (ConnectionError(), 'Dask: the scheduler was lost')])
def test_a_cluster_of_ones_own_is_called_by_its_name(failure, says, monkeypatch):
    def lost(*_, **__): raise failure
    monkeypatch.setattr(engines, '_own_dask', lambda workers: contextlib.nullcontext(SimpleNamespace(wait_for_workers=lost)))
    with pytest.raises(RunError, match=says): list(dask_engine([dict(shard=0)]))

@pytest.mark.parametrize('scheduler, failures, starts', [(None, 1, True), (None, 2, False), ('10.0.0.5:6379', 1, False)])
def test_ray_that_does_not_start(scheduler, failures, starts, monkeypatch):
    "It raises a bare Exception when a busy machine is slower than it expects: here it is tried again, once"
    def init(*args, **how):
        asked.append(how)
        if len(asked) <= failures: raise Exception('timed out\nduring startup')
    asked, ray = [], SimpleNamespace(init=init, shutdown=lambda: None, cluster_resources=lambda: dict(CPU=3.))
    monkeypatch.setattr(engines, 'need', lambda name: ray)
    if starts: assert engines._start_ray(2, scheduler) == (ray, 2) and asked[0] == asked[1] and asked[0]['_node_ip_address'] == '127.0.0.1'
    else:
        with pytest.raises(RunError, match=f"{scheduler or 'Ray'}: cannot be reached .Exception: timed out during startup") as e: engines._start_ray(2, scheduler)
        assert '\n' not in str(e.value) and len(asked) == failures

@pytest.fixture(scope='module')
def ray_python(tmp_path_factory):
    "A Python that has Ray: the one that RETINA_NB_RAY names, or one made for these tests, which also sees what is installed here"
    if os.environ.get('RETINA_NB_RAY'): return Path(os.environ['RETINA_NB_RAY'])
    folder = tmp_path_factory.mktemp('ray')
    subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
    site = next(folder.glob('lib/python*/site-packages'))
    (site/'here.pth').write_text('\n'.join(p for p in sys.path if p.endswith('-packages')))
    subprocess.run([folder/'bin'/'pip', 'install', '-q', '-c', ROOT/'constraints.txt', 'ray[data]>=2.60'], check=True)
    return folder/'bin'/'python'

@pytest.mark.full
@pytest.mark.parametrize('victim', ['', 'worker', 'client'])
def test_ray(victim, eyes, whole, ray_python, tmp_path):
    out, client = tmp_path/'out', begin(eyes, tmp_path/'out', 'ray', python=ray_python)
    try:
        wait_for(out, 5, client)
        if victim == 'worker': descendants('MapWorker', client.pid)[0].kill()
        if victim == 'client':
            client.kill()
            client.communicate()
            client = begin(eyes, out, 'ray', python=ray_python)
        as_it_should_be(out, whole, client)
    finally: end(client)

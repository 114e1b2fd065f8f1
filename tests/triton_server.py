"""A real tritonserver: the one that the wheel of nvidia-pytriton carries, with its Python backend. It needs numpy<2, and so an environment
of its own: the folder that RETINA_NB_TRITON names, where it is made once, or without it a temporary one"""
import atexit, functools, json, os, shlex, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.request
from importlib.metadata import version
from pathlib import Path

PACKAGES = 'nvidia-pytriton==0.7.0', 'numpy<2', f"onnxruntime=={version('onnxruntime')}"

class Missing(Exception):
    "Why there is no such server on this machine"

def _run(*cmd):
    r = subprocess.run(list(map(str, cmd)), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if r.returncode: raise Missing(f"{' '.join(map(str, cmd))}: {(r.stderr.strip() or r.stdout.strip()).splitlines()[-1:]}")
    return r.stdout

def _libraries(site): return os.pathsep.join([str(site/'nvidia_pytriton.libs'), str(Path(sys.base_prefix)/'lib')])

@functools.cache
def environment()->Path: # its site-packages
    "The environment, made where it is not there yet"
    if not sys.platform.startswith('linux'): raise Missing('the wheel of nvidia-pytriton has a server for Linux only')
    folder = os.environ.get('RETINA_NB_TRITON')
    if not folder:
        folder = tempfile.mkdtemp(prefix='retina_nb_triton_')
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder, site = Path(folder).absolute(), f'lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages'
    if not (folder/'made').exists():
        if folder.is_dir() and any(folder.iterdir()) and not (folder/'pyvenv.cfg').exists(): raise Missing(f'{folder} holds something else')
        _run(sys.executable, '-m', 'venv', folder)
        shutil.rmtree(folder/'backends', ignore_errors=True)
        _run(folder/'bin'/'python', '-m', 'pip', 'install', '-q', *shlex.split(os.environ.get('RETINA_NB_PIP_ARGS', '')), *PACKAGES)
        _backends(folder/site, folder/'backends')
        (folder/'made').write_text('\n'.join(PACKAGES))
    if (folder/'made').read_text() != '\n'.join(PACKAGES): raise Missing(f'{folder} was made of other packages: delete it')
    return folder/site

def _backends(site, out):
    "The folder of backends as the server wants it: with the program that runs this version of Python beside the library"
    inside, (a, b) = site/'pytriton'/'tritonserver', sys.version_info[:2]
    stub = inside/'python_backend_stubs'/f'{a}.{b}'/'triton_python_backend_stub'
    if not stub.exists(): raise Missing(f'the wheel has no Python backend for Python {a}.{b}')
    shutil.copytree(inside/'backends', out)
    shutil.copy(stub, out/'python')
    lacking = [l for l in subprocess.run(['ldd', stub], capture_output=True, text=True, env={**os.environ, 'LD_LIBRARY_PATH': _libraries(site)}).stdout.splitlines() if 'not found' in l]
    if lacking: raise Missing(f'the Python backend finds no {lacking[0].split()[0]}')

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Tritonserver:
    "tritonserver on a model repository, in processes of its own on this machine; a model that cannot be loaded does not stop it"
    def __init__(self, repository, *options, port=None, seconds=60):
        site = environment()
        self.port, self.prefix = port or free_port(), f'retina_nb_{os.getpid()}_{time.monotonic_ns()}'
        self.url, self.log = f'http://127.0.0.1:{self.port}', tempfile.TemporaryFile()
        self.repository = Path(repository)
        cmd = [site/'pytriton'/'tritonserver'/'bin'/'tritonserver', '--model-repository', self.repository, '--backend-directory', site.parents[2]/'backends',
               '--backend-config', f'python,shm-region-prefix-name={self.prefix}', '--http-address', '127.0.0.1', '--http-port', self.port,
               '--allow-grpc', 'false', '--allow-metrics', 'false', '--exit-on-error', 'false', '--strict-readiness', 'false', *options]
        env = {**os.environ, 'LD_LIBRARY_PATH': _libraries(site), 'PATH': f"{site.parents[2]/'bin'}{os.pathsep}{os.environ['PATH']}"}
        self.process = subprocess.Popen(list(map(str, cmd)), env=env, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.time() + seconds
        while not self._ready():
            if self.process.poll() is not None or time.time() > end:
                self.stop()
                raise RuntimeError(f'tritonserver does not start:\n{self.text()[-3000:]}')
            time.sleep(.1)
    def _ready(self):
        try:
            with urllib.request.urlopen(f'{self.url}/v2/health/ready', timeout=2) as r: return r.status == 200
        except OSError: return False
    def text(self):
        "What it has said"
        self.log.seek(0)
        return self.log.read().decode('utf-8', 'replace')
    def get(self, path, body=None):
        with urllib.request.urlopen(f'{self.url}/v2{path}', body, timeout=30) as r: return json.loads(r.read() or b'null')
    def models(self):
        "Processes that run Python models"
        out = subprocess.run(['pgrep', '-P', str(self.process.pid)], capture_output=True, text=True).stdout
        return [int(o) for o in out.split()]
    def kill(self):
        "At once, with the processes of its models"
        try: os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError: pass
        self.process.wait()
    def stop(self, seconds=30):
        if self.process.poll() is None: self.process.send_signal(signal.SIGTERM)
        try: self.process.wait(seconds)
        except subprocess.TimeoutExpired: pass
        self.kill()
        for f in Path('/dev/shm').glob(f'{self.prefix}*'): f.unlink(missing_ok=True)
    def __enter__(self): return self
    def __exit__(self, *_):
        self.stop()
        self.log.close()

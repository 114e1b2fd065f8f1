"A real object store on loopback for tests: SeaweedFS, which speaks S3, in a folder of its own; and what tests say to it"
import contextlib, os, shutil, socket, subprocess, sys, tempfile, time
from pathlib import Path

KEYS = dict(AWS_ACCESS_KEY_ID='tests', AWS_SECRET_ACCESS_KEY='a-secret-of-the-tests')

def free_ports(n):
    "Ports that nobody listens on; each with that 10,000 above it, which the server takes for itself. None where there are not enough"
    found = []
    for port in range(20_000 + os.getpid()%3_000*7, 50_000):
        with contextlib.ExitStack() as stack:
            try:
                for p in (port, port + 10_000): stack.enter_context(socket.socket()).bind(('127.0.0.1', p))
            except OSError: continue
            found.append(port)
        if len(found) == n: return found
    return None

def weed(): return Path(sys.executable).with_name('weed')

@contextlib.contextmanager
def s3_running():
    "SeaweedFS with an empty bucket called clinic: its address. It ends with this process too, however that ends"
    folder, (s3, master, volume, filer, admin) = Path(tempfile.mkdtemp(prefix='rnb_s3_')), free_ports(5)
    ports = {'s3.port': s3, 'master.port': master, 'volume.port': volume, 'filer.port': filer, 'admin.port': admin,
             's3.port.iceberg': 0, 's3.port.lance': 0}
    options = [f'-{k}={v}' for k, v in dict(dir=folder, ip='127.0.0.1', webdav='false', **{'ip.bind': '127.0.0.1', 'admin.ui': 'false', 'master.telemetry': 'false'}, **ports).items()]
    mine, alive = os.pipe()
    script = 'exec 3<&0; "$@" </dev/null & weed=$!; (cat <&3; kill -9 $weed) & wait $weed'
    with open(folder/'log', 'w') as log:
        proc = subprocess.Popen(['/bin/sh', '-c', script, 'sh', str(weed()), 'mini', *options], cwd=folder, stdout=log, stderr=log, stdin=mine,
                                start_new_session=True, env={**os.environ, **KEYS, 'S3_BUCKET': 'clinic'})
    os.close(mine)
    try:
        end = time.time() + 60
        while 'S3 Endpoint' not in (folder/'log').read_text(errors='replace'):
            assert proc.poll() is None and time.time() < end, (folder/'log').read_text(errors='replace')[-2000:]
            time.sleep(.1)
        yield f'http://127.0.0.1:{s3}'
    finally:
        os.close(alive)
        proc.wait(15)
        shutil.rmtree(folder, ignore_errors=True)

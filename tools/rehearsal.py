"""A day of the image as compose.yml has it: python tools/rehearsal.py TREE BUNDLE FOLDER [PANEL_TREE], within namespaces of its own (see containers.py).

The network leads nowhere, so every port is free and every name is this machine; the processes end with the first one; what is mounted
is gone afterwards. The image's files are mounted so that they cannot be written to, and its program is nobody."""
import contextlib, json, os, pwd, re, shutil, signal, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
import containers

COMPOSE = yaml.safe_load((containers.DEPLOY/'compose.yml').read_text())

def run(*args, **kwargs): return subprocess.run([str(a) for a in args], check=True, **kwargs)

def mount(*args): run('mount', *args)

def network(folder):
    "The names of compose.yml mean this machine, which is all that there is"
    run('ip', 'link', 'set', 'lo', 'up')
    hosts = folder/'hosts'
    hosts.write_text('127.0.0.1 localhost ' + ' '.join(COMPOSE['services']) + '\n')
    hosts.chmod(0o644)
    mount('--bind', hosts, '/etc/hosts')
    (folder/'nsswitch.conf').write_text('passwd: files\ngroup: files\nhosts: files\n')
    mount('--bind', folder/'nsswitch.conf', '/etc/nsswitch.conf')
    socket.sethostname('service')

FACTS = {}

def note(what, value=True):
    "Say what was seen, and keep it for whoever asked for the rehearsal"
    FACTS[what] = value
    print(f'rehearsal: {what}' + ('' if value is True else f': {value}'), flush=True)

class Image:
    "The image as a container engine would lay it out for one service of compose.yml"
    def __init__(self, tree, folder, name, bundle, secrets):
        self.said, self.root = COMPOSE['services'][name], folder/f'{name}_root'
        self.root.mkdir()
        mount('--bind', tree, self.root)
        for p in ('proc', 'dev', 'models', 'run/secrets'): (self.root/p).mkdir(parents=True, exist_ok=True)
        for f in ('hosts', 'resolv.conf'): (self.root/'etc'/f).touch()
        files = [self.root/'run/secrets'/s for s in self.said.get('secrets', ())]
        for f in files: f.touch()
        mount('-o', 'remount,bind,ro', self.root)
        mount('-t', 'proc', 'proc', self.root/'proc')
        mount('--rbind', '/dev', self.root/'dev')
        mount('--bind', '/etc/hosts', self.root/'etc/hosts')
        for t in self.said['tmpfs']:
            where, _, options = t.partition(':')
            mount('-t', 'tmpfs', '-o', options or 'mode=1777', 'tmpfs', self.root/where.lstrip('/'))
        for f in files: mount('--bind', secrets/Path(COMPOSE['secrets'][f.name]['file']).name, f)
        self.command = [re.sub(r'\$\{MODEL:-[^}]*\}', bundle.name, w) for w in self.said['command']]
        if self.said.get('volumes'):
            mount('--bind', bundle.parent, self.root/'models')
            mount('-o', 'remount,bind,ro', self.root/'models')
    def env(self):
        "What the image sets, then compose.yml"
        text = (containers.DEPLOY/'Dockerfile').read_text().replace('\\\n', ' ')
        own = dict(re.findall(r'(\w+)=(\S+)', re.findall(r'^ENV (.*)$', text, re.M)[-1]))
        return own | {k: str(v) for k, v in self.said.get('environment', {}).items()}
    def start(self, *command, **kwargs):
        "A program in it, as its user, who can gain no rights"
        entry = json.loads(re.search(r'^ENTRYPOINT (.*)$', (containers.DEPLOY/'Dockerfile').read_text(), re.M)[1])
        user = self.said['user']
        return subprocess.Popen([shutil.which('setpriv'), '--no-new-privs', shutil.which('chroot'), f'--userspec={user}', f'--groups={user.split(":")[1]}', str(self.root),
                                 *entry, *map(str, command)], env=self.env(), cwd='/', stdin=subprocess.DEVNULL, text=True, **kwargs)
    def told(self, *command):
        "What a program in it says; one that fails is an error"
        p = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = p.communicate(timeout=120)[0]
        assert p.returncode == 0, f'{command[0]}: {out[-1500:]}'
        return out
    def healthy(self):
        "What compose.yml asks, asked in the image"
        test = self.said['healthcheck']['test']
        p = subprocess.run([shutil.which('chroot'), '--userspec=10001:10001', str(self.root), *test[1:]], env=self.env(), stdin=subprocess.DEVNULL)
        return p.returncode == 0

def wait(what, ok, proc, log, seconds=90):
    end = time.time() + seconds
    while not ok():
        text = Path(log).read_text(errors='replace')[-3000:]
        assert proc.poll() is None, f'{what} ended with status {proc.returncode}: {text}'
        assert time.time() < end, f'{what} is not ready after {seconds} s: {text}'
        time.sleep(.2)

def database(folder, secrets):
    "PostgreSQL, as its image sets it up: one user, a password from the file"
    programs = max(Path('/usr/lib/postgresql').glob('*/bin'), key=lambda p: float(p.parent.name))
    who = pwd.getpwnam('postgres')
    where = folder/'pg'
    where.mkdir()
    shutil.copy(secrets/'database_password', where/'password')
    for p in (where, where/'password'): os.chown(p, who.pw_uid, who.pw_gid)
    as_ = dict(user=who.pw_uid, group=who.pw_gid, extra_groups=[], cwd=where)
    run(programs/'initdb', '-D', where/'data', '-U', 'retina', f'--pwfile={where}/password', '-A', 'scram-sha-256', '--no-sync', stdout=subprocess.DEVNULL, **as_)
    log = open(where/'log', 'w')
    proc = subprocess.Popen([programs/'postgres', '-D', where/'data', '-c', 'listen_addresses=127.0.0.1', '-c', f'unix_socket_directories={where}', '-c', 'fsync=off'],
                            stdout=log, stderr=log, **as_)
    ready = ['-h', '127.0.0.1', '-U', 'retina']
    wait('PostgreSQL', lambda: subprocess.run([programs/'pg_isready', '-q', *ready], **as_).returncode == 0, proc, where/'log')
    env = {**os.environ, 'PGPASSWORD': (secrets/'database_password').read_text()}
    run(programs/'createdb', *ready, 'retina', env=env, **as_)
    return proc

def objects(folder, secrets):
    "The object store, by the command line of compose.yml"
    data = folder/'objects'
    data.mkdir()
    words = {'/data': data, '/run/secrets/objects_identities': secrets/'objects_identities.json'}
    command = [re.sub('|'.join(words), lambda m: str(words[m[0]]), a) for a in COMPOSE['services']['objects']['command']]
    log = open(folder/'objects.log', 'w')
    proc = subprocess.Popen([containers.weed(), *command], stdout=log, stderr=log, cwd=data)
    url = COMPOSE['services']['objects']['healthcheck']['test'][-1]
    def _ok():
        with contextlib.suppress(OSError): return urllib.request.urlopen(url, timeout=2).status == 200
    wait('the object store', _ok, proc, folder/'objects.log')
    return proc

def ask(path, key=None, body=None, kind=None, method=None):
    "(status, content) of a request to the service"
    headers = ({'Authorization': f'Bearer {key}'} if key else {}) | ({'Content-Type': kind} if kind else {})
    r = urllib.request.Request('http://127.0.0.1:8000' + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(r, timeout=60) as said: return said.status, said.read()
    except urllib.error.HTTPError as e: return e.code, e.read()

def photograph():
    import io
    from PIL import Image as Picture
    from retina_nb.synth import synth_eye
    f = io.BytesIO()
    Picture.fromarray(synth_eye(3, grade=3, size=512).image).save(f, 'JPEG')
    return f.getvalue()

def prometheus(folder, secrets):
    "Prometheus by its file, if it is here; the service must come out as up"
    if not shutil.which('prometheus'): return note('Prometheus is not installed (apt install prometheus): its part was not tried')
    mount('-t', 'tmpfs', 'tmpfs', '/run')
    Path('/run/secrets').mkdir()
    shutil.copy(secrets/'prometheus_key', '/run/secrets')
    text = (containers.DEPLOY/'prometheus.yml').read_text().replace('scrape_interval: 15s', 'scrape_interval: 1s').replace('scrape_timeout: 10s', 'scrape_timeout: 1s')
    (folder/'prometheus.yml').write_text(text)
    with open(folder/'prometheus.log', 'w') as f:
        proc = subprocess.Popen(['prometheus', f'--config.file={folder}/prometheus.yml', f'--storage.tsdb.path={folder}/series'], stdout=f, stderr=f)
    def _up():
        with contextlib.suppress(OSError):
            found = json.load(urllib.request.urlopen('http://127.0.0.1:9090/api/v1/query?query=up%7Bjob%3D%22retina%22%7D', timeout=2))['data']['result']
            return bool(found) and found[0]['value'][1] == '1'
    wait('Prometheus', _up, proc, folder/'prometheus.log', 60)
    proc.terminate()
    proc.wait(60)
    note('Prometheus counts the service as up')

def panel(tree, bundle, folder, secrets):
    "The panel in its own image: ready by compose.yml's own question, closed without its token, open with it"
    image = Image(tree, folder, 'panel', bundle, secrets)
    log = folder/'panel.log'
    with open(log, 'w') as f: proc = image.start(*image.command, stdout=f, stderr=f)
    wait('the panel', image.healthy, proc, log)
    token = re.search(r'\?token=([\w-]+)', log.read_text())[1]
    r = urllib.request.urlopen(f'http://127.0.0.1:8866/?token={token}', timeout=90)
    text = r.read().decode(errors='replace')
    assert r.status == 200 and 'retina' in text.lower(), text[:500]
    proc.send_signal(signal.SIGTERM)
    status = proc.wait(60)
    assert status in (0, 143), f'the panel ended with status {status}: {log.read_text()[-1500:]}'
    assert (secrets/'panel_key').read_text() not in log.read_text()
    note('the panel opens with its token, and without it does not')

WRITES = """import os, tempfile
can = []
for folder, names, files in os.walk('/'):
    names[:] = [n for n in names if os.path.join(folder, n) not in ('/proc', '/dev', '/sys')]
    if os.access(folder, os.W_OK): can.append(folder)
print(os.getuid(), os.getgid(), os.getgroups(), *sorted(can))"""

def day(tree, bundle, folder, panel_tree=None):
    folder.mkdir()
    folder.chmod(0o755)
    network(folder)
    secrets = folder/'secrets'
    containers.make_secrets(secrets)
    for name in containers.KEYS: (secrets/f'{name}_key').touch()
    held = [database(folder, secrets), objects(folder, secrets)]
    image = Image(tree, folder, 'service', bundle, secrets)
    said = image.told('python', '-c', WRITES).split()
    assert said[:3] == ['10001', '10001', '[10001]'] and said[3:] == ['/tmp'], said
    note('folders that the service may write to', ' '.join(said[3:]))
    keys = {n: containers.key_in(image.told('retina_store', 'key', 'add', n, '--role', r)) for n, r in (containers.KEYS | dict(van='grader')).items()}
    for n in containers.KEYS:
        (secrets/f'{n}_key').unlink()
        containers.write_secret(secrets, f'{n}_key', keys[n])
    log = folder/'service.log'
    def _serve():
        began = time.time()
        with open(log, 'a') as f: proc = image.start(*image.command, stdout=f, stderr=f)
        wait('the service', image.healthy, proc, log)
        note('seconds until it is ready', round(time.time() - began, 1))
        return proc
    proc = _serve()
    eye = photograph()
    assert ask('/v1/gradings', None, eye, 'image/jpeg')[0] == 401
    boundary = 'b0undary'
    body = (f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="eye.jpg"\r\n\r\n').encode() + eye + f'\r\n--{boundary}--\r\n'.encode()
    kind = f'multipart/form-data; boundary={boundary}'
    status, got = ask('/v1/gradings/visit-1', keys['van'], body, kind, 'PUT')
    assert status == 200, (status, got)
    answer = json.loads(got)
    note('a photograph without a key is refused, one with a key is graded')
    kept = [str(p) for p in (folder/'objects').rglob('*.dat') if p.name.startswith('clinic') and p.stat().st_size > 1000]
    assert kept, 'the photograph is not in the object store'
    note('the photograph is kept in the object store')
    status, counters = ask('/metrics', keys['prometheus'])
    assert status == 200 and b'retina_requests_total' in counters, (status, counters[:300])
    prometheus(folder, secrets)
    if panel_tree: panel(panel_tree, bundle, folder, secrets)
    stop = time.time()
    proc.send_signal(signal.SIGTERM)
    assert proc.wait(100) == 0, f'the service ended with status {proc.returncode}: {log.read_text()[-2000:]}'
    note('seconds until it ends, after it is told to', round(time.time() - stop, 1))
    proc = _serve()
    status, again = ask('/v1/gradings/visit-1', keys['van'], body, kind, 'PUT')
    assert status == 200 and json.loads(again) == answer, (status, again, answer)
    text = log.read_text()
    told = [f.name for f in secrets.iterdir() if f.suffix != '.json' and f.read_text() in text] + [n for n, k in keys.items() if k in text]
    assert not told, f'the log tells {told}'
    note('started anew, it gives the stored answer')
    note('no secret is in its log')
    (folder/'facts.json').write_text(json.dumps(FACTS))
    proc.send_signal(signal.SIGTERM)
    proc.wait(100)
    for p in held[::-1]:
        p.send_signal(signal.SIGINT)
        p.wait(60)

if __name__ == '__main__':
    try: day(*(Path(a).resolve() for a in sys.argv[1:]))
    except (AssertionError, subprocess.CalledProcessError) as e: sys.exit(f'rehearsal: {e}')

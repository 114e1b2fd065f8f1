"""Containers: python tools/containers.py up | image-test

    up          start deploy/compose.yml where Docker is: secrets made, images built, keys handed out, addresses printed
    image-test  build the image without Docker (buildah, on a Debian that debootstrap makes), and have it do a day's work as compose.yml
                says: beside PostgreSQL and an object store, as nobody, on a file system that cannot be written to"""
import argparse, json, os, re, secrets, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEPLOY, SECRETS = ROOT/'deploy', ROOT/'deploy'/'secrets'
KEYS = {'panel': 'reviewer', 'prometheus': 'reader'}  # who needs a key of the service, and as what
BUCKET = 'clinic'  # of the object store, where photographs are kept
MOST = 600  # megabytes that the image may have

class Missing(Exception): "Something cannot be done here: the message says why, and what to do"

# --- secrets
def write_secret(folder, name, text):
    "A secret that is there already is kept: the database was made with it"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder/name
    if not file.exists():
        file.touch(0o600)
        file.write_text(text)
    # readable in the container, where another user runs; on this machine nobody else comes into the folder
    file.chmod(0o644)
    return file

def make_secrets(folder):
    "What database and object store ask for, made at random where it is not there yet; the keys of the service come later"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    write_secret(folder, 'database_password', secrets.token_urlsafe(32))
    id = write_secret(folder, 'objects_id', secrets.token_hex(10)).read_text()
    key = write_secret(folder, 'objects_key', secrets.token_urlsafe(32)).read_text()
    who = dict(name='service', credentials=[dict(accessKey=id, secretKey=key)], actions=[f'{may}:{BUCKET}' for may in ('Read', 'Write', 'List', 'Tagging')])
    write_secret(folder, 'objects_identities.json', json.dumps(dict(identities=[who])))

def key_in(text):
    "The key among what `retina_store key add` printed"
    m = re.search(r'^rnb_[0-9a-f]{12}_[\w-]{43}$', text, re.M)
    if not m: raise Missing('retina_store printed no key')  # and what it printed may hold half of one
    return m[0]

# --- up
def _compose(*args, **kwargs): return subprocess.run(['docker', 'compose', '-f', str(DEPLOY/'compose.yml'), *args], cwd=ROOT, **kwargs)

def _need_docker():
    if not shutil.which('docker'): raise Missing('Docker is not here: install it with its compose plugin, or start the service alone with make serve')
    r = subprocess.run(['docker', 'compose', 'version'], capture_output=True, text=True)
    if r.returncode: raise Missing('docker has no compose here: install its compose plugin')
    r = subprocess.run(['docker', 'info', '--format', '{{.ServerVersion}}'], capture_output=True, text=True)
    if r.returncode: raise Missing(f'Docker does not answer ({(r.stderr.strip() or "no reason told").splitlines()[-1][:200]}): start it, or start the service alone with make serve')

def _step(*args):
    if _compose(*args).returncode: raise Missing(f'docker compose {args[0]} failed, see above; docker compose -f deploy/compose.yml logs tells more')

def up(bundle):
    "Start everything; what is there already is left as it is"
    _need_docker()
    bundle = Path(bundle).resolve()
    if not (bundle/'config.json').is_file(): raise Missing(f'{bundle}: no bundle; make one with make demo, or name yours: make up BUNDLE=folder')
    shut = [p for p in (bundle.parent, bundle, *bundle.rglob('*')) if not p.stat().st_mode & 0o004]
    if shut: raise Missing(f'{shut[0]}: the service, which is another user, may not read it: chmod -R o+rX {bundle}, and o+rx its folder')
    os.environ['MODELS'], os.environ['MODEL'] = str(bundle.parent), bundle.name
    # for docker compose typed by hand later; quoted, as folders may have blanks in their names
    (SECRETS.parent/'.env').write_text(f"MODELS='{bundle.parent}'\nMODEL='{bundle.name}'\n")
    make_secrets(SECRETS)
    for name in KEYS: (SECRETS/f'{name}_key').touch(0o600)  # compose wants the files of all secrets to be there
    _step('build')
    _step('up', '--detach', '--wait', 'database', 'objects')
    for name, role in KEYS.items():
        file = SECRETS/f'{name}_key'
        if file.stat().st_size: continue
        r = _compose('run', '--rm', '--no-TTY', '--no-deps', 'service', 'retina_store', 'key', 'add', name, '--role', role,
                     stdout=subprocess.PIPE, text=True)
        if r.returncode: raise Missing(f'the key of {name} could not be made, see above')
        file.unlink()
        write_secret(SECRETS, file.name, key_in(r.stdout))
    _step('up', '--detach', '--wait')
    said = _compose('logs', '--no-log-prefix', 'panel', capture_output=True, text=True).stdout
    token = (re.findall(r'\?token=[\w-]+', said) or [''])[-1]
    print(f'the service is at http://127.0.0.1:{os.environ.get("PORT") or 8000} (a key for somebody: docker compose -f deploy/compose.yml run --rm service '
          'retina_store key add NAME --role grader)\n'
          f'the panel is at http://127.0.0.1:8866/{token}\nPrometheus is at http://127.0.0.1:9090\n'
          'all of it ends with: docker compose -f deploy/compose.yml down (what was kept stays; its secrets are in deploy/secrets)')

# --- image-test
PROGRAMS = dict(buildah='buildah', debootstrap='debootstrap', unshare='util-linux', setpriv='util-linux', chroot='coreutils', ip='iproute2')

def lacking():
    "What `image-test` needs and does not find, each with what to do"
    out = [f'{p} is missing (apt install {package})' for p, package in PROGRAMS.items() if not shutil.which(p)]
    if os.name != 'posix' or sys.platform != 'linux': return ['it needs Linux']
    if os.geteuid(): out.append('it needs root, for a Debian of its own and for mounts (sudo make image-test)')
    if not any(Path('/usr/lib/postgresql').glob('*/bin/initdb')): out.append('PostgreSQL is missing (apt install postgresql)')
    if not weed(): out.append('the object store is missing (make setup)')
    return out

def weed():
    "The program of the object store, which comes with the packages for developing"
    beside = Path(sys.executable).with_name('weed')
    return str(beside) if beside.exists() else shutil.which('weed')

def make_base(folder):
    "A Debian with Python, as small as the official images' slim ones"
    subprocess.run(['debootstrap', '--variant=minbase', '--include=python3,python3-venv,ca-certificates', 'bookworm', folder], check=True, stdout=subprocess.DEVNULL)
    for p in ('var/cache/apt', 'var/lib/apt/lists', 'usr/share/doc', 'usr/share/man', 'usr/share/locale'):
        shutil.rmtree(folder/p, ignore_errors=True)
        (folder/p).mkdir()

def pip_settings(folder):
    """pip's settings of this machine as one file, and the folders of this machine that it names: for the build alone, as a secret. Where
    there is no certificate of one's own, the build uses that of its base"""
    said = subprocess.run([sys.executable, '-m', 'pip', 'config', 'list'], capture_output=True, text=True).stdout
    found = {}
    for k, _, v in (line.partition('=') for line in said.splitlines()):
        section, _, name = k.partition('.')
        if section in ('global', 'install', ':env:') and name != 'config-file': found[name.replace('_', '-')] = v.strip("'").replace('\\n', ' ')
    cert = found.pop('cert', None)
    if cert: found['cert'] = '/etc/ssl/pip.pem'
    file = folder/'pip.conf'
    file.touch(0o600)
    file.write_text('[global]\n' + ''.join(f'{k} = {v}\n' for k, v in found.items()))
    words = [w.removeprefix('file://') for v in found.values() for w in v.split()]
    places = sorted({'/'.join(w.split('/')[:3]) for w in words if w.startswith('/') and Path(w).exists() and w != '/etc/ssl/pip.pem'})
    return file, cert, places

class Builder:
    "buildah with a store of its own, which goes with its folder"
    def __init__(self, folder):
        self.folder = folder
        self.first = ['buildah', '--root', str(folder/'store'), '--runroot', str(folder/'run'), '--storage-driver', 'vfs']
    def __call__(self, *args, loud=False):
        r = subprocess.run([*self.first, *map(str, args)], text=True, stdout=None if loud else subprocess.PIPE, stderr=subprocess.STDOUT if not loud else None,
                           stdin=subprocess.DEVNULL, env={**os.environ, 'BUILDAH_ISOLATION': 'chroot'})
        if r.returncode: raise Missing(f'buildah {args[0]} failed: {(r.stdout or "see above").strip()[-2000:]}')
        return (r.stdout or '').strip()
    def base(self, tree):
        "An image of a folder"
        c = self('from', 'scratch')
        at = Path(self('mount', c))
        subprocess.run(['cp', '-a', f'{tree}/.', at], check=True)
        self('umount', c)
        self('commit', '--rm', '-q', c, 'localhost/base')
    def build(self, name, **args):
        "An image of deploy/Dockerfile"
        conf, cert, places = pip_settings(self.folder)
        more = [x for p in places for x in ('-v', f'{p}:{p}:ro')] + [x for k, v in args.items() for x in ('--build-arg', f'{k}={v}')]
        if cert: more += ['--secret', f'id=ca,src={cert}']
        return self('bud', '--isolation', 'chroot', '--format', 'docker', '--ignorefile', DEPLOY/'Dockerfile.dockerignore', '--build-arg',
                    'BASE=localhost/base', '--secret', f'id=pip,src={conf}', *more, '-f', DEPLOY/'Dockerfile', '-t', name, ROOT)
    def described(self, name): return json.loads(self('inspect', '--type', 'image', name))
    def tree(self, name):
        "The files of an image, where they can be looked at"
        return Path(self('mount', self('from', name)))

def room(tree):
    "What takes the room in an image: [(megabytes, folder)], largest first"
    def _size(p): return sum(q.lstat().st_size for q in p.rglob('*') if q.is_symlink() or q.is_file()) if p.is_dir() and not p.is_symlink() else p.lstat().st_size
    site = next(tree.glob('opt/retina/lib/python3*/site-packages'))
    parts = {p.relative_to(tree): _size(p) for p in [*site.iterdir(), *(q for q in (tree/'usr').iterdir())]}
    return sorted(((n/1e6, str(p)) for p, n in parts.items()), reverse=True), _size(tree)/1e6

def hidden_in(tree, words):
    "Files of an image that hold one of some words"
    found = []
    for p in tree.rglob('*'):
        if p.is_symlink() or not p.is_file(): continue
        data = p.read_bytes()
        found += [str(p.relative_to(tree)) for w in words if w.encode() in data]
    return found

def words_of(conf):
    "What nobody may find in an image: the addresses and folders in pip's settings, but the public index"
    return sorted({w for line in conf.read_text().splitlines()[1:] for w in line.partition(' = ')[2].split()
                   if ('/' in w or '@' in w) and 'pypi.org' not in w and w != '/etc/ssl/pip.pem'})

def image_test(base=None, bundle=None, out=None):
    "Build, look, and rehearse; raises at the first thing that is not as it should be"
    if lacks := lacking(): raise Missing('image-test cannot run here: ' + '; '.join(lacks))
    with tempfile.TemporaryDirectory(prefix='retina_image_') as d:
        d = Path(d)
        d.chmod(0o711)  # PostgreSQL is another user, and has its folder here
        if base is None:
            print('image-test: a Debian to build on', flush=True)
            base = d/'debian'
            make_base(base)
        build = Builder(d)
        build.base(base)
        print('image-test: building deploy/Dockerfile', flush=True)
        build.build('localhost/retina_nb')
        tree = build.tree('localhost/retina_nb')
        config = build.described('localhost/retina_nb')['Docker']['config']
        assert config['User'] == '10001:10001', f'the image runs as {config["User"] or "root"}'
        largest, total = room(tree)
        for n, p in largest[:12]: print(f'{n:8.1f} MB  {p}')
        print(f'{total:8.1f} MB  all of it', flush=True)
        assert total < MOST, f'the image has {total:.0f} MB, more than {MOST}'
        found = hidden_in(tree, words_of(d/'pip.conf')) + [w for w in words_of(d/'pip.conf') if w in json.dumps(build.described('localhost/retina_nb'))]
        assert not found, f'settings of pip are in the image: {found[:5]}'
        shells = [n for n in ('sh', 'bash', 'dash', 'apt', 'dpkg', 'pip', 'pip3', 'perl') for f in ('bin', 'usr/bin', 'opt/retina/bin') if (tree/f/n).exists()]
        assert not shells, f'the image has {shells}'
        if bundle is None:
            sys.path.insert(0, str(ROOT/'tests'))
            from random_model import shared
            bundle = shared()[1]
        print('image-test: building the panel, which is the same with more extras', flush=True)
        build.build('localhost/retina_nb-panel', EXTRAS='serve,cloud,panel', LEFT_OUT='')
        print('image-test: a day as compose.yml has it', flush=True)
        rehearsal = [sys.executable, str(ROOT/'tools'/'rehearsal.py'), str(tree), str(bundle), str(d/'day'), str(build.tree('localhost/retina_nb-panel'))]
        r = subprocess.run(['unshare', '--mount', '--net', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc', *rehearsal], stdin=subprocess.DEVNULL)
        if r.returncode: raise Missing('the rehearsal failed, see above')
        seen = dict(megabytes=round(total, 1), most=MOST, largest=[[round(n, 1), p] for n, p in largest[:12]], day=json.loads((d/'day'/'facts.json').read_text()))
        if out: Path(out).write_text(json.dumps(seen, indent=1) + '\n')
        print(f'image-test: all as it should be; {total:.0f} MB')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['up', 'image-test'])
    p.add_argument('--bundle', help='folder of the model; with up by default runs/demo/bundle, with image-test one with random weights')
    p.add_argument('--base', type=Path, help='with image-test: a folder with a Debian and its Python, in place of one that debootstrap makes')
    p.add_argument('--out', help='with image-test: a JSON file for what takes the room in the image')
    o = p.parse_args()
    try: up(o.bundle or ROOT/'runs'/'demo'/'bundle') if o.what == 'up' else image_test(o.base, o.bundle, o.out)
    except (Missing, AssertionError, subprocess.CalledProcessError) as e: sys.exit(f'{o.what}: {e}')

if __name__ == '__main__': main()

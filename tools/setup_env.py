"""Make the environment: python tools/setup_env.py [VENV_FOLDER]

Installs what settings.ini requires, at the versions of constraints.txt, and this checkout on top as an editable package.
`retina_nb-setup.json` in the folder says how far it came: 'installing' is written first and 'complete' last, so a set-up
that was cut short is seen as such and is made anew. When settings.ini or constraints.txt change, a complete one is updated.
Extra arguments for pip can be given in RETINA_NB_PIP_ARGS. Only the standard library is used here."""
import hashlib, json, os, shlex, shutil, subprocess, sys, tempfile, venv
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = 'retina_nb-setup.json'
PAIR = "import torch, torchvision; torchvision.ops.nms(torch.rand(2, 4), torch.rand(2), .5)"

class SetupError(Exception): "The environment could not be made: the message says what to do"

def say(*words): print('set-up:', *words, flush=True)

EXTRAS = 'train', 'panel', 'hub', 'mlflow', 'serve', 'telemetry', 'cloud', 'bulk', 'dev'  # what the notebooks and tests of this checkout use

def requirements(root=ROOT):
    "What to install, as settings.ini states it: the package's own requirements, its extras and those for developing it"
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    wanted = [config['DEFAULT']['requirements'], *(config['DEFAULT'].get(f'{e}_requirements', '') for e in EXTRAS)]
    return list(dict.fromkeys(shlex.split(' '.join(wanted))))

def setup_key(root=ROOT):
    "Changes when the environment has to: requirements, pins, package metadata and commands, or the place of the checkout"
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    own = [config['DEFAULT'].get(k, '') for k in ('lib_name', 'version', 'console_scripts')]
    parts = [str(root), *own, *requirements(root), (root/'constraints.txt').read_text(encoding='utf-8')]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()

def python_of(env): return env/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')

def version_of(python):
    "'3.11' for a Python that runs, '' for one that does not (a moved folder, a Python that is gone)"
    try: r = subprocess.run([python, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])'], capture_output=True, text=True)
    except OSError: return ''
    return r.stdout.strip() if r.returncode == 0 else ''

def state_of(env, key):
    "'absent', 'foreign' (not made here), 'unfinished', 'outdated' or 'complete'"
    if not env.exists() or not any(env.iterdir()): return 'absent'
    try: stamp = json.loads((env/STAMP).read_text(encoding='utf-8'))
    except FileNotFoundError: return 'foreign'
    except ValueError: return 'unfinished'
    if stamp.get('state') != 'complete' or stamp.get('folder') != str(env): return 'unfinished'
    if version_of(python_of(env)) != stamp.get('python'): return 'unfinished'
    return 'complete' if stamp.get('key') == key else 'outdated'

def write_stamp(env, state, key):
    tmp = env/(STAMP + '.new')
    stamp = dict(state=state, key=key, folder=str(env), python='.'.join(map(str, sys.version_info[:2])))
    tmp.write_text(json.dumps(stamp) + '\n', encoding='utf-8')
    os.replace(tmp, env/STAMP)

def run(*cmd, why):
    r = subprocess.run([str(c) for c in cmd], cwd=ROOT)
    if r.returncode: raise SetupError(f'{why} (exit {r.returncode} of: {" ".join(map(str, cmd[1:4]))} ...). '
                                      'The same command tries again from a clean start.')

def pip(env, *args, why):
    extra = shlex.split(os.environ.get('RETINA_NB_PIP_ARGS', ''))
    if not sys.stdout.isatty(): extra.insert(0, '--quiet')  # progress bars for people, silence for logs
    run(python_of(env), '-m', 'pip', '--disable-pip-version-check', 'install', *extra, *args, why=why)

def make_venv(env, key):
    env.mkdir(parents=True, exist_ok=True)
    write_stamp(env, 'installing', key)
    try: venv.EnvBuilder(with_pip=True, symlinks=os.name != 'nt').create(env)
    except (subprocess.CalledProcessError, OSError) as e:
        raise SetupError(f'{sys.executable} cannot make a virtual environment with pip ({type(e).__name__}). On Debian and Ubuntu its '
                         f'parts are packages of their own: apt install python{sys.version_info.major}.{sys.version_info.minor}-venv') from None

def install(env, root=ROOT):
    say('installing the pinned packages of constraints.txt')
    pip(env, '-c', root/'constraints.txt', *requirements(root), why='the packages could not be installed')
    pip(env, '--no-deps', '--no-build-isolation', '--use-pep517', '--config-settings', 'editable_mode=compat', '-e', root, why='this checkout could not be installed')
    run(python_of(env), '-m', 'pip', '--disable-pip-version-check', 'check', why='the installed packages do not fit together')
    run(python_of(env), '-c', PAIR, why='torch and torchvision do not match: both must come from the same place, as pinned')

def git_hooks(env, root=ROOT):
    """Let git merge notebooks cell by cell: nbdev's driver, by its full path, as .venv need not be active. Only in a git checkout,
    never over somebody's own hook, nothing in the user's home; whatever goes wrong here is no failure of the set-up"""
    hook, tools = root/'.git'/'hooks'/'post-merge', python_of(env).parent
    try:
        if not (root/'.git').is_dir() or (hook.exists() and 'nbdev' not in hook.read_text(encoding='utf-8')): return False
        with tempfile.TemporaryDirectory() as home:
            mine = os.environ.get('GIT_CONFIG_GLOBAL', str(Path.home()/'.gitconfig'))
            git = dict(cwd=root, env={**os.environ, 'HOME': home, 'GIT_CONFIG_GLOBAL': mine}, check=True, capture_output=True, timeout=60)
            subprocess.run([tools/'nbdev_install_hooks'], **git)
            subprocess.run(['git', 'config', '--local', 'merge.nbdev-merge.driver', f'"{tools/"nbdev_merge"}" %O %A %B %P'], **git)
        hook.write_text(f'#!/bin/sh\n"{tools/"nbdev_trust"}" || true\n', encoding='utf-8')
    except (OSError, ValueError, RuntimeError, subprocess.SubprocessError): return False
    return True

def setup(env):
    key = setup_key()
    state = state_of(env, key)
    if state == 'complete': return
    if state == 'foreign':
        raise SetupError(f'{env} exists, but this set-up did not make it. Move it away, or choose another folder: make VENV=.venv-retina demo')
    if state == 'unfinished':
        say(f'{env.name} was left unfinished, or was moved: making it anew')
        shutil.rmtree(env)
    elif state == 'outdated': say(f'settings.ini or constraints.txt changed: updating {env.name}')
    if sys.version_info[:2] != (3, 11): say(f'note: the pins were checked on Python 3.11; this is {sys.version.split()[0]}')
    if state == 'outdated': write_stamp(env, 'installing', key)
    else:
        say(f'making {env} with {sys.executable}: several GB to fetch, minutes with a fast network')
        make_venv(env, key)
    install(env)
    git_hooks(env)
    write_stamp(env, 'complete', key)
    say('done')

if __name__ == '__main__':
    # absolute(), not resolve(): the folder may itself be a link
    env = (ROOT/(sys.argv[1] if len(sys.argv) > 1 else '.venv')).absolute()
    try: setup(env)
    except SetupError as e: sys.exit(f'set-up: {e}')
    except KeyboardInterrupt: sys.exit('set-up: stopped; the same command starts it anew')

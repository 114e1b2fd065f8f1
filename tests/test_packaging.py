"What a user installs: extras, floors, the recipe for conda, and what is said where a package is missing"
import configparser, re, shlex, subprocess, sys

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = 'train', 'panel', 'hub', 'mlflow', 'serve', 'telemetry', 'cloud', 'bulk', 'ray', 'dev'

@pytest.fixture(scope='module')
def wanted(root):
    "extra ('' for the base) -> its requirements, as settings.ini has them"
    config = configparser.ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    d = config['DEFAULT']
    return {'': [*map(Requirement, shlex.split(d['requirements']))],
            **{e: [*map(Requirement, shlex.split(d[f'{e}_requirements']))] for e in EXTRAS}}

def test_base_needs_no_torch(wanted):
    "Not even through what it brings: followed through the metadata of what is installed"
    from importlib.metadata import PackageNotFoundError, requires
    seen, todo = set(), [canonicalize_name(r.name) for r in wanted['']]
    while todo:
        name = todo.pop()
        if name in seen: continue
        seen.add(name)
        try: lines = requires(name) or []
        except PackageNotFoundError: continue  # for another system
        todo += [canonicalize_name(r.name) for r in map(Requirement, lines) if not r.marker or r.marker.evaluate({'extra': ''})]
    assert len(seen) > 25 and not seen & {'torch', 'torchvision', 'fastai', 'timm', 'ipywidgets', 'voila', 'ipython'}

def test_every_requirement_has_a_floor(wanted):
    for extra in set(EXTRAS) - {'dev'}:
        bare = [r.name for r in wanted[extra] if not r.specifier and r.name != 'fasttransform']  # one release line so far
        assert not bare, f'[{extra}]: {bare} name no lowest version'

def test_conda_recipe_names_the_same(root, wanted):
    "The recipe lists the packages and floors of settings.ini, under the names that conda has for them"
    other = {'pytorch': 'torch', 'py-opencv': 'opencv-python-headless', 'matplotlib-base': 'matplotlib', 'lazy-loader': 'lazy-loader'}
    text = (root/'conda/meta.yaml').read_text()
    version = re.search(r'version = "(.*?)"', text)[1]
    assert f'version = {version}\n' in (root/'settings.ini').read_text()
    recipe = yaml.safe_load(re.sub(r'\{%.*?%\}|\{\{.*?\}\}', '', text))
    for output, extra in zip(recipe['outputs'], ('', 'train')):
        run = [r.split(' >=') for r in output['requirements']['run'] if r and r.strip() and not r.startswith('python ')]
        have = {other.get(canonicalize_name(n), canonicalize_name(n)): f for n, *f in run}
        want = {canonicalize_name(r.name): [next(s.version for s in r.specifier)] if r.specifier else [] for r in wanted[extra]}
        assert have == want

def test_citation_names_this_version(root):
    text = (root/'settings.ini').read_text()
    assert yaml.safe_load((root/'CITATION.cff').read_text())['version'] == re.search(r'^version = (.*)$', text, re.M)[1]

def test_workflows_call_what_exists(root):
    targets = set(re.findall(r'^([a-z-]+):', (root/'Makefile').read_text(), re.M))
    scripts = set(re.findall(r'^    (retina_\w+)=', (root/'settings.ini').read_text(), re.M))
    for f in (root/'.github/workflows').glob('*.yml'):
        runs = [s.get('run', '') for job in yaml.safe_load(f.read_text())['jobs'].values() for s in job['steps']]
        text = '\n'.join(runs)
        assert set(re.findall(r'\bmake ([a-z-]+)', text)) <= targets, f.name
        assert set(re.findall(r'\b(retina_(?!nb\b)\w+)', text)) <= scripts, f.name
        assert all((root/t).exists() for t in re.findall(r'\btools/[\w.]+', text)), f.name

BLOCK = '''
import sys
class _Absent:
    "Stands in for an environment without these packages: importing one fails as if it had never been installed"
    gone = {gone!r}
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.gone: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, _Absent())
'''

@pytest.fixture
def without(tmp_path, command):
    "Run a command where packages are missing: without('torch fastai', 'retina_train', ...)"
    def _run(gone, name, *args):
        (tmp_path/'sitecustomize.py').write_text(BLOCK.format(gone=set(gone.split())))
        return command(name, *args, PYTHONPATH=str(tmp_path))
    return _run

TRAIN = 'torch torchvision fastai fasttransform fastprogress timm captum onnxscript sklearn'
PANEL = 'ipywidgets anywidget voila IPython ipykernel'

@pytest.mark.parametrize('gone,name,args,extra', [
    (TRAIN, 'retina_train', ('synth:20', '--out', 'NEW'), 'train'), (TRAIN, 'retina_export', ('RUN', '--out', 'NEW'), 'train'),
    (TRAIN, 'retina_demo', ('--out', 'NEW'), 'train'), (PANEL, 'retina_panel', ('BUNDLE',), 'panel'),
    ('huggingface_hub', 'retina_push', ('BUNDLE', 'somebody/model'), 'hub')])
def test_missing_extra_in_one_line(without, tmp_path, gone, name, args, extra):
    from random_model import shared
    run, bundle = shared()
    places = dict(NEW=tmp_path/'new', RUN=run, BUNDLE=bundle)
    r = without(gone, name, *(places.get(a, a) for a in args))
    assert r.returncode == 2 and len(r.stderr.splitlines()) == 1 and 'Traceback' not in r.stderr, r.stderr
    assert f"pip install 'retina_nb[{extra}]'" in r.stderr
    assert not (tmp_path/'new').exists()

def test_base_install_explores_measures_and_grades(without, tmp_path):
    "Everything that a reading room runs, without torch, fastai or widgets"
    from random_model import shared
    r = without(f'{TRAIN} {PANEL} huggingface_hub', 'retina_explore', 'synth:20', '--out', tmp_path/'look')
    assert r.returncode == 0, r.stderr
    images = sorted((tmp_path/'look').rglob('*.png'))[:1]
    assert images
    from retina_nb.synth import sample_dir
    eye = sorted((sample_dir()/'images').glob('*.jpg'))[0]
    r = without(f'{TRAIN} {PANEL} huggingface_hub', 'retina_grade', shared()[1], eye, '--json')
    assert r.returncode == 0 and '"grade"' in r.stdout, r.stderr
    table = tmp_path/'p.csv'
    table.write_text('image,patient,target,grade\n' + ''.join(f'{i}.jpg,{i},{i % 5},{i % 4}\n' for i in range(40)))
    r = without(f'{TRAIN} {PANEL} huggingface_hub', 'retina_evaluate', table, '--out', tmp_path/'e')
    assert r.returncode == 0 and (tmp_path/'e/metrics.json').exists(), r.stderr
    r = without(f'{TRAIN} {PANEL} huggingface_hub', 'retina_check', shared()[1])
    assert r.returncode == 0, r.stderr

def test_commands_stand_in_faces(root):
    "A command is found through its wing's face, which says what is missing where an extra is not installed"
    text = (root/'settings.ini').read_text()
    declared = re.findall(r'^    (retina_\w+)=retina_nb\.([\w.]+):', text, re.M)
    assert len(declared) > 15 and not [c for c, module in declared if '.' in module]

def test_core_knows_what_the_extras_hold(wanted):
    "The map from package to extra, which the one-line errors use, is that of settings.ini"
    from importlib.metadata import packages_distributions
    from retina_nb.base import _EXTRA_OF
    owner = packages_distributions()
    base = {canonicalize_name(r.name) for r in wanted['']}
    for package, extra in _EXTRA_OF.items():
        names = {canonicalize_name(n) for n in owner.get(package, [package])} # ray is not in this environment
        assert names & {canonicalize_name(r.name) for r in wanted[extra]}, f'{package} is not in [{extra}]'
        assert not names & base, f'{package} is in the base'

def test_python_that_starts_beside_the_checkout_finds_the_package(root, tmp_path):
    "A clone is called retina_nb as the package is: from the folder above it, Python must not take the clone's folder for the package"
    (tmp_path/'retina_nb').symlink_to(root, target_is_directory=True)
    r = subprocess.run([sys.executable, '-c', 'import retina_nb.data; print(retina_nb.data.__file__)'], cwd=tmp_path, text=True, capture_output=True)
    assert r.returncode == 0 and r.stdout.strip().endswith('__init__.py'), r.stdout + r.stderr

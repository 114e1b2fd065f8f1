"Every check of `make test` finds the fault it is there for: each is planted in a small project and looked for"
import copy, json, os, shutil, subprocess, sys

import pytest

import checks, gate, notebooks, setup_env

SETTINGS = """[DEFAULT]
repo = retina_nb
lib_name = retina_nb
version = 0.1.0
min_python = 3.11
license = apache2
doc_path = _docs
lib_path = retina_nb
nbs_path = nbs
recursive = True
tst_flags = slow
update_pyproject = False
put_version_in_init = True
branch = main
title = retina_nb
clean_ids = True
readme_nb = index.ipynb
author = a
author_email = a@b.example
user = u
git_url = https://example.org
description = d
keywords = k
requirements = fastcore>=1 lazy_loader
dev_requirements =
console_scripts = retina_one=retina_nb.low.one:retina_one
"""
ROOMS = {  # a room at the root, and two wings of which `high` stands above `low`
    '00_base': ['#| default_exp base', '#| export\ndef half(x): return x/2', 'half(8)'],
    'low/10_one': ['#| default_exp low.one', '#| export\nfrom fastcore.script import call_parse', '#| export\ndef double(x): return 2*x',
        '#| export\n@call_parse\ndef retina_one(x:int=1): # a number\n    "Print double"\n    print(double(x))', 'double(2)'],
    'low/20_more': ['#| default_exp low.more', '#| export\nfrom retina_nb.low.one import double', '#| export\ndef same(x): return double(x)/2', 'same(4)'],
    'high/10_two': ['#| default_exp high.two', '#| export\nfrom retina_nb.low.one import double', '#| export\ndef quadruple(x): return double(double(x))',
        'quadruple(1)']}
PAGES = ['index.ipynb', '00_base.ipynb', *(f'low/{n}.ipynb' for n in ('index', '10_one', '20_more')), 'high/index.ipynb', 'high/10_two.ipynb']
SIDEBAR = f'website: {{sidebar: {{contents: [{{section: A, contents: [{", ".join(PAGES)}]}}]}}}}\n'
FACES = dict(low="one=['double', 'retina_one'], more=['same']", high="two=['quadruple']")

def code(text, *outputs, **kw): return dict(cell_type='code', id=f'c{abs(hash(text)):x}'[:12], metadata={}, execution_count=None,
                                            outputs=list(outputs), source=text.splitlines(True)) | kw
def prose(text): return dict(cell_type='markdown', id=f'm{abs(hash(text)):x}'[:12], metadata={}, source=text.splitlines(True))
def shown(text): return dict(output_type='execute_result', execution_count=None, metadata={}, data={'text/plain': [text]})
PICTURE = dict(output_type='display_data', metadata={}, data={'image/png': 'iVBORw0KGgo=', 'text/plain': ['<Axes>']})

def book(*cells): return dict(cells=list(cells), metadata={'kernelspec': dict(notebooks.KERNEL)}, nbformat=4, nbformat_minor=5)

def write(path, nb):
    path.parent.mkdir(parents=True, exist_ok=True)
    notebooks.write_nb(path, nb)

@pytest.fixture(scope='session')
def whole(tmp_path_factory):
    "A small project without a fault"
    d = tmp_path_factory.mktemp('whole')
    (d/'settings.ini').write_text(SETTINGS)
    for f in ('setup.py', '_quarto.yml', 'nbs/_quarto.yml', 'nbs/nbdev.yml', 'nbs/styles.scss'):
        (d/f).parent.mkdir(exist_ok=True)
        shutil.copy(notebooks.ROOT/f, d/f)
    for name, cells in ROOMS.items():
        write(d/f'nbs/{name}.ipynb', book(prose(f'# {name}'), *map(code, cells[:-1]), code(cells[-1], shown('4'))))
    for wing, names in FACES.items():
        write(d/f'nbs/{wing}/index.ipynb', book(prose(f'# {wing}'), code(f'#| default_exp {wing}.__init__'), code('#| export\nimport lazy_loader as lazy'),
            code(f'#| export\n__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs=dict({names}))'), code('1', shown('1'))))
    write(d/'nbs/index.ipynb', book(prose('# small\n\n> One [room](low/10_one.ipynb) and [the licence](../LICENSE).')))
    (d/'nbs/sidebar.yml').write_text(SIDEBAR)
    (d/'LICENSE').write_text('free\n')
    (d/'constraints.txt').write_text('# pins\nfastcore==1.14.5\nlazy-loader==0.6\nnumpy==2.4.6\n')
    (d/'retina_nb').mkdir()
    assert notebooks.nbdev('nbdev_export', d).returncode == 0
    notebooks.readme(d)
    return d

@pytest.fixture
def project(whole, tmp_path):
    "A copy of it to break"
    d = tmp_path/'p'
    shutil.copytree(whole, d)
    return d

def edit(project, name, change):
    "Apply `change` to a notebook in place"
    p = project/f'nbs/{name}.ipynb'
    nb = notebooks.read_nb(p)
    change(nb)
    notebooks.write_nb(p, nb)

def finds(faults, *words):
    assert any(all(w in f for w in words) for f in faults), f'{words} not in {faults}'

ALL = checks.modules_in_step, checks.commands_declared, checks.notebooks_clean, checks.site_in_place, checks.readme_in_step, \
      checks.links_hold, checks.layers_hold, checks.imports_declared, checks.imports_are_light

@pytest.mark.parametrize('check', ALL, ids=lambda f: f.__name__)
def test_a_project_without_a_fault_passes(whole, check): assert check(whole) == []

# --- 1. modules
@pytest.mark.parametrize('module', ['base', 'low/one', 'low/__init__', '__init__'])
def test_module_edited_by_hand(project, module):
    p = project/f'retina_nb/{module}.py'
    p.write_text(p.read_text() + '\n# quick fix\n')
    finds(checks.modules_in_step(project), f'retina_nb/{module}.py differs')

def test_notebook_edited_without_export(project):
    edit(project, 'high/10_two', lambda nb: nb['cells'].append(code('#| export\ndef five(): return 5')))
    faults = checks.modules_in_step(project)
    finds(faults, 'high/two.py', 'differs')
    finds(faults, '_modidx.py')

@pytest.mark.parametrize('notebook,module', [('00_base', 'base'), ('high/10_two', 'high/two'), ('high/index', 'high/__init__')])
def test_module_whose_notebook_is_gone(project, notebook, module):
    (project/f'nbs/{notebook}.ipynb').unlink()
    finds(checks.modules_in_step(project), f'{module}.py', 'differs' if '__init__' in module else 'no notebook')

@pytest.mark.parametrize('module', ['base', 'high/two', 'high/__init__'])
def test_module_not_committed(project, module):
    (project/f'retina_nb/{module}.py').unlink()
    finds(checks.modules_in_step(project), f'{module}.py', 'missing')

@pytest.mark.parametrize('line,words', [
    ('', ['lacks retina_one=retina_nb.low.one:retina_one']),
    ('retina_one=retina_nb.low.one:retina_one retina_two=retina_nb.low.one:retina_two', ['retina_two', 'no such']),
    ('retina_one=retina_nb.low.one:retina_one double=retina_nb.low.one:double', ['double', 'no such']),
    ('retina_uno=retina_nb.low.one:retina_one', ['retina_uno', 'different names'])])
def test_commands(project, line, words):
    (project/'settings.ini').write_text(SETTINGS.replace('retina_one=retina_nb.low.one:retina_one', line))
    finds(checks.commands_declared(project), *words)

# --- 2. notebooks
def _set(i, **kw): return lambda nb: nb['cells'][i].update(kw)
def _out(i, *outputs): return lambda nb: nb['cells'][i].update(outputs=list(outputs))
def _add(*cells): return lambda nb: nb['cells'].extend(copy.deepcopy(cells))
def _stream(text, name='stdout'): return dict(output_type='stream', name=name, text=[text])

FAULTS = dict(
    count=(_set(1, execution_count=3), 'execution count'),
    output_count=(_out(1, dict(shown('1'), execution_count=1)), 'execution count'),
    widget_state=(lambda nb: nb['metadata'].update(widgets={'state': {}}), 'widget state'),
    widget_output=(_out(1, dict(output_type='display_data', metadata={}, data={'application/vnd.jupyter.widget-view+json': {}})), 'widget'),
    editor=(lambda nb: nb['metadata'].update(language_info={}), 'metadata'),
    cell_editor=(_set(1, metadata={'scrolled': True}), 'metadata'),
    error=(_out(1, dict(output_type='error', ename='E', evalue='', traceback=[])), 'error'),
    warning=(_out(1, _stream('x.py:1: UserWarning: no', 'stderr')), 'warning'),
    path=(_out(1, _stream('saved to /home/ann/runs/first')), '/home/ann'),
    temp_path=(_out(1, shown("PosixPath('/tmp/tmpab12/a.png')")), '/tmp/tmpab12'),
    html_path=(_out(1, dict(shown('x'), data={'text/html': ['<td>C:\\Users\\ann\\eye.jpg</td>']})), 'Users'),
    source_path=(_add(code("p = '/home/ann/data'")), 'path'),
    prose_path=(_add(prose('Put them into /Users/ann/data.')), 'path'),
    no_figure=(_add(code('import pandas as pd\nplot_labels(records)')), 'no figure'),
    no_figure_method=(_add(code('fig, ax = plt.subplots()\nax.imshow(image)', shown('<Axes>'))), 'no figure'),
    no_figure_loop=(_add(code('for r in records: show_images(r)', shown('3'))), 'no figure'),
    skipped=(_add(code('#| skip_exec: true\n1')), 'skip_exec'),
    twice=(lambda nb: nb['cells'].append(copy.deepcopy(nb['cells'][-1])), 'same one'),
    no_id=(lambda nb: nb['cells'][0].pop('id'), 'without an id'),
    not_executed=(_out(-1), 'not executed'))

@pytest.mark.parametrize('notebook', ['00_base', 'low/10_one'])
@pytest.mark.parametrize('name', FAULTS)
def test_notebook_faults(project, name, notebook):
    change, word = FAULTS[name]
    edit(project, notebook, change)
    finds(checks.notebooks_clean(project), f'{notebook}.ipynb', word)

@pytest.mark.parametrize('cell', [
    code('plot_labels(records)', PICTURE), code('ax.imshow(x);', dict(shown('x'), data={'text/html': ['<img src="data:image/png;base64,/home/abcd=">']})),
    code('def plot_x(a): plt.plot(a)'), code('#| hide\nplot_x(1)'), code('test_fail(lambda: plot_x(None))'), code('test_is(show_eyes(1), None)'), code('ax = plot_x(1)\nplt.close()'),
    code('show_doc(double)'), code("requests.get('https://example.org/home/ann/data')"), code('1', _stream('runs/first/usr/lib a/tmp/b'))])
def test_no_false_alarm(project, cell):
    edit(project, 'low/10_one', _add(cell))
    assert checks.notebooks_clean(project) == []

def test_broken_notebook(project):
    (project/'nbs/low/10_one.ipynb').write_text('{"cells": [')
    finds(checks.notebooks_clean(project), 'low/10_one', 'JSON')

@pytest.mark.parametrize('name', ['count', 'output_count', 'widget_state', 'widget_output', 'editor', 'cell_editor', 'twice', 'no_id'])
def test_prepare_mends(project, name):
    edit(project, 'low/10_one', FAULTS[name][0])
    notebooks.prepare(project)
    assert checks.notebooks_clean(project) == []
    assert notebooks.clean(notebooks.read_nb(project/'nbs/low/10_one.ipynb')) == notebooks.read_nb(project/'nbs/low/10_one.ipynb')

def test_prepare_brings_all_in_step(project):
    edit(project, 'high/10_two', _add(code('#| export\nfive = 5'), code('five', shown('5'))))
    edit(project, 'index', _add(prose('More.')))
    notebooks.prepare(project)
    assert [f for check in ALL for f in check(project)] == []

# --- the site
@pytest.mark.parametrize('file,text,word', [
    ('nbs/_quarto.yml', 'project: {type: website}\n', 'three lines'), ('nbs/_quarto.yml', None, 'three lines'), ('_quarto.yml', None, '_quarto.yml is missing'),
    ('nbs/sidebar.yml', SIDEBAR.replace(', high/10_two.ipynb', ''), 'does not list high/10_two'),
    ('nbs/sidebar.yml', SIDEBAR.replace('10_two.ipynb', '10_two.ipynb, high/11_gone.ipynb'), 'high/11_gone.ipynb, which'),
    ('nbs/sidebar.yml', SIDEBAR.replace('10_two.ipynb', '10_two.ipynb, high/10_two.ipynb'), 'twice')])
def test_site(project, file, text, word):
    if text is None: (project/file).unlink()
    else: (project/file).write_text(text)
    finds(checks.site_in_place(project), word)

def test_nbdev_leaves_the_site_alone(project, root):
    "What nbdev writes before it builds the site is what is committed, and it does not replace the stub"
    shutil.copy(root/'settings.ini', project)
    r = subprocess.run([sys.executable, '-c', 'from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()'], cwd=project, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    for f in ('nbs/_quarto.yml', 'nbs/nbdev.yml'): assert (project/f).read_text() == (root/f).read_text()

# --- 3. README
def test_readme_links_start_one_level_up(whole):
    text = (whole/'README.md').read_text()
    assert '[room](nbs/low/10_one.ipynb)' in text and '[the licence](LICENSE)' in text

def test_readme_out_of_step(project):
    edit(project, 'index', _add(prose('New.')))
    finds(checks.readme_in_step(project), 'README.md differs')
    (project/'README.md').unlink()
    finds(checks.readme_in_step(project), 'README.md differs')

def test_readme_refuses_a_figure_it_cannot_show(project):
    edit(project, 'index', _add(code('plot_x(1)', PICTURE)))
    finds(checks.readme_in_step(project), 'nbs/images')

def test_readme_shows_code_without_directives(project):
    edit(project, 'index', _add(code('#| echo: true\n1 + 1', shown('2')), code('#| hide\nsecret = 1')))
    text = notebooks.readme_text(project)
    assert '1 + 1' in text and 'echo' not in text and 'secret' not in text

def test_dead_link(project):
    edit(project, 'low/10_one', _add(prose('See [that](99_gone.ipynb), not `[this](that)`.')))
    assert len(checks.links_hold(project)) == 1
    finds(checks.links_hold(project), 'low/10_one', '99_gone')

# --- 4. layers
@pytest.mark.parametrize('module,line,word', [
    ('low/one', 'from .more import same', 'not below'), ('low/one', 'def f():\n    from .more import same', 'not below'),
    ('low/one', 'import retina_nb.low.more', 'not below'), ('low/one', 'from . import more', 'not below'), ('low/one', 'from retina_nb.low import more', 'not below'),
    ('low/one', "import importlib; h = importlib.import_module('.more', 'retina_nb.low')", 'not below'),
    ('base', "import importlib; h = importlib.import_module('retina_nb.base')", 'not below'),
    ('high/two', 'from fastcore.basics import *', 'import *'), ('high/two', 'from ..low.one import *', 'import *'), ('high/two', 'import nbdev.showdoc', 'nbdev'),
    ('high/two', 'def f():\n    from ..low import double', 'face retina_nb.low'), ('high/__init__', 'import nbdev.showdoc', 'nbdev')])
def test_layer_faults(project, module, line, word):
    p = project/f'retina_nb/{module}.py'
    p.write_text(p.read_text() + line + '\n')
    finds(checks.layers_hold(project), f'{module}.py:', word)

@pytest.mark.parametrize('module', ['grader', 'panel'])
def test_grading_never_reaches_for_models(project, module):
    write(project/'nbs/train/44_predict.ipynb', book(code('#| default_exp train.predict')))
    write(project/f'nbs/deploy/51_{module}.ipynb', book(code(f'#| default_exp deploy.{module}')))
    (project/'retina_nb/deploy').mkdir()
    (project/f'retina_nb/deploy/{module}.py').write_text('def f():\n    from ..train.predict import load_model\n    import torch.nn\n')
    faults = checks.layers_hold(project)
    finds(faults, f'{module}.py:2', 'train.predict')
    finds(faults, f'{module}.py:3', 'torch')

@pytest.mark.parametrize('place, word', [('module', 'requirements in settings.ini lack'), ('notebook', 'does not pin'), ('settings', 'pandas')])
def test_packages_that_only_this_machine_has(project, place, word):
    if place == 'module': (project/'retina_nb/high/two.py').write_text('import numpy as np\n')
    elif place == 'notebook': write(project/'nbs/high/10_two.ipynb', book(prose('# high'), code('import pandas')))
    else: (project/'settings.ini').write_text(SETTINGS.replace('dev_requirements =', 'dev_requirements = pandas'))
    finds(checks.imports_declared(project), word)

@pytest.mark.parametrize('file,word', [('extra.py', 'with a number'), ('low/extra.py', 'with a number'), ('other/__init__.py', 'of a face')])
def test_module_without_a_notebook(project, file, word):
    (project/'retina_nb'/file).parent.mkdir(exist_ok=True)
    (project/'retina_nb'/file).write_text('')
    finds(checks.layers_hold(project), file, f'no notebook {word}')

@pytest.mark.parametrize('module,text,word', [
    ('base', 'import torch', 'torch'), ('low/one', 'import torch', 'torch'), ('low/more', 'import nbdev', 'nbdev'), ('__init__', 'import pandas', 'pandas'),
    ('low/__init__', 'import pandas', 'pandas'), ('high/two', 'import no_such_module', 'cannot be imported')])
def test_heavy_imports(project, tmp_path, monkeypatch, module, text, word):
    for fake in ('torch', 'nbdev', 'pandas'):  # stand-ins: what counts is that the name gets loaded
        (tmp_path/'fakes'/fake).mkdir(parents=True)
        (tmp_path/'fakes'/fake/'__init__.py').write_text('')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path/'fakes'))
    p = project/f'retina_nb/{module}.py'
    p.write_text(p.read_text() + text + '\n')
    finds(checks.imports_are_light(project), f"retina_nb.{module.replace('/', '.').removesuffix('.__init__')}".removesuffix('.__init__') + ':', word)

# --- 5 and 6: the runners
def _stub(folder, name, text):
    (folder/name).write_text(f'#!{sys.executable}\n{text}\n')
    (folder/name).chmod(0o755)

@pytest.mark.parametrize('text,ok', [("print('Success.')", True), ("print('nothing was tested')", False), ("print('Success.'); raise SystemExit(1)", False)])
def test_nbdev_test_gate(tmp_path, monkeypatch, capsys, text, ok):
    _stub(tmp_path, 'nbdev_test', text)
    monkeypatch.setattr(gate, 'PYTHON', tmp_path/'python')
    if ok: assert gate.notebook_tests() == 'Success.'
    else:
        with pytest.raises(gate.Fault): gate.notebook_tests()

@pytest.mark.parametrize('text,ok', [("print('==== 3 passed, 1 skipped in 0.10s ====')", True), ("print('no tests ran in 0.01s')", False),
                                     ("print('==== 1 failed, 2 passed in 0.10s ====')\nraise SystemExit(1)", False)])
def test_pytest_gate(tmp_path, monkeypatch, text, ok):
    _stub(tmp_path, 'python', text)
    monkeypatch.setattr(gate, 'PYTHON', tmp_path/'python')
    if ok: assert '3 passed' in gate.pytest_tests()
    else:
        with pytest.raises(gate.Fault): gate.pytest_tests()

def test_stops_at_the_first_fault_and_says_what_to_run(monkeypatch, capsys):
    ran = []
    def bad(): gate.held(['a is wrong'], 'Run: make something')
    monkeypatch.setattr(gate, 'GATES', dict(one=lambda: ran.append(1), two=bad, three=lambda: ran.append(3)))
    assert gate.main() == 1 and ran == [1]
    err = capsys.readouterr().err
    assert 'a is wrong' in err and 'stopped at "two". Run: make something' in err

def test_order():
    assert list(gate.GATES.values()) == [gate.modules_in_step, gate.notebooks_clean, gate.readme_in_step, gate.import_layers,
                                         gate.notebook_tests, gate.pytest_tests, gate.wheel]

# --- 7. the wheel
SMOKE = gate.SMOKE.split('from retina_nb.data')[0]

def test_wheel_of_a_whole_project(project, tmp_path):
    (tmp_path/'w').mkdir()
    assert gate.wheel_faults(project, tmp_path/'w', SMOKE) == []

def test_wheel_with_a_broken_command(project, tmp_path):
    (project/'settings.ini').write_text(SETTINGS.replace('retina_one=retina_nb.low.one:retina_one', 'retina_one=retina_nb.low.one:gone'))
    (tmp_path/'w').mkdir()
    finds(gate.wheel_faults(project, tmp_path/'w', SMOKE), 'retina_one --help fails')

def test_wheel_without_its_modules(project, tmp_path):
    p = project/'setup.py'
    p.write_text(p.read_text().replace("find_packages(include=['retina_nb*'])", '[]'))
    (tmp_path/'w').mkdir()
    finds(gate.wheel_faults(project, tmp_path/'w', SMOKE), 'does not work', 'retina_nb')

@pytest.mark.parametrize('module', ['base', 'low/one'])
def test_wheel_that_leans_on_the_checkout(project, tmp_path, module):
    p = project/f'retina_nb/{module}.py'
    p.write_text(p.read_text() + "\nopen('settings.ini')\n")
    (tmp_path/'w').mkdir()
    finds(gate.wheel_faults(project, tmp_path/'w', SMOKE), 'does not work', 'settings.ini')

def test_wheel_whose_face_promises_too_much(project, tmp_path):
    p = project/'retina_nb/low/__init__.py'
    p.write_text(p.read_text().replace("'double'", "'treble'"))
    (tmp_path/'w').mkdir()
    finds(gate.wheel_faults(project, tmp_path/'w', SMOKE), 'does not work', 'treble')

# --- the set-up
@pytest.fixture
def setup_in(project, monkeypatch):
    "The set-up in the small project, with an empty environment in place of venv's and an install that can be made to fail"
    (project/'constraints.txt').write_text('numpy==1\n')
    class _Builder:
        def __init__(self, **kw): pass
        def create(self, env):
            (env/'bin').mkdir()
            (env/'bin/python').symlink_to(sys.executable)
    calls = []
    monkeypatch.setattr(setup_env, 'ROOT', project)
    monkeypatch.setattr(setup_env, 'setup_key', lambda root=project, key=setup_env.setup_key: key(root))
    monkeypatch.setattr(setup_env.venv, 'EnvBuilder', _Builder)
    monkeypatch.setattr(setup_env, 'install', lambda env: calls.append(env))
    return project/'.venv', calls

def test_setup_once(setup_in):
    env, calls = setup_in
    setup_env.setup(env); setup_env.setup(env)
    assert len(calls) == 1 and setup_env.state_of(env, setup_env.setup_key()) == 'complete'

def test_failed_setup_is_not_taken_for_whole(setup_in, monkeypatch):
    env, calls = setup_in
    def fail(env):
        (env/'half').write_text('')
        raise setup_env.SetupError('no network')
    with monkeypatch.context() as m:
        m.setattr(setup_env, 'install', fail)
        with pytest.raises(setup_env.SetupError): setup_env.setup(env)
        assert setup_env.state_of(env, setup_env.setup_key()) == 'unfinished'
    setup_env.setup(env)
    assert len(calls) == 1 and not (env/'half').exists()

@pytest.mark.parametrize('file,old,new', [('constraints.txt', 'numpy==1', 'numpy==2'), ('settings.ini', 'requirements =', 'requirements = numpy'),
                                          ('settings.ini', 'console_scripts = ', 'console_scripts = retina_x=retina_nb.low.one:x ')])
def test_setup_follows_its_files(setup_in, file, old, new):
    env, calls = setup_in
    setup_env.setup(env)
    p = env.parent/file
    p.write_text(p.read_text().replace(old, new, 1))
    assert setup_env.state_of(env, setup_env.setup_key()) == 'outdated'
    setup_env.setup(env)
    assert len(calls) == 2

def test_setup_leaves_a_foreign_environment_alone(setup_in):
    env, calls = setup_in
    env.mkdir(); (env/'mine').write_text('')
    with pytest.raises(setup_env.SetupError, match='did not make it'): setup_env.setup(env)
    assert (env/'mine').exists() and not calls

def test_setup_remakes_a_moved_or_broken_one(setup_in):
    env, calls = setup_in
    setup_env.setup(env)
    moved = env.with_name('.venv2')
    env.rename(moved)
    assert setup_env.state_of(moved, setup_env.setup_key()) == 'unfinished'
    moved.rename(env)
    (env/'bin/python').unlink()
    assert setup_env.state_of(env, setup_env.setup_key()) == 'unfinished'

def _setup_sh(root, tmp_path, **env):
    return subprocess.run(['/bin/sh', str(root/'tools/setup.sh'), str(tmp_path/'env')], capture_output=True, text=True,
                          env={'PATH': os.environ['PATH'], **env})

def test_setup_says_when_there_is_no_python(root, tmp_path):
    (tmp_path/'bin').mkdir()
    (tmp_path/'bin/dirname').symlink_to(shutil.which('dirname'))
    _stub(tmp_path/'bin', 'python3', 'raise SystemExit(1)')  # an old one, to the eye of the script
    r = _setup_sh(root, tmp_path, PATH=str(tmp_path/'bin'))
    assert r.returncode == 1 and 'no Python 3.11 or later' in r.stderr and not (tmp_path/'env').exists()
    r = _setup_sh(root, tmp_path, PYTHON='/no/such/python')
    assert r.returncode == 1 and 'PYTHON=/no/such/python' in r.stderr

def test_setup_and_pins_agree(root):
    "Every requirement has exactly one pin that it admits, from the index and not from somebody's disk"
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    lines = [s for s in (root/'constraints.txt').read_text().splitlines() if s and not s.startswith('#')]
    assert not [s for s in lines if '+' in s or '/' in s or s.startswith('-')]
    pins = dict(s.split('==') for s in lines)
    assert len(pins) == len(lines)
    for r in map(Requirement, setup_env.requirements(root)):
        assert canonicalize_name(r.name) in pins, f'{r.name} has no pin'
        assert r.specifier.contains(pins[canonicalize_name(r.name)]), f'{r} against {pins[canonicalize_name(r.name)]}'

def test_pins_admit_every_python_3_11(root):
    "Debian's 3.11.2 as well as the newest: a package installed here may ask for more than the machine of a user has"
    from importlib.metadata import PackageNotFoundError, metadata
    from packaging.specifiers import SpecifierSet
    seen = 0
    for line in (root/'constraints.txt').read_text().splitlines():
        if not line or line.startswith('#'): continue
        try: needs = metadata(line.split('==')[0]).get('Requires-Python')
        except PackageNotFoundError: continue  # for another system
        seen += 1
        assert SpecifierSet(needs or '').contains('3.11.0'), f'{line} needs Python {needs}'
    assert seen > 100

# --- make and the benchmarks
def test_make_help_lists_every_target(root):
    r = subprocess.run(['make', '-s', 'help'], cwd=root, capture_output=True, text=True)
    for target in 'demo test test-full lab panel bench docs real prepare clean'.split(): assert f'make {target} ' in r.stdout

@pytest.mark.skipif(bool(shutil.which('quarto')), reason='Quarto is here, so its absence cannot be tried')
def test_make_docs_without_quarto(root):
    r = subprocess.run(['make', '-s', '-o', 'setup', 'docs'], cwd=root, capture_output=True, text=True)
    assert r.returncode != 0 and 'needs Quarto' in r.stderr.splitlines()[0]

def test_bench_runs_and_writes(root, tmp_path):
    (tmp_path/'bench_a.py').write_text('"A thing"\nfrom timing import compare\nimport time\n'
        'def bench(quick): yield compare("sleep", lambda: time.sleep(.01), lambda: time.sleep(.05), items=2, goal=2, repeats=3)\n')
    (tmp_path/'bench_b.py').write_text('"Broken"\ndef bench(quick): raise ValueError\n')
    def _run(*a): return subprocess.run([sys.executable, str(root/'benchmarks/run.py'), '--folder', str(tmp_path), *a], capture_output=True, text=True)
    r = _run('a')
    row, = json.loads((tmp_path/'results/a.json').read_text())['rows']
    assert r.returncode == 0 and '| sleep |' in r.stdout and 1 < row['ratio'] and len(row['seconds_ours']) == 3
    r = _run()
    assert r.returncode != 0 and 'failed to run: b' in r.stderr and not (tmp_path/'results/b.json').exists()

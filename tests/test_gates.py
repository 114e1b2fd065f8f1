"Every check of `make test` finds the fault it is there for: each is planted in a small project and looked for"
import copy, json, os, shutil, subprocess, sys
from pathlib import Path

import pytest

import checks, fresh, gate, linters, notebooks, rules, setup_env, wheel_gate
from small_project import PICTURE, SETTINGS, SIDEBAR, book, code, edit, finds, prose, refresh, shown, write
from turns import in_turn

QUICK = checks.modules_in_step, checks.commands_declared, checks.notebooks_clean, checks.site_in_place, checks.readme_in_step, \
    checks.links_hold, checks.layers_hold, checks.pins_complete, checks.base_suffices, fresh.outputs_fresh
ALL = *QUICK, checks.imports_are_light, *rules.RULES, *linters.LINTERS

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

def test_scripts_of_migrations_are_no_modules(project):
    "Alembic's scripts are written by hand and run by Alembic; a module beside them is found as ever"
    scripts = project/'retina_nb/low/migrations/versions'
    scripts.mkdir(parents=True)
    (scripts/'0001_first.py').write_text('revision = 1\n')
    assert notebooks.nbdev('nbdev_export', project).returncode == 0 # the index of modules lists it
    assert checks.modules_in_step(project) == []
    (project/'retina_nb/low/other.py').write_text('x = 1\n')
    finds(checks.modules_in_step(project), 'low/other.py', 'no notebook')

def test_command_through_its_face(project):
    (project/'settings.ini').write_text(SETTINGS.replace('retina_nb.low.one:retina_one', 'retina_nb.low:retina_one'))
    assert checks.commands_declared(project) == []

@pytest.mark.parametrize('file,text,words', [
    ('low/__init__.pyi', None, ['low/__init__.pyi', 'missing']), ('low/__init__.pyi', 'x = 1\n', ['low/__init__.pyi', 'differs']),
    ('other/__init__.pyi', '', ['other/__init__.pyi', 'no face']), ('py.typed', None, ['py.typed', 'missing'])])
def test_stubs(project, file, text, words):
    p = project/'retina_nb'/file
    p.parent.mkdir(exist_ok=True)
    if text is None: p.unlink()
    else: p.write_text(text)
    finds(checks.modules_in_step(project), *words)
    notebooks.prepare(project)
    assert checks.modules_in_step(project) == []

def test_a_face_that_lists_more_needs_another_stub(project):
    edit(project, 'low/index', lambda nb: nb['cells'][3].update(source=nb['cells'][3]['source'][0:1] + [nb['cells'][3]['source'][1].replace("'double', ", '')]))
    assert notebooks.nbdev('nbdev_export', project).returncode == 0
    finds(checks.modules_in_step(project), 'low/__init__.pyi', 'differs')

@pytest.mark.parametrize('line,words', [
    ('', ['lacks retina_one=retina_nb.low:retina_one']),
    ('retina_one=retina_nb.low:retina_one retina_two=retina_nb.low:retina_two', ['retina_two', 'no such']),
    ('retina_one=retina_nb.high:retina_one', ['retina_one', 'no such']),
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
    refresh(project)
    assert [f for check in QUICK for f in check(project)] == []

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

@pytest.mark.parametrize('module,line,word', [
    ('low/one', 'from retina_nb.high.two import quadruple', 'low.one -> retina_nb.high.two'), ('base', 'def f():\n    import retina_nb.low.more', 'base -> retina_nb.low.more'),
    ('low/one', 'from ..high import two', 'low.one -> retina_nb.high'), ('high/two', 'def f():\n    import torch.nn', 'high.two -> torch'), ('other/__init__', '', 'retina_nb.other')])
def test_wings_out_of_order(project, module, line, word):
    p = project/f'retina_nb/{module}.py'
    p.parent.mkdir(exist_ok=True)
    p.write_text((p.read_text() if p.exists() else '') + line + '\n')
    finds(linters.wings_in_order(project), word)

def test_the_order_of_the_wings_names_every_one(root):
    assert linters.wings_in_order(root) == []
    assert 'exhaustive = True' in (root/'.importlinter').read_text()

@pytest.mark.parametrize('place, word', [('module', 'numpy'), ('lazy', 'numpy'), ('notebook', 'pandas'), ('test', 'pandas'), ('dev', 'dev dependency')])
def test_packages_that_only_this_machine_has(project, place, word):
    if place == 'module': (project/'retina_nb/high/two.py').write_text('import numpy as np\n')
    elif place == 'lazy': (project/'retina_nb/high/two.py').write_text('def f():\n    import numpy as np\n')
    elif place == 'notebook': write(project/'nbs/high/10_two.ipynb', book(prose('# high'), code('import pandas')))
    elif place == 'test':
        (project/'tests/low').mkdir(parents=True)
        (project/'tests/low/test_one.py').write_text('import pandas\n')
    else:
        (project/'settings.ini').write_text(SETTINGS.replace('dev_requirements =', 'dev_requirements = numpy'))
        (project/'retina_nb/high/two.py').write_text('import numpy as np\n')
    finds(linters.imports_declared(project), word)

def test_requirement_that_nothing_uses(project):
    (project/'settings.ini').write_text(SETTINGS.replace('lazy_loader', 'lazy_loader pandas'))
    finds(linters.imports_declared(project), 'settings.ini', 'pandas')

@pytest.mark.parametrize('kind', ['requirements', 'dev_requirements', 'train_requirements'])
def test_requirement_without_a_pin(project, kind):
    text = SETTINGS if kind + ' =' in SETTINGS else SETTINGS.replace('dev_requirements =', f'{kind} =\ndev_requirements =')
    (project/'settings.ini').write_text(text.replace(f'\n{kind} =', f'\n{kind} = pandas'))
    finds(checks.pins_complete(project), 'pandas')

@pytest.mark.parametrize('module,word', [('base', 'an extra'), ('low/one', 'an extra'), ('explain/one', 'the extra [train]')])
def test_room_that_needs_more_than_it_gets(project, module, word):
    (project/'settings.ini').write_text(SETTINGS.replace('dev_requirements =', 'train_requirements = torch\ndev_requirements ='))
    (project/f'retina_nb/{module}.py').parent.mkdir(exist_ok=True)
    (project/f'retina_nb/{module}.py').write_text('try: import scipy\nexcept ImportError: pass\nif True: import numpy\ndef f(): import pandas\n')
    found = checks.base_suffices(project)
    finds(found, f'{module}.py:3: imports numpy', word)
    assert len(found) == 1

def test_extra_of_a_wing_suffices(project):
    (project/'settings.ini').write_text(SETTINGS.replace('dev_requirements =', 'train_requirements = torch numpy\ndev_requirements ='))
    (project/'retina_nb/train').mkdir()
    (project/'retina_nb/train/one.py').write_text('import numpy, torch\n')
    assert checks.base_suffices(project) == []

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

def test_long_notebooks_take_turns(root, tmp_path, monkeypatch):
    names = [p.stem for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts]
    assert all(names.count(n) == 1 for n in gate.LONG_PAGES) # by their names they are told from all others
    (tmp_path/'retina_nb').mkdir()
    monkeypatch.setattr(gate, 'ROOT', tmp_path)
    monkeypatch.setattr(sys, 'argv', ['gate.py'])
    out = []
    for i in range(30):
        (tmp_path/'retina_nb/_modidx.py').write_text(f'# {i}')
        out.append(tuple(gate.left_out()))
        assert gate.left_out() == list(out[-1]) and len(out[-1]) == len(gate.LONG_PAGES)*2//3
    assert len(set(out)) == 3 and all(any(n not in o for o in out) for n in gate.LONG_PAGES) # each has its turn
    monkeypatch.setattr(sys, 'argv', ['gate.py', '--full'])
    assert gate.left_out() == []

class Case:
    def __init__(self, nodeid, *args): self.nodeid, self.args = nodeid, args
    def get_closest_marker(self, name): return self if name == 'turns' and self.args else None

def test_cases_take_turns():
    rare, other = ([Case(f'tests/test_x.py::{name}[{i}]', 3) for i in range(6)] for name in ('one', 'two'))
    always = [Case('tests/test_x.py::three'), Case('tests/test_x.py::four[a]'), Case('tests/test_x.py::four[b]')]
    rounds = [in_turn(rare + always + other, turn) for turn in range(3)]
    for kept in rounds: assert [sum(c in kept for c in some) for some in (rare, other, always)] == [2, 2, 3]
    for c in rare + other: assert sum(c in kept for kept in rounds) == 1

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

def _gates(monkeypatch, quick, long):
    monkeypatch.setattr(gate, 'QUICK', quick)
    monkeypatch.setattr(gate, 'LONG', long)
    monkeypatch.setattr(gate, 'FULL', {})

def test_stops_at_the_first_fault_and_says_what_to_run(monkeypatch, capsys):
    ran = []
    def bad(): gate.held(['a is wrong'], 'Run: make something')
    _gates(monkeypatch, dict(a=('one', lambda: ran.append(1)), b=('two', bad)), dict(c=('three', lambda: ran.append(3))))
    assert gate.main() == 1 and ran == [1]
    err = capsys.readouterr().err
    assert 'a is wrong' in err and 'stopped at "two". Run: make something' in err

def test_one_gate_alone(monkeypatch, capsys):
    _gates(monkeypatch, dict(a=('one', lambda: 1/0)), dict(b=('two', lambda: 'well done')))
    assert gate.main(['b']) == 0
    assert 'two: well done' in capsys.readouterr().out
    assert gate.main(['z']) == 2
    assert 'no such gate: z. There are: a b' in capsys.readouterr().err

def test_a_check_that_breaks_is_no_pass(monkeypatch):
    _gates(monkeypatch, dict(a=('one', lambda: 1/0)), {})
    with pytest.raises(ZeroDivisionError): gate.main()

def test_order():
    assert [*gate.QUICK, *gate.LONG] == 'modules notebooks fresh readme layers lint signatures javascript nbdev_test pytest site wheel'.split()
    assert [*gate.FULL] == ['install']

def test_every_check_has_its_gate():
    "What the small project is tried with is what `make test` runs"
    import inspect
    text = inspect.getsource(gate)
    for f in ALL: assert f.__name__ in text, f'{f.__name__} is in no gate'

@pytest.mark.parametrize('wing,found', [('low', True), ('high', False), ('base', False), ('', True)])
def test_faults_of_one_wing(project, monkeypatch, capsys, wing, found):
    monkeypatch.setattr(notebooks, 'ROOT', project)
    monkeypatch.setattr(linters, 'LINTERS', [])
    edit(project, 'low/10_one', _add(code('import os\nos.getcwd()')))
    assert checks.main(wing) == found
    assert ('mixes imports' in capsys.readouterr().out) == found

# --- 7. the wheel
SMOKE = wheel_gate.SMOKE.split('from retina_nb.data')[0]

def test_wheel_without_its_data(project, tmp_path):
    p = project/'setup.py'
    p.write_text(p.read_text().replace("'static/*', ", ''))
    (project/'retina_nb/low/static').mkdir()
    (project/'retina_nb/low/static/viewer.js').write_text('')
    (tmp_path/'w').mkdir()
    assert wheel_gate.wheel_faults(project, tmp_path/'w', SMOKE) == ['the wheel lacks retina_nb/low/static/viewer.js']

def test_wheel_of_a_whole_project(project, tmp_path):
    (tmp_path/'w').mkdir()
    assert wheel_gate.wheel_faults(project, tmp_path/'w', SMOKE) == []

def test_wheel_with_a_broken_command(project, tmp_path):
    (project/'settings.ini').write_text(SETTINGS.replace('retina_one=retina_nb.low.one:retina_one', 'retina_one=retina_nb.low.one:gone'))
    (tmp_path/'w').mkdir()
    finds(wheel_gate.wheel_faults(project, tmp_path/'w', SMOKE), 'retina_one --help fails')

def test_wheel_without_its_modules(project, tmp_path):
    p = project/'setup.py'
    p.write_text(p.read_text().replace("find_packages(include=['retina_nb*'])", '[]'))
    (tmp_path/'w').mkdir()
    finds(wheel_gate.wheel_faults(project, tmp_path/'w', SMOKE), 'the wheel lacks', 'low/one.py')

@pytest.mark.parametrize('module', ['base', 'low/one'])
def test_wheel_that_leans_on_the_checkout(project, tmp_path, module):
    p = project/f'retina_nb/{module}.py'
    p.write_text(p.read_text() + "\nopen('settings.ini')\n")
    (tmp_path/'w').mkdir()
    finds(wheel_gate.wheel_faults(project, tmp_path/'w', SMOKE), 'does not work', 'settings.ini')

def test_wheel_whose_face_promises_too_much(project, tmp_path):
    p = project/'retina_nb/low/__init__.py'
    p.write_text(p.read_text().replace("'double'", "'treble'"))
    (tmp_path/'w').mkdir()
    finds(wheel_gate.wheel_faults(project, tmp_path/'w', SMOKE), 'does not work', 'treble')

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
    env, _ = setup_in
    setup_env.setup(env)
    moved = env.with_name('.venv2')
    env.rename(moved)
    assert setup_env.state_of(moved, setup_env.setup_key()) == 'unfinished'
    moved.rename(env)
    (env/'bin/python').unlink()
    assert setup_env.state_of(env, setup_env.setup_key()) == 'unfinished'

def _git(folder, *args): return subprocess.run(['git', *args], cwd=folder, capture_output=True, text=True)

def test_setup_lets_git_merge_notebooks(root, tmp_path):
    "A merge driver by its full path; nothing is written into the user's home, and no hook of somebody's own is replaced"
    env, repo = Path(sys.prefix), tmp_path/'repo'
    (repo/'nbs').mkdir(parents=True)
    shutil.copy(root/'settings.ini', repo)
    assert not setup_env.git_hooks(env, repo)  # no git checkout
    _git(repo, 'init', '-q')
    home = {p: p.stat().st_mtime for p in (Path.home()/'.jupyter').glob('*')}
    assert setup_env.git_hooks(env, repo)
    assert home == {p: p.stat().st_mtime for p in (Path.home()/'.jupyter').glob('*')}
    assert str(env/'bin'/'nbdev_merge') in _git(repo, 'config', 'merge.nbdev-merge.driver').stdout
    for f in ('.gitconfig', '.gitattributes'): assert (repo/f).read_text() == (root/f).read_text()
    (repo/'.git/hooks/post-merge').write_text('#!/bin/sh\necho mine\n')
    assert not setup_env.git_hooks(env, repo) and 'mine' in (repo/'.git/hooks/post-merge').read_text()

@pytest.mark.parametrize('broken', ['file', 'tool'])
def test_setup_never_fails_for_its_hooks(tmp_path, broken):
    if broken == 'file': (tmp_path/'.git').write_text('gitdir: elsewhere')
    else: (tmp_path/'.git').mkdir()
    assert not setup_env.git_hooks(tmp_path/'no_env', tmp_path)

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

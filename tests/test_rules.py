"The rules of writing notebooks, of freshness, ruff and types: every fault is planted in a small project, in a wing, and found"
import pytest

import fresh, linters, notebooks, rules
from small_project import PICTURE, book, code, edit, finds, prose, shown, write

def add(*cells): return lambda nb: nb['cells'].extend(cells)
def title(text): return lambda nb: nb['cells'].__setitem__(0, prose(text))
def export(text): return add(code('#| export\n' + text))

BIG = 'def big():\n' + ''.join(f'    x{i} = {i}\n' for i in range(25)) + '    return x0'
DESCRIBED = '#| fig-alt: "A curve that rises to the right"\n#| fig-cap: "The curve"\n'

# --- cells
@pytest.mark.parametrize('rule,change,words', [
    (rules.titles, title('# One'), 'first cell'),
    (rules.titles, title('# One\n> a room'), 'first cell'),
    (rules.titles, title('# One\n\n> a room\n\nAnd more.'), 'first cell'),
    (rules.titles, lambda nb: nb['cells'].insert(0, code('1')), 'first cell'),
    (rules.length, add(*[code(f'{i}') for i in range(60)]), 'more than 60'),
    (rules.imports_alone, add(code('import os\nos.getcwd()')), 'mixes imports'),
    (rules.imports_alone, add(code('def f():\n    import os')), 'mixes imports'),
    (rules.imports_alone, export('import os\nx = 1'), 'mixes imports'),
    (rules.export_cells, export('def a(): pass\ndef b(): pass'), 'holds 2 definitions (a, b)'),
    (rules.export_cells, export('class A: pass\nclass B: pass'), 'holds 2 definitions'),
    (rules.export_cells, export('@patch\ndef a(self:X): pass\n@patch\ndef b(self:X): pass'), 'holds 2 definitions'),
    (rules.export_cells, add(code('#| exporti\ndef a(): pass\ndef b(): pass')), 'holds 2 definitions'),
    (rules.export_cells, export(BIG), '27 lines, more than 25'),
    (rules.export_cells, export('x = "' + 'x y '*30 + '"'), 'a line of 126 characters, more than 120'),
    (rules.export_cells, export('x = [y for a in "b" if (y := f"{a}")]'), 'unfold it'),
    (rules.shown_cells, add(code('x = 1 # ' + 'x'*80)), 'a line of 88 characters'),
    (rules.shown_cells, add(code('#| exports\nx = 1 # ' + 'x'*80)), 'a line of 88 characters'),
    (rules.figures_described, add(code('#| fig-alt: "A curve that rises to the right"\nplot_x(1)', PICTURE)), 'fig-cap'),
    (rules.figures_described, add(code('#| fig-cap: "The curve"\nplot_x(1)', PICTURE)), 'fig-alt'),
    (rules.figures_described, add(code('#| fig-alt: "a: b" c\n#| fig-cap: "The curve"\nplot_x(1)', PICTURE)), 'without a readable `#| fig-alt'),
    (rules.figures_described, add(code('#| fig-alt: "A figure"\n#| fig-cap: "The curve"\nplot_x(1)', PICTURE)), 'what is to be seen'),
], ids=lambda x: getattr(x, '__name__', None) if callable(x) and x in rules.RULES else None)
def test_cells(project, rule, change, words):
    edit(project, 'low/10_one', change)
    found = rule(project)
    finds(found, 'nbs/low/10_one.ipynb', words)
    assert len(found) == 1

@pytest.mark.parametrize('cell', [
    code('import os, sys\n# both\nfrom pathlib import Path'), code('#| export\ndef f():\n    import os'), code('#| eval: false\nimport os\nos.x'),
    code('#| export\nclass A: pass\ndef _helper(): pass'), code('#| export\n@dataclass\nclass B: x:int=0\nclass A: pass'), code('#| export\nA, B = 1, 2'),
    code('#| export\ndef medium():\n' + '    pass\n'*24), code('#| hide\nx = 1 # ' + 'x'*80), code('%time f()\n!ls'), *[code(f'#| hide\n{i}') for i in range(1)], code('%%bash\nls'),
    code(DESCRIBED + 'plot_x(1)', PICTURE), code('#| hide\nplot_x(1)', PICTURE), code('#| export\nif (y := f("a")): x = [z for z in y]')])
def test_no_false_alarm(project, cell):
    edit(project, 'low/10_one', add(cell))
    assert [f for rule in rules.RULES for f in rule(project)] == []

# --- faces and docments
def _module(project, name, old, new):
    p = project/f'retina_nb/{name}.py'
    assert old in p.read_text()
    p.write_text(p.read_text().replace(old, new))

@pytest.mark.parametrize('module,old,new,words', [
    ('low/__init__', "'double'", "'treble'", 'low.one does not define treble'), ('low/__init__', 'more=', 'less=', 'no room low.less'),
    ('low/__init__', "'double'", "'one'", 'one is the name of a room'), ('low/__init__', "'double'", "'same'", 'lists same twice'),
    ('low/__init__', "'double'", "'_private'", '_private is private'), ('high/__init__', 'submod_attrs', 'submodules', 'lists no names')])
def test_faces(project, module, old, new, words):
    _module(project, module, old, new)
    finds(rules.faces_hold(project), f'nbs/{module.split("/")[0]}/index.ipynb', words)

@pytest.mark.parametrize('old,new,words', [
    ('x:float # any number', 'x:float', 'double(x) has no docment'), ('# two of it', '', 'double returns something'), ('    "Twice `x`"\n', '', 'double has no docstring'),
    ('x:float # any number', 'x:float, y=1 # both', 'double(x) has no docment'), ('x:float # any number', 'x:float, # any number\n          *args', 'double(args) has no docment'),
    ('x:float # any number', '*, # no more by place\n          x:float', 'double(x) has no docment'),
    ('def double(x:float # any number\n          )->float: # two of it\n    "Twice `x`"\n    return 2*x',
     'class double:\n    def __init__(self, a): pass', 'double has no docstring'),
    ('def double(x:float # any number\n          )->float: # two of it\n    "Twice `x`"\n    return 2*x',
     'class double:\n    "It"\n    def __init__(self, a): pass\n    def go(self): pass', 'double(a) has no docment'),
    ('def double(x:float # any number\n          )->float: # two of it\n    "Twice `x`"\n    return 2*x',
     'class double:\n    "It"\n    def go(self): pass', 'double.go has no docstring'),
    ('def double(x:float # any number\n          )->float: # two of it\n    "Twice `x`"\n    return 2*x',
     '@dataclass(frozen=True)\nclass double:\n    "It"\n    a:int = 0 # this\n    b:int = 1', 'double.b has no docment')])
def test_docments(project, old, new, words):
    _module(project, 'low/one', old, new)
    finds(rules.docments(project), 'retina_nb/low/one.py', words)

@pytest.mark.parametrize('old,new', [
    ('x:float # any number\n          )->float: # two of it', '\n          # any number,\n          # of any kind\n          x:float,\n          # more\n          *args\n          )->float: # two of it'),
    ('    return 2*x', '    def f(y): return y\n    print(f(x))'), ('def double', 'def undocumented(a): return a\n\ndef double')])
def test_docments_without_a_fault(project, old, new):
    _module(project, 'low/one', old, new)
    assert rules.docments(project) == []

def test_room_at_the_root_lists_its_public_names(project):
    _module(project, 'base', '# any number', '')
    finds(rules.docments(project), 'base.py', 'half(x)')

@pytest.mark.parametrize('text,found', [
    ('import resource', True), ('import os, fcntl', True), ('from fcntl import flock', True), ('class A:\n    import pwd', True),
    ('try: import resource\nexcept ImportError: resource = None', False), ('if os.name != "nt": import fcntl', False), ('def f():\n    import pwd', False)])
def test_windows(project, text, found):
    p = project/'retina_nb/low/one.py'
    p.write_text(p.read_text() + '\n' + text + '\n')
    assert bool(rules.windows_can_import(project)) == found

# --- freshness
def test_fresh(whole): assert fresh.outputs_fresh(whole) == []

def _source(project, notebook, i, old, new):
    edit(project, notebook, lambda nb: nb['cells'][i].update(source=''.join(nb['cells'][i]['source']).replace(old, new).splitlines(True)))

def test_own_cell_edited(project):
    _source(project, 'high/10_two', -1, 'same(1)', 'same(2)')
    finds(fresh.outputs_fresh(project), 'high/10_two', 'its own cells')
    assert len(fresh.outputs_fresh(project)) == 1

def test_room_edited(project):
    "Only who imports from it is stale: `high.two` uses `low.one` by its room, and `low.more` through the face"
    _module(project, 'low/more', 'double(x)/2', 'double(x)/3')
    finds(fresh.outputs_fresh(project), 'high/10_two', 'older than low.more')
    assert len(fresh.outputs_fresh(project)) == 1
    _module(project, 'low/one', '2*x', '3*x')
    finds(fresh.outputs_fresh(project), 'high/10_two', 'older than low.more, low.one')
    finds(fresh.outputs_fresh(project), 'low/20_more', 'older than low.one')

def test_import_added_or_gone(project):
    edit(project, 'high/10_two', lambda nb: nb['cells'].insert(1, code('from retina_nb.base import half')))
    finds(fresh.outputs_fresh(project), 'high/10_two', 'base')

def test_never_executed(project):
    edit(project, 'low/10_one', lambda nb: nb['metadata'].pop('retina_nb'))
    finds(fresh.outputs_fresh(project), 'low/10_one', 'was not executed')

def test_what_changes_no_output_leaves_it_fresh(project):
    _source(project, 'high/10_two', -1, 'quadruple(same(1))', '#| fig-cap: "x"\n# a comment\nquadruple( same(1) )')
    _module(project, 'low/one', '"Twice `x`"', '"Two of `x`" # better words')
    edit(project, 'high/10_two', lambda nb: nb['cells'].append(prose('More words.')))
    assert fresh.outputs_fresh(project) == []

def test_clean_keeps_it(project):
    p = project/'nbs/low/10_one.ipynb'
    nb = notebooks.read_nb(p)
    nb['metadata']['retina_nb']['other'] = 1
    assert list(notebooks.clean(nb)['metadata']['retina_nb']) == ['fresh']
    notebooks.prepare(project)
    assert fresh.outputs_fresh(project) == []

def test_run_says_what_it_ran_on(project, monkeypatch):
    "Executed for real; edited while it runs, it is stale again"
    monkeypatch.setattr(notebooks, 'ROOT', project)
    monkeypatch.setenv('PYTHONPATH', str(project))
    p = project/'nbs/low/30_new.ipynb'
    write(p, book(prose('# new\n\n> One'), code('from retina_nb.base import half'), code('1 + 1')))
    finds(fresh.outputs_fresh(project), '30_new', 'was not executed')
    notebooks.run(p)
    assert fresh.outputs_fresh(project) == [] and notebooks.read_nb(p)['cells'][-1]['outputs'][0]['data']['text/plain'] == ['2']
    ran = notebooks.read_nb(p)
    edit(project, 'low/30_new', lambda nb: nb['cells'].append(code('2 + 2')))
    assert notebooks.store_outputs(p, ran, ran['metadata']['retina_nb']['fresh']) == 1
    finds(fresh.outputs_fresh(project), '30_new', 'its own cells')

def test_run_stale(project, capsys):
    p = project/'nbs/low/10_one.ipynb'
    assert list(fresh.stale(project)) == []
    notebooks.run_stale(project)
    assert 'as fresh as the code' in capsys.readouterr().out
    edit(project, 'low/10_one', lambda nb: nb['cells'].append(code('1/0', shown('1'))))
    with pytest.raises(SystemExit, match='(?s)low/10_one.*ZeroDivisionError'): notebooks.run_stale(project)
    out = capsys.readouterr().out
    assert '1 notebooks to execute' in out and '[1/1] nbs/low/10_one.ipynb: FAILED' in out and p in fresh.stale(project)

# --- ruff and types
@pytest.mark.parametrize('text,words', [
    ('import os', 'F401'), ('def f(x=[]): return x', 'B006'), ('try: f()\nexcept: pass', 'E722'), ('def f():\n    x = 1', 'F841'), ('if print == None: pass', 'E711'),
    ('y = undefined_name', 'F821'), ('def list(): pass', 'A001'), ('def f(:', 'syntax'),
    ('[a for a in range(3) if a is 3]', 'F632')])
def test_ruff(project, text, words):
    edit(project, 'low/10_one', export(text))
    found = linters.ruff_finds_nothing(project)
    finds(found, 'nbs/low/10_one.ipynb: cell 6 [', words)

@pytest.mark.parametrize('text', ['if 1: x = 2', 'import os; os.getcwd()', 'd = dict(a=1); f = lambda x: x\nf(d)', 'from fastcore.test import *\ntest_eq(1, 1)'])
def test_ruff_takes_the_compact_style(project, text):
    edit(project, 'low/10_one', add(code(text)))
    assert linters.ruff_finds_nothing(project) == []

def test_ruff_looks_at_tests(project):
    (project/'tests/low').mkdir(parents=True)
    (project/'tests/low/test_one.py').write_text('import os\n')
    finds(linters.ruff_finds_nothing(project), 'tests/low/test_one.py:1', 'F401')

BAD = {  # one run of the checker finds them all: it takes seconds
    'def f1(): return double("a")': 'reportArgumentType', 'def f2(): return double(1, 2, 3)': 'reportCallIssue', 'def f3()->int: return "a"': 'reportReturnType',
    'from retina_nb.low import nothing': 'unknown import symbol', 'from ..low.one import gone': 'unknown import symbol',
    'def f4(): return double(1).nothing': 'nothing', 'def f5(): return not_there': 'reportUndefinedVariable', 'def f6(x:str): return double(x)': 'reportArgumentType',
    'from retina_nb.low import same as through_the_face': '', 'def f7(): return through_the_face("a")': 'reportArgumentType'}

def test_types(project):
    p = project/'retina_nb/high/two.py'
    first = len(p.read_text().splitlines()) + 1
    p.write_text(p.read_text() + '\n'.join(BAD) + '\n')
    found = linters.types_hold(project)
    for i, words in enumerate(BAD.values(), first):
        if words: finds(found, f'retina_nb/high/two.py:{i}: ', words)
    assert len(found) == sum(map(bool, BAD.values()))

def test_types_leave_alone_what_they_cannot_know(project):
    "Other packages (a room may have the name of one), methods by @patch, parameters that are converted"
    p = project/'retina_nb/high/two.py'
    p.write_text(p.read_text() + '\nimport numpy as np, pandas as pd, one\nfrom pathlib import Path\nfrom fastcore.basics import patch\nclass A: pass\n'
                 '@patch\ndef go(self:A)->int: return 1\ndef f(a:A): return np.nothing, pd.DataFrame().nowhere, one.load(), a.go()\n'
                 'def k(n:int, s:str): return n, s\nsome = dict(n=1, s="a")\nk(**some)\n'
                 'def free(a="x", *, b=str): return max({1: 2}, key={1: 2}.get)\nfree(1, b=int)\nint(dict(a=None).get("a"))\n'
                 'def g(path:str, table:A|str):\n    path, table = Path(path), f(table)\n    return path.exists(), table.columns\n')
    assert linters.types_hold(project) == []

# --- a tool that does not run is no pass
@pytest.mark.parametrize('check', linters.LINTERS, ids=lambda f: f.__name__)
def test_a_tool_that_is_missing(project, tmp_path, monkeypatch, check):
    for name in ('lint-imports', 'deptry', 'ruff', 'basedpyright'):
        (tmp_path/name).write_text('#!/bin/sh\necho broken >&2; exit 3\n')
        (tmp_path/name).chmod(0o755)
    monkeypatch.setattr(linters, 'BIN', tmp_path)
    finds(check(project), 'does not run: broken')

"A small project in the shape of this one: a room at the root and two wings with faces. Checks are tried on it, with faults planted"
import shutil

import fresh, notebooks

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
    '00_base': ['#| default_exp base', '#| export\ndef half(x:float # any number\n        )->float: # half of it\n    "Half of `x`"\n    return x/2',
        'half(8)'],
    'low/10_one': ['#| default_exp low.one', '#| export\nfrom fastcore.script import call_parse',
        '#| export\ndef double(x:float # any number\n          )->float: # two of it\n    "Twice `x`"\n    return 2*x',
        '#| export\n@call_parse\ndef retina_one(x:int=1): # a number\n    "Print double"\n    print(double(x))', 'double(2)'],
    'low/20_more': ['#| default_exp low.more', '#| export\nfrom retina_nb.low.one import double',
        '#| export\ndef same(x:float # any number\n        )->float: # the same\n    "What it was"\n    return double(x)/2', 'same(4)'],
    'high/10_two': ['#| default_exp high.two', '#| export\nfrom retina_nb.low.one import double', 'from retina_nb.low import same',
        '#| export\ndef quadruple(x:float # any number\n             )->float: # four of it\n    "Twice the double"\n    return double(double(x))',
        'quadruple(same(1))']}
LAYERS = """[importlinter]
root_package = retina_nb
include_external_packages = True

[importlinter:contract:wings]
name = A wing imports only wings below it
type = layers
containers = retina_nb
layers =
    high
    low
    base
exhaustive = True
exhaustive_ignores =
    _modidx

[importlinter:contract:torch]
name = Grading runs without torch, not even inside a function
type = forbidden
source_modules =
    retina_nb.high.two
forbidden_modules =
    torch
allow_indirect_imports = True
"""

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

def refresh(project):
    "Say of every notebook that its outputs are of today"
    package = fresh.package_of(project)
    for p in notebooks.notebooks(project):
        nb = notebooks.read_nb(p)
        if any(c['cell_type'] == 'code' for c in nb['cells']): nb['metadata']['retina_nb'] = {'fresh': fresh.freshness(nb, *package)}
        notebooks.write_nb(p, nb)

def make(d):
    "Write it into the folder `d`"
    (d/'settings.ini').write_text(SETTINGS)
    for f in ('setup.py', 'ruff.toml', 'pyrightconfig.json', '_quarto.yml', 'nbs/_quarto.yml', 'nbs/nbdev.yml', 'nbs/styles.scss'):
        (d/f).parent.mkdir(exist_ok=True)
        shutil.copy(notebooks.ROOT/f, d/f)
    for name, cells in ROOMS.items():
        write(d/f'nbs/{name}.ipynb', book(prose(f'# {name}\n\n> A room'), *map(code, cells[:-1]), code(cells[-1], shown('4'))))
    for wing, names in FACES.items():
        write(d/f'nbs/{wing}/index.ipynb', book(prose(f'# {wing}\n\n> A wing'), code(f'#| default_exp {wing}.__init__'), code('#| export\nimport lazy_loader as lazy'),
            code(f'#| export\n__getattr__, __dir__, __all__ = lazy.attach(__name__, submod_attrs=dict({names}))'), code('1', shown('1'))))
    write(d/'nbs/index.ipynb', book(prose('# small\n\n> One [room](low/10_one.ipynb) and [the licence](../LICENSE).')))
    (d/'nbs/sidebar.yml').write_text(SIDEBAR)
    (d/'.importlinter').write_text(LAYERS)
    (d/'LICENSE').write_text('free\n')
    (d/'constraints.txt').write_text('# pins\nfastcore==1.14.5\nlazy-loader==0.6\nnumpy==2.4.6\n')
    (d/'retina_nb').mkdir()
    notebooks.prepare(d)
    refresh(d)

def edit(project, name, change):
    "Apply `change` to a notebook in place"
    p = project/f'nbs/{name}.ipynb'
    nb = notebooks.read_nb(p)
    change(nb)
    notebooks.write_nb(p, nb)

def finds(faults, *words):
    assert any(all(w in f for w in words) for f in faults), f'{words} not in {faults}'

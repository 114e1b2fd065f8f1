"The site as far as it can be had without Quarto: colours, links, folding, documentation of names, what the check finds"
import ast, json, re, shutil

import pytest

import website
from tools import site_nbdev as plug

# --- colours
def _colours(root, theme):
    text = (root/f'nbs/styles-{theme}.scss').read_text()
    found = dict(re.findall(r'^\$([\w-]+):\s*(#[0-9a-f]{6});', text, re.M))
    for name, other in re.findall(r'^\$([\w-]+):\s*\$([\w-]+);', text, re.M): found[name] = found[other]
    return found

def _luminance(colour):
    parts = [int(colour[i:i+2], 16)/255 for i in (1, 3, 5)]
    r, g, b = (c/12.92 if c <= .04045 else ((c+.055)/1.055)**2.4 for c in parts)
    return .2126*r + .7152*g + .0722*b

def contrast(a, b):
    "WCAG 2.2's contrast of two colours, 1 to 21"
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high+.05)/(low+.05)

PAGE = 'text', 'muted', 'link', 'link-hover', 'accent'
CODE = 'code-text', 'syn-keyword', 'syn-string', 'syn-comment', 'syn-number', 'syn-function', 'syn-builtin', 'link', 'important', 'muted'
PAIRS = [*((c, 'paper') for c in (*PAGE, 'output-text', 'note', 'warning', 'important')),
         *((c, 'panel') for c in (*PAGE, 'footer-fg')),          # cards, every other row of a table, the footer
         *((c, 'code-paper') for c in CODE),
         *((c, f'{kind}-paper') for kind in ('note', 'warning', 'important') for c in ('text', 'link', 'code-text')),
         ('bar-text', 'bar'), ('bar-active', 'bar'), ('navbar-fg', 'navbar-bg'), ('navbar-hl', 'navbar-bg'),
         ('sidebar-fg', 'sidebar-bg'), ('sidebar-hl', 'sidebar-bg'), ('footer-fg', 'footer-bg'), ('toc-color', 'paper')]

def test_contrast_is_computed_as_wcag_does():
    assert contrast('#000000', '#ffffff') == pytest.approx(21) and contrast('#777777', '#ffffff') == pytest.approx(4.48, abs=.01)

@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_every_text_can_be_read(root, theme):
    c = _colours(root, theme)
    low = {f'{a} on {b}': round(contrast(c[a], c[b]), 2) for a, b in PAIRS if contrast(c[a], c[b]) < 4.5}
    assert not low, f'{theme}: {low}'

def test_rules_use_the_themes_colours(root):
    rules = (root/'nbs/styles.scss').read_text()
    assert not re.search(r'#[0-9a-fA-F]{3,8}\b(?=[^{]*[;}])', re.sub(r'//.*', '', rules)), 'a colour of its own would be right in one theme only'
    light, dark = _colours(root, 'light'), _colours(root, 'dark')
    assert light.keys() <= dark.keys() and set(re.findall(r'\$([\w-]+)', rules)) - {'font-family-monospace'} <= light.keys()

# --- settings
def test_settings_of_the_site(root):
    import yaml
    q = yaml.safe_load((root/'_quarto.yml').read_text())
    html = q['format']['html']
    assert html['keep-md'] is True and 'commonmark' in q['format'], 'commonmark stops at pages in folders unless keep-md is on'
    for theme in ('light', 'dark'):
        for f in html['theme'][theme]: assert not f.endswith('.scss') or (root/'nbs'/f).exists()
    site = q['website']
    assert site['page-navigation'] and site['search']['type'] == 'textbox' and (root/'nbs'/site['image']).exists() and (root/'nbs'/site['favicon']).exists()
    links = [x['href'] for x in site['navbar']['left']] + re.findall(r'\]\(([^)]+)\)', site['page-footer']['right'])
    for link in links: assert (root/'nbs'/link).exists(), link

def test_sidebar_and_llms_are_in_step(root): assert list(website.step_faults(root)) == []

def test_docs_says_in_one_line_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert re.fullmatch(r'make docs needs Quarto 1\.8 or later, which is not installed: see https://\S+', website.needs_quarto())
    exe = tmp_path/'quarto'
    exe.write_text('#!/bin/sh\necho 1.7.32\n'); exe.chmod(0o755)
    assert 'this is 1.7.32' in website.needs_quarto()
    exe.write_text('#!/bin/sh\necho 1.10.2\n')
    assert website.needs_quarto() == ''

def test_releases_keep_their_site(tmp_path):
    docs, pages = tmp_path/'docs', tmp_path/'pages'
    docs.mkdir(); pages.mkdir()
    (docs/'index.html').write_text('one'); (docs/'old.html').write_text('old')
    website.place(docs, pages, 'v0.1.0')
    website.place(docs, pages)
    (docs/'old.html').unlink(); (docs/'index.html').write_text('two')
    website.place(docs, pages)
    assert (pages/'v0.1.0/index.html').read_text() == 'one' and (pages/'index.html').read_text() == 'two' and not (pages/'old.html').exists()
    website.place(docs, pages, 'v0.10.0')
    assert re.findall(r'>(v[\d.]+)<', (pages/'versions/index.html').read_text()) == ['v0.10.0', 'v0.1.0']
    with pytest.raises(SystemExit): website.place(docs, pages, '../up')

def test_workflow_pins_quarto(root):
    import yaml
    steps = yaml.safe_load((root/'.github/workflows/docs.yml').read_text())['jobs']['docs']['steps']
    version = next(s['with']['version'] for s in steps if 'quarto' in s.get('uses', ''))
    assert tuple(int(x) for x in str(version).split('.')[:2]) >= website.QUARTO

# --- cells
@pytest.mark.parametrize('code,what', [
    ('test_eq(f(1), 2)', 'tests'), ('x = f(1)\nassert x == 2', 'tests'), ('with pytest.raises(ValueError): f(0)', 'tests'),
    ('for i in range(3): test_close(f(i), i)', 'tests'), ('test_eq(f(1), 2)\nf(1)', ''), ('x = f(1)\nx', ''),
    ('import re\nfrom pathlib import Path', 'imports'), ("here = Path('../data')\nset_style()", 'set-up'), ('run = train(records)', '')])
def test_what_a_cell_is(code, what):
    tree = ast.parse(code)
    found = 'tests' if plug.only_tests(tree) else 'imports' if plug.only_imports(tree) else 'set-up' if plug.only_setup(tree) else ''
    assert found == what

def test_options_are_yaml():
    assert plug.options(dict(source='#| fig-alt: "a: b"\n#| export\nx = 1')) == {'fig-alt': 'a: b'}
    with pytest.raises(ValueError, match='YAML'): plug.options(dict(source='#| fig-alt: "a" b\nx'))

def test_links_are_relative_and_lead_to_pages():
    assert plug.relative('data/split.html#x', 'data/records.html') == 'split.html#x'
    assert plug.relative('core.html#task', 'data/records.html') == '../core.html#task'
    assert plug.relative('data/split.html#x', 'data/split.html') == '#x'
    assert plug.to_html_links('[a](../data/30_split.ipynb#y) `[a](b.ipynb)`') == '[a](../data/split.html#y) `[a](b.ipynb)`'
    assert plug.no_citations('as @patch, `@patch`, a@b.org') == r'as \@patch, `@patch`, a@b.org'

def test_only_public_names_are_linked(root):
    folder = str(root/'nbs')
    text = plug.link_names('`Task` and `_say` and `Task` and ```\n`Task`\n```', 'data/split.html', folder)
    assert text == '[`Task`](../core.html#task) and `_say` and `Task` and ```\n`Task`\n```'

def test_a_term_is_linked_where_it_is_used_first(root):
    folder, seen = str(root/'nbs'), set()
    text = plug.link_terms('The fovea, `fovea`, [a fovea](x.html). QWK of the fovea; qwk.', 'data/split.html', folder, seen)
    assert text == ('The [fovea](../glossary.html#fovea){.term}, `fovea`, [a fovea](x.html). '
                    '[QWK](../glossary.html#qwk){.term} of the fovea; qwk.') and seen == {'fovea', 'qwk'}
    assert plug.link_terms('# Fovea\n\nA fovea', 'glossary.html', folder, set()) == '# Fovea\n\nA fovea'

def test_the_glossary_explains_every_term_once(root):
    text = '\n'.join(plug.source(c) for c in plug.notebooks(str(root/'nbs'))['glossary.ipynb']['cells'])
    entries = re.findall(r'^### (.+?) \{#([\w-]+)\}\n<!-- forms: (.*?)-->\n(.+)', text, re.M)
    assert len(entries) == text.count('\n### ') > 60 and len({a for _, a, *_ in entries}) == len(entries)
    forms = [f.strip().lower() for title, _, more, _ in entries for f in [title, *more.split(',')] if f.strip()]
    assert len(set(forms)) == len(forms), [f for f in forms if forms.count(f) > 1]
    for wanted in ('qwk', 'referable', 'operating point', 'fovea', 'icdr', 'sensitivity', 'bundle'): assert wanted in forms

# --- documentation of names
def documented(sym, name=None): return plug.Renderer(sym, name)._repr_markdown_()

def test_a_function_shows_signature_and_table():
    def f(path:str, # where `it` is | or was
          *, size:int|None=None, # pixels; *all* by default
          seed=42 # of the draw
         )->list: # what was found
        "Find things in a <folder>\n\nSlowly."
    text = documented(f, 'f')
    assert '```python\ndef f(path, *, size=None, seed=42) -> list\n```' in text and 'Call self' not in text
    rows = [r for r in text.splitlines() if r.startswith('| ')]
    assert len(rows) == 5 and all(len(re.findall(r'(?<!\\)\|', r)) == 5 for r in rows), rows
    assert '<code>int &#124; None</code>' in text and '| **returns** | <code>list</code> |' in text and r'\<folder>' in text

def test_classes_are_classes():
    class Plain:
        "A plain one"
        def __init__(self, a, # first
                     b=2): pass # second
        def go(self)->int: "Goes"; return 1
    text = documented(Plain, 'Plain')
    assert '```python\nclass Plain(a, b=2)\n```' in text and 'self' not in text.replace('itself', '') and '<code>go()</code> | <code>int</code>' in text
    class Bare(dict): pass
    assert 'lead-doc' not in documented(Bare, 'Bare'), 'no docstring is lent by a base class'

def test_dataclasses_and_patched_methods():
    from dataclasses import dataclass, field
    from fastcore.basics import patch
    from retina_nb.core import Task
    text = documented(Task, 'Task')
    assert 'class Task(' in text and '<code>ordinal</code> | <code>bool</code> | <code>False</code> | do the classes stand in an order' in text
    @dataclass(frozen=True)
    class Plain:
        many: list = field(default_factory=list)
    assert 'lead-doc' not in documented(Plain, 'Plain') and '<code>...</code>' in documented(Plain, 'Plain'), 'no docstring that Python made'
    @patch
    def twice(self:Plain, n:int=2 # how often
             )->int: "Two of them"; return n
    text = documented(Plain.twice)
    assert 'def test_dataclasses' not in text and 'twice(n=2) -> int' in text and 'how often' in text and '<code>self</code>' not in text

def test_long_signatures_break():
    def f(a, bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb=1, cccccccccccccccccccccccccccccccccc=2, dddddddddddddddddddddddddddd=3): "Do"
    code = re.search(r'```python\n(.*?)```', documented(f, 'f'), re.S)[1]
    assert len(code.splitlines()) > 1 and max(map(len, code.splitlines())) <= plug.WIDTH

def test_a_command_is_shown_as_typed(root):
    from retina_nb.data import retina_get
    text = documented(retina_get)
    assert '```sh\nretina_get NAME' in text and '<code>--out</code>' in text

# --- the check finds what is planted
def _code(text, outputs=()): return dict(cell_type='code', id=f'c{abs(hash(text))%10**8}', metadata={}, execution_count=None, outputs=list(outputs), source=text)
def _prose(text): return dict(cell_type='markdown', id=f'm{abs(hash(text))%10**8}', metadata={}, source=text)
@pytest.fixture
def small(root, tmp_path):
    "A project of one room and its face, as nbdev finds it"
    (tmp_path/'nbs/data').mkdir(parents=True)
    shutil.copytree(root/'tools', tmp_path/'tools', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(root/'settings.ini', tmp_path)
    def _write(name, *cells):
        nb = dict(cells=list(cells), metadata=dict(kernelspec=dict(display_name='python3', language='python', name='python3')), nbformat=4, nbformat_minor=5)
        (tmp_path/'nbs'/name).write_text(json.dumps(nb))
    _write('index.ipynb', _prose('# Home\n\n> line'), _prose('Welcome.'))
    _write('data/index.ipynb', _prose('# Data\n\n> line'), _code('#| default_exp data.__init__'),
           _code("#| export\n__all__ = ['one']"), _code("#| eval: false\n#| export\na, b, c = lazy.attach(__name__, submod_attrs=dict(things=['one']))"))
    plug.notebooks.cache_clear(); plug.public_names.cache_clear()
    yield tmp_path, _write
    plug.notebooks.cache_clear(); plug.public_names.cache_clear()

ROOM = _prose('# Things\n\n> line'), _prose('About [a room](index.ipynb).'), _code('#| default_exp data.things')

def test_a_failing_cell_is_named_with_its_notebook(small):
    root, write = small
    write('data/10_things.ipynb', *ROOM, _code('#| export\ndef one(a): # a thing\n    "Count to one"\n    return 1'), _code('from nowhere import nothing'))
    faults = website.make_pages(root, root/'out', ['data/10_things.ipynb'])
    assert len(faults) == 1 and 'data/10_things.ipynb' in faults[0] and 'from nowhere import nothing' in faults[0] and 'ModuleNotFoundError' in faults[0]

def test_gallery_and_index_of_names(small):
    import base64, io
    from PIL import Image
    root, write = small
    out = io.BytesIO(); Image.new('RGB', (900, 600), 'white').save(out, 'PNG')
    png = dict(output_type='display_data', metadata={}, data={'image/png': base64.b64encode(out.getvalue()).decode()})
    figure = _code('#| fig-alt: "A white \\"field\\""\n#| fig-cap: "Nothing to see."\nplot()', [png])
    write('data/10_things.ipynb', *ROOM, _code('#| export\ndef one(a): # a thing\n    "Count to `one`"\n    return 1'), figure)
    write('gallery.ipynb', _prose('# Gallery\n\n> line'), _prose('<!-- site: gallery -->'))
    write('reference.ipynb', _prose('# Names\n\n> line'), _prose('<!-- site: names -->'))
    assert website.make_pages(root, root/'out') == []
    def page(name): return '\n'.join(plug.source(c) for c in json.loads((root/'out'/name).read_text())['cells'])
    thumb = root/'out'/'thumbs'/f"{figure['id']}.jpg"
    assert thumb.stat().st_size < 20_000 and Image.open(thumb).size[0] <= 320
    assert f'href="data/things.html#c-{figure["id"]}"' in page('gallery.ipynb') and 'A white &quot;field&quot;' in page('gallery.ipynb')
    assert f'{{#c-{figure["id"]} .anchor .chart}}' in page('data/10_things.ipynb')
    assert '| [`one`](data/things.html#one) | Count to `one` |' in page('reference.ipynb')

def test_files_of_the_project_as_pages(small):
    root, write = small
    (root/'CHANGELOG.md').write_text('<!-- made -->\n# Changelog\n\nSee [that](tools/x.py), # not this\n\n## 1.0\n')
    write('log.ipynb', _prose('# Log\n\n> line'), _prose('<!-- site: file CHANGELOG.md -->'))
    assert website.make_pages(root, root/'out', ['log.ipynb']) == []
    text = plug.source(json.loads((root/'out/log.ipynb').read_text())['cells'][-1])
    assert text.strip() == 'See [that](https://github.com/retina-nb/retina_nb/blob/main/tools/x.py), # not this\n\n## 1.0'

def test_a_page_without_a_fault_and_one_without_a_docstring(small):
    root, write = small
    write('data/10_things.ipynb', *ROOM, _code('#| export\ndef one(a # a thing\n       )->int: # its count\n    "Count to one"\n    return 1\n\ndef two():\n    "Two"'), _code('test_eq(one(1), 1)'))
    assert website.make_pages(root, root/'out') == []
    assert list(website.page_faults(root, root/'out')) == []
    cells = json.loads((root/'out/data/10_things.ipynb').read_text())['cells']
    assert any('code-summary: "tests"' in plug.source(c) for c in cells)
    doc = next(d for c in cells for d in website._markdown(c) if 'api' in d)
    assert 'from retina_nb.data import one' in doc and 'its count' in doc and 'how it is written' in doc
    assert any('(index.html)' in plug.source(c) for c in cells)
    heads = [h for c in cells for d in website._markdown(c) for h in re.findall(r'^### (\w+)', d, re.M)]
    assert heads == ['one', 'two'], 'in the order in which the cell defines them'
    write('data/10_things.ipynb', *ROOM, _code('#| export\ndef one(a): return 1'))
    plug.notebooks.cache_clear(); plug.public_names.cache_clear()
    website.make_pages(root, root/'out')
    assert any('`one` has no docstring' in f for f in website.page_faults(root, root/'out'))

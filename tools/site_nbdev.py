"""What nbdev calls while it makes the pages of the site: the renderer of `show_doc` (settings.ini `renderer`) and the last of its
processors (`procs`). It is no part of the package: nbdev finds it where the project's folder is on the path, as `make docs` has it."""
import ast, base64, html, inspect, io, json, posixpath, re
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from fastcore.docments import docments, qual_name
from nbdev.config import get_config
from nbdev.process import Processor

PACKAGE, WIDTH = 'retina_nb', 84

def root()->Path: return Path(get_config().config_path)

# --- what the notebooks hold
def source(cell): return ''.join(cell['source'])
def page_of(nb): return (Path(nb).parent/re.sub(r'^\d+[a-zA-Z0-9]*_', '', Path(nb).stem.lower())).as_posix() + '.html'
def code_of(cell): return re.sub(r'^\s*[%!].*$', '', source(cell), flags=re.M)

def parsed(cell):
    "The syntax tree of a code cell, without magics; None where it is not Python"
    try: return ast.parse(code_of(cell))
    except SyntaxError: return None

def exports(cell): return cell['cell_type'] == 'code' and re.search(r'^#\s*\|\s*exports?\s*$', source(cell), re.M)

@lru_cache(None)
def notebooks(folder):
    "{name under nbs/: notebook} of the site, read once"
    found = sorted(p for p in Path(folder).rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(folder).parts))
    return {p.relative_to(folder).as_posix(): json.loads(p.read_text(encoding='utf-8')) for p in found}

def module_of(nb):
    "`data.split` for the notebook that exports it, else an empty text"
    found = (re.search(r'^#\|\s*default_exp\s+(\S+)', source(c), re.M) for c in nb['cells'] if c['cell_type'] == 'code')
    return next((m[1] for m in found if m), '')

def _patched(f):
    "The class that a method under @patch belongs to"
    names = [getattr(d, 'id', getattr(getattr(d, 'func', d), 'id', '')) for d in f.decorator_list]
    note = f.args.args[0].annotation if f.args.args else None
    return ast.unparse(note).strip("'\"") if 'patch' in names and note else ''

def definitions(nb):
    "(name, node, cell) for each function, class and patched method that the notebook exports; methods are `Class.method`"
    for c in nb['cells']:
        tree = parsed(c) if exports(c) else None
        for n in tree.body if tree else []:
            if not isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): continue
            owner = _patched(n) if not isinstance(n, ast.ClassDef) else ''
            yield (f'{owner}.{n.name}' if owner else n.name), n, c

def constants(nb):
    "(name, what its comment says) for each value that the notebook exports under a name"
    for c in nb['cells']:
        tree, lines = (parsed(c) if exports(c) else None), code_of(c).splitlines()
        for n in tree.body if tree else []:
            targets = n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else []
            m = re.search(r'(?:^|\s)#\s+(.*)$', lines[n.end_lineno-1][n.end_col_offset:]) or (n.lineno > 1 and re.match(r'#\s+(?!\|)(.*)$', lines[n.lineno-2]))
            yield from ((t.id, m[1] if m else '') for t in targets if isinstance(t, ast.Name) and not t.id.startswith('_'))

def faces(folder):
    "{wing: {room: [names]}} as the faces' lazy.attach says"
    found = {}
    for name, nb in notebooks(folder).items():
        wing, _, file = name.rpartition('/')
        if file != 'index.ipynb' or not wing: continue
        for c in nb['cells']:
            tree = parsed(c) if exports(c) else None
            for call in ast.walk(tree) if tree else []:
                if isinstance(call, ast.Call) and getattr(call.func, 'attr', '') == 'attach':
                    attrs = next((k.value for k in call.keywords if k.arg == 'submod_attrs'), call.args[-1])
                    found[wing] = _literal(attrs)
    return found

@lru_cache(None)
def root_rooms(folder):
    "{room: names} of the rooms at the root, which have no face: what each defines, and what it hands on in `_all_`"
    found, handed = {}, {}
    for nb in notebooks(folder).values():
        room = module_of(nb)
        if not room or '.' in room: continue
        found[room] = {name for name, *_ in definitions(nb) if '.' not in name and name[0] != '_'} | {n for n, _ in constants(nb) if n != 'd'}
        for c in nb['cells']:
            m = exports(c) and re.search(r'^_all_ = (\[.*?\])', source(c), re.S | re.M)
            if m: handed[room] = set(ast.literal_eval(m[1]))
    for room, names in handed.items():  # a room whose names are handed on is no place to import from
        for other in found.keys() - {room}:
            if found[other] & names: found[other] = set()
        found[room] |= names
    return found

def _literal(node):
    if isinstance(node, ast.Call): return {k.arg: ast.literal_eval(k.value) for k in node.keywords}
    return ast.literal_eval(node)

@lru_cache(None)
def public_names(folder):
    """{name: {page, anchor, face, module, notebook, kind, doc}} of what users import, their public methods included (`Class.method`);
    a name that two wings show is also found as `wing.name`"""
    shown, found = faces(folder), {}
    for nb_name, nb in notebooks(folder).items():
        room = module_of(nb)
        if not room or room.endswith('__init__'): continue
        wing, _, leaf = room.rpartition('.')
        wanted = set(shown.get(wing, {}).get(leaf, ())) if wing else set().union(*root_rooms(folder).values())
        defined = list(definitions(nb))
        for name, node, _cell in defined:
            top = name.split('.')[0]
            if any(part.startswith('_') for part in name.split('.')): continue
            if top not in wanted: continue
            face = f'{PACKAGE}.{wing}' if wing else f'{PACKAGE}.' + next(r for r, ns in root_rooms(folder).items() if top in ns)
            if '.' in name and top not in {n for n, *_ in defined} | set(found): continue
            kind = 'class' if isinstance(node, ast.ClassDef) else 'method' if '.' in name else 'function'
            doc = (ast.get_docstring(node) or '').split('\n')[0]
            row = dict(page=page_of(nb_name), anchor=name.lower(), face=face, module=f'{PACKAGE}.{room}', notebook=nb_name, kind=kind, doc=doc)
            found.setdefault(name, row)
            found[f"{face.removeprefix(PACKAGE + '.')}.{name}"] = row
        for name, doc in constants(nb):
            if name not in wanted or name in {n for n, *_ in defined}: continue
            face = f'{PACKAGE}.{wing}' if wing else f'{PACKAGE}.' + next(r for r, ns in root_rooms(folder).items() if name in ns)
            row = dict(page=page_of(nb_name), anchor='', face=face, module=f'{PACKAGE}.{room}', notebook=nb_name, kind='value', doc=doc)
            found.setdefault(name, row)
            found[f"{face.removeprefix(PACKAGE + '.')}.{name}"] = row
    return found

def commands(folder):
    "Names of the commands that settings.ini declares"
    text = (Path(folder).parent/'settings.ini').read_text(encoding='utf-8')
    return set(re.findall(r'^\s*(\w+)=retina_nb[\w.]*:\1\s*$', text, re.M))

# --- the renderer of show_doc
def esc(text): return html.escape(str(text), quote=False).replace('|', '&#124;').replace('[', '&#91;').replace('*', '&#42;').replace('_', '&#95;').replace('$', '&#36;').replace('`', '&#96;').replace('~', '&#126;').replace('@', '&#64;').replace('\\', '&#92;').replace("'", '&#39;').replace('"', '&quot;')

def fmt_type(note, default=inspect.Parameter.empty):
    "A type as people write it: `int | None`, `DataFrame`, `Task`; what the default is where no type was given"
    if note is inspect.Parameter.empty or (note is None and default is not None):
        return '' if default is inspect.Parameter.empty or default is None else type(default).__name__
    if inspect.isclass(note) and not getattr(note, '__args__', None): return note.__name__
    if inspect.isfunction(note): return note.__name__
    text = note if isinstance(note, str) else getattr(note, '__forward_arg__', None) or str(note)
    text = re.sub(r"<class '([^']+)'>|ForwardRef\('([^']+)'\)", lambda m: m[1] or m[2], text)
    return re.sub(r'\s*\|\s*', ' | ', re.sub(r'\b(?:\w+\.)+(?=\w)', '', text))

def fmt_default(x):
    "A default as it is typed, cut where it is long"
    if x is inspect.Parameter.empty: return ''
    if type(x).__name__ in ('_HAS_DEFAULT_FACTORY_CLASS', 'MISSING', '_MISSING_TYPE'): return '...'
    text = getattr(x, '__name__', None) if callable(x) else None
    text = text or re.sub(r' at 0x[0-9a-fA-F]+', '', repr(x))
    return text if len(text) <= 40 else text[:37] + '...'

def _unwrapped(sym):
    if not hasattr(sym, '__signature__'): sym = getattr(sym, '__wrapped__', sym)
    func = getattr(sym, 'func', None) if type(sym).__name__ == 'cached_property' else None
    return getattr(sym, 'fget', None) or func or sym

def own_doc(sym):
    "The docstring that was written for it: none that Python makes up or that a foreign base class lends"
    if not inspect.isclass(sym): return inspect.cleandoc(getattr(sym, '__doc__', None) or '')
    doc = sym.__dict__.get('__doc__') or ''
    if is_dataclass(sym) and doc.startswith(sym.__name__ + '('): doc = ''
    return inspect.cleandoc(doc or getattr(sym.__dict__.get('__init__'), '__doc__', None) or '')

def field_comments(cls):
    "{field: comment} of a dataclass, from the notebook: a class of a running notebook has no source file to read it from"
    for nb in notebooks(str(root()/'nbs')).values():
        for name, node, cell in definitions(nb):
            fields = [n for n in getattr(node, 'body', []) if isinstance(n, ast.AnnAssign)] if name == cls.__name__ else []
            if not fields or {n.target.id for n in fields} != set(cls.__annotations__): continue
            lines, found = code_of(cell).splitlines(), {}
            for n in fields:
                m = re.search(r'#\s*(.*)$', lines[n.end_lineno-1][n.end_col_offset:])
                above, i = [], n.lineno - 2
                while not m and i >= 0 and re.match(r'\s*#(?!\|)', lines[i]): above.insert(0, lines[i].strip('# ')); i -= 1
                found[n.target.id] = m[1] if m else ' '.join(above)
            return found
    return {}

def params_of(sym):
    "[(name, kind, type, default, meaning)] and (type, meaning) of what is returned"
    def _table(eval_str):
        try: return docments(sym, full=True, eval_str=eval_str)
        except Exception: return {}
    dm = _table(False) or {}
    try: sig = inspect.signature(sym)
    except (TypeError, ValueError): return [], ('', '')
    rows, fields = [], field_comments(sym) if inspect.isclass(sym) and is_dataclass(sym) else {}
    for i, (name, p) in enumerate(sig.parameters.items()):
        if i == 0 and name in ('self', 'cls'): continue
        d = dm.get(name) or {}
        note, meaning = p.annotation, (d.get('docment') or fields.get(name, '')) if isinstance(d, dict) else fields.get(name, '')
        if type(note).__name__ == 'Param':
            meaning, note = meaning or re.sub(r' \(default: .*\)$', '', note.help or ''), note.type or inspect.Parameter.empty
        rows.append((name, p.kind, fmt_type(note, p.default), fmt_default(p.default), ' '.join(meaning.split())))
    ret = dm.get('return') or {}
    note = sig.return_annotation if not inspect.isclass(sym) else inspect.Parameter.empty
    return rows, (fmt_type(note), ' '.join((ret.get('docment') or '').split()))

def _lines(head, args, tail):
    "One line where it fits, else one argument a line"
    one = f"{head}({', '.join(args)}){tail}"
    if len(one) <= WIDTH: return one
    lines, now = [], '   '
    for a in args:
        if len(now) + len(a) + 2 > WIDTH: lines.append(now); now = '   '
        now += f' {a},'
    return f"{head}(\n" + '\n'.join([*lines, now.rstrip(',')]) + f'\n){tail}'

def signature_text(name, rows, returns, what='def'):
    "Readable code: `def f(a, *, b=1) -> DataFrame:` and `class C(a, b=1)`"
    args, starred = [], False
    for n, kind, _, default, _ in rows:
        if kind is inspect.Parameter.KEYWORD_ONLY and not starred: args.append('*'); starred = True
        if kind is inspect.Parameter.VAR_POSITIONAL: n, starred = f'*{n}', True
        if kind is inspect.Parameter.VAR_KEYWORD: n = f'**{n}'
        args.append(f'{n}={default}' if default else n)
    return _lines(f'{what} {name}', args, f' -> {returns}' if returns and what == 'def' else '')

def usage_text(name, rows):
    "A command as it is typed: `retina_get NAME [--dest DEST]`"
    words = []
    for n, kind, typ, default, _ in rows:
        if not default: words.append(n.upper() if kind is not inspect.Parameter.VAR_POSITIONAL else f'{n.upper()}...')
        elif typ in ('bool', 'store_true', 'bool_arg') or default in ('True', 'False'): words.append(f"[--{'no_' if default == 'True' else ''}{n}]")
        else: words.append(f'[--{n} {n.upper()}]')
    lines, now = [], name
    for w in words:
        if len(now) + len(w) + 1 > WIDTH - 2: lines.append(now + ' \\'); now = '   '
        now += f' {w}'
    return '\n'.join([*lines, now])

def prose(text):
    "A docstring or a comment as prose: no HTML, no citation and no emphasis by accident"
    parts = re.split(r'(`[^`\n]+`|\[[^\]\n]+\]\(https?:[^)\s]+\))', text)
    for i in range(0, len(parts), 2): parts[i] = re.sub(r'(?<!\\)([<@*|\[\]$~^])', r'\\\1', parts[i])
    for i in range(1, len(parts), 2):
        if '|' in parts[i]: parts[i] = f'<code>{esc(parts[i][1:-1])}</code>'
    return ''.join(parts)

def _cell(code): return f'<code>{esc(code)}</code>' if code else ''

def table_text(rows, returns, command=False):
    "parameter, type, default, meaning, and last what is returned"
    if not rows and not any(returns): return ''
    star = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
    out = ['::: {.params}', '', '| parameter | type | default | meaning |', '|:-----------|:----------|:--------|:---------------------------|']
    for n, kind, typ, default, meaning in rows:
        shown = (f'--{n}' if default else n.upper()) if command else star.get(kind, '') + n
        out.append(f'| {_cell(shown)} | {_cell(typ)} | {_cell(default)} | {prose(meaning)} |')
    if any(returns) and not command: out.append(f'| **returns** | {_cell(returns[0])} | | {prose(returns[1])} |')
    return '\n'.join([*out, '', ':::'])

def methods_text(cls):
    "The public methods and properties written in the body of a class, a row each"
    rows = []
    for name, x in vars(cls).items():
        f = _unwrapped(getattr(x, '__func__', x))
        if name.startswith('_') or not inspect.isfunction(f) or not f.__qualname__.startswith(cls.__qualname__ + '.'): continue
        is_value = isinstance(x, property) or type(x).__name__ == 'cached_property'
        params, ret = params_of(f)
        call = name if is_value else signature_text(name, params, '', what='').strip().replace('\n', ' ').replace('(     ', '(')
        doc = own_doc(f).split('\n\n')[0]
        rows.append(f'| {_cell(re.sub(" +", " ", call))} | {_cell(ret[0])} | {prose(" ".join(doc.split()))} |')
    if not rows: return ''
    return '\n'.join(['::: {.params .methods}', '', '| member | type | meaning |', '|:--------------------|:---------|:--------------------------|', *rows, '', ':::'])

class Renderer:
    "What `show_doc` shows: heading, signature, what it does, parameters; links and the source are put in by `Site`, which knows the page"
    def __init__(self, sym, name=None, title_level=3):
        self.sym, self.nm, self.level = sym, name or qual_name(_unwrapped(sym)), title_level
    def _repr_markdown_(self):
        sym, name = _unwrapped(self.sym), self.nm
        rows, ret = params_of(sym) if callable(sym) else ([], ('', ''))
        is_class, is_value = inspect.isclass(sym), isinstance(self.sym, property) or type(self.sym).__name__ == 'cached_property'
        command = name in commands(str(root()/'nbs'))
        if command: code = f'```sh\n{usage_text(name, rows)}\n```'
        elif is_value: code = f"```python\n{name}{' -> ' + ret[0] if ret[0] else ''}\n```"
        elif callable(sym): code = f"```python\n{signature_text(name.split('.')[-1] if is_class else name, rows, ret[0], 'class' if is_class else 'def')}\n```"
        else: code = ''
        doc = own_doc(sym) if callable(sym) else ''
        first, _, rest = doc.partition('\n\n')
        parts = [f"{'#'*self.level} {name} {{#{name.lower()} .api}}", f'<!-- api {name} -->', code]
        if first: parts += ['::: {.lead-doc}', prose(' '.join(first.split())), ':::']
        if rest: parts.append(prose(rest))
        parts.append(table_text(rows, ret, command))
        if is_class: parts.append(methods_text(sym))
        return '\n\n'.join(p for p in parts if p) + '\n'
    def __repr__(self): return f'{self.nm}: {own_doc(_unwrapped(self.sym))}'

# --- cells as the reader meets them
_tests = re.compile(r'^(test_\w+|is_close|raises|warns)$')

def _call_name(n):
    n = n.value if isinstance(n, (ast.Expr, ast.Await)) else n
    return getattr(n.func, 'id', getattr(n.func, 'attr', '')) if isinstance(n, ast.Call) else ''

def _is_test(n):
    if isinstance(n, ast.Assert): return True
    if isinstance(n, ast.Expr): return bool(_tests.match(_call_name(n)))
    if isinstance(n, ast.With) and any(re.match(r'raises|warns|ExceptionExpected', _call_name(i.context_expr)) for i in n.items): return True
    if isinstance(n, (ast.With, ast.For, ast.If, ast.Try)): return any(_is_test(x) for x in n.body)
    return isinstance(n, ast.FunctionDef) and n.name.startswith('test_')

_helpers = ast.Assign, ast.AnnAssign, ast.AugAssign, ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Delete, ast.With, ast.For

def only_tests(tree):
    "A cell of tests: at least one, and besides them only what they need"
    return bool(tree and tree.body) and any(map(_is_test, tree.body)) and all(_is_test(n) or isinstance(n, _helpers) for n in tree.body)

def only_imports(tree):
    return bool(tree and tree.body) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body)

_setup_calls = {'set_style', 'set_option', 'rmtree', 'makedirs', 'mkdir', 'filterwarnings', 'insert', 'chdir', 'use', 'seed', 'manual_seed', 'set_num_threads'}
_finding = re.compile(r"""Path\(\s*['"]\.\.|\.is_dir\(\)|\.exists\(\)|mkdtemp|TemporaryDirectory|Path\.cwd|__file__|environ""")

def only_setup(tree):
    "Finding files and setting the stage: nothing that a reader came for"
    def _one(n):
        if isinstance(n, (ast.Import, ast.ImportFrom)) or _call_name(n) in _setup_calls: return True
        return isinstance(n, ast.Assign) and bool(_finding.search(ast.unparse(n.value)))
    return bool(tree and tree.body) and all(map(_one, tree.body))

def has_picture(cell):
    return any(k.startswith('image/') for o in cell.get('outputs', []) for k in o.get('data', {}))

def is_chart(cell):
    "Are its pictures drawn in few flat colours on white or nothing? Such a figure can be turned dark; a photograph cannot"
    from PIL import Image
    charts = []
    for o in cell.get('outputs', []):
        if not (data := o.get('data', {}).get('image/png')): continue
        im = Image.open(io.BytesIO(base64.b64decode(''.join(data)))).convert('RGBA')
        im = Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im).convert('RGB').resize((300, 200), Image.Resampling.NEAREST)
        colours = sorted(im.quantize(64).convert('RGB').getcolors(60000), reverse=True)
        white = sum(n for n, c in colours if min(c) > 235)
        charts.append(white > .45*60000 and sum(n for n, _ in colours[:14]) > .88*60000)
    return bool(charts) and all(charts)

def options(cell):
    "Quarto's options at the top of a code cell, as they parse; a ValueError says which line does not"
    lines = []
    for line in source(cell).splitlines():
        m = re.match(r'\s*#\s*\|\s?(.*)$', line)
        if line.strip() and not m: break
        if m and re.match(r'[\w-]+:', m[1]): lines.append(m[1])
    try: return yaml.safe_load('\n'.join(lines)) or {}
    except yaml.YAMLError as e: raise ValueError(f"the options at its top are no YAML ({str(e).splitlines()[0]}): {'; '.join(lines)[:80]}") from None

# --- links
_skip = re.compile(r'(```.*?```|~~~.*?~~~|<!--.*?-->|<a [^>]*>.*?</a>|!?\[[^\]\n]*\]\([^)\n]*\)|^#{1,6} [^\n]*$|<[^>\n]+>|\$\$.*?\$\$)', re.S | re.M)

def relative(target, page):
    "The address of `target` (page#anchor under the site's root) as seen from `page`"
    file, _, anchor = target.partition('#')
    here = posixpath.relpath(file, posixpath.dirname(page) or '.') if file and file != page else ''
    return (here + ('#' + anchor if anchor else '')) or posixpath.basename(page)

def address(row): return row['page'] + (f"#{row['anchor']}" if row['anchor'] else '')

def link_names(text, page, folder, seen=None):
    "Public names in backticks become links, the first time in a piece of prose"
    names, seen = public_names(folder), set() if seen is None else seen
    def _one(m):
        key = m[1].removesuffix('()').removeprefix(f'{PACKAGE}.')
        if key not in names or key in seen: return m[0]
        row = names[key]
        if key in seen or address(row) in seen: return m[0]
        seen.update((key, address(row)))
        return f"[`{m[1]}`]({relative(address(row), page)})" if address(row) != page else m[0]
    parts = _skip.split(text)
    return ''.join(p if i % 2 else re.sub(r'(?<!`)`([A-Za-z_][\w.]*(?:\(\))?)`(?!`)', _one, p) for i, p in enumerate(parts))

def link_types(text, page, folder):
    "Public classes in the types of a parameter table become links"
    names = public_names(folder)
    def _word(m):
        row = names.get(m[0])
        return f'<a href="{relative(address(row), page)}">{m[0]}</a>' if row and row['kind'] == 'class' else m[0]
    def _code(m):
        cells = m[0].split(' | ')
        if len(cells) > 1: cells[1] = re.sub(r'<code>(.*?)</code>', lambda c: '<code>' + re.sub(r'\b[A-Z]\w+', _word, c[1]) + '</code>', cells[1])
        return ' | '.join(cells)
    return re.sub(r'^\| (?:<code>|\*\*returns).*$', _code, text, flags=re.M)

def to_html_links(text):
    "Links to notebooks lead to their pages"
    def _one(m):
        file, _, anchor = m[2].partition('#')
        if re.match(r'[a-z]+:', file): return m[0]
        return m[1] + page_of(file) + ('#' + anchor if anchor else '') + m[3]
    parts = re.split(r'(```.*?```|`[^`\n]*`)', text, flags=re.S)
    return ''.join(p if i % 2 else re.sub(r'(\]\(|href=")([^)\s"]+\.ipynb(?:#[^)\s"]*)?)([)"])', _one, p) for i, p in enumerate(parts))

# --- the glossary: its terms are linked where a page uses them first
@lru_cache(None)
def glossary(folder):
    "{pattern: anchor} of glossary.ipynb, where a term is `### Term {#anchor}` and its other forms stand in a comment: <!-- forms: a, b -->"
    nb, found = notebooks(folder).get('glossary.ipynb'), {}
    for c in nb['cells'] if nb else []:
        for m in re.finditer(r'^#{2,4} (.+?) \{#([\w-]+)\}\s*\n(?:<!-- forms: (.*?) -->)?', source(c), re.M):
            for form in [m[1], *(m[3] or '').split(',')]:
                if form.strip(): found[form.strip()] = m[2]
    return found

@lru_cache(None)
def _terms(folder):
    forms = sorted(glossary(folder), key=len, reverse=True)
    return re.compile(r'(?<![\w`/-])(' + '|'.join(re.escape(f) for f in forms) + r')(?![\w`/-])', re.I) if forms else None

def link_terms(text, page, folder, seen):
    "The first use of each term of the glossary on a page becomes a link"
    terms, known = _terms(folder), glossary(folder)
    if terms is None or page in ('glossary.html', 'index.html'): return text
    lower = {k.lower(): v for k, v in known.items()}
    def _one(m):
        word = m[1]
        if word.lower() in {k.lower() for k in known if k.isupper()} and not word.isupper(): return m[0]
        anchor = lower[word.lower()]
        if anchor in seen: return m[0]
        seen.add(anchor)
        return f"[{word}]({relative('glossary.html#' + anchor, page)}){{.term}}"
    parts = re.split(r'(```.*?```|`[^`\n]*`|<!--.*?-->|!?\[[^\]\n]*\]\([^)\n]*\)(?:\{[^}\n]*\})?|^#{1,6} [^\n]*$|<[^>\n]+>|\*\*.*?\*\*)', text, flags=re.S | re.M)
    return ''.join(p if i % 2 else terms.sub(_one, p) for i, p in enumerate(parts))

def no_citations(text):
    "`@name` outside code would be a citation to Quarto"
    parts = re.split(r'(```.*?```|`[^`\n]*`|<[^>\n]+>|\]\([^)\n]*\))', text, flags=re.S)
    return ''.join(p if i % 2 else re.sub(r'(?<![\w\\])@(?=\w)', r'\\@', p) for i, p in enumerate(parts))

# --- the last processor
COLAB = 'https://colab.research.google.com/github/{repo}/blob/{branch}/nbs/{nb}'
SOURCE = 'https://github.com/{repo}/blob/{branch}/nbs/{nb}'
_install = re.compile(r'^\s*[%!].*pip install', re.M)

def installs(nb):
    "Does the notebook bring the package where it is missing, so that it runs on Colab?"
    return any(c['cell_type'] == 'code' and _install.search(source(c)) for c in nb['cells'])

class Site(Processor):
    "Folds tests and imports, links public names and terms, marks figures, and fills in what a page takes from elsewhere"
    def begin(self):
        self.folder = str(root()/'nbs')
        self.name = Path(self.nb.path_).resolve().relative_to(Path(self.folder).resolve()).as_posix()
        self.page, self.terms = page_of(self.name), set()
        self.original = notebooks(self.folder)[self.name]
        self.module = module_of(self.original)
        self.own = {n: (node, cell) for n, node, cell in definitions(self.original)}
        self.nb.metadata.pop('widgets', None)  # no widget lives on a page, and its scripts come from elsewhere
        self.in_order()
        for c in self.nb.cells:
            if c.cell_type == 'markdown': self.prose(c)
            elif c.cell_type == 'code': self.code(c)
        self.bar()

    def in_order(self):
        "Names that one cell defines come from nbdev in reverse: back into the notebook's order"
        order = {n: i for i, n in enumerate(self.own)}
        def _place(c):
            m = re.search(r'^show_doc\(([\w.]+)', source(c), re.M) if c.cell_type == 'code' else None
            return order.get(m[1]) if m else None
        cells, i = self.nb.cells, 0
        while i < len(cells):
            j = i
            while j < len(cells) and _place(cells[j]) is not None: j += 1
            cells[i:j] = sorted(cells[i:j], key=_place)
            i = max(j, i+1)

    def prose(self, c):
        if source(c).startswith('<!-- WARNING'): return
        if m := re.search(r'<!-- site: (\w+)(?: (\S+))? -->', source(c)):
            from tools import website  # what pages take from elsewhere: the gallery, the names, files of the project
            c.source = getattr(website, m[1])(self, source(c), m[2])
            return
        text = no_citations(to_html_links(source(c)))
        if '<!-- cards -->' in text: text = re.sub(r'(?:^- .*\n?)+', lambda m: f'\n::: {{.cards}}\n{m[0].rstrip()}\n:::\n', text, flags=re.M)
        text = re.sub(r'^(#{1,6}) `?([\w.]+)`?$', self.heading, text, flags=re.M)
        c.source = link_terms(link_names(text, self.page, self.folder), self.page, self.folder, self.terms)

    def heading(self, m):
        "A heading that is called like a name of the page leaves the anchor to the name"
        return f'{m[0]} {{#about-{m[2].lower()}}}' if m[2].lower() in {n.lower() for n in self.own} else m[0]

    def code(self, c):
        text = source(c)
        if re.search(r'^show_doc\(', text, re.M): return self.documented(c)
        for o in c.get('outputs', []):
            if 'text/markdown' in o.get('data', {}):
                said = to_html_links(''.join(o['data']['text/markdown']))
                o['data']['text/markdown'] = f'::: {{.result}}\n{said}\n:::' if self.name == 'index.ipynb' else said
        tree, done = parsed(c), {re.sub(':.*', '', k) for k in (c.get('directives_') or {})}
        if tree is None or done & {'code-fold', 'echo', 'include'}: return
        summary = 'tests' if only_tests(tree) else 'imports' if only_imports(tree) else 'set-up' if only_setup(tree) else ''
        typed = not self.module or self.module.endswith('__init__')  # in a lesson and at a wing's door the imports are what a reader types
        if summary == 'imports' and typed: summary = ''
        if summary == 'tests' and has_picture(c): summary = ''
        if self.name.startswith('results/'): summary = 'how this is computed'  # a page of figures, for those who do not read code too
        if summary: c.source = f'#| code-fold: true\n#| code-summary: "{summary}"\n' + text

    def documented(self, c):
        "Output of `show_doc`: where it is imported from, its source, links to public classes and names"
        for o in c.get('outputs', []):
            if 'text/markdown' not in o.get('data', {}): continue
            text = ''.join(o['data']['text/markdown'])
            m = re.search(r'<!-- api (\S+) -->', text)
            if not m: continue
            text = link_types(text, self.page, self.folder)
            head, _, body = text.partition(m[0])
            code, _, after = body.partition('\n```\n') if '```' in body else ('', '', body)
            after = link_names(after, self.page, self.folder, {m[1], f"{self.page}#{m[1].lower()}"})
            row = public_names(self.folder).get(m[1])
            public = row is not None and row['notebook'] == self.name
            if not public: head = head.replace('.api}', '.api .internal .unnumbered .unlisted}')
            text = head + self.meta(m[1], public) + code + ('\n```\n' if code else '') + after + self.listing(m[1])
            o['data'] = {'text/markdown': text, 'text/plain': ''}

    def meta(self, name, public):
        cfg = get_config()
        where = public_names(self.folder)[name]['face'] if public else f'{PACKAGE}.{self.module}'
        top = name.split('.')[0]
        words = [f'`from {where} import {top}`' if public else f'used inside `{where}`']
        if name in self.own:
            py = f"{PACKAGE}/{self.module.replace('.', '/')}.py"
            file, line = root()/py, 0
            if file.exists():
                found = re.search(rf"^(?:async )?(?:def|class) {re.escape(name.split('.')[-1])}\b", file.read_text(encoding='utf-8'), re.M)
                line = file.read_text(encoding='utf-8')[:found.start()].count('\n') + 1 if found else 0
            words.append(f"[source](https://github.com/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{py}{f'#L{line}' if line else ''})")
        return '\n\n::: {.api-meta}\n' + ' · '.join(words) + '\n:::\n\n'

    def listing(self, name):
        "The exported cell itself, folded: these notebooks are the source"
        if name not in self.own: return ''
        text = re.sub(r'^#\s*\|.*\n', '', source(self.own[name][1]), flags=re.M).strip('\n')
        return f'\n<details class="listing">\n<summary>how it is written</summary>\n\n```python\n{text}\n```\n\n</details>\n'

    def bar(self):
        "An anchor before each figure, for the gallery; links to the notebook at the top of the page"
        from execnb.nbio import mk_cell
        cells = []
        for c in self.nb.cells:
            shows = c.cell_type == 'code' and has_picture(c)
            if shows: cells.append(mk_cell(f"::: {{#c-{c.id} .anchor{' .chart' if is_chart(c) else ''}}}", 'markdown'))
            cells.append(c)
            if shows: cells.append(mk_cell(':::', 'markdown'))
        if self.name not in ('index.ipynb',) and not self.name.startswith('about/'):
            cfg = get_config()
            at = dict(repo=f'{cfg.user}/{cfg.repo}', branch=cfg.branch, nb=self.name)
            links = [f"[Open in Colab]({COLAB.format(**at)}){{.pill}}"] if installs(self.original) else []
            links.append(f"[This page as a notebook]({SOURCE.format(**at)}){{.pill}}")
            i = next((i for i, c in enumerate(cells) if c.cell_type == 'raw'), -1) + 1
            cells.insert(i, mk_cell('::: {.page-bar}\n' + ' '.join(links) + '\n:::', 'markdown'))
        self.nb.cells = cells

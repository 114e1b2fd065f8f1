"""How a notebook is written, one function a rule. A rule takes the folder of the project and returns its faults as sentences that
begin with the notebook's path; an empty list means that it holds. tests/test_rules.py plants every fault and sees it found."""
import ast, re

from notebooks import directives, notebooks, parse, read_nb, source
from package import face_names, faces, modules, name_of, rooms, wing_of

EXPORT = {'export', 'exports', 'exporti'}
HIDDEN = {'hide', 'include: false', 'echo: false'}
LINES, WIDTH, SHOWN, CELLS = 25, 120, 84, 60

def code_cells(root):
    "(notebook's name, its place in the list of cells, cell, directives) of every code cell"
    for p in notebooks(root):
        for i, c in enumerate(read_nb(p)['cells']):
            if c['cell_type'] == 'code': yield name_of(root, p), i, c, directives(c)

def at(name, i, cell):
    "How a message says where: notebook, cell and how it begins"
    first = next((s for s in source(cell).splitlines() if s.strip() and not s.startswith('#|')), '')
    return f'{name}: cell {i} [{cell.get("id", "?")}] ({first.strip()[:50]})'

def body(cell):
    "The lines of code of a cell: neither blank nor a directive"
    return [s for s in source(cell).splitlines() if s.strip() and not re.match(r'#\s*\|', s)]

# --- titles
def titles(root):
    "The first cell is `# Title`, a blank line and `> one line`, nothing else: the site drops whatever else stands there"
    faults = []
    for p in notebooks(root):
        cells = read_nb(p)['cells']
        text = source(cells[0]).strip() if cells else ''
        if not cells or cells[0]['cell_type'] != 'markdown' or not re.fullmatch(r'# [^\n]+\n\n> [^\n]+', text):
            faults.append(f'{name_of(root, p)}: the first cell must be `# Title`, a blank line, `> one line`, and nothing else')
    return faults

def _plumbing(cell):
    "Cells that a reader of the page does not meet: hidden ones, imports, the name of the module"
    if cell['cell_type'] != 'code': return False
    tree = parse(cell)
    return 'hide' in directives(cell) or (tree is not None and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body))

def length(root):
    "A notebook has at most 60 cells, plumbing not counted"
    found = {p: sum(not _plumbing(c) for c in read_nb(p)['cells']) for p in notebooks(root)}
    return [f'{name_of(root, p)}: has {n} cells, more than {CELLS}: split it' for p, n in found.items() if n > CELLS]

# --- imports
def imports_alone(root):
    "A cell that imports does nothing else: nbdev runs every such cell when it makes the site, from another folder than the notebook's"
    faults, kinds = [], (ast.Import, ast.ImportFrom)
    for name, i, c, ds in code_cells(root):
        if not (tree := parse(c)) or any(d.startswith('eval: false') for d in ds): continue
        has = any(isinstance(n, kinds) for n in (tree.body if ds & EXPORT else ast.walk(tree)))
        if has and not all(isinstance(n, kinds) for n in tree.body):
            faults.append(f'{at(name, i, c)} mixes imports with other code: a cell that imports holds imports only')
    return faults

# --- export cells
def _is_dataclass(d): return any('dataclass' in ast.unparse(x) for x in d.decorator_list)

def _overloaded(f): return isinstance(f, ast.FunctionDef) and any(ast.unparse(x) in ('overload', 'typing.overload') for x in f.decorator_list)

def _tangled(tree):
    "Lines where one expression holds an assignment, a comprehension and an f-string"
    comprehensions = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
    for n in ast.walk(tree):
        if not isinstance(n, ast.stmt): continue
        for e in (x for x in ast.iter_child_nodes(n) if isinstance(x, ast.expr)):
            inner = list(ast.walk(e))
            if all(any(isinstance(x, kinds) for x in inner) for kinds in (ast.NamedExpr, comprehensions, ast.JoinedStr)): yield e.lineno

def export_cells(root):
    "An export cell has one definition (a class may bring a private helper or its dataclass), at most 25 lines of at most 120 characters"
    faults = []
    for name, i, c, ds in code_cells(root):
        if not ds & EXPORT: continue
        where, lines = at(name, i, c), body(c)
        names = any('submod_attrs' in l for l in lines) # a face: a list of names, as long as its wing has rooms
        if len(lines) > LINES and not names: faults.append(f'{where} has {len(lines)} lines, more than {LINES}')
        if (w := max(map(len, lines), default=0)) > WIDTH: faults.append(f'{where} has a line of {w} characters, more than {WIDTH}')
        if not (tree := parse(c)): continue
        defs = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not _overloaded(n)]
        helpers = [d for d in defs if d.name.startswith('_') or (isinstance(d, ast.ClassDef) and _is_dataclass(d))]
        with_class = len(defs) == 2 and helpers and any(isinstance(d, ast.ClassDef) for d in defs)
        if len(defs) > 1 and not with_class:
            faults.append(f'{where} holds {len(defs)} definitions ({", ".join(d.name for d in defs)}): one an export cell')
        for line in _tangled(tree): faults.append(f'{where} line {line}: assignment, comprehension and f-string in one expression: unfold it')
    return faults

def shown_cells(root):
    "Code that the site shows has lines of at most 84 characters: longer ones are cut off"
    faults = []
    for name, i, c, ds in code_cells(root):
        if ds & (EXPORT - {'exports'} | HIDDEN): continue
        w = max(map(len, body(c)), default=0)
        if w > SHOWN: faults.append(f'{at(name, i, c)} has a line of {w} characters; what is shown has at most {SHOWN}')
    return faults

# --- figures
def _has_figure(cell): return any(k.startswith('image/') for o in cell.get('outputs', []) for k in o.get('data', {}))

def _yaml(ds, key):
    "The text of the directive `key: \"...\"`, '' where it is missing or not readable as YAML"
    import yaml
    for d in ds:
        if not d.startswith(key + ':'): continue
        try: return str(yaml.safe_load(d)[key] or '').strip()
        except (yaml.YAMLError, TypeError): return ''
    return ''

def figures_described(root):
    "A cell that shows a figure has `#| fig-alt:` (what is to be seen) and `#| fig-cap:`"
    faults = []
    for name, i, c, ds in code_cells(root):
        if not _has_figure(c) or ds & (HIDDEN - {'echo: false'} | {'output: false'}): continue
        alt, cap = _yaml(ds, 'fig-alt'), _yaml(ds, 'fig-cap')
        for key, text in (('fig-alt', alt), ('fig-cap', cap)):
            if not text: faults.append(f'{at(name, i, c)} shows a figure without a readable `#| {key}: "..."`')
        if alt and (len(alt) < 20 or alt == cap): faults.append(f'{at(name, i, c)} fig-alt must say what is to be seen, in more words than `{alt}`')
    return faults

# --- faces
def _definitions(path):
    "name -> node of everything that a module defines at its top"
    found = {}
    for n in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)): found[n.name] = n
        for t in getattr(n, 'targets', [getattr(n, 'target', None)]):
            for x in ast.walk(t) if t else ():
                if isinstance(x, ast.Name): found.setdefault(x.id, n)
    return found

def public(root):
    "(where it is listed, room, name) of every public name: those of the faces, and __all__ of the rooms at the root"
    listed = faces(root)
    for wing in listed:
        for room, names in face_names(root, wing).items(): yield from ((name_of(root, listed[wing]), f'{wing}.{room}', n) for n in names)
    for m, p in modules(root).items():
        if not m or '.' in m or m in listed or m.startswith('_'): continue
        tree = ast.parse(p.read_text(encoding='utf-8'))
        for n in tree.body:
            if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == '__all__': yield from ((name_of(root, p), m, x) for x in ast.literal_eval(n.value))

def faces_hold(root):
    "A face lists names that its rooms define, each once; no room of the wing is called like one of them, which would hide it"
    faults, here = [], modules(root)
    for wing, p in faces(root).items():
        where, listed = name_of(root, p), face_names(root, wing)
        if not listed: faults.append(f'{where}: lists no names: lazy.attach(__name__, submod_attrs=dict(room=[...]))')
        every = [n for names in listed.values() for n in names]
        for room, names in listed.items():
            if f'{wing}.{room}' not in here: faults.append(f'{where}: there is no room {wing}.{room}')
            else:
                defined = _definitions(here[f'{wing}.{room}'])
                faults += [f'{where}: {wing}.{room} does not define {n}' for n in names if n not in defined]
            faults += [f'{where}: {n} is private' for n in names if n.startswith('_')]
        faults += [f'{where}: lists {n} twice' for n in sorted({n for n in every if every.count(n) > 1})]
        taken = {m.rpartition('.')[2] for m in {*here, *rooms(root)} if wing_of(m) == wing} & set(every)
        faults += [f'{where}: {n} is the name of a room too, and the module would hide it: rename one' for n in sorted(taken)]
    return faults

# --- docments
def _comments(text):
    "line -> its comment, and whether it stands alone there"
    import io, tokenize
    found = {}
    for t in tokenize.generate_tokens(io.StringIO(text).readline):
        if t.type == tokenize.COMMENT: found[t.start[0]] = t.string.lstrip('#').strip(), not t.line[:t.start[1]].strip()
    return found

def _documented(line, comments, taken, first):
    "Has the parameter on `line` a comment, behind it or alone on the lines above, down from the definition's `first` line?"
    if line in comments: return bool(comments[line][0])
    return line - 1 > first and line - 1 not in taken and line - 1 in comments and comments[line - 1][1]

def _returns(f):
    "Does a function give anything back?"
    todo = list(f.body)
    while todo:
        n = todo.pop()
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)): continue
        if isinstance(n, (ast.Yield, ast.YieldFrom)): return True
        if isinstance(n, ast.Return) and n.value is not None and not (isinstance(n.value, ast.Constant) and n.value.value is None): return True
        todo += ast.iter_child_nodes(n)
    return False

def _undocumented(f, comments):
    "Names of the parameters of a function that have no docment, and 'return' where the return value has none"
    a = f.args
    args = [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]
    if args and args[0].arg in ('self', 'cls'): args = args[1:]
    lines = [x.lineno for x in args]
    yield from (x.arg for x in args if lines.count(x.lineno) > 1 or not _documented(x.lineno, comments, set(lines), f.lineno))
    if f.name == '__init__' or not _returns(f): return
    end = f.returns.end_lineno if f.returns else None
    if end is None or end in lines or not _documented(end, comments, set(lines), f.lineno): yield 'return'

def _first_sentence(n): return (ast.get_docstring(n) or '').strip()

_HOOK = re.compile(r'(forward|encodes|decodes|create_batches|create_batch|(before|after)_\w+)$')  # torch and fastai call these and say what they mean

def docments(root):
    """Every public function, class and method has a docstring; every parameter of a public function, every field of a public dataclass,
    every parameter of a public class's __init__ and every return value has a comment of its own"""
    faults, here, cache = [], modules(root), {}
    for _, room, name in public(root):
        if room not in here: continue  # faces_hold says so
        if room not in cache: cache[room] = _definitions(here[room]), _comments(here[room].read_text(encoding='utf-8'))
        (defined, comments), where = cache[room], f'{name_of(root, here[room])}: {name}'
        n = defined.get(name)
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not _first_sentence(n): faults.append(f'{where} has no docstring')
            faults += [f'{where}({x}) has no docment' if x != 'return' else f'{where} returns something that no docment describes'
                       for x in _undocumented(n, comments)]
        elif isinstance(n, ast.ClassDef):
            if not _first_sentence(n): faults.append(f'{where} has no docstring')
            fields = [x for x in n.body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name)] if _is_dataclass(n) else []
            lines = {x.lineno for x in fields}
            faults += [f'{where}.{x.target.id} has no docment' for x in fields
                       if not x.target.id.startswith('_') and not _documented(x.lineno, comments, lines - {x.lineno}, n.lineno)]
            for f in n.body:
                if not isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
                if f.name == '__init__': faults += [f'{where}({x}) has no docment' for x in _undocumented(f, comments)]
                elif not (f.name.startswith('_') or _HOOK.match(f.name)) and not _first_sentence(f): faults.append(f'{where}.{f.name} has no docstring')
    return faults

# --- Windows
UNIX = {'resource', 'fcntl', 'pwd', 'grp', 'termios', 'tty', 'pty', 'syslog', 'posix', 'crypt', 'readline'}

def windows_can_import(root):
    "No module imports at its top, unguarded, what only Unix has: it could not be imported on Windows"
    faults = []
    for p in modules(root).values():
        todo = list(ast.parse(p.read_text(encoding='utf-8')).body)
        while todo:
            n = todo.pop()
            if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Try, ast.If)): continue
            names = [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module or ''] if isinstance(n, ast.ImportFrom) and not n.level else []
            faults += [f'{name_of(root, p)}:{n.lineno}: imports {m} at its top, which Windows does not have: guard it, or import it where it is used'
                       for m in names if m.split('.')[0] in UNIX]
            if isinstance(n, (ast.ClassDef, ast.With)): todo += n.body
    return faults

RULES = titles, length, imports_alone, export_cells, shown_cells, figures_described, faces_hold, docments, windows_can_import

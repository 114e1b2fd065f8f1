"The package as its files show it, without importing it: modules, rooms with their numbers, faces and the names they list"
import ast, re
from configparser import ConfigParser

from notebooks import directives, notebooks, read_nb

PACKAGE = 'retina_nb'

def settings(root):
    "settings.ini, where the package is described"
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

def name_of(root, p):
    "How a message names a file: its path from the project's folder"
    return p.relative_to(root).as_posix()

def modules(root):
    """Every module of the package, those of its wings too: dotted name below the package ('data.records', '' for its top) -> file.
    Alembic's scripts in a folder `migrations` are written by hand and run by Alembic: they are no modules of ours"""
    found = {}
    for p in sorted((root/PACKAGE).rglob('*.py')):
        parts = p.relative_to(root/PACKAGE).with_suffix('').parts
        if not {'__pycache__', 'migrations'} & set(parts): found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = p
    return found

def exported(root):
    "default_exp of every notebook that exports -> the notebook"
    found = {}
    for p in notebooks(root):
        for c in read_nb(p)['cells']:
            if c['cell_type'] != 'code': continue
            for d in directives(c):
                if d.startswith('default_exp '): found[d.split()[1]] = p
    return found

def faces(root):
    "wing -> the notebook of its face"
    return {e.removesuffix('.__init__'): p for e, p in exported(root).items() if e.endswith('.__init__')}

def rooms(root):
    "dotted name of every room -> number of its notebook"
    found = {}
    for e, p in exported(root).items():
        m = re.match(r'(\d+)_', p.name)
        if m and not e.endswith('__init__'): found[e] = int(m[1])
    return found

def wing_of(module):
    "'data' for 'data.records', '' for a room at the root"
    return module.rpartition('.')[0]

def _literal(node):
    "The value of a literal, `dict(a=...)` included"
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict' and not node.args:
        return {k.arg: ast.literal_eval(k.value) for k in node.keywords}
    return ast.literal_eval(node)

def face_names(root, wing):
    "room -> public names, as the wing's face lists them in `lazy.attach(__name__, submod_attrs=...)`"
    p = root/PACKAGE/wing.replace('.', '/')/'__init__.py'
    if not p.exists(): return {}
    for n in ast.walk(ast.parse(p.read_text(encoding='utf-8'))):
        if not isinstance(n, ast.Call) or not ast.unparse(n.func).endswith('attach'): continue
        for k in n.keywords:
            if k.arg == 'submod_attrs': return {room: list(names) for room, names in _literal(k.value).items()}
    return {}

def stub_text(root, wing):
    "What type checkers and editors read in place of a lazy face: the same names, imported from their rooms"
    listed = face_names(root, wing)
    lines = [f'# Written by `make prepare` from the face of {PACKAGE}.{wing}: edit its notebook.']
    for room, names in listed.items(): lines += [f'from .{room} import {n} as {n}' for n in names]
    every = ', '.join(repr(n) for names in listed.values() for n in names)
    return '\n'.join([*lines, '', f'__all__ = [{every}]']) + '\n'

def stub_of(root, wing): return root/PACKAGE/wing.replace('.', '/')/'__init__.pyi'

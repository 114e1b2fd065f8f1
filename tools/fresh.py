"""Are a notebook's stored outputs as fresh as the code? `make run` keeps in the notebook's metadata what it ran on: a hash of its own
code cells, and one of each room that it imports from. Comments, docstrings and layout do not count, as they change no output."""
import ast, hashlib, re
from functools import lru_cache

from notebooks import directives, notebooks, parse, read_nb, source
from package import PACKAGE, face_names, faces, modules, name_of

def _canonical(node):
    "A syntax tree as text that is the same in every version of Python, without docstrings"
    if isinstance(node, list): return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST): return repr(node)
    fields = []
    for name, x in ast.iter_fields(node):
        if name in ('ctx', 'kind', 'type_comment', 'type_ignores', 'type_params') or x is None or x == []: continue
        if name == 'body' and isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            x = [n for n in x if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str))]
        fields.append(f'{name}={_canonical(x)}')
    return f"{type(node).__name__}({','.join(fields)})"

def _hash(texts): return hashlib.sha256('\0'.join(texts).encode()).hexdigest()[:12]

def _code_of(cell):
    "What a code cell runs: its syntax tree and its magics"
    tree = parse(cell)
    if tree is None: return re.sub(r'^#\s*\|.*\n?', '', source(cell), flags=re.M)
    return _canonical(tree) + ''.join(re.findall(r'^\s*[%!].*$', source(cell), flags=re.M))

def package_of(root):
    "What is asked of the package again and again: its modules, and the names that each face lists"
    return modules(root), {wing: face_names(root, wing) for wing in faces(root)}

def rooms_used(nb, here, listed):
    "The rooms that a notebook's code imports from; a name that comes from a face counts for the room that defines it"
    used = set()
    for c in nb['cells']:
        tree = parse(c) if c['cell_type'] == 'code' else None
        for n in ast.walk(tree) if tree else ():
            if isinstance(n, ast.Import): full = [(a.name, '') for a in n.names]
            elif isinstance(n, ast.ImportFrom) and not n.level: full = [(n.module, a.name) for a in n.names]
            else: continue
            for module, name in full:
                if module.split('.')[0] != PACKAGE: continue
                m = module.removeprefix(PACKAGE).removeprefix('.')
                inside = f'{m}.{name}'.strip('.')
                if inside in here and inside not in listed: used.add(inside)
                elif m in listed: used |= {f'{m}.{room}' for room, names in listed[m].items() if name in names}
                elif m in here: used.add(m)
    own = {d.split()[1] for c in nb['cells'] if c['cell_type'] == 'code' for d in directives(c) if d.startswith('default_exp ')}
    return sorted(used - own - {''})

@lru_cache(None)
def _room_hash(text): return _hash([_canonical(ast.parse(text))])

def freshness(nb, here, listed):
    "What the outputs of a notebook depend on: its code cells and the rooms it uses, each with a hash"
    found = dict(cells=_hash(_code_of(c) for c in nb['cells'] if c['cell_type'] == 'code'))
    for room in rooms_used(nb, here, listed):
        if room in here: found[room] = _room_hash(here[room].read_text(encoding='utf-8'))
    return found

def why_stale(nb, here, listed):
    "Why the stored outputs are older than the code: '' when they are not, or when there is no code"
    if not any(c['cell_type'] == 'code' and source(c).strip() for c in nb['cells']): return ''
    was, now = nb['metadata'].get('retina_nb', {}).get('fresh'), freshness(nb, here, listed)
    if not was: return 'was not executed by `make run`'
    changed = sorted(k for k in was.keys() | now.keys() if was.get(k) != now.get(k))
    if not changed: return ''
    return 'stored outputs are older than ' + ', '.join('its own cells' if k == 'cells' else k for k in changed)

def stale(root):
    "Notebooks whose outputs are older than the code -> why"
    package = package_of(root)
    found = {p: why_stale(read_nb(p), *package) for p in notebooks(root)}
    return {p: why for p, why in found.items() if why}

def outputs_fresh(root):
    "Every stored output was made by the code that stands beside it now, and by the rooms it imports"
    return [f'{name_of(root, p)}: {why}' for p, why in stale(root).items()]

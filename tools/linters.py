"""Tools that others keep, run over a project: import-linter, deptry, ruff and basedpyright. Each function takes the folder of the
project and returns the tool's faults as sentences, so that `make test` shows them like those of our own checks."""
import ast, json, re, shlex, subprocess, sys, tempfile
from pathlib import Path

from notebooks import read_nb
from package import PACKAGE, modules, name_of, settings

BIN = Path(sys.executable).parent

def _run(name, *args, cwd):
    "Run a tool of this environment; what it says on both streams counts"
    return subprocess.run([str(BIN/name), *map(str, args)], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)

def _broken(name, r): return [f'{name} does not run: {((r.stderr or r.stdout).strip().splitlines() or ["?"])[-1]}']

# --- import-linter
def wings_in_order(root):
    "A wing imports only wings below it, and grading never reaches for torch: the contracts in .importlinter"
    with tempfile.TemporaryDirectory() as d: r = _run('lint-imports', '--no-logo', '--cache-dir', d, cwd=root)
    if r.returncode == 0 and ' 0 broken' in r.stdout: return []
    broken = r.stdout.partition('Broken contracts')[2]
    found = re.findall(r'^-?\s*(\S+ -> \S+ \(l\.[\d, l.]+\))', broken, flags=re.M)
    missing = re.findall(r'^(?:Missing layer|The following modules).*|^-\s+\S+\.\S+$', r.stdout, flags=re.M) if not found else []
    return [f'{PACKAGE}: {f.strip("- ")}: not allowed by .importlinter' for f in found + missing] or _broken('lint-imports', r)

# --- deptry
def _requirements(root, dev=False):
    "What settings.ini requires: the package's own and its extras, or what its development needs besides"
    return [x for k, v in settings(root).items() if k.endswith('requirements') and (k == 'dev_requirements') == dev for x in shlex.split(v)]

def _deptry(root, where, needs, dev, ignore):
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        (d/'needs.txt').write_text('\n'.join(needs)+'\n')
        (d/'dev.txt').write_text('\n'.join(dev)+'\n')
        local = {p.stem for f in ('tests', 'tools', 'benchmarks') for p in (root/f).rglob('*.py')} | {'tools'}
        r = _run('deptry', *[w for w in where if (root/w).exists()], '--config', d/'none.toml', '-rf', d/'needs.txt', '-rfd', d/'dev.txt', '--no-ansi',
                 '--exclude', r'.*\.ipynb_checkpoints/', '--ignore', ignore, '--known-first-party', PACKAGE,
                 *[x for m in sorted(local) for x in ('--known-first-party', m)], '--json-output', d/'found.json', cwd=root)
        if not (d/'found.json').exists(): return _broken('deptry', r)
        found = json.loads((d/'found.json').read_text())
    faults = []
    for f in found:
        place = f['location']['file']
        if not place.startswith(str(d)): faults.append(f"{place}:{f['location']['line'] or 0}: {f['error']['message']} ({f['error']['code']})")
        elif f['error']['code'] == 'DEP002': faults.append(f"settings.ini: {f['error']['message']}")
    return list(dict.fromkeys(faults))

PLUGINS = {'ipykernel', 'voila'}  # used as programs of their own, never imported

def imports_declared(root):
    """Modules import only what settings.ini requires of users, notebooks, tests and tools what it requires of developers: a package
    that was only installed by hand here is missing everywhere else. What the base requires is used somewhere"""
    needs, dev = _requirements(root), _requirements(root, dev=True)
    faults = _deptry(root, [PACKAGE], needs, dev, 'DEP002')
    faults += _deptry(root, [PACKAGE], [x for x in shlex.split(settings(root)['requirements']) if re.split(r'[<>=!~\[ ;]', x)[0] not in PLUGINS], needs + dev,
                      'DEP001,DEP003,DEP004')
    return faults + _deptry(root, ['nbs', 'tests', 'benchmarks', 'tools'], needs + dev, [], 'DEP002')

# --- ruff
def ruff_finds_nothing(root):
    "The rules of ruff.toml hold in notebooks, tests, tools and benchmarks"
    where = [w for w in ('nbs', 'tests', 'tools', 'benchmarks') if (root/w).exists()]
    r = _run('ruff', 'check', '--no-cache', '--output-format', 'json', *where, cwd=root)
    try: found = json.loads(r.stdout)
    except ValueError: return _broken('ruff', r)
    cells = {}
    def _where(f):
        p = Path(f['filename'])
        if not f.get('cell'): return f"{name_of(root.resolve(), p.resolve())}:{f['location']['row']}"
        if p not in cells: cells[p] = [(i, c) for i, c in enumerate(read_nb(p)['cells']) if c['cell_type'] == 'code']
        i, c = next(((i, c) for i, c in cells[p] if i == f['cell'] - 1), (f['cell'] - 1, {}))
        return f"{name_of(root.resolve(), p.resolve())}: cell {i} [{c.get('id', '?')}] line {f['location']['row']}"
    return [f"{_where(f)}: {f['message']} ({f.get('code') or 'syntax'})" for f in found]

# --- basedpyright
def _patched(trees):
    "Names that a class gets after its body, by fastcore's @patch or by an assignment: no type checker sees those"
    found = set()
    for n in (n for tree in trees.values() for n in ast.walk(tree)):
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)) and any('patch' in ast.unparse(d) for d in n.decorator_list): found.add(n.name)
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store): found.add(n.attr)
    return found

def _foreign(trees):
    "Names of the packages that are imported anywhere"
    nodes = [n for tree in trees.values() for n in ast.walk(tree)]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level]
    return {n.split('.')[0] for n in names} - {PACKAGE} - sys.stdlib_module_names

def _converted(tree):
    """Lines that name an annotated parameter which its function assigns to, as in `path = Path(path)`: the checker goes on taking
    the parameter for what callers may pass, and says of the converted value what is not so"""
    lines = set()
    for f in ast.walk(tree):
        if not isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        args = {a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs) if a.annotation}
        names = [n for x in f.body for n in ast.walk(x) if isinstance(n, ast.Name) and n.id in args]
        assigned = {n.id for n in names if isinstance(n.ctx, ast.Store)}
        lines |= {n.lineno for n in names if n.id in assigned}
    return lines

def _open(trees):
    "(function, parameter) of parameters without an annotation: a default is no promise about what else may be passed. And all functions"
    functions = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    found = {(f.name, a.arg) for f in functions for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs) if not a.annotation}
    return found, {f.name for f in functions} | {'__init__'}

def _is_ours(message, rule, free, functions):
    "Is a finding about a call of one of our own functions, and about what its signature says?"
    if m := re.search(r'to parameter "(\w+)" of type .* in function "(\w+)"', message): return m[2] in functions and (m[2], m[1]) not in free
    if m := re.match(r'No overloads for "(\w+)"', message): return m[1] in functions
    return not (rule == 'reportOperatorIssue' and re.search(r'"None"(?! when)', message))  # like the rules about None that are switched off

CONVERTED = {'reportIndexIssue', 'reportAttributeAccessIssue', 'reportCallIssue', 'reportArgumentType', 'reportAssignmentType', 'reportOperatorIssue',
             'reportGeneralTypeIssues'}
ANY = 'from typing import Any\ndef __getattr__(name: str) -> Any: ...\n'

def types_hold(root):
    """Signatures and calls of the package's own functions agree (basedpyright, pyrightconfig.json). Other packages are not looked into:
    it runs as if each were empty, so it takes seconds and says nothing about what pandas or torch leave open"""
    trees = {p: ast.parse(p.read_text(encoding='utf-8')) for p in modules(root).values()}
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', d], check=True, capture_output=True)
        site = next(Path(d).glob('lib*/**/site-packages'), Path(d)/'Lib'/'site-packages')
        for name in _foreign(trees):
            (site/name).mkdir(exist_ok=True)
            (site/name/'__init__.pyi').write_text(ANY)
        python = next(p for p in (Path(d)/'bin'/'python', Path(d)/'Scripts'/'python.exe') if p.exists())
        r = _run('basedpyright', '--pythonpath', python, '--outputjson', cwd=root)
    try: found = json.loads(r.stdout)['generalDiagnostics']
    except (ValueError, KeyError): return _broken('basedpyright', r)
    patched, faults, (free, functions) = _patched(trees), [], _open(trees)
    converted = {p.resolve(): _converted(tree) for p, tree in trees.items()}
    for f in found:
        message, path, line = f['message'].replace('\n', ' '), Path(f['file']).resolve(), f['range']['start']['line'] + 1
        name = re.search(r'(?:access|to) attribute "(\w+)" for class|Attribute "(\w+)" is unknown', message)
        if f['severity'] != 'error' or (name and (name[1] or name[2]) in patched): continue
        if not _is_ours(message, f.get('rule'), free, functions): continue
        if f.get('rule') in CONVERTED and line in converted.get(path, ()): continue
        if path.suffix == '.py' and path.read_text(encoding='utf-8').splitlines()[line-1][:f['range']['start']['character']].endswith('**'):
            continue  # every value of a dictionary held against every parameter
        faults.append(f"{name_of(root.resolve(), path)}:{line}: {message[:240]} ({f.get('rule', '')})")
    return faults

LINTERS = wings_in_order, imports_declared, ruff_finds_nothing, types_hold

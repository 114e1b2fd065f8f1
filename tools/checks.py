"""What must hold of the tree, one function each. A check takes the folder of the project and returns its faults as sentences;
an empty list means that it holds. tests/test_gates.py plants every fault and sees it found."""
import ast, re, shutil, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from notebooks import directives, nbdev, notebooks, read_nb, readme_text, source
from package import PACKAGE, face_names, faces, modules, name_of, rooms, settings, stub_of, stub_text, wing_of
from setup_env import requirements

# --- 1. modules are what the notebooks export
def modules_in_step(root):
    "Export into a copy, where no module is left from before, and compare file by file"
    faults = []
    with tempfile.TemporaryDirectory() as d:
        copy = Path(d)
        shutil.copy(root/'settings.ini', copy)
        for p in notebooks(root):
            (copy/p.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(p, copy/p.relative_to(root))
        (copy/PACKAGE).mkdir()
        for d in (root/PACKAGE).rglob('migrations'): shutil.copytree(d, copy/d.relative_to(root), ignore=shutil.ignore_patterns('__pycache__'))  # written by hand
        r = nbdev('nbdev_export', copy)
        if r.returncode: return [f'nbdev_export fails: {r.stderr.strip().splitlines()[-1:]}']
        fresh, here = ({name_of(r/PACKAGE, p): p.read_bytes() for p in modules(r).values()} for r in (copy, root))
    for f in sorted(fresh.keys() | here.keys()):
        if f not in here: faults.append(f'{PACKAGE}/{f} is missing, though a notebook exports it')
        elif f not in fresh: faults.append(f'{PACKAGE}/{f} is exported by no notebook')
        elif fresh[f] != here[f]: faults.append(f'{PACKAGE}/{f} differs from what its notebook exports')
    return faults + _stubs_in_step(root)

def _stubs_in_step(root):
    "Each face has the stub that its list of names asks for, and there is no other"
    wanted = {stub_of(root, wing): stub_text(root, wing) for wing in faces(root)}
    faults = [f'{name_of(root, p)} {"differs from its face" if p.exists() else "is missing"}' for p, text in wanted.items()
              if not p.exists() or p.read_text(encoding='utf-8') != text]
    faults += [f'{name_of(root, p)} belongs to no face' for p in sorted((root/PACKAGE).rglob('*.pyi')) if p not in wanted]
    return faults + ([] if (root/PACKAGE/'py.typed').exists() else [f'{PACKAGE}/py.typed is missing'])

def _commands_of(tree):
    "Names of the functions of a module that are commands: those under @call_parse"
    return {f.name for f in tree.body if isinstance(f, ast.FunctionDef)
            and any(getattr(d, 'id', getattr(d, 'attr', '')) == 'call_parse' for d in f.decorator_list)}

def console_scripts(root):
    "(command, module, function) for each that settings.ini declares"
    return [(*re.split('[=:]', s),) for s in settings(root)['console_scripts'].split()]

def commands_declared(root):
    "settings.ini declares every command under its own name, where a face lists it or a room defines it, and none that does not exist"
    faults, declared, listed = [], set(), {wing: face_names(root, wing) for wing in faces(root)}
    trees = {m: ast.parse(p.read_text(encoding='utf-8')) for m, p in modules(root).items()}
    commands = {(m, f) for m, t in trees.items() for f in _commands_of(t)}
    for script, module, function in console_scripts(root):
        module = module.removeprefix(PACKAGE).removeprefix('.')
        room = next((f'{module}.{r}' for r, names in listed.get(module, {}).items() if function in names), module)
        declared.add((room, function))
        if (room, function) not in commands:
            faults.append(f'settings.ini: {script} points at {function} in {PACKAGE}.{module}, which has no such @call_parse function')
        if script != function: faults.append(f'settings.ini: {script} and its function {function} have different names')
    return faults + [f'settings.ini: console_scripts lacks {f}={PACKAGE}.{wing_of(m) or m}:{f}' for m, f in sorted(commands - declared)]

# --- 2. notebooks are clean
_roots = 'home|root|Users|tmp|var|private|mnt|media|opt|srv|work|workspace|workspaces|content|kaggle|usr'
_path = re.compile(rf'(?<![\w./~:-])/(?:{_roots})/[\w.~-]+|\b[A-Z]:\\+(?:Users|home)\\')
_own_path = re.compile(r'(?<![\w./~:-])/(?:home|root|Users)/[\w.~-]+|\b[A-Z]:\\+Users\\')
_draws = {'imshow', 'matshow', 'plot', 'bar', 'barh', 'hist', 'hist2d', 'scatter', 'pie', 'boxplot', 'violinplot', 'errorbar',
          'fill_between', 'stackplot', 'contour', 'contourf', 'heatmap', 'kdeplot', 'histplot', 'barplot', 'stripplot', 'countplot', 'lineplot'}

def _calls(tree):
    "Names of the functions called while the cell runs; bodies of functions and lambdas are left out, and what stands inside a test_*()"
    todo, names = list(tree.body), []
    while todo:
        n = todo.pop()
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)): continue
        if isinstance(n, ast.Call):
            names.append(getattr(n.func, 'id', getattr(n.func, 'attr', '')))
            if names[-1].startswith('test_'): continue
        todo += ast.iter_child_nodes(n)
    return names

def draws(cell):
    "Does a reader expect a figure under this cell? True where it draws and neither hides nor closes what it drew"
    if directives(cell) & {'hide', 'eval: false', 'output: false', 'include: false'}: return False
    code = re.sub(r'^\s*[%!].*$', '', source(cell), flags=re.M)
    try: names = _calls(ast.parse(code))
    except SyntaxError: return False
    if {'close', 'test_fail'} & set(names): return False
    return any(n in _draws or (n.startswith(('plot_', 'show_')) and n != 'show_doc') for n in names)

def _text(x): return ''.join(x) if isinstance(x, list) else str(x)

def _has_picture(outputs):
    for o in outputs:
        data = o.get('data', {})
        if any(k.startswith('image/') for k in data): return True
        if re.search('<img|<svg|<canvas', _text(data.get('text/html', ''))): return True
    return False

def _printed(outputs):
    "What the outputs say in words, pictures left out"
    for o in outputs:
        yield _text(o.get('text', ''))
        for kind, x in o.get('data', {}).items():
            if not kind.startswith('image/'): yield re.sub(r'data:[\w/+.-]+;base64,[\w/+=\s]+', '', _text(x))

def _cell_faults(cell, here):
    text = source(cell)
    if cell.get('metadata'): yield f"has metadata of an editor ({', '.join(cell['metadata'])})"
    if _own_path.search(text) or here in text: yield 'names a path of somebody\'s machine'
    if cell['cell_type'] != 'code': return
    outputs = cell.get('outputs', [])
    if any(d.replace(' ', '').startswith('skip_exec') for d in directives(cell)): yield 'is skipped by tests (skip_exec)'
    if cell.get('execution_count') is not None or any(o.get('execution_count') is not None for o in outputs): yield 'has an execution count'
    if any(o['output_type'] == 'error' for o in outputs): yield 'has an error as its output'
    if any('widget' in k for o in outputs for k in o.get('data', {})): yield 'holds a widget\'s output (it may contain patient images)'
    printed = '\n'.join(_printed(outputs))
    if m := _path.search(printed) or (here in printed and re.search(re.escape(here), printed)): yield f'shows the path {m[0]} in its output'
    if any(o.get('name') == 'stderr' and 'Warning' in _text(o.get('text', '')) for o in outputs): yield 'shows a warning in its output'
    if draws(cell) and not _has_picture(outputs): yield 'draws, but no figure is stored with it'

def notebooks_clean(root):
    "No counts, widget state, errors, warnings or machine paths; every figure stored; every cell with an id of its own"
    faults, here = [], str(Path(root).resolve())
    for p in notebooks(root):
        name = name_of(root, p)
        try: nb = read_nb(p)
        except ValueError as e:
            faults.append(f'{name}: not readable as JSON ({e})')
            continue
        extra = set(nb['metadata']) - {'kernelspec', 'retina_nb'}
        if 'widgets' in extra: faults.append(f'{name}: widget state is stored (it may contain patient images)')
        if extra - {'widgets'}: faults.append(f"{name}: has metadata of an editor ({', '.join(sorted(extra - {'widgets'}))})")
        ids = [c.get('id') for c in nb['cells']]
        if None in ids or len(set(ids)) < len(ids): faults.append(f'{name}: cells without an id, or two with the same one')
        if any('skip_exec: true' in source(c) for c in nb['cells'] if c['cell_type'] != 'code'): faults.append(f'{name}: is skipped by tests (skip_exec)')
        code = [c for c in nb['cells'] if c['cell_type'] == 'code']
        if len(code) > 2 and not any(c.get('outputs') for c in code): faults.append(f'{name}: no cell has an output: it was not executed')
        for i, c in enumerate(nb['cells']):
            first = next((s for s in source(c).splitlines() if s.strip() and not s.startswith('#|')), '')[:50]
            faults += [f'{name}: cell {i} ({first}) {what}' for what in _cell_faults(c, here)]
    return faults

# --- 3. README and links
def readme_in_step(root):
    "README.md is exactly what `make readme` writes"
    try: want = readme_text(root)
    except (OSError, ValueError) as e: return [str(e)]
    have = (root/'README.md').read_text(encoding='utf-8') if (root/'README.md').exists() else ''
    return [] if have == want else ['README.md differs from nbs/index.ipynb']

_link = re.compile(r'\]\(([^)\s]+)(?: "[^"]*")?\)|(?:src|href)="([^"]+)"')

def links_hold(root):
    "Every relative link of the prose leads to a file of the project"
    faults = []
    texts = [(p, p.read_text(encoding='utf-8')) for p in root.glob('*.md')]
    texts += [(p, source(c)) for p in notebooks(root) for c in read_nb(p)['cells'] if c['cell_type'] == 'markdown']
    for p, text in texts:
        text = re.sub(r'```.*?```|`[^`\n]*`', '', text, flags=re.S)
        for m in _link.finditer(text):
            target = (m[1] or m[2]).split('#')[0]
            if not target or re.match(r'[a-z][a-z0-9+.-]*:', target): continue
            if not (p.parent/target).exists(): faults.append(f'{name_of(root, p)}: the link to {target} leads nowhere')
    return faults

# --- 4. import layers
def _imports(tree, module=''):
    """(line, full name) of everything that a module imports anywhere, inside functions too. `module` is its dotted name below the
    package, with a '.' at its end for a package; relative names are resolved from there"""
    here = [PACKAGE, *module.split('.')][:-1]
    def _base(level): return here[:len(here) - level + 1] if level else []
    for n in ast.walk(tree):
        if isinstance(n, ast.Import): yield from ((n.lineno, a.name) for a in n.names)
        elif isinstance(n, ast.ImportFrom):
            base = '.'.join([*_base(n.level), *filter(None, [n.module])])
            yield from ((n.lineno, f'{base}.{a.name}') for a in n.names)
        elif isinstance(n, ast.Call) and getattr(n.func, 'id', getattr(n.func, 'attr', '')) in ('import_module', '__import__'):
            if not n.args or not isinstance(n.args[0], ast.Constant): continue
            name = str(n.args[0].value)
            dots = len(name) - len(name.lstrip('.'))
            yield n.lineno, '.'.join([*_base(dots), *filter(None, [name.lstrip('.')])])

HEAVY = 'torch', 'torchvision', 'fastai'
HEAVY_WINGS = {'train', 'explain'}  # the only ones whose import may load them

def layers_hold(root):
    "A room imports only rooms with lower numbers in its own wing, names what it imports, from rooms and not from faces, and never nbdev"
    number, face, faults = rooms(root), faces(root), []
    wings = {wing_of(m) for m in number} - {''}
    for m, p in modules(root).items():
        is_face = p.name == '__init__.py'
        if p.stem.startswith('_') and not is_face: continue
        if m and m not in (face if is_face else number):
            faults.append(f'{name_of(root, p)}: no notebook {"of a face" if is_face else "with a number"} exports it')
            continue
        for line, full in _imports(ast.parse(p.read_text(encoding='utf-8')), m + '.'*(is_face and bool(m))):
            where, parts = f'{name_of(root, p)}:{line}', full.split('.')
            if parts[-1] == '*': faults.append(f"{where}: `from {full[:-2]} import *`: name what is imported")
            if parts[0] in ('nbdev', 'execnb'): faults.append(f'{where}: imports {parts[0]}, which users of the package do not have')
            if parts[0] != PACKAGE or len(parts) < 2: continue
            target = next((t for t in ('.'.join(parts[1:3]), parts[1]) if t in number), None)
            if not target and parts[1] in wings:
                if not is_face: faults.append(f'{where}: imports from the face {PACKAGE}.{parts[1]}: name the room, as in {PACKAGE}.{parts[1]}.ROOM')
                continue
            if not target: continue
            if wing_of(m) == wing_of(target) and not is_face and number[target] >= number[m]:
                faults.append(f'{where}: {m} ({number[m]:02}) imports {target} ({number[target]:02}), which is not below it')
    return faults

def _dist(name): return re.sub(r'[-_.]+', '-', re.split(r'[<>=!~\[ ;]', name)[0]).lower()

def pins_complete(root):
    "constraints.txt pins whatever the set-up installs"
    pinned = {_dist(s) for s in (root/'constraints.txt').read_text(encoding='utf-8').splitlines() if s.strip() and not s.startswith('#')}
    needed = {_dist(s) for s in requirements(root)}
    return [f'constraints.txt does not pin {d}, which settings.ini requires' for d in sorted(needed - pinned)]

EXTRAS = {'train': 'train', 'explain': 'train', 'report.demo': 'train', 'learn.material': 'train', 'deploy.panel': 'panel', 'deploy.viewer': 'panel', 'deploy.stage': 'panel',
          'deploy.alerts': 'panel', 'deploy.desk': 'panel', 'deploy.parts': 'panel', 'deploy.reading': 'panel', 'deploy.watchtower': 'panel', 'deploy.clinic_line': 'panel',
          'deploy.door': 'panel', 'deploy.hub': 'hub',
          'serve': 'serve'}  # wing or room -> the extra that it needs to be imported

def _top_imports(tree):
    "(line, first part of the name) of every import that runs when a module is imported; those in a `try` may fail"
    todo = list(tree.body)
    while todo:
        n = todo.pop()
        if isinstance(n, ast.Import): yield from ((n.lineno, a.name.split('.')[0]) for a in n.names)
        elif isinstance(n, ast.ImportFrom) and not n.level: yield n.lineno, n.module.split('.')[0]
        elif isinstance(n, (ast.If, ast.With, ast.ClassDef)): todo += n.body

def base_suffices(root):
    "Importing a room needs what settings.ini requires of everybody, or the extra of its wing, and nothing more"
    from importlib.metadata import packages_distributions
    owners, faults = packages_distributions(), []
    of = {k.removesuffix('_requirements'): {_dist(s) for s in v.split()} for k, v in settings(root).items() if k.endswith('_requirements')}
    base = {_dist(s) for s in settings(root)['requirements'].split()}
    for m, p in modules(root).items():
        extra = EXTRAS.get(m) or EXTRAS.get(wing_of(m))
        admitted = base | of.get(extra, set())
        for line, top in _top_imports(ast.parse(p.read_text(encoding='utf-8'))):
            if top == PACKAGE or top in sys.stdlib_module_names or {_dist(d) for d in owners.get(top, [top])} & admitted: continue
            faults.append(f'{name_of(root, p)}:{line}: imports {top}, which neither the base nor {f"the extra [{extra}]" if extra else "an extra of this room"} installs')
    return faults

LIGHT = 'pandas', 'matplotlib'  # besides HEAVY: the package itself, its faces, core and the grader start in well under a second

def _loaded(root, modules, banned):
    "Which of `banned` does importing `modules` load? Tried in a new interpreter"
    code = (f"import importlib, sys; sys.path.insert(0, {str(root)!r}); [importlib.import_module(m) for m in {modules!r}]; "
            f"print(*(m for m in {banned!r} if m in sys.modules))")
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tempfile.gettempdir())
    if r.returncode: return [f"cannot be imported: {(r.stderr.strip().splitlines() or ['?'])[-1]}"]
    return [f'importing it imports {m}' for m in r.stdout.split()]

def imports_are_light(root):
    "Importing a room outside train and explain loads neither torch, torchvision, fastai nor nbdev, and a face loads nothing that takes time"
    face = set(faces(root)) | {''}
    light = [m for m in modules(root) if m in face or m in ('core', 'deploy.grader')]
    rest = [m for m in rooms(root) if m not in light and wing_of(m) not in HEAVY_WINGS]
    def _faults(modules, banned):
        names = ['.'.join(filter(None, [PACKAGE, m])) for m in modules]
        if not _loaded(root, names, banned): return []  # all of them at once; only where that shows a fault, one by one
        with ThreadPoolExecutor(2) as pool: found = pool.map(lambda n: [f'{n}: {f}' for f in _loaded(root, [n], banned)], names)
        return [f for fs in found for f in fs]
    jobs = [(light, [*HEAVY, 'nbdev', *LIGHT]), (rest, [*HEAVY, 'nbdev'])]
    with ThreadPoolExecutor(2) as pool: return [f for fs in pool.map(lambda job: _faults(*job), jobs) for f in fs]

# --- the site
STUB = 'metadata-files: [../_quarto.yml, nbdev.yml, sidebar.yml]'

def site_in_place(root):
    "nbdev reads nbs/_quarto.yml alone, so it must lead to the settings; the sidebar lists every notebook once"
    import yaml
    faults, nbs = [], root/'nbs'
    stub = (nbs/'_quarto.yml').read_text(encoding='utf-8') if (nbs/'_quarto.yml').exists() else ''
    if STUB not in stub or len(stub.splitlines()) != 3: faults.append(f'nbs/_quarto.yml must be its three lines, the last of them `{STUB}`')
    for f in ('_quarto.yml', 'nbs/nbdev.yml', 'nbs/sidebar.yml', 'nbs/styles.scss'):
        if not (root/f).exists(): faults.append(f'{f} is missing')
    if not (nbs/'sidebar.yml').exists(): return faults
    listed, todo = [], [yaml.safe_load((nbs/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']]
    while todo:
        x = todo.pop()
        if isinstance(x, str): listed.append(x)
        elif isinstance(x, list): todo += x
        else: todo.append(x.get('contents') or x.get('href') or x.get('file'))
    here = {p.relative_to(nbs).as_posix() for p in notebooks(root)}
    faults += [f'nbs/sidebar.yml does not list {n}' for n in sorted(here - set(listed))]
    faults += [f'nbs/sidebar.yml lists {n}, which does not exist' for n in sorted(set(listed) - here)]
    return faults + [f'nbs/sidebar.yml lists {n} twice' for n in sorted({n for n in listed if listed.count(n) > 1})]

# --- all of it, for one wing
def main(wing=''):
    "Print every fault of a wing's notebooks and modules, or of the whole tree"
    from fresh import outputs_fresh
    from linters import LINTERS
    from notebooks import ROOT
    from rules import RULES
    seen = 0
    for check in (*RULES, *LINTERS, modules_in_step, notebooks_clean, site_in_place, links_hold, layers_hold, outputs_fresh):
        found = [f for f in check(ROOT) if not wing or re.match(rf'(nbs|{PACKAGE}|tests)/(\d+_)?{wing}\b', f)]
        if found: print(f'{check.__name__}: {(check.__doc__ or "").splitlines()[0]}', *(f'  - {f}' for f in found), sep='\n', end='\n\n')
        seen += len(found)
    print(f'{seen} faults' if seen else 'no faults')
    return 1 if seen else 0

if __name__ == '__main__': sys.exit(main(*sys.argv[1:2]))

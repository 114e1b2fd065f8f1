"""Keep notebooks, modules and README in step, without Quarto:

    python tools/notebooks.py prepare      export the modules, write the faces' stubs, clean every notebook, write README.md
    python tools/notebooks.py readme       write README.md from nbs/index.ipynb
    python tools/notebooks.py run NB...    execute notebooks where they stand and store their cleaned outputs
    python tools/notebooks.py run-stale    execute every notebook whose outputs are older than the code, two at a time"""
import json, os, posixpath, re, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNEL = dict(display_name='python3', language='python', name='python3')

def notebooks(root=ROOT):
    "Every notebook of the project: those of nbs/ and its folders, in the order of their names"
    return sorted(p for p in (root/'nbs').rglob('*.ipynb')
                  if not any(part.startswith(('.', '_')) for part in p.relative_to(root).parts))

def read_nb(path): return json.loads(Path(path).read_text(encoding='utf-8'))

def write_nb(path, nb):
    "Write as nbdev does: sorted keys, one space, a newline at the end"
    tmp = Path(path).with_suffix('.tmp')
    tmp.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    os.replace(tmp, path)

def source(cell): return ''.join(cell['source'])

def directives(cell):
    "The words after `#|` at the top of a code cell: {'export', 'hide', 'eval: false', ...}"
    return {m[1].strip() for m in re.finditer(r'^#\s*\|(.*)$', source(cell), re.M)}

def parse(cell):
    "The syntax tree of a code cell, magics left out; None where it is not Python"
    import ast
    text = re.sub(r'^(\s*)[%!].*$', r'\1pass', source(cell), flags=re.M)
    try: tree = ast.parse(text)
    except SyntaxError: return None
    tree.body = [n for n in tree.body if not isinstance(n, ast.Pass)]
    return tree

# --- cleaning
def _no_address(text):
    "Object addresses change with every run: `<Axes at 0x7f..>` becomes `<Axes>`"
    if isinstance(text, list): return [_no_address(t) for t in text]
    return re.sub(r' at 0x[0-9a-fA-F]+', '', text)

def _clean_output(o):
    if 'execution_count' in o: o['execution_count'] = None
    if 'metadata' in o: o['metadata'] = {}
    if 'text' in o: o['text'] = _no_address(o['text'])
    data = o.get('data', {})
    for kind in [k for k in data if 'widget' in k]: del data[kind]
    for kind in [k for k in data if k.startswith('text/')]: data[kind] = _no_address(data[kind])
    return o

def _progress(o):
    "Is this a progress bar, or what is left of one when its widget was taken out?"
    text = o.get('text', '') if o.get('name') == 'stderr' else o.get('data', {}).get('text/plain', '') if set(o.get('data', {})) == {'text/plain'} else ''
    return re.search(r'\d%\|.*\|', ''.join(text)) is not None

def clean(nb):
    "Take out what changes from run to run or may hold patient images: counts, widget state, editor metadata, addresses"
    seen = set()
    for i, c in enumerate(nb['cells']):
        c['metadata'] = {}
        if c.get('id') in seen or 'id' not in c: c['id'] = f"{c.get('id', 'cell')}-{i}"
        seen.add(c['id'])
        if c['cell_type'] != 'code': continue
        c['execution_count'] = None
        outputs = [_clean_output(o) for o in c['outputs']]
        outputs = [o for o in outputs if not _progress(o)]
        c['outputs'] = [o for o in outputs if o['output_type'] in ('stream', 'error') or o['data']]
    kept = {'retina_nb': {'fresh': nb['metadata']['retina_nb']['fresh']}} if nb['metadata'].get('retina_nb', {}).get('fresh') else {}
    nb.update(metadata={'kernelspec': dict(KERNEL), **kept}, nbformat=4, nbformat_minor=5)
    return nb

# --- README
def _relink(text):
    "Links of nbs/index.ipynb are relative to nbs/; the README stands one level up"
    def _new(m):
        target = m[2]
        if re.match(r'[a-z][a-z0-9+.-]*:|#|/', target): return m[0]
        return m[1] + posixpath.normpath('nbs/' + target) + m[3]
    text = re.sub(r'(\]\()([^)\s]+)(\))', _new, text)
    return re.sub(r'((?:src|href)=")([^"]+)(")', _new, text)

def readme_text(root=ROOT):
    "README.md as nbs/index.ipynb has it"
    import nbformat
    from nbconvert import MarkdownExporter
    nb = nbformat.read(root/'nbs'/'index.ipynb', as_version=4)
    nb.cells = [c for c in nb.cells if not directives(c) & {'hide', 'include: false'}]
    for i, c in enumerate(nb.cells):  # a cell whose code is not shown is what it says
        if c.cell_type == 'code' and 'echo: false' in directives(c):
            said = '\n\n'.join(''.join(o.get('data', {}).get('text/markdown', '')) for o in c.outputs)
            nb.cells[i] = nbformat.v4.new_markdown_cell(said)
    for c in nb.cells:
        if c.cell_type == 'code': c.source = re.sub(r'^#\s*\|.*\n?', '', c.source, flags=re.M)
    text, resources = MarkdownExporter().from_notebook_node(nb)
    if resources.get('outputs'): raise ValueError('nbs/index.ipynb: a cell has a figure as output, which a README cannot show: '
                                                  'store it in nbs/images and refer to it')
    text = re.sub(r'[ \t]+$', '', _relink(text), flags=re.M)
    return '<!-- Written by `make readme` from nbs/index.ipynb: edit the notebook. -->\n\n' + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'

# --- commands
def readme(root=ROOT): (root/'README.md').write_text(readme_text(root), encoding='utf-8')

def nbdev(name, root):
    "Run one of nbdev's commands of this environment in `root`"
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    return subprocess.run([Path(sys.executable).with_name(name)], cwd=root, env=env, capture_output=True, text=True)

def write_stubs(root=ROOT):
    "Beside each face the stub that type checkers and editors read, and the mark that the package has types"
    from package import PACKAGE, faces, stub_of, stub_text
    wanted = {stub_of(root, wing): stub_text(root, wing) for wing in faces(root)}
    for p in (root/PACKAGE).rglob('*.pyi'):
        if p not in wanted: p.unlink()
    for p, text in {**wanted, root/PACKAGE/'py.typed': ''}.items():
        if not p.exists() or p.read_text(encoding='utf-8') != text: p.write_text(text, encoding='utf-8')

def prepare(root=ROOT):
    r = nbdev('nbdev_export', root)
    if r.returncode: sys.exit(f'nbdev_export failed:\n{r.stderr}')
    write_stubs(root)
    changed = []
    for p in notebooks(root):
        nb = clean(read_nb(p))
        if nb != read_nb(p):
            write_nb(p, nb)
            changed.append(p.name)
    readme(root)
    print('modules exported, README.md written, cleaned:', ', '.join(changed) or 'nothing to clean')

def store_outputs(path, executed, fresh=None):
    """Put the outputs of an executed copy into the notebook as it stands now: cells that were edited, moved or added while
    it ran keep what they have, so that a long run never undoes an edit. `fresh` says on which code it ran.
    Returns how many cells had changed meanwhile"""
    ran, nb = {c['id']: c for c in executed['cells'] if c['cell_type'] == 'code'}, read_nb(path)
    changed = 0
    for c in nb['cells']:
        if c['cell_type'] != 'code': continue
        if c['id'] in ran and source(ran[c['id']]) == source(c): c['outputs'] = ran[c['id']]['outputs']
        else: changed += 1
    if fresh: nb['metadata']['retina_nb'] = {'fresh': fresh}
    write_nb(path, clean(nb))
    return changed

def run(*paths):
    import nbformat
    from fresh import freshness, package_of
    from nbclient import NotebookClient
    os.environ.pop('MPLBACKEND', None)  # the kernel's own backend stores figures in the notebook; one for scripts does not
    for p in map(Path, paths):
        write_nb(p, clean(read_nb(p)))  # every cell has an id by which its outputs find back
        nb, ran_on = nbformat.read(p, as_version=4), freshness(read_nb(p), *package_of(ROOT))
        NotebookClient(nb, timeout=None, kernel_name='python3', store_widget_state=False,
                       resources={'metadata': {'path': str(p.resolve().parent)}}).execute()
        changed = store_outputs(p, json.loads(nbformat.writes(nb)), ran_on)
        print('executed', p, *([f'({changed} cells were edited meanwhile: run it again)'] if changed else []))

def run_stale(root=ROOT, workers=2):
    "Execute what is stale, each notebook in a process of its own; one that fails does not stop the others"
    from fresh import stale
    todo, done, failed = stale(root), [], []
    env = {**os.environ, 'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1)//workers)))}
    def _one(p):
        t, name = time.time(), p.relative_to(root).as_posix()
        r = subprocess.run([sys.executable, __file__, 'run', str(p)], cwd=root, env=env, capture_output=True, text=True)
        done.append(p)
        if r.returncode: failed.append((name, r.stderr.strip()))
        print(f'[{len(done)}/{len(todo)}] {name}: {"FAILED" if r.returncode else "executed"} in {time.time()-t:.0f} s ({todo[p]})', flush=True)
    print(f'{len(todo)} notebooks to execute' if todo else 'every notebook is as fresh as the code', flush=True)
    with ThreadPoolExecutor(workers) as pool: list(pool.map(_one, todo))
    if failed: sys.exit('\n\n'.join(f'{name} failed:\n' + '\n'.join(err.splitlines()[-15:]) for name, err in failed))

if __name__ == '__main__':
    commands = {'prepare': prepare, 'readme': readme, 'run': run, 'run-stale': run_stale}
    if len(sys.argv) < 2 or sys.argv[1] not in commands or (len(sys.argv) > 2) != (sys.argv[1] == 'run'): sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])

"""The documentation site, without Quarto as far as that goes:

    python tools/website.py check       nbdev's half of the site in a folder of its own, and what must hold of the pages; a part of `make test`
    python tools/website.py write       bring nbs/sidebar.yml and nbs/llms.txt in step with the notebooks
    python tools/website.py pages       every page with its title, words and figures
    python tools/website.py card        draw the picture that is shown where a page is shared, nbs/images/card.jpg
    python tools/website.py build       the whole site in _docs (needs Quarto)
    python tools/website.py place DOCS PAGES [TAG]    put it among the sites of earlier releases: at the root, or under TAG

nbdev's processors and the renderer of `show_doc` stand in site_nbdev.py."""
import base64, html, io, json, multiprocessing, os, re, shutil, subprocess, sys, tempfile, warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path: sys.path.insert(0, str(ROOT))

from tools import site_nbdev as plug
from tools.site_nbdev import source

QUARTO = (1, 8)  # the oldest that this site is written for
URL = 'https://retina-nb.github.io/retina_nb'
WINGS = 'image', 'synth', 'data', 'explore', 'measure', 'train', 'explain', 'deploy', 'report', 'serve', 'learn'

# --- pages
def title_of(nb):
    "Title and line of a notebook's first cell"
    m = re.match(r'#\s+(\S[^\n]*?)\s*\n+>\s+(\S[^\n]*)', source(nb['cells'][0]) if nb['cells'] else '')
    return (m[1], m[2]) if m else ('', '')

def parts(folder):
    "[(part of the site, [notebooks or (wing, [notebooks])])] in the order of the sidebar"
    names = list(plug.notebooks(str(folder)))
    def _in(wing): return sorted((n for n in names if n.startswith(wing + '/')), key=lambda n: (not n.endswith('/index.ipynb'), n))
    def _first(*wanted): return [n for n in wanted if n in names]
    ground = sorted(n for n in names if re.match(r'\d\d_\w+\.ipynb$', n))
    wings = [(w, _in(w)) for w in WINGS if _in(w)]
    placed = [('Start', _first('index.ipynb', 'install.ipynb')), ('Course', _in('course')), ('How-to', _in('howto')),
              ('Reference', [*_first('reference.ipynb'), *([('ground', ground)] if ground else []), *wings]),
              ('Explanation', _in('explanation')), ('Results', _in('results')), ('Look up', _first('glossary.ipynb', 'gallery.ipynb')),
              ('Project', _in('about'))]
    here = {x for _, xs in placed for x in flat(xs)}
    rest = [n for n in names if n not in here]
    return [p for p in [*placed, ('More', rest)] if p[1]]

def flat(entries): return [n for e in entries for n in (e[1] if isinstance(e, tuple) else [e])]

def sidebar_text(folder):
    out = ['# Written by `python tools/website.py write` from the folders and numbers of the notebooks.', 'website:', '  sidebar:', '    contents:']
    for part, entries in parts(folder):
        out += [f'      - section: {part}', '        contents:']
        for e in entries:
            if isinstance(e, str): out.append(f'          - {e}')
            else: out += [f'          - section: {e[0].capitalize()}', '            contents:', *(f'              - {n}' for n in e[1])]
    return '\n'.join(out) + '\n'

def llms_text(folder):
    "The site for a language model: each page with its line, after https://llmstxt.org"
    nbs = plug.notebooks(str(folder))
    home, line = title_of(nbs['index.ipynb'])
    out = [f'# {home}', '', f'> {line}', '', ('Install with `pip install "retina_nb[all]"`; import from a wing: `from retina_nb.data import load_records`. '
           'Every page is also a notebook of the repository, under `nbs/`. For research and teaching: not a medical device.')]
    for part, entries in parts(folder):
        out += ['', f'## {part}', '']
        out += [f'- [{title_of(nbs[n])[0] or n}]({URL}/{plug.page_of(n)}): {title_of(nbs[n])[1]}' for n in flat(entries)]
    return '\n'.join(out) + '\n'

def write(root=ROOT):
    for name, text in (('sidebar.yml', sidebar_text(root/'nbs')), ('llms.txt', llms_text(root/'nbs'))): (root/'nbs'/name).write_text(text, encoding='utf-8')

def pages(root=ROOT):
    "[(page, title, words of prose, cells of code, figures)]"
    rows, nbs = [], plug.notebooks(str(root/'nbs'))
    for name in [n for _, es in parts(root/'nbs') for n in flat(es)]:
        prose = ' '.join(source(c) for c in nbs[name]['cells'] if c['cell_type'] == 'markdown')
        code = [c for c in nbs[name]['cells'] if c['cell_type'] == 'code']
        rows.append((plug.page_of(name), title_of(nbs[name])[0], len(prose.split()), len(code), sum(map(plug.has_picture, code))))
    return rows

# --- what pages take from elsewhere: a cell that holds <!-- site: NAME WHAT --> becomes what NAME returns
def file(page, text, name):
    "A file of the project as a page: its title goes, its links lead to the repository"
    body = (plug.root()/name).read_text(encoding='utf-8') if (plug.root()/name).exists() else f'`{name}` is not there yet.\n'
    if not name.endswith('.md'): return f'```yaml\n{body}```\n'
    body = re.sub(r'\A\s*(?:<!--(?:(?!-->).)*-->\s*)?# [^\n]*\n', '', body, flags=re.S)
    def _link(m): return m[0] if re.match(r'[a-z]+:|#', m[2]) else f'{m[1]}https://github.com/retina-nb/retina_nb/blob/main/{m[2]}{m[3]}'
    return plug.no_citations(re.sub(r'(\]\()([^)\s]+)(\))', _link, body))

def names(page, text, _):
    "Every public name with its line, by wing; classes before functions, methods under their class"
    found, out = plug.public_names(page.folder), []
    groups = {}
    for name, row in found.items():
        if '.' in name and name.split('.')[0] in (*WINGS, *plug.root_rooms(page.folder)) and name.split('.')[0] == row['face'].split('.')[-1]: groups.setdefault(row['face'], []).append((name.partition('.')[2], row))
    order = [f'{plug.PACKAGE}.{w}' for w in (*plug.root_rooms(page.folder), *WINGS)]
    for face in sorted(groups, key=order.index):
        wing = face.split('.')[-1]
        out += [f'## {face} {{#{wing}}}', '', '::: {.names}', '', '| name | what it is |', '|:---------|:------------------------------|']
        for name, row in sorted(groups[face], key=lambda x: x[0].lower()):
            if row['kind'] == 'method': continue
            out.append(f"| [`{name}`]({plug.address(row)}) | {plug.link_names(plug.prose(row['doc']), page.page, page.folder, {name})} |")
        out += ['', ':::', '']
    return '\n'.join(out)

def thumbnail(cell, size=(320, 220)):
    "The first picture of a cell as a small JPEG"
    from PIL import Image
    for o in cell.get('outputs', []):
        if data := o.get('data', {}).get('image/png') or o.get('data', {}).get('image/jpeg'):
            im = Image.open(io.BytesIO(base64.b64decode(''.join(data))))
            im = Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im.convert('RGBA')).convert('RGB')
            im.thumbnail(size, Image.Resampling.LANCZOS)
            out = io.BytesIO(); im.save(out, 'JPEG', quality=78)
            return out.getvalue()

def site_out(): return Path(os.environ.get('RETINA_NB_SITE') or plug.root()/'_proc')

def gallery(page, text, _):
    "A thumbnail for each stored figure, linked to its cell; the pictures are made here and now, and never committed"
    nbs, out = plug.notebooks(page.folder), []
    thumbs = site_out()/'thumbs'
    thumbs.mkdir(parents=True, exist_ok=True)
    for name in [n for _, es in parts(page.folder) for n in flat(es)]:
        cells = [c for c in nbs[name]['cells'] if c['cell_type'] == 'code' and not re.search(r'^#\s*\|\s*(hide|include: false)\s*$', source(c), re.M)]
        items = []
        for c in cells:
            data = thumbnail(c)
            if not data: continue
            (thumbs/f"{c['id']}.jpg").write_bytes(data)
            said = plug.options(c)
            alt, cap = (html.escape(str(said.get(k, '') or '')) for k in ('fig-alt', 'fig-cap'))
            items.append(f'<a class="thumb" href="{plug.page_of(name)}#c-{c["id"]}"><img src="thumbs/{c["id"]}.jpg" alt="{alt}" loading="lazy"/><span>{cap}</span></a>')
        if items: out += [f'## [{title_of(nbs[name])[0]}]({plug.page_of(name)})', '', '```{=html}', '<div class="gallery">', *items, '</div>', '```', '']
    return '\n'.join(out)

# --- the check
def _anchors(nb):
    "Headings of a notebook as pandoc names them, and anchors given by hand"
    found = set()
    for c in nb['cells']:
        text = source(c)
        found |= set(re.findall(r'\{#([\w.:-]+)', text)) | set(re.findall(r'\bid="([^"]+)"', text))
        for h in re.findall(r'^#{1,6} (.+?)(?:\s*\{[^}]*\})?$', re.sub(r'```.*?```', '', text, flags=re.S), re.M) if c['cell_type'] == 'markdown' else []:
            h = re.sub(r'\[([^\]]*)\]\([^)]*\)|[`*]', lambda m: m[1] or '', h)
            h = re.sub(r'[^\w\s.-]', '', h.lower()).strip()
            found.add(re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', h)))
    return found

def link_faults(root):
    "Links between pages, with their anchors"
    nbs = plug.notebooks(str(root/'nbs'))
    anchors = {n: _anchors(nb) | {name.lower() for name, *_ in plug.definitions(nb)} for n, nb in nbs.items()}
    for name, nb in nbs.items():
        for c in nb['cells']:
            if c['cell_type'] != 'markdown': continue
            text = re.sub(r'```.*?```|`[^`\n]*`', '', source(c), flags=re.S)
            for m in re.finditer(r'\]\(([^)\s#]*)(?:#([^)\s]*))?\)', text):
                if re.match(r'[a-z]+:', m[1]): continue
                target = os.path.normpath(os.path.join(os.path.dirname(name), m[1])).replace(os.sep, '/') if m[1] else name
                if target.endswith('.ipynb') and target not in nbs: yield f'nbs/{name}: the link to {m[1]} leads nowhere'
                elif m[2] and target in nbs and m[2] not in anchors[target]: yield f'nbs/{name}: {m[1]}#{m[2]} leads to no heading of that page'

def _make_page(job):
    "Run nbdev's processors on one notebook: its faults"
    folder, name, out = job
    os.chdir(folder)
    os.environ.update(IN_TEST='1', RETINA_NB_SITE=str(out), MPLBACKEND='Agg')
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import exec_nb
    dst = Path(out)/name
    dst.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        try: exec_nb(Path(folder)/'nbs'/name, dst, FilterDefaults)
        except Exception as e:
            text, cause = str(e), e.__cause__ or e
            cell = re.search(r'in cell (\d+) :\n(.*)', text, re.S)
            line = next((s for s in cell[2].splitlines() if s.strip() and not s.startswith('#|')), '')[:60] if cell else ''
            return name, [f'nbs/{name}: ' + (f'cell {cell[1]} ({line}) fails while the site is made: ' if cell else '') + f'{type(cause).__name__}: {cause}'.splitlines()[0]]
    def _first(text): return next((s for s in str(text).partition('---')[2].splitlines() if s.strip() and not s.startswith('#|')), '')[:60]
    return name, [f'nbs/{name}: a cell mixes imports with other code, and so runs while the site is made: {_first(w.message)}' for w in seen
                  if 'imports and other code' in str(w.message)]

def make_pages(root, out, only=None, workers=None):
    "nbdev's half of the site for every notebook (or those of `only`), into the folder `out`; faults"
    names_ = [n for n in plug.notebooks(str(root/'nbs')) if only is None or n in only]
    heavy = [n for n in names_ if n.split('/')[0] in ('train', 'explain')]  # one worker loads torch once for all of them
    jobs = [(str(root), n, str(out)) for n in [*heavy, *(n for n in names_ if n not in heavy)]]
    ctx = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(workers or min(2, os.cpu_count() or 1), mp_context=ctx) as pool:
        from tools.website import _make_page as make  # by this name: the notebooks' shell takes the place of __main__ in the workers
        return [f for _, fs in pool.map(make, jobs) for f in fs]

def _markdown(cell): return [''.join(o['data']['text/markdown']) for o in cell.get('outputs', []) if 'text/markdown' in o.get('data', {})]

def page_faults(root, out):
    "What must hold of the pages that nbdev has made: introductions kept, every public name documented once and readably"
    folder = str(root/'nbs')
    seen, public = {}, {n: r for n, r in plug.public_names(folder).items() if r['kind'] not in ('method', 'value') and '.' not in n}
    for name, nb in plug.notebooks(folder).items():
        if not (Path(out)/name).exists(): continue
        made = json.loads((Path(out)/name).read_text(encoding='utf-8'))
        text = ' '.join(source(c) for c in made['cells'])
        front = source(made['cells'][0]) if made['cells'] else ''
        for key in ('title', 'description'):
            if not re.search(rf'^{key}:', front, re.M): yield f'nbs/{name}: the page has no {key}'
        before = [re.sub(r'\W+', '', source(c))[:40] for c in nb['cells'][1:] if c['cell_type'] == 'markdown' and not source(c).startswith(('#', ':::', '<'))]
        after = re.sub(r'\W+', '', re.sub(r'\]\([^)]*\)(\{[^}]*\})?', '', text))
        lost = [b for b in before if b and not re.search(r'site\w*', b) and re.sub(r'https?\w*|\w+ipynb\w*', '', b)[:12] not in after]
        if lost and len(lost) > len(before)//2: yield f'nbs/{name}: {len(lost)} of {len(before)} pieces of prose are lost on the page'
        for c in made['cells']:
            if c['cell_type'] != 'code' or not re.search(r'^show_doc\(', source(c), re.M): continue
            what = re.search(r'show_doc\(([\w.]+)', source(c))[1]
            docs = _markdown(c)
            if not docs: yield f'nbs/{name}: `{what}` shows no documentation'
            for d in docs:
                if 'Call self as a function' in d: yield f'nbs/{name}: `{what}` has no docstring'
                fences = re.findall(r'```.*?```', re.sub(r'<details.*?</details>', '', d, flags=re.S), re.S) + re.findall(r'`[^`\n]+`', re.sub(r'```.*?```', '', d, flags=re.S))
                if any(re.search(r'\]\(\S+\)', f) for f in fences if not f.startswith('`from')): yield f'nbs/{name}: `{what}` shows a raw link inside code'
                row = plug.public_names(folder).get(what)
                if row and row['notebook'] == name:
                    seen.setdefault(what, []).append(name)
                    if '.lead-doc' not in d: yield f'nbs/{name}: the public name `{what}` has no docstring'
    made_all = all((Path(out)/n).exists() for n in plug.notebooks(folder))
    for n in sorted(public) if made_all else ():
        times = len(seen.get(n, []))
        if times != 1: yield f"nbs/{public[n]['notebook']}: the public name `{n}` is documented {times} times"
    for wing, rooms in plug.faces(folder).items():
        known = {n for n, r in plug.public_names(folder).items() if r['face'] == f'{plug.PACKAGE}.{wing}'}
        for n in (n for ns in rooms.values() for n in ns):
            if n not in known and f'{wing}.{n}' not in known: yield f'nbs/{wing}/index.ipynb: shows `{n}`, which no room of the wing defines'

def step_faults(root):
    for name, text in (('sidebar.yml', sidebar_text(root/'nbs')), ('llms.txt', llms_text(root/'nbs'))):
        p = root/'nbs'/name
        if not p.exists() or p.read_text(encoding='utf-8') != text: yield f'nbs/{name} is not in step with the notebooks: run python tools/website.py write'

def check(root=ROOT, only=None):
    "All faults of the site, as sentences; how a notebook is written is checked by rules.py"
    faults = [*link_faults(root), *step_faults(root)]
    with tempfile.TemporaryDirectory() as d:
        faults += make_pages(root, d, only)
        faults += page_faults(root, d)
    return list(dict.fromkeys(faults))

# --- the picture shown where a page is shared
def card(root=ROOT):
    "1200 by 630 pixels: a synthetic eye, the title and the line of the home page"
    from PIL import Image, ImageDraw, ImageFilter, ImageFont
    import matplotlib
    from retina_nb.synth import synth_eye
    fonts = Path(matplotlib.get_data_path())/'fonts'/'ttf'
    im = Image.new('RGB', (1200, 630), '#10243a')
    eye = Image.fromarray(synth_eye(13, grade=3, size=560).image)
    eye.thumbnail((600, 600), Image.Resampling.LANCZOS)
    inside = eye.convert('L').point(lambda v: 255 if v > 14 else 0).filter(ImageFilter.GaussianBlur(1.2))
    im.paste(eye, (570 + (600-eye.width)//2, (630-eye.height)//2), inside)
    draw = ImageDraw.Draw(im)
    title, line = title_of(plug.notebooks(str(root/'nbs'))['index.ipynb'])
    draw.text((60, 170), title, font=ImageFont.truetype(fonts/'DejaVuSans-Bold.ttf', 72), fill='#ffffff')
    words, rows = line.rstrip('.').split(), ['']
    for w in words:
        if len(rows[-1]) + len(w) > 27: rows.append('')
        rows[-1] += w + ' '
    for i, r in enumerate(rows): draw.text((60, 290+44*i), r, font=ImageFont.truetype(fonts/'DejaVuSans.ttf', 30), fill='#cfe3f5')
    draw.text((60, 560), 'For research and teaching', font=ImageFont.truetype(fonts/'DejaVuSans.ttf', 22), fill='#9fc3e3')
    im.save(root/'nbs'/'images'/'card.jpg', quality=88)

# --- the whole site
def needs_quarto():
    "Why the site cannot be built here, in one line; empty where it can"
    exe = shutil.which('quarto')
    want = '.'.join(map(str, QUARTO))
    if not exe: return f'make docs needs Quarto {want} or later, which is not installed: see https://quarto.org/docs/get-started'
    said = subprocess.run([exe, '--version'], capture_output=True, text=True).stdout.strip()
    have = tuple(int(x) for x in re.findall(r'\d+', said)[:2])
    return '' if have >= QUARTO else f'make docs needs Quarto {want} or later; this is {said or "of no known version"}'

def build(root=ROOT):
    if why := needs_quarto(): sys.exit(why)
    write(root)
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')])),
           'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])}
    shutil.rmtree(root/'_proc', ignore_errors=True)
    subprocess.run([sys.executable, root/'tools'/'notebooks.py', 'readme'], cwd=root, check=True)  # newer than its notebook, so nbdev leaves it
    skip = '^([_.]|(runs|bundles|models)$)'  # what running the notebooks leaves beside them
    code = f'from nbdev.quarto import nbdev_docs; nbdev_docs.__wrapped__(skip_folder_re={skip!r})'
    sys.exit(subprocess.run([sys.executable, '-c', code], cwd=root, env=env).returncode)

VERSIONS = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Versions of retina_nb</title><meta name="color-scheme" content="light dark">
<style>body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }}</style></head>
<body><h1>Versions of retina_nb</h1><ul><li><a href="../">main</a>, the newest</li>{}</ul></body></html>
"""

def place(docs, pages, tag=''):
    """Put a built site among those that are there: main's at the root, a release's in a folder of its name, where it stays.
    versions/index.html lists them"""
    docs, pages = Path(docs), Path(pages)
    keep = {p.name for p in pages.iterdir() if re.match(r'v\d', p.name) or p.name in ('.git', 'versions')}
    if tag:
        if not re.fullmatch(r'v\d[\w.]*', tag): sys.exit(f'{tag!r} is no tag of a release: v1.2.3')
        shutil.rmtree(pages/tag, ignore_errors=True)
        shutil.copytree(docs, pages/tag)
    else:
        for p in pages.iterdir():
            if p.name not in keep: shutil.rmtree(p) if p.is_dir() else p.unlink()
        shutil.copytree(docs, pages, dirs_exist_ok=True)
    (pages/'.nojekyll').touch()
    tags = sorted((p.name for p in pages.iterdir() if re.match(r'v\d', p.name)), key=lambda t: [int(x) for x in re.findall(r'\d+', t)], reverse=True)
    (pages/'versions').mkdir(exist_ok=True)
    (pages/'versions'/'index.html').write_text(VERSIONS.format(''.join(f'<li><a href="../{t}/">{t}</a></li>' for t in tags)), encoding='utf-8')

def main(args):
    if args[:1] == ['check']:
        faults = check(only=set(args[1:]) or None)
        print('\n'.join(f'  - {f}' for f in faults) or 'the site holds')
        return 1 if faults else 0
    if args == ['pages']:
        for page, title, words, code, figures in pages(): print(f'{page:36} {title[:52]:52} {words:5} words {code:4} cells {figures:3} figures')
    elif args == ['write']: write()
    elif args == ['card']: card()
    elif args == ['build']: build()
    elif args[:1] == ['place'] and len(args) in (3, 4): place(*args[1:])
    else: sys.exit(__doc__)
    return 0

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))

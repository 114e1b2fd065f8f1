"What the browser tests share: headless Chromium, which does what a user does. Where it is missing they are skipped; CHROMIUM names another one"
import contextlib, os, re, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest

CHROMIUM = os.environ.get('CHROMIUM') or next((p for n in ('chromium', 'chromium-browser', 'google-chrome') if (p := shutil.which(n))), None)
ARGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
WAIT = 120_000 # ms: a busy machine is not a failure
in_browser = pytest.mark.skipif(not CHROMIUM, reason='no Chromium on this machine (set CHROMIUM to its path)')

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

@contextlib.contextmanager
def chromium():
    "A browser; the test is skipped where there is none"
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not CHROMIUM: pytest.skip('no Chromium on this machine (set CHROMIUM to its path)')
    with playwright.sync_playwright() as pw:
        b = pw.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield b
        b.close()

@contextlib.contextmanager
def watched_page(browser):
    "A page of somebody's own: its script errors in faults, the addresses it asked for in asked, what it got over WebSockets in got"
    context = browser.new_context(viewport=dict(width=1280, height=900))
    p = context.new_page()
    p.set_default_timeout(WAIT)
    p.faults, p.asked, p.got = [], [], []
    p.on('pageerror', lambda e: p.faults.append(str(e)))
    p.on('request', lambda r: p.asked.append(r.url))
    p.on('websocket', lambda ws: ws.on('framereceived', lambda f: p.got.append(f if isinstance(f, bytes) else f.encode())))
    try: yield p
    finally: context.close()

def stop(proc):
    proc.send_signal(signal.SIGTERM)
    try: proc.wait(20)
    except subprocess.TimeoutExpired: proc.kill(); proc.wait()

@contextlib.contextmanager
def jupyterlab(folder, code):
    "JupyterLab on a notebook of one cell, home/p.ipynb in a folder: the address of the notebook; what the server says is in log.txt"
    import nbformat
    (folder/'home').mkdir(exist_ok=True)
    kernel = dict(kernelspec=dict(name='python3', display_name='Python 3'))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata=kernel), folder/'home'/'p.ipynb')
    port, env = free_port(), os.environ | {k: str(folder/'config') for k in ('JUPYTER_CONFIG_DIR','JUPYTERLAB_SETTINGS_DIR','JUPYTERLAB_WORKSPACES_DIR')}
    with open(folder/'log.txt', 'w') as log:
        proc = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', f'--port={port}', '--ip=127.0.0.1', '--IdentityProvider.token=t', '--allow-root',
                                 f'--ServerApp.root_dir={folder/"home"}'], env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for_port(port)
        yield f'http://127.0.0.1:{port}/lab/tree/p.ipynb?token=t'
    finally: stop(proc)

def wait_for_port(port):
    for _ in range(600):
        try: return socket.create_connection(('127.0.0.1', port), 1).close()
        except OSError: time.sleep(.1)
    raise TimeoutError(f'nobody listens on {port}')

def run_all_cells(page, url, selector):
    "Open a notebook in JupyterLab and run it, until something is there"
    from playwright.sync_api import TimeoutError as TooLong
    page.goto(url, wait_until='domcontentloaded')
    page.wait_for_selector('.jp-Notebook .jp-Cell .cm-content'); page.wait_for_selector('text=/[|] Idle/')
    for last in (False, False, True):   # JupyterLab loses a run that is asked for while the kernel is still connecting
        page.click('.lm-MenuBar-itemLabel:has-text("Run")'); page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
        try: return page.wait_for_selector(selector, timeout=WAIT if last else WAIT//4)
        except TooLong:
            if last: raise

def in_panel(page, text): page.wait_for_function('t => document.querySelector(".rnb-panel")?.innerText.includes(t)', arg=text, timeout=WAIT)

# What lies over what: every text, picture and control of the panel, fields that scroll as a whole, without those inside each other
OVERLAPS = """() => {
  const scrolls = e => e.closest('.rnb-table, .rnb-strip, .rnb-frame') ?? e;
  const leaf = 'button, select, input, textarea, [role=slider], label, h1, h2, h3, p, li, b, span, code, img, figcaption, small';
  const all = new Set([...document.querySelectorAll('.rnb-panel :is(' + leaf + ')')].map(scrolls));
  const seen = [...all].map(e => [e, e.getBoundingClientRect()]).filter(([e, r]) => r.width > 2 && r.height > 2 && e.checkVisibility({visibilityProperty: true}));
  const out = [];
  seen.forEach(([a, r], i) => seen.slice(i + 1).forEach(([b, q]) => {
    if (a.contains(b) || b.contains(a) || a.closest('.slider-container') || b.closest('.slider-container')) return;
    const w = Math.min(r.right, q.right) - Math.max(r.left, q.left), h = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
    if (w > 2 && h > 2) out.push([a.outerHTML.slice(0, 90), b.outerHTML.slice(0, 90), w, h]);
  }));
  return out;
}"""

def contrast(a, b):
    def light(c):
        c = np.array([int(o) for o in re.findall(r'\d+', c)[:3]])/255
        return np.where(c <= .04045, c/12.92, ((c+.055)/1.055)**2.4) @ [.2126, .7152, .0722]
    hi, lo = sorted((light(a), light(b)), reverse=True)
    return (hi+.05)/(lo+.05)

AXE = Path(__file__).resolve().parents[1]/'node_modules'/'axe-core'/'axe.min.js'
with_axe = pytest.mark.skipif(not AXE.exists(), reason='axe-core is not installed here: make js-packages')

def faults_of(page)->list:
    "What axe-core finds that is serious or critical"
    page.evaluate(AXE.read_text(encoding='utf-8') + ';0')
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")['violations']
    return [(v['id'], n['html'][:200], n['failureSummary']) for v in found if v['impact'] in ('serious','critical') for n in v['nodes']]

"""`retina_serve --panel` as it is typed: service and panel in a real browser, cases that are read blind, and both end together.

Headless Chromium does what a user does. Where it is missing these tests are skipped; CHROMIUM names another one."""
import os, re, signal, socket, subprocess, sys, time
from pathlib import Path

import pytest

from retina_nb.serve import Store
from browsers import free_port, in_browser, in_panel, watched_page
from clients import Client, picture
from random_model import shared


pytest.importorskip('voila', reason='voila is not installed')

def listens(port):
    try: socket.create_connection(('127.0.0.1', port), 1).close()
    except OSError: return False
    return True

def until(f, seconds=30):
    "Wait until something holds; does it?"
    end = time.time() + seconds
    while not (got := f()) and time.time() < end: time.sleep(.1)
    return got

def family(pid):
    "The processes that a process has started, and those that they have"
    rows = [l.split() for l in subprocess.run(['ps', '-eo', 'pid,ppid'], capture_output=True, text=True).stdout.splitlines()[1:]]
    out, new = [], [pid]
    while new:
        new = [int(p) for p, of in rows if int(of) in new]
        out += new
    return out

def alive(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError: return False

class Both:
    "`retina_serve --panel`, and what it has said"
    def __init__(self, d, *args):
        self.db, self.pages, script = d/'store', free_port(), d/'retina_serve'
        script.write_text('from retina_nb.serve import retina_serve\nretina_serve()\n')
        self.err = open(d/'stderr.txt', 'w+')
        self.proc = subprocess.Popen([sys.executable, script, shared()[1], '--db', self.db, '--port', '0', '--panel', '--panel_port', str(self.pages), *map(str, args)],
                                     cwd=d, stdout=subprocess.PIPE, stderr=self.err, text=True, stdin=subprocess.DEVNULL)
        self.told = ''
        while 'token=' not in self.told:
            line = self.proc.stdout.readline()
            assert line, self.told + self.text()
            self.told += line
        self.port = int(re.search(r'served at http://127.0.0.1:(\d+)', self.told)[1])
        self.page = re.search(r'http://127.0.0.1:\d+/\?token=\S+', self.told)[0]
        self.panel = next(p for p in family(self.proc.pid) if 'serve_page' in Path(f'/proc/{p}/cmdline').read_text())
    def text(self):
        self.err.seek(0)
        return self.err.read()
    def end(self, how=signal.SIGTERM):
        "Its status, once it has ended"
        if self.proc.poll() is None: self.proc.send_signal(how)
        self.proc.stdout.close()
        try: return self.proc.wait(60)
        except subprocess.TimeoutExpired: self.proc.kill(); raise
        finally: self.err.close()

pytest.importorskip('playwright.sync_api', reason='playwright is not installed')

@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "A service that is never sure, keeps photographs, and lets in only who has a key; the panel beside it"
    d = tmp_path_factory.mktemp('both')
    with Store(d/'store') as s: s.add_key('van 3', 'grader')
    b = Both(d, '--low_confidence', '1', '--keep_images', d/'pictures')
    yield b
    b.end()

def told_of(p):
    "How the probabilities and the grade of a stored prediction might be written"
    ps = p.grading.probabilities
    return [w.encode() for q in ps if q > .001 for w in (repr(q)[:7], f'{q:.4f}', f'{q:.1%}')] + [p.id.encode(), b'probabilities', b'"grading"', b'You said', b'You and the model', b'Stored:']

@in_browser
def test_from_upload_to_feedback_in_the_store(page, browser, both, tmp_path):
    (tmp_path/'Mrs Example.jpg').write_bytes(picture(3, size=400))
    page.goto(both.page, wait_until='domcontentloaded')
    in_panel(page, 'No photograph yet'); in_panel(page, 'They are sent to the service')
    page.set_input_files('.rnb-file', str(tmp_path/'Mrs Example.jpg'))
    page.wait_for_selector('.rnb-grade'); page.wait_for_selector('.rnb-photo')
    in_panel(page, '1 alert that nobody has seen'); in_panel(page, 'the model is not sure of a grade')          # low confidence
    page.wait_for_selector('role=tab[name="Read again (1)"]')
    page.click('role=tab[name="Watch"]')                                                                        # asked when turned to
    in_panel(page, 'Too few visits to say much yet'); page.wait_for_selector('.rnb-watch figure img')
    page.click('role=tab[name="Grade"]')
    with Store(both.db) as s: (p, _), = s.answers()
    assert p.grading.name in page.inner_text('.rnb-grade') and 'Example' not in repr(p)

    with watched_page(browser) as reader: read_blind(reader, both, p)                                        # somebody else, elsewhere
    assert not page.faults and all('guest_' not in u for u in page.asked)

def read_blind(r, both, p):
    "A reader takes the case, sees nothing of the answer, gives a grade, and then sees the answer"
    r.goto(both.page, wait_until='domcontentloaded')
    tab = r.get_by_role('tab', name='Read again (1)')
    tab.wait_for()
    r.get_by_role('tab', name='Grade').focus(); r.keyboard.press('ArrowRight')                               # by keyboard
    r.wait_for_function("document.activeElement.getAttribute('aria-selected') == 'true'")
    in_panel(r, '1 case waits: 1 for low confidence')
    r.click('button:has-text("Take the next case")'); in_panel(r, 'Write your name first')
    r.get_by_label('Your name').fill('Dr Reader'); r.click('button:has-text("Take the next case")')
    r.locator('.rnb-desk .rnb-photo').wait_for(); in_panel(r, 'What the model said is shown when you have finished')
    r.wait_for_function("document.querySelector('.rnb-desk .rnb-photo').naturalWidth > 300")
    r.click('.rnb-desk button:has-text("Enhance contrast")'); r.get_by_role('button', name='Zoom in').last.click()
    assert r.locator('.rnb-desk button:has-text("Heat map")').count() == 0 and 'low confidence' not in r.inner_text('.rnb-desk')
    mine = next(i for i in range(5) if i != p.grading.grade)
    r.click(f'.rnb-grades button:has-text("{mine} ")'); r.get_by_label('Note', exact=True).fill('seen twice')
    r.wait_for_function("document.querySelectorAll('.rnb-grades [aria-pressed=true]').length == 1")
    sent, seen = b' '.join(r.got), r.evaluate("document.querySelector('.rnb-panel').outerHTML + document.body.innerText").encode()
    assert len(sent) > 50_000 and b'case waits: 1 for low confidence' in sent and b'No case taken' in sent      # these are the frames that make the page
    for word in told_of(p): assert word not in sent and word not in seen, word                                # blind
    assert r.locator('.rnb-desk [role=listitem]').count() == 0
    r.click('button:has-text("Finish")'); in_panel(r, f'the model said {p.grading.name}')
    assert f'{max(p.grading.probabilities):.1%}' in r.inner_text('.rnb-desk') and 'low confidence' in r.inner_text('.rnb-desk')
    in_panel(r, 'No case waits to be read again')
    with Store(both.db) as s:
        said, = s.feedback_of(p.id)
        assert (said['verdict'], said['grade'], said['who'], said['reason']) == ('correct', mine, 'Dr Reader (panel)', 'seen twice')
        done, = s.reviews('done')
        assert done['result'] == dict(grade=mine, note='seen twice') and s.check() == []
    assert not r.faults

needs_proc = pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='/proc of Linux shows what a process was given')

@needs_proc
def test_the_key_is_nowhere_and_both_end_together(both):
    "The last test that uses them"
    key = dict(l.split('=', 1) for l in Path(f'/proc/{both.panel}/environ').read_text().split('\0') if '=' in l)['RETINA_NB_KEY']
    asks = Client(both.port, key)
    assert until(lambda: asks('GET', '/v1/health/ready').status == 200)
    assert asks('GET', '/v1/reviews').status == 200 and asks('POST', '/v1/deployments', dict(bundle='0'*12)).status == 403   # a reviewer
    all_of_them = [both.proc.pid, *family(both.proc.pid)]
    for p in all_of_them: assert key not in Path(f'/proc/{p}/cmdline').read_text()
    both.proc.send_signal(signal.SIGTERM)
    assert both.proc.wait(60) == 0 and until(lambda: not listens(both.pages))
    assert until(lambda: not any(alive(p) for p in all_of_them)) and 'the panel stopped' not in both.text()
    with Store(both.db) as s: assert [k['name'] for k in s.keys()] == ['van 3']
    kept = [f for f in both.db.parent.rglob('*') if f.is_file()]
    assert len(kept) > 2 and all(key.encode() not in f.read_bytes() for f in kept) and key not in both.told

def test_a_service_whose_panel_is_lost_ends_and_says_so():
    from retina_nb.core import RetinaError
    from retina_nb.serve.serve_command import _run
    class Server: # as uvicorn's: runs until it is told to stop
        should_exit = False
        def run(self, sockets): assert until(lambda: self.should_exit)
    with pytest.raises(RetinaError, match='the panel stopped with status 3, and the service with it'):
        _run(Server(), None, subprocess.Popen([sys.executable, '-c', 'raise SystemExit(3)']))

def test_a_panel_whose_service_is_lost_ends_and_says_so():
    code = 'from retina_nb.deploy.door import _end_with_pipe\nprint("here", flush=True)\n_end_with_pipe()'
    p = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'here\n' and p.poll() is None
    p.stdin.close() # as it is when the service has gone, however that came
    assert p.wait(30) == -signal.SIGTERM and p.stderr.read() == 'the service has ended, and the panel with it\n'
    p.stdout.close(); p.stderr.close()

@pytest.mark.full
@needs_proc
def test_each_ends_when_the_other_has_gone(tmp_path):
    (tmp_path/'a').mkdir(); (tmp_path/'b').mkdir()
    a, b = Both(tmp_path/'a'), Both(tmp_path/'b')
    os.kill(a.panel, signal.SIGKILL)
    assert a.proc.wait(60) == 2 and 'the panel stopped with status -9, and the service with it' in a.text() and 'Traceback' not in a.text()
    b.proc.kill()
    assert until(lambda: not listens(b.pages)) and until(lambda: 'the service has ended, and the panel with it' in b.text())
    assert until(lambda: not alive(b.panel))
    for o in (a, b): o.end()

def test_what_cannot_stand_beside(tmp_path):
    script = tmp_path/'retina_serve'
    code = 'import sys\nfrom retina_nb.serve import retina_serve\nif sys.argv.pop() == "bare": sys.modules["voila"] = None\nretina_serve()\n'
    script.write_text(code)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0)); s.listen()
        for port, how, why in ((s.getsockname()[1], 'whole', 'choose another port with --port'), (free_port(), 'bare', "pip install 'retina_nb[panel]'"), (0, 'whole', 'between 1')):
            r = subprocess.run([sys.executable, script, shared()[1], '--db', tmp_path/'s', '--port', '0', '--panel', '--panel_port', str(port), how], capture_output=True, text=True, timeout=60)
            assert r.returncode == 2 and why in r.stderr and r.stderr.count('\n') == 1 and not r.stdout, r.stderr

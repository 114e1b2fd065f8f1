"""The panel in a real browser: by Voila and in JupyterLab.

Headless Chromium does what a user does. Where it is missing these tests are skipped; CHROMIUM names another one."""
import re, shutil, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path

import numpy as np, pytest
from PIL import Image

from browsers import OVERLAPS, WAIT, contrast, faults_of, free_port, in_browser, in_panel, jupyterlab, run_all_cells, stop, with_axe
from random_model import shared

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
pytestmark = in_browser

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Both eyes of a patient, a letter, an empty sheet, a large photograph, a file over the limit, forty small ones"
    from retina_nb.synth.render import synth_eye
    d = tmp_path_factory.mktemp('photos')
    for eye in ('left','right'): Image.fromarray(synth_eye(33, grade=3, eye=eye, size=400).image).save(d/f'33_{eye}.jpg', quality=92)
    (d/'letter.jpg').write_text('Dear colleague')
    Image.new('RGB', (400,300), (250,250,250)).save(d/'sheet.png')
    a = np.asarray(Image.open(d/'33_left.jpg').resize((2600, 2000)))
    noisy = (a + np.random.default_rng(0).integers(0, 30, a.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(d/'large.png', compress_level=1)           # over the 10 MB that a websocket message may have
    assert (d/'large.png').stat().st_size > 10*2**20
    with open(d/'huge.tif', 'wb') as f: f.truncate(70*2**20)
    (d/'many').mkdir()
    for i in range(40): Image.fromarray(synth_eye(i, grade=i%5, size=96).image).save(d/'many'/f'eye{i:02}.jpg')
    (d/'visit').mkdir()
    for i in range(14): shutil.copy(d/'many'/f'eye{i:02}.jpg', d/'visit'/f'77_{"left" if i%2 else "right"}_{i}.jpg')
    return d

def drawn_bundle(folder):
    "The shared bundle as one that was trained on drawings and counted patients, so that badge and clinic are on the page"
    from types import SimpleNamespace
    from retina_nb.core import get_task
    from retina_nb.disk import read_json, write_json
    from retina_nb.deploy import write_sums
    from retina_nb.deploy.exporter import _curve
    from retina_nb.measure import example_predictions
    shutil.copytree(shared()[1], folder)
    part = dict(images=8, patients=4, synthetic=8)
    curve = _curve(SimpleNamespace(predictions_valid=example_predictions(200)), get_task('dr'), .4, None)
    write_json(folder/'config.json', read_json(folder/'config.json') | dict(trained_on=part | dict(parts=dict(train=part), sources=[]), operating_curve=curve))
    write_sums(folder)
    return folder

@pytest.fixture(scope='module')
def voila(tmp_path_factory):
    """`retina_panel` as a user starts it: address, feedback file, folder it was started in. Room for a page a test: one that was
    closed keeps its place for most of a minute, and more than eight of these tests run in that time"""
    d, port, bundle = tmp_path_factory.mktemp('voila'), free_port(), drawn_bundle(tmp_path_factory.mktemp('bundle')/'b')
    proc = subprocess.Popen([Path(sys.executable).with_name('retina_panel'), bundle, '--port', str(port), '--pages', '40', '--no_browser', '--feedback', d/'feedback.csv'],
                            cwd=d, stdout=subprocess.PIPE, stderr=open(d/'stderr.txt', 'w'), text=True)
    line = proc.stdout.readline()
    assert f'http://127.0.0.1:{port}/' in line, line + (d/'stderr.txt').read_text()
    yield re.search(r'http://\S+', line)[0], d
    stop(proc)

def upload(page, *files): page.set_input_files('.rnb-file', [str(f) for f in files])
def thumbs(page, n): page.wait_for_function(f"document.querySelectorAll('.rnb-thumb').length == {n}", timeout=WAIT)

def open_panel(page, voila, **query):
    url = voila[0]
    page.goto(url + ('&' if '?' in url else '?')*bool(query) + '&'.join(f'{k}={v}' for k,v in query.items()), wait_until='domcontentloaded')
    in_panel(page, 'No photograph yet')

def show(page, name):
    page.locator('[data-rnb-row]', has_text=name).first.click()
    page.wait_for_function('n => document.querySelector(".rnb-file-name").innerText == n', arg=name)

def test_voila_from_upload_to_clear(page, voila, photos):
    folder = voila[1]
    open_panel(page, voila)
    upload(page, photos/'33_left.jpg')
    page.wait_for_selector('.rnb-grade'); page.wait_for_selector('.rnb-photo')
    page.wait_for_function("document.querySelector('.rnb-photo').naturalWidth > 300")
    assert page.locator('.rnb-panel [role=listitem]').count() == 5

    page.click('button:has-text("Agree")'); in_panel(page, 'You agreed')
    page.get_by_label('or correct to').select_option(label='4 Proliferative')
    page.get_by_label('Reason').fill('new vessels'); page.click('button:has-text("Save correction")')
    in_panel(page, 'You corrected it to Proliferative: new vessels')
    in_panel(page, str(folder/'feedback.csv'))                                             # where it is kept
    rows = (folder/'feedback.csv').read_text().splitlines()
    assert len(rows) == 3 and 'agree' in rows[1] and 'new vessels' in rows[2]

    upload(page, photos/'33_right.jpg'); thumbs(page, 2)
    page.click('button:has-text("Both eyes")'); page.wait_for_function("document.querySelectorAll('.rnb-pane').length == 2")
    assert [t.split()[0] for t in page.locator('.rnb-pane figcaption').all_inner_texts()] == ['right','left']
    page.click('button:has-text("Heat map")'); page.wait_for_selector('.rnb-heat'); in_panel(page, 'It is no outline of lesions')
    assert page.locator('.rnb-scale').bounding_box()['width'] > 100                        # its legend
    page.click('button:has-text("As the model sees it")')
    page.wait_for_function("document.querySelectorAll('.rnb-pane').length == 1")
    page.click('button:has-text("Agree")'); in_panel(page, 'Every photograph has been judged')

    upload(page, photos/'letter.jpg'); in_panel(page, 'is a text file'); thumbs(page, 3)
    upload(page, photos/'huge.tif'); in_panel(page, 'the limit is 64 MB'); thumbs(page, 4)
    upload(page, photos/'large.png'); thumbs(page, 5); page.wait_for_selector('.rnb-photo')
    in_panel(page, '5 photographs, of which 2 could not be graded; 2 judged by you')

    show(page, '33_left.jpg')                                                             # a row can be clicked, by keyboard too
    page.focus('[aria-label="Show letter.jpg"]'); page.keyboard.press('Enter'); in_panel(page, 'is a text file')
    page.wait_for_function("document.activeElement.innerText == 'letter.jpg'")            # and keeps the focus
    page.click('[aria-label="Remove letter.jpg"]'); thumbs(page, 4); in_panel(page, '4 photographs, of which 1 could not be graded')

    with page.expect_download() as d: page.click('button:has-text("Export CSV")')
    table = Path(d.value.path()).read_text(encoding='utf-8-sig').splitlines()
    assert len(table) == 5 and 'new vessels' in ''.join(table) and all(c in table[0] for c in ('novelty','patient','eye','verdict'))
    page.click('button:has-text("Clear all")'); in_panel(page, 'No photograph yet')
    page.wait_for_function("document.querySelectorAll('.rnb-thumb, .rnb-photo').length == 0")
    assert not page.faults

def test_voila_forty_files_and_a_reload(page, voila, photos):
    folder = voila[1]
    open_panel(page, voila)
    upload(page, *sorted((photos/'many').iterdir()))
    thumbs(page, 40)
    in_panel(page, '40 photographs done')
    assert page.locator('.rnb-table tbody tr').count() == 40
    page.locator('.rnb-thumb').nth(3).click(); in_panel(page, 'eye03.jpg')
    page.keyboard.press('ArrowRight'); page.wait_for_function("document.querySelector('.rnb-file-name').innerText == 'eye04.jpg'")
    asked = []
    page.on('dialog', lambda d: (asked.append(d.type), d.accept()))
    page.reload(wait_until='domcontentloaded'); in_panel(page, 'No photograph yet')
    assert asked == ['beforeunload']                                                       # nothing was exported
    page.reload(wait_until='domcontentloaded'); in_panel(page, 'No photograph yet')
    assert len(asked) == 1                                                                 # and here nothing would be lost
    assert page.locator('.rnb-thumb').count() == 0
    assert sorted(p.name for p in folder.iterdir()) in (['stderr.txt'], ['feedback.csv','stderr.txt'])   # no photograph was written
    log = (folder/'stderr.txt').read_text()
    assert 'eye03' not in log and 'Traceback' not in log, log
    assert not page.faults

def test_voila_by_keyboard_wheel_zoom_sample_and_threshold(page, voila):
    open_panel(page, voila)
    page.select_option('.rnb-sample select', index=4); page.wait_for_selector('.rnb-photo')
    page.wait_for_function("document.querySelector('.rnb-world').style.width")
    scale = lambda: page.evaluate("document.querySelector('.rnb-world').style.transform")
    page.focus('.rnb-panes'); page.keyboard.press('+'); page.keyboard.press('+')
    assert 'scale(2.25)' in scale()
    before = scale(); page.keyboard.press('ArrowRight'); assert scale() != before
    page.keyboard.press('0'); assert 'scale(1)' in scale()
    page.dblclick('.rnb-panes'); assert 'scale(3)' in scale()
    page.keyboard.press('0'); page.locator('h1').click(); page.hover('.rnb-panes')         # the wheel needs no click before it
    page.mouse.wheel(0, -400); page.wait_for_function("document.querySelector('.rnb-world').style.transform.match(/scale[(]2[.]7/)")
    page.mouse.wheel(0, 4000); page.wait_for_function("document.querySelector('.rnb-world').style.transform.includes('scale(1)')")
    before, clinic = page.inner_text('.rnb-refer'), page.inner_text('.rnb-clinic')
    page.focus('.rnb-right [role=slider]')
    for _ in range(5): page.keyboard.press('ArrowRight')
    page.wait_for_function('b => document.querySelector(".rnb-refer").innerText != b', arg=before)
    page.keyboard.press('End')                                                             # what a clinic would see goes with it
    page.wait_for_function('b => document.querySelector(".rnb-clinic").innerText != b', arg=clinic)
    page.click('button:has-text("Reset")'); page.wait_for_function('b => document.querySelector(".rnb-refer").innerText == b', arg=before)
    page.wait_for_function('b => document.querySelector(".rnb-clinic").innerText == b', arg=clinic)
    page.get_by_label('Minutes a reading').fill('4'); page.keyboard.press('Enter')
    page.wait_for_function('document.querySelector(".rnb-clinic").innerText.includes("4,000 reader minutes")')
    for s in ('.rnb-file','.rnb-panes','.rnb-tool','.rnb-strip','.rnb-sample select'): assert page.locator(s).first.get_attribute('aria-label')
    page.click('button:has-text("Heat map")')
    for name in ('Threshold', 'Opacity of the map'): page.get_by_role('slider', name=name).wait_for(state='visible')
    for name in ('Map of', 'or correct to', 'Reason'): assert page.get_by_label(name).is_visible(), name
    assert page.get_by_role('button', name='Heat map').get_attribute('aria-pressed') == 'true'

@pytest.mark.turns(3)
@pytest.mark.parametrize('theme', ['light','dark'])
@pytest.mark.parametrize('width', [1280, 800, 400])
def test_voila_fits_the_page_and_nothing_covers_anything(page, voila, photos, width, theme):
    page.set_viewport_size(dict(width=width, height=900))
    open_panel(page, voila, theme=theme)
    assert page.evaluate(OVERLAPS) == []
    upload(page, photos/'33_left.jpg', photos/'letter.jpg', photos/'33_right.jpg'); thumbs(page, 3); in_panel(page, '3 photographs done, of which 1 could not be graded')
    page.wait_for_selector('.rnb-photo')
    page.click('button:has-text("Both eyes")'); page.click('button:has-text("Heat map")'); in_panel(page, 'It is no outline of lesions')
    page.wait_for_function("document.querySelector('.rnb-world').style.width")
    assert page.evaluate('document.documentElement.scrollWidth') <= width                      # nothing sticks out
    columns = page.evaluate("getComputedStyle(document.querySelector('.rnb-body')).gridTemplateColumns.split(' ').length")
    assert columns == (2 if width == 1280 else 1)
    assert page.evaluate(OVERLAPS) == []
    assert page.locator('.rnb-table').first.evaluate('e => e.getBoundingClientRect().right') <= width
    ink, ground = page.evaluate("[getComputedStyle(document.querySelector('.rnb-grade b')).color, getComputedStyle(document.querySelector('.rnb-card')).backgroundColor]")
    assert contrast(ink, ground) > 7

@with_axe
@pytest.mark.parametrize('theme', ['light','dark'])
def test_axe_finds_no_serious_fault_in_any_state(page, voila, photos, theme):
    open_panel(page, voila, theme=theme)
    in_panel(page, 'trained on synthetic eyes')
    assert faults_of(page) == []                                                               # empty
    upload(page, photos/'33_left.jpg', photos/'33_right.jpg', photos/'sheet.png', photos/'letter.jpg'); thumbs(page, 4)
    in_panel(page, '4 photographs done, of which 1 could not be graded and 1 withheld'); in_panel(page, 'is a text file')
    assert faults_of(page) == []                                                               # failed
    show(page, 'sheet.png'); in_panel(page, 'Not to be graded')
    assert faults_of(page) == []                                                               # withheld
    page.click('button:has-text("Grade it anyway")'); in_panel(page, 'Should not be graded'); in_panel(page, 'A person should look')
    assert faults_of(page) == []
    show(page, '33_left.jpg'); page.click('button:has-text("Both eyes")'); page.click('button:has-text("Heat map")'); page.wait_for_selector('.rnb-heat')
    assert faults_of(page) == []                                                               # graded
    page.get_by_label('or correct to').select_option(label='4 Proliferative'); page.click('button:has-text("Save correction")'); in_panel(page, 'You corrected')
    assert faults_of(page) == []                                                               # corrected

def pages_of(pdf)->int: return len(re.findall(rb'/Type\s*/Page\b', pdf))

def test_paper_has_one_page_a_patient(page, voila, photos):
    open_panel(page, voila)
    page.evaluate('window.printed = 0; window.print = () => { window.printed += document.documentElement.classList.contains("rnb-prints") }')
    upload(page, photos/'33_left.jpg', photos/'33_right.jpg', *sorted((photos/'visit').iterdir()), photos/'letter.jpg'); thumbs(page, 17)
    in_panel(page, '17 photographs done')
    page.click('button:has-text("Print")'); page.wait_for_function('window.printed == 1')
    for size in ('A4', 'Letter'): assert pages_of(page.pdf(format=size)) == 3                  # two patients and a letter; 14 photographs fit one page
    page.emulate_media(media='print')
    shown = page.locator('.rnb-sheet').all_inner_texts()
    assert len(shown) == 3 and not page.locator('.rnb-panel').is_visible()
    first = shown[0]
    for text in ('Patient 33', 'Right eye', 'Left eye', 'Referable DR', 'Model', 'Not a medical device'): assert text in first, (text, first)
    assert re.search(r'Printed .*\d', first) and re.search(r'graded \d\d:\d\d', first)
    assert page.evaluate("[...document.querySelectorAll('.rnb-sheet:first-child img')].map(i => i.naturalWidth > 300)") == [True, True]
    assert contrast(*page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.querySelector('.rnb-sheet')))")) > 12
    page.emulate_media(media='screen')
    page.click('button:has-text("Clear all")'); in_panel(page, 'No photograph yet')
    page.wait_for_function("!document.documentElement.classList.contains('rnb-prints')")       # nothing to print: the page itself is printed

def apart(a, b): return a['x'] + a['width'] <= b['x'] or b['x'] + b['width'] <= a['x'] or a['y'] + a['height'] <= b['y'] or b['y'] + b['height'] <= a['y']

def test_voila_serves_the_panel_and_nothing_else(page, voila):
    url, _, token = voila[0].partition('?token=')
    open_panel(page, voila)
    assert 'panel_from_env' not in page.content() and 'RETINA_NB' not in page.content()                 # no source
    assert all(u.startswith((url, url.replace('http', 'ws'), 'data:', 'blob:')) for u in page.asked), page.asked   # no other host
    for path in ('retina_nb.ipynb', 'voila.json', 'files/retina_nb.ipynb', 'voila/files/retina_nb.ipynb', 'voila/files/voila.json', 'api/contents', 'voila/files/%2e%2e/%2e%2e/etc/passwd', 'tree', 'lab'):
        asked = urllib.request.Request(url + path, headers=dict(Authorization=f'token {token}'))
        try: body = urllib.request.urlopen(asked, timeout=30).read().decode('utf-8', 'replace')
        except urllib.error.HTTPError as e: assert e.code in (403, 404, 405, 400), (path, e.code)
        else: assert 'panel_from_env' not in body and 'root:' not in body, path

def test_jupyterlab(page, photos, tmp_path):
    code = f'from retina_nb.deploy import Grader, GradingPanel\nGradingPanel(Grader({str(shared()[1])!r}), feedback={str(tmp_path/"f.csv")!r})'
    with jupyterlab(tmp_path, code) as url:
        run_all_cells(page, url, '.rnb-drop')
        in_panel(page, 'No photograph yet')
        upload(page, photos/'large.png'); page.wait_for_selector('.rnb-photo'); page.wait_for_selector('.rnb-grade')
        page.click('button:has-text("Agree")'); in_panel(page, 'You agreed')
        page.keyboard.press('Control+s'); time.sleep(3)
        saved = (tmp_path/'home'/'p.ipynb').read_text()
        assert 'data:image' not in saved and 'iVBORw0KGgo' not in saved and '/9j/' not in saved and len(saved) < 20_000
        assert [f.name for f in (tmp_path/'home').iterdir() if not f.name.startswith('.')] == ['p.ipynb']
        assert page.evaluate("document.documentElement.classList.contains('rnb-prints')") is False   # the notebook prints as it always does
        assert page.evaluate(OVERLAPS) == []
        assert 'large.png' not in (tmp_path/'log.txt').read_text()

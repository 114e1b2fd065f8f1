"""A blind reading in a real browser: by Voila and in JupyterLab, by keyboard alone and by mouse alone.

Headless Chromium does what a reader does. Where it is missing these tests are skipped; CHROMIUM names another one."""
import subprocess, sys

import pandas as pd, pytest

from browsers import OVERLAPS, faults_of, free_port, in_browser, in_panel, jupyterlab, run_all_cells, stop, wait_for_port, with_axe

pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
pytest.importorskip('voila', reason='voila is not installed')
pytestmark = in_browser

EYES = 5
CODE = '''import os, pandas as pd
from pathlib import Path
from urllib.parse import parse_qs
from retina_nb.deploy import BlindReading
folder = Path({eyes!r})
records = pd.read_csv(folder/'records.csv', dtype=dict(patient=str)).assign(image=lambda d: [str(folder/i) for i in d.image])
who = parse_qs(os.environ.get('QUERY_STRING', '')).get('reader', ['lab'])[0]
BlindReading(records, out={out!r}, reader=who)
'''

@pytest.fixture(scope='module')
def eyes(tmp_path_factory):
    "Drawn eyes, of which the fourth to be read is no picture"
    from retina_nb.deploy import ReadingSession
    from retina_nb.synth import write_synth
    d = tmp_path_factory.mktemp('eyes')
    r = write_synth(d, EYES, seed=5, size=400, prevalence=(.2, .2, .2, .2, .2))
    s = ReadingSession(r.assign(image=[str(d/i) for i in r.image]), out=d/'none.csv')
    (d/r.image[s.order[3]]).write_text('Dear colleague')
    return d, s.records.iloc[s.order].reset_index(drop=True)

@pytest.fixture(scope='module')
def voila(eyes, tmp_path_factory):
    "A page of Voila for each reader, who is named in its address; and the file of all readings"
    import nbformat
    d, port = tmp_path_factory.mktemp('voila'), free_port()
    out, kernel = d/'readings.csv', dict(kernelspec=dict(name='python3', display_name='Python 3'))
    cell = nbformat.v4.new_code_cell(CODE.format(eyes=str(eyes[0]), out=str(out)))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), d/'p.ipynb')
    with open(d/'log.txt', 'w') as log:
        proc = subprocess.Popen([sys.executable, '-m', 'voila', d/'p.ipynb', '--no-browser', f'--port={port}', '--Voila.ip=127.0.0.1'], cwd=d, stdout=log, stderr=log)
    wait_for_port(port)
    yield f'http://127.0.0.1:{port}/', out
    stop(proc)

def open_reading(page, voila, reader, **query):
    "A reader's page, once the photograph is there"
    page.goto(voila[0] + '?' + '&'.join(f'{k}={v}' for k, v in dict(query, reader=reader).items()), wait_until='domcontentloaded')
    page.wait_for_selector('.rnb-photo, .rnb-empty')

def at(page, i): in_panel(page, f'PHOTOGRAPH {i} OF {EYES}')
def chosen(page, name): page.wait_for_selector(f'.rnb-grades .mod-active:has-text("{name}")')
def click(page, name): page.click(f'.rnb-panel button:has-text("{name}")')

def kept(path, reader):
    "A reader's readings as they stand in the file"
    d = pd.read_csv(path, dtype=dict(grade='Int64'))
    return d[d.reader == reader]

def test_by_keyboard_alone(page, voila, eyes):
    "From the first photograph to the truth without a mouse; one that is no picture does not take the keys away"
    truth, k = eyes[1].label.tolist(), page.keyboard
    open_reading(page, voila, 'keys')
    for i, g in enumerate(truth):
        at(page, i + 1)
        k.press('u' if i == 3 else str(g)); page.wait_for_selector('.rnb-grades .mod-active')
        if i == 3: in_panel(page, 'is a text file')
        if i + 1 < EYES: k.press('Enter')
    k.press('Backspace'); at(page, EYES - 1); chosen(page, 'Cannot be graded')
    for name in eyes[1].image: assert name.rpartition('/')[2].encode() not in b''.join(page.got)     # not a name before the end
    for _ in range(30):
        k.press('Tab')
        if page.evaluate('document.activeElement.innerText') == 'Show the truth': break
    k.press('Enter'); in_panel(page, 'YOUR READING'); in_panel(page, f'{EYES-1} of {EYES-1} as labelled')
    assert kept(voila[1], 'keys').grade.dropna().tolist() == [g for i, g in enumerate(truth) if i != 3]
    assert page.evaluate(OVERLAPS) == [] and not page.faults

@with_axe
@pytest.mark.parametrize('theme, width', [('dark', 400), pytest.param('light', 1280, marks=pytest.mark.full)])
def test_by_mouse_alone_and_nothing_covers_anything(page, voila, eyes, theme, width):
    page.set_viewport_size(dict(width=width, height=900))
    open_reading(page, voila, f'mouse{width}', theme=theme)
    for i in range(EYES):
        at(page, i + 1); click(page, '2 Moderate'); chosen(page, 'Moderate')
        assert page.evaluate(OVERLAPS) == []
        if i + 1 < EYES: click(page, 'Next')
    assert faults_of(page) == []
    click(page, 'Show the truth'); in_panel(page, 'YOUR READING'); page.wait_for_selector('.rnb-card figure img')
    page.locator('.rnb-thumb').nth(1).click(); page.wait_for_selector('.rnb-thumb.rnb-current:nth-child(2)')
    assert page.evaluate(OVERLAPS) == [] and faults_of(page) == []
    assert page.evaluate('document.documentElement.scrollWidth') <= width and not page.faults

def test_jupyterlab_keeps_its_hands_off_the_keys(page, eyes, tmp_path):
    out = tmp_path/'readings.csv'
    with jupyterlab(tmp_path, CODE.format(eyes=str(eyes[0]), out=str(out))) as url:
        run_all_cells(page, url, '.rnb-photo')
        page.click('.rnb-photo'); page.keyboard.press('2'); chosen(page, 'Moderate')
        page.keyboard.press('Enter'); at(page, 2)
        assert kept(out, 'lab').grade.tolist() == [2]
        assert page.locator('.jp-MarkdownCell').count() == 0                                        # a digit makes a heading of a cell
        assert page.evaluate(OVERLAPS) == []

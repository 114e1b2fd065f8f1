"`retina_watch`: its files, its page, what it refuses; the same over HTTP and in the panel's tab"
import contextlib, io, json, re, shutil, subprocess, sys
from pathlib import Path

import pytest
from answered import START, fill
from browsers import chromium, in_browser
from conftest import a_grading, add_model
from fastapi.testclient import TestClient
from PIL import Image
from retina_nb.commands import _parse
from retina_nb.core import SettingError
from retina_nb.serve import Store, create_app, make_watch_page, photo, retina_watch, save_watch
from retina_nb.serve import watch_route
from retina_nb.serve.engine import StoreError
from retina_nb.serve.limits import Refusal
from retina_nb.serve.overview import moved_pictures
from retina_nb.serve.schema import now, prediction
from retina_nb.serve.watch_route import Lookout
from retina_nb.serve.watching import watch_store

EVIL = '<script>alert(1)</script>', '![x](http://127.0.0.1/x.png) **b**'

def picture(shade):
    f = io.BytesIO()
    Image.new('RGB', (64, 64), (shade, 60, 30)).save(f, 'JPEG', comment=b'Jane Doe') # what is kept is a copy without it
    return f.getvalue()

def command(*args):
    "The command as a user types it: its exit status, and what it printed"
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: retina_watch(**_parse(retina_watch.__wrapped__, [*map(str, args)]))
        except SystemExit as e: status = e.code or 0
    return status, out.getvalue(), err.getvalue()

def keep_some(store, machine, values):
    "Answers with kept photographs, one a day, of a machine whose sharpness is as given"
    for d, v in enumerate(values):
        g = a_grading(d)
        g.quality['measures'] = dict(sharpness=v, brightness=80. + d%3)
        at = START.replace(day=1 + d)
        store.record(photo(picture(d*7%200 + 20)), g, tags=dict(hospital=EVIL[1], machine=machine, taken=at.isoformat(), patient=f'K{d}'))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A store in which a machine with a dangerous name became blurred, and what the command made of it"
    d = tmp_path_factory.mktemp('watch')
    with Store(d/'store', keep_images=d/'kept') as s:
        add_model(s)
        fill(s, 22, 10, machines=[(EVIL[1], EVIL[0]), ('B', 'B1')], what=lambda h, m, day: dict(sharpness=.25) if m == EVIL[0] and day >= 12 else {})
        keep_some(s, EVIL[0], [.4]*10 + [.25]*12)
    status, out, err = command(d/'store', '--days', 4000, '--out', d/'out', '--notebook', d/'w.ipynb')
    assert status == 0, err
    return d, out

def test_the_file_has_the_shape_that_programs_rely_on(made):
    d, _ = made
    w = json.loads((d/'out/watch.json').read_text())
    assert {'alarms', 'live', 'queue', 'models'} <= set(w)
    for a in w['alarms']: assert {'at', 'level', 'name', 'feature', 'verdict'} <= set(a) and a['level'] in ('machine', 'hospital', 'all')
    assert w['alarms'][0]['feature'] == 'sharpness' and w['alarms'][0]['level'] == 'machine'
    assert {p['kind'] for p in w['pictures']} == {'ordinary', 'moved'}
    assert all((d/'out'/p['file']).stat().st_size > 300 for p in w['pictures'])
    assert str(d/'kept') not in (d/'out/watch.json').read_text()

def test_the_page_asks_nobody_and_obeys_no_name(made):
    d, said = made
    page = (d/'out/watch.html').read_text()
    assert not re.search(r'<script|<iframe|<link|@import|url\(|src="(?!data:)| on\w+="', page)
    assert '&lt;script&gt;' in page and '<strong>b</strong>' not in page and 'href="http' not in page
    images = re.findall(r'<img [^>]*>', page)
    assert images and all(re.search(r'alt="[^"]{10,}"', i) for i in images)
    for head in ('What has changed', 'How much speaks for a change', 'Machines', 'By the word of readers', 'The weeks', 'To be read again', 'Models'):
        assert f'>{head}</h2>' in page, head
    assert '1 change found' in page or 'changes found' in page
    assert 'sharpness is lower' in said and 'open it in a browser' in said
    nb = json.loads((d/'w.ipynb').read_text())
    assert any('plot_finding' in ''.join(c['source']) for c in nb['cells'])

@pytest.mark.full
def test_the_same_page_is_made_from_the_file_alone(made, tmp_path):
    d, _ = made
    shutil.copytree(d/'out', tmp_path/'copy')
    (tmp_path/'copy/watch.html').unlink()
    page = make_watch_page(tmp_path/'copy').read_text()
    assert 'How much speaks for a change' in page and page.count('<img') == (d/'out/watch.html').read_text().count('<img')

def test_pictures_of_an_earlier_time_do_not_stay(made, tmp_path):
    d, _ = made
    (tmp_path/'pictures').mkdir()
    for name in ('0-moved-9.jpg', 'my own.jpg'): (tmp_path/'pictures'/name).write_bytes(b'x')
    with Store(d/'store') as s: save_watch(s, tmp_path, pictures=0)
    assert [p.name for p in (tmp_path/'pictures').iterdir()] == ['my own.jpg']
    assert json.loads((tmp_path/'watch.json').read_text())['pictures'] == []

@pytest.mark.parametrize('more,why', [([], 'there is no store here'), (['--pictures', '-1'], '--pictures'), (['--days', '0'], '--days'),
                                      (['--false_alarms', '0'], 'false_alarms')])
def test_what_cannot_be_done_is_said_in_a_line_and_leaves_nothing(made, tmp_path, more, why):
    db = made[0]/'store' if more else tmp_path/'none'
    status, _, err = command(db, '--out', tmp_path/'out', *more)
    assert status == 2 and why in err and 'Traceback' not in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path/'out').exists() and not (tmp_path/'none').exists()

@pytest.fixture
def api(tmp_path):
    "The service without its model, and keys"
    with Store(tmp_path/'store') as s:
        add_model(s)
        fill(s, 4)
        s.write(lambda conn, note: conn.execute(prediction.update().values(at=now())))
        keys = {role: s.add_key(role, role) for role in ('reader', 'grader', 'reviewer', 'admin')}
        yield TestClient(create_app(s, tmp_path/'none'), base_url='http://127.0.0.1', client=('127.0.0.1', 50000)), keys

def test_reviewers_are_told_over_http_and_nobody_else(api):
    client, keys = api
    ask = lambda key: client.get('/v1/watch', headers=dict(Authorization=f'Bearer {key}'))
    assert {r: ask(k).status_code for r, k in keys.items()} == dict(reader=403, grader=403, reviewer=200, admin=200)
    assert client.get('/v1/watch').status_code == 401
    said = ask(keys['reviewer']).json()
    assert said['photographs'] == 4*12*4 and 'store' not in said and said['machines'][0] == dict(hospital='A', machine='A1')
    assert ask(keys['admin']).json()['made'] == said['made'] # not computed again

def test_who_asks_while_it_is_made_gets_what_is_there(tmp_path):
    with Store(tmp_path/'store') as s:
        look = Lookout(s, seconds=0, part=1.)
        first = look.look()
        with look._turn: assert look.look() is first # somebody else is at it: nobody waits
        with pytest.raises(SettingError): Lookout(s, part=0)

def test_who_asks_before_there_is_anything_is_sent_away_at_once(tmp_path):
    with Store(tmp_path/'store') as s:
        look = Lookout(s)
        with look._turn, pytest.raises(Refusal) as e: look.look() # no thread waits
        assert e.value.status == 503 and e.value.headers['Retry-After'] and look.look()

def test_a_store_that_cannot_be_read_is_not_read_for_everybody_who_asks(tmp_path, monkeypatch):
    asked = []
    def broken(*args, **kwargs):
        asked.append(1)
        raise StoreError('no answer of the store')
    with Store(tmp_path/'store') as s:
        look = Lookout(s)
        with monkeypatch.context() as m:
            m.setattr(watch_route, 'overview_of', broken)
            for _ in range(3):
                with pytest.raises(StoreError): look.look()
        assert len(asked) == 1
        look._until = 0.
        assert look.look()['photographs'] == 0 # once it can be read again

def test_pictures_of_open_cases_are_not_shown(made):
    d, _ = made
    with Store(d/'store') as s:
        w = watch_store(s)
        shown = moved_pictures(s, w, each=2)
        assert {p['kind'] for p in shown} == {'ordinary', 'moved'}
        kept = w.answers[w.answers['kept']]
        for id in kept['id'].tail(len(kept) - 3): s.queue_review(id, 'random')
        left = {p['at'] for p in moved_pictures(s, watch_store(s), each=2)}
        assert left and left <= {t.isoformat() for t in kept['at'].head(3)}

@in_browser
def test_the_page_fits_a_telephone_and_a_screen(made):
    with chromium() as b:
        for width in (360, 1280):
            p = b.new_page(viewport=dict(width=width, height=800))
            asked = []
            p.on('request', lambda r: asked.append(r.url))
            p.goto((made[0]/'out/watch.html').as_uri())
            assert p.evaluate('document.documentElement.scrollWidth') <= width
            assert p.evaluate('[...document.images].every(i => i.complete && i.naturalWidth > 0)')
            assert all(u.startswith(('file:', 'data:')) for u in asked)

@pytest.mark.full
def test_the_command_is_one_of_the_package(tmp_path):
    "As a program of its own, on an empty store"
    with Store(tmp_path/'store'): pass
    code = 'from retina_nb.serve import retina_watch\nif __name__ == "__main__": retina_watch()\n'
    (tmp_path/'retina_watch').write_text(code)
    r = subprocess.run([sys.executable, str(tmp_path/'retina_watch'), 'store', '--out', 'o'], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0 and 'Nothing has been answered yet' in r.stdout, r.stderr
    assert 'Nothing has been answered yet' in Path(tmp_path, 'o/watch.html').read_text()

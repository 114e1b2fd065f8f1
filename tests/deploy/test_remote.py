"The panel on a service: the same as on a bundle, kept by the service, and usable while the service is away"
import base64, io, json, re, shutil, subprocess, sys, threading

import numpy as np, pytest
from PIL import Image

pytest.importorskip('fastapi', reason='the extra serve is not installed (pip install "retina_nb[serve]")')
pytest.importorskip('sqlalchemy', reason='the extra serve is not installed (pip install "retina_nb[serve]")')

from retina_nb.core import ImageError, SettingError
from retina_nb.deploy import Grader, GradingPanel, RemoteGrader, ServiceClient, ServiceError, Session, patient_sheets, write_sums
from retina_nb.deploy.grades import Grades, Keeps
from retina_nb.deploy.grading import Grading
from retina_nb.deploy.pictures import case_pictures, heat_map
from retina_nb.deploy.words import head_html, referral_html, table_html, verdict_html
from retina_nb.serve import Store
from retina_nb.serve.journal import Journal
from retina_nb.serve.listening import Running
from retina_nb.serve.service import create_app
from random_model import shared

def encoded(a, kind='PNG'):
    f = io.BytesIO()
    Image.fromarray(a).save(f, kind)
    return f.getvalue()

@pytest.fixture(scope='module')
def eyes():
    from retina_nb.synth import synth_eye
    return [encoded(synth_eye(i, grade=i%5, size=200).image, 'JPEG') for i in range(4)]

class Room:
    "A service that can be switched off and on again at the same address"
    def __init__(self, folder, bundle=None, **kwargs):
        self.store, self.log = Store(folder/'store'), io.StringIO()
        self._how, self.port = dict(kwargs, journal=Journal(self.log)), 0
        self.bundle = bundle or shared()[1]
        self.on()
    def on(self):
        self.app = create_app(self.store, self.bundle, **self._how)
        self.running = Running(self.app, port=self.port)
        self.url = self.running.__enter__()
        self.port = int(self.url.rpartition(':')[2])
        return self
    def off(self): self.running.__exit__()
    def end(self):
        self.off()
        self.store.close()

@pytest.fixture(scope='module')
def room(tmp_path_factory):
    "A service that is never sure of anything"
    r = Room(tmp_path_factory.mktemp('room'), low_confidence=1.)
    yield r
    r.end()

@pytest.fixture(scope='module')
def sure(tmp_path_factory):
    "One with the bundle's own rule"
    r = Room(tmp_path_factory.mktemp('sure'))
    yield r
    r.end()

@pytest.fixture(scope='module')
def here(): return Grader(shared()[1])

@pytest.fixture(scope='module', params=['here', 'there'])
def grader(request):
    "One that grades here, and one that grades on a service"
    if request.param == 'here': return request.getfixturevalue('here')
    return RemoteGrader(request.getfixturevalue('sure').url)

# --- what both must do
def test_has_what_a_session_asks_for(grader, here):
    assert isinstance(grader, Grades) and isinstance(grader, Keeps) == isinstance(grader, RemoteGrader)
    for k in ('task', 'threshold', 'preprocess', 'precision', 'trained_on', 'identity'): assert getattr(grader, k) == getattr(here, k)
    assert grader.config['arch'] == here.config['arch'] and head_html(grader) == head_html(here)

def test_grades_files_arrays_pictures_and_paths(grader, here, eyes, tmp_path):
    a = np.asarray(Image.open(io.BytesIO(eyes[1])).convert('RGB'))
    (tmp_path/'a.jpg').write_bytes(eyes[1])
    for make in (lambda: eyes[1], lambda: a, lambda: Image.fromarray(a), lambda: tmp_path/'a.jpg', lambda: io.BytesIO(eyes[1])):
        g, want = (o(make(), 'eye.jpg', cam=True, grade_anyway=True) for o in (grader, here))
        assert g.to_dict() | dict(seconds=0) == want.to_dict() | dict(seconds=0)
        assert isinstance(g, Grading) and np.array_equal(g.cam, want.cam) and g.cam.dtype == want.cam.dtype
        for k in range(5): assert heat_map(g.cam, k) == heat_map(want.cam, k)
        assert grader.is_unsure(g) == here.is_unsure(want)
    assert grader(eyes[1]).cam is None and grader(tmp_path/'a.jpg').file == str(tmp_path/'a.jpg')
    assert case_pictures(grader, eyes[1]) == case_pictures(here, eyes[1])

@pytest.mark.parametrize('bad', [b'Dear colleague', b'', b'\xff\xd8\xff\xe0', np.zeros((3, 3, 3), np.uint8)], ids=['text', 'empty', 'cut', 'tiny'])
def test_says_what_is_wrong_with_a_photograph(grader, here, bad):
    with pytest.raises(ImageError) as want: here(bad, 'x.jpg')
    with pytest.raises(ImageError) as e: grader(bad, 'x.jpg')
    assert e.value.file == 'x.jpg' and 'http' not in str(e.value) and 'rnb' not in str(e.value)
    assert len(bad) == 0 or isinstance(bad, np.ndarray) or e.value.what == want.value.what

def test_refuses_what_cannot_be_graded_unless_asked(grader):
    white = encoded(np.full((300, 300, 3), 250, np.uint8))
    with pytest.raises(ImageError, match='grade_anyway'): grader(white, 'x.png')
    assert grader(white, 'x.png', grade_anyway=True).ungradable

def a_session(grader, eyes, tmp_path):
    s = Session(grader, **({} if isinstance(grader, Keeps) else dict(feedback=tmp_path/'f.csv')))
    for name, data in [('11_left.jpg', eyes[0]), ('11_right.jpg', eyes[1]), ('white.png', encoded(np.full((300, 300, 3), 250, np.uint8))),
                       ('letter.jpg', b'Dear colleague')]: s.add(name, data)
    s.select(1)
    s.agree()
    s.select(2)
    s.correct(4, '=new vessels\nat the disc')
    s.threshold = .2
    return s

def test_a_session_is_the_same_on_both(grader, here, eyes, tmp_path):
    "States, table, words, printed pages, feedback: to the letter, but for times"
    (tmp_path/'other').mkdir()
    s, want = a_session(grader, eyes, tmp_path), a_session(here, eyes, tmp_path/'other')
    same = lambda t: re.sub(r'\d\d:\d\d:\d\d', 'TIME', t)
    assert [c.state for c in s.cases] == ['graded', 'graded', 'withheld', 'failed'] == [c.state for c in want.cases]
    assert s.to_csv() == want.to_csv() and s.counts() == want.counts() and [c.digest for c in s.cases] == [c.digest for c in want.cases]
    assert table_html(s) == table_html(want) and referral_html(s) == referral_html(want)
    for c, o in zip(s.cases, want.cases): assert verdict_html(c, s.task, .2) == verdict_html(o, s.task, .2)
    a, b = patient_sheets(s), patient_sheets(want)
    assert list(a) == list(b) and [same(o) for o in a.values()] == [same(o) for o in b.values()]
    s.select(3)
    s.reveal()
    assert s.state == 'graded' and s.agree()['verdict'] == 'agree'

def test_a_model_that_is_not_sure_says_so_in_both(here, room, eyes, tmp_path):
    mine = Session(Grader(shared()[1]), feedback=tmp_path/'f.csv')
    mine.grader.bundle.config['unsure'] = dict(score='probability', threshold=1.)
    try:
        for s in (mine, Session(room.url)):
            c = s.add('a.jpg', eyes[2])
            said = verdict_html(c, s.task, s.threshold)
            assert c.unsure and 'not sure of this grade' in said and 'not sure of this grade' in s.to_csv() + table_html(s)
            if not s.refers(c): assert 'To a person' in referral_html(s)
    finally: mine.grader.bundle.config.pop('unsure')

# --- what only a service does
def stored(store, c): return store.history(c.id)

def test_what_the_reader_says_is_found_in_the_store(tmp_path, eyes):
    r = Room(tmp_path)
    try:
        key = r.store.add_key('Dr Anna', 'reviewer')
        s = Session(r.url, key=key)
        c = s.add('Mrs Example_left.jpg', eyes[0])
        s.agree()
        s.correct(3, 'venous beading')
        said = stored(r.store, c)['feedback']
        assert [(f['verdict'], f['grade'], f['reason'], f['who']) for f in said] == [('agree', c.grading.grade, '', 'Dr Anna'), ('correct', 3, 'venous beading', 'Dr Anna')]
        assert 'Dr Anna' in str(s.feedback) and r.url in str(s.feedback) and 'Example' not in r.log.getvalue()
        assert b'Example' not in b''.join(f.read_bytes() for f in (tmp_path/'store').rglob('*') if f.is_file())
        with pytest.raises(SettingError, match='a service keeps'): Session(r.url, key=key, feedback=tmp_path/'f.csv')
        # a key that may grade and not judge; one that may look only; none; a wrong one
        p = GradingPanel(r.url, key=r.store.add_key('van', 'grader'))
        p.session.add('a.jpg', eyes[1])
        p.refresh(new=True)
        p.agree.click()
        assert 'your word was not kept' in p.said.value and 'reviewer' in p.said.value and p.session.current.feedback is None
        assert 'takes that of a reviewer' in str(p.session.feedback) and p.alerts.seen.layout.display == 'none'
        look = Session(r.url, key=r.store.add_key('guest', 'reader'))
        assert 'grader' in look.add('a.jpg', eyes[1]).error and look.current.waiting is None
        for wrong in (None, '', 'rnb_' + '0'*12 + '_' + 'x'*43):
            with pytest.raises(ServiceError) as e: GradingPanel(r.url, key=wrong)
            assert e.value.status == 401 and 'x'*43 not in str(e.value)
        # nowhere a key
        shown = repr([p, p.session, p.session.grader, p.session.grader.client, vars(p.session.grader), vars(p.session.grader.client), p.get_state(),
                      *[w.get_state() for w in p.children]]) + r.log.getvalue()
        assert not re.search('rnb_[0-9a-f]{12}_', shown)
    finally: r.end()

def test_the_same_photograph_twice_in_a_session_is_one_answer(sure, eyes):
    before = sure.store.status()
    s = Session(sure.url)
    a, b = s.add('a.jpg', eyes[3]), s.add('b.jpg', eyes[3])
    other = Session(sure.url).add('c.jpg', eyes[3])
    after = sure.store.status()
    assert a.id == b.id != other.id and after['request'] - before['request'] == 2 and (a.name, b.name) == ('a.jpg', 'b.jpg')

def test_alerts_are_shown_and_seen_off(room, eyes):
    for a in room.store.alerts(): room.store.see_alert(a['id'], 'test')
    p = GradingPanel(room.url)
    assert p.alerts.layout.display == 'none'
    p.alerts._next = 0
    p.session.add('eye <b>.jpg', eyes[3])
    p.refresh(new=True)
    said = p.alerts.said.value
    assert p.alerts.layout.display is None and '1 alert that nobody has seen' in said and 'eye &lt;b&gt;.jpg' in said and 'not sure' in said
    p.alerts.seen.click()
    assert room.store.alerts() == [] and p.alerts.layout.display == 'none' and p.alerts.said.value == ''
    for t in threading.enumerate(): # nothing goes on asking
        if isinstance(t, threading.Timer): t.join(5)
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]

def test_a_service_that_is_away_costs_nothing_but_a_click(tmp_path, eyes):
    r = Room(tmp_path)
    try:
        p = GradingPanel(r.url)
        p.session.add('a.jpg', eyes[0])
        p.refresh(new=True)
        first = p.session.current
        r.off()
        p.grade.value, p.reason.value = 4, 'new vessels'
        p.save.click() # the word is not kept, and not lost
        assert 'your word was not kept' in p.said.value and 'cannot be reached' in p.said.value and first.feedback is None
        assert (p.grade.value, p.reason.value) == (4, 'new vessels')
        for i in (1, 2): p.session.add(f'{i}.jpg', eyes[i])
        p.alerts._next = 0
        p.refresh(new=True)
        assert [c.state for c in p.session.cases] == ['graded', 'failed', 'failed'] and 'cannot be reached' in p.session.current.error
        assert '2 photographs could not be sent' in p.alerts.said.value and 'cannot be reached' in p.alerts.said.value
        assert p.alerts.retry.layout.display is None and not p.before.disabled and 'could not be graded' in p.session.to_csv()
        p.alerts.retry.click() # still away
        assert p.session.counts()['failed'] == 2 and all(c.waiting for c in p.session.cases[1:])
        p.remove.click()
        r.on()
        RemoteGrader(r.url) # waits until a model answers
        p.alerts.retry.click()
        assert [c.state for c in p.session.cases] == ['graded', 'graded'] and not any(c.waiting for c in p.session.cases)
        assert p.session.cases[1].error == '' and 'could not be sent' not in p.alerts.said.value
        p.session.select(1)
        p.session.correct(4, 'new vessels')
        assert stored(r.store, first)['feedback'][0]['grade'] == 4
        # a page that is opened while nobody answers
        r.off()
        late = GradingPanel(r.url)
        assert 'cannot be reached' in late.children[0].children[0].value and 'not open yet' in repr(late)
        late.children[0].children[1].click()
        r.on()
        late.children[0].children[1].click()
        assert late.session.state == 'empty' and r.url in repr(late)
    finally: r.end()

def test_another_model_on_the_service(tmp_path, eyes):
    "The next photograph is graded by it, and the panel says so; a photograph of before keeps its answer"
    import onnx
    other = shutil.copytree(shared()[1], tmp_path/'other')
    onnx.save(onnx.helper.make_model(onnx.load(other/'model.onnx').graph, producer_name='another', opset_imports=onnx.load(other/'model.onnx').opset_import,
                                     ir_version=onnx.load(other/'model.onnx').ir_version), other/'model.onnx')
    config = json.loads((other/'config.json').read_text())
    (other/'config.json').write_text(json.dumps(config | dict(operating_point=config['operating_point'] | dict(threshold=.3))))
    write_sums(other)
    r = Room(tmp_path)
    try:
        p = GradingPanel(r.url)
        a = p.session.add('a.jpg', eyes[0])
        r.app.state.service.start(other, by='test')
        b = p.session.add('b.jpg', eyes[1])
        p.refresh(new=True)
        new = Grader(other)
        assert b.grading.model['id'] == new.bundle.id != a.grading.model['id'] and b.grading.probabilities == new(eyes[1]).probabilities
        assert new.bundle.id in p.head.value and p.session.grader.threshold == .3
        told = p.session.grader.client.session()
        told['model'] |= dict(task=told['model']['task'] | dict(name='mine', classes=['a', 'b', 'c', 'd', 'e']), id='another')
        p.session.grader.client.session = lambda: told
        p.session.grader.identity['id'] = 'gone'
        assert 'open a new panel' in p.session.add('c.jpg', eyes[2]).error
    finally: r.end()

def test_pictures_that_would_differ_are_not_shown(sure):
    client = ServiceClient(sure.url)
    told = client.session()
    for change in (dict(preprocess_hash='0123456789ab'), dict(preprocess=told['model']['preprocess'] | dict(size=96)), dict(preprocess=None),
                   dict(preprocess=told['model']['preprocess'] | dict(version=3)), dict(preprocess=told['model']['preprocess'] | dict(more=1)),
                   dict(task='dr'), dict(threshold='high'), dict(about=7)):
        client.session = lambda: told | dict(model=told['model'] | change)
        with pytest.raises(ServiceError, match='install the same version of retina_nb at both ends') as e: RemoteGrader(client)
        assert '\n' not in str(e.value)
    client.session = dict
    with pytest.raises(ServiceError, match='same version'): RemoteGrader(client)

@pytest.mark.parametrize('change', [dict(probabilities=[1.]), dict(probabilities=None), dict(probabilities=['x']*5), dict(probabilities=[float('nan')]*5),
                                    dict(grade=99), dict(grade='x'), dict(grade=-1), dict(referable_probability=7), dict(quality=None), dict(quality=dict(ok=True)),
                                    dict(novelty='x'), dict(seconds=3), dict(id=None), dict(review=None)])
def test_an_answer_that_is_none_is_a_case_that_says_so(sure, eyes, change):
    g = RemoteGrader(sure.url)
    true = g.client.grade(eyes[0], cam=True)
    told = json.loads(json.dumps(true))
    told['gradings'][0] |= change
    g.client.grade = lambda *a, **k: told
    c = Session(g).add('a.jpg', eyes[0])
    if change in (dict(review=None), dict(id=None)): assert c.state == 'graded' # what is not used cannot hurt
    else: assert c.state == 'failed' and 'no grading' in c.error and '\n' not in c.error

@pytest.mark.parametrize('cam', [dict(shape=[5, 2], data=''), dict(shape=[5, 2, 2], data='AAAA'), dict(shape=[5, 10**6, 10**6], data=''), dict(shape=[4, 2, 2], data=''),
                                 dict(shape=[5, 1, 1], data=base64.b64encode(np.full(5, np.nan, '<f4').tobytes()).decode()), dict(), 'x', dict(shape=[5, 1, 1], data='%')])
def test_maps_that_are_none(sure, eyes, cam):
    g = RemoteGrader(sure.url)
    told = g.client.grade(eyes[0]) | dict(cam=cam)
    g.client.grade = lambda *a, **k: told
    with pytest.raises(ServiceError, match='no grading'): g(eyes[0], cam=True)

def test_too_large_for_the_service_is_said_before_it_is_sent(sure):
    g = RemoteGrader(sure.url)
    g.max_mb = 1
    with pytest.raises(ImageError, match='the service takes 1 MB'): g(b'x'*2**20, 'x.jpg')

def test_a_folder_needs_no_key(here, tmp_path):
    with pytest.raises(SettingError, match='only a service'): Session(here, key='rnb_x')
    with pytest.raises(SettingError, match='address of a service'): GradingPanel('http://')

def test_a_client_needs_no_server():
    "Neither the web framework nor the database is imported by what asks a service"
    code = ('import sys; from retina_nb.deploy import ServiceClient, RemoteGrader, Session; '
            'print([m for m in ("fastapi", "starlette", "uvicorn", "sqlalchemy", "pydantic", "torch") if m in sys.modules])')
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert r.stdout.strip() == '[]', r.stdout + r.stderr

def test_proxies_of_the_environment_are_not_asked(sure, monkeypatch):
    for k in ('http_proxy', 'HTTP_PROXY', 'https_proxy', 'ALL_PROXY'): monkeypatch.setenv(k, 'http://127.0.0.1:9')
    assert ServiceClient(sure.url).whoami() == dict(name='this machine', role='admin')

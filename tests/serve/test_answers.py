"Answers: equal when they come back, one for one key, none lost among many writers, nothing told of the patient"
import os, threading, time, uuid
from concurrent.futures import ThreadPoolExecutor

import pytest, sqlalchemy as sa
from hypothesis import HealthCheck, given, settings, strategies as st

from retina_nb.core import SettingError
from retina_nb.deploy import Ungraded
from retina_nb.serve import Conflict, Store, StoreError, photo, split_tags
from retina_nb.serve.schema import feedback, image, prediction, request, review, subject
from conftest import MODEL, Child, a_grading, add_model, send

def count(store, table):
    with store.read() as conn: return conn.scalar(sa.select(sa.func.count()).select_from(table))

@pytest.mark.parametrize('seed', range(5))
def test_a_grading_comes_back_equal(store, seed):
    g = a_grading(seed, file=f'eye {seed}.jpg')
    a = store.record(photo(b'x', name=g.file), g)
    for b in (a, store.answer(a.id), store.answer(a.predictions[0].id), Store(store.engine.url.render_as_string(hide_password=False)).answer(a.id)):
        assert b.gradings[0].to_dict() == g.to_dict() and b.gradings[0].to_json() == g.to_json()
        assert b.gradings[0].task == g.task

def test_other_tasks_and_missing_parts(store):
    add_model(store, 'b'*12, task='pneumonia')
    g = a_grading(1)
    g.probabilities, g.grade, g.name, g.task = [.25, .75], 1, 'PNEUMONIA', __import__('retina_nb.core', fromlist=['x']).get_task('pneumonia')
    g.model = g.model | dict(id='b'*12)
    g.quality, g.novelty, g.novel, g.trained_on = {}, None, None, ''
    a = store.record(photo(b'x', name='eye.jpg'), g)
    assert store.answer(a.id).gradings[0].to_dict() == g.to_dict()
    g.referable = g.referable_probability = g.threshold = None
    a = store.record(photo(b'y', name='eye.jpg'), g)
    assert store.answer(a.id).gradings[0].to_dict() == g.to_dict()

def test_the_same_request_twice(store):
    first = send(store, 1)
    again = send(store, 1)
    assert again.repeated and not first.repeated and again.id == first.id
    assert [g.to_dict() for g in again.gradings] == [g.to_dict() for g in first.gradings]
    assert count(store, request) == 1 and count(store, prediction) == 2 == count(store, image)
    for photos, tags in ((photo(b'1 left'), {}), ([photo(b'1 left', patient='P1'), photo(b'1 right', patient='P1')], dict(n='2'))):
        with pytest.raises(Conflict, match='key 1'):
            store.record(photos, [a_grading()] * (2 if isinstance(photos, list) else 1), key='key 1', tags=tags)
    assert count(store, request) == 1
    assert store.check() == []

def test_no_key_no_repetition(store):
    assert store.record(photo(b'x'), a_grading()).id != store.record(photo(b'x'), a_grading()).id

@pytest.mark.parametrize('kw,words', [(dict(key=' '), '1 to 200'), (dict(key='x'*201), '1 to 200'), (dict(key='a\0'), '1 to 200'), (dict(key='\ud800'), '1 to 200'), (dict(role='king'), 'choose one of'), (dict(tags=[1]), 'names with values'), (dict(tags=dict(a=[])), 'a tag is')])
def test_what_cannot_be_recorded_leaves_nothing(store, kw, words):
    with pytest.raises(SettingError, match=words): store.record(photo(b'x'), a_grading(), **kw)
    assert count(store, request) == count(store, image) == 0
    with pytest.raises(StoreError, match='not registered'): store.record(photo(b'x'), a_grading(model='f'*12))
    assert store.check() == []

@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.text(max_size=30), st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers() | st.none(), max_size=4))
def test_any_text_can_be_sent(store, key, patient, tags):
    "Control characters, half of a surrogate pair, the zero byte that PostgreSQL refuses"
    key = f'k{uuid.uuid4()} {key}'
    try: split_tags(tags)
    except SettingError: return
    a = store.record(photo(key.encode('utf-8', 'surrogatepass'), patient=patient, name=key), a_grading(), client=patient[::-1], tags=tags)
    assert store.answer(a.id).id == a.id
    p = a.predictions[0].id
    store.give_feedback(p, 'agree', who=key, reason=patient)
    store.finish_review(store.lease_review('x' + key, minutes=1)['id'] if store.queue_review(p, 'random') else '', 'x' + key, grade=1, note=key)

def test_odd_texts_that_hypothesis_may_miss(store):
    for odd in ('a\0b', '\ud800', '\udcff.jpg', 'é'*400, '\u202e', "'; DROP TABLE request; --"):
        a = store.record(photo(odd.encode('utf-8', 'surrogatepass'), patient=odd, name=odd), a_grading(), tags={odd: odd})
        assert store.answer(a.id).tags and store.answer(a.id).gradings
    assert store.check() == []

def test_patients_are_keys_and_eyes_stay_together(store):
    for i in range(3): send(store, i)
    send(store, 'other')
    assert count(store, subject) == 4 and count(store, image) == 8
    with store.read() as conn:
        macs = conn.scalars(sa.select(image.c.hmac)).all()
        assert len(set(macs)) == 8 and not set(macs) & set(conn.scalars(sa.select(image.c.sha256)))
    tags = dict(Patient='Jane', hospital='A', patient_name='x')
    a = store.record(photo(b'x'), a_grading(), tags=tags)
    assert a.tags == dict(hospital='A') and count(store, subject) == 5

def test_nobody_is_no_patient(store):
    "null, NaN, blanks: nobody. A number is one patient however it is spelled, and comes before a name in any order"
    for i, (who, tags) in enumerate([(None, dict(patient=None)), (float('nan'), {}), (' ', dict(name='', patient_id=None)), ('', {'PatientBirthDate': '1950', 'surname': 'Doe'})]):
        a = store.record(photo(b'%d' % i, patient=who), a_grading(), tags=tags)
        assert a.tags == {} and count(store, subject) == 0
    for i, (who, tags) in enumerate([(42, {}), (42., {}), ('42', {}), ('', {'PatientID': 42, 'patient_name': 'Jane'}), ('', {'patient-name': 'Jane', 'patient.id ': '42'}), ('', {'MRN': 42.})]):
        store.record(photo(b'%d' % i, patient=who), a_grading(), tags=tags)
        assert count(store, subject) == 1
    store.record(photo(b'zero', patient=0), a_grading())
    assert count(store, subject) == 2 and store.erase(0)['photographs'] == 1 and store.erase(42.)['photographs'] == 6

@pytest.mark.parametrize('key', ['patient-id', 'PatientID ', 'patient.id', 'MRN', 'PatientBirthDate', 'dob', 'surname', 'Date of birth', 'PATIENT ADDRESS', 'ｐａｔｉｅｎｔ'])
def test_no_tag_that_tells_who_it_is_is_stored(store, key):
    a = store.record(photo(b'x'), a_grading(), tags={key: 'Jane Quixote', 'hospital': 'A', 'patient_age': 61})
    assert a.tags == dict(hospital='A', patient_age=61) == store.answer(a.id).tags

def test_numbers_that_are_none_and_numbers_of_numpy(store):
    import numpy as np
    for wrong in (dict(quality=dict(score=float('nan'))), dict(seconds=dict(model=float('inf'))), dict(novelty=float('nan')), dict(threshold=float('-inf'))):
        g = a_grading()
        for k, v in wrong.items(): setattr(g, k, v)
        with pytest.raises(SettingError, match='no number that can be stored'): store.record(photo(b'x'), g)
    assert count(store, request) == 0
    g, plain = a_grading(file='eye.jpg'), a_grading(file='eye.jpg')
    g.quality = dict(ok=np.bool_(plain.quality['ok']), score=np.float64(plain.quality['score']), reasons=('hazy',))
    g.novel, g.referable, g.grade, g.probabilities = np.bool_(g.novel), np.bool_(g.referable), np.int64(g.grade), np.array(g.probabilities)
    a = store.record(photo(b'x', name='eye.jpg'), g)
    assert a.gradings[0].to_dict() == plain.to_dict() == store.answer(a.id).gradings[0].to_dict()

def test_refusals_are_kept_too(store):
    no = Ungraded('letter', 'is a text file', 'not an eye')
    a = store.record([photo(b'x', name='eye.jpg'), photo(b'y', name='letter')], [a_grading(), no], key='k')
    assert store.answer(a.id).gradings[1] == no
    b = store.record(photo(b'y', name='letter'), no, bundle=MODEL)
    assert store.answer(b.id).gradings == [no]

def test_shadow_answers(store):
    a = send(store, 1)
    add_model(store, 'c'*12)
    s = store.add(a.id, a_grading(9, model='c'*12), place=1)
    assert [(p.role, p.id == s.id) for p in store.answer(a.id).predictions] == [('live', False), ('live', False), ('shadow', True)]
    assert len(store.answer(a.id).gradings) == 2
    with pytest.raises(StoreError, match='contradicts'): store.add(a.id, a_grading(9), place=1)
    assert sum(1 for _ in store.answers()) == 2 and sum(1 for _ in store.answers(role=None)) == 3
    assert store.check() == []

def test_one_key_from_many_threads_is_one_row(store):
    with ThreadPoolExecutor(8) as pool: got = list(pool.map(lambda i: send(store, i % 4), range(40)))
    assert count(store, request) == 4 and sum(not a.repeated for a in got) == 4
    assert len({a.id for a in got}) == 4 and store.check() == []

def _writer(say, url, who, n):
    with Store(url) as s:
        for i in range(n):
            a = send(s, f'{who}-{i}' if i % 10 else f'shared-{i}')
            if i % 7 == 0: s.give_feedback(a.predictions[0].id, 'agree', who=str(who))
            if i % 11 == 0: s.queue_review(a.predictions[1].id, 'random', probability=.5)
        say('done')

@pytest.mark.parametrize('n', [pytest.param(40, id='40'), pytest.param(2000, id='2000', marks=pytest.mark.full)])
def test_eight_processes_write_at_once(url, n):
    "No 'database is locked', one chain, no row lost; every tenth request is the same in all of them"
    with Store(url) as s: add_model(s)
    children = [Child(_writer, url, who, n) for who in range(8)]
    assert [c.end() for c in children] == [(['done'], 0)] * 8
    with Store(url) as s:
        shared = len(range(0, n, 10))
        assert count(s, request) == 8*(n - shared) + shared and count(s, prediction) == 2*count(s, request)
        assert count(s, feedback) == 8*len(range(0, n, 7)) and count(s, review) == len({(w if i % 10 else 'all', i) for w in range(8) for i in range(0, n, 11)})
        assert s.check() == []

def test_readers_do_not_wait_for_writers(store):
    send(store, 1)
    held, free = threading.Event(), threading.Event()
    def _slow(conn, note):
        held.set()
        free.wait(20)
    t = threading.Thread(target=store.write, args=(_slow,))
    t.start()
    held.wait(20)
    start = time.perf_counter()
    assert len(list(store.answers())) == 2 and store.status()['request'] == 1
    assert time.perf_counter() - start < 5
    free.set()
    t.join()

def test_forked_children_open_their_own(url):
    with Store(url) as s: add_model(s)
    pid = os.fork()
    if pid == 0:
        try:
            with Store(url) as s: send(s, 1)
            os._exit(0)
        finally: os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    with Store(url) as s: assert count(s, request) == 1

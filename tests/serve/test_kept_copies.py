"What is kept of a photograph with words in it: erased, checked, graded again and shown as any other picture"
import importlib, io
from pathlib import Path

import numpy as np, pytest, sqlalchemy as sa
from PIL import Image

from retina_nb.core import DataError
from retina_nb.image import read_image
from retina_nb.serve import Store, StoreError, export_store, photo, replay_store
from retina_nb.serve.journal import Journal
from retina_nb.serve.kept import kept_hash
from retina_nb.serve.schema import image, prediction
from dicoms import rgb_dicom
from clients import picture
from conftest import a_grading, add_model

def eye(seed=0, size=96): return np.asarray(Image.open(io.BytesIO(picture(seed, size))))

def jpeg(seed=0, words=b'Zx1Doe'):
    f = io.BytesIO()
    Image.fromarray(eye(seed)).save(f, 'JPEG', comment=words)
    return f.getvalue()

def files(tmp_path): return sorted(p for p in (tmp_path/'pictures').glob('??/*') if p.is_file())

@pytest.fixture
def keeping(url, tmp_path):
    with Store(url, keep_images=tmp_path/'pictures') as s:
        add_model(s)
        yield s

SENT = {'DICOM': lambda i=0, **kw: rgb_dicom(eye(i), **dict(PatientName='Zx1Doe', PatientID='Zx2Doe', ImageComments='Zx3Doe') | kw),
        'JPEG': lambda i=0, **kw: jpeg(i, ''.join(kw.values()).encode() or b'Zx1Doe')}

@pytest.mark.parametrize('kind', SENT)
def test_a_copy_is_kept_and_tied_to_what_was_sent(keeping, tmp_path, kind):
    data = SENT[kind]()
    for key in ('a', 'b'): a = keeping.record(photo(data, patient='A'), a_grading(), key=key)
    p, = a.predictions
    one, = files(tmp_path) # twice is once
    assert kept_hash(p.kept) == one.name[:64] != p.sha256 == photo(data).sha256 and one.suffix == ('.dcm' if kind == 'DICOM' else '.jpg')
    assert keeping.picture(p) == one.read_bytes() and b'Doe' not in one.read_bytes() and p.not_kept == ''
    assert (read_image(one) == read_image(data)).all() and keeping.check() == []
    whole = one.read_bytes()
    one.write_bytes(whole + b'\0')
    with pytest.raises(StoreError, match='was changed'): keeping.picture(p)
    assert ['was changed' in f for f in keeping.check()] == [True]
    one.write_bytes(whole)
    other = keeping.record(photo(SENT[kind](1)), a_grading()).predictions[0] # another one's copy in its place
    with keeping.engine.begin() as c: c.execute(image.update().where(image.c.id == p.image).values(kept=other.kept))
    p = keeping.answer(p.id).predictions[0]
    with pytest.raises(StoreError, match='no copy of the photograph'): keeping.picture(p)
    assert any('no copy of what was sent' in f for f in keeping.check())

@pytest.mark.parametrize('kind', SENT)
def test_erased(keeping, tmp_path, kind):
    "The same pixels under another header are the same copy: it goes with either patient, and no answer counts on it"
    first, second = SENT[kind](), SENT[kind](PatientName='Zx9Doe')
    assert first != second
    for data, who in ((first, 'A'), (second, 'B'), (SENT[kind](1), 'C')): keeping.record(photo(data, patient=who), a_grading(), key=who)
    assert len(files(tmp_path)) == 2 and keeping.check() == []
    assert keeping.erase('A')['pictures'] == 1
    assert len(files(tmp_path)) == 1 and keeping.check() == []
    assert [bool(p.kept) for p, _ in keeping.answers()] == [False, False, True]
    b = keeping.record(photo(second, patient='B'), a_grading()) # sent again, it is kept again
    assert b.predictions[0].kept and len(files(tmp_path)) == 2 and keeping.check() == []

def test_used_by_another_answer(keeping, tmp_path):
    "What a failed write leaves is dropped, but no copy on which an answer counts"
    keeping.record(photo(SENT['DICOM']()), a_grading(), key='k')
    one = photo(SENT['DICOM'](PatientName='Zx9Doe'))
    with pytest.raises(StoreError): keeping.record(one, a_grading(model='f'*12))
    def _fail(conn, note, places): raise StoreError('no')
    with pytest.raises(StoreError): keeping._keeping([one], _fail)
    assert len(files(tmp_path)) == 1 and keeping.check() == []
    with pytest.raises(StoreError): keeping._keeping([photo(SENT['DICOM'](2))], _fail)
    assert len(files(tmp_path)) == 1

def test_what_may_not_be_kept_is_said(keeping, tmp_path):
    ps = [keeping.record(photo(rgb_dicom(eye(), BurnedInAnnotation='YES', PatientName='Zx1Doe')), a_grading()).predictions[0]]
    ps.append(keeping.record([photo(jpeg()), photo(rgb_dicom(eye(), WindowCenter='9')[:-99])], [a_grading()]*2).predictions[1])
    for p, why in zip(ps, ('BurnedInAnnotation', 'has no copy that decodes to the same pixels')):
        assert not p.kept and why in p.not_kept and keeping.answer(p.id).predictions[-1].not_kept == p.not_kept
        with pytest.raises(DataError, match=why): keeping.picture(p)
    assert len(files(tmp_path)) == 1 and keeping.check() == []
    with keeping.read() as conn: told = repr(list(conn.execute(sa.select(prediction))))
    assert 'Zx' not in told

def test_older_stores_go_on(keeping, tmp_path):
    "What an earlier version kept, a JPEG with its words, is what was sent, and needs no event"
    from retina_nb.serve.kept import put_picture
    data = jpeg()
    keeping.pictures, where = None, keeping.pictures
    p, = keeping.record(photo(data, patient='A'), a_grading()).predictions
    place = keeping._place(put_picture(where, data))
    with keeping.engine.begin() as c: c.execute(image.update().values(kept=place))
    assert keeping.check() == [] and keeping.picture(keeping.answer(p.id).predictions[0]) == data
    assert keeping.erase('A')['pictures'] == 1 and files(tmp_path) == [] and keeping.check() == []

def test_graded_again_shown_and_exported(bundle, tmp_path):
    "Through the service: the same answer from the copy, to the last digit; a heat map, a picture for the reviewer, records to train on"
    from retina_nb.serve import Sent, Service
    importlib.import_module('retina_nb.serve.routes') # gives a service `heat_of`
    with Store(tmp_path/'store', keep_images=tmp_path/'pictures') as store:
        service = Service(store, journal=Journal(io.StringIO()), low_confidence=1.)
        service.start(bundle)
        said = [service.answer(Sent([f(i)], {})).answer for i in (0, 1) for f in SENT.values()]
        assert [r.why for r in replay_store(store)] == ['']*4
        for a in said:
            p, = a.predictions
            assert b'Doe' not in store.picture(p) and service.heat_of(p.id)[0][:4] == b'\x89PNG'
            store.give_feedback(p.id, 'agree')
        made = export_store(store, tmp_path/'out')
        assert made['records'] == 4
        import pandas as pd
        for f in pd.read_csv(tmp_path/'out/records.csv')['image']: assert b'Doe' not in Path(f).read_bytes() and read_image(f).shape == eye().shape
        copy = store.kept_path(said[0].predictions[0].kept)
        copy.write_bytes(copy.read_bytes()[:-1] + b'\7')
        assert [bool(r.why) for r in replay_store(store)].count(True) == 1
        service.close()

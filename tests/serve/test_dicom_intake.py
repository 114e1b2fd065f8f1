"C-STORE against the real service: what is stored and what never is, the same object twice, objects and bytes of every kind, the end"
import contextlib, functools, io, logging, os, random, re, shutil, socket, subprocess, sys, time, zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np, pydicom, pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE, sop_class

from retina_nb.core import MissingPackage, SettingError
from retina_nb.deploy import Grader
from retina_nb.image import read_image
from retina_nb.serve import DicomIntake, Limits, Service, Store, replay_store, serve
from retina_nb.serve.dicom_intake import named_peers
from retina_nb.serve.journal import Journal
from retina_nb.serve.objects import CLASSES, taken_syntaxes
from retina_nb.serve.serve_command import _dicom
from retina_nb.synth.render import synth_eye
from dicoms import rgb_dicom
from clients import Process, large, picture, together

OP = '1.2.840.10008.5.1.4.1.1.77.1.5.1'
FIXED = dict(PatientID='P17', ImageLaterality='L', PatientAge='061Y', Manufacturer='Optomaker', ManufacturerModelName='Fundus 2',
             DeviceSerialNumber='4711')

@pytest.fixture(scope='module')
def room(bundle, tmp_path_factory):
    "A service with narrow limits that keeps photographs and takes DICOM; (process, folder of its store)"
    d = tmp_path_factory.mktemp('room')
    with Process(d, bundle, d/'store', keep_images=repr(str(d/'store/pictures')), dicom=0, dicom_peers="('CAMERA=St Elsewhere', 'VAN 3')",
                 limits='Limits(body_mb=2, in_flight=4, seconds=2)') as p:
        yield p.ready(), d/'store'

def dicom_port(p): return int(re.search(r'DICOM is taken at [\d.]+:(\d+)', p.told)[1])

@pytest.fixture
def port(room):
    "Where DICOM is taken; afterwards the service is alive, and nothing in it was a fault"
    yield dicom_port(room[0])
    assert send(dicom_port(room[0])) == []
    bad = [l for l in room[0].lines() if l['event'] in ('fault', 'trouble')]
    assert not bad and 'Traceback' not in room[0].text(), (bad, room[0].text()[-3000:])

def eye(i=0, size=96, a=None, **tags):
    "A synthetic eye as an object of its own"
    a = synth_eye(i, grade=i%5, size=size).image if a is None else a
    return rgb_dicom(a, **FIXED | dict(SOPInstanceUID=f'1.2.826.77.{i}') | tags)

@contextlib.contextmanager
def line(port, title='CAMERA', classes=CLASSES, syntaxes=None):
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 30
    ae.add_requested_context(sop_class.Verification)
    for c in classes: ae.add_requested_context(c, syntaxes) if syntaxes else ae.add_requested_context(c)
    a = ae.associate('127.0.0.1', port)
    try: yield a
    finally:
        if a.is_established: a.release()

def send(port, *files, **kw):
    "The answers to objects that are sent one after another; first it is asked whether somebody is there"
    with line(port, **kw) as a:
        assert a.is_established and a.send_c_echo().Status == 0
        return [a.send_c_store(pydicom.dcmread(io.BytesIO(f)) if isinstance(f, bytes) else f) for f in files]

def codes(said): return [s.get('Status') for s in said]

def _free(port, seconds=10):
    "Wait until places are free again"
    end = time.time() + seconds
    while time.time() < end:
        with line(port) as a:
            if a.is_established: return
        time.sleep(.1)

def rows(db):
    with Store(db) as s: return [(p, facts) for p, facts in s.answers()]

def test_an_object_is_graded_and_found_with_its_tags(room, port, bundle):
    data, n = eye(1), len(rows(room[1]))
    assert codes(send(port, data)) == [0]
    (p, facts), = rows(room[1])[n:]
    want = Grader(bundle)(data)
    assert p.grading.probabilities == want.probabilities and p.grading.grade == want.grade
    tags = facts['tags']
    assert {k: tags[k] for k in ('eye', 'age', 'hospital')} == dict(eye='left', age=61, hospital='St Elsewhere')
    assert re.fullmatch('Optomaker Fundus 2 #[0-9a-f]{6}', tags['machine']) and set(tags) == {'eye', 'age', 'hospital', 'machine'}
    assert facts['client'] == 'dicom:CAMERA' and facts['subject'] and p.kept.endswith('.dcm')
    told = room[0].lines()[-1] if room[0].lines()[-1]['event'] == 'dicom' else [l for l in room[0].lines() if l['event'] == 'dicom'][-1]
    assert told['what'] == 'C-STORE' and told['status'] == '0x0000' and told['peer'] == 'CAMERA' and len(told['id']) == 16
    assert 'retina_requests_total{method="C-STORE",route="dicom",status="0x0000"}' in room[0].ask('GET', '/metrics').body.decode()

def test_twice_is_once_and_other_content_is_a_conflict(room, port):
    n, same, other = len(rows(room[1])), eye(2), eye(2, PatientAge='062Y')
    said = send(port, same, same, other, same)
    assert codes(said) == [0, 0, 0xC001, 0] and 'another object' in said[2].ErrorComment
    assert codes(send(port, same, eye(2, a=synth_eye(9, size=96).image))) == [0, 0xC001]
    assert len(rows(room[1])) == n + 1
    at_once = together(3, lambda i: codes(send(port, eye(3))))
    assert at_once == [[0]]*3 and len(rows(room[1])) == n + 2

def test_every_syntax_that_is_offered(room, port):
    for i, syntax in enumerate((ImplicitVRLittleEndian, JPEGBaseline8Bit, ExplicitVRBigEndian)):
        ds = pydicom.dcmread(io.BytesIO(eye(10 + i)))
        if syntax.is_compressed:
            from pydicom.encaps import encapsulate
            ds.PixelData, ds.PhotometricInterpretation = encapsulate([picture(10 + i, 96)]), 'YBR_FULL_422'
        ds.file_meta.TransferSyntaxUID, f = syntax, io.BytesIO()
        pydicom.dcmwrite(f, ds, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, force_encoding=True)
        ds = pydicom.dcmread(io.BytesIO(f.getvalue()))
        assert codes(send(port, ds, syntaxes=[syntax])) == [0], syntax.name
    n = len(rows(room[1]))
    for i, syntax in enumerate(u for u in taken_syntaxes() if u.is_compressed): # said to be packed, and are not
        ds = pydicom.dcmread(io.BytesIO(eye(15 + i)))
        ds.file_meta.TransferSyntaxUID = syntax
        with line(port, syntaxes=[syntax]) as a: assert _store_as(a, ds, ds.SOPClassUID, ds.SOPInstanceUID) == 0xC000, syntax.name
    assert len(rows(room[1])) == n
    assert DeflatedExplicitVRLittleEndian not in taken_syntaxes()
    with line(port, syntaxes=[DeflatedExplicitVRLittleEndian]) as a: assert len(a.accepted_contexts) == 1 # C-ECHO

def test_what_cannot_be_taken(room, port):
    n = len(rows(room[1]))
    letter = pydicom.dcmread(io.BytesIO(eye(20)))
    del letter.PixelData, letter.Rows
    noise = pydicom.dcmread(io.BytesIO(eye(21)))
    noise.PixelData = noise.PixelData[:500]
    huge = pydicom.dcmread(io.BytesIO(eye(22)))
    huge.Rows = huge.Columns = 60_000
    crowd = pydicom.dcmread(io.BytesIO(eye(24)))
    crowd.add_new((0x0041, 0x1001), 'UN', b'\xfe\xff\0\xe0\0\0\0\0'*70_000) # half a megabyte, read as a hundred of them
    said = send(port, letter, noise, huge, crowd)
    assert codes(said)[:2] == [0xC000]*2 and said[3].Status == 0xC000 and said[2].Status in (0xC000, 0xC002)
    assert all(len(s.ErrorComment) <= 64 for s in said)
    wrong = pydicom.dcmread(io.BytesIO(eye(23)))
    with line(port) as a:
        for change in (dict(SOPClassUID='1.2.840.10008.5.1.4.1.1.7'), dict(SOPInstanceUID='1.2.9')):
            ds = pydicom.dcmread(io.BytesIO(eye(23)))
            asked = ds.SOPClassUID, ds.SOPInstanceUID
            for k, v in change.items(): setattr(ds, k, v)
            assert _store_as(a, ds, *asked) == 0xA900, change
    with line(port, classes=['1.2.840.10008.5.1.4.1.1.104.1']) as a: assert len(a.accepted_contexts) == 1 # no letters as PDF
    assert len(rows(room[1])) == n and codes(send(port, wrong)) == [0]

def _store_as(a, ds, kind, instance):
    "Send an object and say that it is another one"
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode
    cx = next(c for c in a.accepted_contexts if c.abstract_syntax == kind)
    r = C_STORE()
    r.MessageID, r.AffectedSOPClassUID, r.AffectedSOPInstanceUID, r.Priority = 1, kind, instance, 0
    r.DataSet = io.BytesIO(encode(ds, *(cx.transfer_syntax[0].is_implicit_VR, cx.transfer_syntax[0].is_little_endian)))
    a._reactor_checkpoint.clear()
    try:
        a.dimse.send_msg(r, cx.context_id)
        return a.dimse.get_msg(block=True)[1].Status
    finally: a._reactor_checkpoint.set()

def test_too_large_ends_the_connection(room, port):
    "Counted while it arrives: a connection that brings more than the limit is over long before its end"
    start = time.time()
    with line(port) as a:
        said = a.send_c_store(pydicom.dcmread(io.BytesIO(eye(30, a=np.zeros((2000, 2000, 3), np.uint8)))))
    assert 'Status' not in said and time.time() - start < 20
    assert [l['status'] for l in room[0].lines() if l['event'] == 'dicom'][-1] == 'too large'
    with socket.create_connection(('127.0.0.1', port), timeout=5) as s: # a packet that says it has four gigabytes
        s.sendall(b'\1\0\xff\xff\xff\xff' + bytes(100))
        assert s.recv(10)[:1] == b'\7' # A-ABORT

def test_named_senders_only(room, port):
    for title, known in (('VAN 3', True), ('van 3', False), ('STRANGER', False)):
        with line(port, title=title) as a: assert a.is_established == known, title
    assert codes(send(port, eye(31), title='VAN 3')) == [0]
    assert 'STRANGER' not in room[0].text()
    for bad in ('', 'a'*17, 'back\\slash'):
        with pytest.raises(SettingError): named_peers([bad])

def _associate(title=b'CAMERA', context=OP):
    "A request for an association, by hand"
    def item(kind, data): return bytes((kind, 0)) + len(data).to_bytes(2, 'big') + data
    cx = bytes((1, 0, 0, 0)) + item(0x30, context.encode()) + item(0x40, b'1.2.840.10008.1.2')
    user = item(0x51, (16384).to_bytes(4, 'big')) + item(0x52, b'1.2.3')
    body = b'\0\1\0\0' + b'RETINA_NB'.ljust(16) + title.ljust(16) + bytes(32)
    body += item(0x10, b'1.2.840.10008.3.1.1.1') + item(0x20, cx) + item(0x50, user)
    return b'\1\0' + len(body).to_bytes(4, 'big') + body

def _bytes(rng):
    "Bytes that are nearly DICOM, or not at all"
    data, what = bytearray(_associate()), rng.random()
    if what < .2: return rng.randbytes(rng.randint(0, 400))
    if what < .3: return b'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
    if what < .4: return bytes((rng.randint(1, 7), 0)) + rng.randint(0, 300).to_bytes(4, 'big') + rng.randbytes(rng.randint(0, 300))
    if what < .7: # a request that is damaged
        for _ in range(rng.randint(1, 6)): data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    more = bytearray() # packets of data after a good beginning
    for _ in range(rng.randint(1, 3)):
        value = bytes((rng.choice((1, 1, 3, 99)), rng.randrange(4))) + rng.randbytes(rng.randint(0, 200))
        value = (len(value) + rng.choice((0, 0, 1, -1, 10**6))).to_bytes(4, 'big', signed=False) + value
        more += b'\4\0' + len(value).to_bytes(4, 'big') + value
    return bytes(data + more)

@pytest.mark.parametrize('n', [pytest.param(30, id='30'), pytest.param(600, id='600', marks=pytest.mark.full)])
def test_bytes_of_every_kind(room, port, n):
    "Whatever comes over a connection, the service goes on"
    rng = random.Random(85)
    def _one(data):
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=3) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            while s.recv(4096): pass
    with ThreadPoolExecutor(3) as pool: list(pool.map(_one, [_bytes(rng) for _ in range(n)]))
    _free(port)
    assert codes(send(port, eye(40 + n))) == [0]

def test_who_sends_slowly_and_who_goes_away(room, port):
    n, data = len(rows(room[1])), eye(50, size=400)
    with socket.create_connection(('127.0.0.1', port), timeout=20) as s: # a byte now and then
        start, whole = time.time(), _associate()
        with contextlib.suppress(OSError):
            for b in whole:
                s.sendall(bytes((b,)))
                time.sleep(.1)
                assert time.time() - start < 6
    with line(port) as a: # gone in the middle of an object
        with contextlib.suppress(OSError): a.dul.socket.socket.sendall(b'\4\0\0\0\x10\0' + b'\0\0\x0f\xfc\1\0' + bytes(1000))
        with contextlib.suppress(OSError, AttributeError): a.dul.socket.socket.close()
    _free(port)
    assert len(rows(room[1])) == n and codes(send(port, data)) == [0]

def test_no_more_at_a_time_than_are_taken(room, port):
    "Connections beyond the limit are turned away; those that are there go on"
    _free(port)
    time.sleep(.3)
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(line(port)) for _ in range(7)]
        assert sum(a.is_established for a in many) == 4
        assert next(a for a in many if a.is_established).send_c_echo().Status == 0
    _free(port)

# --- what is never stored
SECRETS = [] # Zx12q0Doe and the like; besides: UIDs, the birthday and the day of the study
_PLANTED = re.compile(rb'(?i)zx\w{3,20}doe|1\.2\.826\.4[234]4[0-9]|19520317|20261103')

def _plant(ds, depth=0):
    "A text of its own in every element that holds a text, in private ones and in sequences too"
    for kw, vr in _elements()[len(SECRETS)%9 if depth else 0::9 if depth else 1]: # in a sequence others each time
        word = f'Zx{len(SECRETS)}q{depth}Doe'
        if vr in ('LO', 'SH', 'LT', 'ST', 'UT', 'UC', 'PN', 'AE', 'CS', 'UR'): setattr(ds, kw, word if vr != 'CS' else word.upper())
        elif vr == 'SQ' and depth < 1:
            item = Dataset()
            _plant(item, depth + 1)
            setattr(ds, kw, [item])
        else: continue
        SECRETS.append(word if vr != 'CS' else word.upper())
    block = ds.private_block(0x0099, f'Zx{len(SECRETS)}privateDoe', create=True)
    block.add_new(1, 'LO', f'Zx{len(SECRETS) + 1}privateDoe')
    SECRETS.extend([f'Zx{len(SECRETS)}privateDoe', f'Zx{len(SECRETS) + 1}privateDoe'])

_NEEDED = ('PhotometricInterpretation', 'SpecificCharacterSet', 'Manufacturer', 'ManufacturerModelName', 'ImageLaterality', 'PatientAge',
           'VOILUTFunction', 'PixelDataProviderURL', 'ExtendedOffsetTable')

@functools.cache
def _elements():
    "(keyword, kind) of elements of the dictionary: all that identify, and a sample of the others"
    all_ = [(v[4], v[0]) for k, v in sorted(pydicom.datadict.DicomDictionary.items())
            if v[4] and k >> 16 > 2 and k >> 16 != 0x28 and v[1] == '1' and not v[3] and v[4] not in _NEEDED]
    return [(kw, vr) for i, (kw, vr) in enumerate(all_)
            if kw.startswith(('Patient', 'Institution', 'Physician', 'Operator', 'Image', 'Study', 'Series'))
            or 'Name' in kw or 'Comment' in kw or i%40 == 0]

@pytest.mark.parametrize('way', ['DICOM', 'HTTP'])
@pytest.mark.filterwarnings('ignore')
def test_nothing_of_a_header_is_stored(bundle, tmp_path, way, url):
    "Names planted in every kind of element, file meta and unused bits: no byte of them in a database, a picture or a log"
    ds = pydicom.dcmread(io.BytesIO(eye(60)))
    SECRETS.clear()
    _plant(ds)
    ds.PatientID, ds.DeviceSerialNumber, ds.SOPInstanceUID = 'ZxnumberDoe', 'ZxserialDoe', '1.2.826.4242.17'
    ds.StudyInstanceUID, ds.PatientBirthDate, ds.StudyDate = '1.2.826.4343.18', '19520317', '20261103'
    ds.file_meta.SourceApplicationEntityTitle, ds.file_meta.PrivateInformationCreatorUID = 'ZXSOURCEDOE', '1.2.826.4444.19'
    ds.file_meta.PrivateInformation = b'ZxfilemetaDoe'
    assert len(SECRETS) > 1000 and all(re.fullmatch(_PLANTED, s.encode()) for s in SECRETS)
    out, pictures = io.StringIO(), tmp_path/'pictures'
    with Store(url, keep_images=pictures) as store:
        service = Service(store, journal=Journal(out))
        service.start(bundle)
        f = io.BytesIO()
        ds.save_as(f)
        if way == 'DICOM':
            with DicomIntake(service, port=0) as door:
                for _ in range(2): assert codes(send(door.port, ds, title='ZXTITLEDOE')) == [0]
                ds.PixelData = ds.PixelData[:99]
                ds.SOPInstanceUID = '1.2.826.4242.99'
                assert codes(send(door.port, ds, title='ZXTITLEDOE')) == [0xC000]
        else:
            from retina_nb.serve import Sent
            service.answer(Sent([f.getvalue()]))
        service.close()
        (p, facts), = store.answers()
        assert facts['subject'] and store.check() == []
        assert (read_image(store.picture(p)) == read_image(f.getvalue())).all() and [r.why for r in replay_store(store)] == ['']
        import sqlalchemy as sa
        from retina_nb.serve import METADATA
        with store.read() as conn: told = repr([list(conn.execute(sa.select(t))) for t in METADATA.sorted_tables])
    left = told.encode() + out.getvalue().encode() + b''.join(q.read_bytes() for q in tmp_path.rglob('*') if q.is_file())
    for text in (left, left.replace(b'\0', b'')): assert not re.findall(_PLANTED, text) # the second for two bytes a letter
    assert len(left) > 1000 and (way == 'HTTP' or b'Optomaker Fundus 2' in left)

@pytest.mark.filterwarnings('ignore')
def test_nothing_of_a_header_in_the_log(room, port):
    "What a process says on its standard error, too"
    ds = pydicom.dcmread(io.BytesIO(eye(61, PatientName='Example^Mrs', PatientAge='Seven', DeviceSerialNumber='Oaks')))
    ds.SOPInstanceUID = '1.2.826.9999'
    assert codes(send(port, ds)) == [0]
    ds.SOPInstanceUID = UID('Mrs^Zebra', validation_mode=0) # what is no UID, and long names where libraries warn of them
    ds.PatientAge, ds.StudyDate, ds.SpecificCharacterSet = 'Zebra', 'Zebra', 'Zebra'
    with line(port) as a: assert _store_as(a, ds, ds.SOPClassUID, ds.SOPInstanceUID) in (0, 0xC000)
    for word in ('Zebra', 'Example', 'Seven', 'Oaks', '1.2.826', 'P17', 'Elsewhere'): assert word not in room[0].text(), word

def test_a_packed_header_does_not_fill_the_memory(room):
    "A deflated file of a few kilobytes that unfolds to gigabytes, over HTTP: its patient is asked for with limits, too"
    import resource
    from retina_nb.serve.uploads import patient_of
    head = eye(70)
    ds = pydicom.dcmread(io.BytesIO(head))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    f = io.BytesIO()
    ds.save_as(f)
    z, n = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS), 144 + int.from_bytes(f.getvalue()[140:144], 'little')
    block = z.compress(bytes(2**24)) + z.flush(zlib.Z_FULL_FLUSH)
    bomb = f.getvalue()[:n] + block*128 # two gigabytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert patient_of(f.getvalue()) == 'P17' and patient_of(bomb) == ''
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000
    assert room[0].ask.grade(bomb).status == 422

# --- beginning and end
def test_places(bundle, tmp_path):
    with Store(tmp_path/'s') as store:
        service = Service(store, journal=Journal(io.StringIO()))
        for kw, why in ((dict(ip='0.0.0.0'), 'AE titles are named'), (dict(port=70000), 'up to 65535'), (dict(title='a'*17), 'AE title'),
                        (dict(peers=['\\']), 'AE title')):
            with pytest.raises(SettingError, match=why): DicomIntake(service, **kw)
        with DicomIntake(service, port=0) as door:
            assert door.port and codes(send(door.port, eye(0))) == [0xA700] # no model is live yet: later
            with pytest.raises(SettingError, match='another port'): DicomIntake(service, port=door.port).start()
        with DicomIntake(service, port=0) as door: assert send(door.port) == []
        door.close()
        service.close()
        assert not [p for p, _ in store.answers()]

def test_shared_with_http(bundle, tmp_path):
    "One count of what is under way for both ways in"
    with Store(tmp_path/'s') as store:
        service = Service(store, limits=Limits(in_flight=1), journal=Journal(io.StringIO()))
        service.start(bundle)
        with DicomIntake(service, port=0) as door:
            assert service.turns.take() # somebody comes over HTTP
            said, = send(door.port, eye(0))
            assert said.Status == 0xA700 and 'later' in said.ErrorComment
            service.turns.give()
            assert codes(send(door.port, eye(0))) == [0] and service.turns.under_way == 0
        service.close()

def test_the_end_finishes_what_is_under_way(bundle, tmp_path):
    eyes = [rgb_dicom(np.asarray(pydicom_image(i)), SOPInstanceUID=f'1.2.3.{i}', PatientID=str(i)) for i in range(3)]
    with Process(tmp_path, bundle, tmp_path/'s', dicom=0) as p:
        port = dicom_port(p.ready())
        assert 'from this machine' in p.told
        def _stop():
            end = time.time() + 30
            while b'gradings_under_way 0.0' in p.ask('GET', '/metrics').body and time.time() < end: time.sleep(.02)
            return p.stop()
        said = together(4, lambda i: codes(send(port, eyes[i])) if i < 3 else _stop())
        assert said[3] == 0 and p.lines()[-1]['event'] == 'stopped'
        stored = [i for i in range(3) if said[i] == [0]]
        assert stored and all(said[i] in ([0], [0xA700], [None]) for i in range(3)), said
    with Store(tmp_path/'s') as s:
        assert len([p for p, _ in s.answers()]) >= len(stored) and s.check() == []

def pydicom_image(i):
    from PIL import Image
    return Image.open(io.BytesIO(large(6, i)))

def test_command(bundle, tmp_path, monkeypatch):
    script = tmp_path/'retina_serve'
    script.write_text('from retina_nb.serve import retina_serve\nretina_serve()\n')
    args = [bundle, '--db', tmp_path/'s', '--port', 0, '--dicom', '0.0.0.0:11112']
    r = subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True, timeout=60)
    assert r.returncode == 2 and 'AE titles are named' in r.stderr and r.stderr.count('\n') == 1, r.stderr
    def _serve(**kw): serve(bundle, tmp_path/'s', port=0, **kw)
    with pytest.raises(SettingError, match='up to 65535'): _serve(dicom=99999)
    for where, peers, why in ((None, ['CAMERA'], 'add --dicom PORT'), *((w, (), 'ADDRESS:PORT') for w in ('port', '', -1, 'localhost:'))):
        with pytest.raises(SettingError, match=why), _dicom(None, where, peers): pass
    with socket.create_server(('127.0.0.1', 0)) as s, pytest.raises(SettingError, match='Address already in use.*--dicom'):
        _serve(dicom=s.getsockname()[1])
    assert not [h for h in logging.getLogger().handlers if type(h).__module__ == 'retina_nb.serve.listening'] # nothing is left behind
    for name in [m for m in sys.modules if m.split('.')[0] == 'pynetdicom' or m.endswith(('.dicom_intake', 'serve.objects'))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'pynetdicom', None) # as if it were not installed
    with pytest.raises(MissingPackage, match=r"pynetdicom, .*pip install 'retina_nb\[serve\]'"), _dicom(None, 0, ()): pass

def test_storescu(room, port, tmp_path):
    "The sender of dcmtk, which many archives are built on"
    found = [shutil.which('storescu', path=d) for d in os.environ['PATH'].split(os.pathsep)] # pynetdicom brings one of that name
    exe = next((f for f in found if f and b'dcmtk' in subprocess.run([f, '--version'], capture_output=True, timeout=30).stdout), None)
    if not exe: pytest.skip('dcmtk is not installed (apt install dcmtk): tried with pynetdicom only')
    (tmp_path/'eye.dcm').write_bytes(eye(80))
    def _send(*more): return subprocess.run([exe, '-aet', 'CAMERA', *more, '127.0.0.1', str(port), str(tmp_path/'eye.dcm')], capture_output=True, text=True, timeout=60)
    n = len(rows(room[1]))
    for _ in range(2):
        r = _send('-v')
        assert r.returncode == 0 and 'Success' in r.stdout + r.stderr, r.stderr
    assert len(rows(room[1])) == n + 1

"The open inference protocol: Triton's own client against a service in a process of its own, and whatever else may be sent there"
import base64, gzip, io, json, random, shutil, struct, zlib

import numpy as np, onnx, pytest
import onnx.numpy_helper
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from retina_nb.deploy import Grader, ask_triton, open_session, write_sums
from retina_nb.deploy.guard import sound_answer
from retina_nb.image import read_image
from retina_nb.serve import Limits, Refusal, Running, Service, Store, create_app
from retina_nb.serve.inference import JSON_GROWS, MOST, Inference
from retina_nb.serve.journal import Journal
from clients import Client, Process, picture

@pytest.fixture(scope='module')
def grader(bundle): return Grader(bundle, threads=1)

@pytest.fixture(scope='module')
def room(bundle, tmp_path_factory):
    "A service that is never sure, without keys, which takes three files at a time; (process, folder of its store)"
    d = tmp_path_factory.mktemp('room')
    with Process(d, bundle, d/'store', low_confidence='1.', limits='Limits(body_mb=24, files=3)') as p: yield p.ready(), d/'store'

@pytest.fixture
def ask(room):
    yield room[0].ask
    bad = [l for l in room[0].lines() if l['event'] in ('fault', 'trouble')]
    assert not bad, bad

@pytest.fixture
def client(room, ask):
    with triton.InferenceServerClient(f'127.0.0.1:{ask.port}') as c: yield c

NAME = 'run'

def n_kept(room):
    with Store(room[1]) as s: return s.status()['prediction']

def image(x, binary=True):
    out = triton.InferInput('image', list(x.shape), 'UINT8')
    out.set_data_from_numpy(x, binary_data=binary)
    return [out]

def photos(files, binary=True):
    "Files as an input; in JSON as base64"
    a = np.array([f if binary else base64.b64encode(f) for f in files] + [None], object)[:-1]
    out = triton.InferInput('photograph', [len(files)], 'BYTES')
    out.set_data_from_numpy(a, binary_data=binary)
    return [out]

def test_server_and_models(client, grader, ask):
    id, c = grader.bundle.id, grader.preprocess.size
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(NAME) and client.is_model_ready(NAME, id) and client.is_model_ready(f'{NAME}.photographs', id)
    assert not any(client.is_model_ready(*m) for m in ((NAME, '1'), ('other',), ('..',), (NAME, '../..'), (f'{NAME}.photographs', '0'*12)))
    told = client.get_server_metadata()
    assert told['name'] == 'retina_nb' and {'binary_tensor_data', 'model_repository'} <= set(told['extensions'])
    m = client.get_model_metadata(NAME, id)
    assert m == client.get_model_metadata(NAME) and m['versions'] == [id] and m['parameters']['stored'].startswith('no')
    assert m['inputs'] == [dict(name='image', datatype='UINT8', shape=[-1, c, c, 3])]
    assert m['outputs'][0] == dict(name='probabilities', datatype='FP32', shape=[-1, 5]) and [o['name'] for o in m['outputs']] == grader.outputs
    p = client.get_model_metadata(f'{NAME}.photographs')
    assert p['inputs'] == [dict(name='photograph', datatype='BYTES', shape=[-1])] and p['parameters']['stored'].startswith('yes')
    assert client.get_model_config(NAME)['max_batch_size'] == MOST
    assert client.get_model_repository_index() == [dict(name=n, version=id, state='READY', reason='') for n in (NAME, f'{NAME}.photographs')]
    assert ask('POST', '/v2/repository/index', dict(ready=True)).json == client.get_model_repository_index()
    for f in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match='/v1/deployments') as e: f(NAME)
        assert e.value.status() == '400'

def test_prepared_pictures_answer_as_the_grader(client, grader, room):
    eyes, before = [picture(i) for i in range(3)], n_kept(room)
    x, want = np.stack([grader.prepare(e)[0] for e in eyes]), [grader(e).probabilities for e in eyes]
    seen = []
    for binary, packing, wanted in [(True, None, None), (False, None, True), (True, 'gzip', False), (False, 'gzip', None), (True, 'deflate', None),
                                    (False, 'deflate', True)]:
        outs = None if wanted is None else [triton.InferRequestedOutput('probabilities', binary_data=wanted)]
        r = client.infer(NAME, image(x, binary), outputs=outs, request_id=f'visit {len(seen)}', request_compression_algorithm=packing,
                         response_compression_algorithm=packing)
        told = r.get_response()
        assert told['id'] == f'visit {len(seen)}' and (told['model_name'], told['model_version']) == (NAME, grader.bundle.id)
        p = r.as_numpy('probabilities')
        assert p.dtype == np.float32 and p.shape == (3, 5) and [sound_answer(q, 5).tolist() for q in p] == want
        assert (r.as_numpy('cam') is None) == (wanted is not None)
        seen.append(p.tobytes())
    assert len(set(seen)) == 1 and n_kept(room) == before # the same to the last bit, and nothing is kept
    cam = client.infer(NAME, image(x[:1]), model_version=grader.bundle.id).as_numpy('cam')
    assert cam.shape == (1, 5, 2, 2) and (cam[0] == grader(eyes[0], cam=True).cam).all()

def test_the_client_for_triton(ask, bundle, grader):
    eyes = [picture(i) for i in (4, 5)]
    p = ask_triton(f'http://127.0.0.1:{ask.port}', bundle, eyes)
    assert [sound_answer(q, 5).tolist() for q in p] == [grader(e).probabilities for e in eyes]

def test_photographs_are_kept_as_by_v1(client, ask, grader, room):
    eyes = [picture(6), picture(7)]
    want = [grader(e) for e in eyes]
    for binary in (True, False):
        r = client.infer(f'{NAME}.photographs', photos(eyes, binary), request_id='1', parameters=dict(tags='{"hospital": "A", "patient": "Mrs Example"}'))
        assert r.get_response()['id'] == '1' and r.as_numpy('probabilities').tolist() == [g.probabilities for g in want] # bit for bit
        assert r.as_numpy('grade').tolist() == [g.grade for g in want] and r.as_numpy('referable').tolist() == [g.referable for g in want]
        ids, answer = [[o.decode() for o in r.as_numpy(n)] for n in ('grading', 'answer')]
        kept = ask('GET', f'/v1/gradings/{answer[0]}').json
        assert [g['id'] for g in kept['gradings']] == ids and kept['tags'] == dict(hospital='A') and len(set(answer)) == 1
        assert [g['probabilities'] for g in kept['gradings']] == [g.probabilities for g in want]
        assert r.as_numpy('low_confidence').all() and set(ids) <= {a['prediction'] for a in ask('GET', '/v1/alerts').json['alerts']}
        assert ask('POST', f'/v1/gradings/{ids[0]}/feedback', dict(verdict='agree')).status == 200

def test_an_id_is_no_key_and_a_key_is(client, ask, room):
    def answer(eye, **kw): return client.infer(f'{NAME}.photographs', photos([eye]), **kw).as_numpy('answer')[0]
    a, b, key = picture(8), picture(9), {'Idempotency-Key': 'visit 9'}
    assert len({answer(a, request_id='1'), answer(b, request_id='1'), answer(a, request_id='1')}) == 3 # clients count from one at every start
    before = answer(b, headers=key), n_kept(room)
    assert (answer(b, headers=key), n_kept(room)) == before
    assert ask.grade(b, key='visit%209').json['id'] == before[0].decode() # the same key as that of /v1
    with pytest.raises(InferenceServerException) as e: answer(a, headers=key)
    assert e.value.status() == '409'

def test_some_cannot_be_read(client):
    r = client.infer(f'{NAME}.photographs', photos([b'Dear colleague', picture(1)]))
    assert r.as_numpy('grade').tolist()[0] == -1 and r.as_numpy('referable')[0] == -1 and not r.as_numpy('probabilities')[0].any()
    assert r.as_numpy('probabilities')[1].sum() == pytest.approx(1) and b'text' in r.as_numpy('problem')[0] and r.as_numpy('problem')[1] == b''

def test_several_at_once(room, ask, grader):
    x = np.stack([grader.prepare(picture(i))[0] for i in range(4)])
    with triton.InferenceServerClient(f'127.0.0.1:{ask.port}', concurrency=4) as client:
        waiting = [client.async_infer(NAME, image(x[i:i+1]), request_id=str(i)) for i in range(4)]
        got = [w.get_result() for w in waiting]
    assert [g.get_response()['id'] for g in got] == list('0123')
    assert [sound_answer(g.as_numpy('probabilities')[0], 5).tolist() for g in got] == [grader(picture(i)).probabilities for i in range(4)]

def test_faults_as_the_client_sees_them(client):
    x = np.zeros((1, 64, 64, 3), np.uint8)
    wrong = triton.InferInput('image', [1, 64, 64, 3], 'FP32')
    wrong.set_data_from_numpy(x.astype(np.float32))
    for name, version, inputs, kw, status, why in [
            ('other', '', image(x), {}, '404', 'no model called'), (NAME, '1', image(x), {}, '404', 'no version'), (NAME, '', wrong, {}, '400', 'datatype is UINT8'),
            (NAME, '', image(x[:, :32]), {}, '400', 'shape is'), (NAME, '', image(np.repeat(x, MOST + 1, 0)), {}, '400', f'send 1 to {MOST}'),
            (NAME, '', image(x), dict(outputs=[triton.InferRequestedOutput('grade')]), '400', 'no output called'),
            (NAME, '', image(x), dict(outputs=[triton.InferRequestedOutput('probabilities', class_count=3)]), '400', 'classification is not offered'),
            (NAME, '', photos([b'a']), {}, '400', 'no input called'), (f'{NAME}.photographs', '', photos([b'a']*4), {}, '400', 'send 1 to 3'),
            (f'{NAME}.photographs', '', photos([b'Dear colleague']), {}, '400', 'photograph'), (f'{NAME}.photographs', '', photos([b'']), {}, '400', 'empty'),
            (f'{NAME}.photographs', '', photos([picture(0)]), dict(parameters=dict(tag='{}')), '400', "no setting called 'tag'"),
            (f'{NAME}.photographs', '', photos([picture(0)]), dict(parameters=dict(tags='[]')), '400', 'tags'),
            (f'{NAME}.photographs', '', photos([picture(0)]), dict(headers={'Idempotency-Key': 'a'*201}), '400', 'key of a request')]:
        with pytest.raises(InferenceServerException) as e: client.infer(name, inputs if isinstance(inputs, list) else [inputs], model_version=version, **kw)
        assert e.value.status() == status and why in str(e.value), (name, why, str(e.value))

# --- what no client would send
X = dict(name='image', datatype='UINT8', shape=[1, 64, 64, 3])
N = 64*64*3
GOOD = dict(inputs=[X | dict(data=[0]*N)])
def size(n): return dict(parameters=dict(binary_data_size=n))

def bodies():
    "(what, body, headers) of requests that are all wrong"
    def inp(**kw): return dict(inputs=[GOOD['inputs'][0] | kw])
    objects = dict(
        empty={}, none=None, a_list=[], a_text='inputs', a_number=7, no_inputs=dict(inputs=[]), inputs_an_object=dict(inputs={}), inputs_text=dict(inputs='image'),
        an_input_that_is_none=dict(inputs=[None]), many_inputs=dict(inputs=GOOD['inputs']*100), twice=dict(inputs=GOOD['inputs']*2), other_name=inp(name='eye'),
        name_a_list=inp(name=['image']), name_long=inp(name='a'*10**5), other_type=inp(datatype='FP32'), type_none=inp(datatype=None), no_shape=dict(inputs=[dict(name='image', datatype='UINT8', data=[0]*N)]),
        negative=inp(shape=[-1, 64, 64, 3]), both_negative=inp(shape=[-1, -64, 64, 3]), none_at_all=inp(shape=[0, 64, 64, 3]), huge=inp(shape=[2**62, 64, 64, 3]),
        huger=inp(shape=[10**300, 64, 64, 3]), overflow=inp(shape=[2**32 + 1, 64, 64, 3]), flat=inp(shape=[N]), deep_shape=inp(shape=[1]*10**4 + [64, 64, 3]), shape_text=inp(shape='1'),
        shape_fractions=inp(shape=[1., 64, 64, 3]), shape_truth=inp(shape=[True, 64, 64, 3]), shape_object=inp(shape=dict(a=1)), two=inp(shape=[2, 64, 64, 3]),
        too_many=inp(shape=[MOST + 1, 64, 64, 3]), short=inp(data=[0]*(N - 1)), long=inp(data=[0]*(N + 1)), no_data=dict(inputs=[X]), data_none=inp(data=None), data_text=inp(data='0'*N),
        data_object=inp(data={'0': 1}), above=inp(data=[256]*N), below=inp(data=[-1]*N), far_above=inp(data=[10**400]*2 + [0]*(N - 2)), fractions=inp(data=[.5]*N), texts=inp(data=['0']*N),
        truths=inp(data=[True]*N), nulls=inp(data=[None]*N), infinite=inp(data=[1e400]*N), uneven=inp(data=[[[[0]*3]*64]*63]), half_nested=inp(data=[[0]] + [0]*(N - 1)),
        unknown_key=GOOD | dict(input=[]), key_in_input=inp(contents=[1]), id_number=GOOD | dict(id=1), id_long=GOOD | dict(id='1'*201), id_odd=GOOD | dict(id='a\r\nb'), id_half=GOOD | dict(id='\ud800'),
        parameters_list=GOOD | dict(parameters=[]), flag_text=GOOD | dict(parameters=dict(binary_data_output='true')), sequence=GOOD | dict(parameters=dict(sequence_id=3)),
        outputs_object=GOOD | dict(outputs={}), outputs_names=GOOD | dict(outputs=['probabilities']), outputs_none=GOOD | dict(outputs=None), output_other=GOOD | dict(outputs=[dict(name='p')]),
        output_no_name=GOOD | dict(outputs=[{}]), output_twice=GOOD | dict(outputs=[dict(name='cam')]*2), output_flag=GOOD | dict(outputs=[dict(name='cam', parameters=dict(binary_data=1))]),
        output_top_three=GOOD | dict(outputs=[dict(name='cam', parameters=dict(classification=3))]), output_shared=GOOD | dict(outputs=[dict(name='cam', parameters=dict(shared_memory_region='a'))]),
        shared=inp(parameters=dict(shared_memory_region='a', shared_memory_byte_size=9)), size_and_data=inp(**size(N)), size_alone=dict(inputs=[X | size(N)]),
        size_negative=dict(inputs=[X | size(-1)]), size_truth=dict(inputs=[X | size(True)]), size_text=dict(inputs=[X | size(str(N))]), size_huge=dict(inputs=[X | size(2**70)]))
    for what, o in objects.items(): yield what, json.dumps(o).encode(), {}
    for what, text in dict(nothing=b'', blank=b' ', half=b'{"inputs": [', not_utf8=b'\xff\xfe{}', utf16=json.dumps(GOOD).encode('utf-16'), nan=b'{"inputs": NaN}', name_twice=b'{"inputs": [], ' + json.dumps(GOOD).encode()[1:],
                           deep=b'['*10**6, deep_data=json.dumps(GOOD).encode().replace(b'[0, 0', b'['*2000 + b'0, 0', 1), long_number=b'9'*10**5, more=json.dumps(GOOD).encode() + b'{}',
                           a_bomb=b'{"inputs": [' + b'[],'*10**5 + b'[]]}').items(): yield what, text, {}
    binary, head = bytes(N), json.dumps(dict(inputs=[X | size(N)])).encode()
    for what, body, n in [('behind', head + binary + b'a', len(head)), ('too_few', head + binary[:-1], len(head)), ('beyond', head, len(head) + 1), ('negative_head', head, -1),
                          ('head_text', head + binary, 'all'), ('head_plus', head + binary, f'+{len(head)}'), ('head_zero', head + binary, 0), ('head_huge', head + binary, 10**30),
                          ('head_cut', head + binary, len(head) - 1), ('other_size', json.dumps(dict(inputs=[X | size(N - 1)])).encode() + binary[:-1], 0)]:
        yield what, body, dict(Inference_Header_Content_Length=str(n or len(body) - N + 1) if what == 'other_size' else str(n))
    yield 'not_gzip', json.dumps(GOOD).encode(), dict(Content_Encoding='gzip')
    yield 'not_deflate', gzip.compress(head), dict(Content_Encoding='deflate')
    yield 'raw_deflate', zlib.compress(head, wbits=-15), dict(Content_Encoding='deflate')
    yield 'deflate_cut', zlib.compress(head)[:-3], dict(Content_Encoding='deflate')

WRONG = list(bodies())

def test_nothing_wrong_is_answered_or_a_fault(ask, room):
    assert len(WRONG) > 90 and ask('POST', f'/v2/models/{NAME}/infer', GOOD).status == 200
    before = n_kept(room)
    for what, body, headers in WRONG:
        for name in (NAME, f'{NAME}.photographs'):
            r = ask('POST', f'/v2/models/{name}/infer', body, **headers)
            assert r.status == 400 and list(r.json) == ['error'] and len(r.error) < 600, (what, name, r.status, r.body[:300])
    assert n_kept(room) == before

def test_too_large_and_other_codings(ask):
    path = f'/v2/models/{NAME}/infer'
    assert ask('POST', path, b' '*(25*2**20)).status == 413 and ask('POST', path, b' '*(17*2**20)).status == 413 # the body; the JSON in it
    for kind, pack in dict(gzip=gzip.compress, deflate=zlib.compress).items():
        assert ask('POST', path, pack(bytes(2**27)), Content_Encoding=kind).status == 413
    assert ask('POST', path, b'{}', Content_Encoding='br').status == 415

def test_files_between_their_lengths(ask):
    "Binary files whose lengths lie"
    def sent(n, data):
        head = json.dumps(dict(inputs=[dict(name='photograph', datatype='BYTES', shape=[n]) | size(len(data))])).encode()
        return ask('POST', f'/v2/models/{NAME}.photographs/infer', head + data, Inference_Header_Content_Length=str(len(head)))
    eye = picture(2)
    assert sent(1, struct.pack('<I', len(eye)) + eye).status == 200
    for n, data in [(1, b''), (1, b'abc'), (1, struct.pack('<I', 2**32 - 1) + eye), (1, struct.pack('<I', len(eye) - 1) + eye), (2, struct.pack('<I', len(eye)) + eye),
                    (1, struct.pack('>I', len(eye)) + eye), (1, (struct.pack('<I', 3) + b'abc')*2), (1, struct.pack('<I', 0)), (3, bytes(12)), (1, eye)]:
        assert sent(n, data).status == 400, (n, data[:20])

def test_other_addresses(ask, grader):
    id = grader.bundle.id
    for method, path, body, status in [
            ('GET', '/v2/', None, 404), ('GET', '/v2/models', None, 404), ('GET', '/v2/models/stats', None, 404), ('GET', f'/v2/models/{NAME}/versions', None, 404), ('GET', f'/v2/models/{NAME}/infer', None, 405),
            ('GET', '/v2/repository/index', None, 405), ('POST', '/v2/repository/index', 'all', 400), ('POST', '/v2/repository/index', [], 400), ('POST', '/v2/repository/index', dict(ready=1), 400),
            ('POST', '/v2/repository/index', dict(name='a'), 400), ('POST', f'/v2/repository/models/{NAME}/load', dict(parameters=dict(config='{}')), 400), ('POST', f'/v2/repository/models/{NAME}/drop', {}, 404),
            ('POST', '/v2/logging', {}, 404), ('GET', '/v2/systemsharedmemory/status', None, 404), ('POST', f'/v2/models/{NAME}/versions/latest/infer', GOOD, 404), ('POST', f'/v2/models/{NAME}/versions/{id[:-1]}/infer', GOOD, 404),
            ('POST', f'/v2/models/{NAME}/versions/{id.upper()}x/infer', GOOD, 404), ('POST', '/v2/models/..%2F..%2Fetc/infer', GOOD, 404), ('POST', '/v2/models/%00/infer', GOOD, 404), ('GET', '/v2/models/%ff%fe', None, 404),
            ('GET', '/v2/models/a%0d%0ab', None, 404), ('GET', f'/v2/models/{"a"*1500}', None, 404), ('GET', f'/v2/models/{"a"*3000}', None, 414), ('GET', f'/v2/models/{NAME}/versions/{id}/config', None, 200)]:
        r = ask(method, path, body)
        assert r.status == status and (status == 200 or list(r.json) == ['error']), (method, path, r.status, r.body[:200])

def test_nothing_of_a_request_in_the_log_and_the_numbers_count(ask, room, grader):
    ask('POST', f'/v2/models/{NAME}/infer', GOOD | dict(id='Mrs Example'))
    told = [l for l in room[0].lines() if l['event'] == 'tensors'][-1]
    assert (told['model'], told['n']) == (grader.bundle.id, 1) and 'Example' not in room[0].text()
    assert f'retina_tensors_total{{model="{grader.bundle.id}"}}' in ask('GET', '/metrics').body.decode()
    doc = ask('GET', '/openapi.json').json['paths']
    assert {'400', '401', '403', '404', '408', '409', '413', '415', '429', '503'} <= set(doc['/v2/models/{name}/infer']['post']['responses'])

@pytest.mark.parametrize('n', [150, pytest.param(3000, marks=pytest.mark.full)])
def test_requests_that_were_changed_by_chance(ask, n):
    "A sound request, with pieces of it cut out, doubled or replaced: an answer or an error in a sentence"
    rng, seen = random.Random(n), set()
    head = json.dumps(dict(id='a', inputs=[X | size(N)], outputs=[dict(name='probabilities', parameters=dict(binary_data=True))])).encode()
    for i in range(n):
        h = bytearray(head)
        for _ in range(rng.randint(1, 3)):
            a, b = sorted(rng.randrange(len(h) + 1) for _ in '12')
            h[a:min(b, a + 8)] = rng.choice((b'', bytes(h[a:b]), rng.randbytes(2), b'-1', b'[', b'}', b'null', b'"', b'1e9', b'{"a":1}'))
        length = len(h) if rng.random() < .8 else rng.randrange(2*len(h))
        r = ask('POST', f'/v2/models/{NAME}{rng.choice(("", "", ".photographs"))}/infer', bytes(h) + bytes(N), Inference_Header_Content_Length=str(length))
        assert r.status in (200, 400), (i, bytes(h), r.body[:200])
        if r.status == 400: assert list(r.json) == ['error'], i
        seen.add(r.status)
    assert 400 in seen

# --- keys, versions, what is not ready
def test_keys(bundle, tmp_path):
    with Store(tmp_path/'s') as s:
        keys, app = {role: s.add_key(role, role) for role in ('reader', 'grader')}, create_app(s, bundle, journal=Journal(io.StringIO()))
        with Running(app) as url:
            port = int(url.rpartition(':')[2])
            nobody, reader, grader = (Client(port, k) for k in (None, keys['reader'], keys['grader']))
            while nobody('GET', '/v2/health/ready').status != 200: pass
            assert nobody('GET', '/v2/health/live').json == dict(live=True)
            for method, path in [('GET', '/v2'), ('GET', f'/v2/models/{NAME}'), ('GET', f'/v2/models/{NAME}/ready'), ('GET', f'/v2/models/{NAME}/config'), ('POST', '/v2/repository/index')]:
                assert (nobody(method, path).status, reader(method, path).status, grader(method, path).status) == (401, 200, 200), path
            assert [c('POST', f'/v2/models/{NAME}/infer', GOOD).status for c in (nobody, reader, grader)] == [401, 403, 200]
            with triton.InferenceServerClient(url.removeprefix('http://')) as c:
                assert c.is_server_ready() and not c.is_model_ready(NAME) and c.is_model_ready(NAME, headers=dict(Authorization=f'Bearer {keys["reader"]}'))

def leaning(bundle, to):
    "A second model of the same name: another bias, and golden answers to fit"
    shutil.copytree(bundle, to)
    m = onnx.load(to/'model.onnx')
    t = next(t for t in m.graph.initializer if list(t.dims) == [5])
    t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t) + np.array([0, 0, 0, 0, 9], np.float32), t.name))
    (to/'model.onnx').write_bytes(m.SerializeToString(deterministic=True))
    session, golden = open_session((to/'model.onnx').read_bytes()), json.loads((to/'golden/golden.json').read_text())
    for r in golden['images']: r['probabilities']['fp32'] = session.run(['probabilities'], {'image': read_image(to/r['input'])[None]})[0][0].tolist()
    (to/'golden/golden.json').write_text(json.dumps(golden))
    write_sums(to)
    return to

def test_versions(bundle, tmp_path, grader):
    "A second model of the same name can be asked by its version; photographs go to the one that is live"
    other = Grader(leaning(bundle, tmp_path/'other'))
    with Store(tmp_path/'s') as s:
        new, old = s.register(other.bundle), grader.bundle.id
        service = Service(s, journal=Journal(io.StringIO()))
        here = Inference(service)
        with pytest.raises(Refusal, match='not ready'): here.find(NAME)
        service.start(bundle)
        assert [(m['version'], m['state']) for m in here.index()] == [(old, 'READY'), (old, 'READY'), (new, 'UNAVAILABLE')]
        with pytest.raises(Refusal, match='no version') as e: here.find(NAME, new)
        assert e.value.status == 404
        service.models.deploy(new, 'candidate')
        assert here.find(NAME).version == old and here.find(NAME, new).version == new and here.about(here.find(NAME))['versions'] == [old, new]
        with pytest.raises(Refusal, match='no version'): here.find(f'{NAME}.photographs', new)
        x = other.prepare(picture(3))[0]
        ask = json.dumps(dict(inputs=[dict(name='image', datatype='UINT8', shape=[1, *x.shape], data=[x.tolist()])])).encode()
        for version, g in ((new, other), (old, grader)):
            told = json.loads(here.ask(NAME, version, ask).body)
            p = np.array(told['outputs'][0]['data'], np.float32)
            assert told['model_version'] == version and sound_answer(p, 5).tolist() == g(picture(3)).probabilities and (p.argmax() == 4) == (g is other)
        service.models.deploy(new)
        assert here.find(NAME).version == new and here.find(f'{NAME}.photographs').version == new
        service.close()

def test_memory_is_taken_before_json_is_read(bundle, tmp_path):
    with Store(tmp_path/'s') as s:
        service = Service(s, limits=Limits(memory_mb=64), journal=Journal(io.StringIO()))
        service.start(bundle)
        here = Inference(service)
        with pytest.raises(Refusal, match='MB') as e: here.ask(NAME, '', b'['*(64*2**20//JSON_GROWS + 1))
        assert e.value.status == 413 and service.memory.free == service.memory.total
        service.close()

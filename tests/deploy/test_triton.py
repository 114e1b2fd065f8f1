"Triton: the written configuration against the documented schema, and its protocol against a server on this machine."
import json, sys, types

import numpy as np, pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from retina_nb.core import BundleError, SettingError
from retina_nb.deploy import Grader, ask_triton, load_bundle, open_session, pbtxt, to_triton
from retina_nb.synth import synth_eye
from random_model import shared
from servers import Handler, Server

@pytest.fixture(scope='module')
def bundle(): return load_bundle(shared()[1])

# The messages and fields of Triton's model_config.proto that its documentation of the model configuration describes
SCHEMA = dict(
    ModelConfig='name:s platform:s backend:s runtime:s default_model_filename:s max_batch_size:i input:*ModelInput output:*ModelOutput '
                'dynamic_batching:ModelDynamicBatching instance_group:*ModelInstanceGroup model_warmup:*ModelWarmup parameters:*Parameter',
    ModelInput='name:s data_type:DataType format:Format dims:*i optional:b is_shape_tensor:b allow_ragged_batch:b',
    ModelOutput='name:s data_type:DataType dims:*i label_filename:s is_shape_tensor:b',
    ModelDynamicBatching='preferred_batch_size:*i max_queue_delay_microseconds:i preserve_ordering:b priority_levels:i',
    ModelInstanceGroup='name:s kind:Kind count:i gpus:*i profile:*s passive:b',
    ModelWarmup='name:s batch_size:i inputs:*WarmupInput count:i',
    WarmupInput='key:s value:Input', Input='data_type:DataType dims:*i zero_data:b random_data:b input_data_file:s',
    Parameter='key:s value:ModelParameter', ModelParameter='string_value:s')
ENUMS = dict(DataType='TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 TYPE_INT64 TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16',
             Kind='KIND_AUTO KIND_GPU KIND_CPU KIND_MODEL',
             Format='FORMAT_NONE FORMAT_NHWC FORMAT_NCHW')

def model_config():
    "The class ModelConfig, made from the documented fields"
    F = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name='documented.proto', package='t', syntax='proto3')
    for name,values in ENUMS.items():
        e = file.enum_type.add(name=name)
        for i,v in enumerate(values.split()): e.value.add(name=v, number=i)
    for name,fields in SCHEMA.items():
        m = file.message_type.add(name=name)
        for i,f in enumerate(fields.split(), 1):
            field, kind = f.split(':')
            label = F.LABEL_REPEATED if kind.startswith('*') else F.LABEL_OPTIONAL
            kind = kind.lstrip('*')
            plain = dict(s=F.TYPE_STRING, i=F.TYPE_INT64, b=F.TYPE_BOOL).get(kind)
            if plain: m.field.add(name=field, number=i, label=label, type=plain)
            else: m.field.add(name=field, number=i, label=label, type=F.TYPE_ENUM if kind in ENUMS else F.TYPE_MESSAGE, type_name=f'.t.{kind}')
    pool = descriptor_pool.DescriptorPool(); pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('t.ModelConfig'))

def test_config_fits_the_schema(bundle, tmp_path):
    folder = to_triton(bundle, tmp_path, 'retina', max_batch=16, delay_us=500)
    c = text_format.Parse((folder/'config.pbtxt').read_text(), model_config()())
    assert (c.name, c.backend, c.max_batch_size, c.dynamic_batching.max_queue_delay_microseconds) == ('retina', 'onnxruntime', 16, 500)
    session = open_session((folder/'1'/'model.onnx').read_bytes(), 1)
    x = np.zeros((3, *c.input[0].dims), np.uint8)     # without the batch dimension, as the model configuration wants it
    assert [i.name for i in c.input] == [i.name for i in session.get_inputs()] == ['image']
    assert [o.name for o in c.output] == [o.name for o in session.get_outputs()]
    assert [tuple(o.dims) for o in c.output] == [a.shape[1:] for a in session.run(None, {'image': x})]
    assert {p.key: p.value.string_value for p in c.parameters}['preprocess_hash'] == bundle.preprocess.hash
    assert (folder/c.output[0].label_filename).read_text().split('\n')[:-1] == list(bundle.task.classes)

@pytest.mark.parametrize('wrong', ['max_batch: 3', 'input { name: "x" data_type: TYPE_FLOAT }', 'dynamic_batching { delay: 1 }'])
def test_the_schema_finds_faults(wrong):
    with pytest.raises(text_format.ParseError): text_format.Parse(wrong, model_config()())

def test_text_form_survives_every_string():
    c = text_format.Parse(pbtxt(dict(name='a"b\\c\nd\te{}')), model_config()())
    assert c.name == 'a"b\\c\nd\te{}'

def stand_in():
    "As much as the written model.py uses of what a server's Python offers it"
    class Tensor:
        def __init__(self, name, a): self.name, self.a = name, a
        def as_numpy(self): return self.a
    m = types.ModuleType('triton_python_backend_utils')
    m.Tensor, m.InferenceResponse = Tensor, lambda output_tensors: {t.name: t.a for t in output_tensors}
    m.get_input_tensor_by_name = lambda request, name: Tensor(name, request['inputs'][name])
    return m

class Asks(dict):
    def requested_output_names(self): return self['wanted']

def test_the_python_model_gives_each_request_its_rows(bundle, tmp_path, monkeypatch):
    folder = to_triton(bundle, tmp_path, 'retina', backend='python', threads=1)
    c = text_format.Parse((folder/'config.pbtxt').read_text(), model_config()())
    facts = {p.key: dict(string_value=p.value.string_value) for p in c.parameters}
    assert (c.backend, len(c.instance_group), c.instance_group[0].count, facts['intra_op_thread_count']['string_value']) == ('python', 1, 1, '1')
    monkeypatch.setitem(sys.modules, 'triton_python_backend_utils', stand_in())
    space = {}
    exec(compile((folder/'1'/'model.py').read_text(), 'model.py', 'exec'), space)
    model = space['TritonPythonModel']()
    model.initialize(dict(model_config=json.dumps(dict(parameters=facts)), model_repository=str(folder), model_version='1'))
    x = np.stack([bundle.preprocess(synth_eye(i, grade=i%5, size=160).image) for i in range(6)])
    asked = [Asks(inputs=dict(image=x[a:z]), wanted=w) for a, z, w in ((0, 1, ['probabilities']), (1, 4, ['cam', 'probabilities']), (4, 6, ['cam']))]
    one, three, two = model.execute(asked)
    assert [sorted(r) for r in (one, three, two)] == [['probabilities'], ['cam', 'probabilities'], ['cam']]
    session = open_session((folder/'1'/'model.onnx').read_bytes(), 1)
    p, cam = session.run(['probabilities', 'cam'], {'image': x})
    assert np.abs(np.concatenate([one['probabilities'], three['probabilities']]) - p[:4]).max() < 1e-6
    assert np.abs(np.concatenate([three['cam'], two['cam']]) - cam[1:]).max() < 1e-4 and len(two['cam']) == 2

def test_instances(bundle, tmp_path):
    for backend, n, want in (('python', 2, [(2, 2)]), ('onnxruntime', 2, [(2, 0)]), ('onnxruntime', 1, [])): # (how many, 2 for the processor)
        folder = to_triton(bundle, tmp_path, f'{backend}{n}', backend=backend, instances=n, threads=1)
        c = text_format.Parse((folder/'config.pbtxt').read_text(), model_config()())
        assert [(g.count, g.kind) for g in c.instance_group] == want

def test_a_backend_that_is_not_known(bundle, tmp_path):
    with pytest.raises(SettingError, match='backend is onnxruntime or python'): to_triton(bundle, tmp_path, 'r', backend='tensorflow')
    assert not (tmp_path/'r').exists()

class Triton(Handler):
    "What a Triton server does with a repository, as far as a client can see"
    def do_GET(self):
        name = self.path.split('/')[3]
        if not (self.server.repository/name).is_dir(): return self.answer(dict(error=f"Request for unknown model: '{name}' is not found"), 404)
        c = text_format.Parse((self.server.repository/name/'config.pbtxt').read_text(), model_config()())
        self.answer(dict(name=c.name, max_batch_size=c.max_batch_size, parameters={p.key: dict(string_value=p.value.string_value) for p in c.parameters}))
    def do_POST(self):
        if self.path == '/v2/repository/index':
            self.body()
            return self.answer([dict(name=p.name, version='1', state='READY') for p in sorted(self.server.repository.iterdir())])
        n, body = int(self.headers['Inference-Header-Content-Length']), self.body()
        head, x = json.loads(body[:n]), body[n:]
        i = head['inputs'][0]
        assert i['datatype'] == 'UINT8' and i['parameters']['binary_data_size'] == len(x)
        self.server.asked = [*getattr(self.server, 'asked', []), i['shape'][0]]
        session = open_session((self.server.repository/self.path.split('/')[3]/'1'/'model.onnx').read_bytes(), 1)
        p = session.run(['probabilities'], {'image': np.frombuffer(x, np.uint8).reshape(i['shape'])})[0]
        self.answer(dict(outputs=[dict(name='probabilities', datatype='FP32', shape=p.shape, data=p.ravel().tolist())]))

def test_a_server_grades_as_the_grader_does(bundle, tmp_path):
    to_triton(bundle, tmp_path, 'retina')
    server = Server(Triton, repository=tmp_path)
    eyes = [synth_eye(i, grade=i, size=200).image for i in range(3)]
    got = ask_triton(server.url, bundle, eyes, name='retina')
    want = [Grader(bundle)(e).probabilities for e in eyes]
    assert np.abs(got - want).max() < 1e-5
    assert ask_triton(server.url, bundle, [], name='retina').shape == (0, 5) and server.asked == [3]

def test_more_than_the_server_takes_at_once(bundle, tmp_path):
    to_triton(bundle, tmp_path, 'retina', max_batch=2)
    server = Server(Triton, repository=tmp_path)
    eyes = [synth_eye(i, grade=i, size=160).image for i in range(5)]
    got = ask_triton(server.url, bundle, eyes, name='retina')
    assert server.asked == [2, 2, 1] and got.shape == (5, 5)
    assert np.abs(got - [Grader(bundle)(e).probabilities for e in eyes]).max() < 1e-5

@pytest.mark.parametrize('old, new, why', [('hash', 'another', 'prepared as another, this bundle prepares them as'), ('id', '0123456789ab', 'bundle 0123456789ab is served there'),
                                           ('preprocess_hash', 'something_else', 'does not say how photographs are prepared')])
def test_another_model_than_the_bundle(bundle, tmp_path, old, new, why):
    to_triton(bundle, tmp_path, 'retina')
    config = tmp_path/'retina'/'config.pbtxt'
    config.write_text(config.read_text().replace(dict(hash=bundle.preprocess.hash, id=bundle.id).get(old, old), new))
    server = Server(Triton, repository=tmp_path)
    with pytest.raises(BundleError, match=why): ask_triton(server.url, bundle, [synth_eye(0, grade=0, size=160).image], name='retina')
    assert not hasattr(server, 'asked')

def test_a_model_that_is_not_there(bundle, tmp_path):
    to_triton(bundle, tmp_path, 'retina')
    server = Server(Triton, repository=tmp_path)
    with pytest.raises(BundleError, match="has no model 'left'; it has: retina"): ask_triton(server.url, bundle, [], name='left')

def config_of(bundle, **more):
    return dict(max_batch_size=8, parameters={k: dict(string_value=v) for k, v in dict(preprocess_hash=bundle.preprocess.hash, bundle=bundle.id).items()}) | more

def said(p, **more): return dict(outputs=[dict(name='probabilities', datatype='FP32', shape=[1, 5], data=p) | more])

class Odd(Handler):
    "A server that answers whatever a test wants"
    def do_GET(self): self.tell(self.server.config)
    def do_POST(self):
        self.body()
        self.tell(self.server.index if self.path.endswith('/index') else self.server.said)
    def tell(self, o):
        if o == 'hang up': self.close_connection = True
        elif o == 'cut':
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"outputs"')
            self.close_connection = True
        elif o == 'noise':
            self.wfile.write(b'220 mail.example ready\r\n')
            self.close_connection = True
        elif isinstance(o, tuple): self.answer(o[1], o[0])
        else: self.answer(o)

@pytest.mark.parametrize('answer', ['hang up', 'cut', 'noise', b'', b'{', b'\xff', [], {}, dict(outputs=3), dict(outputs=[]), dict(outputs=[3]), dict(outputs=[dict(name='cam')]),
                                    dict(outputs=[dict(name='probabilities')]), said([.5, .5]), said([[.5, .5]]), said('abcde'), said([1, 1, 1, 1, 1]), said([2, -1, 0, 0, 0]),
                                    said([float('nan')]*5), said([None]*5), (500, dict(error='out of memory')), (503, b'')], ids=repr)
def test_an_answer_that_is_none(bundle, answer):
    server = Server(Odd, config=config_of(bundle), said=answer, index=[])
    with pytest.raises(BundleError) as e: ask_triton(server.url, bundle, [synth_eye(0, grade=0, size=160).image], name='retina', timeout=5)
    assert server.url in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('config', ['hang up', 'cut', b'', [], 3, {}, dict(parameters=[]), dict(parameters=dict(bundle=3)), dict(parameters=dict(bundle={}, preprocess_hash={})),
                                    (400, dict(error='busy')), (404, b'<html>')], ids=repr)
@pytest.mark.parametrize('index', ['hang up', b'', {}, [3], [dict(name='retina', state='UNAVAILABLE', reason='no\n backend')], [dict(name='retina')]], ids=repr)
def test_a_configuration_that_is_none(bundle, config, index):
    server = Server(Odd, config=config, said={}, index=index)
    with pytest.raises(BundleError) as e: ask_triton(server.url, bundle, [], name='retina', timeout=5)
    assert server.url in str(e.value) and '\n' not in str(e.value)
    if isinstance(config, tuple) and isinstance(index, list) and isinstance(index[0], dict):
        assert 'does not answer: ' + ('no backend' if 'reason' in index[0] else 'it was not loaded') in str(e.value)

@pytest.mark.parametrize('most', [0, -3, None, '8', 1.5], ids=repr)
def test_a_server_that_says_no_number(bundle, most):
    server = Server(Odd, config=config_of(bundle, max_batch_size=most), said=said([.2]*5), index=[])
    assert ask_triton(server.url, bundle, [synth_eye(0, grade=0, size=160).image]*2, name='retina').shape == (2, 5)

def test_command(typed, bundle, tmp_path):
    r = typed('retina_triton', bundle.path, '--out', tmp_path/'repo', '--name', 'eye')
    assert r.returncode == 0 and (tmp_path/'repo'/'eye'/'config.pbtxt').is_file()
    assert 'numpy' not in r.stdout
    r = typed('retina_triton', bundle.path, '--out', tmp_path/'repo', '--name', 'plain', '--backend', 'python')
    assert r.returncode == 0 and 'whose Python needs numpy and onnxruntime' in r.stdout and (tmp_path/'repo'/'plain'/'1'/'model.py').is_file()
    for args in ((bundle.path, '--out', tmp_path/'repo', '--name', 'eye'), (tmp_path,), (bundle.path, '--out', tmp_path/'r3', '--backend', 'tensorrt'),
                 (bundle.path, '--out', tmp_path/'r2', '--precision', 'int8')):
        r = typed('retina_triton', *args)
        assert r.returncode == 2 and r.stderr.count('\n') == 1, r

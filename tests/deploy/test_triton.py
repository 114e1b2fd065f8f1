"Triton: the written configuration against the documented schema, and its protocol against a server on this machine."
import json

import numpy as np, pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from retina_nb.core import BundleError
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
    ModelInstanceGroup='name:s count:i gpus:*i profile:*s passive:b',
    ModelWarmup='name:s batch_size:i inputs:*WarmupInput count:i',
    WarmupInput='key:s value:Input', Input='data_type:DataType dims:*i zero_data:b random_data:b input_data_file:s',
    Parameter='key:s value:ModelParameter', ModelParameter='string_value:s')
ENUMS = dict(DataType='TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 TYPE_INT64 TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16',
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

class Triton(Handler):
    "What a Triton server does with a repository, as far as a client can see"
    def do_GET(self):
        name = self.path.split('/')[3]
        c = text_format.Parse((self.server.repository/name/'config.pbtxt').read_text(), model_config()())
        self.answer(dict(name=c.name, parameters={p.key: dict(string_value=p.value.string_value) for p in c.parameters}))
    def do_POST(self):
        n, body = int(self.headers['Inference-Header-Content-Length']), self.body()
        head, x = json.loads(body[:n]), body[n:]
        i = head['inputs'][0]
        assert i['datatype'] == 'UINT8' and i['parameters']['binary_data_size'] == len(x)
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
    config = tmp_path/'retina'/'config.pbtxt'
    config.write_text(config.read_text().replace(bundle.preprocess.hash, 'another'))
    with pytest.raises(BundleError, match='prepared as another'): ask_triton(server.url, bundle, eyes, name='retina')

def test_command(typed, bundle, tmp_path):
    r = typed('retina_triton', bundle.path, '--out', tmp_path/'repo', '--name', 'eye')
    assert r.returncode == 0 and (tmp_path/'repo'/'eye'/'config.pbtxt').is_file()
    for args in ((bundle.path, '--out', tmp_path/'repo', '--name', 'eye'), (tmp_path,),
                 (bundle.path, '--out', tmp_path/'r2', '--precision', 'int8')):
        r = typed('retina_triton', *args)
        assert r.returncode == 2 and r.stderr.count('\n') == 1, r

"Triton and the hub: the written configuration against the documented schema, and both protocols against servers on this machine."
import base64, json, re, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np, pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from retina_nb.deploy.bundle import load_bundle, open_session, write_sums
from retina_nb.core import BundleError, SettingError, file_sha256
from retina_nb.deploy.grader import Grader
from retina_nb.deploy.hub import ask_triton, pbtxt, pull, push, to_triton, triton_config
from retina_nb.synth.render import synth_eye
from random_model import shared

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

# ---- servers

class Server(ThreadingHTTPServer):
    def __init__(self, handler, **state):
        super().__init__(('127.0.0.1', 0), handler)
        self.__dict__.update(state)
        threading.Thread(target=self.serve_forever, daemon=True).start()
    @property
    def url(self): return f'http://127.0.0.1:{self.server_port}'

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def body(self):
        if self.headers.get('Transfer-Encoding') == 'chunked':
            out = b''
            while n := int(self.rfile.readline(), 16): out += self.rfile.read(n); self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    def answer(self, obj, status=200, headers={}):
        data = obj if isinstance(obj, bytes) else json.dumps(obj).encode()
        self.send_response(status)
        for k,v in {'Content-Length': len(data), 'Content-Type': 'application/json', **headers}.items(): self.send_header(k, str(v))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(data)

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
    got = ask_triton(server.url, bundle, eyes, 'retina')
    want = [Grader(bundle)(e).probabilities for e in eyes]
    assert np.abs(got - want).max() < 1e-5
    config = tmp_path/'retina'/'config.pbtxt'
    config.write_text(config.read_text().replace(bundle.preprocess.hash, 'another'))
    with pytest.raises(BundleError, match='prepared as another'): ask_triton(server.url, bundle, eyes, 'retina')

class Hub(Handler):
    "The part of a hub's interface that huggingface_hub uses for small files: `files` is its one repository"
    def do_GET(self):
        path, files = unquote(urlsplit(self.path).path), self.server.files
        if m := re.fullmatch('/api/models/me/retina(/revision/.*)?', path):
            return self.answer(dict(id='me/retina', sha='c'*40, siblings=[dict(rfilename=f, size=self.server.sizes.get(f, len(d)), blobId='b'*40) for f,d in files.items()]))
        if path.startswith('/api/models/me/retina/tree/'): return self.answer([dict(type='file', path=f, size=len(d), oid='b'*40) for f,d in files.items()])
        if (m := re.fullmatch('/me/retina/resolve/[^/]+/(.+)', path)) and m[1] in files:
            self.server.asked.append(m[1])
            return self.answer(files[m[1]], headers={'ETag': f'"{hash(files[m[1]])}"', 'X-Repo-Commit': 'c'*40, 'Content-Type': 'application/octet-stream'})
        self.answer(dict(error='Repository not found'), 404, {'X-Error-Code': 'RepoNotFound'})
    do_HEAD = do_GET
    def do_POST(self):
        body, path = self.body(), urlsplit(self.path).path
        if path == '/api/repos/create': self.server.private = body.decode(); return self.answer(dict(url=self.server.url + '/me/retina', name='me/retina', id='me/retina'))
        if path.endswith('/preupload/main'): return self.answer(dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False) for f in json.loads(body)['files']]))
        if path.endswith('/commit/main'):
            self.server.commits += 1
            for line in map(json.loads, body.decode().splitlines()):
                if line['key'] == 'file': self.server.files[line['value']['path']] = base64.b64decode(line['value']['content'])
                elif line['key'] == 'deletedFile': del self.server.files[line['value']['path']]
            return self.answer(dict(success=True, commitOid='c'*40, commitUrl=self.server.url + '/me/retina/commit/' + 'c'*40))
        self.answer(dict(), 200)

@pytest.fixture
def hub(monkeypatch, tmp_path):
    import huggingface_hub.constants as C
    monkeypatch.setattr(C, 'HF_HUB_CACHE', str(tmp_path/'hub-cache'))
    return Server(Hub, files={}, sizes={}, asked=[], commits=0, private=None)

def send(bundle, hub): return push(bundle, 'me/retina', endpoint=hub.url, token='hf_x')
def get(hub, out): return pull('me/retina', out, endpoint=hub.url, token='hf_x')

def test_there_and_back(bundle, hub, tmp_path):
    hub.files.update({'model.fp32.onnx': b'of an older bundle', 'notes.md': b'mine'})
    assert '/commit/' in send(bundle, hub) and hub.commits == 1 and '"visibility":"private"' in hub.private.replace(' ', '')
    assert set(hub.files) == {*bundle.sums, 'SHA256SUMS', 'README.md', 'notes.md'}
    assert hub.files['README.md'].startswith(b'---\nlibrary_name: retina_nb\n')
    out = get(hub, tmp_path/'got')
    assert {str(f.relative_to(out)) for f in out.rglob('*') if f.is_file()} == {*bundle.sums, 'SHA256SUMS'} and 'notes.md' not in hub.asked
    assert load_bundle(out).id == bundle.id and all(file_sha256(out/f) == h for f,h in bundle.sums.items())
    with pytest.raises(BundleError, match='exists already'): get(hub, out)

@pytest.mark.parametrize('fault, word', [('changed', 'config.json'), ('missing', 'it has no model.onnx'), ('large', 'more than the'), ('nothing', 'no config.json|no SHA256SUMS')])
def test_what_comes_is_checked(bundle, hub, tmp_path, fault, word):
    send(bundle, hub)
    if fault == 'changed': hub.files['config.json'] = hub.files['config.json'].replace(b'"seed"', b'"sxxd"')
    if fault == 'missing': del hub.files['model.onnx']
    if fault == 'large': hub.sizes['card.md'] = 2**40
    if fault == 'nothing': hub.files = {'pytorch_model.bin': b'\x80\x04cposix\nsystem\n'}
    with pytest.raises(BundleError, match=word) as e: get(hub, tmp_path/'got')
    assert str(e.value).startswith('me/retina: ') and '\n' not in str(e.value)
    assert not [f for f in tmp_path.iterdir() if f.name != 'hub-cache']

def test_unknown_repository(bundle, hub, tmp_path):
    with pytest.raises(BundleError, match='me/other'): pull('me/other', tmp_path/'got', endpoint=hub.url, token='hf_x')

def test_commands(command, bundle, tmp_path):
    r = command('retina_triton', bundle.path, '--out', tmp_path/'repo', '--name', 'eye')
    assert r.returncode == 0 and (tmp_path/'repo'/'eye'/'config.pbtxt').is_file()
    for args in (('retina_triton', bundle.path, '--out', tmp_path/'repo', '--name', 'eye'), ('retina_triton', tmp_path),
                 ('retina_triton', bundle.path, '--out', tmp_path/'r2', '--precision', 'int8'),
                 ('retina_push', bundle.path, 'me/x', '--endpoint', 'http://127.0.0.1:9'), ('retina_pull', 'me/x', tmp_path/'p', '--endpoint', 'http://127.0.0.1:9'),
                 ('retina_pull', 'a/b/c', tmp_path/'p')):
        r = command(*args)
        assert r.returncode == 2 and r.stderr.count('\n') == 1, (args, r.stderr)

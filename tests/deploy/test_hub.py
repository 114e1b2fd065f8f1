"The hub: its protocol, as huggingface_hub speaks it, against a server on this machine."
import base64, json, re
from urllib.parse import unquote, urlsplit

import pytest

from retina_nb.core import BundleError
from retina_nb.disk import file_sha256
from retina_nb.deploy import load_bundle, pull_bundle, push_bundle
from random_model import shared
from servers import Handler, Server

pytest.importorskip('huggingface_hub', reason='huggingface_hub is not installed')

@pytest.fixture(scope='module')
def bundle(): return load_bundle(shared()[1])

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

def send(bundle, hub): return push_bundle(bundle, 'me/retina', endpoint=hub.url, token='hf_x')
def get(hub, out): return pull_bundle('me/retina', out, endpoint=hub.url, token='hf_x')

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
    with pytest.raises(BundleError, match='me/other'): pull_bundle('me/other', tmp_path/'got', endpoint=hub.url, token='hf_x')

def test_commands(typed, bundle, tmp_path):
    for args in (('retina_push', bundle.path, 'me/x', '--endpoint', 'http://127.0.0.1:9'),
                 ('retina_pull', 'me/x', tmp_path/'p', '--endpoint', 'http://127.0.0.1:9'), ('retina_pull', 'a/b/c', tmp_path/'p')):
        r = typed(*args)
        assert r.returncode == 2 and r.stderr.count('\n') == 1, r

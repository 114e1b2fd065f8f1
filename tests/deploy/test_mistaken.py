"One thing for another: named before anything is trusted, without a look where a stranger's file points."
import json, os, sys

import pytest

from retina_nb.core import BundleError
from retina_nb.deploy import load_bundle
from retina_nb.deploy.mistaken import mistaken

posix = pytest.mark.skipif(os.name == 'nt', reason='links and pipes of POSIX')
OPENED = []
sys.addaudithook(lambda event, args: OPENED.append(os.path.realpath(args[0])) if event == 'open' and isinstance(args[0], (str, os.PathLike)) else None)

def opened_by(f, path):
    "The files under a folder that a call opens, wherever links lead, and what it says"
    OPENED.clear(); said = f(path); return sorted({o for o in OPENED if o.startswith(str(path.parent.resolve()))}), said

def refusal(path):
    with pytest.raises(BundleError) as e: load_bundle(path)
    return str(e.value)

@pytest.fixture
def folder(tmp_path): (tmp_path/'b').mkdir(); return tmp_path/'b'

RUN, BUNDLE = json.dumps(dict(arch='resnet18')), json.dumps(dict(format='retina_nb bundle'))

@posix
@pytest.mark.parametrize('kind', ('link', 'pipe', 'folder', 'huge', 'list', 'number', 'deep', 'damaged'))
def test_settings_that_are_none(folder, kind):
    "config.json is no hint where it is a link, a pipe, too large or no settings; nothing waits, nothing else is opened"
    file, secret = folder/'config.json', folder.parent/'secret.json'
    secret.write_text(RUN)
    if kind == 'link': file.symlink_to(secret)
    elif kind == 'pipe': os.mkfifo(file)
    elif kind == 'folder': file.mkdir()
    elif kind == 'huge': file.write_text(RUN + ' '*2**20)
    else: file.write_text(dict(list=f'[{RUN}]', number='3', deep='['*100_000, damaged=RUN[:-1])[kind])
    seen, said = opened_by(mistaken, folder)
    assert said == '' and str(secret.resolve()) not in seen and (kind not in ('link', 'pipe', 'folder') or seen == [])
    assert 'not a bundle' in refusal(folder)
    if kind in ('huge', 'list'):
        file.write_text(RUN); assert 'is a run' in mistaken(folder)

def test_what_hashes_vouch_for_is_not_read_before_them(folder):
    for name, text in (('config.json', RUN), ('SHA256SUMS', 'x'), ('model.onnx', 'x')): (folder/name).write_text(text)
    seen, said = opened_by(mistaken, folder)
    assert (seen, said) == ([], '')
    assert opened_by(refusal, folder)[0] == [str((folder/'SHA256SUMS').resolve())]
    assert 'is a bundle, not a run' in mistaken(folder, 'run')

@posix
def test_a_link_without_an_ending_is_not_looked_into(folder):
    "A DICOM file may have no ending, so that its first bytes are read: never those of a file elsewhere"
    secret = folder.parent/'secret'; secret.write_bytes(b'\0'*128 + b'DICM' + b'\0'*200)
    (folder/'IM0001').symlink_to(secret)
    assert opened_by(mistaken, folder) == ([], '')
    (folder/'eye.jpg').symlink_to(secret)
    seen, said = opened_by(mistaken, folder)
    assert seen == [] and 'is a folder of images' in said

def test_nothing_there(tmp_path, monkeypatch, typed):
    "Where it was looked for, what is close by, and what makes one; also for the place where make panel looks"
    monkeypatch.chdir(tmp_path)
    said = refusal('runs/demo/bundle')
    assert said == (f"runs/demo/bundle: no such bundle folder (looked for {tmp_path/'runs/demo/bundle'}): "
                    'make demo (in a checkout) or retina_demo makes a first one, retina_export makes one from a run')
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'SHA256SUMS').touch()
    assert f"; there is {tmp_path/'mine'}): " in refusal('mien') and 'retina_train' in mistaken('mien', 'run')
    for args in (('retina_panel', tmp_path/'mien'), ('retina_grade', tmp_path/'mien', 'photo.jpg')):
        r = typed(*args)
        assert r.returncode == 2 and r.stderr.count('\n') == 1 and 'looked for' in r.stderr and str(tmp_path/'mine') in r.stderr and 'retina_demo' in r.stderr, r

@posix
def test_from_a_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path/'gone').mkdir(); monkeypatch.chdir(tmp_path/'gone'); (tmp_path/'gone').rmdir()
    assert refusal('runs/demo/bundle') == 'runs/demo/bundle: no such bundle folder'

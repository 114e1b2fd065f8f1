"Data sets at addresses: read, checked, cached, graded and sent there as those on a disk are"
import os, shutil
from pathlib import Path

import pandas as pd, pytest

from retina_nb.core import DataError, ImageError, SettingError
from retina_nb.data import cache_records, check_records, content_keys, describe_source, load_records, near_records, on_disk, push_folder, require_usable, split_records
from retina_nb.image import image_size, is_image_file, read_image, sha256
from retina_nb.storage import StorageError, place_at
from retina_nb.synth import synth_dataset
from stores import KEYS

@pytest.fixture(scope='module')
def eyes(tmp_path_factory): return Path(shutil.copytree(synth_dataset(8, seed=5), tmp_path_factory.mktemp('eyes')/'set'))

@pytest.fixture
def there(s3, eyes):
    push_folder(eyes, s3, progress=False)
    return s3

def same(a, b):
    columns = ['label', 'patient', 'eye', 'split', 'source']
    pd.testing.assert_frame_equal(a[columns], b[columns])

def test_a_data_set_at_an_address_is_what_it_is_on_disk(there, eyes):
    far, here = load_records(there + '/'), load_records(eyes)
    same(far, here)
    assert far.attrs['problems'] == [] and far.attrs['layout'] == here.attrs['layout'] and far.attrs['root'] == there
    assert all(f.startswith(f'{there}/images/') for f in far.image) and on_disk(far.image).all() and len(check_records(far)) == 0
    for f, h in zip(far.image[:2], here.image):
        assert (read_image(f) == read_image(h)).all() and image_size(f) == image_size(h) and sha256(f) == sha256(h) and is_image_file(f)
    assert describe_source(far) == describe_source(here) and describe_source(far[['image']])['synthetic'] == 8
    same(load_records(f'{there}/records.csv'), here)

@pytest.mark.parametrize('layout', ['folders', 'aptos', 'pairs', 'bare'])
def test_known_layouts_at_an_address(s3, eyes, tmp_path, layout):
    here, set_ = load_records(eyes), tmp_path/'set'
    set_.mkdir()
    for i, r in here.iterrows():
        name = set_/(f'{r.label}' if layout == 'folders' else 'images')/f'{i} ü+%20.png'
        name.parent.mkdir(exist_ok=True)
        shutil.copy(r.image, name)
    if layout == 'aptos': (set_/'train.csv').write_text('id_code,diagnosis\n' + ''.join(f'{i} ü+%20,{r.label}\n' for i, r in here.iterrows()))
    if layout == 'pairs':
        (set_/'train_img.csv').write_text(''.join(f'{i} ü+%20\n' for i in here.index))
        (set_/'train_label.csv').write_text(''.join(f'{n}\n' for n in here.label))
    push_folder(set_, s3, progress=False)
    far, near = load_records(s3, warn=False), load_records(set_, warn=False)
    same(far.assign(source=''), near.assign(source=''))
    assert far.attrs['layout'] == near.attrs['layout'] and [Path(f).name for f in far.image] == [Path(f).name for f in near.image]
    assert [p['what'] for p in far.attrs['problems']] == [p['what'] for p in near.attrs['problems']] and on_disk(far.image).all()
    if layout == 'bare': assert far.label.isna().all()

def test_a_table_of_addresses(there, eyes, tmp_path):
    here = load_records(eyes)
    names = [f'{there}/images/{Path(f).name}' for f in here.image[:3]] + [f'{there}/images/gone.jpg', Path(here.image[3]).as_uri(), 's3://nowhere/1.jpg']
    pd.DataFrame(dict(image=names, label=[0, 1, 2, 3, 4, 0], patient=list('abcdef'))).to_csv(tmp_path/'mine.csv', index=False)
    r = load_records(tmp_path/'mine.csv', warn=False)
    assert r.image.tolist() == names and on_disk(r.image).tolist() == [True]*3 + [False, True, False]
    assert [p['what'].partition(';')[0] for p in r.attrs['problems']] == ['2 of its 6 images are not on disk']
    with pytest.raises(DataError, match='gone.jpg is not on disk'): require_usable(r)

def test_the_same_picture_twice_is_seen(there, eyes):
    place, first = place_at(there), load_records(eyes).image[0]
    place.write('images/zz_left.png', Path(first).read_bytes())
    keys = content_keys([f'{there}/images/{Path(first).name}', f'{there}/images/zz_left.png', f'{there}/records.csv'])
    assert keys[0] == keys[1] != '' and keys[2] == ''

def test_a_broken_picture_is_named(there):
    place, bad = place_at(there), sorted(f.name for f in place_at(there).files('images'))[2]
    place.write(bad, b'\xff\xd8\xff no eye')
    r = load_records(there)
    found = check_records(r)
    assert found.kind.tolist() == ['unreadable'] and found.file.tolist() == [f'{there}/{bad}']
    for f in read_image, image_size:
        with pytest.raises(ImageError, match=there): f(f'{there}/{bad}')
    for f in read_image, image_size, sha256:
        with pytest.raises(ImageError, match='nothing of this name'): f(f'{there}/none.jpg')

def test_a_cache_of_an_address_does_nothing_twice(there, tmp_path, monkeypatch):
    out, r = tmp_path/'c', load_records(there)
    assert cache_records(r, out, size=64, progress=False, workers=1)['n_new'] == 8
    place, names = place_at(there), sorted(f.name for f in place_at(there).files('images'))
    place.write(names[0], b'x'*place.size(names[0])) # of the same size
    read, n = __import__('retina_nb.data.cache', fromlist=['_']), []
    inner = read._file_bytes
    monkeypatch.setattr(read, '_file_bytes', lambda f: n.append(f) or inner(f))
    c = cache_records(load_records(there, warn=False), out, size=64, progress=False, workers=1)
    assert (c['n_new'], c['n_unreadable'], n) == (0, 1, [f'{there}/{names[0]}'])

def test_training_reads_a_copy_that_lies_here(there, eyes):
    assert near_records(load_records(eyes)).image.tolist() == load_records(eyes).image.tolist()
    r = near_records(load_records(there), size=64, progress=False)
    assert on_disk(r.image).all() and not any('://' in f for f in r.image) and len(split_records(r)) == 8
    assert near_records(load_records(there), size=64, progress=False).image.tolist() == r.image.tolist()

def test_an_address_can_be_graded(there):
    from random_model import shared
    from retina_nb.deploy import Grader
    from retina_nb.deploy.grader import image_files
    grader, names = Grader(shared()[1]), image_files(there)
    assert len(names) == 8 and image_files(names[0]) == [names[0]]
    got = list(grader.grade_many([names[0], f'{there}/none.jpg', names[1]], grade_anyway=True))
    assert [g.file for g in got] == [names[0], f'{there}/none.jpg', names[1]] and 'nothing of this name' in got[1].error
    assert got[0].probabilities == grader(place_at(there).read(names[0][len(there)+1:]), grade_anyway=True).probabilities

@pytest.mark.parametrize('where, error, says', [('nothing', DataError, 'nothing at this address'), ('none.csv', StorageError, 'nothing of this name'), ('none.npz', DataError, 'no such file')])
def test_what_is_not_there(s3, where, error, says):
    with pytest.raises(error, match=says) as e: load_records(f'{s3}/{where}')
    assert '\n' not in str(e.value)

def test_web_servers_are_not_listed(s3):
    with pytest.raises(DataError, match='cannot be listed'): load_records('https://clinic.example/eyes')

def test_sent_once_and_never_over_others(s3, eyes, tmp_path):
    n = sum(f.is_file() for f in eyes.rglob('*'))
    first = push_folder(eyes, s3, progress=False)
    assert (first.files, first.sent) == (n, n) and push_folder(eyes, s3, progress=False).sent == 0
    place, name = place_at(s3), load_records(eyes).image[0]
    name = Path(name).relative_to(eyes).as_posix()
    place.write(name, b'of somebody else')
    place.drop('records.csv')
    with pytest.raises(DataError, match='another content'): push_folder(eyes, s3, progress=False)
    assert place.read(name) == b'of somebody else' and place.read('records.csv') == (eyes/'records.csv').read_bytes()
    assert push_folder(eyes, s3, replace=True, progress=False).sent == 1 and place.read(name) == (eyes/name).read_bytes()

@pytest.mark.skipif(os.name == 'nt', reason='links and pipes of POSIX')
def test_what_cannot_be_sent_keeps_nothing_else_back(s3, eyes, tmp_path, typed):
    "Links to nothing, pipes, names that no store takes: one line names them, all else is there, and a run that lacks some of it has no seal yet"
    whole = Path(shutil.copytree(eyes, tmp_path/'set'))
    for run in ('whole', 'torn'):
        (whole/run).mkdir()
        for f in ('model', 'SHA256SUMS'): (whole/run/f).write_text(run)
    bad = [whole/'torn'/'dead', whole/'images'/'dead.jpg', whole/'images'/'pipe.jpg', whole/'images'/'new\nline.jpg', whole/os.fsdecode(b'odd\xff.jpg')]
    for f in bad[:2]: f.symlink_to('nothing')
    os.mkfifo(bad[2])
    for f in bad[3:]: f.write_bytes(b'x')
    n = 9 + 4
    for _ in range(2):
        r = typed('retina_push', whole, s3)
        assert r.returncode == 2 and r.stderr.count('\n') == 1 and f'{s3}: 6 of {n + 5} files not sent (' in r.stderr, r.stderr
        for said in ('images/dead.jpg and 1 more: is a link to nothing', 'is a pipe', 'change or refuse', 'odd\\xff.jpg: its name is no text', 'torn/SHA256SUMS: waits'):
            assert said in r.stderr, (said, r.stderr)
        assert len({f.name for f in place_at(s3).files()}) == n - 1 and place_at(s3).size('whole/SHA256SUMS') > 0 > place_at(s3).size('torn/SHA256SUMS')
    for f in bad: f.unlink()
    r = typed('retina_push', whole, s3)
    assert r.returncode == 0 and f'{n} files, 1 sent' in r.stdout and place_at(s3).size('torn/SHA256SUMS') > 0

def test_a_store_that_goes_away_stops_an_upload(s3, eyes, monkeypatch):
    "That is no fault of a file: nothing more is tried"
    store, n = type(place_at(s3)), []
    create = store.create
    def cut(self, name, data):
        n.append(name)
        if len(n) > 2: raise StorageError(self.at(name), 'cannot be reached', 'unreachable')
        return create(self, name, data)
    with monkeypatch.context() as m:
        m.setattr(store, 'create', cut)
        with pytest.raises(StorageError, match='cannot be reached'): push_folder(eyes, s3, progress=False)
    have = len(list(place_at(s3).files()))
    assert have == 2 and push_folder(eyes, s3, progress=False).sent == 9 - have

def test_an_upload_that_was_stopped_goes_on(s3, eyes, monkeypatch):
    import retina_nb.data.upload as m
    inner, n = m._send, []
    def stopping(place, name, *rest):
        n.append(name)
        if len(n) > 4: raise KeyboardInterrupt
        return inner(place, name, *rest)
    with monkeypatch.context() as k:
        k.setattr(m, '_send', stopping)
        with pytest.raises(KeyboardInterrupt): push_folder(eyes, s3, progress=False)
    have = {f.name for f in place_at(s3).files()}
    assert 0 < len(have) < 9 and push_folder(eyes, s3, progress=False).sent == 9 - len(have)

def test_the_command_that_sends(typed, s3, eyes, cloud_env):
    r = typed('retina_push', eyes, s3)
    assert r.returncode == 0 and '9 files, 9 sent' in r.stdout and '0 sent' in typed('retina_push', eyes, s3).stdout
    cloud_env.setenv('AWS_SECRET_ACCESS_KEY', 'guessed')
    r = typed('retina_push', eyes, s3)
    assert r.returncode == 2 and 'may not' in r.stderr and KEYS['AWS_SECRET_ACCESS_KEY'] not in r.stderr + r.stdout and r.stderr.count('\n') < 4
    assert typed('retina_push', eyes, 'https://clinic.example/x').returncode == 2
    with pytest.raises(SettingError): push_folder(eyes, 'ftp://clinic/x')

@pytest.mark.full
def test_explored_and_trained_at_an_address(command, s3, tmp_path):
    push_folder(synth_dataset(60, seed=3), s3, progress=False)
    assert command('retina_explore', s3, '--out', tmp_path/'x').returncode == 0
    for n in range(2):
        r = command('retina_train', s3, '--out', tmp_path/f'run{n}', '--epochs', 1, '--size', 64, '--no_pretrained')
        assert r.returncode == 0, r.stderr
    assert (tmp_path/'run0'/'predictions.csv').read_bytes() == (tmp_path/'run1'/'predictions.csv').read_bytes()

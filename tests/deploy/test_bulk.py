"Bulk grading: every image exactly once in the result, whatever is killed, changed, gone or in the way meanwhile"
import contextlib, errno, functools, hashlib, io, os, random, shutil, signal, subprocess, sys, tempfile, threading, time, tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from retina_nb.core import BundleError, DataError, RunError, SettingError
from retina_nb.deploy import Grader, grading_columns
from retina_nb.deploy import bulk, shards as shards_room
from retina_nb.deploy.bulk import finish_bulk, grade_shard
from retina_nb.deploy.bulk_run import grade_bulk
from retina_nb.deploy.shards import plan_shards, read_plan, read_shard
from retina_nb.storage import StorageError, place_at
from retina_nb.synth import synth_eye

from random_model import shared
from servers import Handler, Server

def inline(jobs, **_): return map(grade_shard, jobs)  # an engine that needs no processes

HOW = dict(engine=inline, per_shard=3, progress=False)

@pytest.fixture(scope='module')
def bundle(): return str(shared()[1])

@pytest.fixture(autouse=True)
def opened_once(monkeypatch):
    "A plan opens the model to ask for its settings; here once for all plans"
    monkeypatch.setattr(shards_room, 'Grader', GRADER)

GRADER = functools.cache(shards_room.Grader)

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Eleven files to copy from: eight eyes, one of them a second time, one that is no image, and one without a name that is text"
    folder = tmp_path_factory.mktemp('photos')/'eyes'
    (folder/'more').mkdir(parents=True)
    for i in range(8): Image.fromarray(synth_eye(i, size=72).image).save(folder/('more' if i > 5 else '')/f'{i}.png')
    shutil.copy(folder/'2.png', folder/'more'/'2 again.png')
    (folder/'bad.jpg').write_text('hello')
    shutil.copy(folder/'1.png', os.fsencode(folder) + b'/odd\xff.png')
    (folder/'.hidden.png').write_bytes(b'x')
    (folder/'notes.txt').write_text('x')
    return folder

@pytest.fixture
def eyes(photos, tmp_path): return Path(shutil.copytree(photos, tmp_path/'eyes'))

def tables(out, folder='index'):
    place = place_at(str(out))
    found = [pd.read_parquet(io.BytesIO(place.read(f.name))) for f in place.files(folder)]
    return pd.concat(found, ignore_index=True)

def rows(out): # all, also of files that are there twice
    place, plan = place_at(str(out)), read_plan(out)
    return pd.concat([pd.read_parquet(io.BytesIO(place.read(plan.job(k)['result']))) for k in range(len(plan.shards))], ignore_index=True)

def names(table): return sorted(f.rpartition('/')[2] for f in table.file)

def everything(out):
    "What a grading leaves behind, without where it lies"
    place = place_at(str(out))
    return {f.name: place.read(f.name) for f in place.files() if not f.name.startswith('.')}

def write_all(where, folder):
    for f in sorted(folder.rglob('*')):
        if f.is_file() and not f.name.startswith('odd'): place_at(where).write(f.relative_to(folder).as_posix(), f.read_bytes())

def test_rows_are_those_of_grade_many(bundle, eyes, tmp_path):
    found = grade_bulk(bundle, eyes, tmp_path/'out', **HOW)
    grader, table = Grader(bundle), rows(tmp_path/'out')
    files = sorted(p for p in eyes.rglob('*') if p.suffix in ('.png', '.jpg') and not p.name.startswith('.'))
    alone = pd.DataFrame([g.to_row() for g in grader.grade_many(files)]).set_index('file')
    assert list(table)[:-4] == grading_columns(grader.task) and list(table)[-4:] == ['sha256', 'bytes', 'shard', 'bundle']
    assert sorted(table.file) == sorted(alone.index) and len(table) == 11
    for r in table.to_dict('records'):
        for c, v in alone.loc[r['file']].items():
            empty = v == '' or v is None or (isinstance(v, float) and np.isnan(v))
            assert pd.isna(r[c]) or r[c] == '' if empty else r[c] == v, (r['file'], c, r[c], v)
    assert (found['images'], found['graded'], found['unreadable'], found['ungradable']) == (11, 10, 1, 0)
    assert found['photographs'] == 9 and found['duplicates'] == 2 == len(tables(tmp_path/'out', 'duplicates'))
    assert sum(found['grades'].values()) == 8 and set(table.bundle) == {grader.bundle.id}
    assert len(tables(tmp_path/'out')) == 9 and tables(tmp_path/'out').sha256.is_unique
    same = tables(tmp_path/'out', 'duplicates')
    assert names(same) == ['2 again.png', 'odd\\xff.png'] and sorted(f[-5:] for f in same.same_as) == ['1.png', '2.png']

def test_an_object_store_gives_what_a_folder_does(bundle, eyes, tmp_path, s3):
    write_all(f'{s3}/eyes', eyes)
    write_all(f'{s3}/bundle', Path(bundle))
    here, there = tmp_path/'out', f'{s3}/out'
    (eyes/os.fsdecode(b'odd\xff.png')).unlink()
    assert grade_bulk(bundle, eyes, here, **HOW) | dict(where='', problems=[]) == \
        grade_bulk(f'{s3}/bundle', f'{s3}/eyes/', there, **HOW) | dict(where='', problems=[])
    a, b = rows(here), rows(there)
    assert list(b.file) == [f"{s3}/eyes/{Path(f).relative_to(eyes).as_posix()}" for f in a.file]
    pd.testing.assert_frame_equal(a.drop(columns='file'), b.drop(columns='file'))
    assert not [f for f in everything(there) if f.endswith('.tmp')]
    before = everything(there)
    grade_bulk(f'{s3}/bundle', f'{s3}/eyes', there, **HOW)
    assert everything(there) == before

def test_input_that_changes_meanwhile(bundle, eyes, tmp_path, s3):
    "A photograph that is gone or another is an error row, and is never graded under the name of the one that was listed"
    write_all(f'{s3}/eyes', eyes)
    (eyes/os.fsdecode(b'odd\xff.png')).unlink()
    for where, out in ((str(eyes), str(tmp_path/'out')), (f'{s3}/eyes', f'{s3}/out')):
        plan, place = plan_shards(where, out, bundle=bundle, per_shard=4), place_at(where)
        data = place.read('1.png')
        time.sleep(.02)
        place.drop('0.png')
        place.write('1.png', place.read('2.png'))
        place.write('3.png', data[:-1] + b'!')  # of the same size
        place.write('4 new.png', data)
        if where == str(eyes): assert os.stat(eyes/'3.png').st_size == os.stat(eyes/'3.png').st_size
        assert not any(grade_shard(j)['error'] for j in plan.left())
        table = rows(out).set_index('file')
        said = {f.rpartition('/')[2]: e for f, e in table.error.items() if e}
        assert said.pop('bad.jpg') and said.pop('0.png') == 'no such file'
        assert set(said) <= {'1.png', '3.png'} and said['1.png'].startswith('was changed after it had been listed')
        assert '3.png' in said and '4 new.png' not in names(table.reset_index()) and len(table) == 10
        assert set(table.sha256[table.error.str.contains('changed')]) == {''}
        assert finish_bulk(out)['unreadable'] == 4

def test_a_store_that_cannot_be_reached_makes_no_error_rows(bundle, eyes, tmp_path, s3, monkeypatch):
    write_all(f'{s3}/eyes', eyes)
    plan, out = plan_shards(f'{s3}/eyes', tmp_path/'out', bundle=bundle, per_shard=4), tmp_path/'out'
    store = type(place_at(s3))
    read = store.read
    def cut(self, name, *args):
        if name == '5.png': raise StorageError(self.at(name), 'it cannot be reached', 'unreachable')
        return read(self, name, *args)
    with monkeypatch.context() as m:
        m.setattr(store, 'read', cut)
        with pytest.raises(RunError, match=r'of 3 shards are done; shard .* it cannot be reached; the same command goes on'):
            grade_bulk(bundle, f'{s3}/eyes', out, **HOW | dict(per_shard=4))
    assert not (out/'summary.json').exists()
    done = [grade_shard(j) for j in plan.left()]
    assert any('5.png' in [f.name for f in read_shard(place_at(str(out)), t['shard'])[0]] for t in done)
    for f in out.glob('*.parquet'): f.unlink()
    found = grade_bulk(bundle, f'{s3}/eyes', out, **HOW | dict(per_shard=4))
    assert found['unreadable'] == 1 and names(rows(out)) == sorted(f.rpartition('/')[2] for f in rows(out).file)

def test_a_disk_that_is_no_longer_mounted(bundle, eyes, tmp_path):
    plan = plan_shards(eyes, tmp_path/'out', bundle=bundle, per_shard=4)
    eyes.rename(tmp_path/'away')
    for there in (False, True):
        if there: eyes.mkdir()
        told = [grade_shard(j) for j in plan.left()]
        assert len(told) == 3 and all('is it still mounted?' in t['error'] for t in told)
    assert not list((tmp_path/'out').glob('*.parquet'))

def test_keys_that_ran_out_make_no_error_rows(bundle, eyes, s3, tmp_path, monkeypatch):
    write_all(f'{s3}/eyes', eyes)
    plan = plan_shards(f'{s3}/eyes', tmp_path/'out', bundle=bundle, per_shard=4)
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'another-secret')
    told = [grade_shard(j) for j in plan.left()]
    assert all('these keys may not' in t['error'] for t in told) and not list((tmp_path/'out').glob('*.parquet'))
    assert 'another-secret' not in str(told)

def test_a_table_of_images(bundle, eyes, tmp_path, s3):
    "Paths beside it, full paths, addresses, what is missing, and one image in two rows: each row is graded"
    write_all(f'{s3}/eyes', eyes)
    csv = eyes/'records.csv'
    lines = ['0.png', str(eyes/'1.png'), f'{s3}/eyes/2.png', 'missing.png', f'{s3}/eyes/missing.png', '0.png', 'more/6.png']
    csv.write_text('image,label\n' + ''.join(f'{f},0\n' for f in lines))
    found = grade_bulk(bundle, csv, tmp_path/'out', **HOW)
    table = rows(tmp_path/'out')
    assert list(table.file) == [f if '://' in f else os.path.join(eyes, f) for f in lines]
    assert list(table.error != '') == ['missing' in f for f in lines]
    assert (found['images'], found['graded'], found['unreadable'], found['duplicates']) == (7, 5, 2, 1)
    with open(csv, 'a') as f: f.write('3.png,0\n')
    with pytest.raises(SettingError, match='source is'): grade_bulk(bundle, csv, tmp_path/'out', **HOW)
    bad = table[table.error != ''][['file']]
    bad.to_csv(tmp_path/'again.csv', index=False)                   # what went wrong, once more
    assert grade_bulk(bundle, tmp_path/'again.csv', tmp_path/'again', **HOW)['unreadable'] == 2
    place_at(s3).write('r.csv', b'image\neyes/0.png\neyes/1.png\n') # and the table in the store
    assert grade_bulk(bundle, f'{s3}/r.csv', tmp_path/'third', **HOW)['graded'] == 2
    for text, says in (('path,label\na,b\n', 'no column image'), ('image,label\n0.png,0\n,1\n', 'row 3: names no image'),
                       ('image\n', 'names no images'), ('image,label\n0.png,1\n1.png\n', 'row 3: has 1 cell')):
        (tmp_path/'none.csv').write_text(text)
        with pytest.raises(DataError, match=says): grade_bulk(bundle, tmp_path/'none.csv', tmp_path/'x', **HOW)

def test_an_address_with_a_secret_in_it(bundle, eyes, tmp_path):
    "What follows the question mark may be a key: it stands in the manifest, which has to find the image, and nowhere else"
    class Eyes(Handler):
        def do_GET(self):
            file = eyes/self.path.partition('?')[0].strip('/')
            self.answer(file.read_bytes() if file.is_file() else b'', 200 if file.is_file() else 404)
    server = Server(Eyes)
    try:
        url = server.url
        (tmp_path/'r.csv').write_text(f'image\n{url}/0.png?key=hush-hush\n{url}/missing.png?key=hush-hush\n')
        found = grade_bulk(bundle, tmp_path/'r.csv', tmp_path/'out', **HOW)
    finally:
        server.shutdown()
        server.server_close()
    assert (found['graded'], found['unreadable']) == (1, 1)
    assert 'hush' not in str(found) + rows(tmp_path/'out').to_string() + tables(tmp_path/'out').to_string()

def test_addresses_that_are_none_are_rows(bundle, eyes, tmp_path):
    "One bad row of a table of a million is a row that says so; one with a password is no part of a plan"
    odd = ['ftp://h/x.jpg', 's3://clinic/a//b.jpg', 's3://Bad!/a.jpg', 'az://c/x.jpg', 'file://other/x.jpg', 'http://10.0.0.1/x.jpg', 'http://127.0.0.1:9/x.jpg']
    table = tmp_path/'odd.csv'
    pd.DataFrame(dict(image=[str(eyes/'0.png'), *odd, str(eyes/'1.png')])).to_csv(table, index=False)
    found = grade_bulk(bundle, table, tmp_path/'out', **HOW)
    assert (found['images'], found['graded'], found['unreadable']) == (9, 2, 7)
    told = rows(tmp_path/'out').set_index('file').error
    assert all(told[o] for o in odd) and 'Connection refused' in told[odd[-1]] and 'not known' in told[odd[0]]
    pd.DataFrame(dict(image=['a.png', 'https://me:pass-word@pacs.example/1.jpg'])).to_csv(table, index=False)
    with pytest.raises(DataError, match='row 3: https://pacs.example/1.jpg: holds a password') as e: grade_bulk(bundle, table, tmp_path/'out2', **HOW)
    assert 'pass-word' not in str(e.value) and not (tmp_path/'out2').exists()

def test_a_table_of_which_nothing_can_be_had_is_done_later(bundle, eyes, tmp_path, closed=9):
    table = tmp_path/'far.csv'
    pd.DataFrame(dict(image=[f'http://127.0.0.1:{closed}/{i}.jpg' for i in range(10)])).to_csv(table, index=False)
    with pytest.raises(RunError, match='none of 10 images could be had.*Connection refused'): grade_bulk(bundle, table, tmp_path/'out', **HOW | dict(per_shard=10))
    assert not list((tmp_path/'out').glob('*.parquet'))

def test_a_client_that_begins_while_another_does(bundle, eyes, tmp_path, monkeypatch):
    "The first look finds nothing, and then the other one's first file is there"
    begun, seen = shards_room._begun, []
    def _first(place):
        seen.append(begun(place))
        if len(seen) == 1: plan_shards(eyes, tmp_path/'out', bundle=bundle, per_shard=3)
        return seen[0] if len(seen) == 1 else begun(place)
    monkeypatch.setattr(shards_room, '_begun', _first)
    assert plan_shards(eyes, tmp_path/'out', bundle=bundle, per_shard=3).images == 11 and seen[0] is None

def test_what_is_no_file_is_a_row(bundle, eyes, tmp_path):
    "Links to nothing, pipes and folders that are called like images"
    (eyes/'dead.png').symlink_to('nothing')
    os.mkfifo(eyes/'pipe.png')
    (eyes/'empty.png').write_bytes(b'')
    (eyes/'folder.png').mkdir()
    found, table = grade_bulk(bundle, eyes, tmp_path/'out', **HOW), rows(tmp_path/'out')
    said = {f.rpartition('/')[2]: e for f, e in zip(table.file, table.error) if e}
    assert sorted(said) == ['bad.jpg', 'dead.png', 'empty.png', 'pipe.png'] and found['images'] == 14
    assert said['dead.png'] == 'no such file' and 'is a pipe' in said['pipe.png']

def test_places_that_are_refused(bundle, eyes, tmp_path):
    out = tmp_path/'out'
    grade_bulk(bundle, eyes, out, **HOW)
    before = everything(out)
    other = Path(shutil.copytree(eyes, tmp_path/'other'))
    for where, place, more, says in (
        (other, out, {}, 'holds another grading .where is'), (eyes, out, dict(threshold=.9), 'threshold is 0.4 there, and 0.9 now'),
        (eyes, out, dict(per_shard=4), 'per_shard is'), (eyes, out, dict(grade_anyway=True), 'grade_anyway is'),
        (eyes, eyes, {}, 'where the images are'), (eyes, Path(bundle)/'x', {}, 'lies in the bundle'),
        (eyes, other, {}, 'holds something else'), (eyes, eyes/'0.png', {}, 'is a file'),
        (eyes/'0.png', tmp_path/'x', {}, 'is a file; name a folder'), (eyes, tmp_path/'x', dict(per_shard=0), 'per_shard is 0'),
        (eyes, tmp_path/'x', dict(workers=0, engine='local'), 'workers is 0'), (eyes, tmp_path/'x', dict(engine='dusk'), 'did you mean dask'),
        (eyes, tmp_path/'x', dict(engine='local', scheduler='tcp://127.0.0.1:1'), 'add --engine dask')):
        with pytest.raises(SettingError, match=says): grade_bulk(bundle, where, place, **HOW | more)
    for where, says in ((tmp_path/'nowhere', 'no such folder'), (tmp_path/'empty', 'no image files here')):
        (tmp_path/'empty').mkdir(exist_ok=True)
        with pytest.raises(DataError, match=says): grade_bulk(bundle, where, tmp_path/'x', **HOW)
    with pytest.raises(BundleError): grade_bulk(eyes, other, tmp_path/'x', **HOW)
    assert everything(out) == before and not (tmp_path/'x').exists()

def test_another_bundle_is_refused(bundle, eyes, tmp_path, monkeypatch):
    out = tmp_path/'out'
    plan = plan_shards(eyes, out, bundle=bundle, per_shard=4)
    settings = out/'manifest'/'settings.json'
    settings.write_text(settings.read_text().replace(plan.settings.model, '0123456789ab'))
    with pytest.raises(SettingError, match='model is 0123456789ab there'): grade_bulk(bundle, eyes, out, **HOW | dict(per_shard=4))
    assert 'the plan was made with 0123456789ab' in grade_shard(plan.job(0) | dict(model='0123456789ab'))['error']

def test_the_result_may_lie_among_the_images(bundle, eyes):
    found = grade_bulk(bundle, eyes, eyes/'out', **HOW)
    assert found == grade_bulk(bundle, eyes, eyes/'out', **HOW) and found['images'] == 11

def test_a_plan_that_was_cut_off_anywhere(bundle, eyes, tmp_path):
    "It ends as the same plan, and with it the grading"
    plan = plan_shards(eyes, tmp_path/'out', bundle=bundle, per_shard=2)
    files = ['settings.json', *(f'{k:08d}.parquet' for k in range(len(plan.shards))), 'plan.json']
    whole = {f: (tmp_path/'out'/'manifest'/f).read_bytes() for f in files}
    for n in range(len(files)):
        out = tmp_path/f'{n}'
        (out/'manifest').mkdir(parents=True)
        for f in files[:n]: (out/'manifest'/f).write_bytes(whole[f])
        assert plan_shards(eyes, out, bundle=bundle, per_shard=2).shards == plan.shards
    for broken, says in ((b'{"shards": [', 'is damaged'), (b'', 'is damaged')):
        (tmp_path/'out'/'manifest'/'plan.json').write_bytes(broken)
        with pytest.raises(RunError, match=says): grade_bulk(bundle, eyes, tmp_path/'out', **HOW | dict(per_shard=2))

def test_damage_is_told(bundle, eyes, tmp_path):
    out = tmp_path/'out'
    grade_bulk(bundle, eyes, out, **HOW)
    plan, whole = read_plan(out, bundle=bundle), everything(out)
    result, shard = out/plan.job(1)['result'], out/'manifest'/'00000001.parquet'
    for f, data in ((result, b'PAR1'), (result, result.read_bytes()[:-9]), (result, (out/plan.job(3)['result']).read_bytes())):
        f.write_bytes(data)
        with pytest.raises(RunError, match='delete it, and the same command grades it again'): grade_bulk(bundle, eyes, out, **HOW)
    result.unlink()
    grade_bulk(bundle, eyes, out, **HOW)
    assert everything(out) == whole
    result.unlink()
    shard.write_bytes((out/'manifest'/'00000002.parquet').read_bytes())
    with pytest.raises(RunError, match='was changed since the plan was made'): grade_bulk(bundle, eyes, out, **HOW)

@pytest.mark.parametrize('when', range(3))
def test_two_planners_and_an_input_that_grows(bundle, tmp_path, when):
    "Whoever lists later sees more; both have one plan in the end, in which no image is twice"
    eyes, out = tmp_path/'eyes', tmp_path/'out'
    eyes.mkdir()
    for i in range(20): (eyes/f'{i:02d}.png').write_bytes(b'x')
    plans, create = [], shards_room.place_at(out).__class__.create
    def plan(): plans.append(plan_shards(eyes, out, bundle=bundle, per_shard=3))
    def slow(self, name, data):
        time.sleep(random.Random(f'{when}{threading.current_thread().name}{name}').random()*.02)
        (eyes/f'{random.Random(name).randrange(20):02d} new.png').write_bytes(b'y')
        return create(self, name, data)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(shards_room.place_at(out).__class__, 'create', slow)
        threads = [threading.Thread(target=plan, name=str(n)) for n in range(3)]
        for t in threads: t.start()
        for t in threads: t.join()
    assert len(plans) == 3 and plans[0] == plans[1] == plans[2]
    listed = [f.name for k, (_, sha) in enumerate(plans[0].shards) for f in read_shard(place_at(out), k, sha=sha)[0]]
    assert listed == sorted(set(listed)) and {f'{i:02d}.png' for i in range(20)} <= set(listed)

def test_a_disk_that_fills_up(bundle, eyes, tmp_path, monkeypatch):
    from retina_nb import storage
    fill, n = storage._fill_file, [6]
    def full(*args):
        n[0] -= 1
        if n[0] < 0: raise OSError(errno.ENOSPC, 'No space left on device')
        return fill(*args)
    monkeypatch.setattr(storage, '_fill_file', full)
    with pytest.raises((RunError, StorageError), match='No space left'): grade_bulk(bundle, eyes, tmp_path/'out', **HOW | dict(per_shard=4))
    monkeypatch.undo()
    found = grade_bulk(bundle, eyes, tmp_path/'out', **HOW | dict(per_shard=4))
    assert found['images'] == 11 and not [f for f in os.listdir(tmp_path/'out') if 'tmp' in f]

# --- the same photograph twice
def noted(monkeypatch, hashes, per=100):
    "What is noted of files that have these hashes, in shards as they are read"
    pa = pytest.importorskip('pyarrow')
    parts = [hashes[i:i + per] for i in range(0, len(hashes), per)]
    monkeypatch.setattr(bulk, '_result', lambda place, k: pa.table(dict(sha256=parts[k])))
    plan = SimpleNamespace(images=len(hashes), shards=parts, job=lambda k: k)
    with tempfile.TemporaryDirectory() as d, contextlib.closing(bulk._noted(plan, None, Path(d))) as notes: return notes.read(0, len(hashes)).copy()

def in_turn(n, seed=0, pool=50):
    "Hashes of which some come again and some are lacking, as they come"
    rng = random.Random(seed)
    draw = lambda i: '' if rng.random() < .1 else hashlib.sha256(b'%d' % (rng.randrange(pool) if rng.random() < .4 else pool + i)).hexdigest()
    return [draw(i) for i in range(n)]

@pytest.mark.parametrize('holes', [1, 3, 128])
def test_the_first_of_the_same_is_found(monkeypatch, holes):
    monkeypatch.setattr(bulk, '_HOLES', holes)
    for n in (1, 7, 100, 450):
        hashes, first = in_turn(n, n), {}
        notes, several = noted(monkeypatch, hashes), {h for h in hashes if h and hashes.count(h) > 1}
        for i, h in enumerate(hashes):
            want = first.setdefault(h, i)
            assert notes[i] == (0 if h not in several else -1 if want == i else want + 1), (n, i)

def test_memory_does_not_grow_with_the_number(monkeypatch):
    "Not by what the hashes of all images would take"
    def peak(n):
        hashes = in_turn(n, pool=n//4)
        tracemalloc.start()
        noted(monkeypatch, hashes, 500)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found - 8*n # the notes, which are read at once only here
    peak(1000)
    few, many = peak(1000), peak(15_000)
    assert many - few < 14_000*16, f'{(many - few)/14_000:.0f} bytes an image'

# --- what is killed
ZYGOTE = """
import os, random, signal, sys, time
from retina_nb.deploy.bulk_run import grade_bulk
from retina_nb.deploy import bulk, engines, shards   # loaded once; each client is a copy that has opened nothing yet
from retina_nb.deploy.bulk import grade_shard
bundle, where, out, seed, kills = sys.argv[1:4] + [int(o) for o in sys.argv[4:6]]

def client():
    pid = os.fork()
    if pid: return pid
    try: grade_bulk(bundle, where, out, engine=lambda jobs, **_: map(grade_shard, jobs), per_shard=2, progress=False)
    except BaseException as e: print(repr(e), flush=True); os._exit(1)
    os._exit(0)

rng, killed, lasts = random.Random(seed), 0, 0.
while True:
    begun = time.time()
    pid = client()
    if killed < kills:
        end = begun + rng.random()*(1.2 if killed%2 else .5)
        while time.time() < end and not os.waitpid(pid, os.WNOHANG)[0]: time.sleep(.002)
        else:
            if time.time() >= end:
                os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        killed += 1
    else: sys.exit(os.waitpid(pid, 0)[1])
"""

@pytest.fixture(scope='module')
def undisturbed(bundle, photos, tmp_path_factory):
    "What a grading leaves when nobody is killed"
    out = tmp_path_factory.mktemp('undisturbed')/'out'
    grade_bulk(bundle, photos, out, engine=inline, per_shard=2, progress=False)
    return everything(out)

@pytest.mark.skipif(os.name == 'nt', reason='signals of POSIX')
@pytest.mark.parametrize('seed,kills', [(0, 4), pytest.param(1, 20, marks=pytest.mark.full), pytest.param(2, 20, marks=pytest.mark.full)])
def test_a_client_that_is_killed_again_and_again(bundle, photos, tmp_path, undisturbed, seed, kills):
    "The result is the same to the last byte: no image is lost, and none is there twice"
    r = subprocess.run([sys.executable, '-c', ZYGOTE, bundle, str(photos), str(tmp_path/'out'), str(seed), str(kills)], capture_output=True, text=True, timeout=240)
    assert r.returncode == 0, r.stdout + r.stderr
    assert everything(tmp_path/'out') == undisturbed

def test_a_kill_before_and_after_each_write(bundle, photos, tmp_path, undisturbed):
    "Not at random: the client dies at every step that changes the output, once before it and once after"
    script = ZYGOTE.replace('rng, killed', """
from retina_nb.storage import _Folder
plain = dict(create=_Folder.create, write=_Folder.write)
def deadly(name, at, before):
    def write(self, *args):
        count[0] += 1
        if count[0] == at and before: os.kill(os.getpid(), signal.SIGKILL)
        done = plain[name](self, *args)
        if count[0] == at: os.kill(os.getpid(), signal.SIGKILL)
        return done
    return write
count, n = [0], 0
for step in range(1, 40):
    for before in (True, False):
        for name in plain: setattr(_Folder, name, deadly(name, step if n < 60 else 0, before))
        ended = os.waitpid(client(), 0)[1]
        n += 1
        if ended == 0: print(n); sys.exit(0)
sys.exit(1)
rng, killed""").replace('[0], 0\n', '[0], 0\n')
    # each client takes at least one step more than the one before, as what is there is not written again
    r = subprocess.run([sys.executable, '-c', script, bundle, str(photos), str(tmp_path/'out'), '0', '0'], capture_output=True, text=True, timeout=240)
    assert r.returncode == 0 and int(r.stdout) > 8, r.stdout + r.stderr
    assert everything(tmp_path/'out') == undisturbed

def start(bundle, where, out, *more, env=None):
    "The command as a process of its own, in a group of its own"
    exe = str(Path(sys.executable).with_name('retina_grade'))
    return subprocess.Popen([exe, bundle, str(where), '--out', str(out), '--engine', 'local', '--per_shard', '2', *more], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=env)

def wait_for(what, seconds=60):
    end = time.time() + seconds
    while not (found := what()):
        assert time.time() < end, 'waited in vain'
        time.sleep(.01)
    return found

def results(out): return list(Path(out).glob("*.parquet"))

def kill_workers(p, times):
    "Kill the processes that grade for a command, one at a time, each as soon as it is there"
    seen = set()
    for _ in range(times):
        def one(): return p.poll() is not None or [c for c in psutil.Process(p.pid).children() if c.pid not in seen]
        found = wait_for(one)
        if found is True: return
        time.sleep(random.Random(len(seen)).random()*.5 + .8)
        seen.add(found[0].pid)
        try: found[0].kill()
        except psutil.NoSuchProcess: pass

@pytest.mark.skipif(os.name == 'nt', reason='signals of POSIX')
def test_a_worker_that_is_killed_and_a_second_client(bundle, photos, tmp_path, undisturbed):
    "Two commands grade into one place at the same time, and workers of the first are killed: both end well, and nothing is there twice"
    first = start(bundle, photos, tmp_path/'out', '--workers', '2')
    second = start(bundle, photos, tmp_path/'out', '--workers', '1')
    kill_workers(first, 2)
    told = [p.communicate(timeout=120) for p in (first, second)]
    for p, (out, err) in zip((first, second), told):
        assert p.returncode == 2 and '1 of 11 images not graded; ' in err and 'bad.jpg: is a text file' in err and 'Traceback' not in err, err
        assert '11 images, 2 of them a file that is there twice; 8 ' in out and 'summary.json counts' in out
    assert everything(tmp_path/'out') == undisturbed

SLOW = """import os, time   # a worker that rests after each result, so that it is never through before it is stopped
link = os.link
def slow(a, b, **how):
    link(a, b, **how)
    if str(b).endswith('.parquet') and 'manifest' not in str(b): time.sleep(2)
os.link = slow
"""

@pytest.mark.skipif(os.name == 'nt', reason='signals of POSIX')
def test_the_keyboard_stops_it_and_the_same_command_goes_on(bundle, photos, tmp_path, undisturbed):
    (tmp_path/'sitecustomize.py').write_text(SLOW)
    p = start(bundle, photos, tmp_path/'out', '--workers', '1', env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')])})
    wait_for(lambda: results(tmp_path/'out'))
    mine = psutil.Process(p.pid).children(recursive=True)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and 'keeps what is done; to go on: retina_grade' in err and '--engine local' in err and '--per_shard 2' in err
    psutil.wait_procs(mine, timeout=10)
    assert not [c for c in mine if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    line = err.split('to go on: ')[1].splitlines()[0]
    again = subprocess.run(line, shell=True, capture_output=True, text=True, env={**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'})
    assert again.returncode == 2 and '11 images' in again.stdout
    assert everything(tmp_path/'out') == undisturbed

# --- the command
@pytest.mark.parametrize('words, says', [(['--engine', 'local'], True), (['--engine=dask'], True), ([], False), (['--engine', 'local', '--help'], False)])
def test_a_sign_of_life_while_libraries_are_loaded(monkeypatch, capsys, words, says):
    from retina_nb import commands
    monkeypatch.setattr(commands.threading, 'Timer', lambda wait, f: SimpleNamespace(start=f if wait == 1 else None, cancel=lambda: None))
    monkeypatch.setattr(sys, 'argv', ['/bin/retina_grade', 'bundle', 'eyes', *words])
    for worker in (False, True): # a worker of Dask begins with the words of its client
        monkeypatch.setattr(commands, 'parent_process', lambda: object() if worker else None)
        with commands._patience('retina_nb.deploy', 'retina_grade'): pass
        assert capsys.readouterr().out == 'retina_grade: loading\n'*(says and not worker)

@pytest.mark.parametrize('engine, gone, extra', [('local', 'pyarrow', 'bulk'), ('dask', 'distributed', 'bulk'), ('ray', 'ray', 'ray')])
def test_what_is_not_installed_is_said_before_anything_is_written(bundle, photos, tmp_path, typed, monkeypatch, engine, gone, extra):
    monkeypatch.setitem(sys.modules, gone, None) # as if it were not there
    r = typed('retina_grade', bundle, photos, '--engine', engine, '--out', tmp_path/'out')
    assert r.returncode == 2 and f"retina_nb[{extra}]" in r.stderr and r.stderr.count('\n') == 1 and not (tmp_path/'out').exists(), r

def test_each_part_of_the_work_shows_that_it_is_alive(bundle, photos, tmp_path, capsys, monkeypatch):
    from retina_nb import work
    monkeypatch.setattr(work, '_tell', lambda p: print(p.what, p.waits[0] <= 1))
    grade_bulk(bundle, photos, tmp_path/'out', **HOW | dict(progress=True))
    assert capsys.readouterr().out.splitlines() == [f'{w} True' for w in ('opening the model', 'listing', 'grading', 'putting together')]

def test_what_the_command_says(bundle, photos, tmp_path, typed):
    for args, says in ((['--engine', 'local'], 'needs --out'), (['--engine', 'local', '--out', tmp_path/'g.csv'], 'folder of tables'),
                       (['--engine', 'locla', '--out', tmp_path/'x'], 'did you mean local?'), (['--workers', '2'], 'add --engine'),
                       (['--engine', 'local', '--out', tmp_path/'x', '--json'], 'read OUT/index')):
        r = typed('retina_grade', bundle, photos, *args)
        assert r.returncode == 2 and says in r.stderr and r.stdout == '' and r.stderr.count('\n') == 1, r
    r = typed('retina_grade', bundle, photos, photos, '--engine', 'local', '--out', tmp_path/'x')
    assert r.returncode == 2 and '2 are named' in r.stderr and not (tmp_path/'x').exists()

def test_a_shard_that_stops_leaves_no_grading_behind(bundle, eyes, tmp_path, s3, monkeypatch):
    "What is left to the garbage collector ends its threads wherever that runs: inside another thread's start it would wait for ever"
    write_all(f'{s3}/eyes', eyes)
    made, grade_many = [], Grader.grade_many
    def kept(*args, **kw): made.append(grade_many(*args, **kw)); return made[-1]
    monkeypatch.setattr(Grader, 'grade_many', kept)
    store = type(place_at(s3))
    read = store.read
    def cut(self, name, *args):
        if name.endswith('.png'): raise StorageError(self.at(name), 'it cannot be reached', 'unreachable')
        return read(self, name, *args)
    monkeypatch.setattr(store, 'read', cut)
    plan = plan_shards(f'{s3}/eyes', tmp_path/'out', bundle=bundle, per_shard=4)
    assert any('it cannot be reached' in grade_shard(j)['error'] for j in plan.left())
    assert made and all(g.gi_frame is None for g in made)      # closed, not forgotten

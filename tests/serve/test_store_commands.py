"`retina_store` as it is typed, with a small model and real pictures: tables that evaluate, photographs graded again, one-line errors"
import io, json, os, shutil, subprocess, sys
from pathlib import Path

import numpy as np, pytest
from PIL import Image

from retina_nb.data import load_records
from retina_nb.deploy import Grader, Ungraded
from retina_nb.disk import write_json
from retina_nb.measure import evaluate, read_predictions
from retina_nb.serve import Store, export_store, feedback_table, photo, replay_store
from retina_nb.serve.schema import prediction
from conftest import add_model, kept_photo

@pytest.fixture(scope='module')
def eyes(tmp_path_factory):
    from retina_nb.synth.render import synth_eye
    d = tmp_path_factory.mktemp('eyes')
    for i in range(8): Image.fromarray(synth_eye(i, grade=i%5, size=160).image).save(d/f'eye{i}.{["png", "jpg"][i%2]}')
    return sorted(d.iterdir())

@pytest.fixture
def room(url, bundle, eyes, tmp_path):
    "A store in which eight photographs of four people were answered and kept, six of them looked at by a reader"
    with Store(url, keep_images=tmp_path/'pictures') as s:
        s.deploy(s.register(bundle))
        for i, g in enumerate(Grader(bundle).grade_many(eyes)):
            a = s.record(photo(eyes[i], patient=f'P{i//2}'), g, tags=dict(hospital='AB'[i%2], eye=['left', 'right'][i%2], age=50 + i))
            if i < 6: s.give_feedback(a.predictions[0].id, 'correct', grade=i%5, who='Anna')
        letter = b'Dear colleague'
        s.record(photo(letter), Ungraded('letter', 'is a text file'), bundle=s.bundles()[0]['id'])
    return url

def test_status_and_check(room, retina_store):
    r = retina_store(room, 'status')
    told = dict(line.split(maxsplit=1) for line in r.stdout.splitlines())
    assert r.returncode == 0 and told['answers'] == '9 requests, 9 predictions' and told['photographs'].startswith('9, 8 kept, 4 known'), r.stderr
    assert told['live'].startswith('run ') and 'since 2' in told['live'] and told['feedback'].startswith('6 ') and told['reviews'] == '0 cases to be read again'
    r = retina_store(room, 'check')
    assert r.returncode == 0 and 'no faults' in r.stdout and told['last'] in r.stdout
    assert 'still part' in retina_store(room, 'check', '--last', told['last']).stdout
    for last, why in [('1'*64, 'written anew'), ('12ab', 'is no hash'), ('', 'what? Give a value')]:
        r = retina_store(room, 'check', '--last', last)
        assert r.returncode == 2 and why in r.stderr and r.stderr.count('\n') == 1, r
    assert 'no meaning with replay' in retina_store(room, 'replay', '--last', told['last']).stderr
    with Store(room) as s: s.write(lambda conn, note: conn.execute(prediction.update().values(threshold=.1)))
    r = retina_store(room, 'check')
    assert r.returncode == 2 and '9 faults' in r.stderr and r.stderr.count('\n') == 1

def test_export_goes_into_evaluation_and_training(room, retina_store, tmp_path):
    r = retina_store(room, 'export', '--out', tmp_path/'tables')
    assert r.returncode == 0 and '8 predictions, 6 of them' in r.stdout and 'retina_evaluate' in r.stdout, r.stderr
    preds = read_predictions(tmp_path/'tables/predictions.csv')
    assert len(preds) == 8 and preds['target'].notna().sum() == 6 and preds['patient'].nunique() == 4
    assert {'hospital', 'eye', 'age'} <= set(preds.columns) and not preds.to_csv().count('P0')
    records = load_records(tmp_path/'tables/records.csv', warn=False)
    assert sorted(records['label']) == [0, 0, 1, 2, 3, 4] and all(Path(p).is_file() for p in records['image'])
    assert retina_store(room, 'export', '--out', tmp_path/'tables').returncode == 2 # never over what is there
    exe = Path(sys.executable).with_name('retina_evaluate')
    r = subprocess.run([exe, tmp_path/'tables/predictions.csv', '--out', tmp_path/'scores'], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode == 0, r.stderr
    assert json.loads((tmp_path/'scores/metrics.json').read_text())['n_images'] == 6
    assert evaluate(preds).accuracy.value >= 0

def test_export_of_several_models_asks_which(room, tmp_path):
    with Store(room) as s:
        add_model(s, 'd'*12)
        assert export_store(s, tmp_path/'live')['predictions'] == 8
        s.deploy('d'*12, 'live')
        with pytest.raises(Exception, match='graded nothing'): export_store(s, tmp_path/'x')
        assert not (tmp_path/'x').exists()

ODD_TAGS = ({'label': 'x'}, {'Label': 3}, {'image': 'x'}, {'split': 'test'}, {'Split': 'test'}, {'error': 'x'}, {'ungradable': 'yes'}, {'task': 'oct'}, {'TASK': 'oct'},
            {'p_dme': 1}, {'p_0': .5}, {'tag_grade': 'a', 'grade': 'b', 'Grade': 'c'}, {'file': 'x', 'path': 'y'}, {'diagnosis': 4, 'level': 3}, {'subject': 's', 'HN': 'm'}, {'Site': 1, 'site': 2, 'tag_x': 3, 'TAG_x': 4},
            {'Eye': 'up', 'laterality': 'left'}, {'row': 1, 'index': 2, 'duplicate': True}, {'=cmd()': '=1+1'}, {'source': 'there'}, {'said': 'left', 'cell': 'z'})

@pytest.mark.parametrize('tags', ODD_TAGS, ids=lambda t: ' '.join(t))
def test_a_tag_is_never_taken_for_something_else(tmp_path, tags):
    "Whatever a client calls its tags: labels, splits, patients and probabilities of both tables are the store's own"
    from conftest import MODEL, a_grading
    with Store(tmp_path/'s', keep_images=tmp_path/'p') as s:
        add_model(s)
        for i in range(4):
            a = s.record(kept_photo(b'\xff\xd8\xff %d' % i, patient=f'P{i//2}'), a_grading(i), tags=dict(tags, eye=['left', 'right'][i%2]))
            s.give_feedback(a.predictions[0].id, 'correct', grade=i)
        assert export_store(s, tmp_path/'out', bundle=MODEL)['records'] == 4
    preds = read_predictions(tmp_path/'out/predictions.csv')
    assert sorted(preds['target']) == [0, 1, 2, 3] and preds['patient'].nunique() == 2 and np.allclose(preds[[f'p_{i}' for i in range(5)]].sum(axis=1), 1)
    records = load_records(tmp_path/'out/records.csv', warn=False)
    assert sorted(records['label']) == [0, 1, 2, 3] and records['patient'].nunique() == 2 and sorted(records['eye']) == ['left', 'left', 'right', 'right']
    assert set(records['split'].fillna('')) == {''}
    for df in (preds, records): assert sum(str(c).startswith('tag_') for c in df.columns) == len(set(tags) - {'=cmd()', 'Site', 'site'}), list(df.columns)

def test_a_candidates_answers_can_be_had(room, tmp_path):
    "It answered in place of the live model, or beside it unseen: its table has the readers' grades of the photographs"
    from conftest import a_grading
    with Store(room) as s:
        add_model(s, 'd'*12)
        s.deploy('d'*12, 'candidate', share=.5)
        a = s.record(kept_photo(b'half of them'), a_grading(1, model='d'*12), role='candidate')
        assert s.answer(a.id).gradings[0].to_dict() == a.gradings[0].to_dict() and len(a.gradings) == 1
        seen = [s.answer(p.id) for p, _ in s.answers()][:2]
        for b in seen: s.add(b.id, a_grading(2, model='d'*12))
        assert [len(s.answer(b.id).gradings) for b in seen] == [1, 1] # a shadow is told to nobody
        table = feedback_table(s, 'd'*12)
        assert len(table) == 3 and table['target'].notna().sum() == 2
        assert len(feedback_table(s)) == 8

def test_an_export_and_a_copy_that_cannot_be_written(room, retina_store):
    r = retina_store(room, 'export', '--out', '/proc/x')
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and 'nothing was exported' in r.stderr
    r = retina_store(room, 'backup', '--out', '/proc/x.db')
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and ('pg_dump' in r.stderr or 'no new copy' in r.stderr)

def test_replay(room, retina_store, bundle, tmp_path):
    r = retina_store(room, 'replay')
    assert r.returncode == 0 and '8 kept photographs give the stored answers again' in r.stdout, r.stdout + r.stderr
    with Store(room) as s:
        p = next(p for p, _ in s.answers())
        ps = np.nextafter(p.grading.probabilities, 1).tolist() # the smallest difference there is
        s.write(lambda conn, note: conn.execute(prediction.update().where(prediction.c.id == p.id).values(probabilities=ps)))
    r = retina_store(room, 'replay')
    assert r.returncode == 2 and p.id in r.stdout and '1 of 8' in r.stderr and r.stderr.count('\n') == 1

def test_a_copy_without_its_pictures(bundle, eyes, retina_store, tmp_path):
    with Store(tmp_path/'s', keep_images=tmp_path/'s/pictures') as s:
        g = Grader(bundle)(eyes[0])
        s.register(bundle)
        for i in range(25): # of the same pixels there would be one copy
            f = io.BytesIO()
            Image.new('RGB', (64, 64), (i, 0, 0)).save(f, 'PNG')
            s.record(photo(f.getvalue()), g)
    assert retina_store(tmp_path/'s', 'backup', '--out', tmp_path/'away/copy.db').returncode == 0
    r = retina_store(tmp_path/'away/copy.db', 'check')
    assert r.returncode == 2 and '25 faults' in r.stderr and r.stdout.count('\n') == 22 and 'and 5 more' in r.stdout and 'looked for beside' in r.stdout
    shutil.copytree(tmp_path/'s/pictures', tmp_path/'away/pictures')
    assert retina_store(tmp_path/'away/copy.db', 'check').returncode == 0

def test_replay_uses_the_operating_point_of_then(url, bundle, eyes, retina_store, tmp_path):
    "`retina_serve --threshold` refers at a point of its own; one that was written into the database is a difference"
    with Store(url, keep_images=tmp_path/'pictures') as s:
        for at in (.2, .9, None): s.record(photo(eyes[0]), Grader(s.register(bundle) and bundle, threshold=at)(eyes[0]))
        assert [r.same for r in replay_store(s)] == [True]*3
        s.write(lambda conn, note: conn.execute(prediction.update().where(prediction.c.threshold == .9).values(threshold=.8)))
        why = sorted(r.why for r in replay_store(s))
        assert why[:2] == ['', ''] and 'threshold 0.8 then, 0.4 now' in why[2]
    assert retina_store(url, 'replay').returncode == 2

def test_records_of_every_model(room, bundle, tmp_path):
    "After a model was replaced, what readers said before still trains the next one; a photograph counts once"
    from conftest import a_grading
    with Store(room, keep_images=tmp_path/'pictures') as s:
        old = s.bundles()[0]['id']
        s.deploy(add_model(s, 'd'*12))
        for i, seen in enumerate([b'new one', next(p for p, _ in s.answers()).kept]):
            data = seen if i == 0 else s.kept_path(seen).read_bytes()
            a = s.record(kept_photo(data, patient='P9'), a_grading(i, model='d'*12), tags=dict(HOSPITAL='C'))
            s.give_feedback(a.predictions[0].id, 'correct', grade=4, who='Ben')
        n = export_store(s, tmp_path/'out')
        assert n == dict(predictions=2, labelled=2, records=7)
        assert export_store(s, tmp_path/'old', bundle=old)['records'] == 7
    records = load_records(tmp_path/'out/records.csv', warn=False)
    assert len(set(records['image'])) == 7 and sorted(records['label']) == [0, 1, 2, 3, 4, 4, 4]
    columns = [c.lower() for c in records.columns]
    assert len(set(columns)) == len(columns)

@pytest.mark.parametrize('column,value', [('threshold', .123), ('referable', None), ('positive', .5), ('novelty', 9.), ('novel', None), ('quality', dict(ok=True))])
def test_replay_compares_the_whole_answer(room, column, value):
    with Store(room) as s:
        p = next(p for p, _ in s.answers())
        old = getattr(p.grading, dict(positive='referable_probability').get(column, column))
        value = (not old) if value is None else value
        s.write(lambda conn, note: conn.execute(prediction.update().where(prediction.c.id == p.id).values({column: value})))
        bad = [r for r in replay_store(s) if not r.same]
        assert [r.id for r in bad] == [p.id] and 'then' in bad[0].why

def test_replay_says_what_is_wrong_with_a_bundle(tmp_path, eyes, bundle):
    "Another operating point under the same id, and sums made anew; damaged; without the number format of then"
    mine = Path(shutil.copytree(bundle, tmp_path/'mine'))
    with Store(tmp_path/'s', keep_images=tmp_path/'p') as s:
        id = s.register(mine)
        a = s.record(photo(eyes[0]), Grader(mine)(eyes[0]))
        s.write(lambda conn, note: conn.execute(prediction.update().values(precision='int8')))
        why = [r.why for r in replay_store(s)]
        assert len(why) == 1 and 'int8' in why[0] and 'not where it was' not in why[0]
        s.write(lambda conn, note: conn.execute(prediction.update().values(precision='fp32')))
        (mine/'config.json').write_text('{}')
        why = [r.why for r in replay_store(s)]
        assert 'cannot be used' in why[0] and id in why[0] and 'not where it was' not in why[0]
        assert s.answer(a.id).gradings

def test_replay_names_a_bundle_that_moved(url, eyes, bundle, retina_store, tmp_path):
    mine = Path(shutil.copytree(bundle, tmp_path/'mine'))
    with Store(url, keep_images=tmp_path/'p') as s:
        id = s.register(mine)
        s.record(photo(eyes[0]), Grader(mine)(eyes[0]))
    mine.rename(tmp_path/'moved')
    r = retina_store(url, 'replay')
    assert r.returncode == 2 and id in r.stderr and '--bundle FOLDER' in r.stderr and str(tmp_path/'mine') in r.stderr
    assert retina_store(url, 'replay', '--bundle', tmp_path/'moved').returncode == 0
    other = Path(shutil.copytree(bundle, tmp_path/'mine'))
    data = json.loads((other/'config.json').read_text())
    write_json(other/'config.json', data | dict(arch='tampered'))
    assert retina_store(url, 'replay').returncode == 2 # what lies there is not what answered
    with Store(url) as s: # registered again where it is now
        s.register(tmp_path/'moved')
        assert all(r.same for r in replay_store(s))

def test_nothing_kept(url, retina_store, eyes, bundle):
    with Store(url) as s:
        s.register(bundle)
        s.record(photo(eyes[0]), Grader(bundle)(eyes[0]))
    r = retina_store(url, 'replay')
    assert r.returncode == 0 and 'nothing to replay' in r.stdout

def test_real_photographs_again(real_data, bundle, tmp_path):
    files = sorted((real_data/'idrid').rglob('*.jpg'))[:4] + sorted((real_data/'eyepacs-small').rglob('*.j*'))[:4]
    with Store(tmp_path/'s', keep_images=tmp_path/'p') as s:
        s.register(bundle)
        for g, f in zip(Grader(bundle).grade_many(files, grade_anyway=True), files): s.record(photo(f), g, bundle=s.bundles()[0]['id'])
        got = list(replay_store(s))
    assert len(got) == 8 and all(r.same for r in got), got

def test_erase_and_backup(room, retina_store, tmp_path):
    r = retina_store(room, 'erase', 'P0')
    assert r.returncode == 0 and 'photographs 2' in r.stdout and 'note:' in r.stdout, r.stderr
    assert retina_store(room, 'erase', 'P0').returncode == 2
    r = retina_store(room, 'backup', '--out', tmp_path/'copy.db')
    if '://' in room: assert r.returncode == 2 and 'pg_dump' in r.stderr
    else: assert r.returncode == 0 and retina_store(tmp_path/'copy.db', 'check').returncode == 0
    assert retina_store(room, 'check').returncode == 0

def test_keys(url, retina_store):
    r = retina_store(url, 'key', 'add', 'reading room 2', '--role', 'reviewer')
    key = r.stdout.splitlines()[0]
    assert r.returncode == 0 and key.startswith('rnb_'), r.stderr
    with Store(url) as s: assert (s.visitor(key).name, s.visitor(key).role) == ('reading room 2', 'reviewer')
    assert '\x1b' not in retina_store(url, 'key', 'add', 'a\x1b[31mb').stdout + retina_store(url, 'key', 'revoke', 'a [31mb').stdout
    assert 'reading room 2' in retina_store(url, 'key', 'list').stdout and key not in retina_store(url, 'key').stdout
    assert retina_store(url, 'key', 'revoke', 'reading room 2').returncode == 0
    with Store(url) as s: assert s.visitor(key) is None

@pytest.mark.parametrize('words,says', [
    (['stats'], 'did you mean status?'), ([], 'what shall be done'), (['erase'], 'erase whom'), (['erase', 'a', 'b'], 'one word too many'),
    (['export'], '--out'), (['backup'], '--out'), (['key', 'ad', 'x'], 'did you mean add?'), (['key', 'add'], 'key add whom'),
    (['backup', 'a.db', '--out', 'b.db'], 'Name one file'), (['status', '--out', 'x'], 'no meaning with status'), (['export', '--out', 'x', '--role', 'admin'], 'no meaning with export'),
    (['key', 'list', '--role', 'admin'], 'key add'), (['export', '--out', 'x', '--bundle'], '--bundle what'), (['replay', '--out', 'x'], 'no meaning with replay'),
    (['key', 'add', 'x', '--role', 'kind'], 'choose one of reader'), (['key', 'add', 'x', '--role', 'revewer'], 'did you mean reviewer?'), (['status', '--rol', 'x'], 'role'), (['key', 'revoke', 'x'], 'nobody called')])
def test_slips_are_one_line(tmp_path, retina_store, words, says):
    Store(tmp_path/'s').close()
    r = retina_store(tmp_path/'s', *words)
    assert r.returncode == 2 and says in r.stderr and r.stderr.count('\n') == 1 and 'Traceback' not in r.stderr, r.stderr

def test_a_store_that_is_not_there_is_not_made(tmp_path, retina_store):
    r = retina_store(tmp_path/'none', 'status')
    assert r.returncode == 2 and 'no store here' in r.stderr and not (tmp_path/'none').exists()

def test_the_name_may_be_left_out(tmp_path, as_program):
    r = as_program('key', 'add', 'van', '--role', 'grader', RETINA_NB_STORE=str(tmp_path/'mine'))
    assert r.returncode == 0 and (tmp_path/'mine/store.db').is_file()
    assert 'van' in as_program('key', 'list', RETINA_NB_STORE=str(tmp_path/'mine')).stdout
    r = as_program('--help')
    assert r.returncode == 0 and all(w in r.stdout for w in ('status', 'replay', 'erase'))

def test_the_store_needs_no_torch_and_starts_quickly():
    code = 'import sys; from retina_nb.serve import Store, retina_store; print(*(m for m in ("torch", "fastai", "torchvision", "alembic", "psycopg") if m in sys.modules))'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ)
    assert r.returncode == 0 and r.stdout.strip() == '', r.stdout + r.stderr

def test_history_tells_everything(room):
    with Store(room) as s:
        p = next(p for p, _ in s.answers())
        h = s.history(p.id)
        assert [e['kind'] for e in h['events']] == ['request', 'prediction', 'feedback'] and h['feedback'][0]['who'] == 'Anna'
        assert h['models'][s.bundles()[0]['id']]['folder'] and h['answer'].at.tzinfo is not None

"What a bundle knows of what it has seen: novelty in the graph, in int8, in golden images; parity on files; provenance; mistaken folders."
import json, shutil

import numpy as np, pandas as pd, pytest
from PIL import Image

from retina_nb.core import BundleError
from retina_nb.disk import write_json
from retina_nb.data import describe_source, source_badge
from retina_nb.deploy import Grader, check_bundle, clinic_counts, export, fit_novelty, load_bundle, novelty_by_formula, open_session, quantise, texture, to_onnx
from retina_nb.deploy.bundle import write_sums
from retina_nb.deploy.novelty import vectors_of
from retina_nb.measure import example_predictions
from retina_nb.synth import synth_eye
from dicoms import rgb_dicom
from random_model import random_run, shared

def eyes(ids, size=72): return [synth_eye(i, grade=i%5, size=size).image for i in ids]

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run with random weights whose records are synthetic eyes, four of them DICOM files"
    d = tmp_path_factory.mktemp('seen')
    rows = []
    for split,ids in (('train', range(40)), ('valid', range(100, 124)), ('test', range(200, 206))):
        for i,a in zip(ids, eyes(ids)):
            dicom = split == 'valid' and i < 104
            f = d/f'{i}.{"dcm" if dicom else "png"}'
            f.write_bytes(rgb_dicom(a)) if dicom else Image.fromarray(a).save(f)
            rows.append(dict(image=str(f), label=i%5, patient=str(i), split=split, source='synth', task='dr'))
    folder = random_run(d/'run', operating_point=dict(threshold=.4))
    pd.DataFrame(rows).to_csv(folder/'records.csv', index=False)
    return folder

@pytest.fixture(scope='module')
def bundle(run): return export(run, run.parent/'bundle')

def test_what_it_has_seen_is_not_novel_and_other_things_are(bundle, run):
    g = Grader(bundle)
    own = [g(a) for a in eyes(range(300, 320))]
    assert sum(o.novel for o in own) <= 2 and all(o.novelty > 0 for o in own)
    for a in (255 - eyes([5])[0], np.random.default_rng(0).integers(0, 256, (80,80,3), dtype=np.uint8)):
        o = g(a, grade_anyway=True)
        assert o.novel and o.novelty > 1 and 'unlike the photographs that this model has seen' in o.review and 'unlike' in str(o)
        assert {'novel', 'novelty', 'trained_on', 'review'} <= set(o.to_row()) and json.loads(o.to_json())['novel'] is True

def test_every_grading_says_that_it_was_trained_on_drawings(bundle, typed, tmp_path):
    f = tmp_path/'eye.png'; Image.fromarray(eyes([7], 200)[0]).save(f)
    g = Grader(bundle)(f)
    assert g.trained_on == 'trained on synthetic eyes' and g.trained_on in str(g) and g.trained_on in g._repr_html_()
    text = typed('retina_grade', bundle, f, '--out', tmp_path/'g.csv')
    assert text.returncode == 0 and 'trained on synthetic eyes' in text.stdout
    assert 'trained on synthetic eyes' in (tmp_path/'g.csv').read_text()
    assert json.loads(typed('retina_grade', bundle, f, '--json').stdout)[0]['trained_on'] == 'trained on synthetic eyes'
    assert 'trained on synthetic eyes' in load_bundle(bundle).card

def test_the_card_counts_by_part_and_names_what_nobody_knows(bundle):
    card = load_bundle(bundle).card
    assert 'It has learned from the 40 images of the training part and no others' in card and '| valid |' in card and '| 24 |' in card
    for word in ('CLAIM', 'TRIPOD+AI', 'DECIDE-AI', 'not known to the software'): assert word in card

def test_export_checks_files_as_a_user_grades_them(run, bundle, tmp_path, monkeypatch):
    same = load_bundle(bundle).config['parity']
    assert same['files'] == 24 and same['gone'] == 0 and same['novelty_difference'] < 1e-3 and 'read from their files' in same['on']
    decode = Grader._decode
    def other(self, src): # a second decoder, which turns a DICOM file darker
        a = decode(self, src)
        return a//2 if str(src).endswith('.dcm') else a
    monkeypatch.setattr(Grader, '_decode', other)
    with pytest.raises(BundleError, match=r'\d+\.dcm: graded from its file as a user will'): export(run, tmp_path/'b')
    assert not (tmp_path/'b').exists()

def test_export_holds_against_what_the_training_wrote_down(run, tmp_path):
    copy = shutil.copytree(run, tmp_path/'run')
    records = pd.read_csv(copy/'records.csv')
    v = records[records.split == 'valid']
    ps = {f'p_{i}': .2 for i in range(5)}
    v.assign(target=v.label, grade=0, **ps)[['image', 'patient', 'target', 'grade', *ps]].to_csv(copy/'predictions_valid.csv', index=False)
    with pytest.raises(BundleError, match='the training wrote down'): export(copy, tmp_path/'b')

def test_files_that_are_gone_are_said_to_be(run, tmp_path):
    copy = shutil.copytree(run, tmp_path/'run')
    records = pd.read_csv(copy/'records.csv').assign(image=lambda d: d.image.str.replace('.png', '_gone.png').str.replace('.dcm', '_gone.dcm'))
    records.to_csv(copy/'records.csv', index=False)
    example_predictions(30).to_csv(copy/'predictions_valid.csv', index=False)
    b = load_bundle(export(copy, tmp_path/'b'))
    assert sum(clinic_counts(b.config).patients) == 30                              # for a clinic, nothing more than the table is needed
    assert 'no longer there' in b.config['parity']['on'] and 'too few' in b.config['novelty']['reason'] and 'cannot tell' in b.card
    g = Grader(b)(eyes([3])[0])
    assert g.novel is None and g.novelty is None and g.to_row()['novel'] == ''

def test_bundles_without_novelty_still_grade():
    g = Grader(shared()[1])(eyes([3], 200)[0])
    assert g.novel is None and g.trained_on == '' and not [o for o in g.review if 'unlike' in o]

def test_golden_images_replay_the_novelty(bundle, tmp_path):
    rows = check_bundle(bundle)
    assert all(r['ok'] and r['novelty'] is not None and r['novelty'] < 1e-3 for r in rows)
    other = shutil.copytree(bundle, tmp_path/'b')
    golden = json.loads((other/'golden/golden.json').read_text())
    for r in golden['images']: r['novelty'] = {k: 2*v for k,v in r['novelty'].items()}
    write_json(other/'golden/golden.json', golden); write_sums(other)
    assert not any(r['ok'] for r in check_bundle(other))

def test_int8_and_batches_have_the_same_novelty(run):
    from retina_nb.train.prediction import load_model
    model = load_model(run)
    pre, size = model.preprocess, model.preprocess.size
    xs = [pre(a) for a in eyes(range(60))]
    data = to_onnx(model, size)
    _, _, clouds = fit_novelty(data, xs[:40], xs[40:], patients=20)
    for graph in (data, quantise(data, xs[:16])):
        made, about, clouds = fit_novelty(graph, xs[:40], xs[40:], patients=20)
        assert about['measured'] == ['texture', 'features'] and about['validation']['images'] == 20
        session, x = open_session(made, 1), np.stack(xs[:6])
        one = np.concatenate([session.run(['novelty'], {'image': o[None]})[0] for o in x])
        np.testing.assert_allclose(session.run(['novelty'], {'image': x})[0], one, rtol=1e-3)
        np.testing.assert_allclose(one, novelty_by_formula(vectors_of(graph, xs[:6], size), clouds), rtol=1e-3)
        for got in (open_session(graph, 1), session): p = got.run(['probabilities'], {'image': x})[0]; assert p.shape == (6, 5)
    np.testing.assert_allclose(texture(np.stack(xs[:6])), vectors_of(data, xs[:6], size)['texture'], atol=1e-3)

@pytest.mark.parametrize('records,badge', [
    (dict(split=['train']*3, source=['synth']*3), 'trained on synthetic eyes'),
    (dict(split=['train']*3, source=['synth', 'idrid', 'synth']), 'trained on 2 synthetic eyes and 1 photographs'),
    (dict(split=['train', 'train', 'test'], source=['idrid', 'idrid', 'synth']), ''),
    (dict(source=['generated for training']*3), 'trained on synthetic eyes'),
    (dict(), '')])
def test_provenance(records, badge):
    told = describe_source(pd.DataFrame(dict(image=['a.jpg', 'b.jpg', 'c.jpg'], **records)))
    assert source_badge(told) == badge and told['images'] == 3 and source_badge(None) == '' == source_badge(dict(parts=None))

def test_one_thing_for_another(typed, run, bundle, tmp_path):
    "A run, a bundle's file, an archive, a folder of images, an empty one, an image: called by name, in one line"
    for name in ('empty', 'images'): (tmp_path/name).mkdir()
    eye = tmp_path/'images'/'eye.png'; Image.fromarray(eyes([1])[0]).save(eye)
    (tmp_path/'b.zip').write_bytes(b'PK'); (tmp_path/'m.onnx').write_bytes(b'')
    cases = {('retina_grade', run, eye): 'is a run, not a bundle: export it with retina_export', ('retina_check', run): 'is a run, not a bundle',
             ('retina_panel', run): 'is a run, not a bundle', ('retina_grade', bundle/'model.onnx', eye): 'is a file of a bundle: give its folder',
             ('retina_grade', tmp_path/'b.zip', eye): 'is an archive: unpack it', ('retina_grade', tmp_path/'m.onnx', eye): 'is an ONNX file',
             ('retina_grade', tmp_path/'images', eye): 'is a folder of images: the bundle comes first', ('retina_grade', eye, bundle): 'is an image: the bundle comes first',
             ('retina_check', tmp_path/'empty'): 'is an empty folder, not a bundle', ('retina_check', tmp_path/'nowhere'): 'no such bundle folder',
             ('retina_export', bundle, '--out', tmp_path/'x'): 'is a bundle, not a run', ('retina_export', run, '--out', tmp_path/'images'): 'exists already and is not a bundle'}
    for args,said in cases.items():
        r = typed(*args)
        assert r.returncode == 2 and said in r.stderr and r.stderr.count('\n') == 1, (args, r)

def test_a_figure_that_never_varied_does_not_answer_to_rounding():
    "Grey scans have no colour: the parity check of their bundle failed by the rounding of its figures"
    from retina_nb.deploy.novelty import Cloud
    rng = np.random.default_rng(0)
    v = rng.normal(size=(60, 4)); v[:,1] = -3 + 1e-5*rng.normal(size=60)
    cloud, rounded, coloured = Cloud(v, still=3e-3), v[:1].copy(), v[:1].copy()
    rounded[:,1] += 2e-4; coloured[:,1] += 3
    assert abs(cloud(rounded) - cloud(v[:1]))[0] < 1e-3 and cloud(coloured)[0] > 10
    assert abs(Cloud(v)(rounded) - Cloud(v)(v[:1]))[0] > 1e-3

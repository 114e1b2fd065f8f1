"A model of known errors: as wrong as it was told to be, honest about what it is, and refused where it was changed"
import hashlib, io, json

import numpy as np, pytest
from PIL import Image

from retina_nb.core import BundleError, ImageError, SettingError, get_task
from retina_nb.deploy import Fog, MockModel, MockSettings, Oracle, fit_fog, load_mock, open_grader, read_truth, write_mock, write_truth
from retina_nb.deploy.fog import truth_comment
from retina_nb.synth.render import synth_eye

OFTEN = .5, .12, .2, .1, .08

@pytest.fixture(scope='module')
def eye():
    f = io.BytesIO()
    Image.fromarray(synth_eye(3, grade=2, size=256).image).save(f, 'JPEG', quality=92)
    return f.getvalue()

@pytest.mark.parametrize('wanted', [.7, .8, .9, .99, (.9, .6, .8, .7, .8), (.99, .5, .9, .9, .95), (.7, .7, .7, .7, .7)])
def test_it_errs_as_often_as_it_was_told_to(wanted):
    fog = fit_fog(wanted, OFTEN)
    truth = np.random.default_rng(0).choice(5, 40_000, p=OFTEN)
    model = MockModel(Oracle(), settings=MockSettings(wanted, OFTEN))
    said = model.probabilities(truth, [str(i) for i in range(len(truth))]).argmax(1)
    if isinstance(wanted, tuple):
        for k, p in enumerate(wanted): assert abs((said == truth)[truth == k].mean() - p) < .02, k
    else: assert abs((said == truth).mean() - wanted) < .01
    assert np.allclose(fog.confusion().sum(1), 1)
    far = np.abs(said - truth)[said != truth]
    assert (far == 1).mean() > .6 # errors go to neighbours

def test_probabilities_mean_what_they_say():
    fog, rng = fit_fog(.8, OFTEN), np.random.default_rng(1)
    truth = rng.choice(5, 50_000, p=OFTEN)
    p = fog.probabilities(truth + fog.noise*rng.standard_normal(len(truth)))
    for k in range(5): # class by class: the mean probability in a tenth is the share that it was
        for part in np.array_split(np.argsort(p[:, k]), 10): assert abs(p[part, k].mean() - (truth[part] == k).mean()) < .025
    assert np.median(p.max(1)[p.argmax(1) != truth]) < np.median(p.max(1)[p.argmax(1) == truth]) - .1

@pytest.mark.parametrize('wanted', [.3, 0., (.1, .1, .1, .1, .1), (.9, .9)])
def test_what_no_model_of_this_kind_does_is_said(wanted):
    with pytest.raises(SettingError, match='p_correct'): fit_fog(wanted, OFTEN)

@pytest.mark.parametrize('bad', [dict(p_correct=2), dict(p_correct='much'), dict(p_correct=True), dict(prevalence=(1, -1)), dict(threshold=2), dict(blurred=-1),
                                 dict(p_correct=float('nan'))])
def test_settings_that_cannot_be(bad):
    with pytest.raises(SettingError): MockSettings(**bad)

def test_the_same_photograph_gets_the_same_answer(eye):
    told = [write_truth(eye, 2, n=n) for n in range(3)]
    a, b, other = MockModel(Oracle()), MockModel(Oracle()), MockModel(Oracle(), settings=MockSettings(seed=1))
    assert [a(t).probabilities for t in told] == [b(t).probabilities for t in told]
    assert len({tuple(m(t).probabilities) for m in (a, other) for t in told}) == 6
    batch = a.probabilities([2, 2, 2], [hashlib.sha256(t).hexdigest() for t in told], a(told[0]).quality.get('measures', {}).get('sharpness', .6))
    assert np.allclose(batch[0], a(told[0]).probabilities)

def test_every_answer_says_that_it_is_a_mock(eye):
    m = MockModel(Oracle(), name='fine')
    said = m(write_truth(eye, 1)).to_dict()
    assert 'mock' in said['trained_on'] and said['model']['name'] == 'mock fine' and said['model']['id'].startswith('mock')
    assert 'mock' in str(m(write_truth(eye, 1))) and 'mock' in m.bundle.card

def test_truth_in_a_file(eye):
    told = write_truth(eye, 3, patient='a', n=4)
    assert read_truth(told) == 3 and hashlib.sha256(told).digest() != hashlib.sha256(eye).digest()
    ahead = hashlib.sha256(eye[:-2])
    ahead.update(truth_comment(3, patient='a', n=4)) # the rest of the file need not be hashed again
    assert ahead.hexdigest() == hashlib.sha256(told).hexdigest()
    for other in (eye, told[:-3], told + b' ', b'', b'\xff\xd9', told.replace(b'"grade": 3', b'"grade": x'), told.replace(b'"grade": 3', b'"grade":"3')):
        assert read_truth(other) is None
    assert read_truth(write_truth(told, 0)) == 0

def test_photographs_that_the_oracle_does_not_know(eye):
    m = MockModel(Oracle())
    for data in (eye, write_truth(eye, 5), write_truth(eye, -1)):
        with pytest.raises(ImageError, match='does not know'): m(data)
    with pytest.raises(ImageError): m(b'no picture')
    with pytest.raises(ImageError): m(synth_eye(3, grade=1).image) # pixels without a file
    with pytest.raises(SettingError, match='no network'): m._session.run(['probabilities'], {})

def test_blur_costs_only_where_that_is_wanted():
    truth, shas = np.full(3000, 2), [str(i) for i in range(3000)]
    right = lambda m, s: (m.probabilities(truth, shas, s).argmax(1) == 2).mean()
    hardy, weak = (MockModel(Oracle(), settings=MockSettings(.9, blurred=b)) for b in (0, 1.5))
    assert right(hardy, .3) == right(hardy, .6) and right(weak, .3) < right(weak, .6) - .1

def test_expected_figures_are_those_of_many_answers():
    m = MockModel(Oracle(), settings=MockSettings(.8, OFTEN), threshold=.3)
    truth = np.random.default_rng(0).choice(5, 60_000, p=OFTEN)
    p = m.probabilities(truth, [str(i) for i in range(len(truth))])
    said, pos, want = p[:, 2:].sum(1) >= .3, truth >= 2, m.expected()
    assert abs(want['accuracy'] - (p.argmax(1) == truth).mean()) < .01
    assert abs(want['sensitivity'] - said[pos].mean()) < .01 and abs(want['specificity'] - (~said)[~pos].mean()) < .01

# --- as a folder
@pytest.fixture
def folder(tmp_path, eye):
    return write_mock(tmp_path/'m', Oracle({hashlib.sha256(eye).hexdigest(): 2}), MockSettings((.9, .7, .8, .8, .9), seed=3), name='of a test')

def test_a_folder_is_the_model_again(folder, eye):
    b = load_mock(folder)
    assert b.id == load_mock(folder).id and b.name == 'mock of a test' and b.settings.p_correct == (.9, .7, .8, .8, .9)
    g = open_grader(folder, threshold=.2)
    assert g(eye).threshold == .2 and g(eye).model['id'] == b.id
    assert write_mock(folder, Oracle()) == folder and load_mock(folder).id != b.id # written anew

@pytest.mark.parametrize('name', ['config.json', 'oracle.csv'])
def test_a_changed_file_is_refused(folder, name):
    (folder/name).write_bytes((folder/name).read_bytes() + b'\n')
    with pytest.raises(BundleError, match=f'{name} was changed'): load_mock(folder)

def _with(folder, name, text):
    (folder/name).write_text(text)
    sums = [f'{hashlib.sha256((folder/f).read_bytes()).hexdigest()}  {f}\n' for f in ('config.json', 'oracle.csv')]
    (folder/'SHA256SUMS').write_text(''.join(sums))

@pytest.mark.parametrize('change', [
    lambda c: c.pop('mock'), lambda c: c.update(format_version=2), lambda c: c['mock'].update(p_correct=7), lambda c: c['mock'].update(evil=1),
    lambda c: c.update(task_detail=dict(name='dr')), lambda c: c.update(preprocess_hash='x'), lambda c: c.update(mock=[]), lambda c: c.update(name=7)])
def test_settings_that_do_not_belong_together_are_refused(folder, change):
    c = json.loads((folder/'config.json').read_text())
    change(c)
    _with(folder, 'config.json', json.dumps(c))
    with pytest.raises(BundleError): load_mock(folder)

@pytest.mark.parametrize('text', ['sha256,grade\nx,1\n', 'sha256,grade\n' + 'a'*64 + ',9\n', 'sha256,grade\n' + 'a'*64 + '\n', 'sha256,grade\n' + 'a'*64 + ',much\n', '\0'])
def test_an_oracle_that_is_none_is_refused(folder, text):
    _with(folder, 'oracle.csv', text)
    with pytest.raises(BundleError): load_mock(folder)

def test_nothing_else_is_overwritten(tmp_path):
    (tmp_path/'thesis.txt').write_text('x')
    with pytest.raises(SettingError, match='holds something else'): write_mock(tmp_path)

def test_another_task(tmp_path):
    m = MockModel(Oracle(), .8, task='oct')
    assert len(m.fog.believed) == len(get_task('oct')) and isinstance(m.fog, Fog)

"Synthetic OCT scans: the same for the same seed, a finding for each class and nothing else that tells it, sets by patient."
import numpy as np, pytest

from retina_nb.core import DataError, SettingError, get_task
from retina_nb.data import describe_source, load_records, source_badge
from retina_nb.synth import SynthScan, synth_scan, write_scans

def test_the_same_seed_gives_the_same_scan():
    a, b = synth_scan(7, 1, size=120), synth_scan(7, 1, size=120)
    assert isinstance(a, SynthScan) and (a.image == b.image).all() and a.image.shape == (120, 180, 3) and a.image.dtype == np.uint8
    assert (a.image != synth_scan(8, 1, size=120).image).any() and synth_scan(7, size=120).label in range(4)

@pytest.mark.parametrize('seed', range(5))
def test_only_the_finding_differs(seed):
    "Far above and far beside the finding, all four classes are the same pixels"
    four = [synth_scan(seed, c, size=160, turned=False) for c in range(4)]
    same = np.all([o.image == four[3].image for o in four], axis=(0, 3))
    assert same[:20].all() and not same.all()
    assert [bool(o.masks['raised'].any()) for o in four] == [True, False, True, False]
    assert not four[2].masks['fluid'].any() and four[1].masks['fluid'].any() and not four[3].masks['fluid'].any()

def test_a_strong_finding_is_larger():
    a, b = (synth_scan(3, 2, strength=s, turned=False).masks['raised'].sum() for s in (.5, 1.5))
    assert a < b

def test_a_set_is_by_patient_and_says_what_it_is(tmp_path):
    write_scans(tmp_path/'s', 100, size=48)
    r = load_records(tmp_path/'s', task='oct')
    assert len(r) == 100 and r.groupby('patient').split.nunique().max() == 1 and (r.groupby('split').label.nunique() == 4).all()
    badge = source_badge(describe_source(r))
    assert badge == 'trained on synthetic eyes' and get_task('oct').say(badge) == 'trained on synthetic scans'
    with pytest.raises(DataError): write_scans(tmp_path/'s', 100, size=48)
    with pytest.raises(SettingError, match='at least 4'): write_scans(tmp_path/'t', 3)

def test_synth_n_draws_what_the_task_is_about(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    r = load_records('synth:12', task='oct')
    assert len(r) == 12 and set(r.source) == {'synth'} and set(r.label) == set(range(4))
    with pytest.raises(SettingError, match='no X-rays'): load_records('synth:12', task='pneumonia')

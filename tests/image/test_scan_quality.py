"Quality of OCT scans: planted faults lower it and are named, size and white borders do not matter, real scans pass."
import cv2, numpy as np, pytest

from retina_nb.core import DataError
from retina_nb.data import load_records
from retina_nb.deploy.grading import Grading
from retina_nb.image import SCAN_LIMITS, judge_quality, quality_points, quality_table, scan_measures, scan_quality, ungradable
from retina_nb.synth import synth_scan

SCANS = [synth_scan(s, s % 4, size=180, turned=s % 3 == 0).image for s in range(8)]
STILL = [synth_scan(s, s % 4, size=180, turned=False).image for s in range(8)]

def shifted(a, k):
    "Moved by a part of the height, background comes in"
    n = round(abs(k)*len(a)); edge = np.resize(a[:9] if k > 0 else a[-9:], (n, *a.shape[1:]))
    return np.concatenate([edge, a[:len(a)-n]] if k > 0 else [a[n:], edge])

@pytest.mark.parametrize('fault,reason', [
    (lambda a: (a*.25).astype(np.uint8), 'too dark'),
    (lambda a: np.clip(a*.5 + np.random.default_rng(0).normal(0, 60, a.shape[:2])[...,None], 0, 255).astype(np.uint8), 'too much noise'),
    (lambda a: shifted(a, -.5), 'cut off at the upper edge'), (lambda a: shifted(a, .42), 'cut off at the lower edge'),
    (lambda a: np.where(np.arange(a.shape[1])[:,None] < a.shape[1]*.3, 0, a).astype(np.uint8), 'a side is black')])
def test_planted_faults_are_named(fault, reason):
    for a in STILL:
        assert scan_quality(a).ok
        q = scan_quality(fault(a))
        assert not q.ok and any(reason in r for r in q.reasons), (reason, str(q))

def test_white_borders_are_not_light():
    "A scan that was turned on white is judged like the same scan that was not"
    for s in range(8):
        straight, turned = (synth_scan(s, 3, size=180, turned=t).image for t in (False, True))
        a, b = scan_measures(straight), scan_measures(turned)
        assert scan_quality(turned).ok and abs(a['contrast'] - b['contrast']) < .2*a['contrast']

@pytest.mark.parametrize('side', (128, 240, 496))
def test_size_does_not_matter(side):
    for a in SCANS:
        b = cv2.resize(a, (round(a.shape[1]*side/a.shape[0]), side), interpolation=cv2.INTER_AREA if side < len(a) else cv2.INTER_CUBIC)
        assert scan_quality(b).ok and abs(scan_quality(b).score - scan_quality(a).score) < .2

@pytest.mark.parametrize('a', [np.zeros((60,90,3), np.uint8), np.full((60,90,3), 255, np.uint8), np.zeros((32,400,3), np.uint8),
                               np.random.default_rng(0).integers(0, 255, (90,120,3), dtype=np.uint8)], ids=['black', 'white', 'strip', 'noise'])
def test_what_is_no_scan_is_poor_and_its_figures_are_numbers(a):
    q = scan_quality(a)
    assert not q.ok and q.reasons and np.isfinite(list(q.measures.values())).all() and 0 <= q.score < .5

def test_points():
    for l in SCAN_LIMITS.values(): assert quality_points(l.at, l) == pytest.approx(.5)

def test_only_where_nothing_can_be_seen_is_it_refused():
    a = STILL[0]
    assert not ungradable(a, 'oct') and not ungradable(shifted(a, -.4), 'oct') and not ungradable((a*.5).astype(np.uint8), 'oct')
    assert 'too dark' in ungradable((a*.16).astype(np.uint8), 'oct')

def test_one_door(tmp_path):
    assert judge_quality(SCANS[0], 'oct').ok and judge_quality(SCANS[0], 'pneumonia') is None and not judge_quality(SCANS[0], 'dr').ok
    cv2.imwrite(str(tmp_path/'a.png'), SCANS[0])
    t = quality_table([tmp_path/'a.png', tmp_path/'none.png'], task='oct', workers=1)
    assert t.ok.tolist() == [True, False] and set(SCAN_LIMITS) <= set(t) and t.score[0] == scan_quality(SCANS[0]).score
    with pytest.raises(DataError, match='not judged'): quality_table([], task='pneumonia')

def test_a_poor_scan_is_a_reason_to_look():
    q = scan_quality((STILL[0]*.3).astype(np.uint8))
    g = Grading('a', 0, 'CNV', [1., 0, 0, 0], quality=dict(ok=q.ok, score=q.score, reasons=q.reasons, measures=q.measures))
    assert any('poor quality: too dark' in r for r in g.reasons())

def test_real_scans_pass(real_data):
    "One in ten, by the table: nearly all are good, none is refused"
    records = load_records(real_data/'oct2017', task='oct', warn=False)[::10]
    assert quality_table(records, workers=2).ok.mean() >= .97
    assert not any(ungradable(f, 'oct') for f in records.image[::3])

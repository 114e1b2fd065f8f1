"The same seeds give the same eyes as when SYNTH_VERSION was set: golden_eyes.json is written anew (python tests/synth/test_same_eyes.py) only when it is raised"
import hashlib, json
from pathlib import Path

import numpy as np, pytest

from retina_nb.synth import SYNTH_VERSION, plan_synth, synth_eye

GOLDEN = Path(__file__).with_name('golden_eyes.json')
EYES = {'healthy': dict(seed=0, grade=0, size=64), 'mild': dict(seed=1, grade=1, eye='right', size=128), 'moderate': dict(seed=2, grade=2), 'severe': dict(seed=3, grade=3, eye='right'),
        'proliferative': dict(seed=4, grade=4, size=384), 'small': dict(seed=5, grade=3, size=100), 'right': dict(seed=6, grade=4, eye='right'), 'own grade': dict(seed=7, size=257),
        'large': dict(seed=8, grade=2, eye='right', size=512), 'large seed': dict(seed=123456, grade=4, size=200), 'grade 1': dict(seed=9, grade=1), 'IRMA': dict(seed=10, grade=3, eye='right', size=160),
        'by hand': dict(seed=11, grade=3, eye='right', camera='A', dust=((.2,.1,.05,.2),), gaze=(.1, 0.)), 'visible': dict(seed=12, grade=4, visibility=2.)}

def facts(name):
    e = synth_eye(**EYES[name]); h, w = e.image.shape[0]//8*8, e.image.shape[1]//8*8
    means = e.image[:h,:w].reshape(8, h//8, 8, w//8, 3).mean((1,3))
    return dict(image=hashlib.sha256(e.image.tobytes()).hexdigest()[:16], masks=hashlib.sha256(b''.join(e.masks[k].tobytes() for k in sorted(e.masks))).hexdigest()[:16],
                shape=list(e.image.shape), counts={k: v.tolist() for k,v in e.counts.items() if v.any()}, disc=list(e.disc), fovea=list(e.fovea), means=means.round(2).tolist())

def plan(): return hashlib.sha256(plan_synth(101, 7).to_csv(index=False).encode()).hexdigest()[:16]

@pytest.mark.parametrize('name', EYES)
def test_the_same_eye(name):
    golden = json.loads(GOLDEN.read_text()); want, got = golden['eyes'][name], facts(name)
    assert golden['version'] == SYNTH_VERSION
    assert [got[k] for k in ('shape', 'counts', 'disc', 'fovea', 'masks')] == [want[k] for k in ('shape', 'counts', 'disc', 'fovea', 'masks')]
    # another processor may round a few pixels otherwise
    assert got['image'] == want['image'] or np.abs(np.subtract(got['means'], want['means'])).max() < .2

def test_the_same_plan(): assert plan() == json.loads(GOLDEN.read_text())['plan']

if __name__ == '__main__': GOLDEN.write_text(json.dumps(dict(version=SYNTH_VERSION, plan=plan(), eyes={n: facts(n) for n in EYES})) + '\n')

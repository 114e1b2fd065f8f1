"Synthetic fundus photographs of 256 px, one core: drawing the eye, its lesions and their masks"
from retina_nb.synth.render import synth_eye
from timing import compare

def bench(quick):
    n = 20 if quick else 60
    for grade in (0, 2, 4):
        yield compare(f'grade {grade}', lambda: [synth_eye(seed, grade=grade, size=256) for seed in range(n)],
                      items=n, unit='images/s', goal=30, repeats=3 if quick else 7)

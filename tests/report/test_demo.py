"The two eyes that the demo shows: which ones they are, and what is said of them"
import numpy as np
import pandas as pd
import pytest

from retina_nb.core import get_task
from retina_nb.deploy import Grading
from retina_nb.report import in_words, right_and_wrong

@pytest.mark.parametrize('seed', range(30))
def test_right_and_wrong_follow_the_rule(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    preds = pd.DataFrame(dict(target=rng.integers(0, 5, n), grade=rng.integers(0, 5, n)), index=rng.permutation(n) + 100)
    off = (preds['grade'] - preds['target']).abs().to_numpy()
    target = preds['target'].to_numpy()
    right, wrong = right_and_wrong(preds)
    assert (right is None) == (off != 0).all() and (wrong is None) == (off == 0).all()
    if right is not None:
        hits = np.flatnonzero(off == 0)
        assert right == next(i for i in hits if target[i] == target[hits].max())
    if wrong is not None:
        far = np.flatnonzero(off == off.max())
        assert wrong == next(i for i in far if target[i] == target[far].max())

def test_the_right_answer_is_referable_where_one_is_found():
    preds = pd.DataFrame(dict(target=[0, 1, 2, 4], grade=[0, 1, 2, 0]))
    assert right_and_wrong(preds) == (2, 3)

@pytest.mark.parametrize('truth,grade,referred,says', [
    (4, 2, False, ('truly grade 4, Proliferative', 'says grade 2, Moderate', '2 grades too low', '; not referred (', 'a miss of referable DR')),
    (4, 3, True, ('1 grade too low', '; referred (', 'rightly')),
    (0, 2, True, ('truly grade 0, No DR', '2 grades too high', '; referred (', 'a false alarm')),
    (0, 0, False, ('right; not referred (', 'rightly')),
    (4, 4, False, ('right; not referred (', 'a miss of referable DR'))])
def test_a_miss_is_called_a_miss(truth, grade, referred, says):
    p = np.full(5, .1)
    p[grade] = .6
    task = get_task('dr')
    text = in_words(Grading('eye.jpg', grade, task.classes[grade], list(p), referred, .5, .4 if referred else .6, task=task), truth)
    assert all(s in text for s in says), text
    assert ('miss' in text) == (truth >= 2 and not referred) and ('false alarm' in text) == (truth < 2 and referred)

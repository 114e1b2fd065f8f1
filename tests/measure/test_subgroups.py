"Groups partition the patients, and the small ones are marked"
import pytest

from retina_nb.measure import example_predictions, subgroup_scores

@pytest.fixture(scope='module')
def preds(): return example_predictions(150, seed=3)

def test_subgroups_partition_and_mark_the_small(preds):
    t = subgroup_scores(preds, 'hospital', scores=('accuracy',), n_boot=50)
    assert t[t.tag == 'hospital'].n_images.sum() == len(preds) and set(t.group) >= {'all', 'A', 'B'}
    assert (t.small == (t.rests_on < 20)).all()
    gap = preds.copy(); gap.loc[:9, 'hospital'] = None
    assert '(missing)' in set(subgroup_scores(gap, 'hospital', scores=('accuracy',), n_boot=10).group)

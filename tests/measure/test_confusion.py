"The matrix in numbers and as drawn, errors by kind, thresholds that move only what they should"
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError, SettingError
from retina_nb.measure import (cell_images, confused_pairs, confusion_matrix, error_kinds, example_predictions, grade_at_threshold,
                               plot_confusion)

@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')

# six eyes of four patients, worked by hand
HAND = pd.DataFrame(dict(image=[f'{i}.png' for i in range(6)], patient=['a','a','b','b','c','d'], target=[0,0,2,4,3,2], grade=[0,1,2,0,4,1]))

COUNTS = [[1,1,0,0,0], [0,0,0,0,0], [0,1,1,0,0], [0,0,0,0,1], [1,0,0,0,0]]

def test_matrix_by_hand():
    assert confusion_matrix(HAND).tolist() == COUNTS and confusion_matrix(HAND).dtype.kind == 'i'
    row = confusion_matrix(HAND, normalize='true')
    assert row[0].tolist() == [.5,.5,0,0,0] and np.isnan(row[1]).all() and row[2].tolist() == [0,.5,.5,0,0]
    assert confusion_matrix(HAND, normalize='pred')[:,0].tolist() == [.5,0,0,0,.5]
    assert confusion_matrix(HAND, normalize='all').sum() == pytest.approx(1)
    assert confusion_matrix(HAND, normalize='patients')[0,0] == .25
    d = confusion_matrix(HAND, normalize='distance')     # squared distances 1, 16, 1, 1
    assert d[4,0] == 16/19 and d[0,1] == d[2,1] == d[3,4] == 1/19 and d.sum() == pytest.approx(1)

def read(ax):
    cells = {t.get_gid(): t for t in ax.texts if (t.get_gid() or '').startswith('cell-')}
    return [[cells[f'cell-{i}-{j}'] for j in range(5)] for i in range(5)]

def test_drawing_holds_the_numbers_in_their_places():
    ax = plot_confusion(HAND)
    ax.figure.canvas.draw()
    cells = read(ax)
    assert [[int(t.get_text()) for t in r] for r in cells] == COUNTS
    at = [[ax.transData.transform(t.get_position()) for t in r] for r in cells]
    assert all(at[i][j][1] > at[i+1][j][1] for i in range(4) for j in range(5)), 'the first true class is on top'
    assert all(at[i][j][0] < at[i][j+1][0] for i in range(5) for j in range(4)), 'the first predicted class is on the left'
    assert [t.get_text() for t in ax.get_yticklabels()][4] == '4 Proliferative' and 'rows' in ax.get_ylabel() and 'columns' in ax.get_xlabel()
    assert 'rows true, columns predicted' in ax.get_title(loc='left')
    im = ax.images[0].get_array()
    assert np.allclose(im, np.nan_to_num(confusion_matrix(HAND, normalize='true'))), 'colour is the share of the row'

def test_drawing_of_shares():
    cells = read(plot_confusion(HAND, normalize='true'))
    assert cells[0][0].get_text() == '50%\n1' and cells[1][1].get_text() == '–\n0'

def test_draws_on_given_axes_and_leaves_settings_alone():
    before = dict(plt.rcParams)
    _, (a, b) = plt.subplots(1, 2)
    assert plot_confusion(HAND, ax=b) is b and not a.images
    plot_confusion(HAND)
    assert dict(plt.rcParams) == before

@pytest.mark.parametrize('task', ['dr', 'oct', 'pneumonia', 'pneumonia_type'])
@pytest.mark.parametrize('how', [None, 'true', 'pred', 'all', 'patients', 'distance'])
def test_every_task_and_share_can_be_drawn(task, how):
    plot_confusion(example_predictions(40, task=task), normalize=how)

def test_errors_by_kind_by_hand():
    k = error_kinds(HAND, n_boot=10).set_index('kind')
    assert k.images.to_dict() == {'right': 2, 'off by one, same decision': 2, 'further off, same decision': 0, 'needless referral': 0, 'dangerous miss': 2}
    assert k.patients['dangerous miss'] == 2 and k.fraction.sum() == pytest.approx(1)
    p = confused_pairs(HAND)
    assert len(p) == 4 and set(p.kind) == {'off by one, same decision', 'dangerous miss'} and 'mean_p_true' not in p
    assert len(confused_pairs(HAND.assign(grade=HAND.target))) == 0
    assert 'off by one, same decision' not in set(error_kinds(example_predictions(30, task='oct'), n_boot=10).kind)

def test_cells_partition_the_table():
    d = example_predictions(100)
    assert sum(len(cell_images(d, i, j)) for i in range(5) for j in range(5)) == len(d)
    with pytest.raises(SettingError, match='no class 9'): cell_images(d, 0, 9)

def test_regrade_moves_only_across_the_line():
    d = example_predictions(300)
    last = None
    for t in np.linspace(0, 1.01, 12):
        g = grade_at_threshold(d, t)
        assert ((g.grade >= 2) == (d[['p_2','p_3','p_4']].sum(axis=1) >= t)).all()
        miss = error_kinds(g, n_boot=2).set_index('kind').images['dangerous miss']
        assert last is None or miss >= last
        last = miss
    with pytest.raises(DataError, match='probabilities'): grade_at_threshold(d[['target', 'grade']], .5, task='dr')

"The matrix in numbers and as drawn, errors by kind, the panel's state, and stars that mean something"
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retina_nb.measure.confusion import (ConfusionPanel, cell_images, compare_confusion, confused_pairs, confusion_matrix, error_kinds,
                                 kind_matrix, plot_confusion, plot_confusion_pair, regrade, show_cell)
from retina_nb.core import DataError, SettingError, get_task
from retina_nb.measure.metrics import example_predictions

# six eyes of four patients, worked by hand
HAND = pd.DataFrame(dict(image=[f'{i}.png' for i in range(6)], patient=['a','a','b','b','c','d'], target=[0,0,2,4,3,2], grade=[0,1,2,0,4,1]))
COUNTS = [[1,1,0,0,0], [0,0,0,0,0], [0,1,1,0,0], [0,0,0,0,1], [1,0,0,0,0]]

@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')

def test_matrix_by_hand():
    assert confusion_matrix(HAND).tolist() == COUNTS and confusion_matrix(HAND).dtype.kind == 'i'
    row = confusion_matrix(HAND, normalise='true')
    assert row[0].tolist() == [.5,.5,0,0,0] and np.isnan(row[1]).all() and row[2].tolist() == [0,.5,.5,0,0]
    assert confusion_matrix(HAND, normalise='pred')[:,0].tolist() == [.5,0,0,0,.5]
    assert confusion_matrix(HAND, normalise='all').sum() == pytest.approx(1)
    assert confusion_matrix(HAND, normalise='patients')[0,0] == .25
    d = confusion_matrix(HAND, normalise='distance')     # squared distances 1, 16, 1, 1
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
    assert np.allclose(im, np.nan_to_num(confusion_matrix(HAND, normalise='true'))), 'colour is the share of the row'

def test_drawing_of_shares():
    cells = read(plot_confusion(HAND, normalise='true'))
    assert cells[0][0].get_text() == '50%\n1' and cells[1][1].get_text() == '–\n0'

def test_draws_on_given_axes_and_leaves_settings_alone():
    before = dict(plt.rcParams)
    fig, (a, b) = plt.subplots(1, 2)
    assert plot_confusion(HAND, ax=b) is b and not a.images
    plot_confusion(HAND)
    assert dict(plt.rcParams) == before

@pytest.mark.parametrize('task', ['dr', 'oct', 'pneumonia', 'pneumonia_type'])
@pytest.mark.parametrize('how', [None, 'true', 'pred', 'all', 'patients', 'distance'])
def test_every_task_and_share_can_be_drawn(task, how):
    plot_confusion(example_predictions(40, task=task), normalise=how)

def test_errors_by_kind_by_hand():
    k = error_kinds(HAND, n_boot=10).set_index('kind')
    assert k.images.to_dict() == {'right': 2, 'off by one, same decision': 2, 'further off, same decision': 0, 'needless referral': 0, 'dangerous miss': 2}
    assert k.patients['dangerous miss'] == 2 and k.share.sum() == pytest.approx(1)
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
        g = regrade(d, t)
        assert ((g.grade >= 2) == (d[['p_2','p_3','p_4']].sum(axis=1) >= t)).all()
        miss = error_kinds(g, n_boot=2).set_index('kind').images['dangerous miss']
        assert last is None or miss >= last
        last = miss
    with pytest.raises(DataError, match='probabilities'): regrade(d[['target', 'grade']], .5, 'dr')

@pytest.fixture
def photos(tmp_path):
    d = example_predictions(10)
    for i, f in enumerate(d.image[:18]): Image.fromarray(np.full((40, 60, 3), i*10, np.uint8)).save(tmp_path/f)
    (tmp_path/d.image[18]).write_text('not a photograph')       # and the last one is missing
    return d, tmp_path

def test_panel_state(photos):
    pytest.importorskip('ipywidgets')
    d, root = photos
    p = ConfusionPanel(d, root=root, n=30)
    assert p.cell is None and p.threshold is None and len(p.images) == 0 and (p.matrix == confusion_matrix(d)).all()
    i, j = map(int, np.unravel_index(p.matrix.argmax(), p.matrix.shape))
    p._buttons[i][j].click()
    assert p.cell == (i, j) and len(p.images) == p.matrix[i,j] == len(p._shots.children)
    p.threshold = .05
    assert (p.matrix == confusion_matrix(regrade(d, .05))).all() and p._slider.value == .05 and not p._slider.disabled
    p._slider.value = .3
    assert p.threshold == .3
    p._use.value = False
    assert p.threshold is None and (p.matrix == confusion_matrix(d)).all()
    assert [[b.description for b in r] for r in p._buttons] == [[f'{c:,}' for c in r] for r in confusion_matrix(d)]

def test_panel_and_figure_survive_bad_photographs(photos):
    d, root = photos
    d = d.assign(target=0, grade=0)
    p = ConfusionPanel(d, root=root, n=30)
    p.click(0, 0)
    words = [c.children[0].value for c in p._shots.children if isinstance(c.children[0].value, str)]
    assert len(p._shots.children) == 20 and len(words) == 2 and any(d.image[18] in w for w in words)
    assert len(show_cell(d, 0, 0, root=root, n=20).axes) == 20
    show_cell(d, 3, 3, root=root); show_cell(d.drop(columns='image'), 0, 0)

def test_panel_without_probabilities_has_no_slider():
    p = ConfusionPanel(HAND)
    p.click(4, 0)
    assert len(p.images) == 1 and p._slider not in [w for c in p.widget.children for w in getattr(c, 'children', [])]

def test_two_matrices():
    d = example_predictions(200)
    worse = example_predictions(200, noise=.9)
    c = compare_confusion(worse, d, n_perm=500)
    assert (c['difference'] == confusion_matrix(d) - confusion_matrix(worse)).all() and c['p'].min() < .05 and c['difference'].sum() == 0
    back = compare_confusion(d, worse, n_perm=500)
    assert (back['difference'] == -c['difference']).all() and (back['p'] == c['p']).all()
    same = compare_confusion(d, d, n_perm=50)
    assert not same['difference'].any() and (same['p'] == 1).all()
    axs = plot_confusion_pair(worse, d, n_perm=200)
    assert len(axs) == 3 and any('*' in t.get_text() for t in axs[2].texts)

@pytest.mark.full
def test_stars_by_chance():
    "Under equality the chance of any star is at most 5%, with correlated eyes"
    base = example_predictions(200, seed=5)
    def again(seed):
        "An equally good model whose errors go together in both eyes of a patient"
        rng = np.random.default_rng(seed)
        out = base.copy()
        flip = np.repeat(rng.random(200) < .3, 2)
        out['grade'] = np.where(flip, (base.target + np.repeat(rng.integers(0, 5, 200), 2)) % 5, base.target)
        return out
    hits = [(compare_confusion(again(2*s), again(2*s+1), n_perm=400)['p'] < .05).any() for s in range(300)]
    assert np.mean(hits) < .085

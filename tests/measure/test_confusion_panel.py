"The panel's state without a browser"
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retina_nb.measure import ConfusionPanel, confusion_matrix, example_predictions, grade_at_threshold, show_cell

@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close('all')

HAND = pd.DataFrame(dict(image=[f'{i}.png' for i in range(6)], patient=['a','a','b','b','c','d'], target=[0,0,2,4,3,2], grade=[0,1,2,0,4,1]))

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
    assert (p.matrix == confusion_matrix(grade_at_threshold(d, .05))).all() and p._slider.value == .05 and not p._slider.disabled
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

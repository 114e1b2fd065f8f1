"Colours that colour-blind readers can tell apart, figures that are the same bytes again."
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pytest

from retina_nb.core import SettingError, TASKS, Task
from retina_nb.plotting import GRADE_COLOURS, OKABE_ITO, as_seen, caption, cielab, class_colours, contrast_ratio, luminance, new_axes, plot_curves, ramp, save_figure, set_style, text_on

def closest(colours, by):
    L = cielab(as_seen(colours, by)); return min(np.linalg.norm(a-b) for i,a in enumerate(L) for b in L[:i])

@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('by', ('normal', 'protanopia', 'deuteranopia'))
def test_classes_can_be_told_apart(task, by): assert closest(class_colours(task), by) > 10

def test_grades_darken_in_order():
    L = [luminance(c) for c in GRADE_COLOURS]
    assert L == sorted(L, reverse=True) and closest(GRADE_COLOURS, 'greyscale') > 10
    for n in (2, 3, 8): assert len(set(ramp(n))) == n

def test_lab_of_known_colours():
    assert np.allclose(cielab([(1,1,1), (0,0,0)]), [[100,0,0],[0,0,0]], atol=.1) and np.allclose(cielab([(1,0,0)]), [[53.24,80.09,67.2]], atol=.1)
    assert contrast_ratio('w', 'k') == pytest.approx(21) and text_on('w') == '#000000'
    assert all(contrast_ratio(text_on(c), c) > 4.5 for c in (*OKABE_ITO, *GRADE_COLOURS))

def test_unknown_task():
    with pytest.raises(SettingError): class_colours('x')

@pytest.mark.parametrize('suffix', ('png', 'svg', 'pdf'))
def test_same_figure_same_bytes(tmp_path, suffix):
    set_style(); out = []
    for i in range(2):
        fig,ax = plt.subplots(); ax.plot([1,2]); caption(ax, 'It rises', 'made up'); out.append(save_figure(fig, tmp_path/f'{i}.{suffix}').read_bytes()); plt.close(fig)
    assert out[0] == out[1] and sorted(p.name for p in tmp_path.iterdir()) == [f'0.{suffix}', f'1.{suffix}']

@pytest.mark.parametrize('n', (2, 6, 8, 9, 20))
@pytest.mark.parametrize('ordinal', (True, False))
def test_every_class_of_a_task_of_ones_own_has_a_colour(n, ordinal):
    colours = class_colours(Task('own', [f'class {i}' for i in range(n)], ordinal=ordinal))
    assert len(colours) == len(set(colours)) == n and all(contrast_ratio(text_on(c), c) >= 4.5 for c in colours)

def test_axes_in_our_look_change_no_settings():
    before = dict(plt.rcParams)
    ax = new_axes(size=(2, 1))
    assert new_axes(ax) is ax and not ax.spines['top'].get_visible() and dict(plt.rcParams) == before
    plt.close(ax.figure)

@pytest.mark.parametrize('columns', (('qwk', 'accuracy'), ('accuracy',), ()))
def test_curves_of_any_history(columns):
    import pandas as pd
    h = pd.DataFrame(dict(epoch=[0], train_loss=[1.], valid_loss=[1.2]) | {c: [.5] for c in columns})
    loss, scores = plot_curves(h)
    assert len(loss.lines) == 2 and len(scores.lines) == len(columns)
    assert all(t == int(t) for t in loss.get_xticks())
    plt.close(loss.figure)

"Colours that colour-blind readers can tell apart, figures that are the same bytes again."
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pytest

from retina_nb.core import SettingError, TASKS
from retina_nb.plotting import GRADE_COLOURS, OKABE_ITO, as_seen, class_colours, caption, contrast_ratio, cielab, luminance, ramp, save_figure, set_style, text_on

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

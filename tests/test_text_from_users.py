"Whatever people call things is drawn and shown as text: in figures, on pages, in Markdown."
import html, io, re, warnings

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from retina_nb.core import Task, with_task
from retina_nb.pages import Section, plain_markdown, render_page
from retina_nb.plotting import caption, drawn, new_axes, save_figure

ODD = ['$', '$$', '$5 and $6', r'$\frac{1}{', r'a_b^c', r'\alpha', '{}', '\\', '%d %s', '😀👁', '眼科 مرحبا', 'x'*400, 'a\nb', 'a\tb\r\n', '\0', '\x1b[31m', '\udcff', '\u202eabc', '<b>&amp;', '#' * 50, '']

@pytest.mark.parametrize('own', (False, True))
def test_any_text_is_drawn_as_it_is(own, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', message='Glyph .* missing|constrained_layout not applied')
        for text in ODD:
            ax = new_axes(plt.subplots(figsize=(12, 9))[1]) if own else new_axes(size=(12, 9))
            ax.bar([text, 'b'], [1, 2], label=text or 'none'); ax.set_xlabel(text); ax.annotate(text, (0, 1)); ax.legend(title=text); ax.figure.suptitle(text); caption(ax, text, text)
            ax.set_yticks([0, 1], [text, 'one'])
            f = save_figure(ax.figure, tmp_path/'a.png', dpi=40); w, h = plt.imread(f).shape[1::-1]
            assert w < 1000 and h < 700
            plt.close('all')

def test_powers_of_ten_and_layouts_stay():
    ax = new_axes(); ax.plot([1, 1e6], [1, 2]); ax.set_xscale('log'); ax.figure.canvas.draw()
    assert any('mathdefault' in t.get_text() for t in ax.get_xticklabels())
    axs = new_axes(None, (6, 3), ncols=2); axs[0].set_ylabel('a label\nof two lines'); axs[0].figure.canvas.draw(); assert axs[0].get_position().x0 > .05
    fig = plt.figure(layout='constrained'); a, _ = fig.subfigures(1, 2); ax = new_axes(a.subplots()); ax.set_title('$\\frac'); fig.canvas.draw()
    fig, ax = plt.subplots(); new_axes(ax); fig.tight_layout(); fig.subplots_adjust(left=.3); im = ax.imshow(np.eye(3)); plt.colorbar(im, ax=ax, label='$\\x$'); new_axes(ax); fig.savefig(io.BytesIO())
    plt.close('all')

@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_drawn_is_short_and_clean(text):
    got = drawn(text, 20); assert all(len(l) <= 20 for l in got.split('\n')) and got.count('\n') < 12 and drawn(got, 20) == got and got.encode() is not None

@pytest.mark.filterwarnings('ignore')
def test_figures_of_all_wings_with_odd_names(tmp_path):
    from retina_nb.explore import plot_labels, show_images
    from retina_nb.measure import plot_confusion
    task = Task('odd_words', ['$5', r'\frac{', 'x'*200], positive='$5', title=r'$\bad{ ' + 'y'*300)
    rng = np.random.default_rng(0); y = rng.integers(0, 3, 30)
    records = with_task(pd.DataFrame(dict(image='', label=y, patient=[f'${i}' for i in range(30)], eye='', split='train', camera=['$a', 'b$c^']*15)), task)
    preds = records.assign(target=y, grade=y[::-1])
    for ax in (plot_labels(records, task=task), plot_labels(records, by='camera', task=task), plot_confusion(preds, task)):
        fig = np.ravel(ax)[0].figure; fig.savefig(io.BytesIO(), bbox_inches='tight', dpi=40); plt.close(fig)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path/'$x^_.png')
    odd = with_task(pd.DataFrame(dict(image=[str(tmp_path/'$x^_.png')], label=[0], patient=['$1'], eye='', split='train')), task)
    for ax in np.ravel(show_images(odd)): ax.figure.savefig(io.BytesIO(), dpi=40)
    plt.close('all')

HOSTILE = ['[click](http://evil.example)', '![x](http://evil.example/p.png)', '<img src="http://evil.example">', '<script>x</script>', 'http://evil.example/a', 'www.evil.example', '<http://evil.example>', 'a@evil.example',
           '[a]: http://evil.example\n[a]', '![x][a]', '`code` *b* _i_ ~~s~~', '$$\\href{http://evil.example}{x}$$', '# h1\n\n## h2', '| a | b |\n|---|---|\n| c | d |', '&lt;b&gt;', '- [ ] task', '1. list', '```python\nimport os\n```', '{{ 7*7 }}{% raw %}', '\\[x\\](y)', 'a\u2028b']

def as_html(text):
    mist = pytest.importorskip('nbconvert.filters.markdown_mistune')
    return mist.MarkdownWithMath(renderer=mist.IPythonRenderer(escape=False, exclude_anchor_links=True)).render(text)

@pytest.mark.parametrize('text', HOSTILE)
def test_nothing_in_a_value_is_obeyed_by_markdown(text):
    plain = plain_markdown(text); assert '\n' not in plain
    for around in ('{}', '**{}**, on 3', 'Note: {}.', '# A: {}\n\nb', '* {}', '> {}'):
        made = as_html(around.format(plain)); bare = as_html(around.format('x'))
        assert re.findall(r'<(\w+)', made) == re.findall(r'<(\w+)', bare), made
        assert 'href=' not in made and 'src=' not in made.replace('src=&quot;', '')
    assert html.unescape(plain) == ' '.join(text.split())

@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(list('ab 1.-*_[]()!<>&`~$\\|#+=:/@{}"\'\n') + ['http://', 'www.', '![', '](', '&#', '---', '```']), max_size=40))
def test_no_text_becomes_markup(pieces):
    text = ''.join(pieces)
    made = as_html('Note: ' + plain_markdown(text)); assert re.findall(r'<(\w+)', made) == ['p'] and html.unescape(re.sub(r'</?p>', '', made)).strip() == ('Note: ' + ' '.join(text.split())).strip()

def test_pages_show_what_they_are_given():
    page = render_page(HOSTILE[3], [Section(t, (t, pd.DataFrame({t: [t]}))) for t in HOSTILE], lead=HOSTILE[1])
    body = page[page.index('<body'):]
    assert not re.findall(r'<(?:script|img|iframe|object|form|meta|link|svg)\b', body) and not re.findall(r'(?:src|href)="(?!data:|#)', body)

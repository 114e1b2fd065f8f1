"Pages: closed, escaped, readable in light and dark, and made of any kind of picture."
import io, re
from pathlib import Path

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from markupsafe import Markup
from PIL import Image

import retina_nb
from retina_nb.core import DISCLAIMER, SettingError
from retina_nb.pages import Section, data_url, html_table, picture, render_page
from retina_nb.plotting import contrast_ratio, new_axes

TEMPLATE = (Path(retina_nb.__file__).parent/'templates'/'page.html').read_text(encoding='utf-8')

def colours(rule):
    "The custom colours that a rule of the style sheet sets"
    return dict(re.findall(r'--([a-z]+): (#[0-9a-f]{6})', rule))

def test_every_text_can_be_read_in_light_in_the_dark_and_on_paper():
    light, dark, paper = map(colours, re.findall(r':root \{(.*?)\}', TEMPLATE, re.S))
    assert light.keys() == dark.keys() == paper.keys()
    for c in (light, dark, paper):
        for text in ('ink', 'quiet', 'link', 'warn'):
            for ground in ('paper', 'card'): assert contrast_ratio(c[text], c[ground]) >= 4.5, (text, ground, c)

@settings(max_examples=60, deadline=None)
@given(st.text(), st.text(), st.text())
def test_nothing_that_is_put_in_becomes_html(title, text, cell):
    page = render_page(title, [Section(title, (text, pd.DataFrame({'<x>': [cell]}), picture(np.zeros((2,2,3), np.uint8), alt=f'.{cell}')))], lead=text)
    tags = set(re.findall(r'<\s*([a-zA-Z!/][^\s>]*)', page))
    known = {'!doctype', 'html', 'head', 'meta', 'title', 'style', 'body', 'header', 'h1', 'h2', 'div', 'p', 'main', 'section', 'table', 'thead', 'tbody',
             'tr', 'th', 'td', 'figure', 'img'}
    assert {t.lstrip('/') for t in tags} <= known and page.count(DISCLAIMER) >= 1 and page.count('<img') == 1

@pytest.mark.parametrize('form', ['axes', 'figure', 'array', 'pil', 'path', 'bytes'])
def test_forms_of_a_picture(form, tmp_path):
    ax = new_axes(size=(2, 1))
    Image.new('RGB', (3, 3)).save(tmp_path/'a.jpg')
    what = dict(axes=ax, figure=ax.figure, array=np.zeros((3, 3), np.uint8), pil=Image.new('L', (2, 2)), path=tmp_path/'a.jpg', bytes=(tmp_path/'a.jpg').read_bytes())[form]
    assert data_url(what).startswith('data:image/jpeg;' if form in ('path', 'bytes') else 'data:image/png;')
    assert data_url(what) == data_url(what)

def test_tables():
    t = html_table(pd.DataFrame(dict(a=['x'], n=[1.5], d=[Markup('<b>y</b>')])), right=['a'])
    assert t.count('class="right"') == 2 and '<b>y</b>' in t and '1.5' in t
    assert html_table(pd.DataFrame(columns=['a'])).count('<td') == 0

def test_an_unknown_file_is_no_picture():
    with pytest.raises(SettingError): data_url(io.BytesIO(b'%PDF').getvalue())

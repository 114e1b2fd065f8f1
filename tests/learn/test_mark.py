"Marking a class: what is read from notebooks, what is refused, and the command"
import json

import numpy as np, pandas as pd
import pytest

from retina_nb.core import DataError, RetinaError, SettingError
from retina_nb.learn import check, mark, progress
from retina_nb.learn.exercises import RULES, SAID, near, no, yes

def handed_in(path, said):
    "A notebook with a check a cell, and what it said"
    cells = [dict(cell_type='code', source=[f"answer = 1\ncheck('{n}', answer)"],
                  outputs=[dict(output_type='execute_result', data={'text/plain': [f'{n} {s}: because.']})]*bool(s)) for n, s in said.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=[dict(cell_type='markdown', source='7.3 right: not a check'), *cells])))
    return path

@pytest.fixture
def group(tmp_path):
    "Two students in folders of their own, one of them also with a lesson of ten and more, and an editor's copy"
    handed_in(tmp_path/'ada'/'lesson.ipynb', {'6.1': 'right', '6.2': 'not yet', '6.10': 'right'})
    handed_in(tmp_path/'=ben'/'lesson.ipynb', {'6.1': ''})
    handed_in(tmp_path/'ada'/'.ipynb_checkpoints'/'lesson.ipynb', {'6.1': 'not yet'})
    return tmp_path

def test_a_folder_is_its_notebooks(group):
    table = mark(group)
    assert list(table.columns) == ['6.1', '6.2', '6.10', 'right'] and len(table) == 2
    ada = table.loc[str(group/'ada'/'lesson.ipynb')]
    assert ada.tolist() == ['right', 'not yet', 'right', 2]
    assert table.right.sum() == 2
    assert mark(group/'ada'/'lesson.ipynb').equals(table.loc[[ada.name]])

def test_the_last_word_counts(tmp_path):
    p = handed_in(tmp_path/'a.ipynb', {'6.1': 'right'})
    nb = json.loads(p.read_text())
    nb['cells'].append(dict(nb['cells'][-1], outputs=[dict(data={'text/plain': '6.1 not yet: look again.'})]))
    p.write_text(json.dumps(nb))
    assert mark(p)['6.1'].tolist() == ['not yet'] and mark(p).right.tolist() == [0]

@pytest.mark.parametrize('text,error', [('not json', DataError), ('[1]', RetinaError), ('{"cells": 3}', RetinaError)])
def test_what_is_no_notebook_is_named(tmp_path, text, error):
    p = tmp_path/'odd.ipynb'
    p.write_text(text)
    with pytest.raises(error, match='odd.ipynb'): mark(p)

def test_a_folder_without_notebooks_is_named(tmp_path):
    with pytest.raises(RetinaError, match='there is no notebook'): mark(tmp_path)

def test_the_command(group, typed):
    r = typed('retina_mark', group/'ada', group/'=ben'/'lesson.ipynb', '--out', group/'marks.csv')
    assert r.returncode == 0 and r.stdout.count('lesson.ipynb') == 2, r.stderr
    table = pd.read_csv(group/'marks.csv')
    assert table.columns[0] == 'notebook' and table.right.tolist() == [2, 0]

def test_the_command_says_in_a_line_what_is_missing(tmp_path, typed):
    r = typed('retina_mark', tmp_path/'nobody.ipynb')
    assert r.returncode == 2 and len(r.stderr.strip().splitlines()) == 1 and 'nobody.ipynb: no such file' in r.stderr

@pytest.mark.parametrize('cell', [dict(source=None), dict(source=[1]), dict(outputs=None), dict(outputs=['a']), dict(outputs=[dict(data=None)]),
                                  dict(outputs=[dict(data={'text/plain': None})]), dict(outputs=[dict(data={'text/plain': [1]})]), dict(source=3)])
def test_a_damaged_cell_is_named(cell, tmp_path):
    p = tmp_path/'odd.ipynb'
    p.write_text(json.dumps(dict(cells=[dict(cell_type='markdown'), dict(cell_type='code', source="check('6.1', x)", outputs=[]) | cell])))
    with pytest.raises(RetinaError, match='odd.ipynb: is no notebook: cell 1 is damaged'): mark(p)

@pytest.mark.parametrize('source', ['', 'print(1)', "check('6.1', x)", '# 6.2 right: x'])
def test_what_the_cell_did_not_check_does_not_count(source, tmp_path):
    p = tmp_path/'a.ipynb'
    p.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=source, outputs=[dict(data={'text/plain': '6.2 right: x'}), dict(data={'text/plain': '77.99 right: y'})])])))
    assert mark(p).right.sum() == 0 and set(mark(p)) <= {'6.1', 'right'}

def test_numbers_without_end_are_no_exercises(tmp_path):
    p = tmp_path/'a.ipynb'
    p.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=f"check('{'9'*5000}.1', x)", outputs=[])])))
    assert list(mark(p)) == ['right']

def test_a_folder_with_the_name_of_a_notebook_does_not_stop_the_class(group):
    (group/'ada'/'x.ipynb').mkdir()
    assert len(mark(group)) == 2

@pytest.mark.parametrize('what', [[], [None], [3], [['a']]])
def test_what_names_no_notebook_is_refused(what):
    with pytest.raises(SettingError, match='notebook'): mark(*what)

def test_verdicts_say_what_is_wrong():
    def stumbles(a): raise ValueError
    RULES['98.1'] = lambda answer, records: yes('.')
    RULES['98.2'] = lambda answer: yes('.') if near(answer, 200) else no('.')
    RULES['98.3'] = lambda answer: stumbles(answer)
    try:
        assert "'records'" in check('98.1', 3).said and '_' not in check('98.1', 3).said and 'form of the answer' not in check('98.1', 3).said
        assert 'ValueError' in check('98.3', 3).said
        assert not check('98.2', np.complex64(200+3j)) and not check('98.2', 200+0j)
        for one in (200, 200., np.int16(200), np.array([200]), pd.Series([200]), pd.DataFrame([[200]])): assert check('98.2', one), repr(one)
        assert list(progress(98).question) == ['', '', '']
    finally:
        for k in ('98.1', '98.2', '98.3'): RULES.pop(k), SAID.pop(k, None)

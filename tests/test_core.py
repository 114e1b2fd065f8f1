"Tasks of one's own, the task of a table, and packages that are not there."
import copy, json, pickle, sys

import pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from retina_nb import base, commands, core, disk
from retina_nb.core import DataError, Run, RunError, SettingError, TASKS, Task, forget_task, get_task, need, task_of, with_task
from retina_nb.disk import write_json

SIX = dict(name='six', classes=['a', 'b', 'c', 'd', 'e', 'f'], ordinal=True, positive=[4, 5], positive_name='late', meanings=list('uvwxyz'))

@pytest.mark.parametrize('change,says', [
    (dict(name=''), 'starts with a letter'), (dict(name='two words'), 'starts with a letter'), (dict(name='a/b'), 'starts with a letter'),
    (dict(name='task.json'), 'starts with a letter'), (dict(name=3), 'starts with a letter'), (dict(name='7up'), 'starts with a letter'),
    (dict(classes=[]), 'at least two'), (dict(classes=['only']), 'at least two classes, not 1'), (dict(classes='ab'), 'list of names'),
    (dict(classes=['a', ' ']), 'class 1 has an empty name'), (dict(classes=['a', 'A ']), 'two classes are called'), (dict(classes=['a', 1]), '1 is not a text'),
    (dict(positive=[6]), 'positive 6 is no class: choose from 0 to 5'), (dict(positive=[-1]), 'positive -1'), (dict(positive=['z']), "'z' is no class"),
    (dict(positive=[True]), 'positive True'), (dict(positive=[0, 1, 2, 3, 4, 5]), 'all classes are positive'), (dict(positive=None), 'None is no class'),
    (dict(ordinal=1), 'true or false'), (dict(modality='mri'), "unknown modality 'mri'"), (dict(title=3), 'title is a text'),
    (dict(meanings=['one']), '1 meanings for 6 classes'), (dict(clases=[]), "unknown key 'clases'")])
def test_what_cannot_be_is_refused_in_one_line(change, says):
    with pytest.raises(SettingError, match='task') as e: Task.from_dict(SIX | change)
    assert says in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('lacks', ['name', 'classes'])
def test_name_and_classes_are_needed(lacks):
    with pytest.raises(SettingError, match=f'has no {lacks}'): Task.from_dict({k: v for k,v in SIX.items() if k != lacks})

def test_forms_of_one_task(tmp_path):
    t = Task.from_dict(SIX)
    assert t.positive == (4, 5) and list(t.is_positive([3, 4])) == [False, True] and t.title == 'Six'
    path = tmp_path/'six.json'
    path.write_text('\ufeff' + t.to_json(), encoding='utf-8') # as Windows editors save it
    assert all(get_task(x) == t for x in (t, 'six', SIX, path, str(path), json.loads(t.to_json())))
    write_json(tmp_path/'config.json', dict(task='six', task_detail=t, arch='resnet18'))
    assert get_task(tmp_path/'config.json') == t and Run(tmp_path).task == t
    assert copy.deepcopy(t) == t == pickle.loads(pickle.dumps(t)) and {t: 1}[Task.from_dict(SIX)] == 1

@pytest.mark.parametrize('text,says', [('{"name": ', 'not readable as JSON'), ('[1]', 'an object with name and classes'), ('"six"', 'an object'),
                                       ('{"name": "x", "classes": ["a"]}', 'at least two'), (None, 'no such file')])
def test_a_bad_file_is_named(tmp_path, text, says):
    path = tmp_path/'task.json'
    if text is not None: path.write_text(text)
    with pytest.raises(SettingError, match=says) as e: get_task(str(path))
    assert 'task.json' in str(e.value)

def test_one_name_one_meaning():
    Task.from_dict(SIX)
    Task.from_dict(SIX | dict(title='Six stages'))      # words may change
    assert get_task('six').title == 'Six stages'
    with pytest.raises(SettingError, match='forget_task'): Task.from_dict(SIX | dict(positive=[5]))
    with pytest.raises(SettingError, match='choose another name$'): Task('dr', ['no', 'yes'])
    forget_task('six')
    Task.from_dict(SIX | dict(positive=[5]))
    with pytest.raises(SettingError, match="library's own"): forget_task('dr')
    with pytest.raises(SettingError, match="unknown task 'seven'.*task.json"): get_task('seven')

def test_a_worker_knows_a_task_that_it_was_sent():
    sent = pickle.dumps(Task.from_dict(SIX))
    forget_task('six')
    pickle.loads(sent)
    assert 'six' in TASKS

def test_two_tasks_in_one_table_are_refused():
    own = Task.from_dict(SIX)
    a, b, none = with_task(pd.DataFrame(dict(label=[0])), own), with_task(pd.DataFrame(dict(label=[1])), 'dr'), pd.DataFrame(dict(label=[1]))
    assert task_of(a) == own and task_of(b).name == 'dr' and task_of(none).name == 'dr' and task_of(none, own) == own and task_of(a.iloc[:0]).name
    for both, names in ((pd.concat([a, b]), 'six, dr'), (pd.concat([a, none]), 'six, none'), (pd.concat([none, b]), 'none, dr')):
        for task in (None, own, 'dr'):
            with pytest.raises(DataError, match=names): task_of(both, task)

def test_a_run_that_names_an_unknown_task(tmp_path):
    write_json(tmp_path/'config.json', dict(task='squint'))
    with pytest.raises(RunError, match='config.json.*squint'): Run(tmp_path).task

def test_a_missing_package_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)  # as if it were not installed
    with pytest.raises(SettingError, match=r"needs timm, which is not installed: pip install 'retina_nb\[train\]'$"): need('timm')
    assert need('json') is json

def test_core_shows_what_lies_below_it():
    for low in (base, disk, commands):
        for name in low.__all__: assert getattr(core, name) is getattr(low, name) and name in core.__all__

@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=9), st.booleans())
def test_json_brings_back_every_task(names, ordinal):
    TASKS.pop('any', None)
    try: t = Task('any', names, ordinal=ordinal, positive=0)
    except SettingError: return
    assert Task.from_json(t.to_json()) == t and t.positive_name == t.classes[0]

"Foreign tables, missing columns, tasks that do not match: what is read, and what is refused with its line"
import warnings

import pandas as pd
import pytest

from retina_nb.core import DataError, Run, RunError
from retina_nb.disk import write_json
from retina_nb.measure import (choose_threshold, compare_models, confusion_matrix, evaluate, example_predictions, plot_confusion, promote,
                               read_predictions, subgroup_scores)

@pytest.fixture(scope='module')
def preds(): return example_predictions(150, seed=3)

BAD = {'target 7': ('target', 7, 'target is 7'), 'target 1.5': ('target', 1.5, 'whole number'), 'target in words': ('target', 'glaucoma', "'glaucoma'"),
       'negative target': ('target', -1, 'target is -1'), 'no grade': ('grade', None, 'grade is empty'), 'grade 5': ('grade', 5, 'grade is 5'),
       'probability over 1': ('p_2', 1.2, 'p_2 is outside'), 'negative probability': ('p_0', -.1, 'p_0 is outside'),
       'probability missing': ('p_1', None, 'p_1 is missing'), 'probability in words': ('p_1', 'high', 'p_1 is missing or not a number'),
       'infinite': ('p_3', float('inf'), 'p_3 is outside'), 'sum': ('p_0', .01, 'add up to')}

@pytest.mark.parametrize('case', BAD)
def test_bad_rows_of_a_file_are_named(case, preds, tmp_path):
    col, value, words = BAD[case]
    d = preds.head(20).astype({col: object})
    d.loc[d.index[7], col] = value
    if case == 'sum': d.loc[d.index[7], 'p_0'] = (preds.p_0[7] + .5) % 1
    d.to_csv(tmp_path/'p.csv', index=False)
    with pytest.raises(DataError) as e: read_predictions(tmp_path/'p.csv')
    assert words in str(e.value) and 'line 9' in str(e.value) and 'p.csv' in str(e.value) and preds.image[7] in str(e.value)

@pytest.mark.parametrize('text, words', [('', 'is empty'), ('image,grade\na,1\n', "no column 'target'"), ('image,target\na,1\n', "no column 'grade'"),
                                         ('target,grade\n', 'empty'), ('target,grade\n,1\n', 'no row has a target'), ('target,grade,p_0\n1,1,1\n', 'p_0 to p_4'),
                                         ('image,target,grade\na,1,1\nb,1,1\na,2,1\n', 'line 4 (a): the image is already in line 2')])
def test_bad_files(text, words, tmp_path):
    (tmp_path/'p.csv').write_text(text)
    with pytest.raises(DataError, match=words.replace('(', r'\(').replace(')', r'\)')): read_predictions(tmp_path/'p.csv')

def test_what_is_no_table_at_all(tmp_path):
    (tmp_path/'p.csv').write_bytes(bytes(range(256))*20)
    for f in (tmp_path/'p.csv', tmp_path/'none.csv'):
        with pytest.raises(DataError, match=f.name): evaluate(f)
    (tmp_path/'folder').mkdir()
    with pytest.raises(RunError, match='not a run folder'): evaluate(tmp_path/'folder')

def test_predictions_in_every_form(preds, tmp_path):
    write_json(tmp_path/'run'/'config.json', dict(task='dr')); preds.to_csv(tmp_path/'run'/'predictions.csv', index=False)
    want = confusion_matrix(preds)
    for form in (tmp_path/'run', str(tmp_path/'run'), Run(tmp_path/'run'), tmp_path/'run'/'predictions.csv'):
        assert (confusion_matrix(form) == want).all()
        assert choose_threshold(form)['threshold'] == choose_threshold(preds)['threshold']
    assert plot_confusion(str(tmp_path/'run')) is not None
    assert promote(form, n_boot=50)['n_images'] == len(preds) and len(subgroup_scores(form, 'eye', n_boot=20)) and len(compare_models(form, preds, n_boot=20))
    for f in (evaluate, confusion_matrix, plot_confusion, choose_threshold):
        with pytest.raises(RunError, match='no such run folder'): f('runs/nope')
        with pytest.raises(DataError, match='no such file'): f('nope.csv')
        with pytest.raises(DataError, match='not int'): f(3)
    (tmp_path/'run'/'predictions.csv').unlink()
    for f in (evaluate, confusion_matrix):
        with pytest.raises(RunError, match='--resume'): f(tmp_path/'run')

def test_a_list_of_rows(preds):
    rows = preds.head(20).to_dict('records')
    assert evaluate(rows, n_boot=20) == evaluate(preds.head(20), n_boot=20)
    for what in ([], [1, 2], {}, None):
        with pytest.raises(DataError, match='not (list|dict|NoneType)'): read_predictions(what)

def test_two_tasks_are_refused(preds, tmp_path):
    "Put together by hand, in a file, or compared with one another: both names are said"
    other = example_predictions(5, task='pneumonia')
    pd.concat([preds, other]).to_csv(tmp_path/'both.csv', index=False)
    for f in (evaluate, confusion_matrix, choose_threshold, promote, read_predictions):
        for mixed in (pd.concat([preds, other]), tmp_path/'both.csv'):
            with pytest.raises(DataError, match='dr, pneumonia'): f(mixed)
    with pytest.raises(DataError, match='of the task dr, the second of pneumonia'): compare_models(preds, other)
    assert evaluate(other, n_boot=10)['task'] == 'pneumonia', 'a table knows its own task'
    with pytest.raises(DataError, match="of the task 'dr', and not of 'pneumonia'"): evaluate(preds, 'pneumonia')
    with pytest.raises(DataError, match='from 0 to 1'): evaluate(preds.drop(columns='task'), 'pneumonia')


# tables from elsewhere

NAMES = ['No DR', 'Mild', 'Moderate', 'Severe', 'Proliferative']
P = [f'p_{j}' for j in range(5)]

def rename(d, front='', names=NAMES): return d.rename(columns=dict(zip(P, [front + n for n in names])))
def comma(d): return '\n'.join([';'.join(d.columns), *(';'.join(str(v).replace('.', ',') if isinstance(v, float) else str(v) for v in r) for r in d.itertuples(index=False))]) + '\n'

SAME = {
    'capitals': lambda d: d.rename(columns=str.upper).to_csv(index=False),
    'two places': lambda d: d.round(dict.fromkeys(P, 2)).to_csv(index=False),
    'semicolons': lambda d: d.to_csv(index=False, sep=';'),
    'tabs': lambda d: d.to_csv(index=False, sep='\t'),
    'decimal comma': comma,
    'decimal comma, quoted': lambda d: d.astype(dict.fromkeys(P, str)).assign(**{c: d[c].astype(str).str.replace('.', ',') for c in P}).to_csv(index=False),
    'a mark at the beginning': lambda d: '\ufeff' + d.to_csv(index=False),
    'a title': lambda d: 'Model A against reader 1\n\n' + d.to_csv(index=False),
    'index': lambda d: d.to_csv(),
    'comma at the end of rows': lambda d: d.to_csv(index=False).replace('\n', ',\n').replace(',\n', '\n', 1),
    'comma at the end of the header': lambda d: d.to_csv(index=False).replace('\n', ',\n', 1),
    'classes in words': lambda d: d.assign(target=[NAMES[t] for t in d.target], grade=[NAMES[g].upper() for g in d.grade]).to_csv(index=False),
    'columns by class': lambda d: rename(d, 'p_').to_csv(index=False),
    'columns by class alone': lambda d: rename(d).to_csv(index=False),
    'prob columns': lambda d: rename(d, 'prob_', '01234').to_csv(index=False),
    'other names': lambda d: d.rename(columns=dict(target='y_true', grade='y_pred', image='filename')).to_csv(index=False),
    'floats': lambda d: d.assign(target=d.target.astype(float), grade=d.grade.astype(float)).to_csv(index=False),
    'percent': lambda d: d.assign(**{c: (d[c]*100).astype(str) + '%' for c in P}).to_csv(index=False),
    'UTF-16': lambda d: d.to_csv(index=False).encode('utf-16')}

@pytest.mark.parametrize('how', SAME)
def test_one_table_in_many_forms(how, preds, tmp_path):
    d = preds.drop(columns='task')
    text = SAME[how](d)
    (tmp_path/'p.csv').write_bytes(text if isinstance(text, bytes) else text.encode())
    got = read_predictions(tmp_path/'p.csv')
    assert got.target.tolist() == d.target.tolist() and got.grade.tolist() == d.grade.tolist() and got.image.tolist() == d.image.tolist()
    assert abs(got[P].to_numpy(float) - d[P].to_numpy()).max() < (.0051 if how == 'two places' else 1e-12)

@pytest.mark.parametrize('places', [1, 2, 3])
def test_rounding_is_forgiven_and_nothing_else(places, tmp_path):
    row = [round(1/3, places)]*3 + [0, 0]
    half = 5/2*10**-places
    for off,fine in ((half - 10**-places, True), (half + 2*10**-places, False)):
        p = [*row[:4], round(1 - sum(row) + off, places)]
        t = pd.DataFrame([dict(image='a', target=1, grade=1) | dict(zip(P, p))])
        if places > 2 and not fine: continue # within the tolerance that every table has
        if fine: assert len(read_predictions(t)) == 1
        else:
            with pytest.raises(DataError, match='add up to'): read_predictions(t)

def test_lines_are_those_of_the_file(tmp_path):
    (tmp_path/'p.csv').write_text('made by hand\n\ntarget,grade\n1,1\n\n2,9\n')
    with pytest.raises(DataError, match='line 6'): read_predictions(tmp_path/'p.csv')
    (tmp_path/'p.csv').write_text('target,grade,note\n1,1,a\n2\n')
    with pytest.raises(DataError, match='row 3: has 1 cell where the header has 3'): read_predictions(tmp_path/'p.csv')

def test_zeros_and_ones_ask_for_their_task(tmp_path):
    t = pd.DataFrame(dict(image=[f'{i}.png' for i in range(20)], target=[0, 1]*10, grade=[0, 1, 1, 0]*5))
    t.to_csv(tmp_path/'p.csv', index=False)
    with pytest.raises(DataError, match='0 and 1 only.*--task dr, or --task mine.json'): read_predictions(tmp_path/'p.csv')
    assert len(read_predictions(tmp_path/'p.csv', 'dr')) == len(read_predictions(tmp_path/'p.csv', 'pneumonia')) == 20
    t.assign(task='dr').to_csv(tmp_path/'p.csv', index=False)
    assert len(read_predictions(tmp_path/'p.csv')) == 20
    t.assign(target=[0, 2]*10).to_csv(tmp_path/'q.csv', index=False)
    assert len(read_predictions(tmp_path/'q.csv')) == 20
    with pytest.raises(DataError, match="'5'|target is 5"): read_predictions(t.assign(target=[1, 5]*10))

def test_percent_is_named(preds):
    with pytest.raises(DataError, match='are they percent'): read_predictions(preds.assign(**{c: preds[c]*100 for c in P}))

def told(table, path):
    table.to_csv(path, index=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        read_predictions(path)
    return [str(w.message) for w in seen if 'largest probability' in str(w.message)]

def test_grades_that_contradict_their_probabilities_are_told(preds, tmp_path):
    swapped = preds.assign(grade=preds.grade.to_numpy()[::-1])
    n = int((swapped.grade != preds.grade).sum())
    said = told(swapped, tmp_path/'p.csv')
    assert len(said) == 1 and f'in {n} of {len(preds)} rows' in said[0] and 'line ' in said[0]
    assert len(told(preds.assign(p_0=preds.p_1, p_1=preds.p_0), tmp_path/'p.csv')) == 1

def test_but_cut_points_ties_and_our_own_are_not(preds, tmp_path):
    mean = sum(j*preds[f'p_{j}'] for j in range(5))
    assert told(preds, tmp_path/'p.csv') == told(preds.assign(grade=(mean + .4).astype(int)), tmp_path/'p.csv') == []
    worse = [preds[[f'p_{i}' for i in range(j, 5)]].sum(axis=1) > .35 for j in range(1, 5)]
    assert told(preds.assign(grade=sum(w.astype(int) for w in worse)), tmp_path/'p.csv') == []
    few = preds.assign(grade=[4 - g if i < 2 else g for i,g in enumerate(preds.grade)])
    assert told(few, tmp_path/'p.csv') == []

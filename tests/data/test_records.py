"Records: tables of one's own, 25 ways to break a CSV file, where the columns come from, the task"
import warnings
from pathlib import Path

import pandas as pd
import pytest

from pictures import labels, load, picture
from retina_nb.core import DataError, SettingError
from retina_nb.data import describe_columns, load_records, on_disk, require_usable, row_of

def test_records_csv(tmp_path):
    picture(tmp_path/'pics'/'a.png'); picture(tmp_path/'pics'/'b.png'); picture(tmp_path/'elsewhere'/'c.png')
    (tmp_path/'sets').mkdir()
    f = tmp_path/'sets'/'mine.csv'
    f.write_text(f'image,label,patient,eye,split,source,age\n../pics/a.png,1,007,L,train,Clinic,50\n../pics/b.png,2,007,OD,validation,Clinic,50\n{tmp_path}/elsewhere/c.png,0,8,,test,Other,\n')
    r = load(f)
    assert (r.attrs['layout'], labels(r)) == ('records', [1, 2, 0]) and not r.attrs['problems']
    assert r.patient.tolist() == ['007', '007', '8'] and r.eye.tolist() == ['left', 'right', ''] and r.split.tolist() == ['train', 'valid', 'test']
    assert r.source.tolist() == ['Clinic', 'Clinic', 'Other'] and r.age.astype(float).tolist()[:2] == [50, 50] and on_disk(r.image).all()

def test_records_round_trip(tmp_path):
    from retina_nb.disk import write_table
    r = load('synth:100')
    write_table(tmp_path/'records.csv', r)
    again = load(tmp_path)
    pd.testing.assert_frame_equal(again[r.columns[:6]].astype(object), r[r.columns[:6]].astype(object))

def test_bare_images(tmp_path):
    for o in ('a_left.png', 'a_right.png', 'b.png', 'deep/er/c.jpg'): picture(tmp_path/o)
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), r.patient.nunique()) == ('images', [None]*4, 3)
    with pytest.raises(DataError, match='no image has a usable label'): require_usable(r)

# 25 ways to break a label file; each names its row

HEAD = 'image,level\n'
BROKEN = {
    'half grade': (HEAD + '10_left,0\n10_right,1.5\n', 3, 'not a whole number'),
    'grade 7': (HEAD + '10_left,7\n10_right,1\n', 2, 'outside 0 to 4'),
    'negative grade': (HEAD + '10_left,0\n10_right,-1\n', 3, 'outside 0 to 4'),
    'word': (HEAD + '10_left,0\n10_right,bad\n', 3, "'bad'"),
    'not a number': (HEAD + '10_left,nan\n10_right,1\n', 2, "label 'nan'"),
    'infinite': (HEAD + '10_left,inf\n10_right,1\n', 2, 'not a whole number'),
    'decimal comma': (HEAD + '10_left,"1,0"\n10_right,1\n', 2, "'1,0'"),
    'empty label': (HEAD + '10_left,0\n10_right,\n', 3, 'no label'),
    'blank label': (HEAD + '10_left,0\n10_right,   \n', 3, 'no label'),
    'empty image': (HEAD + ',0\n10_right,1\n', 2, 'names no image'),
    'too few cells': (HEAD + '10_left\n10_right,1\n', 2, 'has 1 cell where'),
    'too many cells': (HEAD + '10_left,0,0\n10_right,1\n', 2, '3 cells'),
    'semicolons in one row': (HEAD + '10_left,0\n10_right;1\n', 3, 'has 1 cell where'),
    'listed twice': (HEAD + '10_left,0\n10_right,1\n10_left,0\n', 4, 'listed twice'),
    'graded twice': (HEAD + '10_left,0\n10_right,1\n10_left,2\n', 4, 'graded differently'),
    'repeated header': (HEAD + '10_left,0\nimage,level\n', 3, "'level'"),
    'two columns of a name': ('image,level,level\n10_left,0,1\n', 1, "'level'"),
    'no label column': ('image,hospital\n10_left,A\n', 1, 'one for the label'),
    'header only': (HEAD, 1, 'no rows'),
    'open quote': (HEAD + '10_left,0\n"10_right,1\n13_left,0\n', 3, 'cannot be read as CSV'),
    'zero byte': (HEAD.encode() + b'10_left,0\n10_right,\0\n', 3, 'zero byte'),
    'latin-1': (HEAD.encode() + b'10_left,0\n10_right,\xe9\n', 3, 'UTF-8'),
    'workbook': (b'PK\x03\x04 ... xl/workbook.xml ...', 1, 'Excel workbook'),
    'web page': (b'<!DOCTYPE html><html>sign in</html>', 1, 'is a web page'),
    'spreadsheet': (b'PK\x03\x04rest of an xlsx', 1, 'spreadsheet'),
    'side contradicts the name': ('image,label,eye\n10_left.jpeg,0,left\n10_right.jpeg,1,left\n', 3, 'right eye by its name'),
    'unknown part': ('image,label,split\n10_left.jpeg,0,train\n10_right.jpeg,1,holdout\n', 3, "'holdout'"),
}

@pytest.mark.parametrize('kind', BROKEN)
def test_broken_csv_names_its_row(tmp_path, kind):
    content,row,says = BROKEN[kind]
    for o in ('10_left', '10_right', '13_left'): picture(tmp_path/'train'/f'{o}.jpeg')
    f = tmp_path/'trainLabels.csv'
    f.write_bytes(content if isinstance(content, bytes) else content.encode())
    try: r = load(f)
    except DataError as e:
        said = ' '.join(str(e).split())
        assert 'trainLabels.csv' in said and says in said and f'row {row}' in said, said
    else:
        found = [p for p in r.attrs['problems'] if p['row'] == row and says in p['what']]
        assert found, r.attrs['problems']
        assert Path(found[0]['file']) == f

def test_broken_pairs(tmp_path):
    (tmp_path/'train_img.csv').write_text('a\nb\nc\n'); (tmp_path/'train_label.csv').write_text('0\n1\n')
    with pytest.raises(DataError, match='row 3'): load(tmp_path)
    (tmp_path/'train_label.csv').write_text('0\n\n1\n')
    r = load(tmp_path)
    assert labels(r) == [0, None, 1] and r.attrs['problems'][0]['row'] == 2, 'an empty line is an empty label, and moves nothing'

def test_good_files_that_look_odd(tmp_path):
    picture(tmp_path/'10_left.jpeg'); picture(tmp_path/'10_right.jpeg')
    (tmp_path/'trainLabels.csv').write_bytes('\ufeffImage , LEVEL\r\n10_LEFT.JPEG, 1.0 \r\n\r\n"10_right",Moderate\r\n\r\n'.encode())
    r = load(tmp_path)
    assert labels(r) == [1, 2] and not r.attrs['problems'] and on_disk(r.image).all()

def test_all_problems_are_reported_together_and_once(tmp_path):
    (tmp_path/'trainLabels.csv').write_text(HEAD + '10_left,9\n10_right,\n13_left,1\n')
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always'); r = load_records(tmp_path)
    assert len(r) == 3 and len([w for w in told if 'problem' in str(w.message)]) == 1
    assert [p['row'] for p in r.attrs['problems']] == [2, 3, '']
    assert r[r.label.notna()].attrs['problems'] == r.attrs['problems'], 'they stay with the table'
    assert row_of(r, 2) == 4


# which column is which

@pytest.mark.parametrize('name', ['patient', 'patient_id', 'Patient ID', 'patientId', 'PATIENT-ID', 'subject', 'Subject_ID', 'mrn', 'MRN', 'PID', 'person'])
def test_patients_are_found_under_their_usual_names(tmp_path, name):
    (tmp_path/'mine.csv').write_text(f'image,label,{name}\na.png,0,P1\nb.png,1,P1\nc.png,2,P2\n')
    r = load(tmp_path/'mine.csv')
    assert r.patient.tolist() == ['P1', 'P1', 'P2'] and r.attrs['columns'] == dict(image='image', label='label', patient=name)
    assert describe_columns(r) == f"image from column 'image', label from column 'label', patient from column '{name}'"
    assert list(r.columns) == ['image', 'label', 'patient', 'eye', 'split', 'source', 'task'], 'the column is used, and is no tag'

@pytest.mark.parametrize('nobody', ['NA', 'n/a', 'nan', 'None', 'NULL', 'unknown', '?', '-', ''])
def test_nobody_is_no_patient(tmp_path, nobody):
    (tmp_path/'mine.csv').write_text(f'image,label,patient\na.png,0,{nobody}\nb.png,1,{nobody}\nc.png,2,P2\n')
    assert load(tmp_path/'mine.csv').patient.tolist() == ['a', 'b', 'P2']

def test_columns_are_named(tmp_path):
    f = tmp_path/'mine.csv'
    f.write_text('photo,severity,chart,label\na.png,0,7,x\nb.png,1,7,y\n')
    with pytest.raises(DataError, match='one for the image'): load(f)
    r = load(f, columns=dict(image='photo', label='severity', patient='chart'))
    assert (labels(r), r.patient.tolist()) == ([0, 1], ['7', '7']) and 'label_' in r, 'their column label is a tag'
    with pytest.raises(DataError, match="no CSV file has the columns 'photo', 'gravity'; there is mine.csv: photo, severity"): load(f, columns=dict(image='photo', label='gravity'))
    with pytest.raises(SettingError, match='name those of image, label and patient'): load(f, columns=dict(eye='side'))

def test_a_patient_column_is_named_for_a_known_data_set(tmp_path):
    picture(tmp_path/'train_images'/'000c1434d8d7.png'); picture(tmp_path/'train_images'/'001639a390f0.png')
    (tmp_path/'train.csv').write_text('id_code,diagnosis,examinee\n000c1434d8d7,2,E5\n001639a390f0,4,E5\n')
    assert load(tmp_path).patient.nunique() == 2
    r = load(tmp_path, columns=dict(patient='examinee'))
    assert (r.attrs['layout'], labels(r), set(r.patient)) == ('aptos', [2, 4], {'E5'})

def test_a_column_like_patients_that_is_not_used_is_told(tmp_path):
    (tmp_path/'mine.csv').write_text('image,label,Patientenkennung\na.png,0,7\nb.png,1,7\n')
    with pytest.warns(UserWarning, match="'Patientenkennung' may name the patients and is not used: name the right one with --patient_col"): r = load(tmp_path/'mine.csv')
    assert 'no patient is named: each image counts as one of its own' in describe_columns(r)

# the task

def test_a_table_says_its_task_and_is_held_to_it(tmp_path):
    for o in 'ab': picture(tmp_path/f'{o}.png')
    pd.DataFrame(dict(image=['a.png', 'b.png'], label=[0, 3], task='oct')).to_csv(tmp_path/'records.csv', index=False)
    with pytest.raises(DataError, match="its column task says 'oct', not 'dr': say task='oct'"): load(tmp_path)
    r = load(tmp_path, 'oct')
    assert r.columns[-1] == 'task' and set(r.task) == {'oct'}
    pd.DataFrame(dict(image=['a.png', 'b.png'], label=[0, 1], task=['oct', 'dr'])).to_csv(tmp_path/'records.csv', index=False)
    with pytest.raises(DataError, match=r'different tasks \(dr, oct\)'): load(tmp_path)

def test_tables_of_two_tasks_put_together_are_refused():
    from retina_nb.data import check_records, kfold, split_records, summarise_records
    from retina_nb.explore import label_table, majority_scores, patient_table, plot_labels
    r = load('synth:100')
    both = pd.concat([r, r.assign(task='oct')], ignore_index=True)
    for f in (split_records, kfold, check_records, summarise_records, require_usable, label_table, patient_table, plot_labels, majority_scores):
        with pytest.raises(DataError, match='different tasks'): f(both)
    assert len(split_records(pd.concat([r[:50], r[50:]], ignore_index=True))) == 100, 'of one task they are one table'

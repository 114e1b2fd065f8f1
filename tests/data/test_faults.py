"Another picture than the one named, parts that disappear, labels of another scale: each is refused or told, never taken"
import os, shutil
from pathlib import Path

import pytest
from PIL import Image

from pictures import labels, load, picture, whats
from retina_nb.core import DataError
from retina_nb.data import check_records, counted, kfold, on_disk, require_usable, split_records

EYES = [f'{i}_{s}' for i in range(6) for s in ('left', 'right')]

def images(root, names):
    for i,n in enumerate(names): picture(Path(root)/n, i)

def table(file, rows, head='image,label', sep=','):
    file = Path(file); file.parent.mkdir(parents=True, exist_ok=True)
    text = head.replace(',', sep) + '\n' + ''.join(sep.join(map(str, r)) + '\n' for r in rows)
    file.write_text(text)
    return file

def inside(r, root): return [os.path.relpath(i, root).replace(os.sep, '/') for i in r.image]

# the very picture that is named

@pytest.mark.parametrize('other', ['annotations/{}.png', 'masks/{}.png', 'small/{}.png', '{}.png', 'segmentation/{}.tif'])
def test_the_ending_that_is_named_is_taken(tmp_path, other):
    images(tmp_path, [f'images/{n}.jpg' for n in EYES] + [other.format(n) for n in EYES])
    table(tmp_path/'train.csv', [(f'{n}.jpg', i % 5) for i,n in enumerate(EYES)])
    r = load(tmp_path)
    assert inside(r, tmp_path) == [f'images/{n}.jpg' for n in EYES] and on_disk(r.image).all()
    assert any('12 images are in the folder without a row' in w for w in whats(r)), 'what was not taken is told'

def test_a_mask_is_no_photograph_that_is_missing(tmp_path):
    images(tmp_path, [f'masks/{n}.png' for n in EYES] + ['images/other.jpg'])
    table(tmp_path/'train.csv', [(f'{n}.jpg', 0) for n in EYES])
    r = load(tmp_path)
    assert not on_disk(r.image).any() and any('12 of its 12 images are not on disk' in w for w in whats(r))

@pytest.mark.parametrize('places', [('siteA/{}.png', 'siteB/{}.png'), ('large/{}.png', 'small/{}.png'), ('{}.jpg', '{}.png'), ('a/b/{}.png', 'a/c/{}.png')])
def test_two_that_fit_are_refused_by_both_names(tmp_path, places):
    images(tmp_path, [p.format(n) for p in places for n in EYES])
    table(tmp_path/'labels.csv', [(n, i % 5) for i,n in enumerate(EYES)])
    r = load(tmp_path)
    assert labels(r) == [None]*12 and not on_disk(r.image).any()
    assert f'{EYES[0]} may be {places[0].format(EYES[0])} or {places[1].format(EYES[0])}' in whats(r)[0]
    with pytest.raises(DataError, match='may be'): require_usable(r)

def test_folder_split_nearness_and_equal_bytes_decide(tmp_path):
    images(tmp_path/'a', [f'{s}/{n}.png' for s in ('A', 'B') for n in EYES])
    table(tmp_path/'a'/'labels.csv', [(f'B/{n}.png', 0) for n in EYES])
    assert inside(load(tmp_path/'a'), tmp_path/'a') == [f'B/{n}.png' for n in EYES]
    images(tmp_path/'b', [f'{s}/img/{n}.png' for s in ('A', 'B') for n in EYES])
    for s in 'AB': table(tmp_path/'b'/s/'labels.csv', [(n, 0) for n in EYES])
    assert inside(load(tmp_path/'b'), tmp_path/'b') == [f'{s}/img/{n}.png' for s in 'AB' for n in EYES]
    images(tmp_path/'c', [f'one/{n}.png' for n in EYES]); shutil.copytree(tmp_path/'c'/'one', tmp_path/'c'/'copy')
    table(tmp_path/'c'/'labels.csv', [(n, 0) for n in EYES])
    assert on_disk(load(tmp_path/'c').image).all(), 'a copy is the same picture'

def test_a_set_that_was_converted_is_read_and_told(tmp_path):
    images(tmp_path, [f'images/{n}.png' for n in EYES])
    table(tmp_path/'labels.csv', [(f'{n}.jpeg', i % 5) for i,n in enumerate(EYES)])
    r = load(tmp_path)
    assert on_disk(r.image).all() and '12 images are of another kind than the label file says' in whats(r)[0]

# nothing is passed over

def test_every_ending_and_none(tmp_path):
    one = picture(tmp_path/'x.jpg', 1).read_bytes(); os.remove(tmp_path/'x.jpg')
    for i,n in enumerate(('a.jfif', 'b.jpe', 'c.JPG', 'd.JPEG', 'e', '10.5_left', 'f.dat', 'g.heic')):
        (tmp_path/str(i % 2)).mkdir(exist_ok=True); (tmp_path/str(i % 2)/n).write_bytes(one + bytes([i]))
    r = load(tmp_path)
    assert {Path(f).name for f in r.image} == {'a.jfif', 'b.jpe', 'c.JPG', 'd.JPEG', 'e', '10.5_left'}
    assert sorted(p['file'][-6:] for p in r.attrs['problems'] if p['kind'] == 'closed') == ['/f.dat', 'g.heic']
    assert (check_records(r).kind != 'unreadable').all()

OTHER = {'another dialect': (lambda f, rows: table(f, rows, 'photo,severity', ';'), 'its columns are photo, severity'),
         'an old alphabet': (lambda f, rows: Path(f).write_bytes(b'image,label\n\xe9.png,1\n'), 'not UTF-8'),
         'an open quote': (lambda f, rows: Path(f).write_text('"image,label\na.png,1\n'), 'cannot be read as CSV'),
         'empty': (lambda f, rows: Path(f).write_text(''), 'is empty'),
         'a workbook': (lambda f, rows: Path(f).write_bytes(b'PK\x03\x04 xl/workbook.xml'), 'Excel workbook'),
         'a pipe': (lambda f, rows: os.mkfifo(f), 'is a pipe')}

@pytest.mark.parametrize('how', OTHER)
def test_a_second_label_file_that_cannot_be_read_is_named(tmp_path, how):
    if how == 'a pipe' and os.name == 'nt': pytest.skip('no pipes among files there')
    images(tmp_path, [f'train/{n}.png' for n in EYES[:6]] + [f'test/{n}.png' for n in EYES[6:]])
    table(tmp_path/'train.csv', [(f'train/{n}.png', i % 5) for i,n in enumerate(EYES[:6])])
    write,says = OTHER[how]
    write(tmp_path/'test.csv', [(f'test/{n}.png', 1) for n in EYES[6:]])
    r = load(tmp_path)
    assert len(r) == 6 and any(Path(p['file']).name == 'test.csv' and says in p['what'] for p in r.attrs['problems']), whats(r)
    assert any('6 images are in the folder without a row' in w for w in whats(r))

SAME = {'semicolons': lambda t: t.replace(',', ';').encode(), 'tabs': lambda t: t.replace(',', '\t').encode(), 'UTF-16': lambda t: t.encode('utf-16'),
        'UTF-16 without a mark': lambda t: t.encode('utf-16-le'), 'a title': lambda t: b'Grades of 2024\n\n' + t.encode(), 'an index': lambda t: ('\n'.join(f'{i-1 if i else ""},{l}' for i,l in enumerate(t.strip().split('\n'))) + '\n').encode(),
        'commas at the end': lambda t: t.replace('\n', ',\n').replace(',\n', '\n', 1).encode(), 'a remark': lambda t: b'# made by hand\n' + t.encode()}

@pytest.mark.parametrize('how', SAME)
def test_a_second_label_file_in_another_dress_is_read(tmp_path, how):
    images(tmp_path, [f'train/{n}.png' for n in EYES[:6]] + [f'test/{n}.png' for n in EYES[6:]])
    text = table(tmp_path/'train.csv', [(f'train/{n}.png', i % 5) for i,n in enumerate(EYES[:6])]).read_text()
    (tmp_path/'test.csv').write_bytes(SAME[how](text.replace('train/', 'test/').replace('\n0_', '\n3_') if 0 else 'image,label\n' + ''.join(f'test/{n}.png,{i % 5}\n' for i,n in enumerate(EYES[6:]))))
    r = load(tmp_path)
    assert len(r) == 12 and not r.attrs['problems'] and labels(r)[:6] == labels(r)[6:] == [0, 1, 2, 3, 4, 0]

def test_label_files_of_other_kinds_are_named_where_nothing_is_labelled(tmp_path):
    images(tmp_path, [f'{n}.png' for n in EYES])
    for f in ('labels.xlsx', 'grades.json', 'labels.txt', 'labels.csv.gz'): (tmp_path/f).write_bytes(b'x')
    table(tmp_path/'mine.csv', [(f'{n}.png', 1) for n in EYES], 'photo,severity')
    r = load(tmp_path)
    assert {Path(p['file']).name for p in r.attrs['problems'] if p['kind'] == 'unread'} == {'labels.xlsx', 'grades.json', 'labels.txt', 'labels.csv.gz', 'mine.csv'}
    with pytest.raises(DataError, match='no image has a usable label.*grades.json looks like a label file'): require_usable(r)

def test_a_column_for_each_class(tmp_path):
    images(tmp_path, [f'{n}.png' for n in EYES])
    rows = [(f'{n}.png', *(int(j == i % 5) for j in range(5))) for i,n in enumerate(EYES)]
    for head in ('image,No DR,Mild,Moderate,Severe,Proliferative', 'image,0,1,2,3,4', 'image,DR0,DR1,DR2,DR3,DR4'):
        table(tmp_path/'labels.csv', rows, head)
        r = load(tmp_path)
        assert labels(r) == [i % 5 for i in range(12)] and r.attrs['columns']['label'] == '(one column a class)' and not r.attrs['problems']
    rows[0], rows[1] = (f'{EYES[0]}.png', 1, 1, 0, 0, 0), (f'{EYES[1]}.png', 0, 0, 0, 0, 0)
    table(tmp_path/'labels.csv', rows, 'image,No DR,Mild,Moderate,Severe,Proliferative')
    r = load(tmp_path)
    assert labels(r)[:2] == [None, None] and "'No DR and Mild'" in whats(r)[0] and 'no label' in whats(r)[1]

# class folders

def test_the_outermost_level_that_names_two_classes(tmp_path):
    images(tmp_path/'a', [f'{g}/{k}-10{i}/{s}.png' for k,g in enumerate(('No_DR', 'Mild', 'Severe')) for i in range(2) for s in ('left', 'right')])
    r = load(tmp_path/'a')
    assert set(r.label) == {0, 1, 3} and r.patient.nunique() == 6 and r.eye.value_counts().to_dict() == dict(left=6, right=6) and not r.attrs['problems']
    images(tmp_path/'b', [f'{part}/{g}/camera{c}/{i}_left.png' for part in ('train', 'test') for g in ('0_No_DR', '2 - Moderate') for c in (1, 2) for i in range(3)])
    r = load(tmp_path/'b')
    assert set(r.label) == {0, 2} and r.split.value_counts().to_dict() == dict(train=12, test=12) and set(r.patient) == {'0', '1', '2'}
    images(tmp_path/'c', [f'{p}/{g}/1.png' for p in ('1', '2', '3') for g in ('Mild', 'Severe')])
    assert set(load(tmp_path/'c').label) == {1, 3}, 'words are believed before numbers'

# labels of another scale

@pytest.mark.parametrize('cells,says', [('01', '0 and 1 only'), (['0.0', '1.0'], '0 and 1 only'), ('12345', 'from 1 to 5'), (['1.0', '2', '5'], 'from 1 to 5')])
def test_numbers_of_another_scale_are_a_question(tmp_path, cells, says):
    images(tmp_path, [f'{n}.png' for n in EYES])
    table(tmp_path/'labels.csv', [(f'{n}.png', cells[i % len(cells)]) for i,n in enumerate(EYES)])
    r = load(tmp_path)
    assert any(says in w for w in whats(r))
    for skip in (False, True):
        with pytest.raises(DataError, match=says): require_usable(r, skip_bad=skip)

@pytest.mark.parametrize('cells', ['012', '01234', ['No DR', 'Mild'], ['0.0', '2.0'], '4'])
def test_and_these_are_grades(tmp_path, cells):
    images(tmp_path, [f'{n}.png' for n in EYES])
    table(tmp_path/'labels.csv', [(f'{n}.png', cells[i % len(cells)]) for i,n in enumerate(EYES)])
    assert len(require_usable(load(tmp_path))) == 12
    table(tmp_path/'labels.csv', [(f'{n}.png', i % 2, 'dr') for i,n in enumerate(EYES)], 'image,label,task')
    assert len(require_usable(load(tmp_path))) == 12, 'the column task says that they are'

# patients

@pytest.mark.parametrize('nobody', ['NA', 'None', '-', '#N/A', 'nan', '?', 'unknown', '', ' '])
def test_unknown_patients_stand_alone_and_are_told(tmp_path, nobody):
    images(tmp_path, [f'{n}.png' for n in EYES])
    table(tmp_path/'records.csv', [(f'{n}.png', i % 5, n[0] if i % 2 else nobody) for i,n in enumerate(EYES)], 'image,label,patient')
    r = load(tmp_path)
    assert r.patient.nunique() == 12 and '6 of 12 rows name no patient (the first is 0_left.png, row 2)' in whats(r)[0]
    with pytest.warns(UserWarning, match='both eyes of one may be divided'): require_usable(r)

def test_a_warning_where_nobody_can_be_told(tmp_path):
    images(tmp_path, [f'{i}/{c}.png' for i,c in enumerate('abcde')])
    r = load(tmp_path)
    with pytest.warns(UserWarning, match='no patient is named, by no column and no file name: splits are by image'): require_usable(r)

def test_a_second_column_of_patients_is_named(tmp_path):
    table(tmp_path/'x.csv', [('a.png', 0, 7, 'M1')], 'image,label,patient,MRN')
    with pytest.warns(UserWarning, match=r"'MRN' may name the patients and is not used \(used is 'patient'\)"): assert load(tmp_path/'x.csv').patient.tolist() == ['7']

def test_what_looks_the_same_stays_together_where_nobody_is_known(tmp_path):
    for i,f in enumerate(load('synth:60').image[:24]):
        (tmp_path/str(i % 5)).mkdir(exist_ok=True)
        shutil.copy(f, tmp_path/str(i % 5)/f'a{i:02}.jpg'); Image.open(f).save(tmp_path/str(i % 5)/f'b{i:02}.jpg', quality=75)
    r = load(tmp_path)
    pair = r.image.map(lambda f: Path(f).stem[1:])
    assert split_records(r).groupby(pair).split.nunique().max() == 1
    with pytest.warns(UserWarning, match='patients are unknown'):
        for fold in kfold(r, 3): assert fold.groupby(pair).split.nunique().max() == 1
    assert split_records(r, scan=False).groupby(pair).split.nunique().max() > 1, 'or this shows nothing'

# tasks

@pytest.mark.parametrize('text', ['image,label,task\na.png,0,dr\nb.png,1,oct\n', 'image,label,task\na.png,0,dr\nb.png,1,\n', 'image,label,task_x,task_y\na.png,0,dr,oct\n'])
def test_tables_of_two_tasks_joined_are_refused(tmp_path, text):
    (tmp_path/'x.csv').write_text(text)
    with pytest.raises(DataError, match='different tasks|each with its task'): load(tmp_path/'x.csv')

def test_counted(): assert [counted(n, 'copy', 'copies') for n in (0, 1, 2)] == ['0 copies', '1 copy', '2 copies']

# label files above the images, columns that contradict each other, patients that are places

GOOD = 'image,label\n0_left.jpg,0\n1_left.jpg,1\n'
UNREAD = {'latin-1': ('labels.csv', (GOOD + 'é.jpg,1\n').encode('latin-1'), 'not UTF-8'), 'no header': ('labels.csv', GOOD[12:].encode(), 'its columns are 0_left.jpg'),
    'zero byte': ('labels.csv', GOOD.encode() + b'\0', 'zero byte'), 'spaces': ('labels.csv', GOOD.replace(',', ' ').encode(), 'its columns are image label'),
    'quote': ('labels.csv', (GOOD + '"a,1\n').encode(), 'cannot be read as CSV'), 'text': ('labels.txt', GOOD.encode(), 'save it as a CSV'),
    'workbook': ('labels.xlsx', b'PK', 'spreadsheet'), 'json': ('labels.json', b'{', 'save it as a CSV')}

@pytest.mark.parametrize('inside', ['images', 'a/images'])
@pytest.mark.parametrize('case', UNREAD)
def test_a_label_file_above_the_images_is_named(case, inside, tmp_path):
    name,text,why = UNREAD[case]
    images(tmp_path/inside, ['0_left.jpg', '1_left.jpg'])
    (tmp_path/name).write_bytes(text)
    r = load(tmp_path)
    assert [why in p['what'] for p in r.attrs['problems'] if p['file'] == str(tmp_path/name)] == [True]
    with pytest.raises(DataError, match=name): require_usable(r)

def test_and_a_good_one_there_is_read(tmp_path):
    images(tmp_path/'images', ['0_left.jpg', '1_left.jpg'])
    (tmp_path/'labels.csv').write_text(GOOD)
    assert load(tmp_path).label.tolist() == [0, 1] and load(tmp_path).attrs['problems'] == []

@pytest.mark.parametrize('head, taken', [('image,level,label', 'level'), ('image,label,level', 'level'), ('path,label,grade', 'label'), ('path,grade,diagnosis', 'grade')])
def test_columns_of_labels_that_contradict_each_other(head, taken, tmp_path):
    table(tmp_path/'l.csv', [('0.jpg', 0, 0), ('1.jpg', 1, 3), ('2.jpg', 2, '')], head)
    what = [p['what'] for p in load(tmp_path).attrs['problems'] if p['kind'] == 'columns']
    assert len(what) == 1 and '1 row (the first is row 3' in what[0] and f'{taken!r} was taken' in what[0]
    table(tmp_path/'l.csv', [('0.jpg', 0, 0), ('1.jpg', 1, 1)], head)
    assert not [p for p in load(tmp_path).attrs['problems'] if p['kind'] == 'columns']

def test_a_patient_with_too_many_images_is_told(tmp_path):
    table(tmp_path/'l.csv', [(f'ward_left{"x"*i}.jpg'.replace('leftx', 'left_x'), 1) for i in range(21)])
    assert [p['kind'] for p in load(tmp_path).attrs['problems']].count('patients') == 1

@pytest.mark.parametrize('column', ['patID', 'pat_id', 'pat id', 'ptid', 'pt_id', 'uhid', 'anon_id', 'nhs_number', 'paciente', 'HN'])
def test_more_columns_of_patients(column, tmp_path):
    table(tmp_path/'l.csv', [('a.jpg', 0, 'x'), ('b.jpg', 1, 'x'), ('c.jpg', 1, 'y')], f'image,label,{column}')
    assert load(tmp_path).patient.tolist() == ['x', 'x', 'y']

@pytest.mark.parametrize('column', ['study_id', 'record_id', 'Study ID'])
def test_columns_that_may_be_patients_are_named(column, tmp_path):
    from retina_nb.data import load_records
    table(tmp_path/'l.csv', [('a.jpg', 0, 'x'), ('b.jpg', 1, 'x')], f'image,label,{column}')
    with pytest.warns(UserWarning, match=f'{column}.*may name the patients'): load_records(tmp_path)

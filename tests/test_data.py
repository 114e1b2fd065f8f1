"Layouts, strict label files, checks: fixtures of every layout, 25 ways to break a CSV file, planted duplicates, the real sets"
import shutil, time, warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retina_nb.core import DataError, ImageError, RetinaError, SettingError
from retina_nb.data.records import check_records, load_records, require_usable, row_of, scan_images, summarise
from retina_nb.image.read import hash_distance, near_duplicates, phash, read_image
from retina_nb.data.layouts import LAYOUTS, content_keys, layout_table, list_files, present

def picture(path, seed=None, size=(72, 64)):
    "A small image with content of its own"
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash(str(path))) % 2**32 if seed is None else seed)
    a = np.kron(rng.integers(30, 220, (8, 9, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(a).resize(size).save(path)
    return path

def load(path, task='dr', **kw): return load_records(path, task, warn=False, **kw)
def labels(r): return [None if pd.isna(l) else int(l) for l in r.label]
def whats(r): return [p['what'] for p in r.attrs['problems']]

# layouts

def test_eyepacs(tmp_path):
    for o in ('10_left', '10_right', '13_left'): picture(tmp_path/'train'/f'{o}.jpeg')
    picture(tmp_path/'test'/'1_left.jpeg')
    (tmp_path/'trainLabels.csv').write_text('image,level\n10_left,0\n10_right,2\n13_left,4\n')
    (tmp_path/'retinopathy_solution.csv').write_text('image,level,Usage\n1_left,1,Public\n')
    (tmp_path/'sampleSubmission.csv').write_text('image,level\n1_left,0\n')
    r = load(tmp_path).sort_values('image')
    assert r.attrs['layout'] == 'eyepacs' and not r.attrs['problems']
    by = r.set_index(r.image.map(lambda f: Path(f).stem))
    assert by.label.to_dict() == {'10_left': 0, '10_right': 2, '13_left': 4, '1_left': 1}
    assert by.split.to_dict() == {'10_left': 'train', '10_right': 'train', '13_left': 'train', '1_left': 'test'}
    assert by.patient['10_left'] == by.patient['10_right'] == '10' and by.eye['10_right'] == 'right'
    assert by.usage['1_left'] == 'Public' and set(r.source) == {'EyePACS'}

def test_aptos(tmp_path):
    for o in ('000c1434d8d7', '001639a390f0'): picture(tmp_path/'train_images'/f'{o}.png')
    (tmp_path/'train.csv').write_text('id_code,diagnosis\n000c1434d8d7,2\n001639a390f0,4\n')
    (tmp_path/'test.csv').write_text('id_code\nabc\n')
    (tmp_path/'sample_submission.csv').write_text('id_code,diagnosis\nabc,0\n')
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), r.patient.nunique()) == ('aptos', [2, 4], 2) and not r.attrs['problems']

IDRID = 'Image name,Retinopathy grade,Risk of macular edema ,,,\r\n'

def idrid(root, parts=('Training', 'Testing'), images=('Training', 'Testing')):
    for i,part in enumerate(('Training', 'Testing')):
        letter = 'ab'[i]
        if part in images:
            for n in (1, 2): picture(root/'1. Original Images'/f'{letter}. {part} Set'/f'IDRiD_{n:03}.jpg')
        if part in parts:
            f = root/'2. Groundtruths'/f'{letter}. IDRiD_Disease Grading_{part} Labels.csv'
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_text(IDRID + f'IDRiD_001,{i+1},2,,,\r\nIDRiD_002,{i+3},0,,,\r\n')
    return root

@pytest.mark.parametrize('inside', ['', 'B. Disease Grading', 'my test data/B. Disease Grading', 'training/x/y'])
def test_idrid_wherever_it_lies(tmp_path, inside):
    idrid(tmp_path/inside)
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), r.split.tolist()) == ('idrid', [1, 3, 2, 4], ['train', 'train', 'test', 'test'])
    assert r.patient.nunique() == 4, 'IDRiD_001 is in training and in testing, and is two eyes'
    assert r.dme.tolist() == [2, 0, 2, 0] and present(r.image).all()
    assert all(('Training' in f) == (s == 'train') for f,s in zip(r.image, r.split))

def test_idrid_parts(tmp_path):
    r = load(idrid(tmp_path/'a', parts=('Training',)))
    assert len(r) == 2 and set(r.split) == {'train'}
    r = load(idrid(tmp_path/'b', images=('Testing',)))
    assert (~present(r.image)).sum() == 2, 'training images are missing and must not be taken from the test folder'
    r = load(idrid(tmp_path/'c', parts=('Testing',), images=('Testing',)))
    assert set(r.split) == {'test'}

def test_idrid_beside_its_other_parts(tmp_path):
    idrid(tmp_path/'B. Disease Grading')
    for n in (1, 2): picture(tmp_path/'C. Localization'/'1. Original Images'/'a. Training Set'/f'IDRiD_{n:03}.jpg')
    picture(tmp_path/'A. Segmentation'/'1. Original Images'/'a. Training Set'/'IDRiD_01.jpg')
    f = tmp_path/'C. Localization'/'2. Groundtruths'/'IDRiD_OD_Center_Training Set_Markups.csv'
    f.parent.mkdir(); f.write_text('Image No,X- Coordinate,Y - Coordinate\nIDRiD_001,1,2\n')
    r = load(tmp_path)
    assert all('B. Disease Grading' in i for i in r.image) and present(r.image).all()

def test_messidor(tmp_path):
    for o in ('20051020_43808_0100_PP.png', 'IM000001.JPG'): picture(tmp_path/'IMAGES'/o)
    (tmp_path/'messidor_data.csv').write_text('image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n'
                                              '20051020_43808_0100_PP.png,0.0,0.0,1\nIM000001.jpg,3,1,1\n')
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), r.dme.tolist()) == ('messidor2', [0, 3], [0, 1]) and present(r.image).all()

@pytest.mark.parametrize('pairs', ['left;right\n20051020_43808_0100_PP.png;20051020_43832_0100_PP.png\nIM000001.JPG;IM000002.JPG\n',
                                   '20051020_43808_0100_PP.png,20051020_43832_0100_PP.png\nIM000001.JPG,IM000002.JPG\n'])
def test_messidor_pairs_name_the_patient(tmp_path, pairs):
    names = ['20051020_43808_0100_PP.png', '20051020_43832_0100_PP.png', 'IM000001.jpg', 'IM000002.jpg', 'IM000009.jpg']
    for o in names: picture(tmp_path/'IMAGES'/o)
    (tmp_path/'messidor_data.csv').write_text('image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n' + ''.join(f'{o},1,0,1\n' for o in names))
    (tmp_path/'messidor-2.csv').write_text(pairs)
    r = load(tmp_path)
    assert r.patient.nunique() == 3 and r.patient[0] == r.patient[1] and r.patient[2] == r.patient[3] and not r.attrs['problems']
    assert r.eye.tolist() == ['left', 'right']*2 + ['']

def test_messidor_ungradable_is_a_problem_and_not_a_grade(tmp_path):
    (tmp_path/'messidor_data.csv').write_text('image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\na.png,,,0\nb.png,1,0,1\n')
    r = load(tmp_path)
    assert labels(r) == [None, 1] and r.gradable.tolist() == [0, 1]

def test_deepdrid(tmp_path):
    root = tmp_path/'regular_fundus_images'
    for part,patient in (('training', 1), ('validation', 265)):
        for side in ('l1', 'l2', 'r1'): picture(root/f'regular-fundus-{part}'/'Images'/str(patient)/f'{patient}_{side}.jpg')
        (root/f'regular-fundus-{part}'/f'regular-fundus-{part}.csv').write_text(
            'patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,patient_DR_Level,Clarity,Field definition,Artifact\n'
            + ''.join(f'{patient},{patient}_{s},\\{patient}\\{patient}_{s}.jpg,1,{2 if s[0]=="l" else ""},{3 if s[0]=="r" else ""},3,8,8,0\n' for s in ('l1', 'l2', 'r1')))
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r)) == ('deepdrid', [2, 2, 3, 2, 2, 3])
    assert r.split.tolist() == ['train']*3 + ['valid']*3 and r.patient.nunique() == 2
    assert r.eye.tolist() == ['left', 'left', 'right']*2 and set(r.quality) == {1} and present(r.image).all()

def test_deepdrid_evaluation_grades(tmp_path):
    for s in ('347_l1', '347_r2'): picture(tmp_path/'Online-Challenge1&2-Evaluation'/'Images'/'347'/f'{s}.jpg')
    (tmp_path/'Challenge1_labels.csv').write_text('image_id,DR_Levels\n347_l1,2\n347_r2,3\n')
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), set(r.split), set(r.patient), r.eye.tolist()) == ('deepdrid_eval', [2, 3], {'test'}, {'347'}, ['left', 'right'])

@pytest.mark.parametrize('small', [True, False])
def test_pairs(tmp_path, small):
    for o in ('10_left', '10_right', '13_left'): picture(tmp_path/'images'/f'{o}.jpeg')
    (tmp_path/f'train_img{"_small" if small else ""}.csv').write_text('10_left\n10_right\n')
    (tmp_path/f'train_label{"_small" if small else ""}.csv').write_text('0\n3\n')
    (tmp_path/'test_img.csv').write_text('13_left\n'); (tmp_path/'test_label.csv').write_text('1\n')
    if not small: # the full list wins
        (tmp_path/'train_img_small.csv').write_text('10_left\n'); (tmp_path/'train_label_small.csv').write_text('0\n')
    (tmp_path/'tags.csv').write_text('image,hospital,age\n10_left,Hill,61\n10_right,Hill,61\n13_left,Lake,40\n')
    r = load(tmp_path).sort_values('image')
    assert r.attrs['layout'] == 'pairs' and labels(r) == [0, 3, 1]
    assert list(r.columns) == ['image', 'label', 'patient', 'eye', 'split', 'source', 'hospital', 'age']
    assert r.split.tolist() == ['train', 'train', 'test'] and r.hospital.tolist() == ['Hill', 'Hill', 'Lake'] and r.age.tolist() == [61, 61, 40]

@pytest.mark.parametrize('size', [28, 64])
@pytest.mark.parametrize('name,task,n', [('retinamnist', 'dr', 5), ('octmnist', 'oct', 4), ('pneumoniamnist', 'pneumonia', 2)])
def test_medmnist(tmp_path, name, task, n, size):
    rng,arrays = np.random.default_rng(0), {}
    for part,k in (('train', 10), ('val', 4), ('test', 5)):
        arrays[f'{part}_images'] = rng.integers(0, 255, (k, size, size, 3) if n == 5 else (k, size, size), dtype=np.uint8)
        arrays[f'{part}_labels'] = rng.integers(0, n, (k, 1), dtype=np.uint8)
    arrays['test_images'][0] = arrays['train_images'][3] # identical across parts
    f = tmp_path/f'{name}{"" if size == 28 else "_" + str(size)}.npz'
    np.savez_compressed(f, **arrays)
    for r in (load(f, task), load(tmp_path, task)):
        assert r.split.value_counts().to_dict() == {'train': 10, 'test': 5, 'valid': 4}
        assert labels(r) == [int(l) for p in ('train', 'val', 'test') for l in arrays[f'{p}_labels'].ravel()]
        assert r.patient.nunique() == 18 and present(r.image).all()
        i = r.index[r.split == 'valid'][2]
        assert np.array_equal(read_image(r.image[i])[..., 0], arrays['val_images'][2] if n < 5 else arrays['val_images'][2][..., 0])
    with pytest.raises(DataError, match='say task='): load(f, 'dr' if task != 'dr' else 'oct')

def test_chest_xray(tmp_path):
    for part in ('train', 'val'):
        for f in ('NORMAL/IM-0115-0001.jpeg', 'NORMAL/NORMAL2-IM-1152-0001-0002.jpeg', 'PNEUMONIA/person1_bacteria_1.jpeg', 'PNEUMONIA/person1_virus_6.jpeg'):
            picture(tmp_path/part/f.replace('IM-0', f'IM-{len(part)}').replace('person1', f'person{len(part)}'))
    r = load(tmp_path, 'pneumonia')
    assert (r.attrs['layout'], labels(r), set(r.split)) == ('chest_xray', [0, 0, 1, 1]*2, {'train', 'valid'})
    assert r.kind.tolist() == ['', '', 'bacteria', 'virus']*2
    assert set(r.patient) == {'IM-5115', 'NORMAL2-IM-1152', 'person5', 'IM-3115', 'person3'}
    t = load(tmp_path, 'pneumonia_type')
    assert labels(t) == [0, 1]*2 and all('PNEUMONIA' in i for i in t.image)
    assert set(load(tmp_path/'train', 'pneumonia').split) == {''}
    with pytest.raises(DataError, match="say task='pneumonia'"): load(tmp_path)

def test_oct2017(tmp_path):
    for part in ('train', 'test'):
        for c,p in (('CNV', 1), ('DME', 2), ('DRUSEN', 1), ('NORMAL', 3)): picture(tmp_path/'OCT2017'/part/c/f'{c}-{p}-7.jpeg')
    r = load(tmp_path, 'oct')
    assert (r.attrs['layout'], labels(r), r.patient.tolist()) == ('oct2017', [0, 1, 2, 3]*2, ['1', '2', '1', '3']*2)

@pytest.mark.parametrize('names', [('0', '1', '2', '3', '4'), ('No_DR', 'Mild', 'Moderate', 'Severe', 'Proliferate_DR'), ('0 - No DR', '1 - Mild', '2 - Moderate', '3 - Severe', '4 - PDR')])
def test_class_folders(tmp_path, names):
    for i,n in enumerate(names): picture(tmp_path/n/f'eye{i}.png')
    r = load(tmp_path)
    assert (r.attrs['layout'], sorted(labels(r))) == ('folders', [0, 1, 2, 3, 4])

def test_chexpert_policies(tmp_path):
    d = tmp_path/'CheXpert-v1.0-small'
    for p in (1, 2, 3): picture(d/'train'/f'patient0000{p}'/'study1'/'view1_frontal.jpg')
    head = 'Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia\n'
    (d/'train.csv').write_text(head + ''.join(f'CheXpert-v1.0-small/train/patient0000{p}/study1/view1_frontal.jpg,Female,68,Frontal,AP,,{l}\n'
                                              for p,l in ((1, '1.0'), (2, '-1.0'), (3, ''), (4, '0.0'))))
    for policy,want in (('ignore', [1, None, 0, 0]), ('zeros', [1, 0, 0, 0]), ('ones', [1, 1, 0, 0])):
        r = load(tmp_path, 'pneumonia', uncertain=policy)
        assert labels(r) == want and r.uncertain.tolist() == [0, 1, 0, 0]
    assert present(r.image).tolist() == [True, True, True, False], 'view1_frontal of another patient must not stand in'
    assert r.patient.tolist() == [f'patient0000{p}' for p in (1, 2, 3, 4)] and set(r.sex) == {'Female'}
    with pytest.raises(SettingError, match='ignore, zeros, ones'): load(tmp_path, 'pneumonia', uncertain='guess')

def test_dicom(tmp_path, monkeypatch):
    pydicom = pytest.importorskip('pydicom')
    from pydicom.dataset import FileMetaDataset
    monkeypatch.setenv('RETINA_NB_CACHE', str(tmp_path/'cache'))
    def dicom(path, a, photometric, **tags):
        path.parent.mkdir(parents=True, exist_ok=True)
        ds = pydicom.Dataset(); ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = '1.2.840.10008.5.1.4.1.1.7'
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = pydicom.uid.generate_uid()
        ds.Rows,ds.Columns = a.shape[:2]; ds.SamplesPerPixel = 3 if a.ndim == 3 else 1; ds.PixelRepresentation = 0
        ds.BitsAllocated = ds.BitsStored = a.dtype.itemsize*8; ds.HighBit = ds.BitsStored - 1; ds.PhotometricInterpretation = photometric
        if a.ndim == 3: ds.PlanarConfiguration = 0
        for k,v in tags.items(): setattr(ds, k, v)
        ds.PixelData = a.tobytes(); ds.save_as(path, enforce_file_format=True)
    ramp = np.linspace(0, 4000, 64*64).astype(np.uint16).reshape(64, 64)
    who = dict(PatientName='Roe^Jane', PatientID='MRN-123', PatientBirthDate='19500101')
    dicom(tmp_path/'set'/'NORMAL'/'a.dcm', ramp, 'MONOCHROME2', WindowCenter=2000, WindowWidth=1000, **who)
    dicom(tmp_path/'set'/'PNEUMONIA'/'b.dcm', ramp, 'MONOCHROME1', **who)
    dicom(tmp_path/'set'/'PNEUMONIA'/'c', np.dstack([np.full((40, 40), v, np.uint8) for v in (200, 100, 50)]), 'RGB', Laterality='R')
    (tmp_path/'set'/'PNEUMONIA'/'d.dcm').write_bytes((tmp_path/'set'/'NORMAL'/'a.dcm').read_bytes()[:300])
    r = load(tmp_path/'set', 'pneumonia')
    assert r.attrs['layout'] == 'dicom' and labels(r) == [0, 1, 1, None]
    assert r.patient[0] == r.patient[1] != '' and r.eye[2] == 'right'
    a,b,c = (read_image(f) for f in r.image[:3])
    assert a[20, 0, 0] == 0 and a[45, 0, 0] == 255, 'the window is applied'
    assert b[0, 0, 0] == 255 and b[-1, -1, 0] == 255 - round(4000/65535*255), 'MONOCHROME1 is white for low values, and the stored bits are the range'
    assert c[0, 0].tolist() == [200, 100, 50]
    everything = r.to_csv() + str(r.attrs)
    assert not [w for w in ('Roe', 'Jane', 'MRN-123', '19500101') if w in everything], 'no identifying tag is kept'

def test_records_csv(tmp_path):
    picture(tmp_path/'pics'/'a.png'); picture(tmp_path/'pics'/'b.png'); picture(tmp_path/'elsewhere'/'c.png')
    (tmp_path/'sets').mkdir()
    f = tmp_path/'sets'/'mine.csv'
    f.write_text(f'image,label,patient,eye,split,source,age\n../pics/a.png,1,007,L,train,Clinic,50\n../pics/b.png,2,007,OD,validation,Clinic,50\n{tmp_path}/elsewhere/c.png,0,8,,test,Other,\n')
    r = load(f)
    assert (r.attrs['layout'], labels(r)) == ('records', [1, 2, 0]) and not r.attrs['problems']
    assert r.patient.tolist() == ['007', '007', '8'] and r.eye.tolist() == ['left', 'right', ''] and r.split.tolist() == ['train', 'valid', 'test']
    assert r.source.tolist() == ['Clinic', 'Clinic', 'Other'] and r.age.astype(float).tolist()[:2] == [50, 50] and present(r.image).all()

def test_records_round_trip(tmp_path):
    from retina_nb.core import write_table
    r = load('synth:100')
    write_table(tmp_path/'records.csv', r)
    again = load(tmp_path)
    pd.testing.assert_frame_equal(again[r.columns[:6]].astype(object), r[r.columns[:6]].astype(object))

def test_bare_images(tmp_path):
    for o in ('a_left.png', 'a_right.png', 'b.png', 'deep/er/c.jpg'): picture(tmp_path/o)
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), r.patient.nunique()) == ('images', [None]*4, 3)
    with pytest.raises(DataError, match='no image has a usable label'): require_usable(r)

def test_links_are_followed_and_loops_are_not(tmp_path):
    real = idrid(tmp_path/'real')
    (tmp_path/'set').mkdir()
    (tmp_path/'set'/'linked').symlink_to(real)
    (real/'back').symlink_to(tmp_path/'set')
    assert len(load(tmp_path/'set')) == 4
    assert len(list_files(tmp_path/'set')) == 6

def test_unknown_layouts_say_what_was_looked_for(tmp_path):
    (tmp_path/'x.txt').write_text('hello')
    with pytest.raises(DataError) as e: load(tmp_path)
    assert all(w in str(e.value) for w in ('image + level (eyepacs)', '.npz (medmnist)', 'Retinopathy grade (idrid)', '.dcm', 'train_img.csv', '--layout'))
    assert len(str(e.value)) - len(str(tmp_path)) < 600
    (tmp_path/'a.csv').write_text('photo,score\na,1\n')
    with pytest.raises(DataError, match=r'a\.csv \(photo, score\)'): load(tmp_path)
    with pytest.raises(DataError, match="layout 'idrid', which is a CSV file with the columns Image name"): load(tmp_path, layout='idrid')
    with pytest.raises(DataError, match='no such folder'): load(tmp_path/'nowhere')
    with pytest.raises(DataError, match='is empty'): (tmp_path/'empty').mkdir() or load(tmp_path/'empty')
    with pytest.raises(SettingError, match='unknown layout'): load(tmp_path, layout='eyepax')
    with pytest.raises(SettingError, match='synth:N'): load('synth:many')
    with pytest.raises(DataError, match='several datasets'):
        idrid(tmp_path/'two'/'idrid'); (tmp_path/'two'/'trainLabels.csv').write_text('image,level\na,0\n'); load(tmp_path/'two')
    with pytest.raises(DataError, match="not for oct"): load(tmp_path/'two'/'idrid', 'oct')
    with pytest.raises(SettingError, match='unknown task'): load(tmp_path/'two'/'idrid', 'glaucoma')

def test_registry_is_complete():
    t = layout_table()
    assert set(t.state) == {'checked on real files', 'from its documentation'}
    for n,o in LAYOUTS.items():
        assert o.looks_for and o.tasks, n
        if o.kind != 'images' and n not in ('pairs', 'folders', 'records', 'dicom'): assert o.citation and o.licence and o.link.startswith('http') and o.faults and o.images, n

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
    'too few cells': (HEAD + '10_left\n10_right,1\n', 2, '1 cells'),
    'too many cells': (HEAD + '10_left,0,0\n10_right,1\n', 2, '3 cells'),
    'semicolons in one row': (HEAD + '10_left,0\n10_right;1\n', 3, '1 cells'),
    'listed twice': (HEAD + '10_left,0\n10_right,1\n10_left,0\n', 4, 'listed twice'),
    'graded twice': (HEAD + '10_left,0\n10_right,1\n10_left,2\n', 4, 'graded differently'),
    'repeated header': (HEAD + '10_left,0\nimage,level\n', 3, "'level'"),
    'two columns of a name': ('image,level,level\n10_left,0,1\n', 1, "'level'"),
    'no label column': ('image,hospital\n10_left,A\n', 1, 'one for the label'),
    'header only': (HEAD, 1, 'no rows'),
    'semicolons': ('image;level\n10_left;0\n', 1, "';'"),
    'tabs': ('image\tlevel\n10_left\t0\n', 1, 'separated by'),
    'open quote': (HEAD + '10_left,0\n"10_right,1\n13_left,0\n', 3, 'cannot be read as CSV'),
    'zero byte': (HEAD.encode() + b'10_left,0\n10_right,\0\n', 3, 'zero byte'),
    'latin-1': (HEAD.encode() + b'10_left,0\n10_right,\xe9\n', 3, 'UTF-8'),
    'UTF-16': (('\ufeff' + HEAD + '10_left,0\n').encode('utf-16-le'), 1, 'UTF-16'),
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
    try: r = load(f if kind != 'semicolons' else tmp_path)
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
    assert labels(r) == [1, 2] and not r.attrs['problems'] and present(r.image).all()

def test_all_problems_are_reported_together_and_once(tmp_path):
    (tmp_path/'trainLabels.csv').write_text(HEAD + '10_left,9\n10_right,\n13_left,1\n')
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always'); r = load_records(tmp_path)
    assert len(r) == 3 and len([w for w in told if 'problem' in str(w.message)]) == 1
    assert [p['row'] for p in r.attrs['problems']] == [2, 3, '']
    assert r[r.label.notna()].attrs['problems'] == r.attrs['problems'], 'they stay with the table'
    assert row_of(r, 2) == 4

# images

def bad_images(d):
    "name -> a file that is no usable image"
    whole = picture(d/'whole.jpg', 1, (200, 180)).read_bytes()
    (d/'cut.jpg').write_bytes(whole[:len(whole)*2//3]); (d/'text.jpg').write_text('hello'); (d/'zero.jpg').write_bytes(b'')
    Image.new('RGB', (1, 1)).save(d/'tiny.png')
    return ['cut.jpg', 'text.jpg', 'zero.jpg', 'tiny.png']

def test_unreadable_images_are_found(tmp_path):
    bad = bad_images(tmp_path)
    (tmp_path/'records.csv').write_text('image,label\nwhole.jpg,0\ngone.jpg,1\n' + ''.join(f'{b},0\n' for b in bad))
    r = load(tmp_path)
    s = summarise(r)
    assert (s['n_images'], s['n_missing'], s['n_unreadable']) == (6, 1, 4)
    assert {p['row'] for p in s['problems'] if p['file'].endswith(tuple(bad))} == {4, 5, 6, 7}
    with pytest.raises(DataError, match='5 of 6 rows'): require_usable(r)
    with pytest.warns(UserWarning, match='5 of 6 rows left out'): assert len(require_usable(r, skip_bad=True)) == 1

def test_what_cannot_be_used_is_named(tmp_path, monkeypatch):
    for o in 'abcd': picture(tmp_path/f'{o}.png')
    (tmp_path/'mine.csv').write_text('image,label\na.png,7\nb.png,1\nc.png,\ngone.png,2\nd.png,0\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as e: require_usable(load('mine.csv'))
    assert str(e.value).startswith("mine.csv: 3 of 5 rows cannot be used: row 2: label '7' is outside 0 to 4 (a.png); row 4: no label (c.png); row 5: gone.png is not on disk")
    assert '--skip_bad' in str(e.value)
    with pytest.warns(UserWarning, match='mine.csv: 3 of 5 rows left out: row 2'): assert len(require_usable(load('mine.csv'), skip_bad=True)) == 2
    with pytest.raises(DataError, match=r"label '9' is outside 0 to 4 \(a\.png\)"): require_usable(pd.DataFrame(dict(image=['a.png', 'b.png'], label=[9, 1])))
    (tmp_path/'all.csv').write_text('image,label\na.png,7\n')
    with pytest.raises(DataError, match="1 of 1 rows cannot be used: row 2: label '7'"): require_usable(load('all.csv'), skip_bad=True)
    idrid(tmp_path/'set')
    for f in (tmp_path/'set').rglob('*.csv'): f.write_text(f.read_text().replace('_002,', '_002,x'))
    with pytest.raises(DataError, match=r"Training Labels.csv row 3: label 'x3'.*Testing Labels.csv row 3: label 'x4'"): require_usable(load(tmp_path/'set'))

def test_summary_counts_conflicts_by_label_only(tmp_path):
    f = picture(tmp_path/'a.png')
    for o in 'bcd': shutil.copy(f, tmp_path/f'{o}.png')
    picture(tmp_path/'e.png', 5); shutil.copy(tmp_path/'e.png', tmp_path/'f.png')
    (tmp_path/'records.csv').write_text('image,label,dme\na.png,1,0\nb.png,2,0\nc.png,1,0\nd.png,1,0\ne.png,3,0\nf.png,3,2\n')
    s = summarise(load(tmp_path))
    assert (s['n_duplicates'], s['n_conflicts'], s['n_patients']) == (4, 1, 2)
    assert all(set(p) == {'file', 'row', 'what'} for p in s['problems'])

def test_records_that_somebody_else_made(tmp_path):
    f = picture(tmp_path/'a.png')
    found = check_records(pd.DataFrame(dict(image=[str(f), 'no.png'], label=[1, 9])), 'dr')
    assert set(found.kind) == {'row', 'missing'}
    with pytest.raises(DataError, match="no column 'label'"): check_records(pd.DataFrame(dict(image=['a'])))

def planted(n, folder):
    "n originals from the generator, and of each a changed copy: smaller, recompressed, mirrored or two of these"
    base = load(f'synth:{n}')
    rng,copies = np.random.default_rng(7), []
    for i,f in enumerate(base.image):
        im = Image.open(f).convert('RGB')
        if i % 4 in (0, 3): s = rng.uniform(.5, .9); im = im.resize((int(im.width*s), int(im.height*s)), Image.Resampling.LANCZOS)
        if i % 4 in (2, 3): im = im.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        im.save(folder/f'{i}.jpg', quality=int(rng.integers(40, 90))); copies.append(str(folder/f'{i}.jpg'))
    return list(base.image), copies

def check_planted(n, folder):
    originals,copies = planted(n, folder)
    scan = scan_images(originals + copies, progress=False)
    pairs = {(i, j) for i,j,*_ in near_duplicates(np.stack(scan.phash)).tolist()}
    true = {(i, i + n) for i in range(n)}
    assert len(pairs & true)/n >= .99, f'{len(pairs & true)} of {n} found'
    assert len(pairs - true) <= 2*n/1000, f'{len(pairs - true)} false pairs among {2*n} images'

def test_planted_near_duplicates(tmp_path): check_planted(100, tmp_path)

@pytest.mark.full
def test_500_planted_near_duplicates(tmp_path): check_planted(500, tmp_path)

@pytest.mark.full
@pytest.mark.parametrize('kind', ['smaller', 'recompressed', 'mirrored', 'cropped to the field'])
def test_planted_among_real_photographs(tmp_path, real_data, kind):
    "Two real eyes look more alike than two drawn ones do; IDRiD holds one eye twice of its own (013 and 397)"
    first = scan_images(load(real_data/'idrid').image, progress=False).drop_duplicates('sha256')
    rng,copies,n = np.random.default_rng(3), [], len(first)
    for i,f in enumerate(first.image):
        im = Image.open(f).convert('RGB')
        if kind == 'smaller': s = rng.uniform(.3, .9); im = im.resize((int(im.width*s), int(im.height*s)), Image.Resampling.LANCZOS)
        if kind == 'mirrored': im = im.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if kind == 'cropped to the field': im = im.crop(Image.fromarray(np.asarray(im).max(2) > 25).getbbox())
        im.save(tmp_path/f'{i}.jpg', quality=int(rng.integers(30, 90))); copies.append(tmp_path/f'{i}.jpg')
    names = [int(Path(f).stem[-3:]) for f in first.image]*2
    pairs = near_duplicates(np.stack([*first.phash, *scan_images(copies, progress=False).phash]))[:, :2].tolist()
    found = {(i, j) for i,j in pairs if j == i + n}
    assert len(found) >= .99*n, len(found)/n
    assert {(names[i], names[j]) for i,j in pairs if j != i + n} <= {(13, 397), (397, 13)}

def test_content_keys_only_join_equal_bytes(tmp_path):
    for n,b in (('a', b'12'), ('b', b'21'), ('c', b'12'), ('d', b''), ('e', b'')): (tmp_path/n).write_bytes(b)
    k = content_keys([str(tmp_path/n) for n in 'abcdex'])
    assert k[0] == k[2] != '' and list(k[[1, 3, 4, 5]]) == ['']*4

# the real sets

PAIRS = {(21, 391), (28, 327), (45, 333), (73, 375), (79, 279)}

@pytest.mark.parametrize('inside', ['', 'B. Disease Grading'])
def test_real_idrid(real_data, inside):
    r = load(real_data/'idrid'/inside)
    assert (len(r), r.label.value_counts().sort_index().tolist(), set(r.split)) == (413, [134, 20, 136, 74, 49], {'train'})
    assert r.patient.nunique() == 408 and not r.attrs['problems'] and sorted(set(r.dme)) == [0, 1, 2]
    keys = content_keys(r.image)
    groups = pd.Series(r.image.map(lambda f: int(Path(f).stem[-3:]))).groupby(keys).agg(tuple).drop('')
    assert set(groups) == PAIRS

def test_real_idrid_audit(real_data):
    s = summarise(load(real_data/'idrid'))
    assert (s['n_duplicates'], s['n_conflicts'], s['n_near'], s['n_unreadable'], s['n_missing']) == (5, 2, 1, 0, 0)
    near = next(p for p in s['problems'] if 'looks the same as' in p['what'])
    assert 'IDRiD_397' in near['file'] and 'IDRiD_013' in near['what'], 'one eye, photographed twice'

def test_real_kaggle_labels(real_data):
    t = time.process_time()
    r = load(real_data/'eyepacs-sample')
    found = check_records(r, images=False)
    took = time.process_time() - t
    assert (len(r), r.patient.nunique(), int(present(r.image).sum())) == (35126, 17563, 10)
    assert r.label.value_counts().sort_index().tolist() == [25810, 2443, 5292, 873, 708]
    assert len(found) == 1 and '35116 of its 35126' in found.what[0]
    assert took < 2, f'{took:.1f} s'

def test_real_pairs(real_data):
    r = load(real_data/'twcc-csv')
    assert r.split.value_counts().to_dict() == {'test': 7026, 'train': 280} and not present(r.image).any() and r.label.notna().all()

def test_real_retinamnist(real_data):
    r = load(real_data/'medmnist'/'retinamnist.npz')
    assert r.split.value_counts().to_dict() == {'train': 1080, 'test': 400, 'valid': 120}
    assert r.label.value_counts().sort_index().tolist() == [714, 186, 326, 282, 92]

def test_real_chest_xray(real_data):
    r = load(real_data/'chest_xray', 'pneumonia')
    assert (len(r), r.label.value_counts().to_dict(), r.split.value_counts().to_dict()) == (4418, {1: 3286, 0: 1132}, {'train': 3566, 'valid': 852})
    assert not set(r.patient[r.split == 'train']) & set(r.patient[r.split == 'valid'])
    assert load(real_data/'chest_xray', 'pneumonia_type').label.value_counts().to_dict() == {0: 2135, 1: 1151}

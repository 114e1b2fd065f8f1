"Fixtures of every layout, and the real sets"
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pictures import idrid, labels, load, picture
from retina_nb.core import DataError, SettingError
from retina_nb.data import LAYOUTS, check_records, content_keys, layout_table, on_disk
from retina_nb.image.read import read_image

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

@pytest.mark.parametrize('inside', ['', 'B. Disease Grading', 'my test data/B. Disease Grading', 'training/x/y'])
def test_idrid_wherever_it_lies(tmp_path, inside):
    idrid(tmp_path/inside)
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), r.split.tolist()) == ('idrid', [1, 3, 2, 4], ['train', 'train', 'test', 'test'])
    assert r.patient.nunique() == 4, 'IDRiD_001 is in training and in testing, and is two eyes'
    assert r.dme.tolist() == [2, 0, 2, 0] and on_disk(r.image).all()
    assert all(('Training' in f) == (s == 'train') for f,s in zip(r.image, r.split))

def test_idrid_parts(tmp_path):
    r = load(idrid(tmp_path/'a', parts=('Training',)))
    assert len(r) == 2 and set(r.split) == {'train'}
    r = load(idrid(tmp_path/'b', images=('Testing',)))
    assert (~on_disk(r.image)).sum() == 2, 'training images are missing and must not be taken from the test folder'
    r = load(idrid(tmp_path/'c', parts=('Testing',), images=('Testing',)))
    assert set(r.split) == {'test'}

def test_idrid_beside_its_other_parts(tmp_path):
    idrid(tmp_path/'B. Disease Grading')
    for n in (1, 2): picture(tmp_path/'C. Localization'/'1. Original Images'/'a. Training Set'/f'IDRiD_{n:03}.jpg')
    picture(tmp_path/'A. Segmentation'/'1. Original Images'/'a. Training Set'/'IDRiD_01.jpg')
    f = tmp_path/'C. Localization'/'2. Groundtruths'/'IDRiD_OD_Center_Training Set_Markups.csv'
    f.parent.mkdir(); f.write_text('Image No,X- Coordinate,Y - Coordinate\nIDRiD_001,1,2\n')
    r = load(tmp_path)
    assert all('B. Disease Grading' in i for i in r.image) and on_disk(r.image).all()

def test_messidor(tmp_path):
    for o in ('20051020_43808_0100_PP.png', 'IM000001.JPG'): picture(tmp_path/'IMAGES'/o)
    (tmp_path/'messidor_data.csv').write_text('image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n'
                                              '20051020_43808_0100_PP.png,0.0,0.0,1\nIM000001.jpg,3,1,1\n')
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), r.dme.tolist()) == ('messidor2', [0, 3], [0, 1]) and on_disk(r.image).all()

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
    assert r.eye.tolist() == ['left', 'left', 'right']*2 and set(r.quality) == {1} and on_disk(r.image).all()

def test_deepdrid_evaluation_grades(tmp_path):
    for s in ('347_l1', '347_r2'): picture(tmp_path/'Online-Challenge1&2-Evaluation'/'Images'/'347'/f'{s}.jpg')
    (tmp_path/'Challenge1_labels.csv').write_text('image_id,DR_Levels\n347_l1,2\n347_r2,3\n')
    r = load(tmp_path)
    assert (r.attrs['layout'], labels(r), set(r.split), set(r.patient), r.eye.tolist()) == ('deepdrid', [2, 3], {'test'}, {'347'}, ['left', 'right'])

def test_deepdrid_with_its_evaluation_grades(tmp_path):
    "Two label files of two shapes in one folder: each is read as what it is"
    picture(tmp_path/'Images'/'1'/'1_l1.jpg'); picture(tmp_path/'Images'/'347'/'347_r2.jpg')
    (tmp_path/'regular-fundus-training.csv').write_text('patient_id,image_id,left_eye_DR_Level,right_eye_DR_Level\n1,1_l1,3,\n')
    (tmp_path/'Challenge1_labels.csv').write_text('image_id,DR_Levels\n347_r2,2\n')
    r = load(tmp_path).sort_values('split')
    assert (r.attrs['layout'], labels(r), r.split.tolist(), r.patient.tolist()) == ('deepdrid', [2, 3], ['test', 'train'], ['347', '1'])

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
    assert list(r.columns) == ['image', 'label', 'patient', 'eye', 'split', 'source', 'hospital', 'age', 'task']
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
        assert r.patient.nunique() == 18 and on_disk(r.image).all()
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
    assert on_disk(r.image).tolist() == [True, True, True, False], 'view1_frontal of another patient must not stand in'
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

def test_a_layout_of_ones_own_is_one_object(tmp_path):
    from retina_nb.data import TableLayout, add_layout
    picture(tmp_path/'scans'/'P07-OD.png'); picture(tmp_path/'scans'/'P07-OS.png')
    (tmp_path/'list.csv').write_text('photo,stage\nP07-OD,2\nP07-OS,0\n')
    assert load(tmp_path).attrs['layout'] == 'images'
    mine = TableLayout('mine', 'My clinic', dict(dr='stage'), image=('photo',), stem=r'(?P<patient>P\d+)-(?P<eye>O[DS])$', looks_for='photo and stage')
    r = load(tmp_path, layout=mine)
    assert (labels(r), set(r.patient), r.eye.tolist(), set(r.source)) == ([2, 0], {'P07'}, ['right', 'left'], {'My clinic'}) and on_disk(r.image).all()
    add_layout(mine)
    try:
        assert load(tmp_path).attrs['layout'] == 'mine' and 'mine' in layout_table().index
        with pytest.raises(DataError, match="'mine', which is photo and stage"): load(tmp_path/'scans', layout='mine')
        with pytest.raises(DataError, match='has labels for dr, not for oct'): load(tmp_path, 'oct')
    finally: LAYOUTS.pop('mine')

def test_a_new_kind_of_layout_needs_find_and_rows(tmp_path):
    "Labels in the names of the files: a class of two methods, known nowhere else"
    from retina_nb.data import ImagesLayout
    class Named(ImagesLayout):
        labelled = True
        def find(self, folder, task): return [f for f in folder.images if f.startswith('grade')]
        def rows(self, folder, task, carriers):
            raw = super().rows(folder, task, carriers)
            return raw.assign(text=raw.cell.str[5])
    for f in ('grade2_a.png', 'grade0_b.png', 'other.png'): picture(tmp_path/f)
    r = load(tmp_path, layout=Named('named', 'named', {'*': 'name'}))
    assert labels(r) == [0, 2] and r.attrs['layout'] == 'named'

def test_general_layouts_take_a_task_of_ones_own(tmp_path):
    from retina_nb.core import Task, forget_task
    six = Task('stage6', ['A1', 'A2', 'B1', 'B2', 'C1', 'C2'], ordinal=True)
    try:
        for c in ('A1', 'B2', 'C2'): picture(tmp_path/'set'/c/'x.png')
        r = load(tmp_path/'set', six)
        assert (r.attrs['layout'], labels(r), set(r.task)) == ('folders', [0, 3, 5], {'stage6'})
        (tmp_path/'set.csv').write_text('image,label\nset/A1/x.png,a1\nset/B2/x.png,3\nset/C2/x.png,C2\n')
        assert labels(load(tmp_path/'set.csv', 'stage6')) == [0, 3, 5]
    finally: forget_task('stage6')

def test_registry_is_complete():
    t = layout_table()
    assert set(t.state) == {'checked on real files', 'from its documentation'}
    for n,o in LAYOUTS.items():
        assert o.looks_for and o.tasks, n
        if o.labelled and n not in ('pairs', 'folders', 'records', 'dicom'): assert o.citation and o.licence and o.link.startswith('http') and o.faults and o.images, n

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

def test_real_kaggle_labels(real_data):
    r = load(real_data/'eyepacs-sample')
    found = check_records(r, images=False)
    assert (len(r), r.patient.nunique(), int(on_disk(r.image).sum())) == (35126, 17563, 10)
    assert r.label.value_counts().sort_index().tolist() == [25810, 2443, 5292, 873, 708]
    assert len(found) == 1 and '35116 of its 35126' in found.what[0]

def test_real_pairs(real_data):
    r = load(real_data/'twcc-csv')
    assert r.split.value_counts().to_dict() == {'test': 7026, 'train': 280} and not on_disk(r.image).any() and r.label.notna().all()

def test_real_retinamnist(real_data):
    r = load(real_data/'medmnist'/'retinamnist.npz')
    assert r.split.value_counts().to_dict() == {'train': 1080, 'test': 400, 'valid': 120}
    assert r.label.value_counts().sort_index().tolist() == [714, 186, 326, 282, 92]

def test_real_chest_xray(real_data):
    r = load(real_data/'chest_xray', 'pneumonia')
    assert (len(r), r.label.value_counts().to_dict(), r.split.value_counts().to_dict()) == (4418, {1: 3286, 0: 1132}, {'train': 3566, 'valid': 852})
    assert not set(r.patient[r.split == 'train']) & set(r.patient[r.split == 'valid'])
    assert load(real_data/'chest_xray', 'pneumonia_type').label.value_counts().to_dict() == {0: 2135, 1: 1151}

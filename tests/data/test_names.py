"What names say of patient, eye and split"
import pandas as pd
import pytest

from pictures import load, picture
from retina_nb.data import eyes_of, groups_of, is_unknown, patient_and_eye, split_records

LEFT_12 = ['12_left', '12_LEFT.JPG', '12-left.jpg', '12.left.png', '12 left.jpg', '12 (left).jpg', '12 - left eye.tif', '12_OS', '12-os.png', '12 OS.jpg', '12.os.jpg',
    '12_L.jpg', '12-l.png', '12 L.jpg', '12.L.jpg', '12_LE.jpg', '12L.jpg', '12OS.jpg', '12left.jpg', '12_leftEye.jpg', 'left_12.jpg', 'OS-12.tif', 'L_12.jpg', 'left12.jpg',
    'OS12.jpg', 'left 12.jpg', 'Left Eye 12.jpg', '12_left_macula.jpg', '12_OS_disc.png', '12_L_1.jpg', '12_left_1.jpg', '12_left 2.jpg', 'left_12_macula.jpg', 'left_12_2.jpg',
    'macula_12_left.jpg', 'fundus_left_12.jpg', '12_left_20200131.jpg', '12_20200131_OS.jpg', '12/left.jpg', '12/OS.png', '12/left_macula.jpg', '12/left/1.jpg', '12/OS/macula.jpg',
    'left/12.jpg', 'train/left/12.jpg', 'images/12_left.jpg', '12\\left.jpg', '12_left.jfif', '12_left.dcm', '/data/set 1/12_left.jpg']

@pytest.mark.parametrize('name', LEFT_12)
def test_the_left_eye_of_patient_12(name): assert patient_and_eye(name) == ('12', 'left')

@pytest.mark.parametrize('name', LEFT_12)
def test_and_the_right_one_is_the_same_patient(name):
    swap = {'left': 'right', 'LEFT': 'RIGHT', 'Left': 'Right', 'OS': 'OD', 'os': 'od', 'LE': 'RE', 'L': 'R', 'l': 'r'}
    old = next(o for o in swap if o in name.replace('.JPG', '').replace('.jpg', '').replace('.jfif', ''))
    other = name.replace(old, swap[old], 1)
    assert patient_and_eye(other) == ('12', 'right')

@pytest.mark.parametrize('name', ['IDRiD_001.jpg', '000c1434d8d7.png', '20051020_43808_0100_PP.png', 'a7d9k2l.png', '12_left_right.jpg', 'left_vs_right.png', 'p12_R2.jpg', 'colour.png',
    're_12.jpg', 'images/7.jpg', 'control_lesion.jpg', 'IM-0115-0001.jpeg', 'bright.jpg', 'cleft_3.jpg', 'model.png', 'eye_\udce9.jpg', '', '/', '.jpg'])
def test_no_side_and_no_patient(name): assert patient_and_eye(name) == ('', '')

def test_folders():
    assert patient_and_eye('patient_12/img1.jpg') == ('patient_12', '') and patient_and_eye('Smith/left.jpg') == ('Smith', 'left')
    assert patient_and_eye('subject-7/visit/OD/a.png') == ('subject-7', 'right') and patient_and_eye('train/left.jpg') == ('', 'left')
    assert eyes_of(['1001/a.png', '1001/b.png', '1002/a.png']).patient.tolist() == ['1001', '1001', '1002']
    assert set(eyes_of(['2019/a.png']*30 + ['2020/a.png']*30).patient) == {''}, 'a year holds many patients'

@pytest.mark.parametrize('rule', ['{p}_{s}.png', '{s} {p}.png', '{p}-{od}.png', '{p}_{s}_macula.png', '{p}/{od}.png', '{p}/{s}/1.png', '{l}_{p}.png', '{p}{l}.png'])
def test_eyes_of_one_patient_stay_together(tmp_path, rule):
    for i in range(24):
        for s,od,l in (('left', 'OS', 'L'), ('right', 'OD', 'R')): picture(tmp_path/f'{i%3}'/rule.format(p=100+i, s=s, od=od, l=l), i)
    r = split_records(load(tmp_path))
    assert r.patient.nunique() == 24 and r.groupby('patient').split.nunique().max() == 1 and r.eye.value_counts().to_dict() == dict(left=24, right=24)

@pytest.mark.parametrize('cell', ['NA', 'na', 'N/A', 'n.a.', '#N/A', '#NA', '#NULL!', '#REF!', 'nan', 'NaN', 'None', 'NULL', 'nil', '-', '--', '\u2014', '?', '??', '', '  ', 'unknown', 'Unknown', 'not available', '<NA>', 'missing', None, float('nan'), pd.NA, '.'])
def test_nobody(cell): assert is_unknown(cell)

@pytest.mark.parametrize('cell', ['7', '007', 'Nadia', 'Nan Goldin', 'P-1', 'NA12', 'n12', '0', 12, 'Noname7', '#7'])
def test_somebody(cell): assert not is_unknown(cell)

def test_unknown_patients_of_a_table_join_nobody():
    r = pd.DataFrame(dict(image=list('abcd'), patient=['NA', 'NA', '?', 'P1']))
    assert len(set(groups_of(r, content=False))) == 4

@pytest.mark.parametrize('name, who', [('site1_OD_2', 'site1_2'), ('hospitalA_left_07.jpg', 'hospitalA_07'), ('clinic2-OS-13', 'clinic2_13'), ('centre_3_R_4', 'centre_3_4'),
    ('cohortB-L-03-1', 'cohortB_03'), ('camera2_OD_macula_9', 'camera2_9'), ('site1OD_P12', 'site1_P12'), ('site1_12_OD_2', 'site1_12'), ('study12_left', 'study12'), ('12_left_1', '12')])
def test_a_place_before_the_eye_is_no_patient(name, who): assert patient_and_eye(name)[0] == who

@pytest.mark.parametrize('left, right', [('links', 'rechts'), ('izq', 'der'), ('izquierdo', 'derecho'), ('gauche', 'droite'), ('sinistra', 'destra'), ('esquerdo', 'direito')])
@pytest.mark.parametrize('rule', ['2_{}', '2-{}.jpg', '2/{}.png', '{}_2', '2{}'])
def test_eyes_in_other_languages(rule, left, right):
    assert (patient_and_eye(rule.format(left)), patient_and_eye(rule.format(right))) == (('2', 'left'), ('2', 'right'))

@pytest.mark.parametrize('word', ['study', 'set', 'group', 'hospital', 'batch', 'clinic', 'site'])
@pytest.mark.parametrize('digits', [2, 4])
def test_two_photographs_of_an_eye_are_one_person(word, digits):
    "More fronts than numbers behind them: people with repeated photographs, who may not be parted"
    names = [f'{word}{i:0{digits}d}_{e}_{k}.png' for i in range(1, 21) for e in ('OD', 'OS') for k in (1, 2)]
    found = eyes_of(names)
    assert found.patient.nunique() == 20 and found.patient.groupby(found.index//4).nunique().max() == 1

@pytest.mark.parametrize('sites, each', [(1, 5), (2, 2), (3, 40)])
def test_patients_of_sites_stay_apart(sites, each):
    names = [f'site{s}_{e}_{k}.png' for s in range(sites) for k in range(each) for e in ('OD', 'OS')]
    assert eyes_of(names).patient.nunique() == sites*each

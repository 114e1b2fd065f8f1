"Readers: published coefficients, both shapes of table, gaps, a consensus, and the model beside the people"
import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError, SettingError
from retina_nb.disk import read_json
from retina_nb.measure import consensus, example_predictions, example_readers, human_ceiling, qwk, read_readers, reader_agreement, reader_pairs, write_readers

KRIPPENDORFF = ['1 2 3 3 2 1 4 1 2 . . .', '1 2 3 3 2 2 4 1 2 5 . 3', '. 3 3 3 2 3 4 2 2 5 1 .', '1 2 3 3 2 4 4 1 2 5 1 .']

@pytest.fixture(scope='module')
def readings(): return example_readers(80)

def units():
    grade = lambda x: None if x == '.' else int(x)-1
    return pd.DataFrame({f'r{i}': [grade(x) for x in r.split()] for i, r in enumerate(KRIPPENDORFF)}, dtype='Int64').assign(image=range(12))

def test_krippendorffs_own_example_and_gwets_value_of_it():
    a = reader_agreement(units(), 'dr')
    assert a['krippendorff']['value'] == pytest.approx(.849, abs=5e-4) and a['fleiss'] is None and a['n_images'] == 11 and a['n_patients'] is None
    from retina_nb.core import Task
    plain = Task('five_kinds_of_a_test', tuple('abcde'))
    b = reader_agreement(units(), plain)
    assert b['krippendorff']['value'] == pytest.approx(.743, abs=5e-4) and b['gwet']['value'] == pytest.approx(.775, abs=5e-4)

def test_fleiss_by_its_definition(readings):
    d = readings.dropna()
    x = d[['reader_a', 'reader_b', 'reader_c']].to_numpy(int)
    counts = np.stack([(x == j).sum(1) for j in range(5)], 1)
    share = counts.sum(0)/counts.sum()
    same = ((counts**2).sum(1)-3)/6
    want = (same.mean()-(share**2).sum())/(1-(share**2).sum())
    f = reader_agreement(d, 'dr')['fleiss']
    assert f['value'] == pytest.approx(want, abs=1e-12) and f['ci95'][0] < want < f['ci95'][1]

def test_readers_who_agree_and_readers_who_guess():
    d = example_predictions(60)
    same = pd.DataFrame(dict(image=d.image, patient=d.patient, a=d.target, b=d.target, c=d.target))
    a = reader_agreement(same, 'dr')
    assert a['fleiss']['value'] == a['krippendorff']['value'] == a['gwet']['value'] == 1
    rng = np.random.default_rng(0)
    guess = same.assign(**{c: rng.permutation(d.target) for c in 'abc'})
    assert abs(reader_agreement(guess, 'dr')['krippendorff']['value']) < .15

def test_long_and_wide_are_one_table(readings, tmp_path):
    names = ['reader_a', 'reader_b', 'reader_c']
    long = readings.melt(['image', 'patient'], names, 'reader', 'grade').dropna().sample(frac=1, random_state=0)
    long.to_csv(tmp_path/'long.csv', index=False)
    a, b = reader_pairs(readings), reader_pairs(str(tmp_path/'long.csv'))
    assert a.n_images.tolist() == b.n_images.tolist() and np.allclose(a.kappa, b.kappa) and np.allclose(a.low, b.low)
    both = readings.dropna(subset=names[:2])
    assert a.kappa[0] == pytest.approx(qwk(both.reader_a.astype(int), both.reader_b.astype(int)))

@pytest.mark.parametrize('spoil, words', [(lambda d: d.assign(reader_a=9), 'no grade from 0 to 4'), (lambda d: d.assign(reader_b='Mild'), 'no grade'),
                                          (lambda d: d[['image', 'reader_a']], 'needs two'), (lambda d: d.assign(reader_c=1.5), 'no grade')])
def test_what_is_no_reading(spoil, words, readings):
    with pytest.raises(DataError, match=words): read_readers(spoil(readings))

def test_a_consensus_and_who_decides():
    d = pd.DataFrame(dict(image=list('abcd'), x=[0, 1, 2, None], y=[0, 2, 4, None], z=[1, 3, 4, 2]))
    assert consensus(d).fillna(-1).tolist() == [0, -1, 4, 2] and consensus(d, how='median').tolist() == [0, 2, 4, 2]
    two = pd.DataFrame(dict(image=list('ab'), x=[1, 2], y=[1, 4]))
    assert consensus(two, how='median').tolist() == [1, 3] and consensus(two).isna().tolist() == [False, True]
    assert consensus(two.assign(judge=0), adjudicator='judge').tolist() == [1, 0]
    with pytest.raises(SettingError, match='ordered'): consensus(two, 'oct', how='median')

def test_the_model_stands_where_a_reader_would(readings):
    d = example_predictions(80)
    t = human_ceiling(readings, d).set_index('who')
    assert t.index.tolist() == ['reader_a', 'reader_b', 'reader_c', 'mean reader', 'model', 'model minus readers']
    people = t.loc['reader_a':'reader_c']
    assert t.kappa['mean reader'] == pytest.approx(people.kappa.mean()) and t.kappa['model minus readers'] == pytest.approx(t.kappa['model']-t.kappa['mean reader'])
    as_reader = d.assign(grade=readings.reader_a.fillna(0).astype(int))
    same = human_ceiling(readings.assign(reader_a=readings.reader_a.fillna(0)), as_reader, readers=['reader_a', 'reader_b', 'reader_c']).set_index('who')
    said = readings.assign(reader_a=readings.reader_a.fillna(0)).set_index('image')
    each = {}
    for who in ('reader_a', 'reader_b', 'reader_c'):
        rest = said[[c for c in ('reader_a', 'reader_b', 'reader_c') if c != who]]
        ok = rest.notna().all(axis=1) & (rest.iloc[:,0] == rest.iloc[:,1]).fillna(False) & said[who].notna() | (rest.notna().sum(axis=1) == 1) & said[who].notna()
        each[who] = qwk(rest[ok].bfill(axis=1).iloc[:,0].astype(int), said.reader_a[ok].astype(int))
    assert each['reader_a'] == pytest.approx(same.kappa['reader_a']) and same.kappa['model'] == pytest.approx(np.mean(list(each.values())))
    with pytest.raises(DataError, match='none of the images'): human_ceiling(readings, d.assign(image=d.image + 'x'))

@pytest.mark.parametrize('tag', [dict(dme=0), dict(sex=1), dict(ungradable=False), dict(hospital='A'), dict(trial=1), dict(age=2), dict(reader_notes='late')])
def test_tags_are_no_readers(tag, readings):
    "A column of small whole numbers was a fourth reader, and a hospital stopped everything"
    assert read_readers(readings.assign(**tag))[1] == ['reader_a', 'reader_b', 'reader_c']
    assert reader_agreement(readings.assign(**tag)) == reader_agreement(readings)

def test_readers_without_a_name_of_readers(readings):
    d = readings.rename(columns=dict(reader_a='smith', reader_b='jones', reader_c='wu'))
    for tags in ({}, dict(dme=0, sex=1, hospital='A', p_0=.5, Ungradable=0)): assert read_readers(d.assign(**tags))[1] == ['smith', 'jones', 'wu']
    for odd in (dict(trial=1), dict(treated=True), dict(town='Leeds')):
        with pytest.raises(DataError, match=f'{next(iter(odd))}.*readers='): read_readers(d.assign(**odd))
        assert read_readers(d.assign(**odd), readers=['smith', 'wu'])[1] == ['smith', 'wu']
    two = pd.DataFrame(dict(image=range(20), a=[0, 1]*10, b=[1, 0]*10))
    assert read_readers(two)[1] == ['a', 'b']
    judged = consensus(readings.assign(judge=readings.target), adjudicator='judge')
    assert judged.notna().all() and consensus(readings).equals(consensus(readings.assign(judge=0)))
    with pytest.raises(DataError, match='judge gives 9'): consensus(readings.assign(judge=9), adjudicator='judge')

def test_long_tables_that_cannot_be_read(readings):
    long = readings.melt(['image', 'patient'], ['reader_a', 'reader_b', 'reader_c'], 'reader', 'grade').dropna()
    assert read_readers(long, readers=['reader_a', 'reader_c'])[1] == ['reader_a', 'reader_c']
    with pytest.raises(DataError, match='image'): read_readers(long.drop(columns='image'))
    with pytest.raises(DataError, match='row 3.*empty'): read_readers(long.assign(reader=[None if i == 3 else r for i, r in enumerate(long.reader)]))

def test_no_image_that_model_and_readers_share(readings):
    d, alone = example_predictions(80), readings.copy()
    alone['reader_b'] = alone['reader_c'] = pd.array([pd.NA]*len(alone), 'Int64')
    with pytest.raises(DataError, match='consensus of the others'): human_ceiling(alone, d)
    with pytest.raises(DataError, match='no column image'): human_ceiling(readings, d.drop(columns='image'))
    with pytest.raises(DataError, match='no column image'): human_ceiling(readings.drop(columns='image'), d)

ASIDE = ['dme_grade', 'Risk of macular edema ', 'quality_score', 'n_lesions', 'diabetes_type', 'round', 'patient_id', 'consensus', 'final_grade', 'truth',
         'reader_count', 'readers', 'age_group', 'camera_model', 'DMEGrade', 'adjudicatedGrade', 'model_grade', 'HbA1c', 'grade.majority', 'Gold standard']
BESIDE = ['reader_a_id', 'reader_a_conf', 'reader_a_quality', 'reader_a_dme', 'reader_experience', 'expert_years', 'reader_consensus', 'reader_majority',
          'reader_a_comments', 'Reader count', 'readerA_confidence', 'grader_notes', 'n_readers', 'reader_final', 'grader-time']

@pytest.mark.parametrize('tag', [*ASIDE, *BESIDE])
def test_what_is_called_like_a_tag_is_no_reader(tag, readings):
    "A consensus among its readers, or a count of them, counted as a reader without a word"
    for who in (['reader_a', 'reader_b', 'reader_c'], ['smith', 'jones', 'wu']):
        d = readings.rename(columns=dict(zip(['reader_a', 'reader_b', 'reader_c'], who)))
        for column in (d[who[0]].fillna(1), np.arange(len(d)) % 3, 'text'): assert read_readers(d.assign(**{tag: column}))[1] == who
        assert reader_agreement(d.assign(**{tag: d[who[0]]}))['readers'] == who

@pytest.mark.parametrize('names', [['reader_a', 'reader_b', 'reader_c'], ['smith', 'jones', 'wu'], ['grader1', 'grader2', 'grader3'], ['Reader 1', 'Reader 2', 'Reader 3'],
                                   ['rater-A', 'rater-B', 'rater-C'], ['R1', 'R2', 'R3'], ['dr_lee', 'dr_kim', 'dr_cho'], ['readerA', 'readerB', 'readerC'], ['1', '2', '3'],
                                   ['reader_a_grade', 'reader_b_grade', 'reader_c_grade'], ['expert_smith', 'expert_jones', 'expert_wu'], ['Annotator1_DR', 'Annotator2_DR', 'Annotator3_DR'],
                                   ['Dr. Müller', 'Prof. Weiß', 'Jansen'], ['DR grade reader 1', 'DR grade reader 2', 'DR grade reader 3'], ['reader_dr_lee', 'reader_dr_kim', 'reader_dr_cho']])
def test_readers_that_need_no_naming(names, readings):
    assert read_readers(readings.rename(columns=dict(zip(['reader_a', 'reader_b', 'reader_c'], names))))[1] == names

@pytest.mark.parametrize('names, odd, low, high', [('smith jones wu', 'lens_state', 0, 4), ('smith jones wu', 'fatigue', 0, 2), ('smith jones wu', 'stage', 1, 4), ('smith jones wu', 'mean', 0, 4),
                                                   ('a b c', 'jones', 0, 4), ('R1 R2 R3', 'Q1', 0, 4), ('reader_a reader_b reader_c', 'reader_a_mood', 0, 4), ('smith jones wu', 'wear', 3, 3),
                                                   ('reader_a reader_b reader_c', 'reader_fatigue', 0, 4), ('reader_a reader_b reader_c', 'reader_a_grade', 0, 4),
                                                   ('reader_smith reader_jones reader_wu', 'reader_sleep', 0, 2), ('smith jones wu', 'shift', 0, 9)])
def test_a_doubt_is_a_question(names, odd, low, high, readings):
    names = names.split()
    d = readings.rename(columns=dict(zip(['reader_a', 'reader_b', 'reader_c'], names)))
    d[odd] = np.arange(len(d)) % (high-low+1) + low
    with pytest.raises(DataError, match=r'is column .* a reader\?.*readers=.*--reader_cols'): read_readers(d)
    assert read_readers(d, readers=names)[1] == names

def test_words_for_two_classes_are_a_question_and_letters_are_not():
    d = pd.DataFrame(dict(image=range(20), smith=[0, 1]*10, snoring=[1, 0]*10))
    with pytest.raises(DataError, match='two classes'): read_readers(d, 'pneumonia')
    assert read_readers(d.rename(columns=dict(smith='a', snoring='b')), 'pneumonia')[1] == ['a', 'b']

def test_a_consensus_in_a_long_table_is_no_reader(readings):
    names = ['reader_a', 'reader_b', 'reader_c']
    for verdict in ('consensus', 'Final grade', 'adjudicated'):
        long = readings.assign(**{verdict: readings.target}).melt(['image'], [*names, verdict], 'reader', 'grade').dropna()
        with pytest.raises(DataError, match=f'{verdict}.*readers='): read_readers(long)
        assert read_readers(long, readers=names)[1] == names and consensus(long, adjudicator=verdict).notna().all()

def test_whoever_is_taken_for_a_reader_is_said(readings, tmp_path):
    d = readings.rename(columns=dict(reader_a='smith', reader_b='jones', reader_c='wu')).assign(truth=readings.target)
    assert 'taken as readers: smith, jones, wu' in write_readers(d, example_predictions(80), tmp_path, n_boot=20)
    assert read_json(tmp_path/'readers.json')['readers'] == ['smith', 'jones', 'wu']

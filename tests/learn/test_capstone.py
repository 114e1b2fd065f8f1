"The capstone over several seeds: what is planted is in the folder, the rubric knows it, and the folder does not tell"
import json

import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError, SettingError
from retina_nb.data import audit_splits, load_records
from retina_nb.image import quality_measures
from retina_nb.learn import Capstone, capstone_data, check, rubric
from retina_nb.learn.capstone import FAULTS, _eye, _planned

SEEDS = 1, 4, 9

def key_of(seed):
    d = _planned(seed)
    return {f: list(d.name[d.fault == f]) for f in FAULTS}

@pytest.fixture(scope='module', params=SEEDS)
def capstone(request, tmp_path_factory):
    "A data set, its records and its plan"
    data = capstone_data(request.param, tmp_path_factory.mktemp('capstone')/'set')
    d = _planned(request.param)
    records = load_records(data, warn=False)
    records['name'] = [str(f).replace('\\', '/').rpartition('/')[2] for f in records.image]
    return data, records.set_index('name'), d.set_index('name')

def test_the_folder_does_not_tell(capstone):
    data, records, plan = capstone
    assert sorted(p.name for p in data.path.iterdir()) == ['images', 'records.csv']
    assert {p.name for p in (data.path/'images').iterdir()} == set(plan.index) == set(records.index)
    head = (data.path/'records.csv').read_text().partition('\n')[0].split(',')
    assert not {'seed', 'fault', 'how', 'grade', 'twin', 'pool'} & set(head)

def test_what_is_planted_is_there(capstone):
    _, records, plan = capstone
    plan = plan.loc[records.index]
    assert (records.label.astype(int) == plan.label).all()
    wrong = plan.fault == 'label'
    assert plan.machine_id[wrong].nunique() == 1 and (plan.label != plan.grade)[~wrong].sum() == 0
    leaks = audit_splits(records.reset_index(drop=True))
    who = dict(zip(records.image, records.patient))
    twins = {frozenset((p, t)) for p, t in zip(plan.patient, plan.twin) if t}
    assert {frozenset((who[a], who[b])) for a, b in zip(leaks.file, leaks.other)} == twins
    signs = plan.fault == 'shortcut'
    ill, seen = plan.label >= 2, plan.split == 'train'
    assert signs[seen & ill].mean() > signs[seen & ~ill].mean() + .3
    assert abs(signs[~seen & (plan.split == 'test') & ill].mean() - signs[(plan.split == 'test') & ~ill].mean()) < .3

def test_what_is_planted_can_be_seen(capstone):
    _, records, plan = capstone
    sound = plan.index[plan.fault == ''][:12]
    def of(names, k): return np.array([quality_measures(records.image[n])[k] for n in names])
    assert of(plan.index[plan.fault == 'crop'], 'coverage').max() < .7 < of(sound, 'coverage').min()
    here = plan[plan.fault == 'drift']
    k = 'brightness' if here.how.iloc[0] == 'dark' else 'sharpness'
    was = plan[(plan.machine_id == here.machine_id.iloc[0]) & (plan.taken < here.taken.min())].index
    assert np.median(of(here.index, k)) < .8*np.median(of(was, k))

@pytest.mark.parametrize('seed', [*SEEDS, 20, 21])
def test_the_rubric(seed):
    key = key_of(seed)
    assert rubric(key, seed).points == rubric(key, seed).total == 20 and rubric(key, seed).table.found.all()
    assert rubric({}, seed).points == 0 and not rubric({}, seed).table.found.any()
    for f, names in key.items():
        part = rubric({f: names[:len(names)//2]}, seed)
        assert 0 < part.points < 4 and part.table.precision[f] == 1
        assert rubric({f: names}, seed).points == 4
    everything = {f: list(_planned(seed).name) for f in FAULTS}
    assert rubric(everything, seed).points < 8 and (rubric(everything, seed).table.recall == 1).all()
    assert repr(rubric(key, seed)) == repr(rubric(key, seed))

def test_findings_in_other_forms(tmp_path):
    d = _planned(4)
    rows = {f: d[d.fault == f] for f in FAULTS}
    batch, worse = rows['crop'], rows['drift']
    said = dict(leak=sorted(t for t in set(rows['leak'].twin) if t), label=rows['label'].machine_id.iloc[0],
                shortcut=pd.DataFrame(dict(image=['elsewhere/' + n for n in rows['shortcut'].name])),
                crop=(batch.machine_id.iloc[0], batch.taken.min(), batch.taken.max()), drift=(worse.machine_id.iloc[0], worse.taken.min()))
    assert rubric(said, 4).points == 20
    file = tmp_path/'findings.json'
    file.write_text(json.dumps(said | dict(shortcut=list(rows['shortcut'].name))))
    assert rubric(str(file), 4).points == 20

def test_a_second_seed_is_another_data_set():
    plans = [_planned(s) for s in range(8)]
    where = {tuple(sorted((f, m) for f, m in zip(d.fault, d.machine_id) if f in ('label', 'crop', 'drift'))) for d in plans}
    assert len(where) == len(plans)
    assert rubric(key_of(0) | {}, 0).points == 20
    assert {d.how[d.fault == 'drift'].iloc[0] for d in plans} == {'dark', 'blurred'}

def test_the_same_seed_is_the_same_data_set(tmp_path):
    a, b = (capstone_data(2, tmp_path/n) for n in 'ab')
    names = sorted(p.relative_to(a.path) for p in a.path.rglob('*') if p.is_file())
    assert all((a.path/n).read_bytes() == (b.path/n).read_bytes() for n in names)

def test_its_eyes_are_not_changed_by_what_is_done_to_them():
    a = _eye(0, 'left').copy()
    assert (a == _eye(0, 'left')).all()

def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(DataError, match='is no photograph'): rubric(dict(leak=['nobody']), 1)
    with pytest.raises(DataError, match='is no day'): rubric(dict(drift=(_planned(1).machine_id.iloc[0], 'spring')), 1)
    with pytest.raises(SettingError, match='no fault has this name'): rubric(dict(dust=[]), 1)
    with pytest.raises(SettingError, match='0 or more'): capstone_data(-3, tmp_path/'x')
    assert not check('9.1', ['nobody'], data=Capstone(tmp_path, 1))
    assert 'is no photograph' in check('9.1', ['nobody'], data=Capstone(tmp_path, 1)).said
    assert check('9.4', key_of(5)['crop'], data=Capstone(tmp_path, 5))

"Properties of splits, folds and the audit on random tables"
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from retina_nb.core import DataError, SettingError
from retina_nb.data.split import SPLITS, audit_splits, groups_of, kfold, split_records

def table(seed, folder=None):
    "A random table of records: 1 to 300 patients of 1 to 6 images, any number of classes, labels missing here and there, some files identical"
    rng = np.random.default_rng(seed)
    n,k = int(rng.integers(1, 300)), int(rng.integers(1, 6))
    sizes = rng.integers(1, int(rng.integers(2, 7)), n)
    share = rng.dirichlet(np.full(k, rng.uniform(.2, 3)))
    patient = np.repeat([f'p{i}' for i in range(n)], sizes)
    worst = np.repeat(rng.choice(k, n, p=share), sizes)
    label = np.maximum(0, worst - rng.integers(0, 2, len(worst)))
    label = pd.array(np.where(rng.random(len(label)) < rng.choice([0, .1]), None, label), dtype='Int64')
    image = np.array([f'/none/{seed}_{i}.png' for i in range(len(label))], dtype=object)
    if folder is not None: # some images are copies of one another, whoever they are said to be of
        for f in range(3): (folder/f'{f}.bin').write_bytes(bytes([f])*100); (folder/f'{f}_copy.bin').write_bytes(bytes([f])*100)
        at = rng.permutation(len(image))[:6]
        for i,name in zip(at, [f'{f}{c}.bin' for f in range(3) for c in ('', '_copy')]): image[i] = str(folder/name)
    order = rng.permutation(len(image))
    return pd.DataFrame(dict(image=image, label=label, patient=patient, eye='', split='', source='x')).iloc[order].reset_index(drop=True)

def together(records):
    "No patient and no content in two parts"
    assert records.groupby('patient').split.nunique().max() == 1
    assert not len(audit_splits(records, near=False))

def check_split(seed, folder):
    rng = np.random.default_rng(seed + 10**6)
    r = table(seed, folder if seed % 2 else None)
    f = rng.dirichlet(np.ones(3)); f = f*(rng.random(3) < .8); f = tuple(f/f.sum()) if f.sum() else (1., 0., 0.)
    s = split_records(r, f, seed=seed)
    assert s.drop(columns='split').equals(r.drop(columns='split')), 'nothing but the split changes, no row is lost'
    assert set(s.split) <= {p for p,x in zip(SPLITS, f) if x > 0}
    together(s)
    assert s.split.tolist() == split_records(r, f, seed=seed).split.tolist()
    groups = groups_of(r)
    largest = np.bincount(groups).max()
    worst = r.label.groupby(groups).max()
    used = sum(x > 0 for x in f)
    plenty = all((worst == c).sum() >= 12*used for c in r.label.dropna().unique())
    if plenty and min(x for x in f if x > 0) > .1: # enough patients of each class: no mending, so sizes are right to a group
        for p,x in zip(SPLITS, f): assert abs((s.split == p).sum() - x*len(r)) <= largest + 1e-9
    for c in r.label.dropna().unique():
        if len(set(groups[(r.label == c).fillna(False).to_numpy(bool)])) >= 4*used and len(set(groups)) >= 20 and min(x for x in f if x > 0) > .1:
            assert s[s.label == c].split.nunique() == used, f'class {c} is missing from a part'

def check_official(seed, folder):
    rng = np.random.default_rng(seed + 2*10**6)
    r = table(seed, folder if seed % 2 else None)
    parts = [p for p in SPLITS if rng.random() < .6]
    people = {p: rng.choice([*parts, '']) for p in r.patient.unique()} # official parts that do not share patients
    r['split'] = [people[p] for p in r.patient]
    s = split_records(r, seed=seed)
    for p in SPLITS[1:]: assert (s.split[r.split == p] == p).all(), 'official valid and test rows stay'
    assert set(s.split) <= set(SPLITS)
    if seed % 2 == 0: together(s)
    has = {p for p in SPLITS[1:] if (r.split == p).any()}
    for p in has:
        moved = s[(s.split == p) & (r.split != p)]
        assert set(groups_of(r)[moved.index]) <= set(groups_of(r)[r.split.isin(has)]), 'only what belongs to an official row joins it'

def check_folds(seed, folder):
    r = table(seed, folder if seed % 2 else None)
    k = 2 + seed % 5
    if groups_of(r).max() + 1 < k:
        with pytest.raises(DataError): kfold(r, k)
        return
    tables = kfold(r, k, seed=seed, valid=.2*(seed % 2))
    assert sorted(i for t in tables for i in t[t.split == 'test'].index) == list(r.index), 'every row is tested once'
    for t in tables: assert len(t) == len(r); together(t)
    largest = np.bincount(groups_of(r)).max()
    worst = r.label.groupby(groups_of(r)).max()
    if all((worst == c).sum() >= 6*k for c in r.label.dropna().unique()):
        sizes = [(t.split == 'test').sum() for t in tables]
        assert max(sizes) - min(sizes) <= 2*largest

def run(check, seeds, tmp_path):
    for seed in seeds: check(int(seed), tmp_path)

SAMPLE = np.random.default_rng(3).permutation(1000)[:60]

@pytest.mark.parametrize('check', [check_split, check_official, check_folds])
def test_properties(check, tmp_path): run(check, SAMPLE, tmp_path)

@pytest.mark.full
@pytest.mark.parametrize('check', [check_split, check_official, check_folds])
def test_properties_on_1000_tables(check, tmp_path): run(check, range(1000), tmp_path)

def test_stratified_on_the_worst_eye():
    rng = np.random.default_rng(0)
    worst = rng.choice(5, 1000, p=[.7, .07, .15, .05, .03])
    r = pd.DataFrame(dict(image=[f'/none/{i}' for i in range(2000)], label=np.repeat(worst, 2), patient=np.repeat(np.arange(1000).astype(str), 2), split=''))
    s = split_records(r)
    assert s.split.value_counts().to_dict() == {'train': 1400, 'valid': 300, 'test': 300}
    for g in range(5):
        n = (worst == g).sum()*2
        for p,x in zip(SPLITS, (.7, .15, .15)): assert abs(((s.label == g) & (s.split == p)).sum() - x*n) <= 4
    assert s.split.tolist() != split_records(r, seed=1).split.tolist()

def test_missing_parts_are_carved_from_training():
    r = pd.DataFrame(dict(image=[f'/none/{i}' for i in range(1000)], label=[i % 5 for i in range(1000)], patient=[str(i) for i in range(1000)],
                          split=['train']*800 + ['test']*200))
    s = split_records(r)
    assert s.split.value_counts().to_dict() == {'train': 659, 'test': 200, 'valid': 141} or abs((s.split == 'valid').sum() - 800*.15/.85) <= 1
    assert (s.split[:800] != 'test').all()
    both = split_records(r.assign(split=['train']*600 + ['valid']*200 + ['test']*200))
    assert both.split.tolist() == ['train']*600 + ['valid']*200 + ['test']*200

def test_bad_requests():
    r = table(1)
    for f in ((.5, .2), (.7, .2, .2), (1.2, -.1, -.1), 'abc', (.5, .5, float('nan')), 3):
        with pytest.raises(SettingError, match='fractions'): split_records(r, f)
    with pytest.raises(DataError, match='no records'): split_records(r[:0])
    with pytest.raises(DataError, match="'patient'"): split_records(r.drop(columns='patient'))
    with pytest.raises(DataError, match="'holdout'"): split_records(r.assign(split='holdout'))
    with pytest.raises(SettingError, match='valid'): kfold(r, valid=1)
    with pytest.raises(DataError, match="'split'"): audit_splits(r.drop(columns='split'))

def test_audit_names_both_files(tmp_path):
    rng = np.random.default_rng(0)
    a = np.kron(rng.integers(30, 220, (12, 12, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    b = np.kron(rng.integers(30, 220, (12, 12, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
    Image.fromarray(a).save(tmp_path/'one.png'); (tmp_path/'same.png').write_bytes((tmp_path/'one.png').read_bytes())
    Image.fromarray(a).resize((150, 150), Image.Resampling.LANCZOS).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path/'mirror.jpg', quality=80)
    Image.fromarray(b).save(tmp_path/'other.png'); Image.fromarray(b[::-1]).save(tmp_path/'second_eye.png')
    names = ['one.png', 'same.png', 'mirror.jpg', 'other.png', 'second_eye.png']
    r = pd.DataFrame(dict(image=[str(tmp_path/n) for n in names], label=1, patient=['a', 'b', 'c', 'd', 'd'], split=['train', 'test', 'valid', 'train', 'test']))
    found = audit_splits(r)
    for kind,pair in dict(identical={'one.png', 'same.png'}, patient={'other.png', 'second_eye.png'}).items():
        leak = found[found.kind == kind]
        assert len(leak) == 1 and {Path(leak.file.iloc[0]).name, Path(leak.other.iloc[0]).name} == pair and leak.other.iloc[0] in leak.what.iloc[0]
    near = found[found.kind == 'near']
    assert any({Path(l.file).name, Path(l.other).name} & {'mirror.jpg'} for l in near.itertuples())
    assert not len(audit_splits(r.assign(split='train'))), 'one part cannot leak'

def test_images_that_look_the_same_stay_together_where_a_scan_is_given(tmp_path):
    from retina_nb.data.records import load_records
    from retina_nb.data.checks import scan_images
    r = load_records('synth:100').head(40)
    paths = []
    for i,f in enumerate(r.image[:8]): # under another patient's name, and recompressed
        paths.append(str(tmp_path/f'{i}.jpg')); Image.open(f).convert('RGB').save(paths[-1], quality=70)
    r = pd.concat([r, r[:8].assign(image=paths, patient=[f'other{i}' for i in range(8)])], ignore_index=True).assign(split='')
    scan = scan_images(r.image)
    apart = lambda s: sum(s.split[i] != s.split[40+i] for i in range(8))
    assert max(apart(split_records(r, seed=k)) for k in range(5)) > 0, 'without a scan they may be torn apart'
    for k in range(5):
        s = split_records(r, seed=k, scan=scan)
        assert not apart(s) and not len(audit_splits(s, scan=scan))
    assert all(not apart(f) for f in kfold(r, 4, scan=scan))

def test_idrid_pairs_stay_together(real_data):
    from retina_nb.data.records import load_records
    r = load_records(real_data/'idrid')
    for seed in range(20):
        s = split_records(r, seed=seed)
        by = dict(zip(s.image.map(lambda f: int(Path(f).stem[-3:])), s.split))
        assert all(by[a] == by[b] for a,b in ((21, 391), (28, 327), (45, 333), (73, 375), (79, 279)))
        assert (pd.crosstab(s.split, s.label) > 0).all(None)

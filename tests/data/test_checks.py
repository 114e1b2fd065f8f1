"What is wrong with images, in numbers; planted duplicates; what can be trained on"
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pictures import idrid, load, picture
from retina_nb.core import DataError
from retina_nb.data import check_records, require_usable, scan_images, summarise_records
from retina_nb.image.hashes import near_duplicates

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
    s = summarise_records(r)
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
    s = summarise_records(load(tmp_path))
    assert (s['n_duplicates'], s['n_conflicts'], s['n_patients']) == (4, 1, 2)
    assert all(set(p) == {'file', 'row', 'what'} for p in s['problems'])

def test_the_other_image_and_the_distance_have_columns(tmp_path):
    "What is said in words stands in columns too, so that nobody has to take the words apart"
    f = picture(tmp_path/'a (1), the same as.png', 1, (200, 180)); shutil.copy(f, tmp_path/'b.png')
    Image.open(f).resize((160, 144)).save(tmp_path/'c.jpg')
    (tmp_path/'mine.csv').write_text('image,label\n"a (1), the same as.png",0\nb.png,2\nc.jpg,0\ngone.png,1\n')
    r = load(tmp_path/'mine.csv')
    found = check_records(r)
    assert list(found.columns) == ['file', 'row', 'kind', 'what', 'other', 'distance']
    by = found.set_index('kind')
    assert by.loc['duplicate', ['file', 'other', 'distance']].tolist() == [str(tmp_path/'b.png'), str(f), 0]
    assert by.loc['conflict', ['file', 'other', 'distance']].tolist() == [str(f), str(tmp_path/'b.png'), 0]
    assert by.loc['near', 'other'] == str(f) and 0 < by.loc['near', 'distance'] < 124
    assert by.loc['missing', 'other'] == '' and pd.isna(by.loc['missing', 'distance'])

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

def test_real_idrid_audit(real_data):
    s = summarise_records(load(real_data/'idrid'))
    assert (s['n_duplicates'], s['n_conflicts'], s['n_near'], s['n_unreadable'], s['n_missing']) == (5, 2, 1, 0, 0)
    near = next(p for p in s['problems'] if 'looks the same as' in p['what'])
    assert 'IDRiD_397' in near['file'] and 'IDRiD_013' in near['what'], 'one eye, photographed twice'


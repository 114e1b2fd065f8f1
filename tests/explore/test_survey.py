"retina_explore on good, bad and odd data; the browser without a browser"
import json, os, re, shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from retina_nb.core import DataError
from retina_nb.data.records import data_name, load_records
from retina_nb.explore.cameras import examine_images, find_shortcuts, join_records
from retina_nb.data.balance import class_weights, predictive_values
from retina_nb.explore.labels import label_table, plot_labels
from retina_nb.explore.prevalence import SCREENED, majority_scores, plot_accuracy_trap, screening_labels
from retina_nb.explore.browser import Browser
from retina_nb.explore.survey import _told, check_survey_out, survey_records, write_survey

KEYS = ['n_images', 'n_patients', 'n_missing', 'n_unreadable', 'n_duplicates', 'n_conflicts', 'labels', 'problems']

@pytest.fixture(scope='module')
def synth(): return load_records('synth:100')

def outputs(out):
    "The three files of a survey, checked for form"
    out = Path(out)
    s = json.loads((out/'summary.json').read_text())
    assert all(k in s for k in KEYS) and all(set(p) == {'file', 'row', 'what'} for p in s['problems'])
    page = (out/'report.html').read_text()
    assert page.startswith('<!doctype html>') and not re.search(r'(src|href)="(?!data:|#)', page), 'the page needs nothing from elsewhere'
    images = re.findall(r'<img [^>]*>', page)
    assert len(images) <= len(list((out/'figures').glob('*.png'))) and all(re.search(r'alt="[^"]+"', i) for i in images)
    return s, pd.read_csv(out/'label_distribution.csv'), page

def test_command_on_synthetic_images(command, tmp_path):
    r = command('retina_explore', 'synth:100', '--out', tmp_path/'o')
    assert r.returncode == 0, r.stderr
    s,d,_ = outputs(tmp_path/'o')
    assert s['n_images'] == 100 and d['count'].sum() == 100 and d['count'].tolist() == list(s['labels'].values())
    assert {'labels', 'images_by_label', 'joint_eyes', 'quality', 'sizes'} <= {f.stem for f in (tmp_path/'o'/'figures').iterdir()}

def test_commands_that_cannot_work(typed, tmp_path):
    (tmp_path/'empty').mkdir()
    (tmp_path/'semi.csv').write_text('photo;severity\na;0\n')
    (tmp_path/'file').write_text('')
    for args in (['no/such/folder'], [tmp_path/'semi.csv'], ['synth:100', '--task', 'glaucoma'], ['synth:100', '--out', tmp_path/'file']):
        r = typed('retina_explore', *args, *([] if '--out' in args else ['--out', tmp_path/'out']))
        assert r.returncode == 2 and len(r.stderr.strip().splitlines()) == 1 and r.stderr.startswith('error:'), (args, r.stderr)
    assert not (tmp_path/'out').exists()

def test_bad_rows_are_reported_and_do_not_stop_it(tmp_path, synth):
    (tmp_path/'set'/'train').mkdir(parents=True)
    for i,f in enumerate(synth.image[:12]): shutil.copy(f, tmp_path/'set'/'train'/f'{i}_left.jpg')
    t = tmp_path/'set'/'train'
    (t/'12_left.jpg').write_bytes((t/'0_left.jpg').read_bytes()[:3000]); (t/'13_left.jpg').write_text('no image')
    shutil.copy(t/'1_left.jpg', t/'14_left.jpg')
    rows = [f'{i}_left,{i % 5}' for i in range(12)] + ['12_left,0', '13_left,0', '14_left,4', '15_left,7', '16_left,']
    (tmp_path/'set'/'trainLabels.csv').write_text('image,level\n' + '\n'.join(rows))
    write_survey(load_records(tmp_path/'set', warn=False), tmp_path/'out')
    s,d,_page = outputs(tmp_path/'out')
    assert [s[k] for k in KEYS[:6]] == [17, 17, 2, 2, 1, 1], 'named patients are not merged'
    assert s['labels'] == {'0': 5, '1': 3, '2': 2, '3': 2, '4': 3} and d['count'].sum() == 15
    what = ' '.join(p['what'] for p in s['problems'])
    assert 'outside 0 to 4' in what and 'no label' in what and '2 of its 17 images are not on disk' in what
    assert {17, 18} <= {p['row'] for p in s['problems']}

def test_leaks_between_official_parts_name_both_files(tmp_path, synth):
    r = synth[:20].copy(); r.attrs.update(synth.attrs)
    r['split'] = ['train']*19 + ['test']
    r['patient'] = [str(i) for i in range(18)] + ['x', 'x']
    s,problems,_ = survey_records(r)
    leak = problems[problems.kind == 'patient']
    assert s['n_leaks'] >= 1 and r.image[18] in leak.what.iloc[0] and leak.file.iloc[0] == r.image[19]

@pytest.mark.parametrize('case', ['unlabelled', 'no images', 'one image', 'one class', 'xray', 'tags that look like code'])
def test_odd_sets(tmp_path, synth, case):
    task = 'pneumonia' if case == 'xray' else 'dr'
    r = synth[:1 if case == 'one image' else 24].copy(); r.attrs.update(synth.attrs)
    if case == 'unlabelled': r['label'] = pd.array([None]*len(r), dtype='Int64')
    if case == 'no images': r['image'] = [f'/none/{i}.png' for i in range(len(r))]; r.attrs.pop('problems')
    if case == 'one class': r['label'] = pd.array([0]*len(r), dtype='Int64')
    if case == 'xray': r['label'] = r.label.clip(upper=1); r['task'] = 'pneumonia'
    if case.startswith('tags'): r['patient'] = '<script>alert(1)</script>'; r['source'] = ['<b>a</b>', 'b']*12
    write_survey(r, tmp_path/'o', name='<i>x</i>', task=task)
    s,_d,page = outputs(tmp_path/'o')
    assert s['n_images'] == len(r) and '<script>' not in page and '<b>a</b>' not in page and '<i>x' not in page

def test_same_bytes_and_replacement(tmp_path, synth):
    r = synth[:16].copy(); r.attrs.update(synth.attrs)
    a,b = tmp_path/'a', tmp_path/'b'
    (b/'figures').mkdir(parents=True); (b/'figures'/'mine.png').write_bytes(b'x')
    for o in (a, b): write_survey(r, o, name='same')
    (b/'notes.txt').write_text('keep')
    for f in a.rglob('*.*'):
        if f.is_file(): assert f.read_bytes() == (b/f.relative_to(a)).read_bytes(), f.name
    assert (b/'figures'/'joint_eyes.png').is_file()
    write_survey(r.assign(eye=''), b)
    assert not (b/'figures'/'joint_eyes.png').exists(), 'a figure that no longer applies is gone'
    assert (b/'notes.txt').read_text() == 'keep' and (b/'figures'/'mine.png').exists()

def test_browser_state(synth):
    import ipywidgets
    b = Browser(synth, examine_images(synth, progress=False), size=64)
    assert len(b.shown) == 100
    b.filter(label=2, eye='left')
    assert set(b.shown.label) == {2} and set(b.shown.eye) == {'left'}
    n = len(b.shown)
    assert b.next().index == 1 and b.previous().previous().index == n - 1
    whole = b.view(); close = b.look(4).view()
    assert whole.shape == close.shape == (64, 64, 3) and not np.array_equal(whole, close)
    assert 'no image' in b.filter(quality=(.999, 1.)).caption() and b.view().shape == (64, 64, 3)
    box = b.filter().controls(); assert isinstance(box, ipywidgets.Box)
    b._parts['label'].value = 4; b._parts['next'].click()
    assert set(b.shown.label) == {4} and b._parts['text'].value == b.caption()

def test_labels_arithmetic():
    r = pd.DataFrame(dict(label=[0]*6 + [2]*3 + [4], split=['train']*9 + ['test']))
    assert label_table(r)['count'].tolist() == [6, 0, 3, 0, 1] and label_table(r, 'split').sum().tolist() == [9, 1]
    w = class_weights(r.label, 5)
    assert np.allclose(w*[6, 0, 3, 0, 1], [10/3, 0, 10/3, 0, 10/3]) and w[1] == 0
    assert majority_scores(r)['accuracy'] == .6 and majority_scores(r)['balanced_accuracy'] == 1/3 and majority_scores(r)['sensitivity'] == 0
    ppv,npv = predictive_values(.9, .9, .01)
    assert abs(ppv - 90/1080) < 1e-12 and abs(npv - 8910/8920) < 1e-12
    with pytest.raises(DataError): plot_labels(pd.DataFrame(dict(label=pd.array([None], dtype='Int64'))))

def test_screening_labels_are_those_of_the_competition(real_data):
    "The counts in the package are those of the label file"
    labels = load_records(real_data/'eyepacs-sample', warn=False)
    assert tuple(label_table(labels)['count']) == SCREENED and len(screening_labels()) == 35_126

def test_accuracy_trap_bites_or_says_that_it_does_not(synth):
    def bars(ax): return {c.get_label(): [b.get_height() for b in c] for c in ax.containers}
    def says(ax): return ax.get_title('left')
    trap, drawn = plot_accuracy_trap(), plot_accuracy_trap(synth)
    grey, blue = bars(trap)['accuracy'], bars(trap)['balanced accuracy']
    assert min(grey[1:]) < grey[0] and min(blue[1:]) > blue[0] and 'useful models lose' in says(trap)
    own, there = bars(drawn)['accuracy'], bars(drawn)['accuracy in screening']
    assert min(own[1:]) > own[0] and min(there[1:]) < there[0] and np.allclose(there, grey) and 'No trap' in says(drawn)
    even = pd.DataFrame(dict(label=[0, 1, 2, 3]*3, task='oct')) # how often its classes occur in clinics is not known
    assert set(bars(plot_accuracy_trap(even))) == {'accuracy', 'balanced accuracy'}

def test_shortcuts_find_what_is_planted_and_nothing_else(synth):
    seen = join_records(examine_images(synth, progress=False), synth)
    rng = np.random.default_rng(0)
    planted = seen.assign(red=seen.label.astype(float) + rng.normal(0, .3, len(seen)), green=rng.normal(size=len(seen)))
    t = find_shortcuts(planted, n_shuffle=50).set_index('measure')
    assert t.strength['red'] > .8 and t.strength['green'] < .35

@pytest.mark.full
@pytest.mark.parametrize('name,task', [('idrid', 'dr'), ('eyepacs-sample', 'dr'), ('medmnist/retinamnist.npz', 'dr'), ('chest_xray', 'pneumonia'), ('twcc-csv', 'dr')])
def test_real(command, tmp_path, real_data, name, task):
    r = command('retina_explore', real_data/name, '--task', task, '--out', tmp_path)
    assert r.returncode == 0, r.stderr
    s,_,_ = outputs(tmp_path)
    want = {'idrid': [413, 408, 0, 0, 5, 2], 'eyepacs-sample': [35126, 17563, 35116, 0, 0, 0], 'medmnist/retinamnist.npz': [1600, 1600, 0, 0, 0, 0],
            'chest_xray': [4418, 2414, 0, 0, 22, 0], 'twcc-csv': [7306, 6531, 7306, 0, 0, 0]}[name]
    assert [s[k] for k in KEYS[:6]] == want

def test_an_output_of_somebody_else_is_refused_before_anything_is_read(command, tmp_path):
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.tex').write_text('x')
    r = command('retina_explore', 'no/such/data', '--out', tmp_path/'mine')
    assert r.returncode == 2 and 'holds something else than a survey' in r.stderr, r.stderr
    (tmp_path/'half'/'figures').mkdir(parents=True); assert check_survey_out(tmp_path/'half'), 'what an interrupted survey left is its own'

def test_records_csv_is_no_name_for_a_folder(tmp_path):
    assert [data_name(o) for o in (tmp_path/'mine'/'records.csv', tmp_path/'mine'/'eyes.csv', tmp_path/'mine', 'synth:20')] == ['mine', 'eyes', 'mine', 'synth_20']

def test_the_page_tells_faults_first_and_counts_in_words(tmp_path, synth):
    shutil.copy(synth.image[0], tmp_path/'1_left.jpg'); shutil.copy(synth.image[0], tmp_path/'2_left.jpg')
    write_survey(load_records(tmp_path, warn=False), tmp_path/'o')
    s,_,page = outputs(tmp_path/'o')
    heads = re.findall(r'<h2[^>]*>(?:<a[^>]*>)?([^<]+)', page)
    assert heads[:3] == ['Numbers', 'Faults', 'Counts'] and heads.index('Faults') < heads.index('Images') and heads[-1] != 'Faults'
    assert _told(s | dict(n_duplicates=1, n_conflicts=1, n_poor_quality=1)).count('1 byte-identical copy, 1 group of identical images with different labels') == 1
    assert '1 image is poor' in _told(s | dict(n_poor_quality=1)) and '3 images are poor' in _told(s | dict(n_poor_quality=3))

@pytest.mark.skipif(os.name == 'nt', reason='file names are text there')
def test_a_name_that_is_no_text(command, tmp_path, synth):
    folder = os.fsencode(tmp_path/'set'); os.mkdir(folder)
    for i,n in enumerate((b'eye_\xe9.jpg', b'12_left.jpg')): shutil.copy(synth.image[i], os.path.join(folder, n))
    r = command('retina_explore', tmp_path/'set', '--out', tmp_path/'o')
    assert r.returncode == 0, r.stderr
    s,_,_page = outputs(tmp_path/'o')
    assert s['n_images'] == 2 and s['n_unreadable'] == 0
    r = command('retina_cache', tmp_path/'set', '--out', tmp_path/'c', '--size', 64)
    assert r.returncode == 0 and '2 new' in r.stdout, r.stderr
    assert r'eye_\xe9' in (tmp_path/'c'/'records.csv').read_text()
    r = command('retina_cache', tmp_path/'set', '--out', tmp_path/'c', '--size', 64)
    assert r.returncode == 0 and '0 new, 2 kept' in r.stdout, r.stderr

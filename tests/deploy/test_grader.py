"Grading: every form of input, bad files, batches, threads, interrupted tables, the command, what an import costs."
import csv, io, json, os, shutil, signal, subprocess, sys, threading, zlib, struct
from pathlib import Path

import numpy as np, pytest
from PIL import Image

from retina_nb.core import DataError, ImageError, SettingError, get_task
from retina_nb.disk import csv_rows
from retina_nb.deploy import Grader, Grading, Ungraded, grade_to_csv, grading_columns
from dicoms import rgb_dicom
from random_model import shared

@pytest.fixture(scope='module')
def bundle(): return shared()[1]

@pytest.fixture(scope='module')
def grader(bundle): return Grader(bundle)

@pytest.fixture(scope='module')
def eyes(tmp_path_factory):
    "Six synthetic eyes as files of several kinds"
    from retina_nb.synth.render import synth_eye
    d = tmp_path_factory.mktemp('eyes')
    for i,ext in enumerate(['png','jpg','tif','bmp','webp','jpeg']): Image.fromarray(synth_eye(i, grade=i%5, size=200).image).save(d/f'eye{i}.{ext}')
    return sorted(d.iterdir())

def png(w, h): return b'\x89PNG\r\n\x1a\n' + b''.join(struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k+d))
                       for k,d in [(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 2, 0, 0, 0)), (b'IDAT', zlib.compress(b'')), (b'IEND', b'')])

@pytest.fixture
def bad(tmp_path, eyes):
    "Ten files that are no usable image"
    jpg = eyes[1].read_bytes()
    content = {'text.jpg': b'Dear colleague', 'cut.jpg': jpg[:len(jpg)//2], 'drawing.jpg': b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'broken.jpg': b'GIF89a\x01\x00\x01',
               'tiny.png': b'', 'empty.jpg': b'', 'huge.png': png(50_000, 50_000), 'zeros.jpg': bytes(5000), 'page.jpg': b'<!doctype html><html></html>'}
    for n,d in content.items(): (tmp_path/n).write_bytes(d)
    Image.fromarray(np.zeros((1,1,3), np.uint8)).save(tmp_path/'tiny.png')
    return [tmp_path/n for n in content] + [tmp_path/'gone.jpg']

def test_every_form_gives_the_same_digits(grader, eyes):
    f = eyes[0]
    want = grader(f)
    assert isinstance(want, Grading) and abs(sum(want.probabilities) - 1) < 1e-9 and want.grade == int(np.argmax(want.probabilities))
    for src in (str(f), f.read_bytes(), bytearray(f.read_bytes()), io.BytesIO(f.read_bytes()), open(f, 'rb'), Image.open(f), np.asarray(Image.open(f))):
        assert grader(src).probabilities == want.probabilities

def test_dicom(grader, eyes, tmp_path):
    a = np.asarray(Image.open(eyes[0]))
    want, data = grader(a).probabilities, rgb_dicom(a, PatientName='Doe^Jane')
    (tmp_path/'1.2.840.113').write_bytes(data)
    assert grader(data).probabilities == grader(tmp_path/'1.2.840.113').probabilities == want
    assert [g.probabilities for g in grader(tmp_path)] == [want]
    (tmp_path/'1.2.840.113').write_bytes(data[:len(data)//2])
    assert 'error' in grader(tmp_path)[0].to_dict()

def test_alone_in_a_batch_in_threads_on_one_core(grader, bundle, eyes):
    want = [grader(f).probabilities for f in eyes]
    assert [g.probabilities for g in grader.grade_many(eyes)] == want
    assert [g.probabilities for g in grader.grade_many(eyes*3, workers=7)] == want*3
    assert [g.probabilities for g in Grader(bundle, threads=1).grade_many(eyes[::-1])] == want[::-1]
    got = [None]*len(eyes)
    def one(i): got[i] = [grader(eyes[i]).probabilities for _ in range(3)]
    ts = [threading.Thread(target=one, args=(i,)) for i in range(len(eyes))]
    for t in ts: t.start()
    for t in ts: t.join()
    assert got == [[o]*3 for o in want]

def test_the_model_sees_what_training_saw(grader, eyes):
    for f in eyes:
        x, _ = grader.prepare(f)
        assert (x == grader.preprocess(f)).all()

def test_bad_files_are_named_and_do_not_stop_the_others(grader, eyes, bad):
    for f in bad:
        with pytest.raises(ImageError) as e: grader(f)
        assert f.name in str(e.value) and '\n' not in str(e.value)
    out = list(grader.grade_many([eyes[0], *bad, eyes[1]]))
    assert [type(o) for o in out] == [Grading] + [Ungraded]*len(bad) + [Grading]
    assert all(o.error and str(f) == o.file for o,f in zip(out[1:-1], bad))

def test_a_folder_and_a_list(grader, eyes, tmp_path):
    assert len(grader(eyes[0].parent)) == len(eyes) == len(grader(list(eyes)))
    with pytest.raises(DataError, match='no image files'): grader(tmp_path)

def test_threshold(bundle, eyes):
    g = Grader(bundle)(eyes[0])
    assert g.threshold == .4 and g.referable == (g.referable_probability >= .4)
    assert Grader(bundle, threshold=0)(eyes[0]).referable and not Grader(bundle, threshold=1)(eyes[0]).referable
    with pytest.raises(SettingError): Grader(bundle, threshold=1.5)

def test_json_and_row(grader, eyes):
    g = grader(eyes[0])
    d = json.loads(g.to_json())
    assert {'file','grade','name','probabilities','referable','quality','disclaimer','model'} <= set(d)
    assert set(g.to_row()) == set(grading_columns(grader.task))
    assert 'iagnosis' in g._repr_html_() and '<script' not in g._repr_html_() and 'data:image' not in g._repr_html_()

def test_generator_is_lazy_and_memory_flat(grader, eyes):
    seen = []
    class Src:
        def __init__(self, i): self.i = i
        def read(self): seen.append(self.i); return eyes[0].read_bytes()
    it = grader.grade_many([Src(i) for i in range(200)], workers=2)
    for _ in range(3): next(it)
    it.close()
    assert len(seen) < 20

def test_interrupted_table_is_taken_up(grader, bundle, eyes, tmp_path):
    out = tmp_path/'g.csv'
    grade_to_csv(grader, eyes, out)
    whole = out.read_bytes()
    assert not list(tmp_path.glob('*.partial'))
    calls = []
    for cut in (0, 10, len(whole)//2, len(whole)-3):
        out.unlink(missing_ok=True)
        (tmp_path/'g.csv.partial').write_bytes(whole[:cut])
        grade_to_csv(grader, eyes, out, resume=True, each=calls.append)
        assert sorted(out.read_bytes().splitlines()) == sorted(whole.splitlines()), cut
    assert len(calls) < 4*len(eyes)   # some rows were kept

def test_rows_of_another_model_are_not_kept(grader, eyes, tmp_path):
    out = tmp_path/'g.csv'
    grade_to_csv(grader, eyes, out)
    (tmp_path/'g.csv.partial').write_text(out.read_text().replace(grader.bundle.id, 'x'*12))
    calls = []
    grade_to_csv(grader, eyes, out, resume=True, each=calls.append)
    assert len(calls) == len(eyes)

# ---- the command

def test_command_grades_the_good_ones(command, bundle, eyes, bad, tmp_path):
    r = command('retina_grade', bundle, eyes[0], eyes[1], '--json', '--out', tmp_path/'g.csv')
    rows = json.loads(r.stdout)
    assert r.returncode == 0 and len(rows) == 2 and 'not for diagnosis' in r.stderr and r.stderr.count('\n') == 1
    assert [o['file'] for o in csv.DictReader(open(tmp_path/'g.csv'))] == [str(eyes[0]), str(eyes[1])]
    r = command('retina_grade', bundle, eyes[0], *bad, '--json', '--out', tmp_path/'h.csv')
    rows = json.loads(r.stdout)
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and len(rows) == 1 + len(bad) and 'error' in rows[1] and rows[0]['grade'] in range(5)
    assert [bool(o['error']) for o in csv.DictReader(open(tmp_path/'h.csv'))] == [False] + [True]*len(bad)

def test_command_on_one_bad_thing(typed, bundle, eyes, bad, tmp_path):
    (tmp_path/'empty').mkdir()
    for args in ([bundle, bad[0]], [bundle, tmp_path/'empty'], [tmp_path/'nobundle', eyes[0]], [bundle, eyes[0], '--threshold', '7']):
        r = typed('retina_grade', *args)
        assert r.returncode == 2 and r.stderr.count('\n') == 1 and 'Traceback' not in r.stderr, (args, r)

def test_killed_command_loses_little(bundle, eyes, tmp_path):
    many = tmp_path/'many'; many.mkdir()
    for i in range(150): shutil.copy(eyes[i%6], many/f'{i:03}{eyes[i%6].suffix}')
    exe, out = Path(sys.executable).with_name('retina_grade'), tmp_path/'g.csv'
    p = subprocess.Popen([exe, bundle, many, '--out', out], stdout=subprocess.PIPE, text=True)
    for _ in range(31): p.stdout.readline() # the names of the columns, then a row an image
    p.send_signal(signal.SIGKILL); p.wait()
    assert not out.exists()
    done = (tmp_path/'g.csv.partial').read_text().splitlines()
    assert 30 <= len(done) - 1 < 150
    r = subprocess.run([exe, bundle, many, '--out', out, '--resume'], capture_output=True, text=True)
    assert r.returncode == 0 and len(r.stdout.splitlines()) < 150 - 25 and len(list(csv.DictReader(open(out)))) == 150

def test_every_image_has_its_row_whatever_happens(grader, eyes, tmp_path, monkeypatch):
    "A fault of ours, memory, a file that vanishes: a row each, and the table is whole"
    real, faults = grader._prepare, {1: RuntimeError('a fault\nof two lines'), 2: MemoryError(), 3: OSError(5, 'Input/output error'), 4: ImageError('x', 'is odd')}
    def _prepare(src, name):
        if e := faults.get(next((i for i,f in enumerate(eyes) if str(f) == str(src)), -1)): raise e
        return real(src, name)
    monkeypatch.setattr(grader, '_prepare', _prepare)
    files = [*eyes, tmp_path/'gone.png']
    bad = grade_to_csv(grader, files, tmp_path/'g.csv')
    rows = csv_rows((tmp_path/'g.csv').read_text())
    assert [r['file'] for r in rows] == [str(f) for f in files] and not list(tmp_path.glob('*.partial'))
    assert [bool(r['error']) for r in rows] == [False] + [True]*4 + [False, True] and len(bad) == 5
    assert 'a fault of two lines' in rows[1]['error'] and rows[4]['error'] == 'is odd' and 'no such file' in rows[6]['error']

@pytest.mark.skipif(sys.platform != 'linux', reason='only here may a file name be any bytes')
def test_odd_names_are_graded_listed_and_taken_up(grader, eyes, tmp_path, command):
    import os
    names = [b'eye\xff.png', 'ünï ☂.png'.encode(), b'a,b"c.png', b'=1+1.png', b'-x.png', b'two\nlines.png']
    for n in names: shutil.copy(eyes[0].parent/'eye0.png', os.fsencode(tmp_path) + b'/' + n)
    r = command('retina_grade', grader.bundle.path, tmp_path, '--out', tmp_path/'g.csv')
    rows = csv_rows((tmp_path/'g.csv').read_text(encoding='utf-8'))
    assert r.returncode == 0 and len(rows) == len(names) and not any(o['error'] for o in rows), r
    assert any(o['file'].endswith('eye\\xff.png') for o in rows) and '\\xff' in r.stdout
    (tmp_path/'g.csv').rename(tmp_path/'g.csv.partial')
    calls = []
    grade_to_csv(grader, tmp_path, tmp_path/'g.csv', resume=True, each=calls.append)
    assert not calls and csv_rows((tmp_path/'g.csv').read_text(encoding='utf-8')) == rows
    assert len(json.loads(command('retina_grade', grader.bundle.path, tmp_path, '--json').stdout)) == len(names)

@pytest.mark.skipif(sys.platform == 'win32', reason='limits of a process are unix')
def test_a_full_disk_says_what_is_kept(bundle, eyes, tmp_path):
    import resource
    many = tmp_path/'many'; many.mkdir()
    for i in range(40): shutil.copy(eyes[0].parent/'eye0.png', many/f'{i:03}.png')
    exe, out = Path(sys.executable).with_name('retina_grade'), tmp_path/'g.csv'
    def small(): resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    r = subprocess.run([exe, bundle, many, '--out', out], capture_output=True, text=True, preexec_fn=small)
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and '--resume' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    r = subprocess.run([exe, bundle, many, '--out', out, '--resume'], capture_output=True, text=True)
    assert r.returncode == 0 and len(csv_rows(out.read_text())) == 40 and len(r.stdout.splitlines()) < 41

def test_an_interruption_says_how_to_go_on(bundle, eyes, tmp_path):
    many = tmp_path/'many'; many.mkdir()
    for i in range(3000): os.link(eyes[0].parent/'eye0.png', many/f'{i:04}.png') # more lines than a pipe takes: it cannot be done before it is interrupted
    p = subprocess.Popen([Path(sys.executable).with_name('retina_grade'), bundle, many, '--out', tmp_path/'g.csv'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(10): p.stdout.readline()
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and 'Traceback' not in err and '--resume goes on' in err and (tmp_path/'g.csv.partial').is_file()

def test_a_table_at_another_threshold_is_not_taken_up(bundle, eyes, tmp_path):
    grade_to_csv(Grader(bundle, threshold=.2), eyes, tmp_path/'g.csv')
    (tmp_path/'g.csv').rename(tmp_path/'g.csv.partial')
    calls = []
    grade_to_csv(Grader(bundle, threshold=.7), eyes, tmp_path/'g.csv', resume=True, each=calls.append)
    assert len(calls) == len(eyes) and {r['threshold'] for r in csv_rows((tmp_path/'g.csv').read_text())} == {'0.7'}

def test_what_cannot_be_graded_is_refused_everywhere_unless_asked_for(grader, typed, tmp_path, eyes):
    y, x = np.mgrid[:200,:260]
    pictures = dict(page=np.where((y % 14 < 4) & (x % 9 < 5), 20, 255), xray=120 + 50*np.sin(x/20), blank=0*x + 80)
    for n,a in pictures.items(): Image.fromarray(np.repeat(a.astype(np.uint8)[...,None], 3, 2)).save(tmp_path/f'{n}.png')
    for f in sorted(tmp_path.glob('*.png')):
        with pytest.raises(ImageError, match='grade_anyway'): grader(f)
        g = grader(f, grade_anyway=True)
        assert g.ungradable and 'should not be graded' in g.review[0] and g.to_row()['ungradable'] == g.ungradable
    assert all(isinstance(o, Ungraded) and o.ungradable for o in grader(tmp_path))
    r = typed('retina_grade', grader.bundle.path, eyes[0], tmp_path, '--json', '--out', tmp_path/'g.csv')
    rows = json.loads(r.stdout)
    assert r.returncode == 2 and 'grade' in rows[0] and all(o['ungradable'] and 'grade' not in o for o in rows[1:]) and '3 of 4' in r.stderr
    r = typed('retina_grade', grader.bundle.path, tmp_path, '--json', '--grade_anyway')
    assert r.returncode == 0 and all(o['grade'] in range(5) and o['ungradable'] and o['review'] for o in json.loads(r.stdout))

def test_a_missing_file_is_said_once_and_the_text_names_its_columns(typed, bundle, eyes):
    r = typed('retina_grade', bundle, 'nowhere.jpg')
    assert r.returncode == 2 and (r.stdout + r.stderr).count('nowhere.jpg') == 1
    head = typed('retina_grade', bundle, eyes[0], eyes[1]).stdout.splitlines()
    assert len(head) == 3 and all(f'p({c})' in head[0] for c in get_task('dr').classes) and 'referable DR' in head[0]

@pytest.mark.parametrize('p,t,said', [([.5,.05,.2,.15,.1], .4, 'the threshold is 0.400'), ([.25,.2,.1,.05,.4], .6, 'below the threshold of 0.600'),
                                      ([.5,.1,.2,.1,.1], .5, ''), ([.1,.1,.5,.2,.1], .5, '')])
def test_grade_and_referral_that_contradict_are_explained_once(p, t, said):
    from retina_nb.deploy.grading import TORN
    from retina_nb.deploy.grade_command import _line
    task, positive = get_task('dr'), sum(p[2:])
    g = Grading('eye.jpg', int(np.argmax(p)), task.classes[int(np.argmax(p))], p, positive >= t, positive, t, task=task)
    assert (said in g.contradiction() and bool(g.contradiction()) == bool(said)) and (TORN in g.review) == bool(said)
    for text in (_line(g), g._repr_html_()): assert text.count('a person should look') == bool(said)
    assert json.loads(g.to_json())['contradiction'] == g.contradiction() and (TORN in g.to_row()['review']) == bool(said)

def test_cold_start(bundle, eyes):
    "No torch, no pandas, little memory; the time is measured by `make bench`"
    code = f'''import sys
from retina_nb.deploy.grader import Grader
assert not [m for m in ('torch','torchvision','fastai','pandas','matplotlib','onnx','IPython') if m in sys.modules]
Grader({str(bundle)!r})({str(eyes[0])!r})
assert not [m for m in ('torch','torchvision','fastai','matplotlib','pandas') if m in sys.modules]
print(next(int(o.split()[1])//1024 for o in open("/proc/self/status") if o.startswith("VmHWM")))'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.returncode == 0 and int(out.stdout) < 250, out

@pytest.mark.parametrize('folder,n', [('eyepacs-sample', 10), ('idrid-fullsize', 24)])
def test_real_photographs(grader, real_data, folder, n):
    out = grader(real_data/folder)
    assert len(out) == n and all(isinstance(o, Grading) for o in out)

def test_what_is_dropped_half_way_waits_for_nobody(grader, eyes, monkeypatch):
    "Whoever lets go of it last may be one of its own threads, which cannot wait for itself"
    wrong, may, gone, data = [], threading.Event(), threading.Event(), eyes[0].read_bytes()
    monkeypatch.setattr(sys, 'unraisablehook', wrong.append)
    class Src:
        def __init__(self, i): self.i = i
        def read(self):
            if self.i == 3:
                may.wait(20)
                held.clear()
                gone.set()
            return data
    held = [grader.grade_many([Src(i) for i in range(50)], workers=2)]
    for _ in range(2): next(held[0])
    may.set()
    assert gone.wait(20) and not wrong, wrong

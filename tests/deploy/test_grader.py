"Grading: every form of input, bad files, batches, threads, interrupted tables, the command, what an import costs."
import csv, io, json, shutil, signal, subprocess, sys, threading, zlib, struct
from pathlib import Path

import numpy as np, pytest
from PIL import Image

from retina_nb.core import DataError, ImageError, SettingError
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

def test_command_on_one_bad_thing(command, bundle, eyes, bad, tmp_path):
    (tmp_path/'empty').mkdir()
    for args in ([bundle, bad[0]], [bundle, tmp_path/'empty'], [tmp_path/'nobundle', eyes[0]], [bundle, eyes[0], '--threshold', '7']):
        r = command('retina_grade', *args)
        assert r.returncode == 2 and r.stderr.count('\n') == 1 and 'Traceback' not in r.stderr, (args, r)

def test_killed_command_loses_little(bundle, eyes, tmp_path):
    many = tmp_path/'many'; many.mkdir()
    for i in range(150): shutil.copy(eyes[i%6], many/f'{i:03}{eyes[i%6].suffix}')
    exe, out = Path(sys.executable).with_name('retina_grade'), tmp_path/'g.csv'
    p = subprocess.Popen([exe, bundle, many, '--out', out], stdout=subprocess.PIPE, text=True)
    for _ in range(30): p.stdout.readline()
    p.send_signal(signal.SIGKILL); p.wait()
    assert not out.exists()
    done = (tmp_path/'g.csv.partial').read_text().splitlines()
    assert 30 <= len(done) - 1 < 150
    r = subprocess.run([exe, bundle, many, '--out', out, '--resume'], capture_output=True, text=True)
    assert r.returncode == 0 and len(r.stdout.splitlines()) < 150 - 25 and len(list(csv.DictReader(open(out)))) == 150

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

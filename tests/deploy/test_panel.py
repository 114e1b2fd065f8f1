"The panel without a browser: states, hostile input, privacy, the page's settings."
import io

import nbformat, numpy as np, pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from retina_nb.core import SettingError
from retina_nb.deploy import Grader, GradingPanel, Session, export, heat_map, voila_settings
from retina_nb.deploy.viewer import verdict_html
from retina_nb.synth import synth_eye
from dicoms import rgb_dicom
from random_model import random_run, shared

@pytest.fixture(scope='module')
def grader(): return Grader(shared()[1])

@pytest.fixture(scope='module')
def eye(): return synth_eye(5, grade=2, size=300).image

def encoded(a, fmt='PNG', **kw):
    b = io.BytesIO(); Image.fromarray(a).save(b, fmt, **kw); return b.getvalue()

@pytest.fixture
def session(grader, tmp_path): return Session(grader, feedback=tmp_path/'feedback.csv')

@pytest.fixture
def panel(grader, tmp_path):
    p = GradingPanel(grader, feedback=tmp_path/'feedback.csv')
    p.sent = []
    p.viewer.send = lambda m, buffers=None: p.sent.append((m, buffers or []))
    return p

def upload(p, name, data, piece=2**20):
    for at in range(0, max(1, len(data)), piece):
        p.viewer._on_piece(p.viewer, dict(t='piece', token=name, at=at, size=len(data), name=name, id=at), [memoryview(data[at:at+piece])])

def test_what_can_be_done_depends_on_the_state_alone(session, eye):
    s, actions = session, dict(agree=lambda: session.agree(), correct=lambda: session.correct(1), reveal=lambda: session.reveal())
    def allowed():
        out = set()
        for k,f in actions.items():
            if s.state == 'withheld' and k == 'reveal': out.add(k); continue   # would change the state
            try: f(); out.add(k)
            except SettingError as e: assert s.state in str(e)
        return out
    assert s.state == 'empty' and allowed() == set()
    s.add('a.png', encoded(eye)); s.current.state = 'graded'; assert allowed() == {'agree','correct'}
    s.current.state = 'withheld'; assert allowed() == {'reveal'}
    s.add('b.png', b'text'); assert s.state == 'failed' and allowed() == set()
    s.select(1); assert s.state == 'withheld'; s.select(99); assert s.current.key == 1
    s.clear(); assert s.state == 'empty' and not s.cases

def test_poor_photographs_are_withheld_until_asked_for(grader, tmp_path):
    dark = (synth_eye(5, grade=2, size=300).image//12).astype(np.uint8)
    s = Session(grader, feedback=tmp_path/'f.csv')
    c = s.add('dark.png', encoded(dark))
    assert c.state == 'withheld' and 'Too poor to grade' in verdict_html(c, s.task) and c.grading.name not in verdict_html(c, s.task) and c.grading.name not in s.to_csv()
    s.reveal()
    assert c.grading.name in verdict_html(c, s.task)
    assert Session(grader, gate=False, feedback=tmp_path/'f.csv').add('dark.png', encoded(dark)).state == 'graded'

def test_many_small_pieces_make_one_file(panel, eye):
    upload(panel, 'eye.png', encoded(eye), piece=1000)
    assert panel.session.state == 'graded' and len([m for m,_ in panel.sent if m['t'] == 'done']) > 20

@pytest.mark.parametrize('m', [dict(), dict(t='select'), dict(t='select', key='x'), dict(t='refused'), dict(t='nonsense'), dict(t='piece', token='x', at=5, size=9, name='n')])
def test_strange_messages_do_no_harm(panel, m):
    panel.viewer._on_piece(panel.viewer, m, [])
    assert panel.session.state in ('empty','failed')

def test_file_names_are_text(panel, eye):
    name = '../../<img src=x onerror=alert(1)>"\'.png'
    upload(panel, name, encoded(eye)); upload(panel, '=cmd()|x.png', b'no image')
    everything = ' '.join(str(getattr(w, 'value', '')) for w in (panel.verdict, panel.table, panel.refer, panel.said))
    assert '<img' not in everything and '..' not in panel.session.cases[0].name
    assert "'=cmd" in panel.session.to_csv()

def test_no_sample_and_no_operating_point_for_other_tasks(tmp_path):
    p = GradingPanel(export(random_run(tmp_path/'r', 'oct'), tmp_path/'b'), feedback=tmp_path/'f.csv')
    upload(p, 'scan.png', encoded(np.random.default_rng(0).integers(0, 255, (200,300), dtype=np.uint8)))
    assert p.session.state == 'graded' and 'CNV' in p.verdict.value and 'urgent referral' in p.refer.value

def test_a_task_of_ones_own_is_spoken_of_in_its_own_words(tmp_path):
    from retina_nb.core import Task, forget_task
    mine = Task('disc', ('healthy', 'glaucoma'), positive='glaucoma', title='Optic discs')
    bundle = export(random_run(tmp_path/'r', mine, operating_point=dict(threshold=.3)), tmp_path/'b')
    forget_task('disc')
    p = GradingPanel(bundle, feedback=tmp_path/'f.csv', gate=False)
    p.take_sample(next(iter(p._samples)))       # a fundus task has synthetic eyes, whatever its classes are
    assert p.session.state == 'graded' and '<h2>glaucoma</h2>' in p.refer.value and '>Glaucoma</th>' in p.table.value
    assert 'Optic discs' in p.children[0].value and [o[0] for o in p.grade.options][1:] == ['0 healthy', '1 glaucoma']
    p.grade.value = 1; p.save.click()
    assert 'corrected it to glaucoma' in p.said.value

def test_heat_map_is_silent_without_evidence():
    assert heat_map(np.zeros((5,7,7), np.float32), 2) is None
    cam = np.zeros((5,7,7), np.float32); cam[2,3,3] = 1
    a = np.asarray(Image.open(io.BytesIO(heat_map(cam, 2))))
    assert a.shape == (256,256,4) and a[128,128,3] > 200 and a[5,5,3] == 0

# ---- privacy

def planted(a)->tuple: # name to file, and the strings hidden in them
    "Photographs with a name hidden in every place where one can hide"
    n = [f'SECRET{i:02}' for i in range(18)]
    exif = Image.Exif()
    for tag,v in zip((0x010e, 0x010f, 0x0110, 0x013b, 0x8298, 0x9c9d), n): exif[tag] = v
    exif.get_ifd(0x8825)[0x1d] = n[6]; exif.get_ifd(0x8769)[0x9286] = n[7]
    jpg = encoded(a, 'JPEG', exif=exif, comment=n[8].encode(), icc_profile=b'\0'*128 + n[9].encode(), xmp=f'<x>{n[10]}</x>'.encode()) + n[11].encode()
    info = PngImagePlugin.PngInfo(); info.add_text('Patient', n[12]); info.add_itxt('Comment', n[13], zip=True)
    tif = TiffImagePlugin.ImageFileDirectory_v2(); tif[270] = n[14]
    dcm = rgb_dicom(a, PatientName=n[15], PatientID=n[16], InstitutionName=n[17])
    return {'a.jpg': jpg, 'b.png': encoded(a, 'PNG', pnginfo=info), 'c.tif': encoded(a, 'TIFF', tiffinfo=tif), 'd.dcm': dcm}, n

def test_planted_strings_are_found_nowhere(eye, tmp_path):
    "Run in a notebook that is saved with its widget state: not in it, not in memory kept, not in any file, not in what went to the browser"
    files, secrets = planted(eye)
    assert all(any(o.encode() in d for d in files.values()) for o in secrets if o != secrets[13])   # they really are in there
    for n,d in files.items(): (tmp_path/'in').mkdir(exist_ok=True); (tmp_path/'in'/n).write_bytes(d)
    work = tmp_path/'work'; work.mkdir()
    code = f'''import pickle
from pathlib import Path
from retina_nb.deploy.panel import GradingPanel
p = GradingPanel({str(shared()[1])!r}, feedback='feedback.csv')
sent, real = [], p.viewer.send
p.viewer.send = lambda m, buffers=None: (sent.append((m, buffers or [])), real(m, buffers))
for f in sorted(Path({str(tmp_path/'in')!r}).iterdir()):
    d = f.read_bytes()
    p.viewer._on_piece(p.viewer, dict(t='piece', token=f.name, at=0, size=len(d), name=f.name, id=1), [d])
    if p.session.state == 'withheld': p.reveal.click()
    p.agree.click()
p.view.value = 'Side by side'; p.heat.value = True; p.enhanced.value = True; p.export.click()
del d
Path('kept').write_bytes(pickle.dumps([sent, p.session.cases, p.viewer._parts]))
print([c.state for c in p.session.cases])'''
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code), nbformat.v4.new_code_cell('p')])
    from nbclient import NotebookClient
    NotebookClient(nb, timeout=300, kernel_name='python3', store_widget_state=True, resources={'metadata': {'path': str(work)}}).execute()
    nbformat.write(nb, work/'saved.ipynb')
    assert 'graded' in (work/'saved.ipynb').read_text() and nb.metadata.get('widgets'), 'the widget state was not saved: this test shows nothing'
    assert sorted(f.name for f in work.iterdir()) == ['feedback.csv','kept','saved.ipynb']
    assert (work/'kept').stat().st_size > 50_000
    for f in work.iterdir():
        for s in secrets: assert s.encode() not in f.read_bytes(), (s, f.name)
    saved = (work/'saved.ipynb').read_text()
    assert 'data:image' not in saved and '/9j/' not in saved and 'iVBORw0KGgo' not in saved

# ---- the page

def test_voila_is_closed_by_default():
    v = voila_settings(8866)
    assert v['Voila']['ip'] == '127.0.0.1' and v['VoilaConfiguration']['strip_sources'] and v['VoilaConfiguration']['file_allowlist'] == ['^$']
    assert 'http' not in v['Voila']['tornado_settings']['headers']['Content-Security-Policy']

def test_command_refuses_bad_input(command, tmp_path):
    for args in (['no/such/bundle'], [shared()[1], '--port', '0'], [shared()[1], '--samples', tmp_path], [shared()[1], '--theme', 'pink']):
        r = command('retina_panel', *args, timeout=120)
        assert r.returncode == 2 and r.stderr.count('\n') == 1, r

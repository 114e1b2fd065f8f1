"The panel without a browser: states, hostile input, privacy, the page's settings."
import copy, csv, io, os
from datetime import datetime
from pathlib import Path

import nbformat, numpy as np, pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin
from platformdirs import user_data_path

from retina_nb.core import DISCLAIMER, SettingError
from retina_nb.deploy import Case, Grader, Grading, GradingPanel, Session, export, heat_map, patient_results, patient_sheets, voila_settings
from retina_nb.deploy.grading import UNLIKE
from retina_nb.deploy.pictures import panel_samples
from retina_nb.deploy.feedback import FEEDBACK
from retina_nb.deploy.words import referral_html, verdict_html
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

def not_eyes()->dict: # name to picture
    "What people drop that is no fundus photograph"
    ramp = np.linspace(40, 210, 300, dtype=np.uint8)
    paper = np.full((300,220,3), 250, np.uint8); paper[40:260:12, 30:190] = 30
    return {'xray.png': np.dstack([np.tile(ramp, (300,1))]*3), 'letter.png': paper, 'blank.png': np.full((300,300,3), 90, np.uint8)}

@pytest.mark.parametrize('name', not_eyes())
def test_what_is_no_eye_is_withheld_until_asked_for(grader, tmp_path, name):
    s = Session(grader, feedback=tmp_path/'f.csv')
    c = s.add(name, encoded(not_eyes()[name]))
    said = verdict_html(c, s.task)
    assert c.state == 'withheld' and c.grading.ungradable in said.replace('&#x27;', "'") and c.grading.meaning not in said
    row = next(csv.DictReader(io.StringIO(s.to_csv())))
    assert row['error'] == f'not graded: {c.grading.ungradable}' and row['grade'] == '' == row['p_0']
    s.reveal()
    assert c.grading.name in verdict_html(c, s.task) and 'A person should look' in verdict_html(c, s.task)
    assert 'should not be graded' in s.to_csv()                                    # it is never forgotten
    assert Session(grader, gate=False, feedback=tmp_path/'f.csv').add(name, encoded(not_eyes()[name])).state == 'graded'

def test_the_button_that_grades_all_the_same_is_a_second_choice(panel):
    upload(panel, 'blank.png', encoded(not_eyes()['blank.png']))
    assert panel.session.state == 'withheld' and panel.reveal.layout.display is None
    assert 'rnb-main' not in panel.reveal._dom_classes and panel.feedback_card.layout.display == 'none'

# ---- whose eye it is

@pytest.mark.parametrize('names', [('10_left.jpg','10_right.jpg'), ('Miller OS.png','Miller OD.png'), ('L-p7.jpg','R-p7.jpg'), ('p7.L.jpg','p7.R.jpg'), ('12 - left eye.tif','12 - right eye.tif')])
def test_both_eyes_of_a_patient_are_found_by_name(session, eye, names):
    for n in names: session.add(n, eye)
    a, b = session.cases
    assert (a.eye, b.eye) == ('left','right') and a.patient == b.patient != ''
    assert len(patient_results(session)) == 1 and [c.eye for c in patient_results(session)[0].cases] == ['right','left']

def test_a_dicom_header_tells_patient_and_side_and_counts_more_than_the_name(session, eye):
    data = rgb_dicom(eye, PatientID='MRN-77', ImageLaterality='R')
    a = session.add('scan1.dcm', data)
    b = session.add('77_right.dcm', rgb_dicom(eye, PatientID='MRN-77', ImageLaterality='L'))
    assert (a.eye, b.eye) == ('right','left') and a.patient == b.patient and 'MRN' not in a.patient
    assert 'DICOM header left' in b.note and b.note in verdict_html(b, session.task).replace('&#x27;', "'")
    c = session.add('78_left.dcm', rgb_dicom(eye, PatientID='', ImageLaterality=''))
    assert (c.patient, c.eye, c.note) == ('78','left','')                           # blank values: the name tells
    assert len(patient_results(session)) == 2

def fake(s, name, grade, p, **kw):
    "A graded case whose grading is made up"
    ps = [0.]*5; ps[grade] = 1 - p if grade < 2 else p; ps[0 if grade else 4] += 1 - sum(ps)
    eye = 'left' if 'left' in name else 'right'
    c = Case(len(s.cases)+1, name, 'graded', Grading(name, grade, s.task.classes[grade], ps, p >= s.threshold, p, s.threshold, task=s.task, model=dict(id='m'), **kw),
             patient=name.split('_')[0], eye=eye)
    s.cases.append(c); s.current = c
    return c

def test_the_worse_eye_decides_and_a_person_counts_more(session):
    s = session; s.threshold = .5
    fake(s, '1_left.jpg', 0, .1); fake(s, '1_right.jpg', 3, .9)
    fake(s, '2_left.jpg', 0, .1); fake(s, '2_right.jpg', 1, .2, novel=True, novelty=4.)
    fake(s, '3_left.jpg', 0, .1); s.reject('3_right.jpg', 'is a text file')
    one, two, three, *_ = patient_results(s)
    assert (one.worse.name, one.positive, one.refer) == ('1_right.jpg', True, True)
    assert (two.positive, two.refer) == (False, True) and UNLIKE in two.reasons[0] and 'right eye' in two.reasons[0]
    assert three.missing == 'right eye' and not three.refer
    s.select(2); s.correct(0)
    s.select(4); s.agree()
    one, two, *_ = patient_results(s)
    assert (one.positive, one.refer) == (False, False) and not two.refer            # a person has looked

def test_a_contradiction_is_explained_and_a_no_is_not_green(session):
    s = session; s.threshold = .9
    fake(s, '1_left.jpg', 4, .8)
    said = referral_html(s)
    assert 'a person should look' in said and 'To a person' in said and 'rnb-no"' not in said
    s.threshold = .5
    assert 'a person should look' not in referral_html(s) and 'Yes' in referral_html(s)

def test_the_test_figures_are_quoted_with_intervals_and_not_those_of_validation(session):
    share = lambda v, a, z: dict(value=v, ci95=[a, z])
    session.grader = copy.copy(session.grader); session.grader.bundle = copy.copy(session.grader.bundle)
    curve = dict(threshold=[.4, .8], sensitivity=[.99, .98], specificity=[.97, .96], images=56, positives=16)
    session.grader.bundle.config = session.grader.bundle.config | dict(operating_curve=curve, metrics=dict(n_images=160, n_patients=80,
        referable=dict(sensitivity=share(.84, .7, .93), specificity=share(.9, .85, .94), threshold=.4, prevalence=.3)))
    fake(session, '1_left.jpg', 3, .9)
    said = referral_html(session)
    assert '160' in said and '0.840 (0.700 to 0.930)' in said and '95%' in said and '56' not in said and '99%' not in said
    session.threshold = .8
    assert '0.840' in referral_html(session) and '98%' in referral_html(session) and 'flatters' in referral_html(session)

def test_the_session_as_csv_has_novelty_review_patient_and_eye(session):
    fake(session, '1_left.jpg', 0, .1, novel=True, novelty=2.5, trained_on='trained on synthetic eyes')
    row = next(csv.DictReader(io.StringIO(session.to_csv())))
    assert (row['novel'], row['novelty'], row['patient'], row['eye'], row['trained_on']) == ('True','2.5','1','left','trained on synthetic eyes')
    assert UNLIKE in row['review']
    assert 'trained on synthetic eyes' in verdict_html(session.current, session.task)

def test_the_slider_does_not_round_the_bundles_own_threshold(grader, tmp_path):
    mine = copy.copy(grader); mine.threshold = .39612
    p = GradingPanel(mine, feedback=tmp_path/'f.csv')
    p.threshold.value = .396                # what a browser makes of it when it shows the slider
    assert p.session.threshold == .39612
    p.threshold.value = .5; assert p.session.threshold == .5
    p.default.click(); assert p.session.threshold == .39612

# ---- reading a list

def test_agree_leads_to_the_next_that_waits_and_says_what_was_agreed_with(panel, eye):
    for i in range(3): upload(panel, f'{i}.png', encoded(eye))
    upload(panel, 'letter.jpg', b'Dear colleague')
    panel.session.select(1); panel.refresh(new=True)
    panel.agree.click()
    assert panel.session.current.key == 2 and 'You agreed: 0.png' in panel.said.value
    panel.agree.click(); panel.agree.click()
    assert 'Every photograph has been judged' in panel.said.value and panel.session.counts() == dict(all=4, graded=3, withheld=0, failed=1, read=3)
    assert '4 photographs, of which 1 could not be graded; 3 judged by you' in panel.title.value
    panel.before.click(); assert panel.session.current.key == 2
    panel.next.click(); panel.next.click(); assert panel.session.current.key == 4 and panel.next.disabled

def test_one_photograph_is_removed_and_the_others_stay(panel, eye):
    for i in range(3): upload(panel, f'{i}.png', encoded(eye))
    panel._hear(dict(t='remove', key=2), None)
    assert [c.name for c in panel.session.cases] == ['0.png','2.png'] and panel.session.current.name == '2.png'
    panel.remove.click()
    assert panel.session.current.name == '0.png'
    panel.remove.click()
    assert panel.session.state == 'empty' and 'No photograph yet' in panel.verdict.value and panel.moves.layout.display == 'none'
    for key in (None, 'x', 99, [1]): panel._hear(dict(t='remove', key=key), None)

def test_the_page_asks_before_it_is_left_as_long_as_something_was_not_exported(panel, eye):
    unsaved = lambda: [m for m,_ in panel.sent if m['t'] == 'strip'][-1]['unsaved']
    upload(panel, 'a.png', encoded(eye)); assert unsaved()
    panel.export.click(); assert not unsaved()
    panel.agree.click(); assert unsaved()
    panel.export.click(); panel._hear(dict(t='select', key=1), None); assert not unsaved()
    panel.clear.click(); assert not unsaved()

def test_what_became_of_a_file_is_told_to_the_browser(panel, eye):
    upload(panel, 'a.png', encoded(eye)); upload(panel, 'b.png', b'text'); upload(panel, 'c.png', encoded(not_eyes()['blank.png']))
    panel.viewer._on_piece(panel.viewer, dict(t='refused', name='huge.tif', size=2**40, id=9), [])
    assert [m['became'] for m,_ in panel.sent if m['t'] == 'done'] == ['graded','failed','withheld','failed']

def test_the_browser_gets_an_answer_even_where_grading_fails(panel, eye, monkeypatch):
    monkeypatch.setattr(type(panel.session.grader), '_grade', lambda *a: (_ for _ in ()).throw(MemoryError()))
    upload(panel, 'a.png', encoded(eye))
    assert panel.session.state == 'failed' and 'memory' in panel.verdict.value and panel.sent[-1][0]['t'] == 'done'

# ---- where the user's word is kept

def test_corrections_are_kept_in_the_users_data_folder_and_named_on_the_page(grader, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path/'data')); monkeypatch.setenv('RETINA_NB_CACHE', str(tmp_path/'cache'))
    old = tmp_path/'cache'/'feedback'/f'{grader.bundle.id}.csv'
    old.parent.mkdir(parents=True); old.write_text(','.join(FEEDBACK) + '\n')
    p = GradingPanel(grader)
    kept = p.session.feedback
    assert kept.is_relative_to(user_data_path('retina_nb', appauthor=False)) and kept.is_file() and not old.exists()    # what was in the cache is taken along
    assert str(kept) in p.feedback_card.children[-1].value

def test_a_file_of_something_else_is_not_appended_to(grader, tmp_path):
    (tmp_path/'labels.csv').write_text('image,level\n1_left,0\n')
    for path in (tmp_path/'labels.csv', tmp_path):
        with pytest.raises(SettingError, match=str(path)): Session(grader, feedback=path)
    assert (tmp_path/'labels.csv').read_text() == 'image,level\n1_left,0\n'

def test_a_word_that_cannot_be_kept_is_said_in_a_sentence(grader, tmp_path, eye):
    p = GradingPanel(grader, feedback=tmp_path/'no'/'f.csv')
    upload(p, 'a.png', encoded(eye))
    (tmp_path/'no').write_text('a file in the way')
    p.agree.click()
    assert 'your word was not kept' in p.said.value and 'Errno' not in p.said.value and p.session.current.feedback is None

# ---- paper

def test_a_page_a_patient_has_everything_that_must_be_on_it(session, eye):
    session.add('10_left.png', eye); session.add('10_right.png', eye); session.add('x.jpg', b'text')
    pages = patient_sheets(session)
    assert list(pages) == ['patient 10', 'case 3']
    page = pages['patient 10']
    for o in ('Patient 10', 'right eye', 'left eye', 'Referable DR', session.grader.bundle.id, DISCLAIMER, f'{datetime.now().astimezone():%B %Y}', 'rnb-printed'): assert o in page, o
    assert page.index('data-rnb-page="2"') < page.index('data-rnb-page="1"')        # the right eye first
    assert 'To be seen by a person' in pages['case 3']

def test_only_pages_that_changed_are_sent_again(panel, eye):
    upload(panel, '1_left.png', encoded(eye)); upload(panel, '2_left.png', encoded(eye))
    sheets = [m for m,_ in panel.sent if m['t'] == 'sheets'][-1]['sheets']
    assert [(k, v is None) for k,v in sheets] == [('patient 1', True), ('patient 2', False)]
    panel._hear(dict(t='ready'), None)                                              # another page was opened: everything
    assert all(v for _,v in [m for m,_ in panel.sent if m['t'] == 'sheets'][-1]['sheets'])

def test_many_small_pieces_make_one_file(panel, eye):
    upload(panel, 'eye.png', encoded(eye), piece=1000)
    assert panel.session.state == 'graded' and len([m for m,_ in panel.sent if m['t'] == 'done']) > 20

@pytest.mark.parametrize('m', [dict(), dict(t='select'), dict(t='select', key='x'), dict(t='refused'), dict(t='nonsense'), dict(t='piece', token='x', at=5, size=9, name='n'), dict(t='refused', size='much', name=['a']), dict(t='sample', name=['x']), dict(t='sample', name='none'), dict(t='refused', size=float('inf')), dict(t='piece', token='x', at=0, size='x', name='n'), dict(t='piece', at=None, size=3)])
def test_strange_messages_do_no_harm(panel, m):
    panel.viewer._on_piece(panel.viewer, m, [])
    assert panel.session.state in ('empty','failed') and len(panel.session.cases) <= 1
    assert not any('no such file' in c.error for c in panel.session.cases)        # what is said of a file is never taken for its path

def test_file_names_are_text(panel, eye):
    name = '../../<img src=x onerror=alert(1)>"\'.png'
    upload(panel, name, encoded(eye)); upload(panel, '=cmd()|x.png', b'no image')
    everything = ' '.join(str(getattr(w, 'value', '')) for w in (panel.verdict, panel.table, panel.refer, panel.said))
    assert '<img' not in everything and '..' not in panel.session.cases[0].name
    assert "'=cmd" in panel.session.to_csv()
    for markup in patient_sheets(panel.session).values(): assert '<img src' not in markup

def test_names_that_are_no_text_are_spelled_out_and_exported(tmp_path, panel, eye):
    "As a browser may send them, and as a folder of samples may hold them"
    upload(panel, 'eye\udcff.png', encoded(eye)); upload(panel, '\ud800.png', b'text')
    (tmp_path/'s').mkdir()
    odd = os.path.join(os.fsencode(tmp_path/'s'), b'sample\xff.png')
    try: open(odd, 'wb').write(encoded(eye))
    except OSError: pytest.skip('this file system has no such names')
    samples = panel_samples(tmp_path/'s', panel.session.task)
    assert list(samples) == ['sample\\xff.png']
    panel.session.add(*samples['sample\\xff.png']())
    panel.export.click()
    table = next(b for m,b in panel.sent if m['t'] == 'save')[0].decode('utf-8-sig')
    assert [r['file'] for r in csv.DictReader(io.StringIO(table))] == ['eye\\xff.png', '\\ud800.png', 'sample\\xff.png']

@pytest.mark.skipif(os.name == 'nt', reason='pipes of POSIX')
def test_a_sample_that_is_a_pipe_is_refused_at_once(tmp_path, panel):
    (tmp_path/'s').mkdir(); os.mkfifo(tmp_path/'s'/'eye.jpg'); (tmp_path/'s'/'gone.jpg').touch()
    panel._samples = panel_samples(tmp_path/'s', panel.session.task)
    (tmp_path/'s'/'gone.jpg').unlink()
    for name in list(panel._samples): panel.take_sample(name)
    assert {c.name: (c.state, c.error.split(':')[0]) for c in panel.session.cases} == dict.fromkeys(panel._samples, ('failed', 'cannot be read'))
    assert 'is a pipe' in panel.session.cases[0].error

@pytest.mark.parametrize('fixed', (False, True))
def test_corrections_of_an_earlier_version_come_along_from_another_disk(tmp_path, monkeypatch, fixed):
    "Also where the earlier file cannot be removed"
    import errno, retina_nb.deploy.feedback as S
    monkeypatch.setenv('RETINA_NB_CACHE', str(tmp_path/'cache')); monkeypatch.setattr('platformdirs.user_data_path', lambda *a, **k: tmp_path/'data')
    earlier, move, text = S.cache_dir()/'feedback'/'m.csv', os.replace, ','.join(FEEDBACK) + '\r\n1,2\r\n'
    earlier.parent.mkdir(parents=True); earlier.write_bytes(text.encode())
    def replace(a, b):
        if (tmp_path/'cache' in Path(a).parents) != (tmp_path/'cache' in Path(b).parents): raise OSError(errno.EXDEV, 'another disk')
        return move(a, b)
    monkeypatch.setattr(os, 'replace', replace); monkeypatch.setattr(os, 'rename', replace)
    remove = Path.unlink
    def unlink(self, **k):
        if fixed and self == earlier: raise OSError(errno.EROFS, 'read-only')
        return remove(self, **k)
    monkeypatch.setattr(Path, 'unlink', unlink)
    path = S.feedback_file('m')
    assert tmp_path/'data' in path.parents and path.read_bytes() == text.encode() and earlier.exists() == fixed
    path.write_text('newer'); assert S.feedback_file('m').read_text() == 'newer'

def test_oct_is_spoken_of_as_scans_and_noise_is_none(tmp_path):
    from retina_nb.synth import synth_scan
    p = GradingPanel(export(random_run(tmp_path/'r', 'oct'), tmp_path/'b'), feedback=tmp_path/'f.csv')
    assert p.viewer.word == 'scan' and 'No scan yet' in p.verdict.value and 'photograph' not in p.verdict.value + p.table.value
    assert list(p._samples) == [f'Synthetic scan, drawn as {c}' for c in p.session.task.classes]
    upload(p, 'noise.png', encoded(np.random.default_rng(0).integers(0, 255, (200,300), dtype=np.uint8)))
    assert p.session.state == 'withheld' and 'too poor to grade' in p.verdict.value
    upload(p, 'scan.png', encoded(synth_scan(3, 0).image))
    assert p.session.state == 'graded' and 'CNV' in p.verdict.value and 'urgent referral' in p.refer.value
    assert 'Image quality good' in p.verdict.value and '2 scans' in p.title.value

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

def test_a_case_is_asked_where_the_model_looked(panel, eye):
    "In finer steps at the first look; occlusion only when chosen, and never unasked for the next photograph"
    from retina_nb.deploy.looking import asks
    s, way = panel.session, panel.stage.way
    s.add('a.png', eye); panel.refresh(new=True); panel.heat.value = True
    cam, size, ((m, side),) = s.current.grading.cam, s.grader.preprocess.size, s.current.maps.values()
    assert m.shape[-1] > cam.shape[-1] and side == size/cam.shape[-1]
    for told in ('It is no outline of lesions', f'{side:.0f} × {side:.0f} or more of the {size} × {size} pixels'): assert told in panel.stage.legend.value
    way.value = 'occlusion (slower)'
    assert len(s.current.maps) == 2
    s.add('b.png', eye[:, ::-1]); panel.refresh(new=True)
    assert way.value == 'activation map' and {o for o, _ in s.current.maps} == {'activation map'}
    assert asks(object()) is None

def test_a_model_without_a_map_of_its_own_has_occlusion(panel, eye):
    s = panel.session
    s.add('a.png', eye); s.current.grading.cam = None; panel.refresh(new=True)
    assert panel.stage.way.options == ('occlusion (slower)',) and panel.heat.layout.display is None
    panel.heat.value = True
    assert [way for way, _ in s.current.maps] == ['occlusion (slower)']
    s.add('b.png', eye[:, ::-1]); s.current.grading.cam = None; panel.refresh(new=True)
    assert not panel.heat.value and not s.current.maps

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

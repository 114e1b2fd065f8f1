"A blind reading without a browser: what is kept, what a browser is sent, what comes out at the end, and bad input"
import json, re, shutil

import comm, ipywidgets as W, numpy as np, pandas as pd, pytest
from PIL import Image

from retina_nb.core import DataError, SettingError
from retina_nb.deploy import BlindReading, ReadingSession
from retina_nb.measure import confusion_matrix, evaluate
from retina_nb.sheets import read_table
from retina_nb.synth import write_synth

N = 20 # eyes; with fewer patients kappa has no interval

@pytest.fixture(scope='module')
def records(tmp_path_factory):
    "Drawn photographs of both eyes of patients, of most grades"
    d = tmp_path_factory.mktemp('eyes')
    r = write_synth(d, N, seed=5, size=96, prevalence=(.2, .2, .2, .2, .2))
    r['image'] = [str(d/i) for i in r.image]
    assert r.label.nunique() > 3 and r.patient.nunique() < N
    return r

@pytest.fixture
def wire(monkeypatch):
    "All that a browser is sent, of every widget: messages as text, and buffers"
    sent = []
    class Wire(comm.DummyComm):
        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **_):
            sent.append((msg_type, json.dumps(data, default=str), [bytes(b) for b in buffers or []]))
    monkeypatch.setattr(comm, 'create_comm', Wire)
    return sent

def press(page, *keys):
    "Keys as the browser reports them"
    for k in keys: page.viewer._on_piece(page.viewer, dict(t='key', key=k), [])

def widgets(w):
    "A widget and all those inside it"
    yield w
    for c in getattr(w, 'children', ()): yield from widgets(c)

def state_of(page): return json.dumps([w.get_state() for w in widgets(page)], default=str)

def truth(s): return s.records.label[s.order].tolist()

def read_all(page, grades):
    for g in grades: press(page, 'u' if g is None else str(g), 'Enter')

def test_a_session_from_the_first_photograph_to_the_truth(records, tmp_path, wire):
    page = BlindReading(records, out=tmp_path/'r.csv')
    s = page.session
    said = [(g + (i % 3 == 1)) % 5 for i, g in enumerate(truth(s))]
    read_all(page, said)
    assert 'This is the last one, and all are read' in page.said.value
    assert page.readings.grade.tolist() == said and page.readings.target.isna().all()
    page.end.click()
    assert s.shown and page.readings.target.tolist() == truth(s)

    want = evaluate(pd.DataFrame(dict(image=records.image[s.order].to_list(), patient=records.patient[s.order].to_list(), target=truth(s), grade=said)))
    got = s.scores()
    for score in ('qwk', 'kappa', 'accuracy'): assert got[score] == want[score], score
    assert got['n_images'] == N and got['n_patients'] == records.patient.nunique()
    low, high = want['qwk']['ci95']
    assert f'Quadratic weighted kappa {want["qwk"]["value"]:.2f} (95% interval {low:.2f} to {high:.2f}).' in page.result.value
    right = int(np.trace(confusion_matrix(page.readings)))
    assert f'{right} of {N} as labelled' in page.result.value
    assert (page.missed.value.count('<tr>') - 1) == N - right == len(s.missed())
    worst = (s.missed().grade - s.missed().target).abs()
    assert worst.is_monotonic_decreasing

def test_keys_grade_go_on_and_go_back(records, tmp_path):
    page = BlindReading(records, out=tmp_path/'r.csv')
    s = page.session
    for k in '01234': press(page, k); assert page.grade.value == int(k) == s.current['grade'] == read_table(tmp_path/'r.csv').grade.item()
    press(page, 'u'); assert s.current['grade'] is None and page.grade.value == -1
    press(page, 'Enter'); assert s.at == 1 and page.grade.value is None
    press(page, 'Enter'); assert s.at == 1 and 'Choose a grade first' in page.said.value         # no eye is passed over
    press(page, '3', 'Enter', '1', 'Backspace', 'Backspace')
    assert s.at == 0 and page.grade.value == -1                                                    # as it was said
    press(page, 'Backspace'); assert s.at == 0
    press(page, '2', 'Enter', 'Enter', 'Enter'); assert s.at == 3                                  # better of it, and on to what is not read
    assert [r['grade'] for r in s.given.values()] == [2, 3, 1]
    for strange in ('5', '9', 'x', 'F1', '', None, ['3']): press(page, strange)
    page._hear(dict(t='select', key=0)); page._hear(dict(t='key')); page._hear({})
    assert s.at == 3 and len(s.given) == 3
    assert page.viewer.hotkeys == [*'01234', 'u', 'U', 'Enter', 'Backspace']

def test_the_truth_is_asked_for_twice_where_eyes_are_left(records, tmp_path):
    page = BlindReading(records, out=tmp_path/'r.csv')
    assert page.end.disabled                                                                       # nothing read
    press(page, '2', 'Enter', '1')
    page.end.click()
    assert f'{N-2} are not read yet' in page.said.value and not page.session.shown and page.result.value == ''
    press(page, 'Enter', '3'); page.end.click(); assert not page.session.shown                     # going on takes it back
    page.end.click()
    assert page.session.shown and len(page.readings) == 3 and page.readings.target.notna().all()
    assert page.session.scores()['n_images'] == 3
    before = (tmp_path/'r.csv').read_bytes()
    press(page, '4'); page.read(4)
    assert 'Not stored: the truth has been shown' in page.said.value and (tmp_path/'r.csv').read_bytes() == before

def renamed(records, folder, labels):
    "The same photographs under other names, with other labels, patients and tags"
    folder.mkdir()
    names = [folder/f'severe_{i}.jpg' for i in range(len(records))]
    for a, b in zip(records.image, names): shutil.copy(a, b)
    return pd.DataFrame(dict(image=[str(n) for n in names], label=labels, patient=[f'Mrs Example {i}' for i in range(len(records))], hospital='Example'))

def seen(wire, page):
    "What a browser has been sent, and what each widget holds; names that ipywidgets draws by chance are numbered"
    text, ids = repr([(t, d) for t, d, _ in wire]) + state_of(page), {}
    return re.sub(r'[0-9a-f]{32}', lambda m: f'#{ids.setdefault(m[0], len(ids))}', text), [b for _, _, bs in wire for b in bs]

def test_nothing_that_is_sent_depends_on_the_truth(records, tmp_path, wire, monkeypatch):
    """Two readings of the same photographs, under other names and with other labels, are the same to a browser to the last byte:
    what it holds cannot tell a label, a name, a patient or a lesion"""
    got = []
    other = renamed(records, tmp_path/'other', (records.label.to_numpy() + 2) % 5)
    for i, r in enumerate((records, other)):
        (tmp_path/str(i)).mkdir(); monkeypatch.chdir(tmp_path/str(i))
        wire.clear()
        page = BlindReading(r)
        press(page, '2', 'Enter', '0', 'Enter', 'Enter', 'u', 'Backspace', '4', 'Enter', 'Enter')
        page._hear(dict(t='ready')); page._hear(dict(t='select', key=0))
        page.enhanced.value = True; page.outlined.value = False; page.outlined.value = True        # a switch that is hidden can be turned all the same
        page.end.click()
        got.append(seen(wire, page))
    assert got[0][1] and got[0] == got[1]
    assert 'severe_' not in got[1][0] and 'Example' not in got[1][0]
    assert not {'label', 'target', 'patient'} & set(read_table(tmp_path/'1'/'readings.csv'))
    assert 'Mrs' not in (tmp_path/'1'/'readings.csv').read_text()
    page.end.click()                                                                               # and now it may
    assert 'severe_' in seen(wire, page)[0]

def test_a_file_keeps_its_secrets(tmp_path, wire):
    "A comment in the file, a telling name and a broken picture: none of it reaches the browser"
    a = (np.random.default_rng(0).random((64, 64, 3))*255).astype(np.uint8)
    Image.fromarray(a).save(tmp_path/'a.jpg', comment=b'PROLIFERATIVE')
    (tmp_path/'proliferative.png').write_bytes(b'\x89PNG\r\n\x1a\n broken')
    page = BlindReading(pd.DataFrame(dict(image=[str(tmp_path/'a.jpg'), str(tmp_path/'proliferative.png')], label=4)), out=tmp_path/'r.csv', seed=None)
    press(page, '1', 'Enter')
    assert 'No photograph' in page.blank.value and 'photograph 2' in page.blank.value
    assert page.looks.layout.display == 'none'
    text, pictures = seen(wire, page)
    assert pictures and not any(b'PROLIFERATIVE' in p for p in pictures) and 'proliferative.png' not in text
    press(page, 'u')                                                                               # it can be said to be ungradable
    assert page.session.current['grade'] is None
    page.end.click()
    page.move(1); assert 'proliferative.png' in page.case.value                                    # at the end it has its name
    assert page.session.scores()['n_images'] == 1 and 'cannot be graded, by your word' in page.result.value

def test_a_reading_is_taken_up_where_it_was_left(records, tmp_path):
    out = tmp_path/'r.csv'
    first = BlindReading(records, out=out)
    press(first, '1', 'Enter', 'u', 'Enter', '3', 'Backspace')
    again = BlindReading(records, out=out)
    assert again.session.given == first.session.given and again.session.at == 3 and again.session.order.tolist() == first.session.order.tolist()
    press(again, '0', 'Enter', 'Backspace', 'Backspace')
    assert again.grade.value == 3 and len(again.session.given) == 4
    again.end.click(); again.end.click()
    third = BlindReading(records, out=out)
    assert third.session.shown == again.session.shown and third.result.value == again.result.value
    with pytest.raises(SettingError, match='another file'): third.session.read(2)

def test_readers_share_a_file(records, tmp_path):
    out = tmp_path/'r.csv'
    a, b = (ReadingSession(records, out=out, reader=r) for r in ('=A', 'B, "Dr"'))                 # as a spreadsheet would run it, and with a comma
    for s in (a, b, a, b): s.read(1); s.go(s.next_unread(s.at))
    table = read_table(out)
    assert table.groupby('reader').size().to_dict() == {'=A': 2, 'B, "Dr"': 2}
    a.finish()
    assert ReadingSession(records, out=out, reader='=A').shown and not ReadingSession(records, out=out, reader='B, "Dr"').shown

def test_time_is_counted_while_a_photograph_is_in_view(records, tmp_path):
    now = [0.]
    s = ReadingSession(records, out=tmp_path/'r.csv', clock=lambda: now[0])
    now[0] = 4; s.read(1); s.go(1)
    now[0] = 6; s.go(0)                                                                            # two seconds for the second, without a grade
    now[0] = 9; s.read(2); s.go(1)                                                                 # three more for the first
    now[0] = 10; s.read(0)
    assert s.readings.seconds.tolist() == [7.0, 3.0]

def test_patients_unknown_or_no_grade_at_all(records, tmp_path):
    page = BlindReading(records.drop(columns='patient'), out=tmp_path/'a.csv')
    read_all(page, [1]*N); page.end.click()
    assert 'Nobody knows which photographs are of one patient' in page.result.value
    page = BlindReading(records, out=tmp_path/'b.csv')
    read_all(page, [None]*N); page.end.click()
    assert f'Nothing was graded: {N} cannot be graded' in page.result.value and '<img' not in page.result.value
    assert page.readings.ungradable.eq('reader').all()

def test_a_task_of_two_classes_has_two_keys_and_plain_kappa(records, tmp_path):
    page = BlindReading(records.assign(label=records.label.ge(2).astype(int)).drop(columns='task', errors='ignore'), 'pneumonia', out=tmp_path/'r.csv')
    assert page.viewer.hotkeys[:-4] == ['0', '1'] and '<kbd>1</kbd> grade' in ''.join(w.value for w in widgets(page) if isinstance(w, W.HTML))
    read_all(page, [1]*N); page.end.click()
    assert 'one grade beside' not in page.result.value

# ---- bad input: said before the first photograph, and by name

def test_bad_records_are_named(records, tmp_path):
    def refuses(text, r, error=DataError, task='dr'):
        with pytest.raises(error, match=text): BlindReading(r, task, out=tmp_path/'r.csv')
        assert not (tmp_path/'r.csv').exists()
    labels = records.label.tolist()
    refuses("no column 'label'", records.drop(columns='label'))
    refuses("no column 'image'", records.drop(columns='image'))
    refuses('is empty', records[:0])
    for bad in (5, -1, 1.5, np.nan, 'severe'):
        refuses(rf'row 0 \({re.escape(records.image[0])}\): the label is {bad}; it must be a whole number from 0 to 4', records.assign(label=[bad, *labels[1:]]))
    refuses('and 3 more rows', records.assign(label=[9]*4 + labels[4:]))
    refuses(r'row 2 .*there twice', records.assign(image=[*records.image[:2], records.image[0], *records.image[3:]]))
    refuses('row 1 .*gone.jpg.*no such file', records.assign(image=[records.image[0], str(tmp_path/'gone.jpg'), *records.image[2:]]))
    refuses('records is a list', records.image.tolist(), SettingError)
    refuses('records is a NoneType', None, SettingError)

def test_a_file_of_something_else_is_left_as_it_is(records, tmp_path):
    def refuses(text, error=SettingError, out='r.csv', reader='reader', r=records):
        before = (tmp_path/out).read_bytes() if (tmp_path/out).is_file() else None
        with pytest.raises(error, match=text): BlindReading(r, out=tmp_path/out, reader=reader)
        if before is not None: assert (tmp_path/out).read_bytes() == before
    (tmp_path/'r.csv').write_text('image,label\na.jpg,3\n'); refuses('r.csv: exists and is no table of readings')
    (tmp_path/'r.csv').write_bytes(b'\xff\xfe\x00\x01'*9); refuses('r.csv: exists and is no table of readings')
    refuses('is a folder, not a file', out='.')
    (tmp_path/'plain').write_text('x'); refuses('plain: is a file, not a folder', out='plain/r.csv')
    refuses('reader is empty', out='new.csv', reader=' ')

    (tmp_path/'r.csv').unlink()
    s = ReadingSession(records, out=tmp_path/'r.csv')
    s.read(2); whole = (tmp_path/'r.csv').read_text()
    strange = records[records.image != s.row.image].reset_index(drop=True)
    refuses('holds readings of other photographs by the same reader, such as ' + re.escape(s.row.image), r=strange)
    assert len(ReadingSession(strange, out=tmp_path/'r.csv', reader='somebody else').given) == 0
    line = whole.splitlines()[1]
    for bad in (line.replace('reader,2', 'reader,7'), line.replace('reader,2', 'reader,'), line.replace('reader,2', 'reader,x'), line + '\n' + line):
        (tmp_path/'r.csv').write_text(whole.replace(line, bad)); refuses(re.escape(s.row.image) + ': a reading is damaged or there twice', DataError)

def test_a_grade_outside_the_scale_is_none(records, tmp_path):
    s = ReadingSession(records, out=tmp_path/'r.csv')
    for bad in (5, -1, 1.5, '2', float('nan'), [1]):
        with pytest.raises(SettingError, match='choose 0 to 4, or None'): s.read(bad)
    assert not s.given and not (tmp_path/'r.csv').exists()
    with pytest.raises(DataError, match='nothing has been read yet'): s.finish()
    for early in (s.scores, s.missed):
        with pytest.raises(SettingError, match='the truth has not been shown yet'): early()
    s.read(np.int64(3)); assert s.given[s.row.image]['grade'] == 3 and type(s.given[s.row.image]['grade']) is int

def test_a_file_that_cannot_be_written_is_said_and_the_reading_goes_on(records, tmp_path):
    page = BlindReading(records, out=tmp_path/'r.csv')
    (tmp_path/'r.csv').mkdir()                                                                     # meanwhile
    press(page, '2')
    assert 'Not stored: ' in page.said.value and 'is a folder' in page.said.value and page.grade.value is None
    (tmp_path/'r.csv').rmdir()
    press(page, '2')
    assert page.session.current['grade'] == 2 and 'Not stored' not in page.said.value

@pytest.mark.parametrize('left_out', [(), (3,)], ids=['all graded', 'one that cannot be graded'])
def test_a_reader_who_is_always_right(records, tmp_path, wire, left_out):
    "Nothing was missed: the truth is shown all the same, with every photograph in its order"
    page = BlindReading(records, out=tmp_path/'r.csv')
    read_all(page, [None if i in left_out else g for i, g in enumerate(truth(page.session))])
    page.end.click()
    assert page.session.shown and page.session.missed().empty
    assert page.session.scores()['qwk']['value'] == 1
    assert page._places() == list(range(N))

@pytest.mark.parametrize('reader', ['007', 'NA', 'nan', 'None', '1e3', '+5', 'null', '12', ' Anna '])
def test_a_reader_of_any_name_finds_all_again(reader, records, tmp_path):
    s = ReadingSession(records, out=tmp_path/'r.csv', reader=reader)
    s.read(2); s.go(1); s.read(None)
    again = ReadingSession(records, out=tmp_path/'r.csv', reader=reader)
    assert again.given == s.given and len(again.given) == 2
    again.go(2); again.read(1)
    assert len((tmp_path/'r.csv').read_text().splitlines()) == 4 and set(again.readings.reader) == {reader.strip()}

def test_two_sessions_of_one_reader_lose_nothing(records, tmp_path):
    a, b = (ReadingSession(records, out=tmp_path/'r.csv') for _ in range(2))
    a.read(0); a.go(1); a.read(1)
    b.go(3); b.read(2)
    assert len(b.given) == 3 and len(ReadingSession(records, out=tmp_path/'r.csv').given) == 3
    a.go(3); a.read(4)                                                        # the same eye again: the last word counts
    assert {i: r['grade'] for i, r in ReadingSession(records, out=tmp_path/'r.csv').given.items()} == {i: r['grade'] for i, r in a.given.items()}
    assert sorted(r['grade'] for r in a.given.values()) == [0, 1, 4]

def test_what_another_session_has_shown_is_not_read_any_more(records, tmp_path):
    a, b = (ReadingSession(records, out=tmp_path/'r.csv') for _ in range(2))
    a.read(0); a.finish()
    before = (tmp_path/'r.csv').read_bytes()
    with pytest.raises(SettingError, match='truth has been shown'): b.read(3)
    assert (tmp_path/'r.csv').read_bytes() == before
    b.finish()
    assert b.shown == a.shown and b.given == a.given and (tmp_path/'r.csv').read_bytes() == before

@pytest.mark.parametrize('row', ['x.jpg,bob,x,,1,,', 'x.jpg,bob,2.5,,1,,', 'x.jpg,bob,99,,soon,yesterday,', 'x.jpg,NA,,reader,,,'])
def test_rows_of_others_stay_as_they_are(row, records, tmp_path):
    "Damaged ones too, and columns that somebody added"
    f = tmp_path/'r.csv'
    f.write_text(f'image,reader,grade,ungradable,seconds,read,shown,note\n{row},"keep, me"\n')
    BlindReading(records, out=f).read(2)
    s = ReadingSession(records, out=f)
    s.go(1); s.read(None)
    lines = f.read_text().splitlines()
    assert lines[1] == f'{row},"keep, me"' and len(lines) == 4 and lines[0].endswith(',note')

def test_a_note_of_ones_own_row_stays(records, tmp_path):
    f = tmp_path/'r.csv'
    s = ReadingSession(records, out=f)
    s.read(1)
    t = pd.read_csv(f, dtype=str).assign(note='look again')
    t.to_csv(f, index=False)
    s.go(1); s.read(2)
    assert pd.read_csv(f).note.tolist()[0] == 'look again' and len(pd.read_csv(f)) == 2

@pytest.mark.parametrize('how', [dict(seed=-1), dict(seed='x'), dict(seed=1.5), dict(seed=True), dict(reader=None), dict(reader=3), dict(out=None), dict(out=3),
                                 dict(out='s3://bucket/r.csv')])
def test_a_setting_that_cannot_be_is_named(how, records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=next(iter(how))): ReadingSession(records, **dict(out='r.csv') | how)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('grade', [True, 2.5, '2', pd.NA, np.array([1, 2]), [1], 5, -1])
def test_what_is_no_grade_is_not_stored(grade, records, tmp_path):
    s = ReadingSession(records, out=tmp_path/'r.csv')
    with pytest.raises(SettingError, match='grade is'): s.read(grade)
    assert not s.given and not (tmp_path/'r.csv').exists()

def test_images_as_paths_are_found_again(records, tmp_path):
    from pathlib import Path
    of_paths = records.assign(image=records.image.map(Path))
    ReadingSession(of_paths, out=tmp_path/'r.csv').read(1)
    assert len(ReadingSession(of_paths, out=tmp_path/'r.csv').given) == 1

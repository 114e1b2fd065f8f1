"Only regular files are read and replaced, permissions hold, tables that cannot run."
import errno, os, signal, socket, stat, time

import pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from retina_nb.core import DataError, Run, RunError, SettingError
from retina_nb.disk import csv_rows, csv_text, file_sha256, file_to_write, make_folder, move_file, new_folder, open_file, plain_cell, read_bytes, read_json, safe_cell, shown_name, write_file, write_json, write_table
from retina_nb.sheets import read_table

posix = pytest.mark.skipif(os.name == 'nt', reason='pipes, devices and permissions of POSIX')

@pytest.fixture
def odd(tmp_path, monkeypatch):
    "Everything that is no regular file"
    os.mkfifo(tmp_path/'pipe'); (tmp_path/'folder').mkdir(); (tmp_path/'to_null').symlink_to('/dev/null'); (tmp_path/'to_pipe').symlink_to('pipe'); (tmp_path/'to_folder').symlink_to('folder')
    monkeypatch.chdir(tmp_path); s = socket.socket(socket.AF_UNIX); s.bind('socket') # its path has to be short
    yield [tmp_path/n for n in ('pipe', 'folder', 'to_null', 'to_pipe', 'to_folder', 'socket')] + ['/dev/null', '/dev/zero', '/dev/full', '/dev/random']
    s.close()

def look(path): s = os.lstat(path); return stat.S_IFMT(s.st_mode), s.st_ino, s.st_rdev

@posix
def test_what_is_no_file_is_neither_replaced_nor_read(odd):
    for path in odd:
        before, t = look(path), time.time()
        for write in (lambda p: write_file(p, 'x'), lambda p: write_json(p, {}), lambda p: write_table(p, pd.DataFrame(dict(a=[1]))), file_to_write):
            with pytest.raises(SettingError, match='not a file') as e: write(path)
            assert str(path) in str(e.value)
        for read, error in ((read_bytes, OSError), (open_file, OSError), (file_sha256, OSError), (read_json, DataError), (read_table, DataError)):
            with pytest.raises(error, match='is a '): read(path)
        if 'folder' not in str(path):
            with pytest.raises(SettingError, match='not a folder'): make_folder(path)
            with pytest.raises(SettingError, match='not a folder'): write_file(f'{path}/a', 'x')
            with pytest.raises(RunError, match='not a folder'), new_folder(path, replace=True): pass
        assert look(path) == before and time.time() - t < 10 # whoever waits for a pipe waits for ever

@posix
def test_links_are_followed_and_stay(tmp_path):
    (tmp_path/'real').mkdir(); (tmp_path/'real/a').write_text('old'); (tmp_path/'link').symlink_to('real/a'); (tmp_path/'new').symlink_to('real/b'); (tmp_path/'loop').symlink_to('loop')
    write_file(tmp_path/'link', 'new'); write_file(tmp_path/'new', 'there')
    assert (tmp_path/'real/a').read_text() == 'new' and (tmp_path/'real/b').read_text() == 'there' and (tmp_path/'link').is_symlink() and (tmp_path/'new').is_symlink()
    assert sorted(os.listdir(tmp_path/'real')) == ['a', 'b']
    (tmp_path/'to').symlink_to('real')
    with new_folder(tmp_path/'to', replace=True) as d: (d/'c').write_text('c')
    assert os.listdir(tmp_path/'real') == ['c'] and (tmp_path/'to').is_symlink()
    for way in ('x/..', 'real/../real', '.'):
        with pytest.raises(SettingError, match='a folder'): write_file(f'{tmp_path}/{way}', 'x')
    with pytest.raises(OSError) as e: write_file(tmp_path/'loop', 'x')
    assert e.value.errno == errno.ELOOP

@posix
@pytest.mark.parametrize('umask', (0o077, 0o022, 0o002, 0o027))
def test_permissions_are_those_of_the_user(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_file(tmp_path/'new', 'x'); (tmp_path/'old').write_text('x'); (tmp_path/'old').chmod(0o640); write_file(tmp_path/'old', 'y')
        with new_folder(tmp_path/'folder') as d: (d/'a').write_text('a')
        (tmp_path/'kept').mkdir(); (tmp_path/'kept').chmod(0o750)
        with new_folder(tmp_path/'kept', replace=True) as d: pass
        real = file_to_write(tmp_path/'old'); (tmp_path/'tmp').write_text('z'); move_file(tmp_path/'tmp', real)
    finally: os.umask(before)
    mode = lambda n: stat.S_IMODE((tmp_path/n).stat().st_mode)
    assert (mode('new'), mode('old'), mode('folder'), mode('kept')) == (0o666 & ~umask, 0o640, 0o777 & ~umask, 0o750)
    assert (tmp_path/'old').read_text() == 'z' and not [f for f in os.listdir(tmp_path) if f.endswith('.tmp')]

@posix
def test_a_full_disk_leaves_the_old_file(tmp_path):
    import resource
    (tmp_path/'a').write_text('old'); was = resource.getrlimit(resource.RLIMIT_FSIZE); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, was[1]))
    try:
        with pytest.raises(OSError) as e: write_file(tmp_path/'a', b'0'*5000)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, was)
    assert e.value.errno == errno.EFBIG and e.value.filename == str(tmp_path/'a') and os.listdir(tmp_path) == ['a'] and (tmp_path/'a').read_text() == 'old'

def test_sizes_are_not_believed(tmp_path):
    (tmp_path/'a').write_bytes(b'1'*100)
    assert read_bytes(tmp_path/'a', 100) == b'1'*100 and read_bytes(tmp_path/'a') == b'1'*100
    with pytest.raises(OSError, match='limit'): read_bytes(tmp_path/'a', 99)
    if os.path.exists('/proc/self/maps'): # states no size
        assert read_bytes('/proc/self/maps')
        with pytest.raises(OSError, match='limit'): read_bytes('/proc/self/maps', 10)

@pytest.mark.parametrize('text', ['['*100_000, '{"a":'*50_000, '{', '\xff', '[1,]', ''])
def test_json_that_is_none(tmp_path, text):
    (tmp_path/'a.json').write_text(text, encoding='latin1')
    with pytest.raises(DataError, match='a.json: not readable as JSON') as e: read_json(tmp_path/'a.json')
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('text', ['[]', 'null', '3', '"a"', '['*100_000, 'true'])
def test_a_run_with_odd_settings(tmp_path, text):
    (tmp_path/'config.json').write_text(text); (tmp_path/'metrics.json').write_text(text)
    for get in (lambda r: r.config, lambda r: r.task, lambda r: r.metrics):
        with pytest.raises(RunError, match='.json: '): get(Run(tmp_path))

def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b'eye\xff.jpg') if os.name != 'nt' else 'eye\udcff.jpg'
    write_json(tmp_path/'a.json', dict(file=name)); assert read_json(tmp_path/'a.json') == dict(file=name)
    t = pd.DataFrame(dict(file=[name, 'b'], p=[.1, .2])); got = read_table(write_table(tmp_path/'a.csv', t))
    assert list(got['file']) == [shown_name(name), 'b'] and shown_name(name) == 'eye\\xff.jpg' and csv_text([dict(a=name)], ['a']).encode()

RUNS = ['=cmd|1', '+1', '-2+3', '@SUM(A1)', '\t=1', '\r=1', '\n=1', '＝1', "'=1", "''@a"]

def test_formulas_are_text_and_come_back(tmp_path):
    t = pd.DataFrame({'image': RUNS, '=name': RUNS, 'p': [-.5]*len(RUNS), 'grade': range(len(RUNS)), 'note': pd.Categorical(RUNS), 'half': [*RUNS[:5], *[None]*5]})
    text = write_table(tmp_path/'t.csv', t).read_text()
    import csv
    for row in csv.reader(open(tmp_path/'t.csv', newline='')):
        for cell in row: assert cell == '-0.5' or cell[:1] not in tuple('=+-@\t\r\n＝')
    got = read_table(tmp_path/'t.csv')
    assert list(got.columns) == list(t.columns) and all(list(got[c].astype(object).fillna('')) == list(t[c].astype(object).fillna('')) for c in t) and '-0.5' in text

@settings(max_examples=200, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(['a', '=b', 'c d']), st.text(st.characters(codec='utf-8', exclude_characters='\0')), min_size=3, max_size=3), min_size=1, max_size=4))
def test_any_text_comes_back(rows):
    cols = list(rows[0]); text = csv_text(rows, cols, header=True)
    assert csv_rows(text) == [{c: r[c] for c in cols} for r in rows]
    for r in rows:
        for v in r.values(): assert plain_cell(safe_cell(v)) == v and safe_cell(v)[:1] not in tuple('=+-@\t\r\n')

@pytest.mark.parametrize('kind', ('folder', 'file', 'empty'))
def test_what_somebody_put_there_meanwhile_stays(tmp_path, kind):
    out = tmp_path/'out'
    def come():
        if kind == 'file': out.write_text('x')
        else: out.mkdir()
        if kind == 'folder': (out/'precious').write_text('x')
    if kind == 'empty':
        with new_folder(out) as t: (t/'a').write_text('a'); come()
        assert os.listdir(out) == ['a']
    else:
        with pytest.raises(DataError, match='exists already'), new_folder(out, error=DataError) as t: (t/'a').write_text('a'); come()
        assert (out if kind == 'file' else out/'precious').read_text() == 'x'
    assert os.listdir(tmp_path) == ['out']

@pytest.mark.parametrize('replace', (False, True))
def test_a_folder_that_comes_in_the_last_moment_stays_too(tmp_path, monkeypatch, replace):
    "Between the question and the move, and between the two moves of a replacement"
    out, move = tmp_path/'out', os.replace
    out.mkdir()
    if replace: (out/'old').write_text('x')
    def late(a, b):
        if os.fspath(b) == os.fspath(out) and not out.exists(): out.mkdir(); (out/'precious').write_text('x')
        return move(a, b)
    monkeypatch.setattr(os, 'replace', late)
    with pytest.raises(OSError), new_folder(out, replace=replace) as t: (t/'a').write_text('a')
    assert (out/'precious').read_text() == 'x' and len(list(tmp_path.rglob('old'))) == replace and not list(tmp_path.rglob('a'))

def test_a_replacement_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    out, move = tmp_path/'out', os.replace
    out.mkdir(); (out/'old').write_text('x')
    def fail(a, b):
        if os.path.exists(os.path.join(a, 'a')): raise OSError(errno.ENOSPC, 'full')
        return move(a, b)
    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OSError, match='full'), new_folder(out, replace=True) as t: (t/'a').write_text('a')
    assert os.listdir(out) == ['old'] and os.listdir(tmp_path) == ['out']

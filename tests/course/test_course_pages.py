"The pages around the lessons: the front page leads to every lesson, and the timings are read as they are written"
import json, re, sys
from pathlib import Path

import pytest

from retina_nb.core import DataError
from retina_nb.learn import lesson_lines, lesson_table

ROOT = Path(__file__).resolve().parents[2]
COURSE = ROOT/'nbs'/'course'
PAGES = sorted(p for p in COURSE.glob('*.ipynb') if not p.name[0].isdigit())

def cells(page): return json.loads(page.read_text(encoding='utf-8'))['cells']

def test_both_pages_are_there(): assert [p.stem for p in PAGES] == ['index', 'teachers']

def test_the_lessons_are_numbered_without_a_gap():
    table = lesson_table(COURSE)
    assert [int(n[:2]) for n in table.index] == list(range(1, len(table) + 1))
    assert all(3 <= len(a) <= 5 for a in table.able) and table.title.is_unique

def test_every_lesson_is_on_the_front_page():
    said = '\n'.join(''.join(o.get('data', {}).get('text/markdown', '')) for c in cells(COURSE/'index.ipynb') for o in c.get('outputs', ()))
    missing = [n for n in lesson_table(COURSE).index if f'({n})' not in said]
    assert not missing, 'run: make run NB=nbs/course/index.ipynb'

def test_words_in_a_lesson_do_not_break_the_table(tmp_path):
    cells = [dict(cell_type='markdown', source='# A | B\n\n> C.'),
             dict(cell_type='markdown', source='**You will be able to**\n\n- tell <a> from | b;\n- more\n')]
    (tmp_path/'01_a.ipynb').write_text(json.dumps(dict(cells=cells)))
    row = lesson_lines(lesson_table(tmp_path)).splitlines()[-1]
    assert len(re.findall(r'(?<!\\)\|', row)) == 7 and '&lt;a&gt;' in row

@pytest.mark.parametrize('text', ['not json', '[]', '{"cells": 1}'])
def test_what_is_no_lesson_is_named(tmp_path, text):
    (tmp_path/'01_odd.ipynb').write_text(text)
    with pytest.raises(DataError, match='01_odd.ipynb'): lesson_table(tmp_path)

# --- benchmarks/time_course.py
@pytest.fixture
def timing(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT/'benchmarks'))
    import time_course
    monkeypatch.setattr(time_course, 'RESULTS', tmp_path)
    yield time_course
    for name in ('time_course', 'run'): sys.modules.pop(name, None)

def test_rows_are_kept_on_the_same_machine_only(timing, tmp_path):
    first = next(iter(timing.lessons().values())).stem
    rows = [dict(lesson=first), dict(lesson='network'), dict(lesson='77_gone')]
    assert timing.stored() == []
    for cores, kept in ((timing.machine()['cores'], [first, 'network']), (-1, [])):
        (tmp_path/'course.json').write_text(json.dumps(dict(machine={**timing.machine(), 'cores': cores}, rows=rows)))
        assert [r['lesson'] for r in timing.stored()] == kept

def test_an_unknown_lesson_is_told(timing):
    with pytest.raises(SystemExit, match='no lesson 77; there are: network, '): timing.timed(['77'])

def test_memory_and_seconds_of_a_process_are_seen(timing):
    import subprocess
    code = 'x = bytearray(80*2**20)\nimport time\ntime.sleep(.5)'
    found = timing.measured(lambda: subprocess.run([sys.executable, '-c', code], check=True))
    assert found['peak_mb'] > 60 and found['ours'] > .4 and found['processor_seconds'] >= 0

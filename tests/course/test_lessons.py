"The lessons: each runs from top to bottom, its checks say no until something is answered, and yes to its solutions"
import ast, builtins, json, re, zlib
from pathlib import Path

import pytest
from execnb.shell import CaptureShell

COURSE = Path(__file__).resolve().parents[2]/'nbs'/'course'
LESSONS = sorted(COURSE.glob('[0-9][0-9]_*.ipynb'))
ASKS = re.compile(r"^check\(\s*['\"](\d+\.\d+)['\"]", re.M)

def cells(lesson): return json.loads(lesson.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def asked(lesson): return [m for c in cells(lesson) if c['cell_type'] == 'code' for m in ASKS.findall(source(c))]

LONG = [[p for p in LESSONS if p.stem[:2] in numbers] for numbers in (('03', '05', '08', '09'), ('04', '06', '07'))] # each more than half a minute
TEXT = ''.join(source(c) for p in LESSONS for c in cells(p))
LEFT = [p for some in LONG for i, p in enumerate(some) if i != zlib.crc32(TEXT.encode()) % len(some)] # one of each is drawn, anew when any lesson changes
RUN = [pytest.param(p, id=p.stem, marks=[pytest.mark.full]*(p in LEFT)) for p in LESSONS] # all of them in make test-full

def solutions(lesson):
    "Exercise -> the code of its solution, from the file in percent format beside the lesson"
    parts = re.split(r'^# %% (\d+\.\d+).*$', (COURSE/'solutions'/f'{lesson.stem}.py').read_text(encoding='utf-8'), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))

def given(code):
    "Names to which a cell gives a value that is no ..."
    def names(t): return {n.id for n in ast.walk(t) if isinstance(n, ast.Name)}
    assigned = [n for n in ast.parse(code).body if isinstance(n, ast.Assign)]
    return set().union(*(names(t) for n in assigned for t in n.targets if not any(getattr(e, 'value', 0) is ... for e in ast.walk(n.value))))

def asked_for(code):
    "Names that a cell takes from outside"
    used = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)]
    return {n.id for n in used} - {n.id for n in used if isinstance(n.ctx, ast.Store)}

def verdict(shell, code):
    "Run a cell whose last line is a check, and what it said"
    shell.run(code)
    assert not shell.exc, f'{shell.exc}\n{code}'
    return shell.result

@pytest.mark.parametrize('lesson', LESSONS, ids=lambda p: p.stem)
def test_its_form(lesson):
    "Able to, exercises with hints and one check each, what goes wrong, five lines; every exercise has a solution, and no other"
    texts = [source(c) for c in cells(lesson) if c['cell_type'] == 'markdown']
    whole, names = '\n'.join(texts), asked(lesson)
    assert 'You will be able to' in whole and '## What goes wrong in practice' in whole and '## The same on ' in whole
    last = re.search(r'^## In five lines\n(.*?)(?=\n## |\Z)', whole, re.M | re.S)
    assert last and len(re.findall(r'^(?:[-*]|\d\.) ', last[1].split('\n\n')[1] if last[1].startswith('\n\n') else last[1], re.M)) == 5, 'five lines'
    assert len(names) >= 3 and names == sorted(set(names)) and {n.split('.')[0] for n in names} == {str(int(lesson.stem[:2]))}
    for n in names:
        told = [t for t in texts if f'### Exercise {n}' in t]
        assert len(told) == 1 and '<details>' in told[0] and '</details>' in told[0], f'{n}: one cell with a question and a hint that folds out'
    assert set(solutions(lesson)) == set(names)

@pytest.mark.parametrize('lesson', LESSONS, ids=lambda p: p.stem)
def test_a_solution_takes_the_place_of_the_whole_cell(lesson):
    "Who pastes it over the cell of the exercise loses nothing that the cell had set up"
    for c in cells(lesson):
        if c['cell_type'] == 'code' and (m := ASKS.search(source(c))):
            lost = given(source(c)) & asked_for(solutions(lesson)[m[1]])
            assert not lost, f'the solution of {m[1]} needs {", ".join(lost)} from the cell that it replaces'

def stored(code):
    "Names that a cell gives a value to, by whatever way"
    nodes = list(ast.walk(ast.parse(code)))
    return ({n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} | {n.arg for n in nodes if isinstance(n, ast.arg)}
            | {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))} | {(a.asname or a.name).split('.')[0] for n in nodes
               if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names})

@pytest.mark.parametrize('lesson', LESSONS, ids=lambda p: p.stem)
def test_solutions_know_every_name_that_they_use(lesson):
    "From the lesson, or from an import of their own: a lesson that drops an import must not break its solutions"
    code = [source(c) for c in cells(lesson) if c['cell_type'] == 'code']
    known = set(dir(builtins)).union(*(stored(re.sub(r'^[!%].*$', '', c, flags=re.M)) for c in code if not c.startswith('%%')))
    for n, text in solutions(lesson).items():
        used = {m.id for m in ast.walk(ast.parse(text)) if isinstance(m, ast.Name)}
        assert not (lost := used - known - stored(text)), f'the solution of {n} uses {", ".join(sorted(lost))}, which nothing defines'

@pytest.mark.parametrize('lesson', RUN)
def test_its_checks(lesson, monkeypatch, tmp_path):
    "The lesson runs; untouched, every check says that there is no answer; then each solution, in the same kernel, is right"
    monkeypatch.chdir(tmp_path)   # what a lesson writes stays here
    monkeypatch.setenv('IN_TEST', '1')
    shell, red, code = CaptureShell(path=str(tmp_path)), {}, [c for c in cells(lesson) if c['cell_type'] == 'code']
    for c in code:
        if re.match(r'\s*!', source(c).split('\n')[-1]) and 'colab' in source(c).lower(): continue
        said = verdict(shell, source(c))
        if m := ASKS.search(source(c)): red[m[1]] = said
    assert set(red) == set(asked(lesson))
    for n, v in red.items(): assert not v and 'no answer yet' in v.said, f'{n} is answered in the untouched lesson: {v}'
    for n, text in solutions(lesson).items():
        v = verdict(shell, text)
        assert v and v.number == n, f'the solution of {n}: {v}'

@pytest.mark.parametrize('page', ['index', 'teachers'])
def test_the_pages_around_them_run(page, monkeypatch):
    "nbdev_test leaves this folder to these tests; they stand here because the network that lessons share is trained once a file"
    monkeypatch.chdir(COURSE)
    shell = CaptureShell(path=str(COURSE))
    for c in cells(COURSE/f'{page}.ipynb'):
        if c['cell_type'] == 'code': verdict(shell, source(c))

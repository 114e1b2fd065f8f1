"What `make test` says of coverage is what coverage.py says"
import subprocess, sys

KINDS = '''"words"
from __future__ import annotations
import functools

def plain(x):
    "words"
    if x > 2: return 1
    elif x > 1:
        y = (1 +
             2)
    else:
        y = 3
    for i in range(x):
        y += i
    else:
        y -= 1
    while y > 90: y -= 1
    try:
        if x == 1: raise ValueError
    except ValueError:
        y = 0
    except KeyError:
        y = 1
    finally:
        y += 1
    with open(__file__) as f:
        f.read(1)
    match x:
        case 1:
            y += 1
        case _:
            y += 2
    return [a
            for a in range(y)]

class A:
    "words"
    n = 1
    @property
    def p(self):
        return self.n
    @functools.lru_cache
    def never(self):
        return 9

async def a():
    return 1

def told():
    global n
    n = 1
    "words in passing"
    return n

plain(1); A().p
told()
'''
LOOK = '''import sys
sys.path.insert(0, sys.argv[1])
import coverage
from pathlib import Path
cov = coverage.Coverage(data_file=None, source=['planted'])
cov.start()
import hits
hits.install('planted')
import planted.kinds
cov.stop()
hits.write('.')
f = planted.kinds.__file__
theirs = set(cov.get_data().lines(f))
mine = coverage.CoverageData(str(next(Path('.').glob('.coverage.p*'))))
mine.read()
parser = coverage.parser.PythonParser(filename=f)
parser.parse_source()
a, b = (parser.translate_lines(x) & parser.statements for x in (theirs, mine.lines(f)))
assert a == b and 0 < len(a) < len(parser.statements), (sorted(a - b), sorted(b - a))
assert not Path(planted.kinds.__cached__ or 'none').exists()
print(planted.kinds.plain.__doc__, planted.kinds.__doc__, planted.kinds.A.__doc__)
'''

def test_every_kind_of_statement_counts_as_with_coverage(root, tmp_path):
    (tmp_path/'planted').mkdir()
    (tmp_path/'planted'/'__init__.py').touch()
    (tmp_path/'planted'/'kinds.py').write_text(KINDS)
    (tmp_path/'look.py').write_text(LOOK)
    r = subprocess.run([sys.executable, 'look.py', str(root/'tools')], cwd=tmp_path, capture_output=True, text=True)
    assert r.stdout.split() == ['words']*3, r.stderr

"Every command answers a slip in one line, and says what was meant."
import shlex, subprocess, sys

import pytest

from retina_nb.commands import command_line, did_you_mean, next_command, unknown

def run(code, *args, **kw): return subprocess.run([sys.executable, *code, *args], capture_output=True, text=True, timeout=120, **kw)

@pytest.fixture(scope='module')
def command(tmp_path_factory):
    "A program such as pip makes of an entry in `console_scripts`"
    d = tmp_path_factory.mktemp('bin')
    (d/'own.py').write_text('from fastcore.script import Param, store_true\nfrom retina_nb.commands import call_parse, one_line_errors\n@call_parse\n@one_line_errors\n'
        'def retina_own(data:str, # a folder\n    files:Param("files", str, nargs="*", opt=False)=None, # more\n    size:int=3, # pixels\n    no_pretrained:store_true=False, # afresh\n'
        '    loss:Param("loss", str, choices=["ce", "corn"])="ce", # the loss\n    threshold:float|None=None): # a share\n    "Do it"\n    if data == "disk": raise OSError(27, "File too large", "x.csv")\n    if data == "name": print("eye\\udcff.jpg"); return\n'
        '    if data == "ram": raise MemoryError("11 GB")\n    print(data, files, size, no_pretrained, loss, threshold)\n')
    (d/'retina_own').write_text('import sys\nfrom own import retina_own\nif __name__ == "__main__": sys.exit(retina_own())\n')
    return lambda *args: run([str(d/'retina_own')], *args)

@pytest.mark.parametrize('args,says', [
    (['--sise', '96', 'a'], 'did you mean --size?'), (['a', '--no-pretrained'], 'did you mean --no_pretrained?'), (['a', '--sise=96'], 'did you mean --size?'), (['a', '--loss', 'cron'], 'did you mean corn?'),
    (['a', '--size', 'big'], "invalid int value: 'big'"), (['a', '--size'], 'expected one argument'), ([], 'required: data'), (['a', '--zzz'], '--zzz: no such option'), (['a', '—size', '5', '--x'], 'no such option')])
def test_a_slip_is_one_line(command, args, says):
    r = command(*args)
    assert r.returncode == 2 and not r.stdout and r.stderr.count('\n') == 1 and r.stderr.startswith('error: ') and says in r.stderr and '--help' in r.stderr, r.stderr

def test_a_right_line_and_help(command):
    assert command('a', 'b', 'c', '--size', '5', '--no_pretrained', '--threshold', '.5').stdout == "a ['b', 'c'] 5 True ce 0.5\n"
    assert command('a').stdout.startswith('a ') and 'pixels' in command('--help').stdout and command('--help').returncode == 0

@pytest.mark.parametrize('what,says', [('disk', 'x.csv: the disk is full'), ('ram', 'memory ran out (11 GB)')])
def test_ends_of_the_machine_are_one_line(command, what, says):
    r = command(what); assert r.returncode == 2 and r.stderr.count('\n') == 1 and says in r.stderr

def test_a_name_that_is_no_text_can_be_printed(command):
    r = command('name'); assert r.returncode == 0 and r.stdout == 'eye\\udcff.jpg\n'

@pytest.mark.parametrize('name,wing', [('retina_cache', 'data'), ('retina_get', 'data'), ('retina_explore', 'explore'), ('retina_sample', 'synth'), ('retina_grade', 'deploy'), ('retina_check', 'deploy')])
def test_the_commands_do(name, wing, tmp_path):
    (tmp_path/name).write_text(f'import sys\nfrom retina_nb.{wing} import {name}\nif __name__ == "__main__": sys.exit({name}())\n')
    r = run([str(tmp_path/name)], 'a', 'b', '--no_such_thing')
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and r.stderr.startswith('error: ') and f'{name} --help' in r.stderr, r.stderr

def test_all_commands_go_through_one_place():
    from pathlib import Path
    root = Path(__file__).resolve().parents[1]/'retina_nb'
    for f in root.rglob('*.py'):
        for line in f.read_text(encoding='utf-8').splitlines():
            assert not ('fastcore.script' in line and 'call_parse' in line and line.startswith(('from', 'import'))), f'{f.name}: {line}'

def test_what_to_type_next(capsys):
    next_command('retina_evaluate', 'runs/my first', data="o'brien", out=None, skip_bad=True, int8=False, seed=3)
    out = capsys.readouterr().out
    assert out.startswith('next: ') and shlex.split(out[6:]) == ['retina_evaluate', 'runs/my first', '--data', "o'brien", '--skip_bad', '--seed', '3']
    next_command('retina_check', 'b', file=sys.stderr); assert capsys.readouterr().err == 'next: retina_check b\n' and command_line('a') == 'a'

def test_what_was_meant():
    assert str(unknown('loss', 'cor', ['ce', 'corn'])) == "unknown loss 'cor': choose one of ce, corn; did you mean corn?"
    assert not did_you_mean('', ['a']) and not did_you_mean('zz', []) and did_you_mean('DR', ['dr', 'oct']) == '; did you mean dr?' and did_you_mean(3, [2, 30])

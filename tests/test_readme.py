"What the home page shows can be typed as it stands"
import ast, json, os, re, sys

import pytest

import checks
import website
import wheel_gate

def _block(root, language): return re.search(rf'```{language}\n(from .*?)```', (root/'README.md').read_text(), re.S)[1]

def test_names_exist(root):
    "Every name that the example imports is one of the face it is imported from"
    shown = website.plug.faces(str(root/'nbs'))
    for n in ast.parse(_block(root, 'python')).body:
        if not isinstance(n, ast.ImportFrom): continue
        wing = n.module.removeprefix('retina_nb.')
        assert wing in shown, f'{n.module} is no wing'
        assert {a.name for a in n.names} <= {x for names in shown[wing].values() for x in names}, f'{n.module} lacks some of {[a.name for a in n.names]}'

def test_it_is_short_and_names_what_people_look_for(root):
    text = (root/'README.md').read_text()
    assert len(text.splitlines()) < 90 and '![' in text
    for words in ('pip install "retina_nb[all]"', 'git clone', 'make demo', 'make test', 'retina_get', 'pretrained=False'): assert words in text, words
    code = _block(root, 'python').splitlines()
    assert len([s for s in code if s.strip()]) <= 12

def test_the_result_is_the_measured_one(root):
    "The figure on the home page is that of the file it names, as it stands now"
    rows = json.loads((root/'benchmarks/results/idrid_defaults.json').read_text())['nested']
    text = (root/'README.md').read_text()
    for who, around in (('this package', '**'), ('plain fastai', '')):
        qwk = rows[who]['qwk']
        assert f"{around}{qwk['value']:.2f} ({qwk['ci95'][0]:.2f} to {qwk['ci95'][1]:.2f}){around}" in text

def test_commands_exist(root):
    shown = set(re.findall(r'\bretina_(?!nb\b)\w+', (root/'README.md').read_text()))
    assert len(shown) >= 5 and shown <= {s for s, *_ in checks.console_scripts(root)}

def test_make_targets_exist(root):
    targets = set(re.findall(r'^([a-z-]+):', (root/'Makefile').read_text(), re.M))
    for page in ('README.md', 'CONTRIBUTING.md', 'benchmarks/README.md'):
        code = re.findall(r'```.*?```|`[^`\n]+`', (root/page).read_text(), re.S) # in prose "make" is a word
        used = set(re.findall(r'\bmake ([a-z-]+)\b', '\n'.join(code)))
        assert used and used <= targets, f'{page}: {used - targets}'

@pytest.mark.full
def test_example_runs(root, tmp_path):
    "The example itself, on synthetic photographs, small and for one epoch; `make wheel` types it beside the installed wheel"
    assert wheel_gate.example_faults(sys.executable, root, tmp_path, {**os.environ, 'MPLBACKEND': 'Agg'}) == []

def test_an_example_that_fails_is_seen(tmp_path):
    "The check of the example can fail: when it raises, when it leaves nothing, when the README no longer holds it"
    (tmp_path/'away').mkdir()
    def _faults(code):
        (tmp_path/'README.md').write_text(f'# x\n```python\n{code}\n```\n')
        return wheel_gate.example_faults(sys.executable, tmp_path, tmp_path/'away', os.environ)
    marks = 'synth:500 size=224 epochs=10'
    assert _faults(f'from os import path # {marks}\nraise ValueError("no such thing")') == ["README's example does not run: ValueError: no such thing"]
    assert len(_faults(f'from os import path # {marks}')) == 3
    with pytest.raises(ValueError, match='synth:500'): _faults('from os import path')

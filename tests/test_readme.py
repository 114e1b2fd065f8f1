"What the home page shows can be typed as it stands"
import ast, os, re, subprocess, sys

import pytest

import checks

def _block(root, language): return re.search(rf'```{language}\n(from .*?)```', (root/'README.md').read_text(), re.S)[1]

def test_names_exist(root):
    "Every name that the example imports is defined in the module it is imported from"
    for n in ast.parse(_block(root, 'python')).body:
        if not isinstance(n, ast.ImportFrom): continue
        module = root/f"{n.module.replace('.', '/')}.py"
        assert module.exists(), f'{n.module} does not exist'
        defined = {d.name for d in ast.parse(module.read_text()).body if isinstance(d, (ast.FunctionDef, ast.ClassDef))}
        assert {a.name for a in n.names} <= defined, f'{n.module} lacks {[a.name for a in n.names]}'

def test_commands_exist(root):
    shown = set(re.findall(r'\bretina_(?!nb\b)\w+', (root/'README.md').read_text()))
    assert len(shown) >= 5 and shown <= {s for s, *_ in checks.console_scripts(root)}

def test_make_targets_exist(root):
    targets = set(re.findall(r'^([a-z-]+):', (root/'Makefile').read_text(), re.M))
    for page in ('README.md', 'CONTRIBUTING.md', 'benchmarks/README.md'):
        used = set(re.findall(r'\bmake ([a-z-]+)\b', re.sub(r'^(?!.*[`#]).*$', '', (root/page).read_text(), flags=re.M)))
        assert used <= targets, f'{page}: {used - targets}'

@pytest.mark.full
def test_example_runs(root, tmp_path):
    "The example itself, on synthetic photographs, small and for one epoch"
    code = _block(root, 'python')
    for old, new in (('"path/to/idrid"', '"synth:120"'), ('size=224', 'size=64'), ('epochs=10', 'epochs=1'), ('grader("eye.jpg")', 'grader(records.image[0])'),
                     ('arch="resnet18"', 'arch="resnet18", pretrained=False')):
        assert old in code
        code = code.replace(old, new)
    r = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, 'MPLBACKEND': 'Agg'})
    assert r.returncode == 0, r.stderr[-2000:]
    assert (tmp_path/'runs/first/metrics.json').exists() and (tmp_path/'bundles/first/SHA256SUMS').exists()

"""The wheel as users get it: built, installed alone, used from another folder.

`wheel_faults` takes a minute: an environment that sees the wheel and, beside it, the pinned packages that are here already.
`install_faults` takes several and some 7 GB: pip brings everything that the wheel asks for, as on a stranger's machine, and the
README's example is typed there."""
import os, re, shlex, shutil, subprocess, sys, venv, zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checks

PYTHON = Path(sys.executable)
CPUS = os.cpu_count() or 1

SMOKE = """
import importlib, pkgutil, sys
from pathlib import Path
import retina_nb
assert Path(retina_nb.__file__).is_relative_to(sys.prefix), f'imported from {retina_nb.__file__}, not from the wheel'
names = [m.name for m in pkgutil.walk_packages(retina_nb.__path__, 'retina_nb.')]
public = 0
for n in names:
    m = importlib.import_module(n)
    if not hasattr(m, '__path__'): continue
    for name in m.__all__: getattr(m, name)  # a face brings each of its names
    public += len(m.__all__)
from retina_nb.data.records import load_records
from retina_nb.synth.dataset import sample_dir
print(f'{len(names)} modules imported from the wheel, {public} names of their faces, {len(load_records(sample_dir()))} sample images')
"""

def built_wheel(root, tmp):
    "Build the wheel from a copy of the package in `tmp`: (its path, what is wrong with it)"
    src = tmp/'src'
    src.mkdir()
    shutil.copytree(root/checks.PACKAGE, src/checks.PACKAGE, ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('setup.py', 'settings.ini', 'README.md', 'LICENSE', 'MANIFEST.in'):
        if (root/f).exists(): shutil.copy(root/f, src)
    r = subprocess.run([PYTHON, '-m', 'build', '--wheel', '--no-isolation', '--outdir', tmp/'dist', src], cwd=tmp, env=outside(tmp), text=True,
                       capture_output=True, stdin=subprocess.DEVNULL)
    if r.returncode: return None, [f'the wheel cannot be built: {last_line(r)}']
    whl = next((tmp/'dist').glob('*.whl'))
    with zipfile.ZipFile(whl) as z: packed = set(z.namelist())
    ours = {p.relative_to(src).as_posix() for p in (src/checks.PACKAGE).rglob('*') if p.is_file()}
    return whl, [f'the wheel lacks {f}' for f in sorted(ours - packed)]

def outside(tmp):
    "An environment that does not know this checkout"
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}
    return {**env, 'RETINA_NB_CACHE': str(tmp/'cache'), 'MPLBACKEND': 'Agg'}

def last_line(r): return (r.stderr.strip() or r.stdout.strip() or '?').splitlines()[-1]

def wheel_faults(root, tmp, smoke=SMOKE):
    "Faults of the wheel that `root` builds; `tmp` is an empty folder to work in"
    whl, faults = built_wheel(root, tmp)
    if faults: return faults
    env_dir, away, env = tmp/'env', tmp/'away', outside(tmp)
    away.mkdir()
    def _run(*cmd): return subprocess.run([str(c) for c in cmd], cwd=away, env=env, text=True, capture_output=True, stdin=subprocess.DEVNULL)

    python = env_dir/'bin'/'python'
    r = _run(PYTHON, '-m', 'venv', '--without-pip', env_dir)
    if r.returncode: return [f'no environment for the wheel: {last_line(r)}']
    # A .pth line adds the pinned packages to the path without reading their own .pth files, so an editable install stays behind.
    site = next((env_dir/'lib').glob('python*/site-packages'))
    pth, pinned = site/'pinned.pth', next(p for p in sys.path if p.endswith('site-packages'))
    pth.write_text(pinned + '\n')
    if _run(python, '-c', f'import {checks.PACKAGE}').returncode == 0: return ['the environment of the wheel sees the checkout']
    if _run(python, '-c', 'import numpy').returncode: return ['the environment of the wheel does not see the pinned packages']
    pth.unlink()  # pip must not take the editable install's metadata for this package
    r = _run(PYTHON, '-m', 'pip', '--python', python, '--disable-pip-version-check', 'install', '--quiet', '--no-index', '--no-deps', whl)
    if r.returncode: return [f'the wheel cannot be installed: {last_line(r)}']
    pth.write_text(pinned + '\n')

    r = _run(python, '-c', smoke)
    if r.returncode: return [f'the installed wheel does not work: {last_line(r)}']
    print(r.stdout.strip())
    scripts = [s for s, *_ in checks.console_scripts(root)]
    def _help(s):
        if not (env_dir/'bin'/s).exists(): return f'{s} is not installed by the wheel'
        r = _run(env_dir/'bin'/s, '--help')
        return '' if r.returncode == 0 and 'usage' in r.stdout.lower() else f'{s} --help fails: {last_line(r)}'
    with ThreadPoolExecutor(min(CPUS, 4)) as pool: faults = [f for f in pool.map(_help, scripts) if f]
    if not faults: print(f'{len(scripts)} commands answer --help')
    return faults

README_SMALLER = ('synth:500', 'synth:120'), ('size=224', 'size=64'), ('epochs=10', 'epochs=1')

def readme_example(root):
    "The README's Python example, on fewer and smaller photographs for one epoch"
    code = re.search(r'```python\n(from .*?)```', (root/'README.md').read_text(), re.S)[1]
    for old, new in README_SMALLER:
        if old not in code: raise ValueError(f"README's example does not hold {old}: correct README_SMALLER in tools/wheel_gate.py")
        code = code.replace(old, new)
    return code

def example_faults(python, root, away, env):
    "Type the README's example with `python` in the empty folder `away`"
    r = subprocess.run([python, '-c', readme_example(root)], cwd=away, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    if r.returncode: return [f"README's example does not run: {last_line(r)}"]
    left = 'runs/first/metrics.json', 'runs/first/SHA256SUMS', 'bundles/first/SHA256SUMS'
    return [f"README's example leaves no {f}" for f in left if not (away/f).exists()]

def install_faults(root, tmp, extra='all'):
    "Faults of `pip install WHEEL[extra]` in an environment with nothing in it, and of the README's example there"
    whl, faults = built_wheel(root, tmp)
    if faults: return faults
    venv.EnvBuilder(with_pip=True, symlinks=os.name != 'nt').create(tmp/'env')
    python, away = tmp/'env'/'bin'/'python', tmp/'away'
    away.mkdir()
    pip = [python, '-m', 'pip', '--disable-pip-version-check', 'install', '--quiet', *shlex.split(os.environ.get('RETINA_NB_PIP_ARGS', ''))]
    r = subprocess.run([*pip, f'{whl}[{extra}]', '-c', root/'constraints.txt'], cwd=away, env=outside(tmp), text=True, capture_output=True)
    if r.returncode: return [f'pip cannot install the wheel: {last_line(r)}']
    r = subprocess.run([*pip[:4], 'check'], cwd=away, env=outside(tmp), text=True, capture_output=True)
    if r.returncode: return [f'pip check finds: {s}' for s in r.stdout.splitlines()]
    return example_faults(python, root, away, outside(tmp))

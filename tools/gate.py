"""Everything that must hold before a commit, in order, stopping at the first that does not: python tools/gate.py [--full] [GATE...]

Run by `make test`. GATE names some of them to run alone: modules notebooks fresh readme layers lint signatures javascript (in
seconds), nbdev_test pytest site wheel (in minutes), and install (by name or with --full only: it fills some 7 GB). --full includes the long tests (pytest marker `full`) and every long notebook.
--list-faults WING lists all that the quick ones find in a wing's notebooks and modules."""
import os, re, subprocess, sys, tempfile, time, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checks, linters, rules
from fresh import outputs_fresh
from notebooks import ROOT
from wheel_gate import install_faults, wheel_faults

PYTHON = Path(sys.executable)
CPUS = os.cpu_count() or 1
MEMORY = os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')//2**30  # of the machine, in GB
WORKERS = max(1, min(CPUS, 8, MEMORY//3))  # of the long gates; one with torch, and what it starts, may take 3 GB

class Fault(Exception): "A check found something: its faults and the sentence that says what to run"

def held(faults, then):
    "Raise `Fault` when there are faults; `then` says what to do about them"
    if faults: raise Fault('\n'.join(f'  - {f}' for f in faults[:30]) + (f'\n  - and {len(faults)-30} more' if len(faults) > 30 else ''), then)

def stream(*cmd, env=None):
    "Run a command, show its output as it comes, return (status, lines)"
    env = {**os.environ, 'PYTHONUNBUFFERED': '1', **(env or {})}
    with subprocess.Popen([str(c) for c in cmd], cwd=ROOT, env=env, text=True, errors='replace', bufsize=1,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
        lines = []
        for line in p.stdout:
            print(line, end='', flush=True)
            lines.append(line.rstrip())
    return p.returncode, lines

# --- the quick ones
def modules_in_step():
    held(checks.modules_in_step(ROOT), 'Edit the notebook, not the module, then run: make prepare')
    held(checks.commands_declared(ROOT), 'Correct console_scripts in settings.ini, then run: make test')

def notebooks_clean():
    held(checks.notebooks_clean(ROOT), 'Run: make prepare. Where outputs are missing or wrong, run: make run NB=nbs/NAME.ipynb')
    for rule in (rules.titles, rules.length, rules.imports_alone, rules.export_cells, rules.shown_cells, rules.figures_described):
        held(rule(ROOT), 'Correct the cell (CONTRIBUTING.md, "How a notebook is written"), then run: make prepare')
    held(checks.site_in_place(ROOT), 'Correct the files of the site (CONTRIBUTING.md, "Add a notebook"), then run: make test')

def outputs_as_fresh_as_the_code(): held(outputs_fresh(ROOT), 'Run: make run-stale')

def readme_in_step():
    held(checks.readme_in_step(ROOT), 'Edit nbs/index.ipynb, then run: make readme')
    held(checks.links_hold(ROOT), 'Correct the links in the notebooks (README.md: nbs/index.ipynb and make readme), then run: make test')

def import_layers():
    then = 'Move the import, or the function, to where the layers allow it (CONTRIBUTING.md, "Layers"), then run: make prepare'
    held(linters.wings_in_order(ROOT), then)
    held(checks.layers_hold(ROOT), then)
    held(linters.imports_declared(ROOT), 'Correct the requirements in settings.ini (CONTRIBUTING.md, "Dependencies"), then run: make test')
    held(checks.pins_complete(ROOT), 'Pin it in constraints.txt, then run: make test')
    held(checks.base_suffices(ROOT), 'Import it inside the function that needs it, then run: make prepare')
    held(checks.imports_are_light(ROOT), 'Import it inside the function that needs it, then run: make prepare')
    held(rules.windows_can_import(ROOT), 'Import it where it is used, then run: make prepare')

def lint(): held(linters.ruff_finds_nothing(ROOT), 'Correct it (.venv/bin/ruff check --fix mends some of it), then run: make prepare')

def signatures():
    held(rules.faces_hold(ROOT), 'Correct the list in the notebook of the face, then run: make prepare')
    held(rules.docments(ROOT), 'Write the docstring or the comment into the notebook, then run: make prepare')
    held(linters.types_hold(ROOT), 'Correct the annotation or the call, then run: make prepare')

def javascript():
    "The panel's own front-end code, with the Node.js that came with the type checker; the linter comes from npm, once"
    def _make(target): return subprocess.run(['make', '-s', target, f'VENV={sys.prefix}'], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if _make('js-packages').returncode: return 'NOT LOOKED AT, as npm could not fetch the packages of package-lock.json (make js says more)'
    r = _make('js')
    held([s for s in (r.stdout + r.stderr).splitlines() if s.strip()][-30:] if r.returncode else [], 'Correct it, and run it alone: make js')

# --- the long ones
# Notebooks that take a minute or more of a core each, half of the time of all: one in three of them is drawn, anew when any module changes,
# and all of them with --full. What is stored in them is as fresh as the code in any case: the gate `fresh` says so
LONG_PAGES = ('20_demo', '84_watched', '20_scoring', '46_baselines', '48_few_labels', '55_several_gpus', '55_training', '70_compare_runs', '78_uploads',
              '85_shift', '87_lesions', '90_both_eyes')

def left_out():
    "The long notebooks whose turn it is not"
    if '--full' in sys.argv: return []
    turn = zlib.crc32((ROOT/'retina_nb'/'_modidx.py').read_bytes()) % 3
    return [name for i, name in enumerate(LONG_PAGES) if i % 3 != turn]

def notebook_tests():
    """nbdev_test on the notebooks, but for those of the course, which tests/course executes whole, solutions included, and long ones whose
    turn it is not; slow cells too. One thread of computation for each worker, and one small model for those that need any"""
    skipped = left_out()
    if skipped: print('left to make test-full this time:', *skipped, flush=True)
    with tempfile.TemporaryDirectory() as d:
        status, lines = stream(PYTHON.with_name('nbdev_test'), '--n_workers', WORKERS, '--flags', 'slow', '--do_print', '--timing',
                               '--skip_folder_re', r'^[_.]|^course$', '--skip_file_re', '|'.join(['^[_.]', *(rf'^{name}\.ipynb$' for name in skipped)]),
                               env=dict(OMP_NUM_THREADS=str(CPUS//WORKERS), RETINA_NB_SHARED=d))
    if status or 'Success.' not in lines:
        raise Fault('  - nbdev_test failed, see above', 'Correct the notebook, and run it alone: .venv/bin/nbdev_test --path nbs/NAME.ipynb')
    return 'Success.'

def pytest_tests():
    "Every test, files spread over the cores; with --full also what of the package the tests of this process reach, which takes half as long again"
    full = '--full' in sys.argv
    spread = ['-n', WORKERS, '--dist', 'loadfile', '--no-loadscope-reorder'] if WORKERS > 1 else []
    more = ['-m', '', '--cov=retina_nb', '--cov-report='] if full else []
    status, lines = stream(PYTHON, '-m', 'pytest', '-rs', '--durations=15', *spread, *more, 'tests',
                           env=dict(OMP_NUM_THREADS=str(CPUS//WORKERS)))
    last = next((s for s in reversed(lines) if re.search(r'\d+ passed.* in [\d.]+s', s)), '')
    if status or not last: raise Fault('  - pytest failed, see above', 'Correct it, and run it alone: .venv/bin/python -m pytest tests -k NAME')
    return last.strip('= ') + (f', {coverage()}' if full else '')

def coverage():
    "The share of the package's statements that the tests ran, in one line; the notebooks' own tests are not counted"
    r = subprocess.run([PYTHON, '-m', 'coverage', 'report', '--format=total', '--precision=1'], cwd=ROOT, capture_output=True, text=True)
    return f'coverage of retina_nb by pytest alone {r.stdout.strip()}%' if r.returncode == 0 else 'coverage was not measured'

def site():
    "nbdev's half of the documentation site, which needs no Quarto: every page is made and looked at"
    status, _ = stream(PYTHON, ROOT/'tools'/'website.py', 'check')
    if status: raise Fault('  - the site has faults, see above', 'Correct the notebook, and run it alone: .venv/bin/python tools/website.py check')

def wheel():
    "Built from a copy, installed alone beside the pinned packages, used from another folder"
    with tempfile.TemporaryDirectory() as d: held(wheel_faults(ROOT, Path(d)), 'Correct setup.py, settings.ini or the module, then run: make test')

def install():
    "As a stranger does it: pip brings everything, then the README's example is typed"
    with tempfile.TemporaryDirectory() as d: held(install_faults(ROOT, Path(d)), 'Correct setup.py, settings.ini, constraints.txt or README.md, then run: make wheel')

QUICK = {'modules': ('modules in step with the notebooks', modules_in_step), 'notebooks': ('notebooks clean and well written', notebooks_clean),
         'fresh': ('outputs as fresh as the code', outputs_as_fresh_as_the_code), 'readme': ('README and links', readme_in_step),
         'layers': ('import layers and dependencies', import_layers), 'lint': ('ruff', lint), 'signatures': ('docments and types', signatures),
         'javascript': ('JavaScript and CSS of the panel', javascript)}
LONG = {'nbdev_test': ('nbdev_test', notebook_tests), 'pytest': ('pytest', pytest_tests), 'site': ('the site, as far as nbdev makes it', site),
        'wheel': ('the wheel', wheel)}
FULL = {'install': ("the wheel by pip, and README's example", install)}  # some 7 GB: with --full, or by name

def _timed(gate):
    t = time.time()
    try: return gate(), None, time.time() - t
    except Fault as e: return '', e, time.time() - t

def main(only=()):
    "Run the gates in order: the quick ones side by side, then the long ones, each of which uses all cores by itself"
    if unknown := set(only) - {*QUICK, *LONG, *FULL}:
        print(f'no such gate: {", ".join(sorted(unknown))}. There are: {" ".join([*QUICK, *LONG, *FULL])}', file=sys.stderr)
        return 2
    start, closing = time.time(), []
    if d := os.environ.get('RETINA_NB_DATA'): os.environ['RETINA_NB_DATA'] = str(Path(d).absolute())  # notebooks run in nbs/
    gates = {**QUICK, **LONG, **FULL}
    todo = {k: v for k, v in gates.items() if k in only or (not only and (k not in FULL or '--full' in sys.argv))}
    with ThreadPoolExecutor(min(CPUS, 4)) as pool:
        ahead = {k: pool.submit(_timed, QUICK[k][1]) for k in todo if k in QUICK}
        for i, (key, (name, gate)) in enumerate(todo.items(), 1):
            print(f'[{i}/{len(todo)}] {name}', flush=True)
            said, fault, took = ahead[key].result() if key in ahead else _timed(gate)
            if fault:
                faults, then = fault.args
                print(f'{faults}\nmake test: stopped at "{name}". {then}', file=sys.stderr, flush=True)
                pool.shutdown(cancel_futures=True)
                return 1
            print(f'      holds ({took:.0f} s)', flush=True)
            closing.append(f'{name}: {said or "holds"} ({took:.0f} s)')
    print('\n'.join(closing))
    print(f'make test: {"all " if not only else ""}{len(todo)} hold ({time.time()-start:.0f} s)')
    return 0

if __name__ == '__main__':
    args = [a for a in sys.argv[1:] if a != '--full']
    try: sys.exit(checks.main(*args[1:]) if args[:1] == ['--list-faults'] else main(args))
    except KeyboardInterrupt: sys.exit('make test: stopped')

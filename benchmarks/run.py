"""Run the benchmarks of this folder: python benchmarks/run.py [--quick] [NAME...]

Each bench_NAME.py runs in a process of its own; tables are printed, results/NAME.json written. Exit 1 when a benchmark fails
to run; a goal that is missed is said, not punished: the machine may be a slow one."""
import argparse, datetime, importlib, json, os, platform, subprocess, sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = 'numpy', 'pandas', 'pillow', 'opencv-python-headless', 'scikit-learn', 'torch', 'torchvision', 'fastai', 'timm', 'onnxruntime'

def found(folder=HERE): return {p.stem.removeprefix('bench_'): p for p in sorted(folder.glob('bench_*.py'))}

def machine():
    "What the figures depend on: cores, processor, versions"
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists(): cpu = next((s.split(':')[1].strip() for s in info.read_text().splitlines() if s.startswith('model name')), cpu)
    return dict(cpu=cpu, cores=os.cpu_count(), python=platform.python_version(), system=platform.system(),
                versions={p: version(p) for p in PACKAGES})

def number(x): return '' if x is None else f'{x:,.0f}' if abs(x) >= 100 else f'{x:.3g}'

def table(rows):
    "Rows as a Markdown table"
    lines = ['| what | ours | baseline | unit | ratio | lowest to highest | goal | |', '|---|---|---|---|---|---|---|---|']
    for r in rows:
        span = ' to '.join(number(x) for x in r.get('ratio_range', []))
        said = {True: 'reached', False: 'missed'}.get(r.get('reached'), '')
        cells = [r['what'], number(r['ours']), number(r.get('baseline')), r['unit'], number(r.get('ratio')), span, number(r.get('goal')), said]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)

def run_one(name, quick, folder, out):
    "In the process of one benchmark: run it, print its table, write its JSON"
    sys.path[:0] = [str(folder), str(HERE)]
    module = importlib.import_module(f'bench_{name}')
    store(name, module.__doc__, list(module.bench(quick)), quick, out)

def store(name, what, rows, quick, out):
    "Print the table of a benchmark and write its JSON"
    result = dict(name=name, what=what, date=datetime.date.today().isoformat(), quick=quick,
                  threads=int(os.environ['OMP_NUM_THREADS']), machine=machine(), rows=rows)
    print(f'\n## {name}\n\n{what}\n\n{table(rows)}', flush=True)
    out.mkdir(parents=True, exist_ok=True)
    tmp = out/f'{name}.json.tmp'
    tmp.write_text(json.dumps(result, indent=1, default=float) + '\n')
    os.replace(tmp, out/f'{name}.json')

def threads(path):
    "The number of threads that a benchmark asks for by THREADS = n; one without"
    line = next((s for s in path.read_text().splitlines() if s.startswith('THREADS')), 'THREADS = 1')
    return line.split('=')[1].split('#')[0].strip()

def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('names', nargs='*', help='which ones; all without')
    ap.add_argument('--quick', action='store_true', help='less work, rougher figures')
    ap.add_argument('--folder', type=Path, default=HERE, help='where the benchmarks are')
    ap.add_argument('--out', type=Path, default=None, help='where the JSON goes; results/ in that folder without')
    ap.add_argument('--here', help=argparse.SUPPRESS)  # one benchmark, in this process
    a = ap.parse_args(argv)
    out = a.out or a.folder/'results'
    if a.here: return run_one(a.here, a.quick, a.folder, out)
    here = found(a.folder)
    if unknown := set(a.names) - set(here): ap.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(here)}")
    failed = []
    for name in a.names or here:
        n = threads(here[name])
        env = {**os.environ, 'OMP_NUM_THREADS': n, 'OPENBLAS_NUM_THREADS': n, 'MKL_NUM_THREADS': n}
        cmd = [sys.executable, __file__, '--here', name, '--folder', a.folder, '--out', out] + ['--quick']*a.quick
        if subprocess.run([str(c) for c in cmd], env=env).returncode: failed.append(name)
    if failed: sys.exit(f"benchmarks failed to run: {', '.join(failed)}")

if __name__ == '__main__': main()

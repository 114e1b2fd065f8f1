"""How long the lessons of the course take. `make bench ARGS=course` measures all of them, and single ones

    python benchmarks/time_course.py [network] [02 05...]

after which the other rows of results/course.json stay as they are, if this machine made them."""
import json, os, re, shutil, subprocess, sys, tempfile, threading, time
from datetime import date
from pathlib import Path

import nbformat, psutil
from nbclient import NotebookClient

from retina_nb.learn.material import course_folder
from run import HERE, machine, store

COURSE, RESULTS = HERE.parent/'nbs'/'course', HERE/'results'
GOAL = 300 # seconds: what a lesson may take
NOWHERE = 'http://127.0.0.1:9' # nobody listens there, so that a lesson which asks the network fails

def lessons():
    "Number -> notebook, of every lesson"
    return {p.stem[:2]: p for p in sorted(COURSE.glob('[0-9][0-9]_*.ipynb'))}

# --- measuring
def held():
    "Memory of all processes that this one has started, in MB; what they share counts for each"
    total = 0
    for p in psutil.Process().children(recursive=True):
        try: total += p.memory_info().rss
        except psutil.Error: pass # it has ended meanwhile
    return total/2**20

def measured(work):
    "Seconds by the clock, seconds of the processors and the most memory of what `work` does in processes of its own"
    most, done = [0.], threading.Event()
    def _look():
        while not done.wait(.1): most[0] = max(most[0], held())
    looking = threading.Thread(target=_look, daemon=True)
    looking.start()
    before, t = os.times(), time.perf_counter()
    try: work()
    finally:
        seconds, after = time.perf_counter() - t, os.times()
        done.set()
        looking.join()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return dict(ours=seconds, processor_seconds=used, peak_mb=most[0])

def row(name, what, work):
    found = measured(work)
    print(f"{what}: {found['ours']:.0f} s, {found['processor_seconds']:.0f} s of processors, {found['peak_mb']:,.0f} MB", file=sys.stderr, flush=True)
    return dict(what=what, lesson=name, unit='s', goal=GOAL, reached=found['ours'] <= GOAL, **found, date=date.today().isoformat(),
                threads=int(os.environ['OMP_NUM_THREADS']), photographs='RETINA_NB_DATA' in os.environ)

# --- the course
def share_network(): subprocess.run([sys.executable, '-c', 'from retina_nb.learn import course_bundle; course_bundle()'], check=True)

def execute(path, folder):
    "A lesson from top to bottom in a fresh kernel; what it writes goes into `folder`"
    folder.mkdir()
    NotebookClient(nbformat.read(path, as_version=4), timeout=None, kernel_name='python3', store_widget_state=False,
                   resources=dict(metadata=dict(path=str(folder)))).execute()

def alone():
    "No network, the package of this checkout, and figures as in a notebook"
    os.environ.setdefault('OMP_NUM_THREADS', '2')
    os.environ.update(dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'), NOWHERE), no_proxy='127.0.0.1,localhost',
                      NO_PROXY='127.0.0.1,localhost', PYTHONPATH=str(HERE.parent))
    if d := os.environ.get('RETINA_NB_DATA'): os.environ['RETINA_NB_DATA'] = str(Path(d).absolute())
    os.environ.pop('MPLBACKEND', None)

def measure(names, tmp):
    "A row each, every one on a cache that holds the network of the course and nothing else"
    def _cache(name):
        os.environ['RETINA_NB_CACHE'] = str(tmp/name)
        return course_folder()
    trained = course_folder() # in the user's own cache
    if 'network' in names or not (trained/'bundle').is_dir():
        trained = _cache('network')
        yield row('network', 'the network that the lessons share', share_network)
    for n, path in lessons().items():
        if n not in names: continue
        shutil.copytree(trained, _cache(n))
        title = re.match(r'# (.+)', nbformat.read(path, as_version=4).cells[0].source)[1]
        yield row(path.stem, f'{int(n)}. {title}', lambda: execute(path, tmp/f'{n}_runs'))

def stored():
    "Rows that this machine made earlier, of lessons that are still there"
    if not (RESULTS/'course.json').exists(): return []
    old, now = json.loads((RESULTS/'course.json').read_text()), machine()
    same = all(old['machine'][k] == now[k] for k in ('cpu', 'cores'))
    return [r for r in old['rows'] if r['lesson'] in {'network', *(p.stem for p in lessons().values())}] if same else []

def timed(names=()):
    "A row for the network and one for each lesson: those of `names` (all without any) measured now, the others as they were stored"
    names = list(names) or ['network', *lessons()]
    if unknown := set(names) - {'network', *lessons()}: sys.exit(f"no lesson {', '.join(sorted(unknown))}; there are: network, {', '.join(lessons())}")
    alone()
    with tempfile.TemporaryDirectory() as d: now = list(measure(names, Path(d)))
    rows = {r['lesson']: r for r in [*stored(), *now]}
    return sorted(rows.values(), key=lambda r: (r['lesson'] != 'network', r['lesson']))

if __name__ == '__main__':
    import bench_course
    alone()
    store('course', bench_course.__doc__, timed(sys.argv[1:]), False, RESULTS)

"The cache's pool of processes against joblib's loky: speed by the clock, memory of a worker, and what happens when a worker or the parent is killed; on photographs found through RETINA_NB_DATA, without it on drawn eyes."
import os, signal, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median

import cv2, psutil

from retina_nb.core import RunError
from retina_nb.data.pool import run_jobs
from retina_nb.image.preprocess import Preprocess

WHERE, PRE = 'retina_nb.data.cache:_caching', Preprocess(size=16, via=512)

def _job(out, job):
    "One job in a loky process"
    from retina_nb.data.cache import _caching
    cv2.setNumThreads(1)
    return job, _caching(PRE.to_dict(), out)(*job)

def loky(out, jobs, workers=2):
    "The same with joblib"
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.process_executor import BrokenProcessPool
    pool = Parallel(workers, backend='loky', return_as='generator_unordered', pre_dispatch='2*n_jobs', batch_size=1)
    try: yield from pool(delayed(_job)(out, j) for j in jobs)
    except BrokenProcessPool: raise RunError('a worker process was killed') from None
    finally: get_reusable_executor().shutdown(wait=True, kill_workers=True)

def ours(out, jobs, workers=2): yield from run_jobs(WHERE, [PRE.to_dict(), str(out)], jobs, workers=workers)

def photographs(tmp):
    found = sorted(Path(os.environ.get('RETINA_NB_DATA', '')).glob('idrid-fullsize/*.jpg')) if 'RETINA_NB_DATA' in os.environ else []
    if found: return found
    from retina_nb.data import load_records
    return [Path(f) for f in load_records('synth:100').image[:24]]

def workers_of(p):
    "The processes that work for process `p`; loky's helper is none"
    return [c for c in p.children(recursive=True) if 'resource_tracker' not in ' '.join(c.cmdline())]

def speed(pool, jobs, tmp):
    "Images a second from start to end, start of the processes included, and the most that a worker held (MB)"
    most, t = 0, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=tmp) as out:
        for i, _ in enumerate(pool(out, jobs)):
            if i % 16 == 15: most = max([most, *(c.memory_info().rss/2**20 for c in workers_of(psutil.Process()))])
    return len(jobs)/(time.perf_counter()-t), most

def kill_a_worker(pool, jobs, tmp):
    "Seconds until it is told that a worker was killed, and whether all that was answered is on disk"
    with tempfile.TemporaryDirectory(dir=tmp) as out:
        answered = []
        try:
            for job, _ in pool(out, jobs):
                answered.append(job[1])
                if len(answered) == 8:
                    max(workers_of(psutil.Process()), key=lambda p: sum(p.cpu_times()[:2])).kill()
                    t = time.perf_counter()
        except RunError: return time.perf_counter()-t, all((Path(out)/n).is_file() for n in answered)
    raise AssertionError('nobody noticed')

GO = 'import sys, json; sys.path.insert(0, {here!r}); import bench_pool as b\nfor i, _ in enumerate(getattr(b, {name!r})({out!r}, json.loads({jobs!r}))):\n    if i == 3: print("ready", flush=True)'

def kill_the_parent(name, jobs, tmp, how, wait):
    "Seconds until the parent has gone, and how many workers there still are `wait` seconds later"
    import json
    with tempfile.TemporaryDirectory(dir=tmp) as out:
        code = GO.format(here=str(Path(__file__).parent), name=name, out=out, jobs=json.dumps(jobs))
        p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        p.stdout.readline()
        workers, t = workers_of(psutil.Process(p.pid)), time.perf_counter()
        (os.killpg if how == signal.SIGINT else os.kill)(p.pid, how)
        p.wait()
        t = time.perf_counter()-t
        time.sleep(wait)
        left = [c for c in workers if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
        for c in left: c.kill()
        return t, len(left)

def bench(quick=False):
    "Rows for the table"
    with tempfile.TemporaryDirectory() as tmp:
        files, pools = photographs(tmp), dict(ours=ours, loky=loky)
        jobs = [(str(f), f'images/{k}-{f.name}', '') for k in range(2 if quick else 8) for f in files]
        pairs = [[speed(f, jobs, tmp) for f in pools.values()] for _ in range(2 if quick else 5)]
        rates = [[a[0] for a, _ in pairs], [b[0] for _, b in pairs]]
        ratios = [x/y for x, y in zip(*rates)]
        yield dict(what='photographs through two processes, by the clock', ours=median(rates[0]), baseline=median(rates[1]), unit='images/s', ratio=median(ratios), ratio_range=[min(ratios), max(ratios)], load=round(os.getloadavg()[0], 1))
        yield dict(what='memory of a worker at most', ours=max(a[1] for a, _ in pairs), baseline=max(b[1] for _, b in pairs), unit='MB')
        (a, kept_a), (b, kept_b) = (kill_a_worker(f, jobs, tmp) for f in pools.values())
        yield dict(what='a killed worker is told after', ours=a, baseline=b, unit='s', kept=[kept_a, kept_b])
        (a, _), (b, _) = (kill_the_parent(n, jobs, tmp, signal.SIGINT, 0) for n in pools)
        yield dict(what='Ctrl-C ends everything after', ours=a, baseline=b, unit='s')
        (_, a), (_, b) = (kill_the_parent(n, jobs, tmp, signal.SIGKILL, 10) for n in pools)
        yield dict(what='workers alive 10 s after the parent was killed', ours=a, baseline=b, unit='processes')

"Bulk grading: full-size photographs from an object store on this machine against Grader.grade_many on the same files on disk, by processes and by Dask; memory and cost while the number of images grows; listing. Weights are random: only time and memory are measured"
import json, os, resource, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median

from PIL import Image

from retina_nb.deploy import Grader, export
from retina_nb.deploy.bulk_run import grade_bulk
from retina_nb.deploy.engines import ENGINES
from retina_nb.deploy.shards import plan_shards
from retina_nb.storage import place_at
from retina_nb.synth import synth_eye
from bench_grader import photographs, run_folder
from timing import seconds

sys.path.append(str(Path(__file__).resolve().parent.parent/'tests'))
import random_model, stores

THREADS = 2
CORES = len(os.sched_getaffinity(0))

def noted(jpeg, n):
    "The same photograph with a comment, so that its bytes are its own"
    text = f'number {n}'.encode()
    return jpeg[:2] + b'\xff\xfe' + (len(text) + 2).to_bytes(2, 'big') + text + jpeg[2:]

def write_many(where, originals, numbers):
    "Files made distinct, in a folder or an object store"
    place = place_at(str(where))
    with ThreadPoolExecutor(8) as pool: list(pool.map(lambda n: place.write(f'{n:07d}.jpg', noted(originals[n%len(originals)], n)), numbers))

def cpu():
    "Seconds of processor time of this process and of all that it has waited for"
    return sum(u.ru_utime + u.ru_stime for u in (resource.getrusage(o) for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

def timed(f):
    "Wall-clock and processor seconds of a call, and what it returns"
    a, b = time.perf_counter(), cpu()
    found = f()
    return time.perf_counter() - a, cpu() - b, found

class Noting:
    "An engine that notes when each shard is done"
    def __init__(self, name): self.engine, self.at = ENGINES[name], []
    def __call__(self, jobs, **how):
        for told in self.engine(jobs, **how):
            self.at.append(time.perf_counter())
            yield told

def bulk(bundle, where, engine, per_shard):
    """Grade all of a place into a folder of its own: seconds a shard, start-up apart. Counted is from when the first shard of each worker is done,
    on average: by then one worker has done as much of its second as the other lacks of its first"""
    out, noting = tempfile.mkdtemp(), Noting(engine)
    try: found = grade_bulk(bundle, where, f'{out}/out', engine=noting, workers=CORES, per_shard=per_shard, progress=False)
    finally: shutil.rmtree(out)
    assert found['graded'] == found['images'], found
    return (noting.at[-1] - mean(noting.at[:CORES]))/max(1, len(noting.at) - CORES)

def versus(d, store, quick):
    "Blocks of photographs, one after another: grade_many on local files, processes and Dask on the same from the store"
    blocks, n, shards = (2, 48, 8) if quick else (5, 400, 8)
    kind, (files, _) = next(iter(photographs(d).items()))
    originals, bundle = [f.read_bytes() for f in files], export(run_folder(d/'run'), d/'photographs')
    grader, engines = Grader(bundle), ('local', 'dask')
    wall, work, load = [{k: [] for k in ('grade_many', *engines)} for _ in range(2)] + [[]]
    write_many(f'{store}/start', originals, range(CORES))
    start = {e: [timed(lambda: bulk(bundle, f'{store}/start', e, 1)) for _ in range(1 if quick else 3)] for e in engines}
    [*grader.grade_many(files[:4])]
    for b in range(blocks):
        folder, numbers = d/f'block{b}', range(b*n, (b+1)*n)
        folder.mkdir()
        write_many(folder, originals, numbers)
        write_many(f'{store}/{b}', originals, numbers)
        load.append(round(os.getloadavg()[0], 1))
        a, c, _ = timed(lambda: [*grader.grade_many(folder)])
        wall['grade_many'].append(a); work['grade_many'].append(c)
        for e in engines:
            _, c, a = timed(lambda: bulk(bundle, f'{store}/{b}', e, n//shards))
            wall[e].append(a*shards)
            work[e].append(c - median(o[1] for o in start[e]))
        shutil.rmtree(folder)
    for e, least in zip(engines, (.85, .75)):
        for key, got, unit, goal in ((e, wall, 'second', least), (f'{e}_cpu', work, 'second of processor time', None)):
            ratios = [y/x for x, y in zip(got[e], got['grade_many'])]
            row = dict(key=key, what=f'{blocks*n:,} photographs ({kind}) from the object store, engine {e}, start-up apart, against grade_many on local files: images a {unit}',
                       unit='images/s', ours=n/median(got[e]), baseline=n/median(got['grade_many']), ratio=median(ratios), ratio_range=[min(ratios), max(ratios)],
                       items=n, seconds_ours=got[e], seconds_baseline=got['grade_many'], load=load)
            yield row | dict(goal=goal, reached=median(ratios) >= goal) if goal else row
        yield dict(key=f'{e}_start', what=f'start of engine {e}, plan and end of {CORES} photographs included', unit='s', ours=median(o[0] for o in start[e]))

WATCHED = """import json, resource, sys
from retina_nb.deploy.bulk_run import grade_bulk
bundle, where, out, workers = sys.argv[1:]
found = grade_bulk(bundle, where, out, workers=int(workers), per_shard=500, progress=False)
own, others = (resource.getrusage(o) for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
peak = next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM')) # maxrss is inherited
print(json.dumps([found['graded'], sum(u.ru_utime + u.ru_stime for u in (own, others)), peak/1024, others.ru_maxrss/1024]))
"""

def watched(bundle, where, out):
    "Grade in a process of its own: wall-clock seconds, images, processor seconds, peak memory of the process and of its largest worker in MB"
    r = []
    took = seconds(lambda: r.append(subprocess.run([sys.executable, '-c', WATCHED, str(bundle), str(where), str(out), str(CORES)], stdout=subprocess.PIPE, text=True, check=True)))
    return took, *json.loads(r[0].stdout)

def growing(d, quick):
    "Small images on disk: what one costs, and what memory it takes, while their number grows"
    sizes = (200, 1000, 2000) if quick else (1000, 20_000, 100_000)
    originals, bundle, eyes = [], random_model.shared()[1], d/'small'
    for i in range(20):
        Image.fromarray(synth_eye(i, size=96).image).save(d/f'{i}.jpg')
        originals.append((d/f'{i}.jpg').read_bytes())
    eyes.mkdir()
    found, made = {}, 0
    starts = [watched(bundle, _few(d, originals), d/f'none{i}') for i in range(1 if quick else 3)]
    one, many, most = sizes
    for n in sizes:
        write_many(eyes, originals, range(made, n))
        made = n
        found[n] = watched(bundle, eyes, d/f'out{n}')
        assert found[n][1] == n, f'{found[n][1]} of {n} graded'
        for key, who, i in (('client', 'client', 3), ('worker', 'largest worker', 4)):
            row = dict(key=f'{key}_memory_{n}', what=f'peak memory of the {who}, {n:,} images', unit='MB', ours=found[n][i])
            if n == one: yield row
            else: yield row | dict(baseline=found[one][i], ratio=found[one][i]/found[n][i], goal=1/1.1, reached=found[n][i] <= 1.1*found[one][i])
    for key, what, i in (('cost_cpu', 'processor time', 2), ('cost', 'time', 0)):
        start = median(o[i] for o in starts)
        cost = {n: (found[n][i] - start)/n*1e3 for n in sizes}
        row = dict(key=key, what=f'{what} of a small image, {most:,} against {many:,}, start-up apart', unit='ms', ours=cost[most], baseline=cost[many],
                   ratio=cost[many]/cost[most], cost=cost, load=os.getloadavg()[0])
        yield row if i == 0 else row | dict(goal=1/1.1, reached=cost[most] <= 1.1*cost[many])

def _few(d, originals):
    "A folder with an image for each worker"
    write_many(d/'few', originals, range(CORES))
    return d/'few'

def listing(d, store, quick):
    "How many names a second a plan takes down, from disk and from the object store, and what a name takes of the manifest"
    n, bundle = 1000 if quick else 20_000, random_model.shared()[1]
    for key, where, what in (('names_disk', d/'names', 'a folder'), ('names_store', f'{store}/names', 'the object store')):
        if isinstance(where, Path): where.mkdir()
        place = place_at(str(where))
        with ThreadPoolExecutor(8) as pool: list(pool.map(lambda i: place.write(f'clinic/{i:07d}.jpg', b'\xff\xd8\xff'), range(n)))
        out = d/f'plan {what}'
        took = seconds(lambda: plan_shards(where, out, bundle=bundle))
        yield dict(key=key, what=f'names of {what} written into a plan', unit='names/s', ours=n/took, items=n, bytes=sum(p.stat().st_size for p in out.rglob('*.parquet'))/n)

def bench(quick):
    with tempfile.TemporaryDirectory() as d, stores.s3_running() as address:
        os.environ.update(stores.KEYS, AWS_ENDPOINT_URL=address)
        yield from versus(Path(d), 's3://clinic/photographs', quick)
        yield from growing(Path(d), quick)
        yield from listing(Path(d), 's3://clinic', quick)

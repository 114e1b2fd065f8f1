#!/usr/bin/env python3
"""ab.py [--repeats 7] [--n 60] [--per 1] [--clients 4] [--int8] [name=FOLDER[,extra folder] ...]
Service (one photograph a request, 4 clients) against bare Grader.grade_many on the same files, in turn: wall and processor time.
FOLDER holds a retina_nb package (default: main=/work/main); each variant is a server of its own, all are up at once, one works at a time.
cpu ratio = grade_many's processor time / (server's + client's); wall ratio = grade_many's seconds / the service's."""
import os, sys, argparse, json, subprocess, tempfile, time, threading
os.environ.setdefault('OMP_NUM_THREADS', '2'); os.environ.setdefault('RETINA_NB_DATA', '/work/shared/data')
a = argparse.ArgumentParser(); a.add_argument('--repeats', type=int, default=7); a.add_argument('--n', type=int, default=60)
a.add_argument('--per', type=int, default=1); a.add_argument('--clients', type=int, default=4); a.add_argument('--int8', action='store_true')
a.add_argument('--stub', action='store_true'); a.add_argument('--json'); a.add_argument('--files', type=int, default=10); a.add_argument('variants', nargs='*')
a = a.parse_args()
sys.path[:0] = ['/work/main/benchmarks', '/work/main']
from pathlib import Path
import numpy as np
import bench_service as B
from bench_grader import run_folder, int8_bundle
from retina_nb.deploy import Grader, export
variants = dict(v.split('=', 1) for v in a.variants or ['main=/work/main'])
work = Path('/tmp/w/thr/bundle'); files, which = B.eyes(None, a.files)
if not (work/'fp32').exists():
    work.mkdir(exist_ok=True); export(run_folder(work/'run'), work/'fp32')
bundle = work/'fp32'
if a.int8:
    if not (work/'int8').exists(): int8_bundle(bundle, work/'int8', files)
    bundle = work/'int8'
grader = Grader(bundle); low = B.sure(grader, files); files = (files*a.n)[:a.n]; data = [f.read_bytes() for f in files]
if a.stub: # grading is a sleep: what is left is everything else
    class Script(type(Path())):
        def write_text(self, t): return super().write_text(open('/tmp/w/thr/stubbed.py').read())
    B.Path = Script
def threads(pid): # seconds of each thread, by schedstat
    out = {}
    for t in os.listdir(f'/proc/{pid}/task'):
        try: out[t] = int(open(f'/proc/{pid}/task/{t}/schedstat').read().split()[0])/1e9
        except OSError: pass
    return out
def own(): return sum(threads(os.getpid()).values())
def quiet():
    with open('/proc/stat') as f: p = [int(x) for x in f.readline().split()[1:]]
    return sum(p[:3]) + sum(p[5:8])
with tempfile.TemporaryDirectory(dir='/tmp/w/thr') as d:
    served = {}
    for k, v in variants.items():
        os.environ['PYTHONPATH'] = v.replace(',', ':')
        s = served[k] = B.Served(bundle, Path(d)/f's_{k}', '--low_confidence', f'{low:.6f}')
    os.environ.pop('PYTHONPATH')
    bodies = lambda: B.grouped(data, a.per)
    rows = {k: [] for k in served}; bare = []
    def round_(keep=True):
        def one(f):
            c, w = time.process_time(), time.perf_counter(); q = quiet(); f()
            c, w = time.process_time()-c, time.perf_counter()-w
            return c, w, (quiet()-q)/100
        c, w, m = (1, 1, 1) if a.stub else one(lambda: list(grader.grade_many(files))); bare.append((c, w, m-c))
        for k in (list(served) if len(bare) % 2 else list(served)[::-1]):
            s = served[k]; b = bodies(); t0, cp0 = threads(s.process.pid), B.spent(s.process.pid)
            c, w, m = one(lambda: s.send(b, a.clients))
            t1, cpu = threads(s.process.pid), B.spent(s.process.pid)-cp0
            pid = str(s.process.pid)
            fine = sum(t1.values()) - sum(t0.get(t, 0) for t in t1)
            rows[k].append(dict(server=fine, stat=cpu, client=c, wall=w, loop=t1[pid]-t0[pid], others=m-c-fine, bare=bare[-1][0], bare_wall=bare[-1][1]))
    round_(); bare.clear(); [r.clear() for r in rows.values()]
    for i in range(a.repeats):
        round_(); print('round', i+1, {k: round(r[-1]['bare']/(r[-1]['server']+r[-1]['client']), 3) for k, r in rows.items()}, {k: round(r[-1]['bare_wall']/r[-1]['wall'], 3) for k, r in rows.items()}, 'load', os.getloadavg()[0], file=sys.stderr, flush=True)
    for s in served.values(): s.__exit__()
n = a.n; med = lambda x: float(np.median(list(x)))
print(f'{which}; {bundle.name}; {a.per} a request, {a.clients} clients; {n} photographs x {a.repeats}; load {os.getloadavg()[0]:.1f}')
print(f"bare grade_many: {1e3*med(b[0] for b in bare)/n:.2f} ms processor time, {1e3*med(b[1] for b in bare)/n:.2f} ms by clock; others took {med(b[2] for b in bare):.2f} s")
for k, r in rows.items():
    ms = lambda f: 1e3*med(f(x) for x in r)/n
    rc = sorted(x['bare']/(x['server']+x['client']) for x in r); rw = sorted(x['bare_wall']/x['wall'] for x in r)
    print(f"{k:12s} cpu ratio {med(rc):.3f} ({rc[0]:.3f}-{rc[-1]:.3f})  wall ratio {med(rw):.3f} ({rw[0]:.3f}-{rw[-1]:.3f})  server {ms(lambda x: x['server']):.2f}  loop {ms(lambda x: x['loop']):.2f}  client {ms(lambda x: x['client']):.2f}  clock {ms(lambda x: x['wall']):.2f} ms; others {med(x['others'] for x in r):.2f} s")
first = next(iter(rows))
for k in rows:
    if k == first: continue
    d_ = [1e3*(x['server']+x['client']-y['server']-y['client'])/n for x, y in zip(rows[k], rows[first])]
    print(f"{k} - {first}: {med(d_):+.2f} ms a photograph (quartiles {np.quantile(d_, .25):+.2f} {np.quantile(d_, .75):+.2f})")
if a.json: json.dump(dict(bare=bare, rows=rows), open(a.json, 'w'))

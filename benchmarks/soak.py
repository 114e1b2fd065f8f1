"""Keep a service at work for long: python benchmarks/soak.py BUNDLE [--minutes 30] [--out FILE.json]

Four clients send synthetic photographs of .5 to 10 megapixels, no two alike, to `retina_serve` in a process of its own, each under
a key of its own with tags and a patient; some are sent twice, some answers asked for again. Its memory is written down every few
seconds. Afterwards the store is opened: each answer that was acknowledged must be in it, and nothing else. Exit 1 otherwise."""
import argparse, io, json, os, random, sys, tempfile, threading, time, uuid
from pathlib import Path

import numpy as np
from PIL import Image

from bench_service import Served, form
from retina_nb.core import get_task
from retina_nb.serve import Store
from retina_nb.synth import synth_eye

LEAST, MOST = .5, 10. # megapixels

def pictures(n, seed=0, least=LEAST, most=MOST):
    "Photographs of sizes between two, spread evenly"
    out = []
    for i in range(n):
        eye = Image.fromarray(synth_eye(seed + i, grade=i % len(get_task('dr')), size=400).image)
        k = (1e6*(least + (most - least)*i/max(1, n - 1))/eye.width/eye.height)**.5
        f = io.BytesIO()
        eye.resize((round(eye.width*k), round(eye.height*k)), Image.BICUBIC).save(f, 'JPEG', quality=90)
        out.append(f.getvalue())
    return out

class User:
    "A client that sends until it is told to stop, and writes down what was acknowledged"
    def __init__(self, served, pictures, seed, over):
        self.served, self.pictures, self.rng, self.over = served, pictures, random.Random(seed), over
        self.answers, self.errors, self.seconds = [], [], []
    def __call__(self):
        conn = self.served.connect()
        while not self.over.is_set():
            try: self._once(conn)
            except Exception as e: # every fault counts, and none stops the others
                self.errors.append(f'{type(e).__name__}: {e}'[:200])
                conn.close()
        conn.close()
    def _once(self, conn):
        rng = self.rng
        photo = rng.choice(self.pictures) + rng.randbytes(8) # behind a JPEG's end nobody looks: a file of its own all the same
        tags = dict(hospital=rng.choice('ABC'), machine=rng.choice(['one', 'two']), age=rng.randrange(20, 90),
                    eye=rng.choice(['left', 'right']), patient=f'P{rng.randrange(5000)}')
        path, body, begin = f'/v1/gradings/{uuid.UUID(int=rng.getrandbits(128)).hex}', form([photo], tags), time.perf_counter()
        a = self._ask(conn, 'PUT', path, *body)
        self.seconds.append(time.perf_counter() - begin)
        self.answers.append((a['id'], a['gradings'][0]['id'], a['gradings'][0]['grade']))
        if rng.random() < .02 and self._ask(conn, 'PUT', path, *body)['id'] != a['id']: raise ValueError('asked again, another answer')
        if rng.random() < .02 and self._ask(conn, 'GET', f"/v1/gradings/{a['id']}") != a: raise ValueError('the stored answer differs')
    def _ask(self, conn, *args):
        status, said = self.served.ask(conn, *args)
        if status != 200: raise ValueError(f'{status}: {said[:150]}')
        return json.loads(said)

def lost(db, answers):
    "What is wrong with a store, after so many answers were acknowledged; empty where all is well"
    with Store(db) as s:
        there = {p.id: p.grading.grade for p, _ in s.answers()}
        wrong = [f'{g}: {there.get(g)}, and not {grade}' for _, g, grade in answers if there.get(g, 'gone') != grade]
        more = len(there) - len({g for _, g, _ in answers})
        return wrong + s.check() + ([f'{more} more than were acknowledged'] if more else [])

def soak(bundle, db, seconds, *, clients=4, every=5., n=40, options=(), say=print):
    "Send for so long; what came of it"
    photos, over, samples = pictures(n), threading.Event(), []
    with Served(bundle, db, *options) as served:
        users = [User(served, photos, i, over) for i in range(clients)]
        threads = [threading.Thread(target=u) for u in users]
        begin = time.monotonic()
        for t in threads: t.start()
        while (at := time.monotonic() - begin) < seconds and served.process.poll() is None:
            samples.append(dict(at=round(at, 1), mb=round(served.memory(), 1), answers=sum(len(u.answers) for u in users),
                                errors=sum(len(u.errors) for u in users)))
            if len(samples) % 12 == 1: say(samples[-1])
            time.sleep(min(every, max(.05, seconds - at)))
        over.set()
        for t in threads: t.join()
    answers, took = [a for u in users for a in u.answers], np.array([s for u in users for s in u.seconds])
    errors = [e for u in users for e in u.errors]
    return dict(minutes=seconds/60, clients=clients, answers=len(answers), errors=errors[:20], n_errors=len(errors),
                lost=lost(db, answers)[:20], per_second=len(answers)/seconds, samples=samples,
                seconds={f'p{q}': float(np.percentile(took, q)) for q in (50, 95, 99)}, load=os.getloadavg())

def growth(samples, after):
    "How much the memory grew from the mean of the minute after `after` seconds to that of the last minute, as a share"
    first = [s['mb'] for s in samples if after <= s['at'] < after + 60]
    last = [s['mb'] for s in samples if s['at'] >= samples[-1]['at'] - 60]
    return float(np.mean(last)/np.mean(first) - 1)

def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('bundle', help='a bundle folder')
    ap.add_argument('--minutes', type=float, default=30.)
    ap.add_argument('--out', type=Path, help='where the JSON goes')
    a = ap.parse_args(argv)
    with tempfile.TemporaryDirectory() as d: got = soak(a.bundle, Path(d)/'store', 60*a.minutes)
    after = min(300., 20*a.minutes)
    got |= dict(growth=growth(got['samples'], after), after=after)
    print({k: v for k, v in got.items() if k != 'samples'})
    if a.out: a.out.write_text(json.dumps(got, indent=1, default=float) + '\n')
    if got['n_errors'] or got['lost'] or got['growth'] > .05: sys.exit('there were faults')

if __name__ == '__main__': main()

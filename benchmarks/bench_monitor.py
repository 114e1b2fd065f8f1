"""`Watcher` against what is usually run each day, over simulated months: 2 hospitals with 5 machines, 40 photographs a day each. The photographs are IDRiD's where they are at hand (RETINA_NB_DATA), else synthetic eyes; a fault is worked into the photograph, and its measures are taken anew. Confidence and referable probability are cross-validated ones of IDRiD and stay as they are under a fault. Where a patient has two eyes, the second is a photograph that lies near by the measures. A figure counts images of the machine at fault from the fault to the first alarm, or alarms in a month; less is better, and `goal` is the most that is good enough, save where the unit says otherwise"""
import csv, os, time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2, numpy as np

from retina_nb.core import cache_dir, json_hash
from retina_nb.image import image_quality, read_image
from retina_nb.serve.ranks import began, beside_others, grow, likelier, normal_scores, odds, rank_scores, whose
from retina_nb.serve.monitor import Watcher
from retina_nb.serve.stream import FEATURES, WatchSettings

HERE = Path(__file__).parent
FAULTS = {'none': ('', 0), 'blur 1': ('blur', 1.), 'darkness x.6': ('dark', .6), 'blur .6': ('blur', .6), 'darkness x.8': ('dark', .8),
          'blue x.7': ('blue', .7)}
GOALS = {'blur 1': 15, 'darkness x.6': 15, 'blur .6': 60, 'darkness x.8': 60, 'blue x.7': 60}
PLACES = [('A', 'A1'), ('A', 'A2'), ('B', 'B1'), ('B', 'B2'), ('B', 'B3')]
HIT = 3                 # the machine at fault, among PLACES
IMAGES, DAYS = 40, 30   # of a machine a day; of a month
FIRST = 200             # visits of each machine before the month begins

# --- photographs
def spoil(a, kind, k):
    "A photograph (256 px) with a fault: blur of sigma k pixels, light or blue times k"
    if kind == 'blur': return cv2.GaussianBlur(a, (0, 0), k)
    if kind == 'dark': return np.rint(a*k).astype(np.uint8)
    out = a.copy()
    if kind == 'blue': out[...,2] = np.rint(a[...,2]*k)
    return out

def photographs():
    "(name, what it is read from) of each photograph of the pool"
    folder = os.environ.get('RETINA_NB_DATA')
    files = sorted(Path(folder).glob('idrid/**/*.jpg')) if folder else []
    if files: return [(f.name, f) for f in files]
    from retina_nb.synth import synth_eye
    return [(f'synthetic {i}', synth_eye(i, size=384).image) for i in range(300)]

def pool():
    "(photographs, faults, figures), and what they are; kept in the user's cache folder"
    images, measures = photographs(), [f for f in FEATURES if f not in ('confidence', 'referable')]
    said = cache_dir()/'monitor'/f'{json_hash([[n for n, _ in images], FAULTS, measures])[:16]}.npy'
    if not said.exists():
        x = np.array([[[image_quality(spoil(a, *f)).measures[k] for k in measures] for f in FAULTS.values()]
                      for a in (read_image(o, short_side=256) for _, o in images)])
        said.parent.mkdir(parents=True, exist_ok=True)
        np.save(said, x)
    x = np.load(said)
    answers = {r['image']: [float(r[f'p_{i}']) for i in range(5)] for r in csv.DictReader(open(HERE/'results/predictions_idrid.csv'))}
    rng = np.random.default_rng(0)
    ps = [answers.get(n) or list(rng.dirichlet(np.ones(5))) for n, _ in images]
    model = np.array([[max(p), sum(p[2:])] for p in ps])
    out = np.empty((*x.shape[:2], len(FEATURES)), np.float32)
    for i, k in enumerate(FEATURES):
        out[...,i] = x[...,measures.index(k)] if k in measures else model[:,None,('confidence', 'referable').index(k)]
    return out, 'synthetic eyes' if images[0][0].startswith('synthetic') else 'IDRiD'

def neighbours(x, k=8):
    "For each photograph those that are most like it: what the other eye of its patient looks like"
    z = normal_scores(x[:,0], x[:,0])
    far = ((z[:,None] - z[None])**2).sum(-1)
    return far.argsort(1)[:,1:k+1]

# --- many months at once: the rules of `Watcher` on arrays, which the tests hold to `Watcher` itself
def codes(x):
    "Small integers in the order of the values of each stream (T, ...), equal ones alike: they compare faster"
    o = x.argsort(0)
    s = np.take_along_axis(x, o, 0)
    new = np.concatenate([np.zeros((1, *x.shape[1:]), np.int16), (s[1:] != s[:-1]).astype(np.int16)]).cumsum(0, dtype=np.int16)
    out = np.empty(x.shape, np.int16)
    np.put_along_axis(out, o, new, 0)
    return out

def scored(v, lots, s):
    "Normal scores (T, ..., 2*figures) of values (T, ..., figures): as they are, and beside the others"
    known, n = np.moveaxis(v[:s.beside], 0, -2), v.shape[-1]
    M = beside_others(np.stack([normal_scores(known, a) for a in v[:s.beside]], -2))
    rest = np.stack([(normal_scores(known, a)[...,None,:] @ M)[...,0,:] for a in v[s.beside:]])
    z = np.full((*v.shape[:-1], 2*n), np.nan)
    z[...,:n] = rank_scores(codes(v), lots[...,:n], young=s.young)
    z[s.beside:,...,n:] = rank_scores(codes(rest.round(6)), lots[s.beside:,...,n:], young=s.young)
    return z

class Months:
    "Simulated months: values (T, months, machines, figures) of visits, undisturbed and with a fault"
    def __init__(self, x, near, n, days, eyes, seed, settings):
        self.x, self.eyes, self.settings, rng = x, eyes, settings, np.random.default_rng(seed)
        self.a_day = IMAGES//eyes
        first = rng.integers(0, len(x), (FIRST + self.a_day*days, n, len(PLACES)))
        other = near[first, rng.integers(0, near.shape[1], first.shape)]
        self.who = np.stack([first, other], -1) if eyes == 2 else first[...,None]
        self.began = FIRST + rng.integers(0, self.a_day, n) # the visit from which on there is a fault
        self.lots = rng.random((*first.shape, 2*len(FEATURES)), dtype=np.float32)
        self.z = scored(self.images(0).mean(-2), self.lots, settings)
    def images(self, fault, machines=slice(None)): return self.x[self.who[:,:,machines], fault]
    def faulty(self, fault, machines):
        "Values of every photograph of some machines, with a fault from its beginning on"
        v, late = self.images(0, machines).copy(), np.arange(len(self.who))[:,None] >= self.began
        v[late] = self.images(fault, machines)[late]
        return v
    def scores(self, fault, machines):
        "Normal scores where some machines have a fault"
        z = self.z.copy()
        z[:,:,machines] = scored(self.faulty(fault, machines).mean(-2), self.lots[:,:,machines], self.settings)
        return z

def alarms(z, s, a_day, start, after=None):
    "(t, month, level, place, figure, change, machine) of each alarm; with `after`, until each month had one at or after its own"
    n, shape, out, waiting = z.shape[1], (z.shape[-1], 2*len(s.shifts)), [], np.ones(z.shape[1], bool)
    own, quiet = [np.zeros((n, *shape)) for _ in PLACES], np.full((n, len(PLACES)), -1)
    above = {k: np.zeros((n, *shape)) for k in ('A', 'B', None)}
    needed = [len(PLACES)*a_day*DAYS/s.false_alarms/share for share in s.shares]
    cells = (~np.isnan(z).all((0, 1, 2))).sum()*shape[1] # rows of figures that are never there stay 0
    for t in range(start, len(z)):
        if after is not None and not waiting.any(): break
        for m, (h, _) in enumerate(PLACES):
            now = np.where((quiet[:,m] > t)[:,None], np.nan, z[t,:,m])
            e = odds(now, s.shifts)
            own[m] = grow(own[m], e)
            for k in (h, None): above[k] = grow(above[k], e)
            for S, level, place, A in ((own[m], 'machine', m, needed[0]), (above[h], 'hospital', h, needed[1]), (above[None], 'all', None, needed[2])):
                for i in np.flatnonzero(S.sum((1, 2)) >= A*cells):
                    f, j = np.unravel_index(np.argmax(S[i]), shape)
                    d = s.shifts[j] if j < len(s.shifts) else -s.shifts[j-len(s.shifts)]
                    out.append((t, i, level, place, int(f), d, m))
                    hit = [m] if level == 'machine' else members(place)
                    for S0 in (*(own[q] for q in hit), *above.values()): S0[i] = 0
                    quiet[i,hit] = t + s.quiet_days*a_day
                    if after is not None and t >= after[i]: waiting[i] = False
    return out

def members(place): return [q for q, (h, _) in enumerate(PLACES) if place in (h, None)]

def named(z, alarm, s):
    "(level, name) that an alarm gives"
    t, i, level, place, f, d, m = alarm
    mine = [m] if level == 'machine' else members(place)
    since = began(z[:t+1,i,mine,f].ravel(), d)//len(mine)
    sums = {}
    for q, p in enumerate(PLACES):
        o = z[since:t+(q <= m),i,q,f]
        o = o[~np.isnan(o)]
        if len(o): sums[p] = float(o.sum()), len(o)
    first = PLACES[m] if level == 'machine' else max(sums, key=lambda p: likelier(sums, [p], d))
    return whose(sums, first, d, s.alone)

# --- what is usually run: a test a day
def ks_p(ref, day):
    "p of the two-sample Kolmogorov-Smirnov test, asymptotic, over the first axis of (n, ...) and (m, ...)"
    from scipy.special import kolmogorov
    n, m, d = len(ref), len(day), 0.
    for v in day:
        for f in (np.less, np.less_equal): d = np.maximum(d, np.abs(f(ref, v).mean(0) - f(day, v).mean(0)))
    return kolmogorov(d*np.sqrt(n*m/(n + m)))

def daily(v, a_day):
    """(days, months, machines) True where a day's photographs (T, months, machines, eyes, figures) differ from the first ones: by any figure
    at p < .05; by half of the figures (Evidently's DataDriftPreset: drift_share .5, Kolmogorov-Smirnov at .05 for up to 1,000 rows)"""
    flat = np.moveaxis(v, 3, 1).reshape(len(v)*v.shape[3], *v.shape[1:3], v.shape[4])
    ref, rest = flat[:FIRST*v.shape[3]], flat[FIRST*v.shape[3]:]
    low = np.array([ks_p(ref, rest[d:d+IMAGES]) < .05 for d in range(0, len(rest) - IMAGES + 1, IMAGES)])
    return low.any(-1), low.mean(-1) >= .5

# --- figures
def quantiles(d): return [float(np.quantile(d, q, method='higher')) for q in (.5, .9)]
def told(x): return float(x) if np.isfinite(x) else None

def row(what, unit, ours, baseline=None, goal=None, least=False, **more):
    "A row: less is better, unless `least`"
    out = dict(what=what, unit=unit, ours=told(ours), goal=goal, **more)
    if baseline is not None: out['baseline'] = told(baseline)
    if baseline is not None and np.isfinite(baseline) and ours: out['ratio'] = baseline/ours
    if goal is not None: out['reached'] = bool(ours >= goal if least else ours <= goal)
    return out

def first_alarms(M, z):
    "(delay in images, level and name) of the first alarm of each month at or after its fault; infinity where there is none"
    d, names = np.full(z.shape[1], np.inf), [None]*z.shape[1]
    for o in alarms(z, M.settings, M.a_day, FIRST//2, M.began):
        i = o[1]
        if o[0] >= M.began[i] and names[i] is None: d[i], names[i] = (o[0] - M.began[i] + 1)*M.eyes, named(z, o, M.settings)
    return d, names

def daily_delays(M, v):
    "Images of a machine until the end of the first day on which it alarms: by any figure, by half of them"
    late = (M.began - FIRST)*M.eyes
    for hit in daily(v, M.a_day):
        day = np.where(hit[...,0].any(0), hit[...,0].argmax(0), np.inf)
        yield (day + 1)*IMAGES - late

def false_alarms(x, near, eyes, n, n_daily, s):
    "False alarms in a month, and days of it on which a daily test alarms"
    count, days, done, seen = 0, np.zeros(2), 0, 0
    for seed in range(0, n, 50):
        M = Months(x, near, 50, DAYS, eyes, 1000 + seed, s)
        count, done = count + sum(o[0] >= FIRST for o in alarms(M.z, s, M.a_day, s.young)), done + 50
        if seed >= n_daily: continue
        days, seen = days + [hit.any(-1).sum() for hit in daily(M.images(0), M.a_day)], seen + 50
    return count/done, *(days/seen), done

def delays(x, near, eyes, n, n_daily, s):
    "By fault: delays and names of ours, delays of both daily tests; names where a hospital and all have the fault"
    out = {f: ([], [], [], []) for f in GOALS}
    groups = {k: [] for k in ('hospital', 'all')}
    for seed in range(0, n, 50):
        M = Months(x, near, 50, 6, eyes, 5000 + seed, s)
        for f in GOALS:
            i = list(FAULTS).index(f)
            d, names = first_alarms(M, M.scores(i, [HIT]))
            for a, b in zip(out[f], (d, names, *(daily_delays(M, M.faulty(i, [HIT])) if seed < n_daily else ([], [])))): a.extend(b)
            if seed < n_daily:
                groups['hospital'] += first_alarms(M, M.scores(i, members('B')))[1]
                groups['all'] += first_alarms(M, M.scores(i, members(None)))[1]
    return out, groups

def pace(x, eyes, s, seconds=3.):
    "Photographs a second through a `Watcher`"
    rng, w, at, n = np.random.default_rng(0), Watcher(s), datetime(2026, 1, 1, tzinfo=UTC), 0
    rows = [dict(zip(FEATURES, map(float, r))) for r in x[:,0]]
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for _ in range(100):
            h, m = PLACES[n//eyes % len(PLACES)]
            w.add(at + timedelta(seconds=432*(n//eyes)), h, m, f'{n//eyes}', rows[rng.integers(len(rows))])
            n += 1
    return n/(time.perf_counter() - begun)

def bench(quick):
    s, (x, what) = WatchSettings(), pool()
    near, n, n_daily = neighbours(x), 100 if quick else 2000, 50 if quick else 200
    for eyes, who in ((1, 'one eye a patient'), (2, 'two eyes a patient')):
        ours, any_, half, months = false_alarms(x, near, eyes, n, n_daily, s)
        more = dict(months=months, months_daily=n_daily, photographs=what, eyes=eyes)
        yield row(f'false alarms a month, {who}; daily: days with one', 'alarms', ours, any_, 1, half_of_columns=half, **more)
        out, groups = delays(x, near, eyes, n, n_daily, s)
        for f, (d, names, daily_any, daily_half) in out.items():
            (mid, late), (any_mid, any_late) = quantiles(d), quantiles(daily_any)
            half_mid, half_late = quantiles(daily_half)
            more |= dict(half_of_columns=told(half_mid), half_of_columns_90=told(half_late), missed=float(np.isinf(d).mean()),
                         missed_daily=float(np.isinf(daily_any).mean()), missed_half_of_columns=float(np.isinf(daily_half).mean()))
            yield row(f'{f}, {who}: median', 'images', mid, any_mid, GOALS[f], **more)
            yield row(f'{f}, {who}: 90% within', 'images', late, any_late, **more)
            yield row(f'{f}, {who}: right machine named', 'fraction', np.mean([o == ('machine', PLACES[HIT][1]) for o in names]), goal=.95,
                      least=True, **more)
        for level, name in (('hospital', 'B'), ('all', '')):
            right = np.mean([o == (level, name) for o in groups[level]])
            yield row(f'a fault of {"a hospital" if name else "all"}, {who}: named so at the first alarm', 'fraction', right, months=n_daily)
        yield row(f'through all streams, {who}', 'photographs/s', pace(x, eyes, s), goal=1000, least=True)

"""How soon a worse candidate is sent back, and how often one that is no worse: simulated rollouts, a look after every ten patients. Three patients in ten are referable; the live model finds 90% of them and sends 10% of the others; the candidate says the same on nine patients in ten, by chance of its own on the rest, and is worse as the row says, on all patients. Only patients on whom the two differ are read, by readers who are right 95 times in 100, the next hundred patients after. Ours is the evidence of `retina_nb.serve.wagers`, as `judge` weighs it; the baseline is what is usually done: an exact one-sided sign test at 5% on the same patients, at every look"""
import numpy as np
from scipy.stats import binom

from retina_nb.serve.wagers import STAKES, evidence

PREVALENCE, SENSITIVITY, SPECIFICITY = .3, .9, .9
READERS, DELAY, LOOK, LEAST = .95, 100, 10, 100
MARGIN, MISSED = .05, .02
LIMIT = 20. # evidence
CASES = {'as good': (0., 0.), 'better: finds 5 in 100 more': (-.05, 0.), 'misses 3 in 100 more': (.03, 0.), 'misses 5 in 100 more': (.05, 0.),
         'misses 10 in 100 more': (.1, 0.), 'misses 20 in 100 more': (.2, 0.), 'sends 10 in 100 healthy more': (0., .1)}

def rollouts(rng, runs, n, missed, sent, alike=.9):
    "What both models did wrong: (wrong, missed) differences as read by people, and where they differ; each (runs, n)"
    shape = runs, n
    truth = rng.random(shape) < PREVALENCE
    def _says(miss, send): return np.where(truth, rng.random(shape) >= miss, rng.random(shape) < send)
    old = _says(1 - SENSITIVITY, 1 - SPECIFICITY)
    new = np.where(rng.random(shape) < alike, old, _says(1 - SENSITIVITY, 1 - SPECIFICITY))
    worse = rng.random(shape) # what it got worse in: a referral that it made is dropped, or one more is made
    new = np.where(truth & new & (worse < max(missed, 0)/SENSITIVITY), False, new)
    new = np.where(truth & ~new & (worse < max(-missed, 0)/(1 - SENSITIVITY)), True, new)
    new = np.where(~truth & ~new & (worse < sent/SPECIFICITY), True, new)
    read = np.where(rng.random(shape) < READERS, truth, ~truth)
    wrong = (new != read)*1. - (old != read)
    return wrong, (read & ~new)*1. - (read & ~old), old != new

def lagged(x, looks):
    "The running value at each look, of what had been read by then; 1 where nothing had"
    at = looks - DELAY - 1
    return np.where(at >= 0, x[..., np.maximum(at, 0)], 1.)

def harm_at(wrong, missed, looks): return (lagged(evidence(wrong), looks) + lagged(evidence(missed), looks))/2

def safe_at(x, differ, looks, margin):
    "The evidence that it is not worse by a margin: those that are not read yet count as lost"
    out = 0.
    for stake in STAKES:
        known, worst = (np.cumsum(np.log1p(stake/(1 - margin)*(margin - v)), axis=-1) for v in (x, differ*1.))
        def _upto(c, at): return np.where(at > 0, c[..., np.maximum(at - 1, 0)], 0.)
        at = np.maximum(looks - DELAY, 0)
        out = out + np.exp(np.minimum(_upto(known, at) + _upto(worst, looks) - _upto(worst, at), 600))/len(STAKES)
    return out

def first(hit, looks, never):
    "Patients until the first look at which something holds"
    return np.where(hit.any(-1), looks[hit.argmax(-1)], never)

def repeated(wrong, looks):
    "The exact sign test at each look, one-sided at 5%"
    lost, won = np.cumsum(wrong > 0, -1), np.cumsum(wrong < 0, -1)
    at = np.maximum(looks - DELAY - 1, 0)
    k, n = lost[..., at], (lost + won)[..., at]
    return (binom.sf(k - 1, n, .5) <= .05) & (looks > DELAY) & (n > 0)

def one(rng, runs, n, missed, sent):
    "(patients until it is sent back, the same by the repeated test, until it has passed, patients read by then)"
    looks = np.arange(LOOK, n + 1, LOOK)
    wrong, miss, differ = rollouts(rng, runs, n, missed, sent)
    back = first(harm_at(wrong, miss, looks) >= LIMIT, looks, n + 1)
    base = first(repeated(wrong, looks), looks, n + 1)
    safe = np.minimum(safe_at(wrong, differ, looks, MARGIN), safe_at(miss, differ, looks, MISSED)) >= LIMIT
    passed = first(safe & (looks >= LEAST), looks, n + 1)
    return back, base, passed, np.cumsum(differ, -1)[np.arange(runs), np.minimum(np.minimum(back, passed), n) - 1]

def agrees_with_judge():
    "The simulation weighs as `judge` does"
    import pandas as pd
    from retina_nb.serve.rollout import weigh
    rng = np.random.default_rng(1)
    wrong, miss, differ = (x[0] for x in rollouts(rng, 1, 400, .1, 0.))
    known = np.arange(400) < 300
    w = weigh(pd.DataFrame(dict(wrong=wrong*known, missed=miss*known, differ=differ, open=differ*~known*1., at=0)), MARGIN, MISSED)
    looks = np.array([400])
    safe = min(safe_at(x, differ, looks, m)[0] for x, m in ((wrong, MARGIN), (miss, MISSED)))
    assert np.allclose([w.harm, w.safe], [harm_at(wrong, miss, looks)[0], safe]), (w, safe)

def bench(quick):
    agrees_with_judge()
    runs, n = (400, 2000) if quick else (2000, 4000)
    for name, (missed, sent) in CASES.items():
        rng = np.random.default_rng(42)
        parts = [one(rng, min(200, runs), n, missed, sent) for _ in range(runs//min(200, runs))]
        back, base, passed, read = (np.concatenate(x) for x in zip(*parts))
        gone, wrongly = back < passed, base < passed
        fair = missed <= 0 and sent <= 0
        more = dict(runs=runs, patients=n)
        def row(what, unit, ours, baseline=None, goal=None, least=False):
            out = dict(what=f'{name}: {what}', unit=unit, ours=float(ours), baseline=None if baseline is None else float(baseline), goal=goal, **more)
            if goal is not None: out['reached'] = bool(out['ours'] >= goal if least else out['ours'] <= goal)
            return out
        if fair:
            yield row(f'sent back within {n:,} patients, whatever it passed', 'fraction', (back <= n).mean(), (base <= n).mean(), .05)
            yield row('passes before it is sent back', 'fraction', (passed < back).mean(), (passed < base).mean(), .9, least=True)
            yield row('patients until it has passed, median', 'patients', np.median(passed))
        else:
            yield row('sent back before it passes', 'fraction', gone.mean(), wrongly.mean())
            yield row(f'passes within {n:,} patients', 'fraction', ((passed < back) & (passed <= n)).mean())
            for q, word in ((.5, 'half of them'), (.9, '90%')):
                when, then = np.quantile(back, q, method='higher'), np.quantile(base, q, method='higher')
                yield row(f'graded by the time {word} are sent back', 'patients', when if when <= n else float('inf'), then if then <= n else float('inf'))
        yield row('of them read by people until then, median', 'patients', np.median(read))

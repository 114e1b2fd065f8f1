"Live figures: how often 95% intervals made of some 200 re-read answers hold the truth, in worlds drawn from one large population with two eyes a patient, under several plans; beside them the plain share among the re-read cases with its exact interval"
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np

from retina_nb.measure import clopper_pearson, example_predictions
from retina_nb.serve import SamplingPlan, live_scores

REVIEWS, GOAL = 200, (.93, .97)
P = [f'p_{j}' for j in range(5)]
LOW = ('sensitivity', 'specificity', 'qwk', 'accuracy')

# name: plans, each for its part of the patients; threshold; share of the answers that the model is unsure of; share of
# the referable that it is blind to, with a sure answer; share of the drawn cases that were read so far
WORLDS = {
    'the default plan': ([SamplingPlan()], .5, .1, 0., 1.),
    'random .1': ([SamplingPlan(random=.1)], .5, .1, 0., 1.),
    'few unsure (.03), random .05': ([SamplingPlan(random=.05)], .5, .03, 0., 1.),
    'a screening threshold, blind to a tenth, random .06': ([SamplingPlan(random=.06)], .3, .1, .1, 1.),
    'a plan changed half way, random .03 then .12': ([SamplingPlan(random=.03), SamplingPlan(random=.12)], .5, .1, 0., 1.),
    'half of the queue still waits, random .1': ([SamplingPlan(random=.1)], .5, .1, .05, .5)}

@cache
def population(blind, at):
    "Many answers with their truth; the model is blind to some of the referable"
    d = example_predictions(60_000, seed=8)
    lost = (d['target'] >= 2).to_numpy() & (np.random.default_rng(0).random(len(d)) < blind)
    d.loc[lost, P], d.loc[lost, 'grade'] = [.97, .01, .01, .005, .005], 0
    return d.assign(referable=d[P[2:]].sum(axis=1) >= at)

def kappa(target, grade):
    from retina_nb.measure import qwk
    return qwk(target, grade, 5)

def true_scores(d):
    ill, right = d['target'] >= 2, d['target'] == d['grade']
    return dict(sensitivity=d['referable'][ill].mean(), specificity=1 - d['referable'][~ill].mean(),
                accuracy=right.mean(), qwk=kappa(d['target'], d['grade']))

def chances(d, plans, at, unsure):
    "Zone and chance of every answer of the population under each plan"
    p, positive = d[P].to_numpy(), d[P[2:]].sum(axis=1).to_numpy()
    doubt = p.max(1) <= np.quantile(p.max(1), unsure)
    zones = [np.where(doubt, 'low confidence', x.lot_zone(positive, at)) for x in plans]
    return zones, [np.vectorize(x.chance, otypes=[float])(z) for x, z in zip(plans, zones)]

def world(d, zones, chance, read, n, rng):
    "So many patients, put to the plans in turn, as `review_table` would tell of them"
    people = rng.integers(0, len(d)//2, n)
    rows, patient = np.c_[2*people, 2*people+1].ravel(), np.repeat(np.arange(n), 2)
    which = patient*len(zones)//n
    zone, p = np.stack(zones)[which, rows], np.stack(chance)[which, rows]
    drawn = rng.random(len(rows)) < p
    done = drawn & (rng.random(len(rows)) < read)
    t = d.iloc[rows].reset_index(drop=True)
    return t.assign(patient=patient, zone=zone, chance=p, probability=np.where(drawn, p, np.nan), role='live',
                    state=np.where(done, 'verified', np.where(drawn, 'waiting', 'not drawn')),
                    target=t['target'].astype('Int64').where(done))

def exact(w):
    "The scores of the verified cases as if they were all, with their exact intervals"
    v = w[w['target'].notna()]
    ill, right = v['target'].to_numpy(int) >= 2, v['target'].to_numpy(int) == v['grade'].to_numpy()
    parts = dict(sensitivity=v['referable'].to_numpy()[ill], specificity=~v['referable'].to_numpy()[~ill], accuracy=right)
    return {k: clopper_pearson(int(x.sum()), len(x)) for k, x in parts.items() if len(x)}

def study(name, worlds, seed=5):
    "Rows of one plan: how often the intervals held the truth"
    plans, at, unsure, blind, read = WORLDS[name]
    d, rng = population(blind, at), np.random.default_rng(seed)
    truth, (zones, chance) = true_scores(d), chances(d, plans, at, unsure)
    n = round(REVIEWS/(2*read*np.mean(chance)))
    got, held, cases = [], [], []
    for i in range(worlds):
        w = world(d, zones, chance, read, n, rng)
        got.append(live_scores(w, 'dr', draws=1000, seed=i))
        held.append({k: lo <= truth[k] <= hi for k, (lo, hi) in exact(w).items()})
        cases.append(int(w['target'].notna().sum()))
    return [row(name, k, truth[k], got, held, n, np.mean(cases)) for k in LOW]

def row(name, k, truth, got, held, n, cases):
    f = [g.figures[k] for g in got if g.figures[k]['value'] is not None]
    ends = np.array([x['ci95'] for x in f])
    ours = float(np.mean((ends[:,0] <= truth) & (truth <= ends[:,1])))
    naive = [h[k] for h in held if k in h]
    shift = [g.naive[k]['value'] - truth for g in got if g.naive[k]['value'] is not None]
    return dict(what=f'{name}: {k}', ours=ours, baseline=float(np.mean(naive)) if naive else None, unit='of the intervals',
                goal=GOAL[0], reached=bool(GOAL[0] <= ours <= GOAL[1]), truth=float(truth), photographs=2*n, cases=float(cases),
                worlds=len(f), width=float(np.mean(ends[:,1] - ends[:,0])), bias=float(np.mean([x['value'] for x in f]) - truth),
                naive_bias=float(np.mean(shift)), below=float(np.mean(truth < ends[:,0])), above=float(np.mean(truth > ends[:,1])))

def bench(quick):
    worlds = 100 if quick else 1000
    with ProcessPoolExecutor(min(len(WORLDS), os.cpu_count() or 1)) as pool:
        for rows in pool.map(study, WORLDS, [worlds]*len(WORLDS)): yield from rows

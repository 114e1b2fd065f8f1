"Time two ways of doing one thing, alternating"
import time
from statistics import median

def seconds(f, clock=time.perf_counter)->float:
    t = clock()
    f()
    return clock() - t

def compare(what, # name of the row
            ours, # function of no arguments: this package
            baseline=None, # the same work as people write it otherwise; None for a figure without comparison
            items:int=1, # units of work in one call; speed is items a second
            unit:str='items/s',
            goal:float=None, # smallest ratio that is good enough; without a baseline, smallest speed
            repeats:int=5,
            clock=time.perf_counter # time.process_time counts what this process used: for one core, where others are at work too
           )->dict:
    "One row of a benchmark: medians, the ratio of neighbouring runs with its range, and every timing"
    ours()  # warm-up: imports, caches, lazily built tables
    if baseline: baseline()
    a, b = [], []
    for _ in range(repeats):
        a.append(seconds(ours, clock))
        if baseline: b.append(seconds(baseline, clock))
    row = dict(what=what, unit=unit, ours=items/median(a), goal=goal, items=items, seconds_ours=a)
    if baseline:
        ratios = [y/x for x, y in zip(a, b)]
        row.update(baseline=items/median(b), ratio=median(ratios), ratio_range=[min(ratios), max(ratios)], seconds_baseline=b)
    if goal is not None: row['reached'] = (row['ratio'] if baseline else row['ours']) >= goal
    return row

"Intervals over patients for every score of 50,000 predictions: the jackknife in seconds, 2,000 bootstrap resamples under 20 s on one core, in flat memory"
import resource

import numpy as np
from sklearn import metrics as sk

from retina_nb.measure import evaluate, example_predictions, probabilities
from timing import compare

def by_copying(df, n_boot, seed=0):
    "The usual way: copy the rows of the drawn patients, score the copy with scikit-learn"
    rng, rows = np.random.default_rng(seed), list(df.groupby('patient').indices.values())
    out = []
    for _ in range(n_boot):
        d = df.iloc[np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])]
        p, yes = probabilities(d), d.target >= 2
        s = p[:,2:].sum(1)
        out.append((sk.accuracy_score(d.target, d.grade), sk.balanced_accuracy_score(d.target, d.grade), sk.f1_score(d.target, d.grade, average='macro'),
                    sk.cohen_kappa_score(d.target, d.grade, weights='quadratic'), sk.roc_auc_score(d.target, p, multi_class='ovr'),
                    sk.roc_auc_score(yes, s), sk.average_precision_score(yes, s), sk.recall_score(yes, s >= .5), sk.recall_score(~yes, s < .5)))
    return np.array(out)

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024

def bench(quick):
    df, n = example_predictions(25_000), 400 if quick else 2000
    bca = dict(method='bca')
    evaluate(df, n_boot=300, **bca)
    before = peak()
    yield compare('all scores with jackknife intervals, 50,000 predictions', lambda: evaluate(df), items=len(df), unit='predictions/s', goal=5000, repeats=1 if quick else 3)
    yield compare('all scores, 50,000 predictions, bootstrap', lambda: evaluate(df, n_boot=n, **bca), items=n, unit='resamples/s', goal=100, repeats=1 if quick else 3)
    yield dict(what=f'memory that {n:,} resamples need beyond 300', ours=peak()-before, unit='MB')
    small = example_predictions(1500)
    yield compare('3,000 predictions, against copied rows and nine scikit-learn scores', lambda: evaluate(small, n_boot=200, **bca), lambda: by_copying(small, 200), items=200, unit='resamples/s', goal=5, repeats=3)

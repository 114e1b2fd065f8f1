"""The same scores by other people's programs, kept as values in outside.json, so that none of them is needed here

scikit-learn 1.9.1 and scipy 1.17.1 scored four tables of 60 images (two decimals more than it matters); MAPIE 1.6.0 made conformal sets (LAC) from 60 images
and coral-pytorch 1.4.0 a CORN loss. What R's packages say is taken from their own documentation: vcd's Kappa of the table SexualFun, psych's cohen.kappa of
nine ratings. pROC's DeLong variance is computed from its published formula, pair by pair."""
import itertools, json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from retina_nb.measure import (ConformalSets, average_precision, brier_each, class_f1, class_precision, class_sensitivity, clopper_pearson, confusion_matrix, count_matrix,
                               delong, evaluate, kappa, linear_kappa, log_loss_each, macro_auc, qwk, roc_auc, roc_points)

STORED = json.loads((Path(__file__).parent/'outside.json').read_text())

def table(t): return pd.DataFrame(dict(patient=np.repeat(range(len(t['target'])//2), 2), image=range(len(t['target'])), target=t['target'], grade=t['grade'], **{f'p_{j}': np.array(t['p'])[:,j] for j in range(5)}))

@pytest.mark.parametrize('i', range(4))
def test_scores_of_scikit_learn(i):
    stored = STORED['tables'][i]
    d, want = table(stored), stored['want']
    s, y, p = evaluate(d, n_boot=0), np.array(stored['target']), np.array(stored['p'])
    for name in ('accuracy', 'balanced_accuracy', 'f1_macro', 'kappa', 'linear_kappa', 'qwk', 'mae', 'brier', 'log_loss'): assert s[name].value == pytest.approx(want[name], abs=1e-8), name
    for name in ('auc', 'average_precision', 'sensitivity', 'specificity', 'ppv', 'npv'): assert s.referable[name].value == pytest.approx(want[name], abs=1e-8), name
    assert s.confusion == np.reshape(want['confusion'], (5, 5)).tolist() and (confusion_matrix(d) == s.confusion).all()
    cm = count_matrix(stored['target'], stored['grade'], 5)
    for f in (class_sensitivity, class_precision, class_f1): assert np.nan_to_num(f(cm)) == pytest.approx(want[f.__name__], abs=1e-8)
    for j in range(5):
        for ours, theirs in ((roc_auc, 'class_auc'), (average_precision, 'class_ap')):
            if want[theirs][j] is not None: assert ours(y == j, p[:,j]) == pytest.approx(want[theirs][j], abs=1e-8)
    assert roc_auc(y >= 2, p[:,2:].sum(1).round(3)) == pytest.approx(want['mann_whitney'], abs=1e-8)
    if 'macro_auc' in want: assert s.macro_auc.value == pytest.approx(want['macro_auc'], abs=1e-8) == macro_auc(y, p)
    assert brier_each(y, p).mean() == pytest.approx(want['brier']) and log_loss_each(y, p).mean() == pytest.approx(want['log_loss'])
    roc = roc_points(y >= 2, p[:,2:].sum(1).round(3))
    assert np.allclose(1-roc.specificity, want['roc']['fpr'], atol=1e-9) and np.allclose(roc.sensitivity, want['roc']['tpr'], atol=1e-9) and np.allclose(roc.threshold[1:], want['roc']['threshold'])

def test_exact_intervals_of_scipy():
    for x, n, low, high in STORED['exact']: assert clopper_pearson(x, n) == pytest.approx([low, high], abs=1e-8)

def test_conformal_sets_of_mapie():
    "Theirs may be empty; ours hold the likeliest class in any case"
    m = STORED['mapie']
    as_table = lambda p, t: pd.DataFrame(dict(patient=range(len(t)), target=t, grade=np.argmax(p, 1), **{f'p_{j}': np.array(p)[:,j] for j in range(5)}))
    fit, new = as_table(m['fit_p'], m['fit_target']), as_table(m['p'], m['target'])
    for a in m['answers']:
        theirs = np.array(a['sets'], bool) | (np.arange(5) == np.argmax(m['p'], 1)[:,None])
        assert (ConformalSets(fit, level=a['level'])(new) == theirs).all(), a['level']

def test_corn_of_coral_pytorch():
    torch = pytest.importorskip('torch')
    from retina_nb.train import make_loss
    c = STORED['corn']
    loss = make_loss('corn', 5)
    assert float(loss(torch.tensor(c['logits'], dtype=torch.float64), torch.tensor(c['target']))) == pytest.approx(c['loss'], abs=1e-6)

def labels(counts):
    "Two lists of labels with these counts"
    cells = [(i, j) for i, row in enumerate(counts) for j, n in enumerate(row) for _ in range(n)]
    return tuple(zip(*cells))

def test_kappa_of_vcd_and_psych():
    fun = labels([[7, 7, 2, 3], [2, 8, 3, 7], [1, 5, 4, 9], [2, 8, 9, 14]])  # husbands' and wives' answers, vcd's SexualFun
    assert (kappa(*fun), linear_kappa(*fun)) == pytest.approx((.1293, .2374), abs=5e-5)
    nine = [1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 3, 1, 6, 1, 5, 5, 6, 7]
    assert (kappa(*nine), qwk(*nine)) == pytest.approx((0, .68), abs=5e-3)

def by_pairs(yes, *scores):
    "DeLong et al. 1988, pair by pair: components of each positive and negative, and their covariances"
    psi = lambda x, y: float(x > y) + .5*float(x == y)
    parts = []
    for s in scores:
        pos, neg = s[yes], s[~yes]
        grid = np.array([[psi(x, y) for y in neg] for x in pos])
        parts.append((grid.mean(1), grid.mean(0)))
    S10, S01 = (np.atleast_2d(np.cov([x[i] for x in parts])) for i in (0, 1))
    return [x[0].mean() for x in parts], S10/yes.sum() + S01/(~yes).sum()

@pytest.mark.parametrize('i, j', itertools.combinations(range(4), 2))
def test_delong_of_proc(i, j):
    y = np.array(STORED['tables'][i]['target']) >= 2
    scores = [np.array(STORED['tables'][k]['p'])[:,2:].sum(1).round(2) for k in (i, j)]
    auc, V = delong(y, *scores)
    want_auc, want = by_pairs(y, *scores)
    assert np.allclose(auc, want_auc, atol=1e-12) and np.allclose(V, want, atol=1e-12)

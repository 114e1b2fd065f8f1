"""The two-stage cascade on real chest X-rays, with models that need nothing but scikit-learn

    RETINA_NB_DATA=../shared/data python benchmarks/real_cascade.py

Gradient histograms and logistic regression, so that the figures can be made again on any machine in a minute. Pneumonia or not,
then bacterial or viral; thresholds are chosen on patients kept out of training, everything is judged on the official `val`
part, whose patients are in no other. Writes results/cascade_xray.json."""
import argparse, json, os, sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from retina_nb.cascade import cascade, cascade_report, compare_cost, final_task
from retina_nb.data import load_records
from retina_nb.evaluate import evaluate
from retina_nb.operating import choose_threshold

HERE = Path(__file__).resolve().parent

def gradients(g, bins=9, cell=8):
    "Histograms of gradient directions in cells, normalised in blocks of 2 x 2 cells (Dalal and Triggs 2005)"
    gy, gx = np.gradient(g.astype(np.float32))
    size, at = np.hypot(gx, gy), (np.arctan2(gy, gx) % np.pi)/np.pi*bins
    n, low = g.shape[0]//cell, np.floor(at).astype(int)
    where = (np.arange(g.shape[0])[:,None]//cell*n + np.arange(g.shape[1])//cell)*bins
    h = sum(np.bincount((where + (low+i)%bins).ravel(), (size*w).ravel(), n*n*bins) for i,w in ((0, 1-at+low), (1, at-low))).reshape(n, n, bins)
    blocks = np.concatenate([h[i:n-1+i, j:n-1+j] for i in (0,1) for j in (0,1)], 2)
    return np.sqrt(blocks/(blocks.sum(2, keepdims=True)+1e-3)).ravel()

def features(files):
    "Gradient histograms of a 128 px greyscale version, and the version itself at 24 px: (n, features)"
    out = []
    for f in files:
        g = cv2.resize(cv2.imread(f, cv2.IMREAD_GRAYSCALE), (128,128), interpolation=cv2.INTER_AREA)
        out.append(np.r_[gradients(cv2.equalizeHist(g)), cv2.resize(g, (24,24), interpolation=cv2.INTER_AREA).ravel()/255])
    return np.array(out, np.float32)

def model(): return make_pipeline(StandardScaler(), PCA(250, random_state=0), LogisticRegression(C=.003, max_iter=2000))

def table(d, target, p):
    return pd.DataFrame(dict(image=d.image.map(lambda f: '/'.join(Path(f).parts[-3:])), patient=d.patient, target=target, grade=p.argmax(1), **{f'p_{j}': p[:,j] for j in range(p.shape[1])}))

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--out', type=Path, default=HERE/'results')
    ap.add_argument('--tables', type=Path, help='also write the predictions tables to this folder')
    a = ap.parse_args()
    if not os.environ.get('RETINA_NB_DATA'): sys.exit('RETINA_NB_DATA is not set: no chest X-rays here')
    d = load_records(Path(os.environ['RETINA_NB_DATA'])/'chest_xray', task='pneumonia')
    kind = load_records(Path(os.environ['RETINA_NB_DATA'])/'chest_xray', task='pneumonia_type').set_index('image').label
    d['kind'] = d.image.map(kind).astype('Int64')
    d['three'] = (d.kind+1).where(d.label==1, 0).astype('Int64')
    X, test = features(d.image), (d.split=='valid').to_numpy()
    rest = np.flatnonzero(~test)
    fit, hold = next(GroupShuffleSplit(1, test_size=.35, random_state=42).split(rest, groups=d.patient.iloc[rest]))
    fit, hold, test = rest[fit], rest[hold], np.flatnonzero(test)
    assert not set(d.patient.iloc[fit]) & set(d.patient.iloc[hold]) and not set(d.patient.iloc[test]) & set(d.patient.iloc[rest])
    sick = fit[(d.label.iloc[fit]==1).to_numpy()]
    one, two, single = (model().fit(X[i], d[c].iloc[i].astype(int)) for i,c in ((fit,'label'), (sick,'kind'), (fit,'three')))
    tables = {f'{name}_{part}': table(d.iloc[i], d[c].iloc[i].to_numpy(), m.predict_proba(X[i])) for part,i in (('valid',hold), ('test',test)) for name,m,c in (('one',one,'label'), ('two',two,'kind'), ('single',single,'three'))}
    task = final_task('pneumonia', 'pneumonia_type')
    rows = []
    for assurance in (None, .95):
        op = choose_threshold(tables['one_valid'], 'pneumonia', sensitivity=.99, assurance=assurance)
        done = cascade(tables['one_test'], tables['two_test'], op['threshold'])
        rows.append(dict(operating_point=op, report=cascade_report(done, task), cost_against_single=compare_cost(tables['single_test'], done, task)))
    keep = lambda s: {k: s[k] for k in ('n_images', 'n_patients', 'accuracy', 'balanced_accuracy', 'macro_auc')} | {'auc': s['referable']['auc']}
    result = dict(what=__doc__.split('\n')[0], parts=dict(fit=len(fit), valid=len(hold), test=len(test)), cascades=rows,
                  stage_one=keep(evaluate(tables['one_test'], 'pneumonia')), stage_two=keep(evaluate(tables['two_test'], 'pneumonia_type')), single=keep(evaluate(tables['single_test'], task)))
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out/'cascade_xray.json').write_text(json.dumps(result, indent=1, default=lambda o: o.item()) + '\n')
    if a.tables:
        a.tables.mkdir(parents=True, exist_ok=True)
        for name, t in tables.items(): t.to_csv(a.tables/f'{name}.csv', index=False)
    show = lambda f: f"{f['value']:.3f} ({f['ci95'][0]:.3f} to {f['ci95'][1]:.3f})"
    print(f"stage one AUC {show(result['stage_one']['auc'])}, stage two accuracy {show(result['stage_two']['accuracy'])}, single model accuracy {show(result['single']['accuracy'])}")
    for r in rows:
        print(f"\nsensitivity .99 on validation{', with 95% assurance' if 'assurance' in r['operating_point'] else ''}: threshold {r['operating_point']['threshold']:.4f}, there specificity {r['operating_point']['specificity']:.3f}")
        for k in ('sensitivity', 'specificity', 'reaches_two', 'right_at_two', 'accuracy', 'cost'): print(f"  {k:14}{show(r['report'][k])}")
        print(f"  cost minus the single model's {show(r['cost_against_single']['difference'])}\n{pd.DataFrame(r['report']['losses']).to_string(index=False)}")

if __name__ == '__main__': main()

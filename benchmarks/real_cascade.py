"""The two-stage cascade on real chest X-rays

    RETINA_NB_DATA=../shared/data python benchmarks/real_cascade.py --runs FOLDER

Kermany et al. 2018 (CC BY 4.0, doi:10.17632/rscbjbr9sj.3). Pneumonia or not, then bacterial or viral, by two kinds of models: logistic
regressions on gradient histograms, which need nothing but scikit-learn and a minute; and, with --runs, small networks trained by this
package, which need some minutes more. Thresholds are chosen on patients kept out of training, everything is judged on the official
`val` part, whose patients are in no other. Writes results/cascade_xray.json and results/predictions_xray.csv (file names, labels and
probabilities, no images)."""
import argparse, os, sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from retina_nb.measure.cascade import cascade_predictions, cascade_report, compare_cost, final_task
from retina_nb.core import TASKS
from retina_nb.disk import write_json, write_table
from retina_nb.data.records import load_records
from retina_nb.measure.evaluation import evaluate
from retina_nb.measure.predictions import prob_columns
from retina_nb.measure.operating import choose_threshold

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
    return pd.DataFrame(dict(image=d.image.map(lambda f: Path(f).name), patient=d.patient, target=target, grade=p.argmax(1), **{f'p_{j}': p[:,j] for j in range(p.shape[1])}))

def read(folder):
    "The X-rays with the labels of both stages and of the single model, and who fits, holds out and tests (patients in one part only)"
    d = load_records(folder, task='pneumonia', warn=False)
    kind = load_records(folder, task='pneumonia_type', warn=False).set_index('image').label
    d['kind'] = d.image.map(kind).astype('Int64')
    d['three'] = (d.kind+1).where(d.label==1, 0).astype('Int64')
    test = (d.split=='valid').to_numpy()
    rest = np.flatnonzero(~test)
    fit, hold = next(GroupShuffleSplit(1, test_size=.35, random_state=42).split(rest, groups=d.patient.iloc[rest]))
    fit, hold, test = rest[fit], rest[hold], np.flatnonzero(test)
    assert not set(d.patient.iloc[fit]) & set(d.patient.iloc[hold]) and not set(d.patient.iloc[test]) & set(d.patient.iloc[rest])
    return d, fit, hold, test

def by_gradients(d, fit, hold, test):
    "Predictions of logistic regressions on gradient histograms"
    X = features(d.image)
    sick = fit[(d.label.iloc[fit]==1).to_numpy()]
    models = dict(one=('label', fit), two=('kind', sick), single=('three', fit))
    fitted = {name: (c, model().fit(X[i], d[c].iloc[i].astype(int))) for name,(c,i) in models.items()}
    return {f'{name}_{part}': table(d.iloc[i], d[c].iloc[i].to_numpy(), m.predict_proba(X[i])) for part,i in (('valid',hold), ('test',test)) for name,(c,m) in fitted.items()}

def by_network(d, fit, hold, test, runs, size=96, epochs=6):
    "Predictions of three small networks from random weights, by the package's own training; finished runs in `runs` are used again"
    from retina_nb.train.prediction import predict
    from retina_nb.train.training import train
    task = final_task('pneumonia', 'pneumonia_type')
    TASKS[task.name] = task     # so that a run of it can be read again
    part = pd.Series('', index=d.index)
    for name, i in (('train',fit), ('valid',hold), ('test',test)): part.iloc[i] = name
    out = {}
    for name, c, t in (('one','label','pneumonia'), ('two','kind','pneumonia_type'), ('single','three',task.name)):
        r = d.drop(columns=['kind','three']).assign(label=d[c], split=part)
        r.attrs = dict(task=t, root='chest_xray', layout=d.attrs.get('layout', ''))
        known = r[r.label.notna()]
        known.attrs = r.attrs
        run = train(known, arch='test_resnet', size=size, epochs=epochs, out=runs/name, task=t, resume=True, progress=False, pretrained=False, lr=6e-3, bs=64)
        print(f"{name}: {run.config['seconds']:.0f} s, macro AUC {run.metrics['macro_auc']['value']:.3f}", flush=True)
        for p, i in (('valid',hold), ('test',test)): out[f'{name}_{p}'] = shorter(predict(run, r.iloc[i], progress=False))
    return out

def shorter(preds): return preds.assign(image=preds.image.map(lambda f: Path(f).name))[['image', 'patient', 'target', 'grade', *prob_columns(preds)]]

def judge(tables):
    "The cascade at sensitivity .99, plain and assured, its stages, and the single model, all on the test part"
    task, rows = final_task('pneumonia', 'pneumonia_type'), []
    for assurance in (None, .95):
        op = choose_threshold(tables['one_valid'], 'pneumonia', sensitivity=.99, assurance=assurance)
        done = cascade_predictions(tables['one_test'], tables['two_test'], op['threshold'])
        rows.append(dict(operating_point=op, report=cascade_report(done, task), cost_against_single=compare_cost(tables['single_test'], done, task)))
    keep = lambda s: {k: s[k] for k in ('n_images', 'n_patients', 'accuracy', 'balanced_accuracy', 'macro_auc')} | {'auc': s['referable']['auc']}
    return dict(cascades=rows, stage_one=keep(evaluate(tables['one_test'], 'pneumonia')), stage_two=keep(evaluate(tables['two_test'], 'pneumonia_type')), single=keep(evaluate(tables['single_test'], task)))

def say(name, r):
    show = lambda f: f"{f['value']:.3f} ({f['ci95'][0]:.3f} to {f['ci95'][1]:.3f})"
    print(f"\n{name}: stage one AUC {show(r['stage_one']['auc'])}, stage two accuracy {show(r['stage_two']['accuracy'])}, single model accuracy {show(r['single']['accuracy'])}")
    for c in r['cascades']:
        op = c['operating_point']
        print(f"\nsensitivity .99 on validation{', with 95% assurance' if 'assurance' in op else ''}: threshold {op['threshold']:.4f}, there specificity {op['specificity']:.3f}")
        for k in ('sensitivity', 'specificity', 'reaches_two', 'right_at_two', 'accuracy', 'cost'): print(f"  {k:14}{show(c['report'][k])}")
        print(f"  cost minus the single model's {show(c['cost_against_single']['difference'])}\n{pd.DataFrame(c['report']['losses']).to_string(index=False)}")

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--out', type=Path, default=HERE/'results')
    ap.add_argument('--runs', type=Path, help='also train three small networks, in this folder: minutes')
    a = ap.parse_args()
    if not os.environ.get('RETINA_NB_DATA'): sys.exit('RETINA_NB_DATA is not set: no chest X-rays here')
    d, fit, hold, test = read(Path(os.environ['RETINA_NB_DATA'])/'chest_xray')
    kinds = {'gradient histograms': by_gradients(d, fit, hold, test)} | ({'small network': by_network(d, fit, hold, test, a.runs)} if a.runs else {})
    result = dict(what=__doc__.split('\n')[0], parts=dict(fit=len(fit), valid=len(hold), test=len(test)), models={name: judge(t) for name,t in kinds.items()})
    for name, r in result['models'].items(): say(name, r)
    write_json(a.out/'cascade_xray.json', result)
    write_table(a.out/'predictions_xray.csv', pd.concat([t.assign(model=name, stage=k.split('_')[0], split=k.split('_')[1]) for name, ts in kinds.items() for k,t in ts.items() if k.endswith('test') or k.startswith('one')]).round(4))

if __name__ == '__main__': main()

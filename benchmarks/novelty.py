"""What novelty flags: the demo's bundle on real photographs, and bundles trained on IDRiD's folds on their left-out fold and on EyePACS.

    python benchmarks/novelty.py                     makes the demo and five IDRiD runs; results in benchmarks/results/novelty.json
    python benchmarks/novelty.py --demo runs/demo --folds DIR     takes a demo that is there, and keeps or takes fold runs in DIR

Data sets are found through RETINA_NB_DATA and read where they lie. Everything is graded as a user would, by `Grader`, from files.
The bars: at least 95% of IDRiD's, EyePACS's and the chest X-rays' pictures are novel to the demo's bundle, at most 5% of its own
test part; at most 5% of IDRiD's left-out folds are novel to a model that was trained on the others.
"""
import argparse, os, sys, tempfile, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd

from run import machine
from retina_nb.core import Run
from retina_nb.data.records import load_records
from retina_nb.data.split import kfold
from retina_nb.deploy import Grader, export
from retina_nb.disk import write_json
from retina_nb.measure.metrics import qwk
from retina_nb.report.demo import demo_records, run_demo

HERE = Path(__file__).parent
RECIPE = dict(arch='resnet18', size=128, epochs=12, precision='bf16', pretrained=False) # as benchmarks/real.py; bf16 for the time it takes

def share(flags):
    "A fraction with the Clopper-Pearson interval, images as independent"
    from scipy.stats import beta
    k, n = int(np.sum(flags)), len(flags)
    lo, hi = (0. if k == 0 else beta.ppf(.025, k, n-k+1)), (1. if k == n else beta.ppf(.975, k+1, n-k))
    return dict(value=round(k/n, 4), ci95=[round(float(lo), 4), round(float(hi), 4)], flagged=k, images=n)

def graded(bundle, images):
    "A table of gradings in the order of the images"
    rows = [dict(image=g.file, novel=g.novel, novelty=g.novelty, grade=g.grade, p=g.referable_probability, ungradable=bool(g.ungradable))
            for g in Grader(bundle).grade_many([str(o) for o in images], grade_anyway=True)]
    return pd.DataFrame(rows)

def scores(t, threshold):
    "Kappa, sensitivity and specificity of a table with labels; intervals are for the whole report, not for this count"
    if not len(t): return dict(images=0)
    sick, found = t.label >= 2, t.p >= threshold
    return dict(images=len(t), qwk=round(float(qwk(t.label, t.grade, 5)), 4), positives=int(sick.sum()),
                sensitivity=round(float(found[sick].mean()), 4) if sick.any() else None,
                specificity=round(float((~found[~sick]).mean()), 4) if (~sick).any() else None)

def demo(bundle, data):
    "How much of each data set is novel to the demo's bundle"
    records = demo_records()
    test = records[records['split'] == 'test']
    sets = {'own test part': test['image'], 'IDRiD': load_records(data/'idrid', warn=False)['image'],
            'EyePACS': load_records(data/'eyepacs-small', warn=False)['image'],
            'chest X-rays': load_records(data/'chest_xray', task='pneumonia', warn=False)['image'].iloc[::10]}
    out = {}
    for name,images in sets.items():
        t = graded(bundle, images)
        out[name] = share(t.novel) | dict(median=round(float(t.novelty.median()), 3), ungradable=int(t.ungradable.sum()))
        print(f"demo, {name}: {out[name]}", flush=True)
    return out

def folds(folder, data, seed=42):
    "Five runs on IDRiD: what each calls novel in its left-out fold and in EyePACS, and what that costs and saves"
    from retina_nb.train.training import train
    records, eyes = load_records(data/'idrid', warn=False), load_records(data/'eyepacs-small', warn=False)
    eyes = eyes[eyes.label.notna()]
    own, other = [], []
    for i,fold in enumerate(kfold(records, k=5, seed=seed)):
        fold.attrs = records.attrs
        out = folder/f'fold{i}'
        run = Run(out) if (out/'predictions.csv').is_file() else train(fold, out=out, seed=seed+i, progress=False, resume=True, **RECIPE)
        bundle = export(run, folder/f'bundle{i}')
        threshold = Grader(bundle).threshold
        rest = run.records[run.records['split'] == 'test']
        for df,parts in ((rest, own), (eyes, other)):
            t = graded(bundle, df['image']).assign(label=df['label'].astype(int).to_numpy(), fold=i, threshold=threshold)
            parts.append(t)
        print(f'fold {i}: left out {share(own[-1].novel)}, EyePACS {share(other[-1].novel)}', flush=True)
    out = {}
    for name,parts in (('IDRiD, left out', own), ('EyePACS', other)):
        t = pd.concat(parts, ignore_index=True)
        out[name] = share(t.novel) | {k: scores(d, d.threshold) for k,d in (('all', t), ('not novel', t[~t.novel]), ('novel', t[t.novel]))}
        out[name]['folds'] = [share(d.novel)['value'] for d in parts]
        print(f'{name}: {out[name]}', flush=True)
    return out

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--demo', type=Path, help='the folder of a demo that is there')
    p.add_argument('--folds', type=Path, help='where the runs on IDRiD are kept, or lie already')
    p.add_argument('--only', choices=('demo', 'folds'), help='one half only; the other is kept as it was')
    p.add_argument('--out', default=HERE/'results'/'novelty.json', type=Path)
    a = p.parse_args()
    if not os.environ.get('RETINA_NB_DATA'): sys.exit('RETINA_NB_DATA is not set: point it at the folder that holds idrid/, eyepacs-small/ and chest_xray/')
    data, start = Path(os.environ['RETINA_NB_DATA']), time.perf_counter()
    import json
    result = json.loads(a.out.read_text()) if a.out.is_file() else {}
    with tempfile.TemporaryDirectory() as tmp:
        if a.only != 'folds': result['demo'] = demo((a.demo or run_demo(Path(tmp)/'demo', say=None).path)/'bundle', data)
        if a.only != 'demo': result['idrid'] = folds(a.folds or Path(tmp), data)
    write_json(a.out, result | dict(recipe=RECIPE, machine=machine()))
    print(f'{time.perf_counter() - start:.0f} s, written to {a.out}')

if __name__ == '__main__': main()

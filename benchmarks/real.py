"""The whole road on IDRiD's 413 photographs and Kaggle's ten, found through RETINA_NB_DATA.

    python benchmarks/real.py            cross-validation and one run, end to end; results in benchmarks/results/real.json
    python benchmarks/real.py --quick    one small run, end to end, in a few minutes; nothing is written to results/

Images are read where they lie and never copied into the project. Cross-validation holds out one fifth of the
photographs at a time (IDRiD names no patients), identical ones together. How recipes were chosen: real_search.py.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np, pandas as pd

from retina_nb.disk import write_json
from retina_nb.data.records import load_records
from retina_nb.measure.evaluation import evaluate
from retina_nb.measure.metrics import qwk
from retina_nb.data.split import kfold
from retina_nb.train.training import train

HERE = Path(__file__).parent
SCORES = ('accuracy', 'balanced_accuracy', 'qwk', 'macro_auc')

def one_line(scores): return ', '.join(f"{k} {scores[k]['value']:.3f}" for k in SCORES if k in scores)

def command(*args):
    "Run one of the package's commands as a user would; stop if it fails"
    print('$', *args, flush=True)
    exe = Path(sys.executable).with_name(args[0])
    done = subprocess.run([str(exe), *map(str, args[1:])], capture_output=True, text=True)
    if done.returncode: sys.exit(f'{args[0]} failed with {done.returncode}:\n{done.stderr[-2000:]}')
    return done.stdout

def road(data, tmp, size, epochs, arch):
    "Explore, train, evaluate, export, check and grade IDRiD by the commands; returns the scores of its test part"
    idrid = data/'idrid'
    command('retina_explore', idrid, '--out', tmp/'survey')
    summary = json.loads((tmp/'survey'/'summary.json').read_text())
    facts = {k: summary[k] for k in ('n_images', 'n_duplicates', 'n_conflicts')}
    if facts != dict(n_images=413, n_duplicates=5, n_conflicts=2): sys.exit(f'IDRiD was not read as it is: {facts}')
    command('retina_train', idrid, '--out', tmp/'run', '--arch', arch, '--size', size, '--epochs', epochs, '--no_pretrained')
    print(command('retina_evaluate', tmp/'run', '--out', tmp/'eval'))
    command('retina_export', tmp/'run', '--out', tmp/'bundle')
    command('retina_check', tmp/'bundle')
    command('retina_report', tmp/'run')
    return dict(survey=facts, scores=json.loads((tmp/'eval'/'metrics.json').read_text()))

def kaggle(data, tmp):
    "Grade Kaggle's ten full-size photographs with the bundle just made"
    images = sorted((data/'eyepacs-sample'/'train').glob('*.jpeg'))
    command('retina_grade', tmp/'bundle', *images, '--out', tmp/'kaggle.csv')
    table = pd.read_csv(tmp/'kaggle.csv')
    if len(table) != len(images) or table['grade'].isna().any(): sys.exit(f'{len(images)} photographs, but {table.grade.notna().sum()} gradings')
    print(f'graded {len(table)} Kaggle photographs: grades {table.grade.value_counts().sort_index().to_dict()}')
    return len(table)

def cross_validate(data, tmp, k=5, seed=42, **recipe):
    "k-fold predictions on IDRiD by image, identical ones together; every photograph is predicted once, by a model that has not seen it"
    records, parts = load_records(data/'idrid', warn=False), []
    for i,fold in enumerate(kfold(records, k=k, seed=seed)):
        start = time.perf_counter()
        run = train(fold, out=tmp/f'fold{i}', seed=seed+i, progress=False, pretrained=False, **recipe)
        p = run.predictions
        parts.append(p.assign(fold=i))
        print(f'fold {i}: QWK {qwk(p.target, p.grade, 5):.3f}, {time.perf_counter()-start:.0f} s', flush=True)
    preds = pd.concat(parts, ignore_index=True)
    folds = [qwk(p.target, p.grade, 5) for p in parts]
    return dict(recipe=recipe, config={x: run.config[x] for x in ('loss', 'lr', 'bs', 'aug', 'sampling', 'preprocess')}, device=run.config['device'],
                versions=run.config['versions'], seed=seed, fold_qwk=folds, mean_fold_qwk=float(np.mean(folds)), pooled=evaluate(preds, 'dr', seed=seed))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='one small run only')
    p.add_argument('--out', default=HERE/'results'/'real.json', type=Path)
    a = p.parse_args()
    data = os.environ.get('RETINA_NB_DATA')
    if not data: sys.exit('RETINA_NB_DATA is not set: point it at the folder that holds idrid/ and eyepacs-sample/')
    data = Path(data)
    with tempfile.TemporaryDirectory() as tmp:
        tmp, start = Path(tmp), time.perf_counter()
        result = road(data, tmp, *((112, 12, 'test_resnet') if a.quick else (128, 12, 'resnet18')))
        print('this model:     ', one_line(result['scores']))
        print('majority model: ', one_line(result['scores']['majority']))
        result['kaggle_graded'] = kaggle(data, tmp)
        if a.quick: return print(f'real photographs, quick: done in {time.perf_counter()-start:.0f} s')
        result['cross_validation'] = cross_validate(data, tmp, arch='resnet18', size=128, epochs=12)
        cv = result['cross_validation']
        print(f"5-fold QWK {cv['mean_fold_qwk']:.3f} on average; pooled: {one_line(cv['pooled'])}; majority: {one_line(cv['pooled']['majority'])}")
    write_json(a.out, result)
    print(f'written to {a.out}')

if __name__ == '__main__': main()

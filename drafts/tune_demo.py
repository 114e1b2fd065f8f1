"""How the demo's recipe was chosen: on eyes drawn for it, never on the sample's test part.

    python benchmarks/tune_demo.py            what is not in the table yet, one training after the other
    python benchmarks/tune_demo.py --table    the table of what is there already
    python benchmarks/tune_demo.py --test 42 1 2    once the recipe is chosen: the demo itself with these seeds, on the sample's test part

Each row of `TRIED` is one training on the sample's training part and on eyes that the generator drew for it. It is scored on 500 further
eyes, 50 patients a grade by their first eye, of seeds that nothing else uses. QWK is worked out at the sample's fractions of the
grades. One seed of training a row: a difference of .02 in QWK, or of .10 in one sensitivity, says little. The sample's test part is not
read here. One thread; a row takes some minutes of one core. Processor seconds are those of the training alone, on a machine that did
other things at the same time, where they are up to a half higher than on a quiet one.
"""
import argparse, json, os, warnings
from pathlib import Path
from time import process_time

os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd

from retina_nb.data.records import load_records
from retina_nb.data.split import split_records
from retina_nb.disk import write_json
from retina_nb.synth.dataset import sample_dir, synth_dataset

OUT = Path(__file__).resolve().parent/'results'/'table_demo.json'
EVEN = .30, .18, .20, .16, .16
LESIONS = .04, .10, .30, .21, .35
BETWEEN = .05, .15, .30, .20, .30
OLD = dict(arch='test_resnet', size=160, epochs=8, bs=32, lr=6e-3, loss='ce', pretrained=False)
SMALL = OLD | dict(bs=16, lr=4e-3)
GROW = SMALL | dict(start_size=96)
SAMPLE = np.array([253, 81, 70, 41, 35])/480 # fractions of the grades
CHUNK = 400 # drawn eyes of one seed

TRIED = [ # what, fractions of the grades among drawn eyes, how many, settings
    ('as before', EVEN, 800, OLD),
    ('batches of 16', EVEN, 800, SMALL),
    ('growing from 96 px, 12 epochs', EVEN, 800, GROW | dict(epochs=12)),
    ('more eyes of grades 2 to 4, weak augmentation', LESIONS, 1000, GROW | dict(aug=.25)),
    ('the same without local contrast', LESIONS, 1000, GROW | dict(aug=.25, contrast='none')),
    ('1600 drawn eyes, 12 epochs', BETWEEN, 1600, GROW | dict(aug=.25, epochs=12)),
    ('1200 drawn eyes, 12 epochs, 192 px', BETWEEN, 1200, GROW | dict(aug=.25, epochs=12, size=192)),
]

def drawn(n, seed, prevalence, split):
    "Records of freshly drawn eyes, under patient names of their own"
    records = load_records(synth_dataset(n, seed=seed, prevalence=prevalence), warn=False)
    return records.assign(split=split, patient=f'drawn-{seed}-' + records['patient'].astype(str))

def score(p, y):
    "Sensitivity of each grade, and QWK at the sample's fractions of the grades"
    rows = np.array([np.bincount(p.argmax(1)[y == k], minlength=5)/(y == k).sum() for k in range(5)])
    table, far = rows*SAMPLE[:,None], np.subtract.outer(np.arange(5), np.arange(5))**2
    chance = np.outer(table.sum(1), table.sum(0))
    return dict(qwk=round(1 - float((far*table).sum()/(far*chance).sum()), 3), sensitivity=[round(float(o), 2) for o in rows.diagonal()])

def one(what, prevalence, extra, recipe, seed=1):
    "Train one row and score it"
    import torch
    from retina_nb.train.learner import make_learner
    from retina_nb.train.loader import loaders
    torch.set_num_threads(1)
    records = split_records(load_records(sample_dir()), seed=42)
    new = [drawn(min(CHUNK, extra - i), 5000 + 100*seed + i//CHUNK, prevalence, 'train') for i in range(0, extra, CHUNK)]
    records = pd.concat([records[records['split'] != 'test'], *new], ignore_index=True)
    learn = make_learner(records, progress=False, seed=seed, **recipe)
    start = process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(recipe['epochs'], recipe['lr'])
    seconds = process_time() - start
    asked = drawn(500, 7001, (.2,)*5, 'valid')
    dls = loaders(pd.concat([records[records['split'] == 'train'].head(32), asked]), learn.dls.pre, progress=False)
    with learn.no_bar(): p, y = learn.get_preds(dl=dls.valid)
    found = score(p.numpy(), y.numpy())
    return dict(what=what, extra=extra, prevalence=list(prevalence), seed=seed, cpu_seconds=round(seconds), **found, recipe=recipe)

def final(seed):
    "The demo itself, on the sample's test part"
    import tempfile
    from retina_nb.measure.predictions import read_predictions
    from retina_nb.report.demo import EXTRA, RECIPE, run_demo
    with tempfile.TemporaryDirectory() as tmp:
        start = process_time()
        run = run_demo(Path(tmp)/'demo', seed=seed, say=None)
        preds, m = read_predictions(run), json.loads((run.path/'metrics.json').read_text())
        y, g = (preds[k].astype(int).to_numpy() for k in ('target', 'grade'))
        found = [round(float((g[y == k] == k).mean()), 2) for k in range(5)]
        wall = json.loads((run.path/'demo.json').read_text())['seconds']
        return dict(seed=seed, qwk=round(m['qwk']['value'], 3), sensitivity=found, cpu_seconds=round(process_time() - start),
                    wall_seconds=wall, extra=EXTRA, recipe=RECIPE)

def save(out, rows, test):
    write_json(out, dict(name='demo', on='500 drawn eyes of other seeds, never the test part of the sample', rows=rows, test=test))

def main():
    ap = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    ap.add_argument('--out', type=Path, default=OUT)
    ap.add_argument('--table', action='store_true', help='print what is there already')
    ap.add_argument('--test', type=int, nargs='+', metavar='SEED', help='run the demo itself with these seeds')
    a = ap.parse_args()
    kept = json.loads(a.out.read_text()) if a.out.is_file() else {}
    there, test = kept.get('rows', []), kept.get('test', [])
    for seed in a.test or []:
        test = [r for r in test if r['seed'] != seed] + [final(seed)]
        save(a.out, there, test)
    for row in [] if a.table or a.test else TRIED:
        if any(r['what'] == row[0] for r in there): continue
        warnings.simplefilter('ignore')
        there.append(one(*row))
        save(a.out, there, test)
    for rows in filter(None, (there, test)): print(pd.DataFrame(rows).drop(columns=['recipe', 'prevalence'], errors='ignore').to_string(index=False))

if __name__ == '__main__': main()

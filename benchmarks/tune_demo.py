"""How the demo's recipe was chosen: on eyes drawn for it, never on the sample's test part.

    python benchmarks/tune_demo.py            what is not in the table yet, one training after the other
    python benchmarks/tune_demo.py --table    the table of what is there already
    python benchmarks/tune_demo.py --test 42  the demo itself with these seeds, on the sample's test part: once the recipe is chosen

Each row of `TRIED` is one training on the sample's training part and on eyes that the generator drew for it. It is scored on 500 further
eyes, 50 patients a grade by their first eye, of seeds that nothing else uses. QWK is worked out at the sample's fractions of the
grades. One seed of training a row: a difference of .02 in QWK, or of .10 in one sensitivity, says little. The sample's test part is not
read here. One thread. Processor seconds are those of the training alone, on a machine that did much else at the same time, where
they are up to a half higher than on a quiet one.
"""
import argparse, json, os, tempfile, warnings
from pathlib import Path
from time import process_time

os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd

from retina_nb.data.records import load_records
from retina_nb.data.split import split_records
from retina_nb.disk import read_json, write_json
from retina_nb.measure.predictions import read_predictions
from retina_nb.synth.dataset import sample_dir, synth_dataset

OUT = Path(__file__).resolve().parent/'results'/'demo_recipes.json'
ON = '500 drawn eyes of other seeds, never the test part of the sample'
OLD = dict(arch='test_resnet', size=160, epochs=8, bs=32, lr=6e-3, loss='ce', pretrained=False) # the first demo's
SMALL = OLD | dict(bs=16, lr=4e-3)
GROW = SMALL | dict(start_size=96)
LONG = GROW | dict(aug=.25, epochs=12)
EVEN, LESIONS, BETWEEN = (.30, .18, .20, .16, .16), (.04, .10, .30, .21, .35), (.05, .15, .30, .20, .30)
SAMPLE = np.array([253, 81, 70, 41, 35])/480 # fractions of the grades
CHUNK, EYES, ASKED = 400, 5100, 7001 # drawn eyes of one seed; the first such seed; that of the eyes that are asked

TRIED = [ # what, fractions of the grades among drawn patients, how many eyes, settings, seed of training
    ('as before', EVEN, 800, OLD, 1),
    ('batches of 16', EVEN, 800, SMALL, 1),
    ('and growing from 96 px, 12 epochs', EVEN, 800, GROW | dict(epochs=12), 1),
    ('more of grades 2 to 4, weak augmentation, 8 epochs', LESIONS, 1000, GROW | dict(aug=.25), 1),
    ('the same without local contrast', LESIONS, 1000, GROW | dict(aug=.25, contrast='none'), 1),
    ('more drawn eyes, 12 epochs', BETWEEN, 1600, LONG, 1),
    ('and another network', BETWEEN, 1600, LONG | dict(arch='test_byobnet'), 1),
    ('and fewer drawn eyes', BETWEEN, 1200, LONG | dict(arch='test_byobnet'), 1),
    ('the same, seed 2', BETWEEN, 1200, LONG | dict(arch='test_byobnet'), 2),
]

def drawn(n, seed, grades, split):
    "Records of freshly drawn eyes, under patient names of their own"
    records = load_records(synth_dataset(n, seed=seed, prevalence=grades), warn=False)
    return records.assign(split=split, patient=f'drawn-{seed}-' + records['patient'].astype(str))

def score(p, y):
    "Sensitivity of each grade, and QWK at the sample's fractions of the grades"
    rows = np.array([np.bincount(p.argmax(1)[y == k], minlength=5)/(y == k).sum() for k in range(5)])
    table, far = rows*SAMPLE[:,None], np.subtract.outer(np.arange(5), np.arange(5))**2
    chance = np.outer(table.sum(1), table.sum(0))
    return dict(qwk=round(1 - float((far*table).sum()/(far*chance).sum()), 3), sensitivity=[round(float(o), 2) for o in rows.diagonal()])

def one(what, grades, extra, recipe, seed):
    "Train one row and score it"
    import torch
    from retina_nb.train.learner import make_learner
    from retina_nb.train.loader import loaders
    torch.set_num_threads(1)
    sample = split_records(load_records(sample_dir()), seed=42)
    new = [drawn(min(CHUNK, extra - i), EYES + i//CHUNK, grades, 'train') for i in range(0, extra, CHUNK)]
    records = pd.concat([sample[sample['split'] != 'test'], *new], ignore_index=True)
    learn, start = make_learner(records, progress=False, seed=seed, **recipe), process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(recipe['epochs'], recipe['lr'])
    seconds = process_time() - start
    asked = pd.concat([records[records['split'] == 'train'].head(32), drawn(500, ASKED, (.2,)*5, 'valid')])
    with learn.no_bar(): p, y = learn.get_preds(dl=loaders(asked, learn.dls.pre, progress=False).valid)
    return dict(what=what, extra=extra, grades=list(grades), seed=seed, cpu_seconds=round(seconds),
                **score(p.numpy(), y.numpy()), recipe=recipe)

def final(seed):
    "The demo itself, on the sample's test part"
    from retina_nb.report.demo import BALANCED, EXTRA, RECIPE, run_demo
    with tempfile.TemporaryDirectory() as tmp:
        start = process_time()
        run = run_demo(Path(tmp)/'demo', seed=seed, say=None)
        seconds = process_time() - start
        y, g = (read_predictions(run)[k].astype(int).to_numpy() for k in ('target', 'grade'))
        return dict(seed=seed, extra=EXTRA, grades=list(BALANCED), cpu_seconds=round(seconds),
                    wall_seconds=read_json(run.path/'demo.json')['seconds'], qwk=round(read_json(run.path/'metrics.json')['qwk']['value'], 3),
                    sensitivity=[round(float((g[y == k] == k).mean()), 2) for k in range(5)], recipe=RECIPE)

def main():
    ap = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    ap.add_argument('--out', type=Path, default=OUT)
    ap.add_argument('--table', action='store_true', help='print what is there already')
    ap.add_argument('--test', type=int, nargs='+', metavar='SEED', help='run the demo itself with these seeds')
    a = ap.parse_args()
    kept = json.loads(a.out.read_text()) if a.out.is_file() else dict(name='demo', on=ON, rows=[], test=[])
    for seed in a.test or []:
        kept['test'] = [r for r in kept['test'] if r['seed'] != seed] + [final(seed)]
        write_json(a.out, kept)
    for row in [] if a.table or a.test else TRIED:
        if any(r['what'] == row[0] for r in kept['rows']): continue
        warnings.simplefilter('ignore')
        kept['rows'].append(one(*row))
        write_json(a.out, kept)
    for rows in filter(None, (kept['rows'], kept['test'])):
        print(pd.DataFrame(rows).drop(columns=['recipe', 'grades']).to_string(index=False))

if __name__ == '__main__': main()

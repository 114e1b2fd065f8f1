"""Recipes held against each other on IDRiD's 413 photographs, found through RETINA_NB_DATA; also how well the *choice* does.

    python benchmarks/real_search.py               every recipe on every fold, then the choice by nested validation
    python benchmarks/real_search.py --only NAME   these recipes only; what results/idrid_defaults.json holds already is not run again

Five folds; IDRiD names no patients, so photographs are divided one by one, identical ones and the two of one eye together. In each
fold a recipe is trained from random weights on the training part. A recipe is never judged by the folds it was chosen on: per
fold, the one with the best quadratic weighted kappa (QWK) on that fold's *validation* part is chosen, and only its answers on the
fold's test part count. The plain fastai recipe is chosen among its own learning rates in the same way, so that neither is untuned.
"""
import argparse, datetime, json, os, tempfile, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import pandas as pd, torch
from fastai.torch_core import to_np

from long import plain_learner
from run import machine
from retina_nb.core import set_seed
from retina_nb.disk import write_json
from retina_nb.data.records import load_records
from retina_nb.data.split import kfold
from retina_nb.measure.comparison import compare_models
from retina_nb.measure.evaluation import evaluate
from retina_nb.measure.metrics import qwk
from retina_nb.train.callbacks import HalfPrecision
from retina_nb.train.training import train

FILE = Path(__file__).parent/'results'/'idrid_defaults.json'
BASE = dict(arch='resnet18', size=128, epochs=12, precision='bf16', pretrained=False)
OURS = {'defaults': {}, 'loss ce': dict(loss='ce'), 'loss ce, contrast none': dict(loss='ce', contrast='none'),
        'loss corn': dict(loss='corn'), 'no augmentation': dict(aug=0.), 'loss ce, rate 1e-3': dict(loss='ce', lr=1e-3)}
PLAIN = {'plain fastai, rate 1e-3': 1e-3, 'plain fastai, rate 3e-3': 3e-3, 'plain fastai, rate 1e-2': 1e-2}
ORDER = ('defaults', 'plain fastai, rate 1e-3', 'plain fastai, rate 3e-3', 'loss ce', 'loss corn', 'no augmentation', 'plain fastai, rate 1e-2',
         'loss ce, contrast none', 'loss ce, rate 1e-3')
SAME_EYE = 'IDRiD_013', 'IDRiD_397' # two photographs of one eye, on which the graders agree

def folds(seed=42):
    "The five folds of IDRiD's training part"
    records = load_records(Path(os.environ['RETINA_NB_DATA'])/'idrid', warn=False)
    first, second = (records['image'].map(lambda f: Path(f).stem == name) for name in SAME_EYE)
    joined = records[second].patient.iloc[0] == records[first].patient.iloc[0]
    if not joined: records.loc[records.patient == records[second].patient.iloc[0], 'patient'] = records[first].patient.iloc[0]
    for fold in kfold(records, k=5, seed=seed):
        fold.attrs = records.attrs
        yield fold

def score(p): return float(qwk(p.target, p.grade, 5))

def plain(fold, lr, seed):
    "What fastai's own first lesson makes of the validation and the test part"
    set_seed(seed)
    learn = plain_learner(fold, BASE['size'])
    learn.add_cb(HalfPrecision(BASE['precision']))
    def grades(split):
        part = fold[fold['split'] == split].assign(label=lambda d: d['label'].astype(int))
        p = to_np(learn.get_preds(dl=learn.dls.test_dl(part))[0]).astype(float)
        table = pd.DataFrame(dict(image=part.image, patient=part.patient, target=part.label, grade=p.argmax(1)))
        return table.assign(**{f'p_{j}': p[:,j] for j in range(5)})
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(BASE['epochs'], lr)
        return grades('valid'), grades('test')

def one(name, fold, seed):
    "A recipe on a fold: its QWK on validation and test, and its answers on test"
    start = time.perf_counter()
    if name in PLAIN: valid, test = plain(fold, PLAIN[name], seed)
    else:
        with tempfile.TemporaryDirectory() as tmp:
            run = train(fold, out=Path(tmp)/'run', seed=seed, progress=False, **BASE | OURS[name])
            valid, test = run.predictions_valid, run.predictions
    keep = ['image', 'patient', 'target', 'grade', *[f'p_{j}' for j in range(5)]]
    table = test.assign(image=test.image.map(lambda f: Path(f).name))[keep].round(4)
    return dict(valid_qwk=score(valid), qwk=score(test), seconds=round(time.perf_counter() - start, 1), predictions=table.to_dict('list'))

def table(found): return pd.concat([pd.DataFrame(f['predictions']) for f in found], ignore_index=True)

def nested(arms, names):
    "For each fold the recipe that validation chose, and its answers on the test part"
    chosen = [max(names, key=lambda n: arms[n][i]['valid_qwk']) for i in range(5)]
    return chosen, table([arms[n][i] for i, n in enumerate(chosen)])

def summary(arms):
    "Pooled scores of each recipe, and of the two choices; the difference between these"
    whole = {n: v for n, v in arms.items() if len(v) == 5}
    scores = {n: evaluate(table(v), 'dr', seed=42) for n, v in whole.items()}
    out = dict(recipes={n: dict(qwk=s['qwk'], accuracy=s['accuracy'], referable_auc=s['referable']['auc'], folds=[f['qwk'] for f in whole[n]],
                                validation=[f['valid_qwk'] for f in whole[n]]) for n, s in scores.items()})
    sides = {'this package': [n for n in whole if n in OURS], 'plain fastai': [n for n in whole if n in PLAIN]}
    if not all(sides.values()): return out
    picked = {side: nested(whole, names) for side, names in sides.items()}
    out['nested'] = {}
    for side, (chosen, preds) in picked.items():
        s = evaluate(preds, 'dr', seed=42)
        out['nested'][side] = dict(chosen=chosen, among=sides[side], qwk=s['qwk'], accuracy=s['accuracy'], referable_auc=s['referable']['auc'])
    pair = compare_models(picked['plain fastai'][1], picked['this package'][1], 'dr', seed=42)
    out['difference'] = pair.query("score in ('qwk', 'accuracy', 'referable.auc') and not test.str.startswith('DeLong')", engine='python').to_dict('records')
    return out

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='*', choices=ORDER)
    a = p.parse_args()
    if not os.environ.get('RETINA_NB_DATA'): raise SystemExit('RETINA_NB_DATA is not set: point it at the folder that holds idrid/')
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
    done = json.loads(FILE.read_text()) if FILE.is_file() else {}
    arms = done.get('runs', {})
    def save():
        about = dict(protocol=' '.join(__doc__.split('\n\n')[2].split()), date=datetime.date.today().isoformat(), machine=machine(),
                     base=BASE, changes=OURS, plain=PLAIN, same_eye=SAME_EYE)
        write_json(FILE, about | summary(arms) | dict(runs=arms))
    for name in a.only or ORDER:
        for i, fold in enumerate(folds()):
            if i < len(arms.setdefault(name, [])): continue
            arms[name].append(one(name, fold, 42 + i))
            print(name, i, {k: v for k, v in arms[name][-1].items() if k != 'predictions'}, flush=True)
            save()
    save()
    for side, v in summary(arms).get('nested', {}).items(): print(side, v['chosen'], v['qwk'])

if __name__ == '__main__': main()

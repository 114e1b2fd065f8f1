"""What few labels are worth on OCT scans, with and without a first stage that needs none.

    RETINA_NB_DATA=../shared/data python benchmarks/few_labels.py --runs runs/few [--workers 2]
    RETINA_NB_DATA=../shared/data python benchmarks/few_labels.py --quick        a tiny one, to see that all of it runs
    python benchmarks/few_labels.py --table                                     the table of what is there already

Scans of Kermany et al. 2018 (CC BY 4.0, doi:10.17632/rscbjbr9sj), divided by patient once; scans whose bytes carry a second label in the
full set are left out. Everything is fixed beforehand, in `Plan`: epochs and steps, which weights are kept (the last), five draws of
labels by three seeds of pretraining. Labels are drawn as whole patients, the same for every row of a column; pretraining sees the
training patients only; the test part is predicted once a cell. Nothing is chosen on the validation part, which `train` needs and which
gives no more than a temperature: that is taken off again before the test part is predicted. Settings are tried with `--on valid --runs
ELSEWHERE --out FILE`, which predicts the validation part instead and never looks at the test part.

A cell is a row (a way to learn), a column (how many labels), a draw and a seed. Its scores go to results/table_oct.json as soon as it is
done, its predictions to RUNS/predictions: a study that was killed goes on where it was. Two processes at once, one thread each.
"""
import argparse, dataclasses, datetime, json, math, os, shutil, time, zlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import cv2, numpy as np, pandas as pd

from retina_nb.core import get_task
from retina_nb.data.records import load_records
from retina_nb.data.split import split_records
from retina_nb.disk import write_json, write_table
from retina_nb.image.preprocess import Preprocess
from retina_nb.measure.evaluation import score_statistics
from retina_nb.measure.predictions import read_predictions
from retina_nb.measure.resampling import Resampled, patient_codes, resample
from run import machine

HERE = Path(__file__).resolve().parent
SCORES = 'balanced_accuracy', 'macro_auc', 'accuracy'
COLUMNS = {'3 a class': dict(per_class=3), '10 a class': dict(per_class=10), '30 a class': dict(per_class=30), '1%': dict(fraction=.01),
           '10%': dict(fraction=.1), 'all': dict(fraction=1.)}
ROWS = ('size alone', 'random encoder', 'scratch', *(f'{m} {how}' for m in ('simclr', 'vicreg') for how in ('neighbours', 'spread', 'linear', 'fine-tuned')))
GOALS = {'3 a class': .80, '10 a class': .87, '30 a class': .91, 'all': .95} # macro AUC of linear or fine-tuned, by the plan's first method
PRINT = [ # what is in print on the same scans, and what stands in the way of a comparison
    dict(what='SimCLR, 1% of the labels (the seed of this project)', accuracy=.875, labels='1% of 83,484 images', comparable=False),
    dict(what='SimCLR, 10% of the labels (the seed of this project)', accuracy=.971, labels='10% of 83,484 images', comparable=False),
    dict(what='VGG16 (the seed of this project)', accuracy=.931, labels='all', comparable=False),
    dict(what='InceptionV3 (the seed of this project)', accuracy=.676, labels='all', comparable=False),
    dict(what='ResNet50 (the seed of this project)', accuracy=.964, labels='all', comparable=False),
    dict(what='ResNet50V2 (the seed of this project)', accuracy=.9814, labels='all', comparable=False)]
WHY_NOT = ('published figures on the full OCT2017 are on its official test part: patients on both sides, 269 groups of byte-identical images with two labels, '
           'the best epoch often picked on the test part, labels drawn as images and not as patients, and a hundred times as many scans')

@dataclass(frozen=True)
class Plan:
    "What is fixed before anything is trained"
    arch: str = 'test_resnet' # .37 million parameters, a network that two cores can train hundreds of times; resnet10t with a GPU
    size: int = 96           # pixels a side
    channels: int = 1        # scans hold no colour
    split_seed: int = 1      # of the one division by patient
    fractions: tuple = (.6, .1, .3)
    draws: int = 5           # of the labels
    seeds: int = 3           # of pretraining, and of random weights
    pre_epochs: int = 200    # of pretraining, over all training scans
    pre_bs: int = 128
    pre_lr: float = 2e-3
    pairs: str = 'same'
    temperature: float = .5
    steps: int = 480         # of a supervised training, whatever the number of labels
    bs: int = 32
    lr_scratch: float = 3e-3
    lr_fine: float = 3e-3    # as from scratch
    lr_mult: float = 1.      # how many times slower the body learns in fine-tuning
    aug: float = 1.          # strength of augmentation, the same from scratch and fine-tuned
    methods: tuple = ('simclr', 'vicreg')
    on: str = 'test'         # the part that is predicted; 'valid' to try settings out, which must not be done on the test part

QUICK = Plan(arch='test_resnet', size=48, draws=1, seeds=1, pre_epochs=2, steps=16, methods=('simclr',))
EPOCHS = 8 # of a supervised training: labelled scans are repeated until an epoch has steps/EPOCHS steps

def data():
    if 'RETINA_NB_DATA' not in os.environ: raise SystemExit('RETINA_NB_DATA is not set: point it at the folder with the real data sets')
    return Path(os.environ['RETINA_NB_DATA'])

# --- scans: prepared once, as PNG, so that every part of the study reads the same pixels

def scans(runs, plan):
    "Records of the prepared scans, divided by patient"
    folder = runs/f'scans{plan.size}'
    if not (folder/'records.csv').is_file():
        found = load_records(data()/'oct2017', task='oct', warn=False)
        found = split_records(found[found['label_conflict'].astype(int) == 0].reset_index(drop=True), plan.fractions, seed=plan.split_seed)
        pre = Preprocess.for_task('oct', size=plan.size, crop='oct', fit='cut') # white borders filled, the centre square, nothing squashed
        image = [str((folder/f'{i:04}.png').resolve()) for i in range(len(found))]
        folder.mkdir(parents=True, exist_ok=True)
        for src, out in zip(found['image'], image): cv2.imwrite(out, pre(src))
        write_table(folder/'records.csv', found.assign(image=image))
    out = pd.read_csv(folder/'records.csv', dtype=dict(patient=str), keep_default_na=False)
    return out.assign(task='oct', label=out['label'].astype('Int64'))

def as_oct(table): return read_predictions(table, 'oct')

# --- one cell

def wanted(plan, quick=False):
    "All cells in the order in which they are done: cheap ones and few labels first; all labels can be drawn only once"
    rows = [r for r in ROWS if not r.startswith(('simclr', 'vicreg')) or r.split()[0] in plan.methods]
    columns = ('3 a class', 'all') if quick else COLUMNS
    dear = lambda r: r == 'scratch' or 'fine' in r
    cells = [(r, c, d, s) for r in rows for c in columns for d in range(1 if c == 'all' else plan.draws) for s in range(1 if r == 'size alone' else plan.seeds)]
    return sorted(cells, key=lambda cell: (dear(cell[0]), list(COLUMNS).index(cell[1]), cell[2], cell[3]))

def key_of(cell): return ' | '.join(map(str, cell))
def file_of(runs, cell): return runs/'predictions'/f"{'_'.join(map(str, cell)).replace(' ', '-').replace('%', 'pct')}.csv"
def stage_of(runs, method, seed): return runs/f'{method}-{seed}'

def first_stage(runs, plan, method, seed):
    "A pretraining on the training patients, their labels taken away"
    from retina_nb.train.self_training import pretrain
    r = scans(runs, plan)
    bare = r[r['split'] == 'train'].assign(label=pd.NA)
    run = pretrain(bare, out=stage_of(runs, method, seed), method=method, task='oct', arch=plan.arch, size=plan.size, channels=plan.channels, epochs=plan.pre_epochs,
                   bs=plan.pre_bs, lr=plan.pre_lr, pairs=plan.pairs, temperature=plan.temperature, seed=seed, resume=True, progress=False)
    h = run.history
    return {k: float(v) for k,v in h.iloc[-1].to_dict().items() if isinstance(v, (int, float))} | dict(seconds=round(float(h['seconds'].sum()), 1))

def sizes(r):
    "What can be told without the picture: native width and height, and which of the usual sizes it is"
    w, h = r['width'].astype(float).to_numpy(), r['height'].astype(float).to_numpy()
    usual = pd.get_dummies(r['width'].astype(str) + 'x' + r['height'].astype(str)).to_numpy(float)
    return np.column_stack([w, h, w/h, usual])

def features(runs, plan, r, method, seed):
    "What a frozen network makes of each scan, worked out once; kept with the hash of its weights"
    from retina_nb.train.probe import encode
    weights = None if method == 'random' else stage_of(runs, method, seed)/'model.safetensors'
    mark = 0 if weights is None else zlib.crc32(weights.read_bytes())
    file = runs/'features'/f'{method}-{seed}-{mark:08x}.npy'
    if not file.is_file():
        x = encode(r, weights, arch=plan.arch, size=plan.size, task='oct', channels=plan.channels, seed=seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f'{file.stem}.{os.getpid()}.npy') # two processes may do the same
        np.save(part, x)
        os.replace(part, file)
    return np.load(file)

def spread(x, r, drawn, on):
    "Semi-supervised: labels spread over the graph of neighbours of all training scans (Zhou et al. 2004), then read by the test part"
    from sklearn.semi_supervised import LabelSpreading
    from retina_nb.train.model import predictions_table
    x, train, test = x/np.linalg.norm(x, axis=1, keepdims=True), (r['split'] == 'train').to_numpy(), (r['split'] == on).to_numpy()
    y = np.where(drawn, r['label'].astype(int), -1)[train]
    found = LabelSpreading(kernel='knn', n_neighbors=10, alpha=.9, max_iter=200).fit(x[train], y)
    near = x[test] @ x[train].T
    best = np.argsort(-near, axis=1, kind='stable')[:,:10]
    p = np.full((test.sum(), 4), 1e-9)
    p[:,found.classes_] += found.label_distributions_[best].mean(1)
    return predictions_table(r[test], p, 'oct')

def supervised(runs, plan, r, drawn, cell, weights):
    "A training on the drawn labels alone, for a fixed number of steps; predictions of the test part by the last weights"
    from retina_nb.train.model import grade_records
    from retina_nb.train.prediction import load_model
    from retina_nb.train.training import train
    few, n = r[drawn], plan.bs*max(1, plan.steps//EPOCHS)
    few = pd.concat([few]*math.ceil(n/len(few)), ignore_index=True)
    bs = plan.bs
    epochs = max(1, round(plan.steps/max(1, len(few)//bs)))
    out = runs/'cells'/file_of(runs, cell).stem
    how = dict(weights=str(weights), lr=plan.lr_fine, lr_mult=plan.lr_mult) if weights else dict(lr=plan.lr_scratch)
    run = train(pd.concat([few, r[r['split'] != 'train']], ignore_index=True), out=out, task='oct', arch=plan.arch, size=plan.size, channels=plan.channels, epochs=epochs,
                bs=bs, aug=plan.aug, pretrained=False, class_weights='balanced', loss='ce', seed=cell[3], split_seed=plan.split_seed, resume=True, progress=False, **how)
    model = load_model(run)
    model.temperature.fill_(1.) # fitted on the validation part, whose labels this row does not have
    preds = grade_records(model, r[r['split'] == plan.on], progress=False)
    shutil.rmtree(out)
    return preds

def predictions(runs, plan, cell):
    "Predictions of the test part by one cell"
    from retina_nb.train.probe import draw_labels, knn_predictions, linear_probe
    row, column, draw, seed = cell
    r = scans(runs, plan)
    drawn = draw_labels(r, seed=draw, **COLUMNS[column])
    method, _, how = row.partition(' ')
    if row == 'size alone': return linear_probe(sizes(r), r, drawn, task='oct', on=plan.on)
    if row == 'scratch': return supervised(runs, plan, r, drawn, cell, None)
    if how == 'fine-tuned': return supervised(runs, plan, r, drawn, cell, stage_of(runs, method, seed)/'model.safetensors')
    x = features(runs, plan, r, method, seed)
    if how == 'spread': return spread(x, r, drawn, plan.on)
    return (knn_predictions if how == 'neighbours' else linear_probe)(x, r, drawn, task='oct', on=plan.on)

def counted(runs, plan):
    "How many labels a column is: patients and scans by draw"
    from retina_nb.train.probe import draw_labels
    r = scans(runs, plan)
    drawn = {c: [draw_labels(r, seed=d, **how) for d in range(1 if c == 'all' else plan.draws)] for c,how in COLUMNS.items()}
    parts = {s: dict(patients=int(g['patient'].nunique()), scans=len(g)) for s,g in r.groupby('split')}
    return dict(columns={c: dict(patients=[int(r['patient'][x].nunique()) for x in xs], scans=[int(x.sum()) for x in xs]) for c,xs in drawn.items()}, parts=parts)

def scored(preds, n_boot=0):
    "Scores with what their intervals need; the patients that are drawn are the same for every cell, as its test part is"
    t, task = as_oct(preds), get_task('oct')
    unit, n = patient_codes(t)[:2]
    found = resample(score_statistics(t, task, dict(referable=.5), who=(unit, n))[0], n, n_boot=n_boot, images=len(t))
    return {k: found[k] for k in SCORES}

def do(job):
    "One pretraining or one cell, in a process of its own"
    import torch
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
    runs, plan, cell = job
    if len(cell) == 2: return dict(cell=cell, **first_stage(runs, plan, *cell))
    start, file = time.perf_counter(), file_of(runs, cell)
    if not file.is_file(): write_table(file, predictions(runs, plan, cell)[['image', 'patient', 'target', 'grade', *(f'p_{j}' for j in range(4))]])
    return dict(cell=cell, seconds=round(time.perf_counter() - start, 1), **{k: float(v.value) for k,v in scored(pd.read_csv(file, dtype=dict(patient=str))).items()})

# --- the table

def mean_of(found):
    "The mean of a score over cells, resampled over the patients that they share"
    first = found[0]
    return Resampled(*(np.mean([getattr(x, a) for x in found], axis=0) for a in ('value', 'left_out', 'resampled')), units=first.units, span=first.span)

def shown(x): return dict(value=float(x.value), ci95=[None if v is None else float(v) for v in x.interval(method='percentile')])

def collect(runs, cells, n_boot):
    "Resampled scores of all cells that are done: {(row, column): {(draw, seed): scores}}"
    out = {}
    for cell in cells:
        file = file_of(runs, cell)
        if file.is_file(): out.setdefault(cell[:2], {})[cell[2:]] = scored(pd.read_csv(file, dtype=dict(patient=str)), n_boot)
    return out

def paired(a, b):
    "The mean difference in AUC over the draws and seeds that both have"
    both = sorted(set(a) & set(b))
    return None if not both else dict(n=len(both), **shown(mean_of([a[k]['macro_auc'] for k in both]) - mean_of([b[k]['macro_auc'] for k in both])))

def summary(runs, plan, cells, n_boot=1000):
    "Mean over draws and seeds with its interval by patient, spread over draws and seeds, difference to scratch, and goals"
    found, rows = collect(runs, cells, n_boot), []
    for (row, column), each in found.items():
        scores = {k: shown(mean_of([x[k] for x in each.values()])) | dict(sd=float(np.std([x[k].value for x in each.values()]))) for k in SCORES}
        more = dict(less_scratch=paired(each, found[('scratch', column)])) if row != 'scratch' and ('scratch', column) in found else {}
        rows.append(dict(row=row, column=column, n=len(each), **scores, **more))
    goals = []
    for column, goal in GOALS.items():
        ours = [x for x in rows if x['column'] == column and x['row'] in [f'{plan.methods[0]} {how}' for how in ('linear', 'fine-tuned')]]
        if ours:
            best = max(ours, key=lambda x: x['macro_auc']['value'])
            goals.append(dict(column=column, goal=goal, best=best['row'], ours=best['macro_auc'], less_scratch=best.get('less_scratch'), reached=best['macro_auc']['value'] >= goal))
    return dict(labels=counted(runs, plan), rows=rows, goals=goals)

def told(s):
    "The table as Markdown: macro AUC, and balanced accuracy below it"
    rows, columns = [list(dict.fromkeys(x[k] for x in s['rows'])) for k in ('row', 'column')]
    at = {(x['row'], x['column']): x for x in s['rows']}
    def cell(x): return '' if x is None else f"{x['macro_auc']['value']:.3f} ({'–'.join('?' if v is None else f'{v:.2f}' for v in x['macro_auc']['ci95'])}), {x['balanced_accuracy']['value']:.2f}"
    lines = ['| macro AUC (95% by patient), balanced accuracy | ' + ' | '.join(columns) + ' |', '|---'*(len(columns)+1) + '|']
    lines += ['| ' + ' | '.join([r, *(cell(at.get((r, c))) for c in columns)]) + ' |' for r in rows]
    lines += [f"{c}: {np.mean(x['patients']):.0f} patients, {np.mean(x['scans']):.0f} scans" for c,x in s['labels']['columns'].items()]
    lines += [f"{g['column']}: goal {g['goal']}, {g['best']} {g['ours']['value']:.3f}, {'reached' if g['reached'] else 'missed'}" for g in s['goals']]
    return '\n'.join(lines)

class Results:
    "results/table_oct.json, written anew after each cell; results of another plan are not mixed in"
    def __init__(self, file, plan):
        self.file, was = file, json.loads(file.read_text()) if file.is_file() else {}
        fixed = json.loads(json.dumps(dataclasses.asdict(plan)))
        if was and was.get('plan') != fixed: raise SystemExit(f'{file}: holds the results of another plan; move it away to begin anew')
        self.d = was or dict(name='table_oct', what=__doc__, plan=fixed, first_stages={}, cells={})
    def add(self, r):
        r = dict(r)
        cell = r.pop('cell')
        self.d['first_stages' if len(cell) == 2 else 'cells'][key_of(cell)] = r
        self.save()
    def save(self, **more):
        self.d |= dict(date=datetime.date.today().isoformat(), machine=machine(), threads=int(os.environ['OMP_NUM_THREADS']), published=PRINT, why_not_comparable=WHY_NOT, **more)
        write_json(self.file, self.d)

def work(jobs, workers, results):
    "All jobs, some at once; each result is written when it comes"
    start = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
        todo = [pool.submit(do, j) for j in jobs]
        try:
            for i, f in enumerate(as_completed(todo), 1):
                r = f.result()
                results.add(r)
                print(f"{i}/{len(todo)} {key_of(r['cell'])}: " + ', '.join(f'{k} {v:.3g}' for k,v in r.items() if k != 'cell')
                      + f' ({time.perf_counter() - start:.0f} s)', flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--runs', type=Path, help='where pretrainings and predictions are kept (runs/few)')
    p.add_argument('--workers', type=int, default=2, help='processes at once')
    p.add_argument('--only', nargs='*', default=None, help='rows to do, such as "simclr linear"; the others are left for later')
    p.add_argument('--columns', nargs='*', default=None, help='columns to do, such as "10 a class"')
    p.add_argument('--out', type=Path, help='results file (benchmarks/results/table_oct.json)')
    p.add_argument('--quick', action='store_true', help='a tiny network, two columns, one draw, one seed')
    p.add_argument('--table', action='store_true', help='only the table of what is there')
    for f in dataclasses.fields(Plan):
        if f.type in (int, float, str): p.add_argument(f'--{f.name}', type=f.type, help=f'another {f.name} than {f.default}')
    a = p.parse_args()
    plan = dataclasses.replace(QUICK if a.quick else Plan(), **{f.name: v for f in dataclasses.fields(Plan) if (v := getattr(a, f.name, None)) is not None})
    runs = a.runs or Path('runs/few_quick' if a.quick else 'runs/few')
    results = Results(a.out or (runs/'table_oct.json' if a.quick else HERE/'results'/'table_oct.json'), plan)
    cells = wanted(plan, a.quick)
    if not a.table:
        scans(runs, plan)
        now = [c for c in cells if (a.only is None or c[0] in a.only) and (a.columns is None or c[1] in a.columns) and key_of(c) not in results.d['cells']]
        stages = sorted({(c[0].split()[0], c[3]) for c in now if c[0].split()[0] in plan.methods}, key=lambda s: (s[1], s[0]))
        work([(runs, plan, s) for s in stages if key_of(s) not in results.d['first_stages'] or not (stage_of(runs, *s)/'model.safetensors').is_file()], a.workers, results)
        work([(runs, plan, c) for c in now], a.workers, results)
    s = summary(runs, plan, cells, 200 if a.quick else 1000)
    results.save(**s)
    print(told(s))

if __name__ == '__main__': main()

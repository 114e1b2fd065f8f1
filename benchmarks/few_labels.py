"""What few labels are worth on OCT scans, with and without a first stage that needs none.

    RETINA_NB_DATA=DATA python benchmarks/few_labels.py --runs runs/few [--workers 2]
    RETINA_NB_DATA=DATA python benchmarks/few_labels.py --quick        a tiny one, to see that all of it runs
    python benchmarks/few_labels.py --table                                     the table of what is there already

Scans of Kermany et al. 2018 (CC BY 4.0, doi:10.17632/rscbjbr9sj), divided by patient once; scans whose bytes carry a second label in the
full set are left out. Everything is fixed beforehand, in `Plan`: epochs and steps, which weights are kept (the last), five draws of
labels by three seeds of pretraining. Labels are drawn as whole patients, the same for every row of a column; pretraining sees the
training patients only; the test part is predicted once a cell. Nothing is chosen on its validation part, which is not used at all.
Settings are tried with `--on valid --runs ELSEWHERE --out FILE`, which knows the test part only as patients to leave out. An earlier
division (split_seed 1) was looked at while the study was written and is not used any more, but for --quick.

A cell is a row (a way to learn), a column (how many labels), a draw and a seed. Its scores go to results/table_oct.json as soon as it is
done, its predictions to RUNS/predictions: a study that was killed goes on where it was, by the same command. What needs no training
comes first, then the columns that have a goal, the rows beside, 1% and 10%. Two processes at once, one thread each; some two and a half
hours of two cores (a training takes a minute of a core, a pretraining a quarter of an hour).
"""
import argparse, dataclasses, datetime, fcntl, json, math, os, time, zlib
from collections import Counter
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
PRETEXTS = {'simclr-patients': dict(method='simclr', pairs='patient'), 'simclr': dict(method='simclr', pairs='same'), 'vicreg': dict(method='vicreg', pairs='same'),
            'simclr-imagenet': dict(method='simclr', pairs='patient', views='imagenet')}
ROWS = ('size alone', 'random encoder', 'scratch', 'self-taught', *(f'{m} {how}' for m in PRETEXTS for how in ('neighbours', 'spread', 'linear', 'fine-tuned')))
GOALS = {'3 a class': .80, '10 a class': .87, '30 a class': .91, 'all': .95} # macro AUC of linear or fine-tuned, by the plan's first method
PRINT = [ # what is in print on the same scans, and what stands in the way of a comparison
    dict(what='SimCLR, 1% of the labels (notebooks that this project began from)', accuracy=.875, labels='1% of 83,484 images', comparable=False),
    dict(what='SimCLR, 10% of the labels (notebooks that this project began from)', accuracy=.971, labels='10% of 83,484 images', comparable=False),
    dict(what='VGG16 (notebooks that this project began from)', accuracy=.931, labels='all', comparable=False),
    dict(what='InceptionV3 (notebooks that this project began from)', accuracy=.676, labels='all', comparable=False),
    dict(what='ResNet50 (notebooks that this project began from)', accuracy=.964, labels='all', comparable=False),
    dict(what='ResNet50V2 (notebooks that this project began from)', accuracy=.9814, labels='all', comparable=False)]
WHY_NOT = ('published figures on the full OCT2017 are on its official test part: patients on both sides, 269 groups of byte-identical images with two labels, '
           'the best epoch often picked on the test part, labels drawn as images and not as patients, and a hundred times as many scans')

TRIED = [ # on validation patients: SimCLR of 200 epochs; the last line when the study had been scored, all others before the plan was fixed
    dict(what='scratch, lr .001', column='10 a class', draws=[.9275, .8684]), dict(what='scratch, lr .003', column='10 a class', draws=[.9399, .8772]),
    dict(what='scratch, lr .01', column='10 a class', draws=[.9443, .8820]), dict(what='scratch, lr .02', column='10 a class', draws=[.9058, .8770]),
    dict(what='fine-tuned, lr .003', column='10 a class', draws=[.8671, .8636]), dict(what='fine-tuned, lr .01', column='10 a class', draws=[.8978, .8580]),
    dict(what='fine-tuned, lr .02', column='10 a class', draws=[.9007, .8309]), dict(what='head first for 2 epochs, then fine-tuned, lr .01', column='10 a class', draws=[.8543]),
    dict(what='scratch, lr .001', column='30 a class', draws=[.9321]), dict(what='scratch, lr .003', column='30 a class', draws=[.9423]),
    dict(what='scratch, lr .01', column='30 a class', draws=[.9483]), dict(what='self-taught, lr .01', column='10 a class', draws=[.9457, .8954]),
    dict(what='fine-tuned, lr .01', column='30 a class', draws=[.9440]),
    dict(what='simclr-imagenet, fine-tuned, lr .01', column='10 a class', draws=[.9264, .8394, .8860])]
TRIED_FROZEN = { # frozen encoders of 200 epochs, the mean of five draws: why pairs of a patient's scans come first; strong views were tried later
    'simclr': {'3 a class': dict(neighbours=.7711, linear=.7573, spread=.7622), '10 a class': dict(neighbours=.7999, linear=.8346, spread=.7887),
               '30 a class': dict(neighbours=.8335, linear=.8823, spread=.8194)},
    'simclr-patients': {'3 a class': dict(neighbours=.7872, linear=.7646, spread=.7905), '10 a class': dict(neighbours=.8241, linear=.8551, spread=.8191),
                        '30 a class': dict(neighbours=.8432, linear=.8833, spread=.8421)},
    'simclr-imagenet': {'3 a class': dict(neighbours=.7900, linear=.7945, spread=.7860), '10 a class': dict(neighbours=.8211, linear=.8402, spread=.8165),
                        '30 a class': dict(neighbours=.8503, linear=.8619, spread=.8363)}}

@dataclass(frozen=True)
class Plan:
    """What is fixed before anything is trained. Learning rates were chosen on validation patients (`--on valid`: the test part of this
    division is taken out, the rest divided 7 to 3, so that 124 patients judge), from four candidates each way with one seed and two draws of
    10 a class: from scratch .01 (mean macro AUC .898 at .001, .909 at .003, .913 at .01, .891 at .02), fine-tuned .01 (.865 at .003, .878 at
    .01, .866 at .02; the head first, then all at .01: .854, of one draw). So fine-tuning was worse than scratch before the study began, with
    SimCLR of two views of a scan. The first method, which the goals are held against, is therefore SimCLR with two scans of a patient as
    partners (Azizi et al. 2021), whose frozen features were better on the same patients (`TRIED_FROZEN`); it was not fine-tuned before. Beside
    it, with one seed: the plain one, VICReg, and a training from scratch whose labels go to the scans that have none (.921 with the same
    draws). `simclr-imagenet` is the first method with the strong views that suit photographs of ImageNet in place of those for OCT; it was
    added when all other rows had been scored, to measure what the choice of views is worth, and nothing else was changed for it. With its one seed it was
    better on the test part in every column; validation patients, asked afterwards, would not have chosen it (`TRIED_FROZEN`: a mean of .822 over nine
    readings, .823 with the mild views), so it got the first method's seeds too, to tell luck from gain, and no goal is held against it. `TRIED` has every figure. A first form of the plan had 600 epochs of pretraining in bf16 and three seeds of every row, which is
    thirteen core hours on a processor that has no bf16; of it the two rows without training and eight cells from scratch had been scored,
    and nothing was chosen by them"""
    arch: str = 'test_resnet' # .37 million parameters, a network that two cores can train hundreds of times; resnet10t with a GPU
    size: int = 64           # pixels a side
    channels: int = 1        # scans hold no colour
    precision: str = 'fp32'  # of pretraining and training; a processor without bf16 takes three times as long with it
    split_seed: int = 20     # of the one division by patient; 1 was looked at while the study was written
    fractions: tuple = (.6, .1, .3)
    draws: int = 5           # of the labels
    seeds: int = 3           # of pretraining, and of random weights
    side_seeds: int = 1      # the same, of rows beside: self-taught and all methods but the first and those of `again`
    side_columns: tuple = ('10 a class', '30 a class') # in which rows beside are trained; readers of a frozen encoder are in all
    pre_epochs: int = 200    # of pretraining, over all training scans; as when settings were tried
    pre_bs: int = 128
    pre_lr: float = 2e-3
    temperature: float = .5
    steps: int = 480         # of a supervised training, whatever the number of labels
    bs: int = 32
    lr_scratch: float = 1e-2
    lr_fine: float = 1e-2
    lr_mult: float = 1.      # how many times slower the body learns in fine-tuning
    freeze: int = 0          # epochs of fine-tuning in which only the head learns, before the others
    sure: float = .8         # of self-teaching: the least probability with which the first training gives a label to the second
    aug: float = 1.          # strength of augmentation, the same from scratch and fine-tuned
    methods: tuple = tuple(PRETEXTS)
    again: tuple = ('simclr-imagenet',) # methods that have as many seeds as the first
    on: str = 'test'         # the part that is predicted; 'valid' to try settings out, which must not be done on the test part

QUICK = Plan(size=48, split_seed=1, draws=1, seeds=1, side_columns=('3 a class',), pre_epochs=2, steps=16, methods=('simclr',)) # in a division of its own
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
        if plan.on != 'test': # settings are tried: without the test part, and with more to judge them on than the tenth that is for validation
            found = split_records(found[found['split'] != 'test'].assign(split='').reset_index(drop=True), (.7, .3, 0.), seed=plan.split_seed)
        pre = Preprocess.for_task('oct', size=plan.size, crop='oct', fit='cut') # white borders filled, the centre square, nothing squashed
        image = [str((folder/f'{i:04}.png').resolve()) for i in range(len(found))]
        folder.mkdir(parents=True, exist_ok=True)
        for src, out in zip(found['image'], image): cv2.imwrite(out, pre(src))
        write_table(folder/'records.csv', found.assign(image=image))
    out = pd.read_csv(folder/'records.csv', dtype=dict(patient=str), keep_default_na=False)
    return out.assign(task='oct', label=out['label'].astype('Int64'))

def as_oct(table): return read_predictions(table, 'oct')

# --- one cell

ORDER = ('10 a class', '3 a class', '30 a class', 'all', '1%', '10%') # of the trainings: the column with the dearest question first

def trained(row): return row in ('scratch', 'self-taught') or row.endswith('fine-tuned')
def beside(plan, row): return row == 'self-taught' or row.split()[0] in plan.methods[1:]

def seeds_of(plan, row): return plan.side_seeds if beside(plan, row) and row.split()[0] not in plan.again else plan.seeds

def repeats(plan, row, column):
    "How many draws of labels and seeds a row has in a column: all labels can be drawn only once, and rows beside are shorter"
    if trained(row) and beside(plan, row) and column not in plan.side_columns: return 0, 0
    return 1 if column == 'all' else plan.draws, 1 if row == 'size alone' else seeds_of(plan, row)

def wanted(plan, quick=False):
    """All cells in the order in which they are done, so that what is there after an hour can be read: first what needs no training of a
    network, then whole columns of trainings that have a goal, over all draws and seeds, then the rows beside, and 1% and 10% of the
    labels seed by seed"""
    rows = [r for r in ROWS if r.split()[0] not in PRETEXTS or r.split()[0] in plan.methods]
    columns = [c for c in ORDER if c in ('3 a class', 'all')] if quick else ORDER
    cells = [(r, c, d, s) for r in rows for c in columns for draws, seeds in [repeats(plan, r, c)] for d in range(draws) for s in range(seeds)]
    def place(cell):
        row, column, draw, seed = cell
        group = 0 if row.split()[0] in ('size', 'random') else 1 if cell[:2] == ('scratch', ORDER[0]) else 5 if trained(row) and column not in GOALS else (
                4 if beside(plan, row) else 3 if trained(row) else 2)
        return group, seed if group == 5 else 0, ORDER.index(column), rows.index(row), draw, seed
    return sorted(cells, key=place)

def jobs_of(plan, cells, ahead=18):
    "Cells, and some way ahead of the first ones that need them the pretrainings, as (method, seed): a cell whose pretraining is not done waits for it"
    out = list(cells)
    for method in plan.methods:
        first = next((i for i,c in enumerate(out) if c[0].split()[0] == method), None)
        if first is not None: out[max(0, first - ahead):max(0, first - ahead)] = [(method, s) for s in sorted({c[3] for c in cells if c[0].split()[0] == method})]
    return out

def key_of(cell): return ' | '.join(map(str, cell))
def file_of(runs, cell): return runs/'predictions'/f"{'_'.join(map(str, cell)).replace(' ', '-').replace('%', 'pct')}.csv"
def stage_of(runs, method, seed): return runs/f'{method}-{seed}'

def first_stage(runs, plan, method, seed):
    "A pretraining on the training patients, their labels taken away; of several processes that ask for it one does it, the others wait"
    from retina_nb.train.self_training import pretrain
    r = scans(runs, plan)
    bare = r[r['split'] == 'train'].assign(label=pd.NA)
    with open(runs/f'{method}-{seed}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = pretrain(bare, out=stage_of(runs, method, seed), **PRETEXTS[method], task='oct', arch=plan.arch, size=plan.size, channels=plan.channels, precision=plan.precision, epochs=plan.pre_epochs,
                       bs=plan.pre_bs, lr=plan.pre_lr, temperature=plan.temperature, seed=seed, resume=True, progress=False)
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
    "A training on the drawn labels alone, for a fixed number of steps; what its last weights make of the part that is asked for and of the scans whose labels were not drawn"
    from fastai.callback.core import Callback, CancelValidException
    from retina_nb.train import make_learner
    from retina_nb.train.config import TrainConfig
    from retina_nb.train.model import GradingModel, grade_records
    class NoValidation(Callback): # nothing is chosen on it
        def before_validate(self): raise CancelValidException
    few, n = r[drawn], plan.bs*max(1, plan.steps//EPOCHS)
    few = pd.concat([few]*math.ceil(n/len(few)), ignore_index=True).assign(split='train')
    epochs = max(1, round(plan.steps/max(1, len(few)//plan.bs)))
    how = dict(weights=str(weights), lr=plan.lr_fine, lr_mult=plan.lr_mult, freeze_epochs=plan.freeze) if weights else dict(lr=plan.lr_scratch)
    epochs = max(1, epochs - how.get('freeze_epochs', 0))
    config = TrainConfig(task='oct', arch=plan.arch, size=plan.size, channels=plan.channels, precision=plan.precision, epochs=epochs, bs=plan.bs, aug=plan.aug,
                         pretrained=False, class_weights='balanced', loss='ce', seed=cell[3], split_seed=plan.split_seed, **how)
    learn = make_learner(pd.concat([few, few[:1].assign(split='valid')], ignore_index=True), config, cbs=[NoValidation()], progress=False)
    learn.create_opt()
    with learn.no_bar(), learn.no_logging():
        for p in config.phases():
            learn.opt.freeze_to(-1 if p.frozen else 0)
            learn.fit_one_cycle(p.epochs, p.lr_max, div=p.div, pct_start=p.pct_start)
    model = GradingModel(learn.model, learn.loss_func, config.preprocess, 'oct')
    return grade_records(model, r[(r['split'] == plan.on) | ((r['split'] == 'train') & ~drawn)], progress=False)

def asked(preds, r, plan):
    "Of these predictions those of the part that is asked for"
    return preds[preds['image'].isin(set(r['image'][r['split'] == plan.on]))].reset_index(drop=True)

def by_scratch(runs, plan, r, drawn, cell):
    "What the training from scratch of a cell says, kept for the one that it teaches"
    _, column, draw, seed = cell
    file = runs/'teachers'/file_of(runs, ('scratch', column, draw, seed)).name
    if not file.is_file(): write_table(file, supervised(runs, plan, r, drawn, cell, None)[['image', 'patient', 'target', 'grade', *(f'p_{j}' for j in range(4))]])
    return pd.read_csv(file, dtype=dict(patient=str))

def self_taught(runs, plan, r, drawn, cell):
    """Semi-supervised: another training from scratch, whose labels are the drawn ones and for the other training scans those of which the
    first was sure (Lee 2013, with augmentation as in Xie et al. 2020)"""
    teacher = by_scratch(runs, plan, r, drawn, cell).set_index('image')
    of = r['image'][(r['split'] == 'train') & ~drawn]
    sure = teacher.loc[of][[f'p_{j}' for j in range(4)]].max(axis=1).to_numpy() >= plan.sure
    taught, use = r.assign(label=r['label'].astype(int)), drawn.copy()
    taught.loc[of.index, 'label'] = teacher.loc[of, 'grade'].to_numpy()
    use[of.index[sure]] = True
    return asked(supervised(runs, plan, taught, use, cell, None), r, plan)

def predictions(runs, plan, cell):
    "Predictions of the test part by one cell"
    from retina_nb.train.probe import draw_labels, knn_predictions, linear_probe
    row, column, draw, seed = cell
    r = scans(runs, plan)
    drawn = draw_labels(r, seed=draw, **COLUMNS[column])
    method, _, how = row.partition(' ')
    if method in plan.methods: first_stage(runs, plan, method, seed) # at once where it is done
    if row == 'size alone': return linear_probe(sizes(r), r, drawn, task='oct', on=plan.on)
    if row == 'scratch': return asked(by_scratch(runs, plan, r, drawn, cell), r, plan)
    if row == 'self-taught': return self_taught(runs, plan, r, drawn, cell)
    if how == 'fine-tuned': return asked(supervised(runs, plan, r, drawn, cell, stage_of(runs, method, seed)/'model.safetensors'), r, plan)
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

def facts(r):
    "What the notebook tells of the scans: how many there are, whose, and of which native size"
    size, name = r['width'].astype(str) + 'x' + r['height'].astype(str), r['label'].astype(int).map(dict(enumerate(get_task('oct').classes)))
    return dict(scans=len(r), patients=int(r['patient'].nunique()), of_two_classes=int((r.groupby('patient')['label'].nunique() > 1).sum()),
                by_class={c: dict(scans=len(g), patients=int(g['patient'].nunique())) for c,g in r.groupby(name)},
                by_size={s: g.value_counts().to_dict() for s,g in name.groupby(size)})

def near(x, r):
    "How often the nearest scan of another patient is of the same class, and of the same native size; and the nearest of all of the same patient, where there is another"
    x = x/np.linalg.norm(x, axis=1, keepdims=True)
    who, label, size = (pd.factorize(v)[0] for v in (r['patient'], r['label'].astype(int), r['width'].astype(str) + 'x' + r['height'].astype(str)))
    alike, own = x @ x.T, who[:,None] == who
    np.fill_diagonal(alike, -2)
    other, several = np.where(own, -2, alike).argmax(1), own.sum(1) > 1
    return dict(same_class=float((label[other] == label).mean()), same_size=float((size[other] == size).mean()), same_patient=float((who[alike.argmax(1)] == who)[several].mean()))

def maps(runs, plan):
    "A flat map (t-SNE) of the test scans by the first encoder of the first method, and what lies near what by it and by random weights; nothing before it is there"
    from sklearn.manifold import TSNE
    r, method = scans(runs, plan), plan.methods[0]
    if not (stage_of(runs, method, 0)/'model.safetensors').is_file(): return {}
    here = (r['split'] == plan.on).to_numpy()
    test, found = r[here], {m: features(runs, plan, r, m, 0)[here] for m in ('random', method)}
    flat = TSNE(perplexity=min(30, here.sum()/4), metric='cosine', init='pca', random_state=0).fit_transform(found[method].astype(float))
    return dict(near={m: near(x, test) for m,x in found.items()}, map=dict(x=flat[:,0].round(2).tolist(), y=flat[:,1].round(2).tolist(), label=test['label'].astype(int).tolist(),
                patient=pd.factorize(test['patient'])[0].tolist(), size=(test['width'].astype(str) + 'x' + test['height'].astype(str)).tolist()))

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
    return dict(cell=cell, seconds=round(time.perf_counter() - start, 1), **{k: float(v.value) for k,v in scored(kept(runs, cell)).items()})

# --- the table

def mean_of(found):
    "The mean of a score over cells, resampled over the patients that they share"
    first = found[0]
    return Resampled(*(np.mean([getattr(x, a) for x in found], axis=0) for a in ('value', 'left_out', 'resampled')), units=first.units, span=first.span)

def shown(x): return dict(value=float(x.value), ci95=[None if v is None else float(v) for v in x.interval(method='percentile')])

SEVERAL = ', seeds together' # behind the name of a row: the mean probabilities of all seeds of a draw, which costs no training

def kept(runs, cell): return pd.read_csv(file_of(runs, cell), dtype=dict(patient=str))

def collect(runs, cells, n_boot):
    "Resampled scores of all cells that are done: {(row, column): {(draw, seed): scores}}"
    out = {}
    for cell in cells:
        if file_of(runs, cell).is_file(): out.setdefault(cell[:2], {})[cell[2:]] = scored(kept(runs, cell), n_boot)
    return out

def several(runs, plan, cells, n_boot):
    "The same of the seeds of a draw taken together, where all of them are done; of rows that are trained with several"
    from retina_nb.train.ensemble import mean_predictions
    out = {}
    for row, column, draw in dict.fromkeys(c[:3] for c in cells if plan.seeds > 1 and trained(c[0]) and not beside(plan, c[0])):
        each = [(row, column, draw, s) for s in range(plan.seeds)]
        if all(file_of(runs, c).is_file() for c in each):
            out.setdefault((row + SEVERAL, column), {})[(draw, 0)] = scored(mean_predictions([kept(runs, c) for c in each]), n_boot)
    return out

def paired(a, b):
    "The mean difference in AUC over the draws and seeds that both have"
    both = sorted(set(a) & set(b))
    return None if not both else dict(n=len(both), **shown(mean_of([a[k]['macro_auc'] for k in both]) - mean_of([b[k]['macro_auc'] for k in both])))

def summary(runs, plan, cells, n_boot=1000):
    "Mean over draws and seeds with its interval by patient, spread over draws and seeds, difference to scratch, and goals"
    single, more, rows, planned = collect(runs, cells, n_boot), several(runs, plan, cells, n_boot), [], Counter(c[:2] for c in cells)
    found, planned = single | more, planned | Counter({k: repeats(plan, k[0].removesuffix(SEVERAL), k[1])[0] for k in more})
    for (row, column), each in found.items():
        scores = {k: shown(mean_of([x[k] for x in each.values()])) | dict(sd=float(np.std([x[k].value for x in each.values()]))) for k in SCORES}
        base = 'scratch' + SEVERAL*row.endswith(SEVERAL) # three networks are held against three
        less = dict(less_scratch=paired(each, found[(base, column)])) if row != base and (base, column) in found else {}
        rows.append(dict(row=row, column=column, n=len(each), planned=planned[(row, column)], **scores, **less))
    goals = []
    for column, goal in GOALS.items():
        ours = [x for x in rows if x['column'] == column and x['row'] in [f'{plan.methods[0]} {how}' for how in ('linear', 'fine-tuned')]]
        if ours:
            best = max(ours, key=lambda x: x['macro_auc']['value'])
            goals.append(dict(column=column, goal=goal, best=best['row'], ours=best['macro_auc'], less_scratch=best.get('less_scratch'), reached=best['macro_auc']['value'] >= goal))
    return dict(scans=facts(scans(runs, plan)), labels=counted(runs, plan), **maps(runs, plan), done=sum(map(len, single.values())), planned=len(cells), rows=rows, goals=goals)

def told(s):
    "The table as Markdown: macro AUC, and balanced accuracy below it"
    rows, there = [list(dict.fromkeys(x[k] for x in s['rows'])) for k in ('row', 'column')]
    columns = [c for c in COLUMNS if c in there]
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
        self.d = (was or dict(name='table_oct', plan=fixed, first_stages={}, runs={})) | dict(what=__doc__)
    def add(self, r):
        r = dict(r)
        cell = r.pop('cell')
        self.d['first_stages' if len(cell) == 2 else 'runs'][key_of(cell)] = r
        self.save()
    def save(self, **more):
        self.d |= dict(date=datetime.date.today().isoformat(), machine=machine(), threads=int(os.environ['OMP_NUM_THREADS']), published=PRINT, why_not_comparable=WHY_NOT, tried=TRIED, tried_frozen=TRIED_FROZEN, **more)
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

def keep_to(runs, plan):
    "A folder of runs holds one plan: predictions of another would be taken for its own"
    file, fixed = runs/'plan.json', json.loads(json.dumps(dataclasses.asdict(plan)))
    if file.is_file() and json.loads(file.read_text()) != fixed: raise SystemExit(f'{runs}: holds another plan; choose another --runs')
    runs.mkdir(parents=True, exist_ok=True)
    write_json(file, fixed)

def study(plan, runs, out, workers=2, only=None, columns=None, quick=False, table=False):
    "All cells that are not done yet, some rows or columns of them, or only the table of those that are; then the table is told"
    keep_to(runs, plan)
    results, cells = Results(out, plan), wanted(plan, quick)
    if not table:
        scans(runs, plan)
        now = [c for c in cells if (only is None or c[0] in only) and (columns is None or c[1] in columns) and key_of(c) not in results.d['runs']]
        def there(method, seed): return key_of((method, seed)) in results.d['first_stages'] and (stage_of(runs, method, seed)/'model.safetensors').is_file()
        work([(runs, plan, j) for j in jobs_of(plan, now) if len(j) > 2 or not there(*j)], workers, results)
    s = summary(runs, plan, cells, 200 if quick else 1000)
    results.save(**s)
    print(told(s))

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
    study(plan, runs, a.out or place_of(runs, a.quick), a.workers, a.only, a.columns, a.quick, a.table)

def place_of(runs, quick=False):
    "Where results go: what a quick one finds stays with its runs"
    return runs/'table_oct.json' if quick else HERE/'results'/'table_oct.json'

if __name__ == '__main__': main()

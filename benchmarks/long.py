"""The long benchmarks of training, each by its own command; every finished training is kept, so a command that was stopped goes on.

    python benchmarks/long.py retinamnist   28 px, official split (by image: eyes of a patient in both parts): recipe chosen on validation, 5 seeds on test,
                                            from random weights and after synthetic pretraining
    python benchmarks/long.py idrid         5-fold by image on 413 photographs at 128 px: from random weights, after synthetic pretraining, on marked lesions, the plain fastai recipe
    python benchmarks/long.py xray          chest X-rays: pneumonia against normal, and bacterial against viral
    python benchmarks/long.py oct           few labels on OCT scans, with and without a first stage that needs none: few_labels.py
    python benchmarks/long.py fundus        the same question on IDRiD: a first stage without labels, alone and before synthetic pretraining
    python benchmarks/long.py baselines     VGG16, InceptionV3, ResNet50 and ResNet50V2 on OCT scans, from random weights and, where there is a network, from ImageNet's
    python benchmarks/long.py sample        seconds to a validation QWK of .70 on the synthetic sample, against the plain fastai recipe

Real data is found through RETINA_NB_DATA. Runs go to --runs (runs/tables), results to benchmarks/results/table_NAME.json. One thread
unless OMP_NUM_THREADS says otherwise; --seeds N, --first N and --only ARM... do a part of the work, so that two commands can share it.
"""
import argparse, datetime, fcntl, hashlib, itertools, json, os, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd, torch
from PIL import Image
from scipy import stats

from retina_nb.core import RetinaError, Run, get_task, set_seed
from retina_nb.disk import write_json
from retina_nb.data.records import load_records
from retina_nb.data.checks import require_usable
from retina_nb.measure.evaluation import evaluate
from retina_nb.measure.metrics import qwk
from retina_nb.train.model import build_model, grade_records
from retina_nb.data.split import kfold, split_records
from retina_nb.image.field import find_field
from retina_nb.synth.dataset import sample_dir
from retina_nb.train.ensemble import mean_predictions
from retina_nb.train.lesions import train_lesions
from retina_nb.train.probe_run import train_probe
from retina_nb.train.self_training import pretrain
from retina_nb.train.training import train
from fastai.callback.core import Callback, CancelFitException
from fastai.data.transforms import ColReader, ColSplitter
from fastai.data.block import CategoryBlock, DataBlock
from fastai.metrics import AccumMetric
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner
from run import machine

HERE = Path(__file__).parent
SCORES = 'macro_auc', 'accuracy', 'qwk'

def data():
    if 'RETINA_NB_DATA' not in os.environ: raise SystemExit('RETINA_NB_DATA is not set: point it at the folder with the real data sets')
    return Path(os.environ['RETINA_NB_DATA'])

def values(scores, names=SCORES):
    "The figures of `evaluate` that a table shows; `referable.auc` reaches one level down"
    def one(k):
        f = scores
        for part in k.split('.'): f = (f or {}).get(part)
        return f and f.get('value')
    return {k: one(k) for k in names}

def mean_interval(xs):
    "Mean over seeds with its 95% interval (Student's t)"
    xs = np.array(xs, dtype=float)
    half = stats.t.ppf(.975, len(xs)-1)*xs.std(ddof=1)/np.sqrt(len(xs)) if len(xs) > 1 else None
    return dict(mean=float(xs.mean()), ci95=None if half is None else [float(xs.mean()-half), float(xs.mean()+half)], values=xs.tolist())

class Store:
    "Results as they come, in one JSON file"
    def __init__(self, name, protocol, folder=HERE/'results'):
        self.file = folder/f'table_{name}.json'
        self.d = json.loads(self.file.read_text()) if self.file.is_file() else dict(name=name, runs={})
        for r in self.d['runs'].values(): r.setdefault('processor', self.d['machine']['cpu']) # a table may be made on several machines
        self.d['protocol'] = protocol
    def do(self, key, f):
        "The result of `f()` under `key`, worked out once"
        if key not in self.d['runs']:
            start = time.perf_counter()
            self.d['runs'][key] = f() | dict(seconds=round(time.perf_counter() - start, 1), processor=machine()['cpu'])
            self.save()
        print(key, {k: v if not isinstance(v, float) else round(v, 3) for k,v in self.d['runs'][key].items() if not isinstance(v, (list, dict))}, flush=True)
        return self.d['runs'][key]
    def save(self, **more):
        if self.file.is_file(): self.d['runs'] = json.loads(self.file.read_text())['runs'] | self.d['runs'] # another command may have added to it
        self.d |= dict(date=datetime.date.today().isoformat(), machine=machine(), threads=torch.get_num_threads()) | more
        write_json(self.file, self.d)

# --- the baseline: what a user of fastai writes first

def plain_learner(records, size, pretrained=False, bs=32):
    "ResNet-18, cross-entropy and aug_transforms, as in fastai's own first lesson"
    k = len(get_task(records.attrs.get('task', 'dr')))
    df = records[records['split'].isin(('train', 'valid'))].assign(is_valid=lambda d: d['split'] == 'valid', label=lambda d: d['label'].astype(int))
    block = DataBlock((ImageBlock, CategoryBlock(vocab=list(range(k)))), get_x=ColReader('image'), get_y=ColReader('label'),
                      splitter=ColSplitter(), item_tfms=Resize(size), batch_tfms=aug_transforms())
    kappa = AccumMetric(lambda p,y: qwk(y.cpu().numpy(), p.cpu().numpy(), k), dim_argmax=-1, name='qwk', flatten=False)
    from torchvision.models import resnet18
    return vision_learner(block.dataloaders(df, bs=bs, num_workers=0), resnet18, pretrained=pretrained, metrics=kappa)

def plain(records, size, epochs, seed):
    "Predictions of the plain recipe on the test part, as a table"
    set_seed(seed)
    learn = plain_learner(records, size)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, 1e-3)
        test = records[records['split'] == 'test']
        probs, _ = learn.get_preds(dl=learn.dls.test_dl(test.assign(label=test['label'].astype(int))))
    p = probs.double().numpy()
    return pd.DataFrame(dict(image=test['image'].to_numpy(), patient=test['patient'].to_numpy(), target=test['label'].astype(int).to_numpy(), grade=p.argmax(1),
                             **{f'p_{j}': p[:,j] for j in range(p.shape[1])}))

def untuned(run, records):
    "What a model of synthetic eyes makes of real photographs before it has seen one"
    model = build_model(run.config, run.path/'model.safetensors')
    return values(evaluate(grade_records(model, records, progress=False), 'dr', n_boot=10)) | dict(n_images=len(records))

# --- marked lesions (benchmarks/shift.py holds them against other cameras)

N_MARKED = 1000

def marker(runs, seed):
    "The weights of a network that marks lesions, trained on drawn eyes alone"
    return train_lesions(out=runs/'marker'/f'seed{seed}', n=N_MARKED, seed=seed, resume=True, progress=False).path/'model.safetensors'

def probed(records, out, runs, seed):
    "The last layer after a network that marks lesions; a finished run is read"
    if (out/'metrics.json').is_file(): return Run(out)
    return train_probe(records, weights=marker(runs, seed), out=out, seed=seed, progress=False)

def decoded_once():
    "Every photograph is prepared once for each contract and seen once by each frozen network, however many folds ask for it: memory for the time of a benchmark"
    from retina_nb.train import loader, model, pair_learner, probe_run
    ready, prepared = {}, loader.prepare
    def prepare(records, pre, **kwargs):
        keys = [(str(f), pre) for f in records['image']]
        new = records[[k not in ready for k in keys]].drop_duplicates('image')
        if len(new): ready.update(zip([(str(f), pre) for f in new['image']], prepared(new, pre, **kwargs)))
        return np.stack([ready[k] for k in keys])
    loader.prepare = model.prepare = pair_learner.prepare = prepare
    seen, encode = {}, probe_run.encode
    def encoded(images, net):
        weights = hashlib.sha256(b''.join(v.numpy().tobytes() for k, v in net.state_dict().items() if not k.startswith('head.'))).digest()
        keys = [(weights, hashlib.sha256(a.tobytes()).digest()) for a in images]
        new = {k: i for i, k in enumerate(keys) if k not in seen}
        if new: seen.update(zip(new, encode(images[list(new.values())], net)))
        return np.stack([seen[k] for k in keys])
    probe_run.encode = encoded

def all_views(run, records):
    "Predictions of the test part, averaged over the views of each photograph"
    return grade_records(build_model(run.config, run.path/'model.safetensors'), records[records['split'] == 'test'], progress=False, tta=True)

# --- RetinaMNIST

RETINAMNIST = {
    'plain': dict(), 'ben_graham': dict(contrast='ben_graham'), 'soft qwk': dict(loss='qwk'), 'ema': dict(ema=.98), 'mixup': dict(mix='mixup'),
    'soft qwk, 40 epochs': dict(loss='qwk', epochs=40), 'soft qwk, resnet10t': dict(loss='qwk', arch='resnet10t', precision='bf16')} # these two after the first five

def tiny(records, folder, side=28, cut=False):
    "The same records with photographs as small as RetinaMNIST's; `cut`: the square around the field, as those are cut, instead of the whole picture pressed into one"
    folder.mkdir(parents=True, exist_ok=True)
    def one(f):
        out = folder/f'{Path(f).stem}.png'
        if out.is_file(): return str(out.absolute())
        img = Image.open(f).convert('RGB')
        if cut:
            eye = find_field(np.asarray(img))
            img = img.crop([round(v) for v in (eye.cx - 1.04*eye.r, eye.cy - 1.04*eye.r, eye.cx + 1.04*eye.r, eye.cy + 1.04*eye.r)]) # black where it goes beyond
        img.resize((side, side), Image.Resampling.BOX).save(out)
        return str(out.absolute())
    attrs, small = records.attrs, records.assign(image=records['image'].map(one))
    small.attrs = attrs
    return small

def tiny_synth(folder, n, cut=False): return tiny(load_records(f'synth:{n}', warn=False), folder, cut=cut)

PUBLISHED = { # as reviewed papers give them: Yang et al. 2023, doi:10.1038/s41597-022-01721-8; Doerrich et al. 2025, arXiv:2404.15786
    'MedMNIST v2, ResNet-18 at 28 px': dict(auc=.717, accuracy=.524), 'MedMNIST v2, ResNet-50 at 28 px': dict(auc=.726, accuracy=.528),
    'MedMNIST v2, Google AutoML Vision': dict(auc=.750, accuracy=.531), 'MedMNIST+, ResNet-18 at 28 px': dict(auc=.704, accuracy=.523)}
RETINAMNIST_STARTS = {'random weights': None, '2,000 synthetic': dict(n=2000, epochs=20), '10,000 synthetic': dict(n=10000, epochs=10, precision='bf16'),
                      '2,000 synthetic, cut': dict(n=2000, epochs=20, cut=True)}
BY_FOLDS = {'2,000 synthetic, cut': ('2,000 synthetic, cut', 1), '2,000 synthetic, three networks': ('2,000 synthetic', 3)} # not tested: the test part has been scored often enough

def retinamnist(a):
    """28 px official split. Recipes one change away from the first (the smallest network, cross-entropy, no contrast), chosen by
    validation AUC plus accuracy over two seeds. The weights it starts from, and whether eight views of each photograph are averaged,
    are compared by five folds over the training and validation parts, by AUC. Test is scored once a seed for each row of the table, in
    the order in which `runs` lists them: two recipes, the larger number and the views were tried after the first scores on test.
    Synthetic weights come from another training for each seed. Drawings that are cut to the eye, and the mean of three networks, came after all
    that, and were judged by folds alone"""
    store, records = Store('retinamnist', ' '.join(retinamnist.__doc__.split())), load_records(data()/'medmnist'/'retinamnist.npz', warn=False)
    base = dict(arch='test_resnet', size=64, epochs=20, loss='ce', contrast='none', pretrained=False, progress=False)
    def fit(name, out, data, seed, **more): return train(data, out=a.runs/'retinamnist'/out.replace(' ', '_'), seed=seed, resume=True, **base | RETINAMNIST[name] | more)
    def synth(name, start, seed):
        how = RETINAMNIST_STARTS[start]
        more = {k: v for k,v in how.items() if k not in ('n', 'cut')}
        cut = how.get('cut', False)
        return fit(name, f'{name}_{start}_{seed}', tiny_synth(a.runs/'retinamnist'/f"synth28_{how['n']}{'_cut' if cut else ''}", how['n'], cut=cut), seed, **more)
    def tuned(name, start, out, data, seed, synth_seed):
        more = dict(weights=synth(name, start, synth_seed).path/'model.safetensors', lr=3e-3, lr_mult=1.) if RETINAMNIST_STARTS[start] else {}
        return fit(name, f'{name}_from_{start}_{out}', data, seed, **more)
    def folds(name, start, nets=1):
        "Pooled scores of five folds over the parts that are not test, of one view and of eight; of several networks the mean of what they say"
        one, eight = [], []
        for i,fold in enumerate(kfold(records, k=5, seed=42, valid=.1)):
            fold.attrs = records.attrs
            runs = [tuned(name, start, f"fold{i}{f'_{s}' if s else ''}", fold, i + 100*s, s) for s in range(nets)]
            one.append(mean_predictions([r.predictions for r in runs])); eight.append(mean_predictions([all_views(r, fold) for r in runs]))
        return {'one view': values(evaluate(pd.concat(one), 'dr', n_boot=10)), 'eight views': values(evaluate(pd.concat(eight), 'dr', n_boot=10))}

    choice = {}
    for name in RETINAMNIST:
        got = [store.do(f'valid/{name}/{seed}', lambda: values(evaluate(fit(name, f'{name}_{seed}', records, seed).predictions_valid, 'dr', n_boot=10)) | dict(part='valid')) for seed in (0, 1)]
        choice[name] = float(np.mean([g['macro_auc'] + g['accuracy'] for g in got]))
    best, seeds = max(choice, key=choice.get), range(a.first, a.seeds)
    starts = [k for k in RETINAMNIST_STARTS if k not in BY_FOLDS and (not a.only or k in a.only)]
    for arm,(start,nets) in ({k: (k, 1) for k in starts} | {k: v for k,v in BY_FOLDS.items() if not a.only or k in a.only}).items():
        store.do(f'folds/{arm}', lambda: folds(best, start, nets))
    for start,seed in itertools.product(starts, seeds):
        store.do(f'test/{start}/{seed}', lambda: values(tuned(best, start, str(seed), records, seed, seed).metrics) | dict(part='test'))
        if RETINAMNIST_STARTS[start]: store.do(f'before tuning/{start}/{seed}', lambda: untuned(synth(best, start, seed), records[records['split'] != 'test']))
    last = '10,000 synthetic'
    if last in starts:
        for seed in seeds: store.do(f'test/{last}, eight views/{seed}', lambda: values(evaluate(all_views(tuned(best, last, str(seed), records, seed, seed), records), 'dr', n_boot=10)) | dict(part='test'))
    store.save() # with what another command has added
    def over(what): return [store.d['runs'][f'{what}/{s}'] for s in range(5) if f'{what}/{s}' in store.d['runs']]
    def summary(rows): return {k: mean_interval([r[k] for r in rows]) for k in SCORES}
    arms = {arm: over(f'test/{arm}') for arm in (*RETINAMNIST_STARTS, f'{last}, eight views')}
    store.save(chosen=best, recipe=base | RETINAMNIST[best], validation=choice, starts=RETINAMNIST_STARTS, test={k: summary(v) for k,v in arms.items() if v},
               gain={k: summary([{s: y[s] - x[s] for s in SCORES} for x,y in zip(arms['random weights'], v)]) for k,v in arms.items() if k != 'random weights' and v},
               before_tuning={k: summary(rows) for k in RETINAMNIST_STARTS if (rows := over(f'before tuning/{k}'))},
               folds={k.removeprefix('folds/'): v for k,v in store.d['runs'].items() if k.startswith('folds/')},
               published=PUBLISHED)
    for name in ('test', 'gain', 'before_tuning'):
        for arm,v in store.d[name].items(): print(name, arm, {k: (round(x['mean'], 3), x['ci95'] and np.round(x['ci95'], 3).tolist()) for k,x in v.items()})

# --- IDRiD

EIGHT, THREE = 'marked lesions, eight views', 'marked lesions, three markers'
EARLIER = 'marked lesions, training part alone', 'marked lesions, training part alone, eight views'

def idrid(a):
    """Five folds by image, since the set names no patients, identical photographs together; every photograph is graded once. The recipe was chosen on these folds (real_search.py chooses within them). Per arm: QWK of each fold and pooled scores. All but the plain recipe over further seeds (--seeds), on the same folds.
    'marked lesions': `retina_probe` with its defaults after `retina_lesions` with its own, which has seen drawn eyes only and is another training for each seed; 'eight views': the same models, their probabilities averaged over the turns and reflections of a photograph; 'three markers': the mean probabilities of the first three seeds, eight views each; 'training part alone': figures of before the last layer learned from the validation part too, with its strength chosen there, by the loss"""
    store, records = Store('idrid', ' '.join(idrid.__doc__.split())), load_records(data()/'idrid', warn=False)
    recipe = dict(arch='resnet18', size=128, epochs=12, pretrained=False, progress=False)
    synth = lambda s: train('synth:600', out=a.runs/'idrid'/f'synth{s or ""}', resume=True, seed=s, **recipe)
    def ours(fold, out, seed, weights=None):
        more = dict(weights=weights, lr=3e-3, lr_mult=1.) if weights else {} # few photographs: the body goes on learning as fast as the head
        return train(fold, out=out, seed=seed, resume=True, **recipe | more).predictions
    arms = {'plain fastai': lambda fold,out,i,s: plain(fold, 128, 12, 42+i), 'random weights': lambda fold,out,i,s: ours(fold, out, 42+i+100*s),
            'synthetic pretraining': lambda fold,out,i,s: ours(fold, out, 42+i+100*s, synth(s).path/'model.safetensors')}
    key = lambda arm,i,s=0: f'{arm}/{i}' + (f'/seed{s}' if s else '')
    place = lambda arm,i,s: a.runs/'idrid'/key(arm, i, s).replace(' ', '_').replace('/', '_')
    def marked(fold, i, s): return probed(fold, place('marked lesions', i, s), a.runs, s)
    def eight(fold, i, s): return all_views(marked(fold, i, s), fold)
    decoded_once()
    arms |= {'marked lesions': lambda fold,out,i,s: marked(fold, i, s).predictions, EIGHT: lambda fold,out,i,s: eight(fold, i, s)}
    arms |= dict.fromkeys((THREE, *EARLIER)) # made of others' answers; and runs that stay in the table
    def told(p):
        "What the table keeps of predictions"
        kept = ['image', 'patient', 'target', 'grade', *(c for c in p if c.startswith('p_'))]
        return dict(qwk=float(qwk(p.target, p.grade, 5)), predictions=p[kept].assign(image=p['image'].map(lambda f: Path(f).name)).round(5).to_dict('list'))
    for s,arm,(i,fold) in itertools.product(range(a.first, a.seeds), [arm for arm in a.only or arms if arms[arm]], list(enumerate(kfold(records, k=5, seed=42)))):
        if s and arm == 'plain fastai': continue
        fold.attrs = records.attrs
        store.do(key(arm, i, s), lambda: told(arms[arm](fold, place(arm, i, s), i, s)))
    store.save() # with what another command has added
    for i in range(5):
        parts = [store.d['runs'].get(key(EIGHT, i, s)) for s in range(3)]
        if None not in parts: store.do(key(THREE, i), lambda: told(mean_predictions([pd.DataFrame(p['predictions']) for p in parts])))
    if not a.only: before = [store.do(f'before tuning/{s}', lambda: untuned(synth(s), records)) for s in range(a.seeds)]
    summary = {}
    for arm in arms:
        folds = [store.d['runs'].get(f'{arm}/{i}') for i in range(5)]
        if None in folds: continue
        pooled = pd.concat([pd.DataFrame(f['predictions']) for f in folds], ignore_index=True)
        s = evaluate(pooled, 'dr', seed=42)
        summary[arm] = dict(folds=mean_interval([f['qwk'] for f in folds]), qwk=s['qwk'], accuracy=s['accuracy'], referable_auc=s['referable']['auc'], majority=s['majority'])
    from retina_nb.measure.comparison import compare_models
    table = lambda arm: pd.concat([pd.DataFrame(store.d['runs'][f'{arm}/{i}']['predictions']) for i in range(5)], ignore_index=True)
    against = ('plain fastai', 'random weights'), ('random weights', 'synthetic pretraining'), ('synthetic pretraining', 'marked lesions')
    pairs = {f'{y} minus {x}': compare_models(table(x), table(y), 'dr').query("score in ('qwk', 'accuracy', 'referable.auc')").to_dict('records')
             for x,y in against if x in summary and y in summary}
    def by_seed(arm):
        "QWK of all five folds together, for each seed that has been run"
        runs, out = store.d['runs'], {}
        for s in range(100):
            folds = [runs[k] for i in range(5) if (k := key(arm, i, s)) in runs]
            if len(folds) < 5: continue
            p = pd.concat([pd.DataFrame(f['predictions']) for f in folds])
            out[s] = float(qwk(p.target, p.grade, 5))
        return out
    kappas = {arm: q for arm in arms if len(q := by_seed(arm)) > 1}
    def gain(of, over):
        both = [kappas[of][s] - kappas[over][s] for s in kappas[of] if s in kappas[over]] if {of, over} <= set(kappas) else []
        return mean_interval(both) if both else None
    store.save(summary=summary, paired=pairs, seeds={arm: mean_interval(list(q.values())) for arm,q in kappas.items()} | dict(gain=gain('synthetic pretraining', 'random weights')),
               gains={f'{of} over {over}': gain(of, over) for of in kappas for over in ('random weights', 'synthetic pretraining') if of != over},
               **({} if a.only else dict(before_tuning={k: mean_interval([g[k] for g in before]) for k in SCORES})))
    for what,s in store.d['seeds'].items(): print(what, {k: np.round(v, 3).tolist() for k,v in s.items() if v})
    for arm,s in summary.items(): print(arm, {k: (round(s[k]['value'], 3), s[k]['ci95']) for k in ('qwk', 'accuracy', 'referable_auc')})

# --- first stages without labels: OCT scans, and IDRiD again

def oct(a):
    "The study of few labels on OCT scans; few_labels.py has the plan, and options for a part of it"
    import few_labels
    runs = a.runs/('few_quick' if a.quick else 'few')
    few_labels.study(few_labels.QUICK if a.quick else few_labels.Plan(), runs, few_labels.place_of(runs, a.quick), quick=a.quick)

def bare(sets):
    "Records of several sets as a first stage sees them: without labels, a patient's name with its set before it"
    return pd.concat([r.assign(patient=name + ' ' + r['patient'].astype(str), label=pd.NA, split='train')[['image', 'patient', 'label', 'split']] for name,r in sets.items()], ignore_index=True)

def fundus(a):
    """IDRiD in the folds and by the recipe of `idrid`, from a first stage that reads no labels: SimCLR of 15 epochs on RetinaMNIST's training part and
    600 synthetic photographs, once a seed, and from there 15 more on the fold's own training photographs, so that what a fold is tested on is in none of
    its stages and the rest is not learned five times. 'SimCLR' fine-tunes what came of it; 'SimCLR, then synthetic' has it learn the grades of the
    synthetic ones before that, and is held against synthetic pretraining alone (results/table_idrid.json). Epochs, size
    (64 px, where an epoch takes a quarter of the time that it takes at 128) and batches (128, and 64 where there are 330 photographs) of the first stage are
    set here and were not tuned, the rest are its defaults; the later stages have the settings of `idrid`, 128 px among them"""
    from retina_nb.measure.comparison import compare_models
    store, records = Store('fundus', ' '.join(fundus.__doc__.split()), a.runs if a.quick else HERE/'results'), load_records(data()/'idrid', warn=False)
    if a.quick: records = records.groupby('label').head(9).reset_index(drop=True)
    recipe = dict(arch='resnet18', size=128, epochs=12, pretrained=False, progress=False) | (dict(arch='test_resnet', size=64, epochs=1) if a.quick else {})
    tuned, n_synth = dict(lr=3e-3, lr_mult=1.), 100 if a.quick else 600
    where = a.runs/('fundus_quick' if a.quick else 'fundus')
    decoded_once()
    def simclr(sets, name, bs, s, **start):
        where.mkdir(parents=True, exist_ok=True)
        with open(where/f'{name}.lock', 'w') as lock: # of two commands that share the work one does it, the other waits
            fcntl.flock(lock, fcntl.LOCK_EX)
            run = pretrain(bare(sets), out=where/name, task='dr', resume=True, arch=recipe['arch'], size=64, epochs=1 if a.quick else 15, bs=bs,
                           seed=s, progress=False, **start)
        return str(run.path/'model.safetensors')
    def stage(fold, i, s):
        mnist = load_records(data()/'medmnist'/'retinamnist.npz', warn=False)
        mnist = mnist[mnist['split'] == 'train'].head(60 if a.quick else None)
        common = simclr(dict(retinamnist=mnist, synth=load_records(f'synth:{n_synth}', warn=False)), f'simclr_common_{s}', 128, s)
        return simclr(dict(idrid=fold[fold['split'] == 'train']), f'simclr_{i}_{s}', 64, s, weights=common)
    def graded(fold, i, s): # a second stage, on the grades of synthetic photographs
        return str(train(f'synth:{n_synth}', out=where/f'simclr_synth_{i}_{s}', weights=stage(fold, i, s), seed=s, resume=True, **recipe | tuned).path/'model.safetensors')
    arms = {'SimCLR': stage, 'SimCLR, then synthetic': graded}
    folds = list(enumerate(kfold(records, k=5, seed=42)))[:2 if a.quick else 5]
    for s,arm,(i,fold) in itertools.product(range(a.first, 1 if a.quick else a.seeds), a.only or arms, folds):
        fold.attrs = records.attrs
        def one():
            p = train(fold, out=where/f'{arm}_{i}_{s}'.replace(' ', '_').replace(',', ''), weights=arms[arm](fold, i, s), seed=42+i+100*s, resume=True, **recipe | tuned).predictions
            return dict(qwk=float(qwk(p.target, p.grade, 5)), predictions=p[['image', 'patient', 'target', 'grade', *(f'p_{j}' for j in range(5))]]
                        .assign(image=lambda d: d.image.map(lambda f: Path(f).name)).round(5).to_dict('list'))
        store.do(f'{arm}/{i}/seed{s}', one)
    store.save()
    def pooled(runs, keys):
        "Predictions of all folds together, or None where one is missing"
        return None if any(k not in runs for k in keys) else pd.concat([pd.DataFrame(runs[k]['predictions']) for k in keys], ignore_index=True)
    told = {arm: {s: p for s in range(a.seeds) if (p := pooled(store.d['runs'], [f'{arm}/{i}/seed{s}' for i,_ in folds])) is not None} for arm in arms}
    by_seed = {arm: {s: float(qwk(p.target, p.grade, 5)) for s,p in found.items()} for arm,found in told.items()}
    idrid_table = json.loads((HERE/'results'/'table_idrid.json').read_text())
    before = idrid_table['seeds']
    def against(p, arm, s):
        "The same photographs by an arm of `idrid` with the same seed: differences with intervals"
        other = pooled(idrid_table['runs'], [f'{arm}/{i}' + (f'/seed{s}' if s else '') for i,_ in folds])
        return [] if other is None else compare_models(other, p, 'dr').query("score in ('qwk', 'accuracy', 'referable.auc')").to_dict('records')
    pairs = {} if a.quick else {f'{arm} minus {x}, seed {s}': against(p, x, s) for arm,found in told.items() for s,p in found.items()
                                for x in ('random weights', 'synthetic pretraining')}
    said = {k: v['mean'] for k,v in before.items() if k != 'gain'}
    gain = {arm: mean_interval([v - old[s] for s,v in found.items() if s < len(old)]) for arm,found in by_seed.items() if (old := before['synthetic pretraining']['values']) and found}
    store.save(seeds={arm: mean_interval(list(v.values())) for arm,v in by_seed.items() if v}, gain_over_synthetic={} if a.quick else gain, paired=pairs, before=said)
    print({arm: np.round(v['values'], 3).tolist() for arm,v in store.d['seeds'].items()}, {k: round(v, 3) for k,v in said.items()})

# --- four baselines on OCT scans

FOUR = {'VGG16': 'torchvision/vgg16', 'InceptionV3': 'inception_v3', 'ResNet50': 'resnet50', 'ResNet50V2': 'resnetv2_50'}

def baselines(a):
    """The four networks of the study that this project began with, on the scans and the division by patient of `few_labels` with all labels of
    the training part: 12 epochs of batches of 32 at 75 px, the least that InceptionV3 takes, in one channel, by one learning rate for all
    (3e-4, with which a network without normalisation, as VGG16 is, learns too; tuned for none of them), the last weights, the test part predicted once a training.
    From random weights, and from ImageNet's where they can be had"""
    from retina_nb.train import compare, paired
    from retina_nb.train.network import require_weights
    store, found = Store('baselines', ' '.join(baselines.__doc__.split()), a.runs if a.quick else HERE/'results'), load_records(data()/'oct2017', task='oct', warn=False)
    records = split_records(found[found['label_conflict'].astype(int) == 0].reset_index(drop=True), (.6, .1, .3), official=False, seed=20)
    same = dict(task='oct', size=75, channels=1, epochs=1 if a.quick else 12, bs=32, lr=3e-4, progress=False)
    where, runs, without = a.runs/('baselines_quick' if a.quick else 'baselines'), {}, []
    for s, start, (name, arch) in itertools.product(range(a.first, 1 if a.quick else a.seeds), ('random', 'ImageNet'), FOUR.items()):
        if a.only and name not in a.only: continue
        key, out = f'{name}/{start}/seed{s}', where/f'{name}_{start}_{s}'
        if start == 'ImageNet' and key not in store.d['runs']:
            try: require_weights(arch)
            except RetinaError as e:
                without.append(f'{key}: {e}')
                continue
        def one():
            run = train(records, out=out, arch=arch, pretrained=start == 'ImageNet', seed=s, resume=True, **same)
            scores = evaluate(run.predictions, 'oct')
            return dict(scores={k: dict(value=scores[k]['value'], ci95=scores[k]['ci95']) for k in ('accuracy', 'balanced_accuracy', 'macro_auc')},
                        parameters=run.config['parameters'], flops=run.config['flops'],
                        seconds_an_epoch=float(run.history['seconds'].min()))  # the fastest: the machine had other work beside some
        store.do(key, one)
        if (out/'metrics.json').is_file(): runs[key] = Run(out)
    store.save(**(dict(without=without) if not a.only else {}))
    if len(runs) > 1: print(compare(list(runs.values()))[['run', 'accuracy', 'macro_auc', 'parameters', 'seconds']].to_string()) # as `retina_compare RUN...` does
    first = {name: runs[k] for name in FOUR if (k := f'{name}/random/seed0') in runs}
    if len(first) == len(FOUR):
        apart = paired(list(first.values()))
        apart = apart[apart['score'].isin(['accuracy', 'macro_auc'])].assign(run=lambda d: d['run'].str.split('_').str[0], against=lambda d: d['against'].str.split('_').str[0])
        store.save(differences=apart[['score', 'run', 'against', 'difference', 'low', 'high']].round(4).to_dict('records'))
    for w in without: print('left out:', w)

# --- chest X-rays

_REGNET = dict(arch='regnetx_002', size=128, epochs=15) # a third of resnet10t's time for a picture of the same size
XRAY_TRIED = { # for bacterial against viral: another network that sees more in the same time, then one change of that at a time
    'first': dict(arch='resnet10t', size=96, epochs=8), 'regnet, 128 px': _REGNET, 'regnet after pneumonia': _REGNET | dict(lr=3e-3, lr_mult=1.),
    'regnet, 192 px': _REGNET | dict(size=192)}

def xray(a):
    """Train on train/, a tenth of its patients for validation, test on val/, scored once a row. For bacterial against viral,
    whose first row missed its goal, further recipes were held against it on patients of train/ alone ('tried'): a quarter of them is held back, and
    of the rest the part that a training holds back by itself; 'regnet after pneumonia' starts from six epochs on the other question, without those patients"""
    store, goals = Store('xray', ' '.join(xray.__doc__.split())), dict(pneumonia=.98, pneumonia_type=.90)
    base = dict(pretrained=False, channels=1, precision=a.precision, seed=0, progress=False)
    def usable(task): return require_usable(load_records(data()/'chest_xray', task, warn=False), task, skip_bad=True)
    def divided(records, fractions, seed, test=None):
        "train/ divided by patient, and val/ as the test part"
        parts = [split_records(records[records['split'] == 'train'].assign(split=''), fractions=fractions, seed=seed)]
        if test: parts.append(records[records['split'] == 'valid'].assign(split=test))
        out = pd.concat(parts, ignore_index=True)
        out.attrs = records.attrs
        return out
    def fit(out, records, task, **how): return train(records, task=task, out=a.runs/'xray'/out.replace(' ', '_').replace(',', ''), resume=True, **base | how)
    def told(run, m): return dict(auc=m['macro_auc']['value'], ci95=m['macro_auc']['ci95'], accuracy=m['accuracy']['value'], config={k: run.config[k] for k in ('arch', 'size', 'epochs', 'precision', 'channels', 'device')})
    for task,goal in goals.items():
        if a.only and task not in a.only: continue
        def one():
            run = fit(task, divided(usable(task), (.9, .1, 0.), 42, test='test'), task, **XRAY_TRIED['first'])
            return told(run, run.metrics) | dict(n_test=run.metrics['n_images'], goal=goal)
        store.do(task, one)
    def valid(arm):
        records, start = divided(usable('pneumonia_type'), (.75, .25, 0.), 7), {}
        if 'after' in arm:
            other, seen = usable('pneumonia'), fit('tried first', records, 'pneumonia_type', **XRAY_TRIED['first']).records.query("split == 'train'")['patient']
            kept = other[other['patient'].isin(set(seen)) | (other['label'] == 0)] # the healthy have no part in the question
            kept.attrs = other.attrs
            start = dict(weights=fit('tried pneumonia', divided(kept, (.9, .1, 0.), 7), 'pneumonia', **_REGNET | dict(epochs=6)).path/'model.safetensors')
        run = fit(f'tried {arm}', records, 'pneumonia_type', **XRAY_TRIED[arm] | start)
        m = evaluate(pd.concat([run.predictions_valid, run.predictions]), 'pneumonia_type')
        return told(run, m) | dict(part='train/, patients held back', n_images=m['n_images'], train_seconds=run.config['seconds'])
    for arm in XRAY_TRIED:
        if not a.only or arm in a.only: store.do(f'tried/pneumonia_type/{arm}', lambda: valid(arm))
    store.save(tried=XRAY_TRIED)

# --- the sample: seconds to a QWK of .70

class Reached(Callback):
    "Stop at the first epoch whose validation QWK is .70 or more"
    order = 96
    def __init__(self, start, goal=.7): self.start, self.goal, self.seconds = start, goal, None
    def after_epoch(self):
        value = next(m for m in self.metrics if m.name == 'qwk').value
        if value is not None and value >= self.goal:
            self.seconds = time.perf_counter() - self.start
            raise CancelFitException

def sample(a):
    "Processor seconds from the records to a validation QWK of .70, decoding included, on the same split; at most 20 epochs"
    from retina_nb.train.learner import make_learner
    from retina_nb.train import TrainConfig
    store, records = Store('sample', sample.__doc__), split_records(load_records(sample_dir()), seed=42)
    def to_goal(make, fit, seed):
        set_seed(seed)
        start, cpu = time.perf_counter(), time.process_time()
        reached, learn = Reached(start), make()
        learn.add_cb(reached)
        with learn.no_bar(), learn.no_logging(): fit(learn)
        return dict(wall_seconds=reached.seconds, cpu_seconds=time.process_time() - cpu, reached=reached.seconds is not None, epochs=len(learn.recorder.values))
    def ours(seed, **kwargs):
        c = TrainConfig(size=112, epochs=12, pretrained=False, seed=seed, **kwargs)
        return to_goal(lambda: make_learner(records, c, progress=False), lambda l: l.fit_one_cycle(c.epochs, c.peak_lr), seed)
    arms = {'ours, test_resnet': lambda s: ours(s, arch='test_resnet', lr=6e-3), 'ours, resnet18': ours,
            'plain fastai, resnet18': lambda s: to_goal(lambda: plain_learner(records, 112), lambda l: l.fit_one_cycle(20, 1e-3), s)}
    for arm in a.only or arms:
        for seed in range(min(a.seeds, 3)): store.do(f'{arm}/{seed}', lambda: arms[arm](seed))
    store.save(median_cpu_seconds={arm: float(np.median([v['cpu_seconds'] for k,v in store.d['runs'].items() if k.startswith(arm + '/')])) for arm in arms
                                   if any(k.startswith(arm + '/') for k in store.d['runs'])})
    print(store.d['median_cpu_seconds'])

TABLES = dict(retinamnist=retinamnist, idrid=idrid, oct=oct, fundus=fundus, baselines=baselines, xray=xray, sample=sample)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('table', choices=TABLES)
    p.add_argument('--runs', type=Path, default=Path('runs/tables'))
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--first', type=int, default=0, help='the first of the seeds')
    p.add_argument('--only', nargs='*')
    p.add_argument('--quick', action='store_true', help='oct, fundus, baselines: a tiny one, to see that all of it runs; its results stay with its runs')
    p.add_argument('--precision', default='fp32', help='bf16 where the processor has it')
    a = p.parse_args()
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
    TABLES[a.table](a)

if __name__ == '__main__': main()

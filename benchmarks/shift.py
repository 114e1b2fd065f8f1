"""Another camera: train without one source of photographs and test on it, with one change of the recipe at a time

    python benchmarks/shift.py [--only ARM ...] [--seeds 3]

IDRiD (413 photographs of the training part) and 157 photographs of 79 EyePACS patients are left out in turn, by patient; drawn eyes are
trained on and never tested on, those whose lesions are marked with other cameras, lights and files (`synth.varied`). Every finished training is kept in --runs, so a command that was stopped goes on, and two commands can
share the arms. Results go to benchmarks/results/table_shift.json, without a picture or a name of one. Nothing of an official test part
is used. Real data is found through RETINA_NB_DATA."""
import argparse, datetime, itertools, json, os
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd, torch

from retina_nb.core import Run
from retina_nb.data.records import load_records
from retina_nb.disk import write_json
from retina_nb.image.judged import quality_table
from retina_nb.measure.evaluation import evaluate
from retina_nb.train.ensemble import mean_predictions
from retina_nb.train.model import build_model, grade_records
from retina_nb.synth.varied import varied_dataset
from retina_nb.train.shift import join_sources, leave_out, leave_source_out
from retina_nb.train.training import train
from long import N_MARKED, data, marker, mean_interval, probed, tiny, tiny_synth
from run import machine

RESULT = Path(__file__).parent/'results'/'table_shift.json'
REAL, DRAWN = ('idrid', 'eyepacs'), 'drawn'
RECIPE = dict(arch='resnet18', size=128, epochs=12, pretrained=False, progress=False)
N_DRAWN = 600
SCORES = 'qwk', 'auc', 'sensitivity', 'specificity', 'own_qwk', 'own_auc'

# --- what is compared: what to train on besides the other real source, what to start from, and what else is changed
ARMS = {
    'random weights': dict(),
    'drawn eyes only': dict(alone=True),
    'weights of drawn eyes': dict(start=True),
    'marked lesions, all layers trained': dict(tuned=True),
    'marked lesions': dict(lesions=True),
    'marked lesions, drawn eyes only': dict(lesions=True, alone=True),
    'marked lesions, drawn eyes too': dict(lesions=True, drawn=True),
}

class Found:
    "Results as they come, in one JSON file that two commands may share"
    def __init__(self, file): self.file, self.d = file, json.loads(file.read_text()) if file.is_file() else dict(name='shift', runs={})
    def look(self):
        "What there is by now: another command may have added to it"
        if self.file.is_file(): self.d['runs'] = json.loads(self.file.read_text())['runs'] | self.d['runs']
        return self.d['runs']
    def add(self, row): self.look()[f"{row['arm']}/{row['left_out']}/{row['seed']}"] = row
    def save(self, **more):
        self.d |= dict(what=' '.join(__doc__.split('\n\n')[2].split()), recipe={k: v for k, v in RECIPE.items() if k != 'progress'}, drawn=N_DRAWN,
                       date=datetime.date.today().isoformat(), machine=machine(), threads=torch.get_num_threads()) | more
        write_json(self.file, self.d)

# --- one arm

def drawn_run(runs, seed):
    "A training on drawn eyes alone, to start from or to be tested as it is"
    return train(f'synth:{N_DRAWN}', out=runs/'start'/f'seed{seed}', seed=seed, resume=True, **RECIPE)

def marked_run(runs, seed):
    "Grades of drawn eyes from their marked lesions: no photograph has been seen"
    return probed(str(varied_dataset(N_MARKED, seed)), runs/'marked_drawn'/f'seed{seed}', runs, seed)

def with_drawn(records, seed):
    "The same table and the drawn eyes that lesions were learned from, for training only: validation stays with photographs"
    drawn = load_records(varied_dataset(N_MARKED, seed), warn=False)
    both = pd.concat([records, drawn.assign(source=DRAWN, split='train', patient=DRAWN + '/' + drawn['patient'].astype(str))[records.columns]], ignore_index=True)
    both.attrs = records.attrs
    return both

def tried(arm, name, seed, table, runs):
    "The row of one arm, one source that is left out and one seed"
    how, there, others = ARMS[arm], table[table['source'] == name], [r for r in REAL if r != name]
    place = runs/arm.replace(' ', '_').replace(',', '')
    if how.get('alone'):
        run, others = marked_run(runs, seed) if how.get('lesions') else drawn_run(runs, seed), [DRAWN]
    elif how.get('lesions'):
        records = leave_out(table, name, train_on=others, seed=seed)
        if how.get('drawn'): records, others = with_drawn(records, seed), [*others, DRAWN]
        run = probed(records, place/name/f'seed{seed}', runs, seed)
    else:
        start = dict(weights=drawn_run(runs, seed).path/'model.safetensors') if how.get('start') else {}
        if how.get('tuned'): start = dict(arch='lesion_net', size=256, epochs=8, lr_mult=100., weights=marker(runs, seed))
        leave_source_out(table, place, left_out=name, train_on=others, seeds=1, seed=seed, **RECIPE | start)
        run = Run(place/name/f'seed{seed}')
    seen = grade_records(build_model(run.config, run.path/'model.safetensors'), there, progress=False)
    own = evaluate(run.predictions_valid, 'dr', threshold=run.config.get('operating_point'))
    seen.to_csv(kept(runs, arm, name, seed), index=False) # stays with the runs: rows of patients are nobody's result
    row = dict(arm=arm, left_out=name, trained_on=', '.join(others), seed=seed, images=len(there), seconds=run.config['seconds'])
    return row | score(seen, run) | {f'own_{k}': v for k, v in short(own).items()} | dict(extra=beside(run, there) if not seed else {})

def kept(runs, arm, name, seed): return runs/f"predictions {arm} {name} {seed}.csv".replace(',', '').replace(' ', '_')

def score(p, run): return short(evaluate(p, 'dr', threshold=run.config.get('operating_point')))

def beside(run, records):
    "What the same weights say with eight views of each photograph, and with normalisation learned anew from the unseen source's photographs"
    def model(): return build_model(run.config, run.path/'model.safetensors')
    return {'eight views': score(grade_records(model(), records, progress=False, tta=True), run),
            'batch statistics of the unseen source': score(grade_records(adapted(model(), records), records, progress=False), run)}

def short(scores): return dict(qwk=scores['qwk']['value'], auc=scores['referable']['auc']['value'], sensitivity=scores['referable']['sensitivity']['value'],
                               specificity=scores['referable']['specificity']['value'])

def adapted(model, records):
    "AdaBN (Li et al. 2016, arXiv:1603.04779): means and variances of batch normalisation from photographs without their labels"
    from retina_nb.train.loader import prepare
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for m in norms: m.reset_running_stats(); m.momentum = None; m.train()
    images = prepare(records, model.preprocess, progress=False)
    with torch.inference_mode():
        for j in range(0, len(images), 64): model(torch.from_numpy(np.array(images[j:j+64])))
    return model.eval()

# --- with RetinaMNIST, at its size

TINY = dict(arch='test_resnet', size=64, epochs=20, loss='qwk', contrast='none', pretrained=False, progress=False) # as long.py chose it on RetinaMNIST's validation part

def tiny_rows(runs, seeds):
    """Three sources of photographs of 28 pixels, each left out in turn: RetinaMNIST's training and validation part, and the square around the eye of
    IDRiD's and EyePACS', shrunk. From random weights, and from those of drawn eyes of that size"""
    sets = dict(retinamnist=data()/'medmnist'/'retinamnist.npz', idrid=data()/'idrid', eyepacs=data()/'eyepacs-small')
    records = {k: load_records(d, warn=False) for k, d in sets.items()}
    small = {k: r if k == 'retinamnist' else tiny(r, runs/'tiny'/k, cut=True) for k, r in records.items()}
    table, out = join_sources(small, 'dr', seed=42), []
    drawn = tiny_synth(runs/'tiny'/DRAWN, N_DRAWN, cut=True)
    for seed in range(seeds):
        start = train(drawn, out=runs/'tiny'/f'start{seed}', seed=seed, resume=True, **TINY)
        for arm, more in {'random weights': {}, 'weights of drawn eyes': dict(weights=start.path/'model.safetensors', lr=3e-3, lr_mult=1.)}.items():
            place = runs/'tiny'/arm.replace(' ', '_')
            for name in sets:
                if not (place/name/f'seed{seed}'/'metrics.json').is_file(): leave_source_out(table, place, left_out=name, seeds=1, seed=seed, **TINY | more)
                run = Run(place/name/f'seed{seed}')
                out.append(dict(arm=arm, left_out=name, seed=seed, images=run.metrics['n_images'], own_qwk=short(evaluate(run.predictions_valid, 'dr', n_boot=10))['qwk'], **short(run.metrics)))
                print('tiny', out[-1], flush=True)
    return out

# --- what it comes to

def summary(rows):
    "Means over the seeds with 95% intervals, for each arm and source, and the gain over random weights with the same seeds"
    out, t = {}, pd.DataFrame(rows)
    base = t[t['arm'] == 'random weights'].set_index(['left_out', 'seed'])
    for (arm, name), g in t.groupby(['arm', 'left_out'], sort=False):
        here = {k: mean_interval(g[k]) for k in SCORES}
        for way in g['extra'].iloc[0]: # looked at with the first seed only
            here[way] = {k: mean_interval([e[way][k] for e in g['extra'] if way in e]) for k in ('qwk', 'auc', 'sensitivity', 'specificity')}
        pairs = [(r, base.loc[name, r.seed]) for r in g.itertuples() if (name, r.seed) in base.index]
        if pairs and arm != 'random weights': here['gain'] = {k: mean_interval([getattr(a, k) - b[k] for a, b in pairs]) for k in ('qwk', 'auc')}
        out.setdefault(arm, {})[name] = here
    return out

def together(rows, runs):
    "The mean of the seeds' probabilities, which is a model of its own"
    out = {}
    for (arm, name), g in pd.DataFrame(rows).groupby(['arm', 'left_out'], sort=False):
        tables = [pd.read_csv(f, dtype=dict(patient=str)) for seed in g['seed'] if (f := kept(runs, arm, name, seed)).is_file()]
        if len(tables) < 2: continue
        s = evaluate(mean_predictions(tables), 'dr')
        out.setdefault(arm, {})[name] = dict(qwk=s['qwk'], auc=s['referable']['auc'], accuracy=s['accuracy'], seeds=len(tables))
    return out

def what_shifts(table):
    "Percentiles of the measures of quality by source, and the grades"
    out = {}
    for name, g in table.groupby('source', sort=False):
        q = quality_table(g, task='dr').select_dtypes('number').drop(columns='score').quantile((.05, .25, .5, .75, .95))
        out[name] = dict(images=len(g), patients=int(g['patient'].nunique()), grades=g['label'].value_counts().sort_index().tolist(),
                         measures={k: q[k].round(4).tolist() for k in q}) # 5th, 25th, 50th, 75th and 95th percentile
    return out

def dice_of(runs):
    "Overlap of marks and masks on the drawn test part, by seed"
    files = sorted((runs/'marker').glob('seed*/metrics.json'))
    return {f.parent.name.removeprefix('seed'): json.loads(f.read_text())['dice'] for f in files}

def overlay(runs, table, seed=0):
    "The first photograph of each grade of IDRiD, and what a network marks that has seen none: a picture for the documentation"
    import matplotlib.pyplot as plt
    from retina_nb.image import read_image
    from retina_nb.train.lesions import lesion_maps, plot_lesions
    first = table[table['source'] == 'idrid'].sort_values('image').drop_duplicates('label').sort_values('label')
    fig, axs = plt.subplots(2, len(first), figsize=(2.6*len(first), 3.9), layout='constrained')
    for ax, row in zip(axs.T, first.itertuples()):
        photo = read_image(row.image, short_side=512)
        ax[0].imshow(photo)
        ax[0].set_title(f'grade {row.label}', fontsize=9)
        ax[0].set_axis_off()
        plot_lesions(photo, lesion_maps(runs/'marker'/f'seed{seed}', photo), ax[1], legend=row.label == 3)
    fig.savefig(Path(__file__).parent.parent/'nbs'/'images'/'idrid_lesions.png', dpi=80, facecolor='white')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--runs', type=Path, default=Path('runs/shift'))
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--only', nargs='*', choices=(*ARMS, 'tiny'))
    a = p.parse_args()
    torch.set_num_threads(int(os.environ['OMP_NUM_THREADS']))
    found = Found(RESULT)
    if not a.only or 'tiny' in a.only:
        rows = tiny_rows(a.runs, a.seeds)
        found.look()
        found.save(tiny=rows)
        if a.only == ['tiny']: return
    table = join_sources(dict(idrid=data()/'idrid', eyepacs=data()/'eyepacs-small', drawn=f'synth:{N_DRAWN}'), 'dr', seed=42)
    for seed, arm, name in itertools.product(range(a.seeds), [arm for arm in a.only or ARMS if arm in ARMS], REAL): # seed by seed, so that what is stopped early can be read
        if f'{arm}/{name}/{seed}' in found.look(): continue
        row = tried(arm, name, seed, table, a.runs)
        found.add(row)
        found.save()
        print(seed, arm, name, {k: round(row[k], 3) for k in SCORES}, {k: (round(v['qwk'], 3), round(v['auc'], 3)) for k, v in row['extra'].items()}, flush=True)
    rows = list(found.look().values())
    if (a.runs/'marker').is_dir(): overlay(a.runs, table)
    found.save(dice=dice_of(a.runs), summary=summary(rows), ensembles=found.d.get('ensembles', {}) | together(rows, a.runs), sources=found.d.get('sources') or what_shifts(table))

if __name__ == '__main__': main()

"""Predictions on real photographs as a small table, so that notebooks can read some where the photographs are not

    RETINA_NB_DATA=../shared/data python benchmarks/real_predictions.py --runs FOLDER

Five-fold cross-validation, by image with identical ones together, on the 413 training images of IDRiD (CC BY 4.0, Porwal et al. 2018, doi:10.3390/data3030025) with the
package's defaults, from random weights: every photograph is graded once, by a model that has not seen it.
Writes results/predictions_idrid.csv: file names, labels and probabilities, no images; `fold` says which model answered. The five
runs stay in FOLDER; what is finished there is not trained again. Also draws nbs/images/idrid_explained.png: three of the photographs
with Grad-CAM and integrated gradients of the model that had not seen them."""
import argparse, os, sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import pandas as pd

from retina_nb.disk import write_table
from retina_nb.data.records import load_records
from retina_nb.measure.metrics import qwk
from retina_nb.data.split import kfold
from retina_nb.train.training import train

HERE = Path(__file__).resolve().parent
RECIPE = dict(arch='resnet18', size=128, epochs=12, pretrained=False, progress=False)

def cross_validated(folder, runs, k=5, seed=42):
    "One run a fold, kept in `runs`; the predictions of all, with the fold that each belongs to"
    parts = []
    for i, fold in enumerate(kfold(load_records(folder, warn=False), k=k, seed=seed)):
        run = train(fold, out=runs/f'fold{i}', seed=seed+i, resume=True, **RECIPE)
        parts.append(run.predictions.assign(fold=i))
        print(f'fold {i}: QWK {qwk(parts[-1].target, parts[-1].grade, 5):.3f}, {run.config["seconds"]:.0f} s', flush=True)
    return pd.concat(parts, ignore_index=True)

def draw(runs, preds, file, n=3):
    "The surest right answers among the gravest grades of fold 0, explained"
    import torch
    from retina_nb.explain.methods import grad_cam, integrated_gradients, plot_explanations
    from retina_nb.train.prediction import load_model
    from retina_nb.plotting import save_figure, set_style
    set_style(); torch.set_num_threads(1)
    model = load_model(runs/'fold0')
    d = preds[(preds.fold == 0) & (preds.target >= 2) & (preds.target == preds.grade)]
    d = d.assign(sure=[r[f'p_{r.grade}'] for _, r in d.iterrows()]).sort_values('sure', ascending=False).head(n)
    images, plain = [model.preprocess(f) for f in d.image], replace(model.preprocess, contrast='none')
    maps = {name: f(model, images, about=(1,2,3,4)) for name, f in (('Grad-CAM', grad_cam), ('integrated gradients', integrated_gradients))}
    says = [f'grade {r.target}, answered {r.grade} ({r.sure:.0%})' for r in d.itertuples()]
    save_figure(plot_explanations([plain(f) for f in d.image], maps, says=says, size=1.7), file)

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--runs', type=Path, required=True, help='folder for the five runs')
    ap.add_argument('--out', type=Path, default=HERE/'results'/'predictions_idrid.csv')
    a = ap.parse_args()
    if not os.environ.get('RETINA_NB_DATA'): sys.exit('RETINA_NB_DATA is not set: no photographs here')
    matplotlib.use('Agg')
    preds = cross_validated(Path(os.environ['RETINA_NB_DATA'])/'idrid', a.runs)
    keep = ['image', 'patient', 'target', 'grade', *[f'p_{j}' for j in range(5)], 'fold']
    write_table(a.out, preds.assign(image=preds.image.map(lambda f: Path(f).name))[keep].round(5))
    print(f'{len(preds)} photographs, pooled QWK {qwk(preds.target, preds.grade, 5):.3f}; written to {a.out}')
    draw(a.runs, preds, HERE.parent/'nbs'/'images'/'idrid_explained.png')

if __name__ == '__main__': main()

"""What one GPU is for: how well it is fed, and the trainings that are too long for a processor

    python benchmarks/gpu.py speed     images a second of a whole training against the same network on one batch that stays in GPU memory
    python benchmarks/gpu.py idrid     IDRiD at 512 px: grades from random weights and on marked lesions, five folds by image
    python benchmarks/gpu.py pairs     eyepacs-small at 512 px: one eye at a time, then both eyes together
    python benchmarks/gpu.py simclr    a first stage without labels at 224 px on OCT scans, then few labels
    python benchmarks/gpu.py all       these four

Photographs are found through RETINA_NB_DATA; what a part needs and does not find is said and left out. Finished runs are kept in --runs, so
a command that was stopped goes on. Results go to benchmarks/results/gpu.json with the name of the chip. --quick is the same code in a few
minutes of a processor, on drawn eyes: its results stay with its runs, and say nothing about a GPU.

To carry to a machine without a network: `pip download -d wheels -c constraints.txt ".[all]"` on one that has the same Python and system, then
`pip install wheels/*.whl` there. Where a GPU's own build of PyTorch is installed already, take torch, torchvision, triton and nvidia_* out of
the folder, and install the others with `--no-deps`.

--estimate prints the minutes to expect. They are arithmetic, not measured: pictures trained on a second as timm published them for ResNet-50 in
half precision on one RTX 3090 (1,218 at 224 px; https://github.com/huggingface/pytorch-image-models/blob/main/results), fewer at 512 px by
the number of pixels. An H100 or H200 is a newer and larger chip, so less is to be expected there."""
import argparse, datetime, itertools, json, os, time
from pathlib import Path

import pandas as pd, torch
from fastai.torch_core import default_device

from retina_nb.core import Run, SettingError
from retina_nb.data.records import load_records
from retina_nb.data.split import kfold, split_records
from retina_nb.disk import write_json
from retina_nb.measure.evaluation import evaluate
from retina_nb.train.both_eyes import train_both_eyes
from retina_nb.train.lesions import train_lesions
from retina_nb.train.learner import make_learner
from retina_nb.train.probe import draw_labels
from retina_nb.train.probe_run import train_probe
from retina_nb.train.self_training import pretrain
from retina_nb.train.training import train
from run import machine

HERE = Path(__file__).parent
LARGE = dict(arch='resnet50', size=512, epochs=60, bs=32, precision='bf16', pretrained=False, progress=False)
SMALL = dict(arch='test_resnet', size=64, epochs=1, bs=8, precision='bf16', pretrained=False, progress=False)
RATE, SIDE = 1218., 224 # pictures a second of ResNet-50, and the side of each: see above

# --- how well the GPU is fed

def synchronise(device):
    if device.type == 'cuda': torch.cuda.synchronize(device)

def peak_gib(device): return torch.cuda.max_memory_allocated(device)/2**30 if device.type == 'cuda' else None

def fed(learn, epochs):
    "Training pictures a second of `fit`, augmentation and loader included; an epoch before the clock starts warms everything up"
    from fastai.callback.core import Callback
    class Clock(Callback):
        seconds = 0.
        def before_train(self): synchronise(learn.dls.device); self.start = time.perf_counter()
        def after_train(self): synchronise(learn.dls.device); self.seconds += time.perf_counter() - self.start
    def fit(n, cbs=()):
        with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-4, cbs=list(cbs))
    fit(1)
    clock = Clock()
    fit(epochs, [clock])
    return epochs*len(learn.dls.train)*learn.dls.train.bs/clock.seconds

def held(learn, steps, precision):
    "Pictures a second of the same network and optimiser on one batch that stays where it is: what a perfect loader would reach"
    x, y = (t.as_subclass(torch.Tensor) for t in learn.dls.train.one_batch())
    device, half = learn.dls.device, {'bf16': torch.bfloat16, 'fp16': torch.float16}.get(precision)
    if learn.config.channels_last: x = x.contiguous(memory_format=torch.channels_last)
    opt, net = torch.optim.Adam(learn.model.parameters(), 1e-4), learn.model.train()
    def step():
        opt.zero_grad()
        with torch.autocast(device.type, half, enabled=half is not None): loss = learn.loss_func(net(x), y)
        loss.backward()
        opt.step()
    for _ in range(max(2, steps//5)): step()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps): step()
    synchronise(device)
    return steps*len(x)/(time.perf_counter() - start)

def one_speed(records, options, quick):
    "A row: both figures, their ratio and the most memory"
    device = default_device()
    if device.type == 'cuda': torch.cuda.reset_peak_memory_stats(device)
    learn = make_learner(records, **options)
    whole = fed(learn, 1 if quick else 3)
    bare = held(learn, 5 if quick else 60, options['precision'])
    return {k: options[k] for k in ('precision', 'channels_last', 'compile', 'size', 'bs')} | dict(
        images_a_second=whole, held_batch=bare, ratio=whole/bare, goal=.9, peak_gib=peak_gib(device))

def speed(a):
    """The loader against one batch held in memory, with each of bf16, channels last and torch.compile taken away or added alone. Pictures
    are drawn eyes: a training reads them once, so what they show makes no difference"""
    records = split_records(load_records('synth:120' if a.quick else 'synth:2000', warn=False), seed=42)
    base = (SMALL | dict(bs=16) if a.quick else LARGE | dict(size=224, bs=128)) | dict(channels_last=True, compile=False)
    base.pop('epochs')
    arms = {'bf16, channels last': {}, 'fp32': dict(precision='fp32'), 'plain memory order': dict(channels_last=False), 'compiled': dict(compile=True)}
    if torch.cuda.is_available(): arms['fp16'] = dict(precision='fp16')
    out = {}
    for name, change in arms.items():
        if a.without and name in a.without: continue
        try: out[name] = one_speed(records, base | change, a.quick)
        except SettingError as e: out[name] = dict(left_out=str(e)) # no compiler here
        print('speed,', name, out[name], flush=True)
    return out

# --- the long trainings

def source(a, *parts):
    "Where a data set lies, or None, said"
    folder = Path(os.environ.get('RETINA_NB_DATA', '.')).joinpath(*parts)
    if a.quick: return None
    if 'RETINA_NB_DATA' in os.environ and folder.exists(): return folder
    print(f'{folder}: not there, so this part is left out')
    return None

def scored(run):
    s = evaluate(run, n_boot=200)
    return dict(seconds=run.config['seconds'], **{k: s[k]['value'] for k in ('qwk', 'accuracy', 'macro_auc') if s.get(k)})

def pooled(runs, task='dr'):
    s = evaluate(pd.concat([r.predictions for r in runs], ignore_index=True), task)
    return dict(qwk=s['qwk'], accuracy=s['accuracy'], referable_auc=s['referable']['auc'], seconds=sum(r.config['seconds'] for r in runs))

def idrid(a):
    "Five folds by image at 512 px, each photograph graded once: from random weights, and the last layer alone after a network that marks lesions of drawn eyes"
    folder = source(a, 'idrid')
    if folder is None and not a.quick: return None
    records, how, where = load_records(folder or 'synth:100', warn=False), SMALL if a.quick else LARGE, a.runs/'idrid'
    marks = dict(n=40, size=96, piece=64, epochs=1, bs=8) if a.quick else dict(n=4000, size=512)
    marker = train_lesions(out=where/'marker', seed=0, resume=True, progress=False, **marks)
    arms = {'random weights': [], 'marked lesions': []}
    for i, fold in enumerate(itertools.islice(kfold(records, k=5, seed=42), 1 if a.quick else 5)):
        fold.attrs = records.attrs
        arms['random weights'].append(train(fold, out=where/f'scratch{i}', seed=42+i, resume=True, **how))
        done = where/f'marked{i}'
        arms['marked lesions'].append(Run(done) if (done/'metrics.json').is_file() else train_probe(fold, weights=marker, out=done, seed=42+i, progress=False))
    return {arm: pooled(runs) for arm, runs in arms.items()}

def pairs(a):
    "One eye at a time, then a second stage on both eyes of a patient, by patient; the control hides the other eye"
    folder = source(a, 'eyepacs-small')
    if folder is None and not a.quick: return None
    records = split_records(load_records(folder or 'synth:100', warn=False), official=False, seed=42)
    one = train(records, out=a.runs/'pairs'/'one', resume=True, seed=42, **SMALL if a.quick else LARGE)
    out = {'one eye': scored(one)}
    for name, fellow in (('both eyes', True), ('the other eye hidden', False)):
        done = a.runs/'pairs'/name.replace(' ', '_')
        out[name] = scored(Run(done) if (done/'metrics.json').is_file() else train_both_eyes(one, done, steps=20 if a.quick else 300, fellow=fellow))
    return out

def simclr(a):
    "SimCLR on the training patients' scans without labels, then 10% of their labels, from its weights and from random ones"
    folder = source(a, 'oct2017')
    if folder is None and not a.quick: return None
    task, size = ('dr', 64) if a.quick else ('oct', 224)
    records = load_records(folder or 'synth:100', task, warn=False)
    records = split_records(records, official=False, seed=1)
    first = dict(arch='test_resnet', size=64, epochs=1, bs=16) if a.quick else dict(arch='resnet50', size=size, epochs=200, bs=256, precision='bf16', channels=1)
    stage = pretrain(records[records['split'] == 'train'], task=task, out=a.runs/'simclr'/'first', resume=True, seed=0, progress=False, **first)
    few = records[draw_labels(records, fraction=.5 if a.quick else .1, seed=1) | (records['split'] != 'train')].reset_index(drop=True)
    few.attrs = records.attrs
    same = (SMALL if a.quick else LARGE | dict(size=size, epochs=50, channels=1)) | dict(task=task, seed=1, resume=True)
    runs = {'from SimCLR': train(few, out=a.runs/'simclr'/'tuned', weights=str(stage.path/'model.safetensors'), **same),
            'from random weights': train(few, out=a.runs/'simclr'/'scratch', **same)}
    return dict(first_stage_seconds=stage.config['seconds']) | {name: scored(run) for name, run in runs.items()}

PARTS = dict(speed=speed, idrid=idrid, pairs=pairs, simclr=simclr)

def minutes(images, epochs, size, views=1):
    "Minutes to expect, at most: see above; a third more for validation"
    return images*epochs*views*(size/SIDE)**2/RATE/60*(1.33 if views == 1 else 1)

def estimate():
    "The minutes to expect of each part on an RTX 3090, so fewer on a newer chip"
    e, big = LARGE['epochs'], LARGE['size']
    rows = dict(speed=5*minutes(1400, 5, SIDE), idrid=5*minutes(330, e, big) + minutes(3200, 12, big), pairs=minutes(110, e, big),
                simclr=minutes(700, 200, SIDE, views=2) + 2*minutes(300, 50, SIDE))
    return {k: round(v, 1) for k, v in rows.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('part', choices=[*PARTS, 'all'], nargs='?', default='all')
    p.add_argument('--runs', type=Path, default=Path('runs/gpu'))
    p.add_argument('--quick', action='store_true', help='tiny and on whatever is there, to see that all of it runs')
    p.add_argument('--without', nargs='*', help="rows of the speed table to leave out, such as compiled")
    p.add_argument('--estimate', action='store_true', help='print the minutes to expect, and do nothing')
    a = p.parse_args()
    if a.estimate: return print(json.dumps(estimate()))
    if not (a.quick or torch.cuda.is_available()): raise SystemExit('no GPU that PyTorch can use is here; --quick tries the same code on a processor')
    file = a.runs/'gpu.json' if a.quick else HERE/'results'/'gpu.json'
    d = json.loads(file.read_text()) if file.is_file() else dict(name='gpu', parts={})
    for name in PARTS if a.part == 'all' else [a.part]:
        start, found = time.perf_counter(), PARTS[name](a)
        if found is None: continue
        d['parts'][name] = dict(what=' '.join(PARTS[name].__doc__.split()), seconds=round(time.perf_counter() - start, 1), found=found)
        chip = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        write_json(file, d | dict(date=datetime.date.today().isoformat(), machine=machine() | dict(chip=chip), threads=torch.get_num_threads(), estimated_minutes=estimate()))
        print(name, json.dumps(d['parts'][name]['found'], indent=1), flush=True)

if __name__ == '__main__': main()

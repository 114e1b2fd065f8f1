"Grading: ResNet-18 at 224 px from the bytes of a photograph to a grade, against fastai's learn.predict on the same file; what stands beside bare decoding and bare ONNX Runtime; int8 against fp32; a folder; a cold start. Weights are random: only time and memory are measured"
import functools, json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from retina_nb.deploy import Grader, export, load_bundle, open_session, quantise, write_sums
from retina_nb.core import get_task
from retina_nb.disk import write_json
from retina_nb.image import Preprocess, read_image
from timing import compare, seconds

THREADS = 2
SIZE = 224

def run_folder(path):
    "A run of ResNet-18 that was never trained"
    import torch
    from safetensors.torch import save_file
    from retina_nb.train.model import build_model
    pre, task = Preprocess.for_task('dr', size=SIZE), get_task('dr')
    config = dict(task='dr', arch='resnet18', loss='ce', size=SIZE, classes=list(task.classes), preprocess=pre.to_dict(), preprocess_hash=pre.hash)
    torch.manual_seed(0)
    path.mkdir()
    save_file(build_model(config).state_dict(), path/'model.safetensors')
    write_json(path/'config.json', config); write_json(path/'metrics.json', {})
    (path/'predictions.csv').write_text('image,patient,target,grade\n')
    return path

def int8_bundle(fp32, out, files):
    "The bundle that --int8 makes when the scores allow it"
    shutil.copytree(fp32, out)
    pre, data = load_bundle(fp32).preprocess, (fp32/'model.onnx').read_bytes()
    (out/'model.fp32.onnx').write_bytes(data)
    (out/'model.onnx').write_bytes(quantise(data, [pre(f) for f in files[:8]]))
    config = json.loads((out/'config.json').read_text()) | dict(precision='int8')
    write_json(out/'config.json', config); write_sums(out)
    return out

def photographs(d):
    "Sets of photographs: name to files and the goal against learn.predict"
    real = os.environ.get('RETINA_NB_DATA')
    if real:
        kaggle = sorted(p for p in (Path(real)/'eyepacs-sample').rglob('*') if p.suffix in ('.jpeg','.jpg'))
        return {'IDRiD, 4288 x 2848': (sorted((Path(real)/'idrid-fullsize').rglob('*.jpg')), 8), 'Kaggle, as taken': (kaggle, 4)}
    from retina_nb.synth.render import synth_eye
    files = []
    for i in range(3):
        a = Image.fromarray(synth_eye(i, grade=i, size=712).image).resize((4288, 2848), Image.BICUBIC)
        a.save(d/f'{i}.jpg', quality=90); files.append(d/f'{i}.jpg')
    return {'synthetic, 4288 x 2848': (files, 8)}

def learner(files):
    "What a fastai user has: a vision learner with item and batch transforms"
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, Normalize, Resize, imagenet_stats, resnet18, vision_learner
    dls = DataBlock((ImageBlock, CategoryBlock), get_y=lambda f: hash(f.name) % 2, item_tfms=Resize(SIZE), batch_tfms=Normalize.from_stats(*imagenet_stats)).dataloaders(
        [*files, *files], bs=2, num_workers=0)
    learn = vision_learner(dls, resnet18, pretrained=False)
    learn.model.eval()
    return learn

def p95(what, ours, baseline, items, repeats, goal):
    "One photograph at a time, alternating: the slow ones decide whether people wait"
    a, b = [], []
    for _ in range(repeats):
        for x,y in items: a.append(seconds(lambda: ours(x))); b.append(seconds(lambda: baseline(y)))
    a, b = np.percentile(a, 95), np.percentile(b, 95)
    return dict(what=what, unit='ms', ours=1e3*a, baseline=1e3*b, ratio=b/a, goal=goal, reached=bool(b/a >= goal))

def over(f, items): return lambda: [f(o) for o in items]

def bench(quick):
    repeats = 3 if quick else 7
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        sets = photographs(d)
        first = next(iter(sets.values()))[0]
        fp32 = export(run_folder(d/'run'), d/'fp32')
        int8 = int8_bundle(fp32, d/'int8', first)
        grader, learn = Grader(int8), learner(first)
        pre, session = grader.preprocess, grader._session
        x = pre(first[0])[None]
        for name,(files,goal) in sets.items():
            files = files[:2 if quick else 6]
            data = [f.read_bytes() for f in files]
            with learn.no_bar(): yield compare(f'{name}: one photograph, bytes to grade ({grader.precision}) against learn.predict', over(grader, data), over(learn.predict, files), items=len(files), unit='images/s', goal=goal, repeats=repeats)
            with learn.no_bar(): yield p95(f'{name}: the same, 95th percentile of the time of one', grader, learn.predict, list(zip(data, files)), repeats, goal)
            def bare(b): read_image(b, short_side=SIZE); session.run(['probabilities'], {'image': x})
            yield compare(f'{name}: against bare scaled decoding and bare ONNX Runtime', over(grader, data), over(bare, data), items=len(files), unit='images/s', goal=1/1.15, repeats=repeats)
        a, b = (open_session(load_bundle(int8).onnx(p)[0], 1) for p in ('int8','fp32'))
        yield compare('int8 against fp32, ONNX Runtime, one core', *(functools.partial(s.run, None, {'image': x}) for s in (a, b)), unit='images/s', goal=2, repeats=20)
        many = (first*50)[:24 if quick else 1000]
        few = many[:4 if quick else 24]
        ours = seconds(lambda: [*grader.grade_many(many)])/len(many)
        with learn.no_bar(): theirs = seconds(over(learn.predict, few))/len(few)
        yield dict(what=f'folder of {len(many):,} photographs on {len(os.sched_getaffinity(0))} cores against a loop over learn.predict', unit='images/s', ours=1/ours, baseline=1/theirs, ratio=theirs/ours, goal=15, reached=theirs/ours >= 15)
        code = f'''import time; t = time.perf_counter()
from retina_nb.deploy import Grader
Grader({str(int8)!r})({str(first[0])!r}); print(time.perf_counter() - t, next(int(o.split()[1])/1024 for o in open("/proc/self/status") if o.startswith("VmHWM")))'''
        runs = [[float(o) for o in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()] for _ in range(repeats)]
        for what,values,unit,goal in zip(('import and first grade, cold process', 'peak memory of that process'), zip(*runs), ('s','MB'), (1,250)):
            yield dict(what=what, unit=unit, ours=float(np.median(values)), goal=goal, reached=float(np.median(values)) <= goal)

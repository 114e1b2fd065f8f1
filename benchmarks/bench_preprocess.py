"Raw photographs to the model's input: 24 of IDRiD (4288 x 2848) and ten of EyePACS, found through RETINA_NB_DATA (without it 8 drawn eyes of the same size), against what people write with OpenCV, Pillow and plain fastai. Processor time of one process, so that a shared machine measures what an idle one does; the row that says so goes by the clock."
import os, shutil, subprocess, sys, tempfile, time, warnings
from functools import partial
from pathlib import Path
from statistics import median

import cv2, numpy as np
from PIL import Image

from retina_nb.data.records import load_records
from retina_nb.image.preprocess import Preprocess
from retina_nb.image.contrast import ben_graham
from retina_nb.image.field import resize
import timing

cv2.setNumThreads(1)
SIZE = 512

compare, seconds = (partial(f, clock=time.process_time) for f in (timing.compare, timing.seconds))

# ---- what people write

def common_recipe(src, dst, tol=7, contrast=False, how=cv2.INTER_LINEAR):
    "Full decode, crop where the grey level is above `tol`, resize, write: the usual recipe, without its detours"
    a = cv2.imread(str(src))
    x, y, w, h = cv2.boundingRect((cv2.cvtColor(a, cv2.COLOR_BGR2GRAY) > tol).astype(np.uint8))
    a = cv2.resize(a[y:y+h,x:x+w], (SIZE, SIZE), interpolation=how)
    if contrast: a = cv2.addWeighted(a, 4, cv2.GaussianBlur(a, (0,0), SIZE/30), -4, 128)
    cv2.imwrite(str(dst), a, [cv2.IMWRITE_JPEG_QUALITY, 95])

def kaggle_kernel(src, dst, tol=7):
    "The same as it stands in the most copied notebook (APTOS 2019, 'Eye Preprocessing in Diabetic Retinopathy')"
    img = cv2.cvtColor(cv2.imread(str(src)), cv2.COLOR_BGR2RGB)
    mask = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY) > tol
    img = np.stack([img[:,:,i][np.ix_(mask.any(1), mask.any(0))] for i in range(3)], axis=-1)
    cv2.imwrite(str(dst), cv2.cvtColor(cv2.resize(img, (SIZE, SIZE)), cv2.COLOR_RGB2BGR))

def floor(src, dst):
    "Decode scaled to the nearest size of at least 512 px with accurate DCT and upsampling, area resize, write: nothing else"
    data = np.frombuffer(Path(src).read_bytes(), np.uint8)
    w, h = Image.open(src).size
    d = max(k for k in (1, 2, 4, 8) if min(w, h)/k >= SIZE)
    a = cv2.imdecode(data, {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[d] | cv2.IMREAD_IGNORE_ORIENTATION)
    a = cv2.resize(a, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    Path(dst).write_bytes(cv2.imencode('.jpg', a, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())

# ---- ours

STRAIGHT, GRAHAM = Preprocess(size=16, via=SIZE), Preprocess(size=SIZE, contrast='ben_graham')

def ours(src, dst): Path(dst).write_bytes(STRAIGHT.to_cache(src))
def ours_graham(src, dst): Path(dst).write_bytes(cv2.imencode('.jpg', cv2.cvtColor(GRAHAM(src), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())

def over(f, files, dst): return lambda: [f(o, dst) for o in files]

# ---- the formats of a cache

def formats(files, repeats):
    "Write, read, size and error of each way to keep the squared pictures; read means to uint8 at 224 px, from files in the system's memory"
    from safetensors.numpy import safe_open, save_file
    pics, tmp = [STRAIGHT.square(f, SIZE)[0] for f in files], Path(tempfile.mkdtemp())
    def by_file(ext, enc, dec):
        def write():
            for i,a in enumerate(pics): (tmp/f'{i}.{ext}').write_bytes(enc(a))
        return write, lambda i: dec((tmp/f'{i}.{ext}').read_bytes()), lambda: sum((tmp/f'{i}.{ext}').stat().st_size for i in range(len(pics)))
    bgr = lambda a: cv2.cvtColor(a, cv2.COLOR_RGB2BGR)
    cv_dec = lambda d: cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR_RGB)
    cv_enc = lambda ext, *how: lambda a: cv2.imencode(ext, bgr(a), list(how))[1].tobytes()
    def raw_write():
        m = np.lib.format.open_memmap(tmp/'a.npy', 'w+', np.uint8, (len(pics), SIZE, SIZE, 3))
        for i,a in enumerate(pics): m[i] = a
        m.flush()
    def st_write(): save_file({str(i): a for i,a in enumerate(pics)}, tmp/'a.safetensors')
    def st_read(i):
        with safe_open(tmp/'a.safetensors', 'numpy') as f: return f.get_tensor(str(i))
    ways = {'JPEG 95': by_file('jpg', STRAIGHT.encode, cv_dec), 'JPEG 95, colour halved': by_file('h.jpg', cv_enc('.jpg', cv2.IMWRITE_JPEG_QUALITY, 95), cv_dec),
            'WebP 95': by_file('webp', cv_enc('.webp', cv2.IMWRITE_WEBP_QUALITY, 95), cv_dec), 'WebP lossless': by_file('l.webp', cv_enc('.webp', cv2.IMWRITE_WEBP_QUALITY, 101), cv_dec),
            'PNG': by_file('png', cv_enc('.png'), cv_dec), 'uint8, memory-mapped': (raw_write, lambda i: np.load(tmp/'a.npy', mmap_mode='r')[i], (tmp/'a.npy').stat),
            'safetensors': (st_write, st_read, (tmp/'a.safetensors').stat)}
    for name,(write, read, size) in ways.items():
        w = min(seconds(write) for _ in range(2))/len(pics)
        r = median(seconds(lambda: [resize(np.asarray(read(i)), 224) for i in range(len(pics))])/len(pics) for _ in range(repeats))
        n = size() if not hasattr(size(), 'st_size') else size().st_size
        d = [np.abs(np.asarray(read(i)).astype(int) - a) for i,a in enumerate(pics)]
        yield dict(what=f'format {name}: read to 224 px', ours=1/r, unit='images/s', format=dict(format=name, kb=round(n/len(pics)/1024, 1), write_ms=round(w*1e3, 2), read_ms=round(r*1e3, 2),
                   mean_error=round(float(np.mean(d)), 3), max_error=int(max(o.max() for o in d))))
    shutil.rmtree(tmp)

# ---- processes

def processes(files, tmp, repeats):
    "One worker process against two: by the clock, which needs two idle cores, and by the processor time that each photograph takes, which does not"
    import queue, threading
    import psutil
    from retina_nb.data.pool import _drive, _shared, _worker
    links = [(str(f), f'images/{k}-{f.name}', '') for k in range(4) for f in files]
    def rate(n):
        left, done = _shared(links), queue.SimpleQueue()
        procs = [_worker('retina_nb.data.cache:_caching', [STRAIGHT.to_dict(), str(tmp/f'p{n}')]) for _ in range(n)]
        used = lambda: sum(sum(psutil.Process(p.pid).cpu_times()[:2]) for p in procs)
        for p in procs: threading.Thread(target=_drive, args=(p, left, done), daemon=True).start()
        first, last = len(links)//6, len(links) - len(links)//12 # the first answers wait for interpreters to start, the last for the slowest
        for i in range(last):
            done.get()
            if i == first: t, c = time.perf_counter(), used()
        out = (last-first-1)/(time.perf_counter()-t), (last-first-1)/(used()-c)
        for p in procs: p.kill(); p.wait()
        return out
    pairs = [(rate(1), rate(2)) for _ in range(repeats)]
    for k, what in enumerate(('by the clock', 'by processor time')):
        a, b = [x[k] for x,_ in pairs], [(1, 2)[k]*y[k] for _,y in pairs]
        ratios = [y/x for x,y in zip(a, b)]
        yield dict(what=f'two processes against one, {what}', ours=median(b), baseline=median(a), unit='images/s', ratio=median(ratios), ratio_range=[min(ratios), max(ratios)],
                   goal=1.8, reached=median(ratios) >= 1.8, cores=os.cpu_count(), load=round(os.getloadavg()[0], 1))

MEMORY = '''
import sys, json, resource
from pathlib import Path
from retina_nb.data.cache import _work
from retina_nb.image.preprocess import Preprocess
pre, files = Preprocess(size=16, via=512), sys.argv[3:]
for i in range(int(sys.argv[2])): _work(pre, sys.argv[1], files[i % len(files)], f'images/{i}.jpg', '')
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
'''

def memory(files, tmp):
    "The most memory that a worker ever holds, after few and after many photographs"
    few, many = (float(subprocess.run([sys.executable, '-c', MEMORY, tmp/'m', str(n), *map(str, files)], capture_output=True, text=True, check=True).stdout) for n in (12, 120))
    return dict(what='memory of a worker after 120 photographs, against after 12', ours=many, baseline=few, unit='MB', ratio=many/few, goal=1024, reached=many < 1024 and many < 1.1*few)

# ---- an epoch

def epochs(files, tmp, repeats, n=48):
    "One epoch at 224 px with augmentation: from a cache made before, against plain fastai on the raw photographs"
    import pandas as pd, torch
    warnings.filterwarnings('ignore')
    sys.modules.setdefault('tables', None) # fastai looks for PyTables, and would take a script of this folder for it
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms
    from retina_nb.data.cache import cache_fields, cache_records
    from retina_nb.train.loader import loaders
    torch.set_num_threads(1)
    df = pd.DataFrame(dict(image=[str(f) for f in files], label=[i % 5 for i in range(len(files))]))
    df = pd.concat([df]*-(-n//len(df)), ignore_index=True)[:n]
    few = df.drop_duplicates('image').assign(patient=lambda d: d.image, eye='', split='train', source='')
    cache_records(few, tmp/'epoch', size=SIZE, workers=1, progress=False)
    made = load_records(tmp/'epoch', warn=False)
    table = made.iloc[[list(few.image).index(o) for o in df.image]].reset_index(drop=True)
    table = pd.concat([table.assign(split='train'), table[:2].assign(split='valid')], ignore_index=True)
    pre = Preprocess(size=224, **cache_fields(made))
    def through(dl):
        for batch in dl: last = batch[0]
        return last
    plain = ImageDataLoaders.from_df(df, path='/', fn_col='image', label_col='label', valid_pct=0, bs=16, item_tfms=Resize(224), batch_tfms=aug_transforms(), num_workers=0, device='cpu')
    first = lambda: through(loaders(table, pre, bs=16, workers=1, progress=False, device='cpu').train)
    held = loaders(table, pre, bs=16, workers=1, progress=False, device='cpu').train
    slow = [seconds(lambda: through(plain.train)) for _ in range(max(1, repeats//2))]
    for what, f in (('first epoch at 224 px from a cache, preparation included', first), ('every later epoch', lambda: through(held))):
        f(); a = [seconds(f) for _ in range(repeats)]
        ratios = [median(slow)/x for x in a]
        yield dict(what=f'{what}, against fastai on raw photographs', ours=n/median(a), baseline=n/median(slow), unit='images/s', ratio=median(ratios), ratio_range=[min(ratios), max(ratios)], goal=15,
                   reached=median(ratios) >= 15, seconds_ours=a, seconds_baseline=slow)

def on_device(files, tmp, repeats, device='cuda', bs=256, steps=40):
    "Training steps of a ResNet-18 in half precision: fed from the cache, augmentation included, against one batch held on the device; by the clock"
    import pandas as pd, torch
    from torchvision.models import resnet18
    from retina_nb.data.cache import cache_fields, cache_records
    from retina_nb.train.loader import loaders
    if device == 'cuda' and not torch.cuda.is_available(): return
    few = pd.DataFrame(dict(image=[str(f) for f in files], label=[i % 5 for i in range(len(files))]))
    few = few.assign(patient=few.image, eye='', split='train', source='')
    cache_records(few, tmp/'device', size=SIZE, progress=False)
    made = load_records(tmp/'device', warn=False)
    table = pd.concat([*[made.assign(split='train')]*-(-bs*steps//len(made)), made[:2].assign(split='valid')], ignore_index=True)
    dl = loaders(table, Preprocess(size=224, **cache_fields(made)), bs=bs, progress=False, device=device, num_workers=min(4, os.cpu_count()-1)).train
    net = resnet18(num_classes=5).to(device, memory_format=torch.channels_last)
    opt, wait = torch.optim.SGD(net.parameters(), 1e-3), torch.cuda.synchronize if device == 'cuda' else lambda: None
    def step(x, y):
        with torch.autocast(device, torch.bfloat16): loss = torch.nn.functional.cross_entropy(net(x.as_subclass(torch.Tensor)), y.as_subclass(torch.Tensor))
        opt.zero_grad(); loss.backward(); opt.step()
    x, y = dl.one_batch()
    def fed():
        for b in dl: step(*b)
        wait()
    def held():
        for _ in range(len(dl)): step(x, y)
        wait()
    fed(); held()
    pairs = [(timing.seconds(fed), timing.seconds(held)) for _ in range(repeats)]
    n, ratios = len(dl)*bs, [b/a for a,b in pairs]
    yield dict(what='training from the cache against one batch held on the device, by the clock', ours=n/median(a for a,_ in pairs), baseline=n/median(b for _,b in pairs), unit='images/s', ratio=median(ratios),
               ratio_range=[min(ratios), max(ratios)], goal=.9, reached=median(ratios) >= .9, device=torch.cuda.get_device_name() if device == 'cuda' else device)

# ----

def drawn(tmp):
    "Eight drawn eyes as large as IDRiD's photographs, where those are not at hand"
    from retina_nb.synth.render import synth_eye
    for i in range(8):
        a = cv2.resize(synth_eye(i, size=712).image, (4288, 2848), interpolation=cv2.INTER_CUBIC)
        a = cv2.add(a, np.random.default_rng(i).integers(0, 6, a.shape, dtype=np.uint8))
        cv2.imwrite(str(tmp/f'{i}.jpg'), cv2.cvtColor(a, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    return sorted(tmp.glob('*.jpg'))

def bench(quick):
    tmp = Path(tempfile.mkdtemp()); dst = tmp/'out.jpg'; (tmp/'drawn').mkdir()
    data = os.environ.get('RETINA_NB_DATA')
    idrid = sorted(Path(data).glob('idrid-fullsize/*.jpg')) if data else drawn(tmp/'drawn')
    kaggle = sorted(Path(data).glob('eyepacs-sample/train/*')) if data else []
    if quick: idrid, kaggle = idrid[:6], kaggle[:4]
    n, name = 3 if quick else 5, 'IDRiD' if data else 'drawn eyes'
    try:
        say = f'{name}: to {SIZE} px and written, against'
        yield compare(f'{say} the common recipe', over(ours, idrid, dst), over(common_recipe, idrid, dst), len(idrid), 'images/s', 5, n)
        area = lambda a, b: common_recipe(a, b, how=cv2.INTER_AREA)
        yield compare(f'{say} the same with area averaging', over(ours, idrid, dst), over(area, idrid, dst), len(idrid), 'images/s', 5, n)
        yield compare(f'{say} the recipe as in the most copied notebook', over(ours, idrid, dst), over(kaggle_kernel, idrid, dst), len(idrid), 'images/s', 5, 3)
        recipe = lambda a, b: common_recipe(a, b, contrast=True)
        yield compare(f'{name}: the same with Ben Graham contrast, against the common recipe', over(ours_graham, idrid, dst), over(recipe, idrid, dst), len(idrid), 'images/s', 5, n)
        square = [GRAHAM.square(f)[0] for f in idrid[:8]]
        yield compare(f'Ben Graham contrast alone at {SIZE} px, against a full Gaussian', lambda: [ben_graham(a) for a in square],
                      lambda: [cv2.addWeighted(a, 4, cv2.GaussianBlur(a, (0,0), SIZE/30), -4, 128) for a in square], len(square), 'images/s', 5, n)
        yield compare(f'{name}: the floor itself against the common recipe', over(floor, idrid, dst), over(common_recipe, idrid, dst), len(idrid), 'images/s', None, n)
        for k, files in ((name, idrid), ('EyePACS', kaggle)):
            if files: yield compare(f'{k}: to {SIZE} px, against the floor', over(ours, files, dst), over(floor, files, dst), len(files), 'images/s', .75, n)
        yield from processes(idrid, tmp, 2 if quick else 5)
        yield memory(idrid[:4] + kaggle[:4], tmp)
        yield from epochs(idrid[:24], tmp, 2 if quick else 5, n=32 if quick else 48)
        yield from on_device(idrid, tmp, 3)
        yield from formats(idrid + kaggle, n)
    finally: shutil.rmtree(tmp, ignore_errors=True)

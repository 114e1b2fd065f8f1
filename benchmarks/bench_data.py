"Reading, checking and splitting datasets. With RETINA_NB_DATA: 35,126 Kaggle label rows, and IDRiD audited (decode, SHA-256, perceptual hash, quality) against a plain loop that only decodes with Pillow"
import contextlib, os, tempfile, time, warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2, numpy as np
from PIL import Image

from retina_nb.data.checks import check_records
from retina_nb.data.records import load_records
from retina_nb.explore.cameras import examine_images
from retina_nb.image.hashes import near_duplicates
from retina_nb.data.split import split_records
from timing import compare, seconds

def labels_only(folder, n):
    "n Kaggle label rows without images"
    rng = np.random.default_rng(0)
    rows = [f'{i//2}_{"left" if i % 2 == 0 else "right"},{g}' for i,g in enumerate(rng.choice(5, n, p=[.735, .07, .15, .025, .02]))]
    (Path(folder)/'trainLabels.csv').write_text('image,level\n' + '\n'.join(rows) + '\n')
    return folder

def validate(folder): return check_records(load_records(folder, warn=False), images=False)

def decode(path):
    with Image.open(path) as im: im.convert('RGB')

def pillow(paths):
    for p in paths: decode(p)

def audit(records, workers=None): return check_records(records, scan=examine_images(records, workers=workers, progress=False))

@contextlib.contextmanager
def cores(n):
    "Both sides on the same `n` cores"
    threads,all_of_them = cv2.getNumThreads(), os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else None
    cv2.setNumThreads(n)
    if all_of_them: os.sched_setaffinity(0, sorted(all_of_them)[:n])
    try: yield
    finally:
        cv2.setNumThreads(threads)
        if all_of_them: os.sched_setaffinity(0, all_of_them)

def like_photographs(n, words=9, agree=.35):
    "n hashes of pictures that have nothing to do with each other, but lean the same way in some bits, as photographs of eyes do"
    rng = np.random.default_rng(0)
    p = .5 + agree*rng.uniform(-1, 1, words*64)
    return np.packbits(rng.random((n, words*64)) < p, axis=1).view(np.uint64)

def bench(quick):
    warnings.simplefilter('ignore')
    real = Path(os.environ['RETINA_NB_DATA']) if os.environ.get('RETINA_NB_DATA') else None
    repeats = 1 if quick else 3
    with tempfile.TemporaryDirectory() as d:
        source = real/'eyepacs-sample' if real else labels_only(d, 35126)
        yield compare(f"35,126 label rows validated ({'Kaggle' if real else 'made up'}), goal 2 s", lambda: validate(source), items=35126, unit='rows/s', goal=35126/2, repeats=repeats)
        r = load_records(source, warn=False)
        yield compare('the same divided by patient', lambda: split_records(r), items=len(r), unit='rows/s', repeats=repeats)
    sets = dict(synthetic=load_records('synth:200'))
    if real: sets = {'IDRiD, 413 of 771 x 512': load_records(real/'idrid'), 'IDRiD, 24 of 4288 x 2848': load_records(real/'idrid-fullsize', warn=False)}
    for name,records in sets.items():
        if quick: records = records[:60]
        n = len(records)
        for k in (1, 2):
            with cores(k), ProcessPoolExecutor(k) as pool:
                base = (lambda: pillow(records.image)) if k == 1 else lambda: list(pool.map(decode, records.image, chunksize=16))
                how = 'one core, time of the processor' if k == 1 else 'two cores, time on the clock (ours in threads, Pillow in processes)'
                yield compare(f'{name}: full audit against decoding with Pillow; {how}', lambda: audit(records, k), base, items=n, unit='images/s', goal=.8 if k == 1 else None,
                              repeats=repeats if n < 100 or quick else 9, clock=time.process_time if k == 1 else time.perf_counter)
    hashes = like_photographs(3500 if quick else 35126)
    yield compare(f'near duplicates sought among {len(hashes):,} hashes', lambda: near_duplicates(hashes), items=len(hashes), unit='images/s', repeats=repeats)
    few,many = load_records('synth:200'), load_records('synth:2000') if not quick else load_records('synth:400')
    audit(few)
    a,b = (min(seconds(lambda: audit(r, 1), time.process_time) for _ in range(3))/len(r) for r in (few, many))
    yield dict(what=f'cost per image of {len(many):,} images, in units of that of {len(few):,}', ours=b/a, unit='times', goal=1.25, reached=b/a <= 1.25)

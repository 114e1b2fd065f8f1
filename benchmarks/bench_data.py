"Reading, checking and splitting datasets. With RETINA_NB_DATA: 35,126 Kaggle label rows, and IDRiD audited (decode, SHA-256, perceptual hash, quality) against a plain loop that only decodes with Pillow"
import os, tempfile, warnings
from pathlib import Path

import numpy as np
from PIL import Image

from retina_nb.data import check_records, load_records
from retina_nb.explore import examine
from retina_nb.split import split_records
from timing import compare, seconds

def labels_only(folder, n):
    "n Kaggle label rows without images"
    rng = np.random.default_rng(0)
    rows = [f'{i//2}_{"left" if i % 2 == 0 else "right"},{g}' for i,g in enumerate(rng.choice(5, n, p=[.735, .07, .15, .025, .02]))]
    (Path(folder)/'trainLabels.csv').write_text('image,level\n' + '\n'.join(rows) + '\n')
    return folder

def validate(folder): return check_records(load_records(folder, warn=False), images=False)

def pillow(paths):
    for p in paths:
        with Image.open(p) as im: im.convert('RGB')

def audit(records): return check_records(records, scan=examine(records, progress=False))

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
        yield compare(f'{name}: full audit against decoding with Pillow', lambda: audit(records), lambda: pillow(records.image), items=len(records), unit='images/s', goal=.8, repeats=repeats)
    few,many = load_records('synth:200'), load_records('synth:2000') if not quick else load_records('synth:400')
    audit(few)
    a,b = seconds(lambda: audit(few))/len(few), seconds(lambda: audit(many))/len(many)
    yield dict(what=f'cost per image of {len(many):,} images, in units of that of {len(few):,}', ours=b/a, unit='times', goal=1.25, reached=b/a <= 1.25)

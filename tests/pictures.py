"Small data sets for tests: pictures with content of their own, and IDRiD's folders"
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from retina_nb.data import load_records

def picture(path, seed=None, size=(72, 64)):
    "A small image with content of its own"
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(hash(str(path))) % 2**32 if seed is None else seed)
    a = np.kron(rng.integers(30, 220, (8, 9, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(a).resize(size).save(path)
    return path

def load(path, task='dr', **kw): return load_records(path, task, warn=False, **kw)
def labels(r): return [None if pd.isna(l) else int(l) for l in r.label]
def whats(r): return [p['what'] for p in r.attrs['problems']]

IDRID = 'Image name,Retinopathy grade,Risk of macular edema ,,,\r\n'

def idrid(root, parts=('Training', 'Testing'), images=('Training', 'Testing')):
    for i,part in enumerate(('Training', 'Testing')):
        letter = 'ab'[i]
        if part in images:
            for n in (1, 2): picture(root/'1. Original Images'/f'{letter}. {part} Set'/f'IDRiD_{n:03}.jpg')
        if part in parts:
            f = root/'2. Groundtruths'/f'{letter}. IDRiD_Disease Grading_{part} Labels.csv'
            f.parent.mkdir(parents=True, exist_ok=True)
            f.write_text(IDRID + f'IDRiD_001,{i+1},2,,,\r\nIDRiD_002,{i+3},0,,,\r\n')
    return root

"The quality of real OCT scans: how many are called poor, what planted faults are found; run by hand, `python benchmarks/quality_oct.py`."
import argparse, json, os, sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np, pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from retina_nb.data import load_records
from retina_nb.image import SCAN_LIMITS, read_image, scan_quality, ungradable

def faults():
    "The faults as the notebook plants them, whose cells are run here"
    book = json.loads((Path(__file__).parent.parent/'nbs/image/32_scan_quality.ipynb').read_text())
    cells = [''.join(c['source']) for c in book['cells'] if c['cell_type'] == 'code']
    names = {}
    exec('import cv2, numpy as np\nfrom retina_nb.image import fill_borders, white_borders', names)
    for start in ('def spoil', 'def moved', 'faults ='):
        code = next(c for c in cells if c.startswith(start))
        exec(code.partition('examples =')[0], names)
    return names['faults']

def beyond(table, limits):
    "Which scans are beyond a limit: those of good small figures above it, the others below"
    return pd.DataFrame({k: table[k] > v if SCAN_LIMITS[k].power < 0 else table[k] < v for k,v in limits.items()}).any(axis=1)

def folds(table, patients, n=5):
    "Fraction called poor in each fold, at the limits that the others set: the half percentile of each measure"
    fold, out = pd.factorize(patients)[0] % n, []
    for i in range(n):
        rest = table[fold != i]
        limits = {k: rest[k].quantile(.995 if l.power < 0 else .005) for k,l in SCAN_LIMITS.items()}
        out.append(float(beyond(table[fold == i], limits).mean()))
    return out

if __name__ == '__main__':
    ap = argparse.ArgumentParser(); ap.add_argument('--out', default=str(Path(__file__).parent/'results'/'quality_oct.json')); a = ap.parse_args()
    records = load_records(Path(os.environ['RETINA_NB_DATA'])/'oct2017', task='oct', warn=False)
    with ThreadPoolExecutor(1) as pool: qs = list(pool.map(scan_quality, records.image))
    table, poor = pd.DataFrame([q.measures for q in qs]), [q for q in qs if not q.ok]
    refused = [bool(ungradable(f, 'oct', quality=q)) for f,q in zip(records.image, qs)]
    some = [read_image(f) for f in records.image[::4]]
    planted = [dict(fault=name, strength=k, found=float(np.mean([not scan_quality(f(x.copy(), k)).ok for x in some])))
               for name,(f, ks) in faults().items() for k in ks]
    found = dict(scans=len(records), patients=int(records.patient.nunique()), poor=len(poor)/len(qs), refused=float(np.mean(refused)),
        reasons=dict(Counter(r for q in poor for r in q.reasons).most_common()), limits={k: l.at for k,l in SCAN_LIMITS.items()},
        percentiles={k: [round(float(v), 3) for v in table[k].quantile([0, .005, .05, .5, .95, .995, 1])] for k in SCAN_LIMITS},
        folds_poor=folds(table, records.patient), planted_on=len(some), faults=planted)
    Path(a.out).write_text(json.dumps(found, indent=1) + '\n')
    print(json.dumps({k: v for k,v in found.items() if k != 'faults'}, indent=1)); print(pd.DataFrame(planted).to_string())
    order = np.argsort([q.score for q in qs])[:24]
    for i in order: print(records.image[i].rsplit('/', 1)[1], qs[i], 'REFUSED' if refused[i] else '')

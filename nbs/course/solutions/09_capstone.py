# Solutions of lesson 9. Each part replaces the cell of its exercise; none of them asks the key.

# %% 9.1
# Names differ, pictures do not: the audit compares the pictures, and the records say whose they are.
from retina_nb.data import audit_splits

leaks = audit_splits(records)
by_image = records.set_index('image')
pair = [f for r in leaks.itertuples() for f in (r.file, r.other)]
leak = sorted({by_image.patient[f] for f in pair if by_image.split[f] == 'test'})
check('9.1', leak, data=data)

# %% 9.2
# The network errs alike on all machines, so the machine whose labels stand apart from it is the one.
off = (records.label - graded.grade).groupby(records.machine_id).mean()
machine = (off - off.median()).abs().idxmax()
check('9.2', machine, data=data)

# %% 9.3
# One frame for all, and only what is small: broad light and colour are taken off.
import cv2, numpy as np
from retina_nb.image import Preprocess

pre = Preprocess(size=160)
pictures = np.stack([pre(f) for f in records.image]).astype(np.float32)
fine = pictures - np.stack([cv2.GaussianBlur(a, (0, 0), 8) for a in pictures])
ill = (records.label >= 2).to_numpy()

def gap(split):
    "Mean of the referable less mean of the others, in a split"
    here = (records.split == split).to_numpy()
    return fine[here & ill].mean(axis=0) - fine[here & ~ill].mean(axis=0)

# Lesions are in both gaps and cancel; the sign is in one, at one place.
only_train = gap('train') - gap('test')
where = cv2.GaussianBlur(np.linalg.norm(only_train, axis=2), (0, 0), 2)
y, x = np.unravel_index(where.argmax(), where.shape)
here = slice(max(0, y-10), y+11), slice(max(0, x-10), x+11)
# How much of it has each photograph? Two heaps, parted where Otsu's method parts them.
score = (fine[:, here[0], here[1]]*only_train[here]).sum(axis=(1, 2, 3))
grey = cv2.normalize(score, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
limit, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
signs = list(records.image[grey.ravel() > limit])
check('9.3', signs, data=data)

# %% 9.4
# Machines that cut a little keep nine tenths of the field; the batch lies far below.
crop = list(seen.image[seen.coverage < .7])
check('9.4', crop, data=data)

# %% 9.5
# Every machine, measure and day: before against after, in units of the spread. Logarithms, as light is a factor.
import numpy as np

best = (0, '', '')
for name, rows in seen[~seen.image.isin(crop)].groupby('machine_id'):
    for measure in ('brightness', 'sharpness'):
        value = np.log(rows[measure])
        for day in sorted(rows.taken.unique()):
            a, b = value[rows.taken < day], value[rows.taken >= day]
            if min(len(a), len(b)) < 8: continue
            apart = abs(a.mean() - b.mean())/np.sqrt(a.var()/len(a) + b.var()/len(b))
            best = max(best, (apart, name, day))
drift = best[1:]
check('9.5', drift, data=data)

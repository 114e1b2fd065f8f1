"Array files that are damaged, pickled, too short or none at all: one line that names the file"
import io, pickle, zipfile

import numpy as np
import pytest

from pictures import load
from retina_nb.core import DataError

IMAGES,LABELS = np.arange(6*28*28*3, dtype=np.uint8).reshape(6, 28, 28, 3), np.arange(6, dtype=np.uint8)[:,None] % 5

def whole(f, images=IMAGES, labels=LABELS): np.savez(f, train_images=images, train_labels=labels)
def flip(f):
    whole(f); raw = bytearray(f.read_bytes()); at = raw.index(IMAGES.tobytes()[:64]) + 30; raw[at] ^= 1; f.write_bytes(raw)
def cut(f): whole(f); f.write_bytes(f.read_bytes()[:3000])
def members(**kw):
    def write(f):
        with zipfile.ZipFile(f, 'w') as z:
            for name,data in kw.items(): z.writestr(name + '.npy', data)
    return write
def npy(a): out = io.BytesIO(); np.save(out, a); return out.getvalue()
HUGE = npy(np.zeros((9, 8, 8), np.uint8)).replace(b"(9, 8, 8)", b"(9999999, 8, 8)".ljust(9))

BAD = {'objects among the labels': (lambda f: whole(f, labels=np.array([0, 'a', None, 1, 2, 3], object)), 'Python objects'),
       'objects for images': (lambda f: whole(f, images=np.array([None]*6, object)), 'Python objects'),
       'too few labels': (lambda f: whole(f, labels=LABELS[:4]), r'6 images of split train have labels of shape \(4, 1\)'),
       'labels of two columns': (lambda f: whole(f, labels=np.zeros((6, 2))), 'one each is needed'),
       'a flipped byte': (flip, 'Bad CRC-32'), 'cut short': (cut, 'no .npz archive, or was cut short'), 'empty': (lambda f: f.write_bytes(b''), 'is empty'),
       'text': (lambda f: f.write_text('hello'), 'is no .npz archive'), 'a pickle': (lambda f: f.write_bytes(pickle.dumps([1])), 'is a Python pickle, which could run code'),
       'no images': (lambda f: whole(f, images=np.zeros(6)), 'holds no images'), 'other arrays': (lambda f: np.savez(f, x=np.zeros(3)), 'has no part with both'),
       'no header': (members(train_images=b'\x93NUMPY\x01\x00v\x00{', train_labels=npy(LABELS)), 'header'),
       'a header that lies': (members(train_images=HUGE.replace(b"{'descr'", b"{'descr'"), train_labels=npy(LABELS)), 'cut short|header|shape')}

@pytest.mark.parametrize('how', BAD)
@pytest.mark.parametrize('as_folder', [False, True])
def test_a_bad_archive_is_one_line(tmp_path, how, as_folder):
    f = tmp_path/'retinamnist.npz'
    write,says = BAD[how]; write(f)
    with pytest.raises(DataError, match=says) as e: load(tmp_path if as_folder else f)
    assert 'retinamnist.npz' in str(e.value) and '\n' not in str(e.value)

def test_a_good_one(tmp_path):
    whole(tmp_path/'retinamnist.npz')
    r = load(tmp_path/'retinamnist.npz')
    assert r.label.tolist() == [0, 1, 2, 3, 4, 0] and not r.attrs['problems']

"A file that anybody may send must not stop the machine: pipes and devices, bombs, budgets."
import io, os, socket, struct, subprocess, sys, time, zipfile, zlib
from pathlib import Path

import numpy as np, pytest
from PIL import Image

from retina_nb.core import ImageError
from retina_nb.image import Preprocess, cache_note, decode_jpeg, image_size, is_dicom, is_image_file, npz_array, read_image, sha256
from retina_nb.image.pixels import BUDGET, MAX_PIXELS

posix = pytest.mark.skipif(os.name == 'nt', reason='pipes and devices of POSIX')

def smooth(h=48, w=64):
    y,x = np.mgrid[:h,:w]
    return np.dstack([x*200//w+20, y*200//h+10, 200-(x+y)*150//(w+h)]).astype(np.uint8)

def encoded(fmt, a=None, mode='RGB', **kw):
    buf = io.BytesIO(); Image.fromarray(smooth() if a is None else a).convert(mode).save(buf, fmt, **kw)
    return buf.getvalue()

@posix
def test_only_regular_files(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path); os.mkfifo('pipe.jpg'); Path('folder.png').mkdir(); Path('null.jpg').symlink_to('/dev/null'); Path('to.dcm').symlink_to('pipe.jpg')
    s = socket.socket(socket.AF_UNIX); s.bind('socket.jpg'); t = time.process_time()
    odd = {'pipe.jpg': 'a pipe', 'folder.png': 'a folder', 'null.jpg': 'a device', 'to.dcm': 'a pipe', 'socket.jpg': 'a socket', '/dev/zero': 'a device', '/dev/random': 'a device', '/dev/stdin': 'is '}
    for path, what in odd.items():
        for f in (read_image, image_size, sha256, Preprocess(size=32), lambda p: read_image(Path(p))):
            with pytest.raises(ImageError, match=what) as e: f(path)
            assert path in str(e.value)
        assert not is_dicom(path) and cache_note(path) is None and not is_image_file(path.removesuffix('.jpg') + '.x')
        with pytest.raises(ImageError): read_image(f'{path}/m.npz::train/0')
    os.mkfifo('m.npz')
    with pytest.raises(ImageError, match='a pipe'): read_image('m.npz::train/0')
    for path in ('/proc/kcore', '/proc/cpuinfo', '/proc/self/environ', '/proc/kmsg'):
        if os.path.exists(path):
            with pytest.raises(ImageError): read_image(path)
    s.close(); out = capfd.readouterr()
    assert time.process_time() - t < 5 and not out.out and not out.err

def test_too_large_a_file_is_not_read(tmp_path):
    with open(tmp_path/'big.jpg', 'wb') as f: f.truncate(2**40) # of holes
    t = time.process_time()
    with pytest.raises(ImageError, match='limit is 512 MB'): read_image(tmp_path/'big.jpg')
    assert time.process_time() - t < 5

KINDS = [('JPEG', 'RGB', {}), ('JPEG', 'L', dict(progressive=True)), ('PNG', 'RGB', {}), ('PNG', 'P', {}), ('TIFF', 'RGB', {}), ('TIFF', 'L', dict(compression='tiff_lzw')), ('BMP', 'RGB', {}), ('GIF', 'P', {}),
         ('WEBP', 'RGB', {}), ('PPM', 'RGB', {}), ('JPEG2000', 'RGB', {}), ('AVIF', 'RGB', {})]

@pytest.mark.parametrize('fmt,mode,kw', KINDS)
def test_pixels_are_counted_before_they_are_decoded(fmt, mode, kw, monkeypatch):
    if fmt == 'AVIF' and 'AVIF' not in Image.SAVE: Image.init()
    if fmt not in Image.SAVE: pytest.skip('this Pillow has none')
    data = encoded(fmt, mode=mode, **kw); assert read_image(data).shape == (48, 64, 3)
    def never(*a, **k): raise AssertionError('decoded')
    for name in ('_load', '_load_jpeg'): monkeypatch.setattr(f'retina_nb.image.read.{name}', never)
    with pytest.raises(ImageError, match='64 x 48 pixels; the limit is 3,000'): read_image(data, max_pixels=3000)

def png(w, h, depth=8, kind=2):
    chunk = lambda k, d: struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k+d))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, kind, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(b'\0'*99)) + chunk(b'IEND', b'')

@pytest.mark.parametrize('w,h', [(10864, 10864), (8001, 8001), (64_000_001//16, 17), (2**31-1, 2**31-1), (50_000, 50_000), (10**8, 16)])
def test_the_limit_fits_the_purpose(w, h):
    for depth, kind in ((8, 2), (16, 6)):
        t = time.process_time()
        with pytest.raises(ImageError, match='limit|too large|damaged'): read_image(png(w, h, depth, kind))
        assert time.process_time() - t < 5
    assert 50e6 < MAX_PIXELS < 80e6 # the largest sensor, and not much more

def test_pages_and_text_without_end():
    frames = [Image.fromarray(smooth(20, 20)) for _ in range(400)]; buf = io.BytesIO(); frames[0].save(buf, 'TIFF', save_all=True, append_images=frames[1:])
    t = time.process_time(); assert read_image(buf.getvalue()).shape == (20, 20, 3) and time.process_time() - t < 5
    with pytest.raises(ImageError, match='as text'): read_image(b'P3 4000 4000 255 ' + b'1 '*10_000_000)

def test_jpeg_2000_at_a_part_of_its_size():
    data = encoded('JPEG2000', smooth(400, 600))
    assert read_image(data).shape == (400, 600, 3) and read_image(data, 100).shape == (100, 150, 3) and read_image(data, 101).shape == (200, 300, 3)
    assert np.abs(read_image(data, 100).astype(int) - smooth(400, 600).reshape(100, 4, 150, 4, 3).mean(axis=(1,3))).mean() < 3

def test_scans_without_end():
    data = encoded('JPEG', smooth(), progressive=True); i = data.rfind(b'\xff\xda'); scan = data[i:-2]
    t = time.process_time()
    with pytest.raises(ImageError, match='scans'): read_image(data[:-2] + scan*5000 + b'\xff\xd9')
    assert time.process_time() - t < 5

# ---- JPEG that lost a part

RNG = np.random.default_rng(0)
BUSY = np.clip(smooth(200, 300) + RNG.normal(0, 25, (200, 300, 3)), 0, 255).astype(np.uint8)

@pytest.mark.parametrize('kw', [dict(), dict(progressive=True), dict(subsampling=0, progressive=True), dict(restart_marker_rows=1), dict(optimize=True)])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_missing_picture_is_named(mode, kw, capfd):
    if mode != 'RGB': kw = {k: v for k,v in kw.items() if k != 'subsampling'}
    whole = encoded('JPEG', BUSY, mode, quality=90, **kw)
    assert read_image(whole).shape == (200, 300, 3)
    for share in (.3, .6, .9, .97):
        n = int(len(whole)*share); cut = whole[:n]
        for bad in (cut, cut + b'\xff\xd9', cut + bytes(len(whole)-n), cut + bytes(len(whole)-n-2) + b'\xff\xd9', cut + b'\xff'*(len(whole)-n), cut + b'\0\0\xff\xd9' + b'camera'):
            for side in (None, 64):
                with pytest.raises(ImageError, match='13_left.jpg: is damaged'): read_image(bad, side, name='13_left.jpg')
    out = capfd.readouterr(); assert not out.out and not out.err

@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_progressive_cut_between_scans(mode):
    whole = encoded('JPEG', BUSY, mode, progressive=True); starts = [i for i in range(len(whole)-1) if whole[i:i+2] == b'\xff\xda']
    assert len(starts) > 3
    for i in starts[1:]:
        with pytest.raises(ImageError, match='data end early'): read_image(whole[:i] + b'\xff\xd9')

def test_harmless_doubts_are_forgiven():
    whole = encoded('JPEG', BUSY, quality=90); a = read_image(whole)
    for fine in (whole[:-2], whole[:-2] + b'\0\0\xff\xd9', whole + bytes(1000), whole + b'camera'*50, whole[:2] + b'\xff\xfe\0\x06note' + whole[2:], whole + whole):
        assert (read_image(fine) == a).all()
    exif = Image.Exif(); exif[0x010e] = 'a'; thumb = encoded('JPEG', smooth(20, 20)) # the marks of a thumbnail in a segment are no marks of the picture
    assert (read_image(whole[:2] + b'\xff\xe2' + struct.pack('>H', len(thumb)+2) + thumb + whole[2:]) == a).all()
    assert decode_jpeg(whole, 8).shape == (25, 38, 3)

# ---- archives

def archive(path, shape=(9, 28, 28), descr='|u1', body=b''):
    buf = io.BytesIO(); np.lib.format.write_array_header_1_0(buf, dict(descr=descr, fortran_order=False, shape=shape))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('train_images.npy', buf.getvalue() + body)
    return f'{path}::train/0'

@pytest.mark.parametrize('shape,descr,says', [((60_000, 250, 250, 3), '|u1', 'GB of memory'), ((2**40,), '|u1', 'GB of memory'), ((2**31, 2**31, 2**31), '<f8', 'GB of memory'), ((9, 28, 28), '|u1', 'cut short'),
                                              ((1,), '|O', 'objects'), ((9, 28), [('a', '|O'), ('b', '<i4')], 'objects'), ((-9, 28), '|u1', 'not readable')])
def test_archives_are_believed_as_far_as_they_can_hold(tmp_path, shape, descr, says):
    t = time.process_time(); ref = archive(tmp_path/'m.npz', shape, descr)
    with pytest.raises(ImageError, match='m.npz') as e: read_image(ref)
    assert says in str(e.value) and '\n' not in str(e.value) and time.process_time() - t < 5

def test_damaged_archives(tmp_path):
    f = tmp_path/'m.npz'; np.savez_compressed(f, train_images=BUSY[None].repeat(3, 0)); whole = f.read_bytes()
    for bad in (whole[:200], whole[:-30], whole[:len(whole)//2] + bytes([whole[len(whole)//2] ^ 255]) + whole[len(whole)//2+1:], b'', b'PK\3\4', b'no zip'):
        f.write_bytes(bad)
        with pytest.raises(ImageError, match='m.npz'): read_image(f'{f}::train/1')
    f.write_bytes(whole); assert (read_image(f'{f}::train/1') == BUSY).all() and (npz_array(f, 'train_images')[2] == BUSY).all()
    np.savez(f, train_images=np.arange(5))
    with pytest.raises(ImageError, match='no images'): read_image(f'{f}::train/1')

# ---- the budget

WORST = "import sys, time; from pathlib import Path; from retina_nb.image import read_image; d = Path(sys.argv[1]).read_bytes(); t = time.process_time(); assert read_image(d).size; print(time.process_time() - t, int([l for l in open('/proc/self/status') if 'VmHWM' in l][0].split()[1])/2**20)"

@pytest.mark.full
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='memory is read from /proc')
@pytest.mark.parametrize('kind', ['png16 rgba', 'png rgba', 'jp2', 'avif', 'webp', 'jpeg progressive', 'jpeg cmyk', 'tiff float', 'gif'])
def test_the_worst_at_the_limit_stay_within_the_budget(kind, tmp_path):
    import cv2
    n = int(MAX_PIXELS**.5); f = tmp_path/'worst'
    if kind == 'png16 rgba': f.write_bytes(cv2.imencode('.png', np.zeros((n, n, 4), np.uint16))[1].tobytes())
    else:
        mode = {'png rgba': 'RGBA', 'jpeg cmyk': 'CMYK', 'tiff float': 'F', 'gif': 'P'}.get(kind, 'RGB')
        kw = {'jpeg progressive': dict(progressive=True, subsampling=0), 'jpeg cmyk': dict(progressive=True), 'tiff float': dict(compression='tiff_adobe_deflate'), 'avif': dict(speed=10), 'webp': dict(method=0, quality=10)}.get(kind, {})
        Image.new(mode, (n, n)).save(f, dict(png='PNG', jp2='JPEG2000', avif='AVIF', webp='WEBP', jpeg='JPEG', tiff='TIFF', gif='GIF')[kind.split()[0]], **kw)
    assert f.stat().st_size < 5e6
    seconds, gigabytes = map(float, subprocess.run([sys.executable, '-c', WORST, str(f)], capture_output=True, text=True, check=True, timeout=300).stdout.split())
    assert seconds < BUDGET.seconds and gigabytes < BUDGET.gigabytes, (seconds, gigabytes)

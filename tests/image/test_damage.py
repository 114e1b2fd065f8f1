"Files that were cut or changed: refused by name, and no library's own line reaches the terminal."
import io, os, struct, subprocess, sys, threading, zlib

import numpy as np, pytest
from PIL import Image

from retina_nb.core import ImageError
from retina_nb.image.damage import cut_short, decoding_fault, png_damage, quiet_decoders
from retina_nb.image.read import image_size, read_image

def photo(h=200, w=300):
    "Smooth, with noise, so that no way of packing makes little of it"
    y,x = np.mgrid[:h,:w]; rng = np.random.default_rng(0)
    return (np.dstack([x/2+20, y/2+10, 200-x/4-y/4]) + rng.integers(-9, 9, (h,w,3))).clip(0,255).astype(np.uint8)

def encoded(fmt, mode='RGB', **kw):
    buf = io.BytesIO(); Image.fromarray(photo()).convert(mode).save(buf, fmt, **kw)
    return buf.getvalue()

def deep_png():
    import cv2
    return cv2.imencode('.png', photo().astype(np.uint16)*257)[1].tobytes()

def deep_tiff():
    import cv2
    return cv2.imencode('.tif', photo().astype(np.uint16)*257)[1].tobytes() # LZW

def zeroed(data, at=.5, n=400):
    i = int(len(data)*at)
    return data[:i] + bytes(n) + data[i+n:]

TIFFS = 'tiff_lzw', 'packbits', 'tiff_deflate', 'tiff_adobe_deflate', 'jpeg', 'zstd', 'raw', 'group4'
FILES = {'deep.png': deep_png, 'deep.tif': deep_tiff, **{f'{c}.tif': lambda c=c: encoded('TIFF', '1' if c == 'group4' else 'RGB', compression=c) for c in TIFFS},
         **{f'eye.{e}': lambda f=f: encoded(f) for e,f in dict(png='PNG', webp='WEBP', gif='GIF', bmp='BMP', jp2='JPEG2000', avif='AVIF', jpg='JPEG', ppm='PPM').items()},
         'grey.png': lambda: encoded('PNG', 'L'), 'lossless.webp': lambda: encoded('WEBP', lossless=True), 'cmyk.tif': lambda: encoded('TIFF', 'CMYK', compression='jpeg'),
         'grey.tif': lambda: encoded('TIFF', 'L', compression='jpeg'), 'palette.tif': lambda: encoded('TIFF', 'P', compression='packbits'), 'dots.tif': lambda: encoded('TIFF', '1', compression='packbits')}
TOLD = 'deep.png', 'deep.tif', 'eye.png', 'grey.png', 'tiff_lzw.tif', 'packbits.tif', 'tiff_deflate.tif', 'tiff_adobe_deflate.tif', 'jpeg.tif', 'cmyk.tif', 'grey.tif', 'eye.jpg', 'eye.gif'

READ = '''
import os, sys
from retina_nb.image.read import image_size, read_image
from retina_nb.core import ImageError
for f in sys.argv[1:]:
    for call in (read_image, image_size):
        try: call(f); said = 'read'
        except ImageError as e: said = str(e)
        print(os.path.basename(f), call.__name__, said, sep='\\t')
'''

def test_nothing_but_our_line(tmp_path):
    "Every format, cut at four places and with zeros at three, in a process of its own"
    for name, make in FILES.items():
        try: data = make()
        except (KeyError, OSError): continue # this Pillow lacks the format
        (tmp_path/f'whole_{name}').write_bytes(data)
        for i,n in enumerate((min(5000, len(data)//4), len(data)//3, len(data)//2, len(data)-9)): (tmp_path/f'cut{i}_{name}').write_bytes(data[:n])
        for i,at in enumerate((.2, .5, .8)): (tmp_path/f'zero{i}_{name}').write_bytes(zeroed(data, at))
    files = sorted(str(f) for f in tmp_path.iterdir())
    p = subprocess.run([sys.executable, '-W', 'always::UserWarning', '-c', READ, *files], capture_output=True, text=True)
    assert p.stderr == '' and p.returncode == 0
    rows = [o.split('\t') for o in p.stdout.splitlines()]; assert len(rows) == 2*len(files)
    read = {f for f,call,said in rows if call == 'read_image' and said == 'read'}
    refused = {f: said for f,call,said in rows if said != 'read'}
    assert all(f in said for f,said in refused.items())
    assert {f for f in read if f.startswith('cut')} <= {'cut3_eye.jpg'} # its end mark alone
    assert {os.path.basename(f) for f in files if 'whole_' in f} <= read
    for name in TOLD: assert f'zero1_{name}' in refused, name

def test_png_names_its_damage(tmp_path):
    data = encoded('PNG'); f = tmp_path/'13_left.png'
    for bad, says in ((data[:20000], 'cut short'), (data[:-9], 'cut short'), (data[:-12], 'cut short'), (zeroed(data), 'checksum'), (zeroed(data, n=1), 'checksum'),
                      (data[:33] + zeroed(data[33:], 0, 8), 'no part'), (data[:29] + b'\0\0\0\0' + data[33:], 'IHDR')):
        f.write_bytes(bad)
        with pytest.raises(ImageError, match=says) as e: read_image(f)
        assert str(e.value).startswith(str(f)) and '\n' not in str(e.value)
    for good in (data, data + b'\0'*50, data + b'camera'): assert (read_image(good) == photo()).all()

def test_a_damaged_note_costs_no_picture():
    data = encoded('PNG'); note = struct.pack('>I', 4) + b'tEXt' + b'a\0bc' + b'\0\0\0\0' # a wrong checksum
    assert png_damage(data[:-12] + note + data[-12:]) == '' and 'tRNS' in png_damage(data[:33] + note.replace(b'tEXt', b'tRNS') + data[33:])

def test_libpng_is_quiet_where_checksums_are_right(capfd):
    "A file that was written wrongly: filters that do not exist, in 16 bits"
    raw = b''.join(b'\x09' + bytes(64*6) for _ in range(48)); out = b'\x89PNG\r\n\x1a\n'
    for k,d in ((b'IHDR', struct.pack('>IIBBBBB', 64, 48, 16, 2, 0, 0, 0)), (b'IDAT', zlib.compress(raw)), (b'IEND', b'')): out += struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k+d))
    with pytest.raises(ImageError, match='damaged'): read_image(out, name='eye.png')
    assert capfd.readouterr() == ('', '')

@pytest.mark.parametrize('how', ('tiff_lzw', 'packbits', 'tiff_adobe_deflate', 'jpeg'))
@pytest.mark.parametrize('mode', ('RGB', 'L', 'CMYK', 'RGBA', '1', 'P', 'I;16', 'F'))
def test_whole_tiffs_are_read(how, mode):
    "No check refuses what is whole, whatever its rows hold; the pixels are those of the same picture without packing"
    a = Image.fromarray(photo(203, 301)); grey = np.asarray(a.convert('L'))
    im = Image.fromarray(grey.astype(np.uint16)*257) if mode == 'I;16' else Image.fromarray(grey/np.float32(255)) if mode == 'F' else a.convert(mode)
    if how == 'jpeg' and mode not in ('RGB', 'L', 'CMYK'): pytest.skip('JPEG holds no such picture')
    bufs = io.BytesIO(), io.BytesIO(); im.save(bufs[0], 'TIFF', compression=how); im.save(bufs[1], 'TIFF', compression='raw')
    got, want = (read_image(b.getvalue()).astype(int) for b in bufs)
    assert got.shape == want.shape and np.abs(got - want).mean() < (9 if how == 'jpeg' else 1e-9)

@pytest.mark.filterwarnings('error')
def test_cut_short():
    for fmt in ('TIFF', 'WEBP', 'AVIF'):
        try: data = encoded(fmt, **(dict(compression='tiff_lzw') if fmt == 'TIFF' else {}))
        except (KeyError, OSError): continue
        assert cut_short(data) == '' and '1,000 bytes of at least' in cut_short(data[:1000])
        with pytest.raises(ImageError, match='eye.x: is cut short'): read_image(data[:1000], name='eye.x')
        with pytest.raises(ImageError, match='is cut short'): image_size(data[:1000])
    assert cut_short(b'') == '' and cut_short(b'text') == ''

def test_a_pil_image_is_quiet(capfd):
    im = Image.open(io.BytesIO(zeroed(encoded('TIFF', compression='tiff_lzw'))))
    with pytest.raises(ImageError): read_image(im, name='eye.tif')
    assert capfd.readouterr() == ('', '')

# ---- what is caught and what goes on

def test_lines_of_others_go_on(capfd):
    with quiet_decoders() as said:
        os.write(2, b'WARNING: the disk is nearly full\nLZWDecode: Not enough data at scanline 3.\nlibpng error: IDAT: CRC error\n'); print('Traceback: theirs', file=sys.__stderr__, flush=True) if sys.__stderr__.fileno() == 2 else os.write(2, b'Traceback: theirs\n')
    assert said == ['LZWDecode: Not enough data at scanline 3.', 'libpng error: IDAT: CRC error']
    assert decoding_fault(said) == 'is damaged or cut short (LZWDecode: Not enough data at scanline 3.)'
    assert capfd.readouterr().err == 'WARNING: the disk is nearly full\nTraceback: theirs\n'

def test_an_error_gives_the_descriptor_back(capfd):
    before = os.fstat(2)
    with pytest.raises(OSError, match='theirs'):
        with quiet_decoders(): raise OSError('theirs')
    assert (os.fstat(2).st_ino, os.fstat(2).st_dev) == (before.st_ino, before.st_dev)
    n = len(os.listdir('/dev/fd')) if os.path.isdir('/dev/fd') else 0
    for _ in range(20):
        with quiet_decoders(): pass
    assert not n or len(os.listdir('/dev/fd')) == n # none is left open

def test_without_a_standard_error():
    code = 'import os; os.close(2)\nfrom retina_nb.image.damage import quiet_decoders\nwith quiet_decoders() as said: pass\nprint(said)'
    assert subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True).stdout == '[]\n'

def test_threads(capfd):
    bad, good = zeroed(encoded('TIFF', compression='tiff_lzw')), encoded('TIFF', compression='tiff_lzw'); got = []
    def work():
        for _ in range(10):
            try: read_image(bad)
            except ImageError as e: got.append(str(e))
            assert (read_image(good) == photo()).all()
    ts = [threading.Thread(target=work) for _ in range(4)]; [t.start() for t in ts]; [t.join() for t in ts]
    assert len(got) == 40 and all('LZWDecode' in o for o in got) and capfd.readouterr().err == ''

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_a_fork_waits():
    "A process forked while another thread decodes has a free lock and the standard error of its parent"
    code = '''
import os, threading, time
from retina_nb.image.damage import quiet_decoders
def hold():
    with quiet_decoders(): started.set(); time.sleep(.3)
started = threading.Event(); t = threading.Thread(target=hold); t.start(); started.wait()
pid = os.fork()
if pid == 0:
    with quiet_decoders(): pass
    os.write(2, b'child\\n'); os._exit(0)
print(os.waitpid(pid, 0)[1]); t.join()
'''
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert p.stdout == '0\n' and 'child' in p.stderr

def test_other_warnings_are_heard():
    code = "import warnings\nfrom retina_nb.image.read import read_image\nwarnings.warn('Corrupt EXIF data of ours')"
    assert 'of ours' in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stderr

def hostile_tiff(w, h, packing, packed, rows=1):
    "Grey, 8 bits; every strip points at the same packed bytes"
    n = -(-h//rows); at = 8 + len(packed); ifd = at + 8*n
    tags = [(256, w), (257, h), (258, 8), (259, packing), (262, 1), (273, at, n), (277, 1), (278, rows), (279, at + 4*n, n)]
    entries = b''.join(struct.pack('<HHII', t, 4, *(rest or [1]), v) for t,v,*rest in tags)
    return struct.pack('<2sHI', b'II', 42, ifd) + packed + struct.pack(f'<{n}I', *[8]*n) + struct.pack(f'<{n}I', *[len(packed)]*n) + struct.pack('<H', len(tags)) + entries + bytes(4)

BOUNDED = '''
import resource, sys
from retina_nb.core import ImageError
from retina_nb.image.read import read_image
size = int(next(o.split()[1] for o in open('/proc/self/status') if o.startswith('VmSize')))*1024
resource.setrlimit(resource.RLIMIT_AS, (size + 2**30,)*2); resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try: print(read_image(sys.argv[1]).shape)
except ImageError as e: print(e)
'''

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='bounds on memory as Linux has them')
@pytest.mark.parametrize('packing, packed', [(1, bytes(2**22)), (8, zlib.compress(bytes(2**26), 9)), (32773, b'\x80'*2**22), (7, b'\xff\xd8'*2**10)])
def test_strips_that_share_their_bytes_cost_no_more_than_the_file(tmp_path, packing, packed):
    (tmp_path/'t.tif').write_bytes(hostile_tiff(64, 4000, packing, packed))
    p = subprocess.run([sys.executable, '-c', BOUNDED, tmp_path/'t.tif'], capture_output=True, text=True)
    assert p.returncode == 0 and ('(4000, 64, 3)' in p.stdout or 't.tif: ' in p.stdout) and not p.stderr and 'memory' not in p.stdout

def test_what_is_unfolded_counted_and_decoded_has_an_end():
    from retina_nb.image.damage import _deflate_damage, _jpeg_damage, _packbits_damage
    assert _deflate_damage(zlib.compress(bytes(2**26), 9), 10**6)[1] < 3*10**6
    assert _packbits_damage(b'\x80'*10**6, 100, 1000) == ('', 1001)
    big = encoded('JPEG')
    assert _jpeg_damage(big, b'', 3, 100) == ('', 200*300) and _jpeg_damage(big, b'', 3, 10**6) == ('', 200*300) and _jpeg_damage(b'x', b'', 3, 100) == ('', 0)
    whole = zlib.compress(photo().tobytes())
    assert _deflate_damage(memoryview(whole), 10**9) == ('', photo().nbytes) and 'damaged' in _deflate_damage(whole[:-1] + bytes([whole[-1] ^ 1]), 10**9)[0]

def test_a_note_before_the_pixels_is_named_too():
    from PIL.PngImagePlugin import PngInfo
    note = PngInfo(); note.add_text('who', 'somebody')
    data = encoded('PNG', pnginfo=note)
    i = data.index(b'somebody')
    assert data.index(b'IDAT') > i
    with pytest.raises(ImageError, match='checksum of the part tEXt'): read_image(data[:i] + b'x' + data[i+1:])

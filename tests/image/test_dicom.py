"The one decoder of DICOM: every kind of file as a screen would show it, and never a traceback"
import io

import numpy as np, pydicom, pytest
from PIL import Image

from dicoms import dicom_bytes, rgb_dicom
from retina_nb.core import ImageError
from retina_nb.image.preprocess import Preprocess
from retina_nb.image.read import IMAGE_TYPES, image_size, is_image_file, read_image
from retina_nb.image.dicom import dicom_tags, is_dicom

RAMP = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (32,1))     # 12 bits, (32, 64)
PHOTO = np.dstack([np.tile(np.arange(0, 256, 4, dtype=np.uint8), (40,1)), np.full((40,64), 90, np.uint8), np.tile(np.arange(40, dtype=np.uint8)[:,None]*6, (1,64))])

def shown(a, **kw): return read_image(dicom_bytes(a, **{'bits': 12, **kw}))[0,:,0].astype(int)
def table(values, depth, first=0):
    item = pydicom.Dataset()
    item.add_new('LUTDescriptor', 'US', [len(values) % 2**16, first, depth]); item.add_new('LUTData', 'OW', np.asarray(values, '<u2').tobytes())
    return [item]

LINE = RAMP[0].astype(float)
PLAIN = LINE*255/4095
WINDOW = ((LINE - 1000 + 250)/499).clip(0, 1)*255               # centre 1000, width 500: PS3.3 C.11.2.1.2.1
SIGMOID = 255/(1 + np.exp(-4*(LINE - 1000)/500))
LOOK = {'no window: the stored bits': (PLAIN, dict()),
    'window': (WINDOW, dict(WindowCenter=1000, WindowWidth=500)),
    'two windows: the first': (WINDOW, dict(WindowCenter=[1000, 3000], WindowWidth=[500, 9])),
    'the first usable window': (WINDOW, dict(WindowCenter=[3000, 1000], WindowWidth=[0, 500])),
    'blank window': (PLAIN, dict(WindowCenter=None, WindowWidth=None)),
    'half a window': (PLAIN, dict(WindowCenter=1000)),
    'width 0': (PLAIN, dict(WindowCenter=1000, WindowWidth=0)),
    'width .5': (PLAIN, dict(WindowCenter=1000, WindowWidth='0.5')),
    'negative width': (PLAIN, dict(WindowCenter=1000, WindowWidth=-5)),
    'width 1: a threshold': ((LINE > 999.5)*255, dict(WindowCenter=1000, WindowWidth=1)),
    'sigmoid': (SIGMOID, dict(WindowCenter=1000, WindowWidth=500, VOILUTFunction='SIGMOID')),
    'exact': (((LINE - 1000)/500 + .5).clip(0, 1)*255, dict(WindowCenter=1000, WindowWidth=500, VOILUTFunction='LINEAR_EXACT')),
    'blank function': (WINDOW, dict(WindowCenter=1000, WindowWidth=500, VOILUTFunction='')),
    'blank rescale': (WINDOW, dict(WindowCenter=1000, WindowWidth=500, RescaleSlope=None, RescaleIntercept=None)),
    'slope 0': (WINDOW, dict(WindowCenter=1000, WindowWidth=500, RescaleSlope=0, RescaleIntercept=0)),
    'rescale and window': (WINDOW, dict(WindowCenter=1000*2-100, WindowWidth=499*2+1, RescaleSlope=2, RescaleIntercept=-100)),
    'intercept alone': (WINDOW, dict(WindowCenter=900, WindowWidth=500, RescaleIntercept=-100, RescaleSlope=None)),
    'rescale without a window': (PLAIN, dict(RescaleSlope=2, RescaleIntercept=-1024)),
    'zero is white': (255-PLAIN, dict(photometric='MONOCHROME1')),
    'zero is white, with a window': (255-WINDOW, dict(photometric='MONOCHROME1', WindowCenter=1000, WindowWidth=500)),
    'slope below 0': (255-PLAIN, dict(RescaleSlope=-1, RescaleIntercept=0)),
    'VOI LUT of 16 bits': ((LINE/4095)**2*255, dict(VOILUTSequence=table((np.arange(4096)/4095.)**2*65535, 16))),
    'VOI LUT of 12 bits': ((LINE/4095)**2*255, dict(VOILUTSequence=table((np.arange(4096)/4095.)**2*4095, 12))),
    'VOI LUT of 8 bits': ((LINE/4095)**2*255, dict(VOILUTSequence=table((np.arange(4096)/4095.)**2*255, 8))),
    'VOI LUT before a window': (255-PLAIN, dict(VOILUTSequence=table(np.arange(4096)[::-1], 12), WindowCenter=1000, WindowWidth=500)),
    'VOI LUT after a rescale': (255-PLAIN, dict(VOILUTSequence=table(np.arange(4096)[::-1], 12, 10), RescaleSlope=1, RescaleIntercept=10)),
    'modality LUT': ((LINE/4095)**2*255, dict(ModalityLUTSequence=table((np.arange(4096)/4095.)**2*4095, 12))),
    'empty sequences': (PLAIN, dict(VOILUTSequence=[], ModalityLUTSequence=[]))}

@pytest.mark.parametrize('name', LOOK)
def test_grey(name):
    want, tags = LOOK[name]
    got = shown(RAMP, **tags)
    assert np.abs(got - want).max() <= 1, (got[::8], np.round(want[::8]))

def test_one_bright_pixel_changes_nothing_else():
    a = RAMP//4; b = a.copy(); b[5,5] = 4095
    assert (np.delete(read_image(dicom_bytes(a, bits=12)).reshape(-1, 3), 5*64+5, 0) == np.delete(read_image(dicom_bytes(b, bits=12)).reshape(-1, 3), 5*64+5, 0)).all()

@pytest.mark.parametrize('bits', (8, 10, 12, 14, 16))
def test_the_same_exposure_is_equally_bright_at_every_depth(bits):
    full = 2**bits - 1
    a = np.rint(PHOTO[...,0]/255.*full*.6).astype(np.uint8 if bits == 8 else np.uint16)
    assert np.abs(read_image(dicom_bytes(a, bits=bits))[...,0] - PHOTO[...,0]*.6).max() <= 1

def test_signed_values():
    a = RAMP.astype(np.int16) - 2048
    assert np.abs(shown(a) - PLAIN).max() <= 1
    assert np.abs(shown(a, WindowCenter=1000-2048, WindowWidth=500) - WINDOW).max() <= 1

def palette(colours, deep, bits=8):
    tags = {}
    for k,name in enumerate(('Red', 'Green', 'Blue')):
        tags[f'{name}PaletteColorLookupTableDescriptor'] = [len(colours), 0, deep]
        tags[f'{name}PaletteColorLookupTableData'] = (colours[:,k].astype('<u2')*(257 if deep == 16 else 1)).tobytes() if deep == 16 or bits == 16 else colours[:,k].astype(np.uint8).tobytes()
    return tags

@pytest.mark.parametrize('deep', (8, 16))
def test_palette_is_coloured(deep):
    im = Image.fromarray(PHOTO).quantize(256, dither=0)
    colours = np.zeros((256,3), np.uint8); got = np.array(im.getpalette(), np.uint8).reshape(-1,3); colours[:len(got)] = got
    a = read_image(dicom_bytes(np.asarray(im), 'PALETTE COLOR', **palette(colours, deep)))
    assert np.abs(a.astype(int) - np.asarray(im.convert('RGB'))).max() <= 1 and np.ptp(a, axis=2).max() > 50

def test_colours():
    assert (read_image(rgb_dicom(PHOTO)) == PHOTO).all()
    assert np.abs(read_image(dicom_bytes((PHOTO.astype(int)*4095//255).astype(np.uint16), 'RGB', bits=12)).astype(int) - PHOTO).max() <= 1
    assert np.abs(read_image(dicom_bytes(np.asarray(Image.fromarray(PHOTO).convert('YCbCr')), 'YBR_FULL')).astype(int) - PHOTO).max() <= 4

@pytest.mark.parametrize('n, which', ((1, 0), (2, 1), (3, 1), (4, 2), (7, 3)))
def test_of_several_frames_the_middle_one(n, which):
    a = np.stack([np.full((20,20), 10*i, np.uint8) for i in range(n)])
    assert read_image(dicom_bytes(a, bits=8))[0,0,0] == 10*which
    b = np.stack([np.full((20,20,3), (10*i, 1, 2), np.uint8) for i in range(n)])
    assert read_image(dicom_bytes(b, 'RGB'))[0,0].tolist() == [10*which, 1, 2]

def test_what_an_enhanced_file_says_of_a_frame():
    def group(**tags):
        voi, item = pydicom.Dataset(), pydicom.Dataset()
        for k,v in tags.items(): setattr(voi, k, v)
        item.FrameVOILUTSequence = [voi]
        return item
    a = np.stack([RAMP]*3)
    frames = [group(WindowCenter=3000, WindowWidth=10), group(WindowCenter=1000, WindowWidth=500), group(WindowCenter=3000, WindowWidth=10)]
    assert np.abs(shown(a, PerFrameFunctionalGroupsSequence=frames) - WINDOW).max() <= 1
    assert np.abs(shown(a, SharedFunctionalGroupsSequence=[group(WindowCenter=1000, WindowWidth=500)]) - WINDOW).max() <= 1
    assert np.abs(shown(a, PerFrameFunctionalGroupsSequence=[]) - PLAIN).max() <= 1

def test_compressed():
    from pydicom.encaps import encapsulate
    buf = io.BytesIO(); Image.fromarray(PHOTO).save(buf, 'JPEG', quality=95)
    ds = pydicom.dcmread(io.BytesIO(rgb_dicom(PHOTO)))
    ds.file_meta.TransferSyntaxUID, ds.PhotometricInterpretation = pydicom.uid.JPEGBaseline8Bit, 'YBR_FULL_422'
    ds.PixelData = encapsulate([buf.getvalue()]); ds['PixelData'].is_undefined_length = True
    out = io.BytesIO(); ds.save_as(out, enforce_file_format=True)
    assert np.abs(read_image(out.getvalue()).astype(int) - np.asarray(Image.open(buf))).mean() < 2

# ---- what cannot be read

def without(*tags, **changed):
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(RAMP, bits=12)))
    for t in tags: delattr(ds, t)
    for k,v in changed.items(): setattr(ds, k, v)
    out = io.BytesIO(); ds.save_as(out, enforce_file_format=True)
    return out.getvalue()

BROKEN = {'no pixels': lambda: without('PixelData'), 'no size': lambda: without('Rows'), 'no meaning': lambda: without('PhotometricInterpretation'),
    'size 0': lambda: without(Rows=0), 'too small': lambda: without(Rows=4), 'unknown meaning': lambda: without(PhotometricInterpretation='CMYK'),
    'half': lambda: dicom_bytes(RAMP)[:-len(RAMP)*64], 'cut in the header': lambda: dicom_bytes(RAMP)[:300], 'the mark alone': lambda: bytes(128) + b'DICM',
    'noise': lambda: bytes(128) + b'DICM' + np.random.default_rng(0).bytes(500), 'unknown function': lambda: dicom_bytes(RAMP, WindowCenter=9, WindowWidth=9, VOILUTFunction='CUBIC'),
    'palette without a table': lambda: dicom_bytes(PHOTO[...,0], 'PALETTE COLOR'), 'table without entries': lambda: dicom_bytes(PHOTO[...,0], 'PALETTE COLOR', **palette(np.zeros((0,3)), 8))}

@pytest.mark.parametrize('name', BROKEN)
def test_broken_files_name_themselves(name, tmp_path, capfd):
    (tmp_path/'scan.dcm').write_bytes(BROKEN[name]())
    with pytest.raises(ImageError, match='scan.dcm') as e: read_image(tmp_path/'scan.dcm')
    assert '\n' not in str(e.value)
    out = capfd.readouterr(); assert not out.err and not out.out

@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_byte_may_be_wrong():
    "Changed at random, a file is read or refused, never a traceback"
    data, rng = bytearray(dicom_bytes(RAMP, bits=12, WindowCenter=1000, WindowWidth=500)), np.random.default_rng(1)
    for _i in range(400):
        bad = bytearray(data); bad[rng.integers(132, 700)] = rng.integers(256)
        try: assert read_image(bytes(bad)).dtype == np.uint8
        except ImageError: pass

# ---- tags, endings, sizes

def test_tags(tmp_path):
    f = tmp_path/'a.dcm'; f.write_bytes(rgb_dicom(PHOTO, PatientID='MRN-123', PatientName='Roe^Jane', ImageLaterality='L', Modality='OP'))
    t = dicom_tags(f)
    assert (t['eye'], t['modality'], len(t['patient'])) == ('left', 'OP', 12) and t == dicom_tags(f.read_bytes())
    assert not {'MRN', 'Roe', 'Jane'} & set(' '.join(t.values()).replace('-', ' ').replace('^', ' ').split())
    assert dicom_tags(rgb_dicom(PHOTO, PatientID='MRN-123'))['patient'] == t['patient'] != dicom_tags(rgb_dicom(PHOTO, PatientID='MRN-124'))['patient']
    assert dicom_tags(rgb_dicom(PHOTO, Laterality='R', PatientID='', Modality=None)) == dict(patient='', eye='right', modality='')
    assert dicom_tags(rgb_dicom(PHOTO, Laterality='B'))['eye'] == ''
    for bad in (tmp_path/'none.dcm', tmp_path):
        with pytest.raises(ImageError): dicom_tags(bad)

def test_size_without_pixels(tmp_path):
    f = tmp_path/'a'; f.write_bytes(rgb_dicom(PHOTO))
    assert image_size(f) == image_size(f.read_bytes()) == (64, 40)
    with pytest.raises(ImageError, match='without a picture'): image_size(BROKEN['no size']())

def test_files_that_are_images(tmp_path):
    for name in ('a.JPG', 'b.jfif', 'c.jpe', 'd.dicom', 'e.txt', 'f.csv', 'g'): (tmp_path/name).touch()
    for name in ('h', '1.2.840.1'): (tmp_path/name).write_bytes(rgb_dicom(PHOTO))
    assert sorted(f.name for f in tmp_path.iterdir() if is_image_file(f)) == ['1.2.840.1', 'a.JPG', 'b.jfif', 'c.jpe', 'd.dicom', 'h']
    assert not is_dicom(tmp_path/'none') and not is_dicom(tmp_path) and all(e == e.lower() and e[0] == '.' for e in IMAGE_TYPES)

def test_the_contract_sees_what_the_decoder_sees(tmp_path):
    data = dicom_bytes(RAMP, 'MONOCHROME1', bits=12, WindowCenter=1000, WindowWidth=500)
    pre = Preprocess(size=32, crop='none')
    assert (pre(data) == pre(read_image(data))).all()

@pytest.mark.parametrize('tag', ['BitsStored', 'HighBit', 'PixelRepresentation', 'NumberOfFrames', 'SamplesPerPixel', 'RescaleSlope', 'RescaleIntercept', 'WindowCenter', 'WindowWidth', 'VOILUTFunction', 'ImageLaterality', 'PatientID'])
@pytest.mark.parametrize('value', ['', None, 0])
def test_a_blank_or_zero_value_is_absent(tag, value):
    if tag in ('VOILUTFunction', 'ImageLaterality', 'PatientID') and value == 0: pytest.skip('a text')
    tags = {tag: value}
    if tag == 'BitsStored': tags['HighBit'] = 15
    whole = dicom_bytes(RAMP, bits=16 if tag in ('BitsStored', 'HighBit') else 12); data = dicom_bytes(RAMP, bits=16 if tag in ('BitsStored', 'HighBit') else 12, **tags)
    assert (read_image(data) == read_image(whole)).all(), tag

@pytest.mark.parametrize('tags', [dict(Rows=0), dict(Rows=None), dict(Columns=''), dict(Rows=65535, Columns=65535), dict(PixelData=b''), dict(BitsAllocated=7), dict(NumberOfFrames=-4, Rows=9), dict(PhotometricInterpretation='')])
def test_what_cannot_be_is_one_line(tags, capfd):
    with pytest.raises(ImageError, match='scan.dcm: is') as e: read_image(dicom_bytes(RAMP, bits=12, **tags), name='scan.dcm')
    assert '\n' not in str(e.value) and not capfd.readouterr().err

def test_a_frame_that_was_cut_or_lies_about_its_size():
    import io, pydicom
    from PIL import Image
    from pydicom.encaps import encapsulate
    def packed(frame, **tags):
        meta = pydicom.dataset.FileMetaDataset(); meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        ds = pydicom.dcmread(io.BytesIO(dicom_bytes(np.zeros((200, 300), np.uint8)))); ds.file_meta.TransferSyntaxUID = meta.TransferSyntaxUID
        ds.PixelData = encapsulate([frame]); ds['PixelData'].is_undefined_length = True
        b = io.BytesIO(); ds.save_as(b, enforce_file_format=True); return b.getvalue()
    busy = np.random.default_rng(0).integers(0, 255, (200, 300), np.uint8); buf = io.BytesIO(); Image.fromarray(busy).save(buf, 'JPEG'); jpeg = buf.getvalue()
    assert read_image(packed(jpeg)).shape == (200, 300, 3)
    with pytest.raises(ImageError, match='scan.dcm: is damaged: the picture data end early'): read_image(packed(jpeg[:len(jpeg)//2] + b'\xff\xd9'), name='scan.dcm')
    i = jpeg.index(b'\xff\xc0'); lies = jpeg[:i+5] + (60000).to_bytes(2, 'big')*2 + jpeg[i+9:]
    with pytest.raises(ImageError, match='scan.dcm'): read_image(packed(lies), name='scan.dcm')

def test_a_file_that_unfolds_to_too_much(monkeypatch):
    import io, pydicom
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(np.zeros((2000, 2000), np.uint16)))); ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    b = io.BytesIO(); ds.save_as(b, enforce_file_format=True); assert len(b.getvalue()) < 2**16 and read_image(b.getvalue()).shape == (2000, 2000, 3)
    monkeypatch.setattr('retina_nb.image.dicom._INFLATED', 2**20)
    with pytest.raises(ImageError, match='unfolds to too much'): read_image(b.getvalue(), name='scan.dcm')

@pytest.mark.parametrize('syntax', ['ExplicitVRLittleEndian', 'DeflatedExplicitVRLittleEndian', 'ExplicitVRBigEndian'])
def test_a_file_crowded_with_items_is_refused_before_it_is_read(syntax):
    "Each empty item, of eight bytes, becomes a hundred times as much: in bytes, as from a network, they are counted first"
    ds = pydicom.dcmread(io.BytesIO(dicom_bytes(np.zeros((4, 4), np.uint8))))
    ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    ds.ReferencedStudySequence = [pydicom.Dataset() for _ in range(70_000)]
    f = io.BytesIO()
    pydicom.dcmwrite(f, ds, enforce_file_format=True, little_endian='Big' not in syntax, implicit_vr=False)
    for read in (dicom_tags, read_image):
        with pytest.raises(ImageError, match='70,000 items'): read(f.getvalue())

def tiny(n, vr=b'LO'):
    "So many empty elements of eight bytes each"
    i = np.arange(n)
    out = np.zeros((n, 8), np.uint8)
    out[:,:2], out[:,2:4] = (0x0009 + 2*(i//60000)).astype('<u2').view(np.uint8).reshape(-1, 2), (0x1000 + i%60000).astype('<u2').view(np.uint8).reshape(-1, 2)
    out[:,4:6] = list(vr)
    return out.tobytes()

def crowded(where, n):
    data, more = dicom_bytes(np.zeros((64, 64), np.uint8)), tiny(n)
    i = data.index(b'\xe0\x7f\x10\0')
    item = b'\xfe\xff\0\xe0' + len(more).to_bytes(4, 'little') + more
    open_ = b'\xfe\xff\0\xe0\xff\xff\xff\xff' + more + b'\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0'
    if where == 'at the end': return data + more
    if where == 'in an item': return data[:i] + b'\x40\0\x75\2SQ\0\0\xff\xff\xff\xff' + open_ + data[i:]
    if where == 'in a list of frames': return data[:i] + b'\0\x52\x30\x92SQ\0\0' + len(item).to_bytes(4, 'little') + item + data[i:]
    if where == 'of the file itself': return data[:132] + more.replace(b'\t\0', b'\2\0') + data[132:]
    head = 144 + int.from_bytes(data[140:144], 'little')
    packer = __import__('zlib').compressobj(6, wbits=-15)
    head = data[:head].replace(b'1.2.840.10008.1.2.1\0', b'1.2.840.10008.1.2.1.99'), data[head:] # without its length, which nobody needs
    return head[0][:132] + head[0][144:].replace(b'UI\x14\x001.2.840.10008.1.2.1.99', b'UI\x16\x001.2.840.10008.1.2.1.99') + packer.compress(head[1] + more) + packer.flush()

CROWDED = 'at the end', 'in an item', 'in a list of frames', 'of the file itself', 'deflated'

@pytest.mark.parametrize('where', CROWDED)
def test_a_file_crowded_with_elements_is_refused(where, monkeypatch):
    "A few thousand are read; of more the parser sees no more than it may"
    if where != 'of the file itself': assert read_image(crowded(where, 5000)).shape == (64, 64, 3)
    monkeypatch.setattr('retina_nb.image.dicom._Counted.left', 2**13)
    monkeypatch.setattr('retina_nb.image.dicom._LIST', 2**16)
    with pytest.raises(ImageError, match='more elements than any photograph'): read_image(crowded(where, 2**14))

@pytest.mark.full
@pytest.mark.parametrize('where', CROWDED)
def test_what_a_crowded_file_costs(where):
    "Of 32 megabytes of them: 1,300 MB and half a minute without a limit"
    import resource, time
    data = crowded(where, 2**22)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ImageError, match='more elements|items'): read_image(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000 and time.perf_counter() - begin < 20

def test_a_deflated_file_is_known_by_what_it_says_not_by_its_form(monkeypatch):
    "Without the length of its head, which pydicom can do without, it is unfolded with the same limit"
    data = crowded('deflated', 10)
    assert read_image(data).shape == (64, 64, 3)
    monkeypatch.setattr('retina_nb.image.dicom._INFLATED', 2**10)
    with pytest.raises(ImageError, match='unfolds to too much'): read_image(data)

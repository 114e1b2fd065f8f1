"What strangers send: whole requests as bytes, made from a seed, of many kinds, each wrong in its own way or nearly so"
import functools, gzip, io, json, struct, tarfile, zipfile, zlib

import numpy as np
from PIL import Image

from dicoms import dicom_bytes
from clients import form, picture

WHO = 'Zyxwhite', '1952-03-04', 'Quillfeather' # names and a birthday: they may stand in no log and no answer

# --- pictures
@functools.cache
def _eye(size=64): return Image.open(io.BytesIO(picture(1, size, 'PNG'))).convert('RGB')

def _file(im, kind, **how):
    f = io.BytesIO()
    im.save(f, kind, **how)
    return f.getvalue()

@functools.cache
def _files():
    "A small picture as a file of every kind"
    im = _eye()
    return [_file(im, k) for k in ('JPEG', 'PNG', 'TIFF', 'GIF', 'BMP', 'WEBP', 'PPM')] + [
        _file(im, 'JPEG', progressive=True), _file(im, 'TIFF', compression='jpeg'), _file(im, 'TIFF', compression='tiff_lzw'),
        _file(im, 'TIFF', compression='tiff_adobe_deflate'), _dicom()]

def _dicom(**tags):
    return dicom_bytes(np.asarray(_eye()), 'RGB', PatientName=f'{WHO[0]}^{WHO[2]}', PatientID=WHO[0], PatientBirthDate='19520304', **tags)

def _png(w, h, depth=8, colour=2, data=b'x'):
    def chunk(kind, d): return struct.pack('>I', len(d)) + kind + d + struct.pack('>I', zlib.crc32(kind + d))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, colour, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(data)) + chunk(b'IEND', b'')

def _tiff(w, h, bits=8, offset=8, pages=1):
    "A TIFF of a few bytes that says it has w x h pixels"
    tags = [(256, 4, 1, w), (257, 4, 1, h), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, h), (279, 4, 1, 2**32 - 1)]
    one = struct.pack('<H', len(tags)) + b''.join(struct.pack('<HHII', *t) for t in tags)
    return b'II*\0' + struct.pack('<I', offset) + one + struct.pack('<I', 8 if pages > 1 else 0)

def _bomb(rng):
    "A small file that says it is huge"
    w, h = rng.choice(((2**31 - 1, 2**31 - 1), (100_000, 100_000), (65_535, 65_535), (2**31 - 1, 1), (0, 0), (0, 5), (30_000, 30_000), (2**32 - 1, 2**32 - 1)))
    jpeg = bytearray(_files()[0])
    at = jpeg.find(b'\xff\xc0')
    jpeg[at+5:at+9] = struct.pack('>HH', h & 0xffff, w & 0xffff)
    gif = bytearray(_files()[3])
    gif[6:10] = struct.pack('<HH', w & 0xffff, h & 0xffff)
    bmp = bytearray(_files()[4])
    bmp[18:26] = struct.pack('<ii', w & 0x7fffffff, h & 0x7fffffff)
    return rng.choice((_png(w, h), _png(w, h, 1, 0, bytes(2**20)), _png(w, h, 16, 6), _tiff(w, h), _tiff(w, h, 16), _tiff(w, h, pages=2), bytes(jpeg), bytes(gif),
                       bytes(bmp), f'P6 {w} {h} 255\n'.encode() + b'abc', f'P6 {"9"*5000} 1 255\n'.encode()))

def _odd_picture(rng):
    "A picture that is whole, and not what an eye looks like"
    im, a = _eye(), np.asarray(_eye())
    deep = Image.fromarray(a[..., 0].astype(np.uint16)*257)
    return rng.choice((
        lambda: _file(im.resize((1, 1)), rng.choice(('PNG', 'JPEG', 'TIFF', 'GIF', 'BMP'))), lambda: _file(deep, 'PNG'), lambda: _file(deep, 'TIFF'),
        lambda: _file(im.convert('CMYK'), 'JPEG'), lambda: _file(im.convert('CMYK'), 'TIFF'),
        lambda: _file(im, 'GIF', save_all=True, append_images=[im.rotate(90*i) for i in range(4)]), lambda: _file(im.convert('P'), 'PNG', transparency=0),
        lambda: _file(im.resize((1, 20_000)), 'PNG'), lambda: _file(im.resize((20_000, 1)), 'PNG'), lambda: _file(im.convert('F'), 'TIFF'),
        lambda: _file(im, 'TIFF', save_all=True, append_images=[im.resize((8, 8))]*3), lambda: _file(im.convert('LA'), 'PNG'), lambda: _file(im.convert('1'), 'TIFF'),
        lambda: _file(im, 'JPEG', exif=b'Exif\0\0II*\0\xff\xff\xff\xff'), lambda: _file(im, 'JPEG', icc_profile=rng.randbytes(300)),
        lambda: _file(im, 'JPEG', comment=b'a'*60_000), lambda: _file(im, 'PNG', pnginfo=None, icc_profile=b'\0'*200), lambda: _file(im.convert('YCbCr'), 'TIFF'), lambda: _file(im, 'TIFF').replace(struct.pack('<HH', 273, 4), struct.pack('<HH', 9273, 4)), # without its strips
        lambda: _file(im, 'TIFF').replace(struct.pack('<HHIHH', 277, 3, 1, 3, 0), struct.pack('<HHIHH', 277, 3, 1, 802, 0)),
        lambda: _file(Image.new('RGB', (64, 64)), 'PNG'), lambda: _file(Image.new('RGB', (300, 300), 'white'), 'JPEG')))()

def _archive(rng):
    f = io.BytesIO()
    what = rng.randrange(4)
    if what == 0:
        with zipfile.ZipFile(f, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('../../evil.jpg', bytes(10**6))
    elif what == 1:
        with tarfile.open(fileobj=f, mode='w:gz') as t: t.addfile(tarfile.TarInfo('/etc/evil'))
    elif what == 2: np.savez(f, a=np.zeros(3), **{'../b': np.zeros(2)})
    else: f.write(rng.choice((gzip.compress(bytes(10**5)), b'7z\xbc\xaf\x27\x1c' + rng.randbytes(50), b'Rar!\x1a\x07' + rng.randbytes(50),
                              b'\x80\x04\x95' + rng.randbytes(40), b'\x93NUMPY\x01\0v\0' + b"{'descr':'|O','shape':(1,)}")))
    return f.getvalue()

def _document(rng):
    jpeg, png = _files()[:2]
    return rng.choice((
        b'<!DOCTYPE html><script>alert(1)</script>', b'<svg xmlns="http://www.w3.org/2000/svg" onload="x()"><image href="file:///etc/passwd"/></svg>',
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', b'%PDF-1.7\n1 0 obj<</JS(app.alert(1))>>', b'\0\0\0 ftypheic' + rng.randbytes(80),
        b'\0\0\0 ftypmp42' + rng.randbytes(80), b'MZ' + rng.randbytes(100), b'\x7fELF' + rng.randbytes(100), b'#!/bin/sh\nid\n', f'Dear {WHO[0]}, born {WHO[1]}'.encode(), b'{"a":1}',
        b'\xff\xfe' + 'text'.encode('utf-16-le'), b' ', b'\n'*1000, b'\0'*5000, jpeg + _archive(rng), b'GIF89a/*' + b'<script>' + b'*/=1;', png + b'<html><script>x</script>',
        b'%!PS-Adobe\n/x {(%pipe%id) (r) file} def', b'push graphic-context\nimage over 0,0 0,0 "https://127.0.0.1/x"', jpeg[:200] + png, b'\xff\xd8\xff\xe0' + rng.randbytes(3000),
        b'RIFF\x24\0\0\0WAVEfmt ' + rng.randbytes(60), b'SIMPLE  =                    T' + b' '*2850, b'BM' + rng.randbytes(200), b'II*\0' + rng.randbytes(400), b'MM\0*' + rng.randbytes(400)))

def _garbage_dicom(rng):
    good = _dicom()
    return rng.choice((
        bytes(128) + b'DICM' + rng.randbytes(rng.choice((0, 3, 500))), good[:rng.randrange(130, len(good))], mutated(rng, good), mutated(rng, good[:600]) + good[600:],
        good.replace(struct.pack('<H', 64), struct.pack('<H', rng.choice((0, 1, 65_535)))), _dicom(PatientComments=WHO[2]*200), _dicom(WindowWidth='0', WindowCenter='nan' if rng.random() < .5 else '1'),
        dicom_bytes(np.zeros((rng.choice((1, 3)), 9, 9), np.uint16), bits=12), dicom_bytes(np.zeros((1, 1), np.uint8))))

def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        i, n = rng.randrange(len(data) + 1), rng.choice((0, 1, 2, 16, 200))
        data[i:i+n] = rng.choice((b'', rng.randbytes(rng.choice((1, 4, 64))), b'\r\n--', b'"', b'\0', data[:n], b'\xff'*4))
    return bytes(data)

# --- requests
def http(method, path, body=b'', *headers, host='127.0.0.1', length=True, close=True, version='HTTP/1.1'):
    "A request as bytes"
    lines = [f'{method} {path} {version}', *([f'Host: {host}'] if host is not None else []), *headers]
    if length and (body or method in ('POST', 'PUT')): lines.append(f'Content-Length: {len(body)}')
    if close: lines.append('Connection: close')
    return '\r\n'.join(lines).encode('latin-1', 'replace') + b'\r\n\r\n' + body

def upload(rng, files, tags=None, more=(), *headers, path=None):
    body, kind = form(files, tags, more)
    return http('POST', path or '/v1/gradings', body, f'Content-Type: {kind}', *headers)

def value(rng, depth=0):
    plain = [None, True, -1, 0, 2, 10**400, 1.5, float('nan'), float('inf'), '', 'agree', 'correct', 'Anna', '\ud800', '\0', 'a'*5000, '../x', "'", '\u202e', 1e308, -2**63, WHO[0]]
    if depth > 3 or rng.random() < .7: return rng.choice(plain)
    if rng.random() < .5: return [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(('verdict', 'grade', 'who', 'a', '', '\0', 'patient')): value(rng, depth + 1) for _ in range(rng.randint(0, 3))}

def _json_path(rng, ids):
    a, b = ids
    return rng.choice((f'/v1/gradings/{a}/feedback', '/v1/reviews/lease', f'/v1/reviews/{b}/finish', f'/v1/reviews/{b}/release', '/v1/deployments', f'/v1/alerts/{b}/seen'))

def _json(rng, ids, body, kind='application/json'): return http('POST', _json_path(rng, ids), body, f'Content-Type: {kind}')

def json_values(rng, ids):
    keys = ('verdict', 'grade', 'reason', 'who', 'minutes', 'note', 'bundle', 'alias')
    body = json.dumps({k: value(rng) for k in rng.sample(keys, rng.randint(0, 4))}).encode()
    return _json(rng, ids, body if rng.random() < .7 else mutated(rng, body), rng.choice(('application/json', 'application/json', 'application/json; charset=utf-16', 'text/plain', '', 'application/x-www-form-urlencoded')))

def json_texts(rng, ids):
    return _json(rng, ids, rng.choice((
        b'['*rng.choice((10, 1000, 100_000)), b'{"a":'*rng.choice((10, 5000, 60_000)), b'\xff\xfe{}', b'\xef\xbb\xbf{}', b'{"who": "\xff\xc0\xaf"}', b'{"who": "\\ud800"}', b'{"who":"\0"}', b'{"who": "\\u0000"}',
        '{"who": "Anna"}'.encode('utf-16'), '{"who": "Anna"}'.encode('utf-32'), b'{"who": "a", "who": "b"}', b'{"minutes": NaN}', b'{"minutes": 1e999}', b'{"grade": ' + b'9'*5000 + b'}', b'{"who": "' + b'a'*10**6 + b'"}',
        b'null', b'true', b'[]', b'"', b'{', b'{"verdict": "agree"}' + b' '*10**5, b'{"verdict": "agree"}{', b'//x\n{}', b"{'a': 1}", b'{"__proto__": {"x": 1}}', b'{"grade": 1.0, "who": "A"}', b'{"grade": true}')))

def tags(rng, ids):
    text = rng.choice((lambda: json.dumps(value(rng)).encode(), lambda: json.dumps({f'k{i}': value(rng, 9) for i in range(rng.choice((3, 60)))}).encode(),
                       lambda: json.dumps(dict.fromkeys(('patient', 'Patient Name', 'dob', 'mrn', 'hospital'), WHO[0])).encode(),
                       lambda: rng.choice((b'{"a":'*9999, b'\xff', b'NaN', b'{"patient": "\\u0000"}', b'{"a": "\\ud83d"}', b'{"' + b'k'*9000 + b'": 1}', b'{"a": [1]}', b'{"": 1}', b'{"a": 1, "A ": 2, "a\\n": 3}', b''))))()
    return upload(rng, [_files()[0]], more=[('tags', text)]*rng.choice((1, 1, 1, 2)))

def form_damage(rng, ids):
    body, kind = form([rng.choice(_files())], {'a': 1})
    return http('POST', '/v1/gradings', mutated(rng, body), f'Content-Type: {kind}')

def boundaries(rng, ids):
    body, kind = form([_files()[0]], {'a': 1})
    b = kind.partition('=')[2]
    kind = rng.choice(('multipart/form-data', 'multipart/form-data; boundary=', 'multipart/form-data; boundary="', 'multipart/form-data; boundary=' + 'b'*300, f'multipart/mixed; boundary={b}', f'multipart/form-data; boundary={b}; boundary=x',
                       f'multipart/form-data; boundary="{b}"', f'MULTIPART/FORM-DATA; BOUNDARY={b}', f'multipart/form-data; charset=utf-7; boundary={b}', f'multipart/form-data;boundary={b}\xff', f"multipart/form-data; boundary*=utf-8''{b}",
                       f'multipart/form-data; boundary={b[:-1]}', 'application/json', 'image/jpeg', 'text/html', '*/*', ';', 'multipart/form-data; boundary=-----'))
    data = rng.choice((body, body[:-4], body.replace(b'\r\n', b'\n'), body + b'more', b'preamble\r\n' + body, body[:body.rfind(b'--' + b.encode())], body.replace(b.encode(), b'x'), b'--' + b.encode() + b'--'))
    return http('POST', '/v1/gradings', data, f'Content-Type: {kind}')

def fields(rng, ids):
    b, jpeg = 'xyz', _files()[0]
    def part(head, data=jpeg): return f'--{b}\r\n'.encode() + head + b'\r\n\r\n' + data + b'\r\n'
    d = b'Content-Disposition: form-data; '
    parts = rng.choice((
        lambda: part(d + b'name="' + b'f'*rng.choice((300, 20_000, 10**6)) + b'"'), lambda: part(d + b'name="file"; filename="' + b'a'*10**5 + b'.jpg"'), lambda: part(d + b'name="a"', b'1')*rng.choice((5, 1000)),
        lambda: part(d + b'name="file"; filename="a"\r\n' + b'X: y\r\n'*rng.choice((20, 5000)) + b'Z: 1'), lambda: part(d), lambda: part(b'name=file'), lambda: part(b''),
        lambda: part(d + b'name="file"; filename="../../../etc/passwd"'), lambda: part(d + b'name="file"; filename="a\0b.jpg"'), lambda: part(d + b"name*=utf-8''file; filename*=utf-8''%ff%fe"),
        lambda: part(d + b'name="file"; filename="a\r\nX-Evil: 1"'), lambda: part(d + b'name="file"; filename="a"\r\nContent-Transfer-Encoding: base64'), lambda: part(d + b'name="file"; filename="a"', b''),
        lambda: part(d + b'name="file"; filename="a"\r\nContent-Type: multipart/mixed; boundary=' + b.encode()), lambda: part(d + b'name="file"; name="tags"; filename="a"'), lambda: part(d + b'name="\xff\xfe"; filename="a"'),
        lambda: part(d + b'name="file"; filename="a"')*4, lambda: part(d + b'name="file"', b'text'), lambda: part(d + b'name="tags"; filename="t"', b'{}') + part(d + b'name="file"; filename="a"')))()
    return http('POST', '/v1/gradings', parts + f'--{b}--\r\n'.encode(), f'Content-Type: multipart/form-data; boundary={b}')

def packed(rng, ids):
    body, kind = form([_files()[0]])
    z = gzip.compress(body)
    data, coding = rng.choice((
        lambda: (z[:rng.randrange(1, len(z))], 'gzip'), lambda: (gzip.compress(bytes(rng.choice((5, 60))*2**20), 9), 'gzip'), lambda: (gzip.compress(gzip.compress(bytes(2**24))), 'gzip, gzip'), lambda: (z*2, 'gzip'), lambda: (z + b'x', 'x-gzip'),
        lambda: (zlib.compress(body), 'deflate'), lambda: (body, 'br'), lambda: (body, 'gzip'), lambda: (mutated(rng, z), 'gzip'), lambda: (z, 'identity'), lambda: (b'', 'gzip'), lambda: (z, 'zstd'), lambda: (z, 'gzip\t'),
        lambda: (b'\x1f\x8b\x08\x1c' + struct.pack('<IBBH', 0, 0, 3, 60_000) + b'a'*60_000, 'gzip')))()
    return http('POST', rng.choice(('/v1/gradings', '/v1/reviews/lease')), data, f'Content-Type: {kind}', f'Content-Encoding: {coding}')

def lengths(rng, ids):
    body, kind = form([_files()[0]])
    said = rng.choice((len(body) - 5, len(body) + 5, 0, 10**18, 10**30, -1, '+5', '0x10', '5, 5', '5, 6', ' ', '', '1e3', '５', '٣', len(body)*10, 5*2**20))
    return http('POST', '/v1/gradings', body, f'Content-Type: {kind}', f'Content-Length: {said}', length=False)

def chunks(rng, ids):
    body, kind = form([_files()[0]])
    good = b'%x\r\n' % len(body) + body + b'\r\n0\r\n\r\n'
    data = rng.choice((
        good, good[:-5], good[:50], b'zz\r\n' + body, b'-5\r\n' + body, b'%x\r\n' % (len(body) + 3) + body + b'\r\n0\r\n\r\n', b'%x\r\n' % (len(body) - 3) + body + b'\r\n0\r\n\r\n', b'f'*20 + b'\r\n' + body, b'ffffffffffffffff\r\n' + body,
        b'5;' + b'x'*rng.choice((10, 50_000)) + b'\r\nabcde\r\n0\r\n\r\n', b'0\r\nX: y\r\n\r\n', b'0\r\n' + b'X: y\r\n'*5000 + b'\r\n', b'1\r\na\r\n'*3000 + b'0\r\n\r\n', b'5\nabcde\n0\n\n', b'0x5\r\nabcde\r\n0\r\n\r\n', b'\r\n\r\n', b'', mutated(rng, good)))
    coding = rng.choice(('chunked',)*6 + ('Chunked', 'chunked, chunked', 'gzip, chunked', 'identity', 'xchunked', 'chunked\x0b'))
    return http('POST', '/v1/gradings', data, f'Content-Type: {kind}', f'Transfer-Encoding: {coding}', length=False)

def smuggled(rng, ids):
    "Two readings of where a request ends, with another request hidden in the difference"
    hidden = http('GET', '/v1/hidden', close=True)
    inner = b'0\r\n\r\n' + hidden
    heads = rng.choice((
        (f'Content-Length: {len(inner)}', 'Transfer-Encoding: chunked'), ('Content-Length: 4', 'Transfer-Encoding: chunked'), ('Transfer-Encoding: chunked', 'Transfer-Encoding: x'), ('Transfer-Encoding: x', 'Transfer-Encoding: chunked'),
        ('Transfer-Encoding : chunked', f'Content-Length: {len(inner)}'), ('Transfer-Encoding:\tchunked', 'Content-Length: 3'), (' Transfer-Encoding: chunked', f'Content-Length: {len(inner)}'), ('X: y\nTransfer-Encoding: chunked', 'Content-Length: 3'),
        ('Content-Length: 5', 'Content-Length: 6'), (f'Content-Length: {len(inner)}', 'Content-Length: 0'), ('Content-Length: 0\r\n\tx: 1',), ('Transfer-Encoding: "chunked"', 'Content-Length: 3')))
    return http('POST', '/v1/reviews/lease', inner, 'Content-Type: application/json', *heads, length=False, close=False)

def headers(rng, ids):
    body, kind = form([_files()[0]])
    more = rng.choice((
        lambda: [f'X-{i}: y' for i in range(rng.choice((50, 500, 5000)))], lambda: ['X: ' + 'a'*rng.choice((5000, 20_000, 200_000))], lambda: ['X'*9000 + ': a'], lambda: ['X\0: a'], lambda: ['X: a\0b'], lambda: ['X: \x7f\x80\xff'], lambda: [': a'],
        lambda: ['X a: b'], lambda: ['X: a\r b'], lambda: ['Host: evil.example'], lambda: [f'Idempotency-Key: {k}' for k in rng.choice((('a'*300,), (' ',), ('\xff\xfe',), ('a', 'b'), (WHO[0],)))], lambda: ['Expect: 100-continue'], lambda: ['Expect: 200-ok'],
        lambda: ['Upgrade: websocket', 'Connection: Upgrade', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version: 13'], lambda: ['Upgrade: h2c', 'HTTP2-Settings: AAA', 'Connection: Upgrade, HTTP2-Settings'],
        lambda: ['X-HTTP-Method-Override: DELETE'], lambda: ['Cookie: ' + '; '.join(f'a{i}=b' for i in range(400))], lambda: ['Authorization: Basic YTpi'], lambda: ['Authorization: Bearer ' + rng.choice(('', 'rnb_', 'a'*9000, '\xff', 'rnb_' + '0'*12 + '_' + 'a'*43))],
        lambda: ['Range: bytes=0-1'], lambda: ['If-None-Match: *'], lambda: ['Accept-Encoding: ' + 'gzip,'*2000], lambda: ['Forwarded: for=127.0.0.1'], lambda: ['Origin: https://evil.example']))()
    return http('POST', '/v1/gradings', body, f'Content-Type: {kind}', *more)

def lines(rng, ids):
    "The first line of a request"
    method = rng.choice(('GET', 'HEAD', 'DELETE', 'PATCH', 'TRACE', 'CONNECT', 'OPTIONS', 'PROPFIND', 'get', 'G'*5000, 'GE T', '', '\xff', 'POST'))
    path = rng.choice(('/', '*', '//', '/v1/gradings', f'/v1/gradings/{ids[0]}', 'http://127.0.0.1/v1/models', 'http://evil.example/v1/models', '127.0.0.1:80', '/v1/models#x', '/v1/mo dels', '/\xff', '/%', '/%zz', '/%00', '/v1/models?' + 'a=1&'*rng.choice((10, 3000)),
                       '/v1/gradings/' + 'a'*3000, '/v1/reviews?state=' + 'x'*300, '/v1/alerts?seen=perhaps', '/v1/alerts?seen=true&seen=false', '/v1/gradings/%ed%a0%80', '', '/v1/models/../../etc', '/docs', '/metrics', '/v2/models/%2e%2e/infer', '/v1/../v1/models'))
    version = rng.choice(('HTTP/1.1',)*5 + ('HTTP/1.0', 'HTTP/0.9', 'HTTP/2.0', 'HTTP/1.10', 'HTTP/x', '', 'http/1.1'))
    return http(method, path, host=rng.choice(('127.0.0.1',)*6 + (None, 'evil.example', '127.0.0.1:99999', '[::1', 'a@127.0.0.1', 'localhost.')), version=version)

def keys(rng, ids):
    key = rng.choice(('%00', '%0d%0aX-Evil:1', '%ff', '%ed%a0%80', 'a'*201, '%20', '..%2f..%2fx', 'a/b', '%E2%80%AE', "';drop table image;--", '{0}', '%25', '~', 'a'*200, WHO[0]))
    query = rng.choice(('', '', '?heat_map=perhaps', '?heat_map=true&heat_map=0', '?grade_anyway=%00', '?cam=1', '?x=y', '?' + 'a'*1500, '?heat_map='))
    body, kind = form([rng.choice(_files()[:3])])
    return http('PUT', f'/v1/gradings/{key}{query}', body, f'Content-Type: {kind}')

def tensors(rng, ids):
    "The open inference protocol"
    shape = rng.choice(([1, 3, 64, 64], [1, 3, 64, -1], [], [10**9]*4, [0, 3, 64, 64], ['1'], None, [1, 3, 64], [2**63, 2**63]))
    one = dict(name=rng.choice(('image', '', '\0', 5)), datatype=rng.choice(('FP32', 'FP64', 'BYTES', 'X', None)), shape=shape)
    if rng.random() < .5: one['data'] = rng.choice(([], [1]*100, [[1]], 'abc', [None], ['\ud800'], {'a': 1}, [10**400], [float('nan')]*12))
    else: one['parameters'] = dict(binary_data_size=rng.choice((0, 5, -1, 10**12, '5', None, 3*64*64*4)))
    head = json.dumps(dict(inputs=[one]*rng.choice((1, 1, 2)), **rng.choice(({}, dict(outputs=[dict(name='x')]), dict(id='a'*5000), dict(parameters=5))))).encode()
    if rng.random() < .2: head = mutated(rng, head)
    n = rng.choice((len(head),)*4 + (0, -1, len(head) + 5, 10**9, 'x', ''))
    where = rng.choice(('/v2/models/run/infer', '/v2/models/x/infer', '/v2/models/run/versions/x/infer', '/v2/models/%2e%2e/infer'))
    more = [f'Inference-Header-Content-Length: {n}'] if rng.random() < .6 else []
    return http('POST', where, head + rng.randbytes(rng.choice((0, 5, 3*64*64*4))), rng.choice(('Content-Type: application/json', 'Content-Type: application/octet-stream')), *more)

def noise(rng, ids):
    return rng.choice((rng.randbytes(rng.choice((1, 100, 5000, 70_000))), b'\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03' + rng.randbytes(200), b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', b'\r\n'*500, b'GET / HTTP/1.1', b'SSH-2.0-x\r\n', b'\0'*100, b'EHLO x\r\n', b'*1\r\n$4\r\nPING\r\n',
                       b'GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n' + b'a'*40_000))

def half(rng, ids):
    data = rng.choice(_files())
    return upload(rng, [data[:rng.randrange(1, len(data))]])
def damaged(rng, ids): return upload(rng, [mutated(rng, rng.choice(_files()))]*rng.choice((1, 1, 2)))
def bombs(rng, ids): return upload(rng, [_bomb(rng)])
def odd_pictures(rng, ids): return upload(rng, [_odd_picture(rng)], path=rng.choice(('/v1/gradings', '/v1/gradings?heat_map=true', '/v1/gradings?grade_anyway=true')))
def archives(rng, ids): return upload(rng, [_archive(rng)])
def documents(rng, ids): return upload(rng, [_document(rng)])
def dicoms(rng, ids): return upload(rng, [_garbage_dicom(rng)])
def bare(rng, ids): return http(rng.choice(('POST', 'PUT')), rng.choice(('/v1/gradings', '/v1/gradings/k')), rng.choice(_files()), 'Content-Type: ' + rng.choice(('image/jpeg', 'application/octet-stream', 'application/json', 'text/plain', 'multipart/form-data; boundary=q')))

KINDS = (json_values, json_texts, tags, form_damage, boundaries, fields, packed, lengths, chunks, smuggled, headers, lines, keys, tensors, noise, half, damaged, bombs, odd_pictures, archives, documents, dicoms, bare)

# --- what comes back
def replies(data):
    "(status, headers in small letters, body) of each answer in what came back"
    out = []
    while data:
        head, _, rest = data.partition(b'\r\n\r\n')
        first, *more = head.split(b'\r\n')
        status = int(first.split()[1])
        fields = {k.lower(): v.strip() for k, _, v in (l.decode('latin-1').partition(':') for l in more)}
        if status < 200: data = rest
        elif 'content-length' in fields: body, data = rest[:int(fields['content-length'])], rest[int(fields['content-length']):]
        else: body, data = rest, b''
        if status >= 200: out.append((status, fields, body))
    return out

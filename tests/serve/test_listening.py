"Raw bytes at the door: bounds to what may have no end, offers of another protocol, damage in the middle of an answer"
import asyncio, io, json, socket, time

import pytest

from retina_nb.serve.journal import Journal
from retina_nb.serve.listening import HEAD, Running

BIG = b'x'*300_000

async def echo(scope, receive, send):
    "Answers with the size of the body, in two parts with some time between them"
    if scope['type'] == 'lifespan':
        for step in ('startup', 'shutdown'):
            await receive()
            await send(dict(type=f'lifespan.{step}.complete'))
        return
    n, more = 0, True
    while more:
        m = await receive()
        if m['type'] == 'http.disconnect': return
        n, more = n + len(m.get('body', b'')), m.get('more_body', False)
    said = f"{scope['method']} {scope['path']} {n}".encode()
    await send(dict(type='http.response.start', status=200, headers=[(b'content-length', str(2*len(said)).encode())]))
    await send(dict(type='http.response.body', body=said, more_body=True))
    if b'slow' in scope['query_string']: await asyncio.sleep(.5)
    await send(dict(type='http.response.body', body=said))

@pytest.fixture(scope='module')
def port():
    with Running(echo, journal=Journal(io.StringIO())) as url: yield int(url.rsplit(':', 1)[1])

def heard(port, *parts, most=None):
    "All that comes back for some bytes, sent one after the other; from a source without end, at most so many bytes are sent"
    with socket.create_connection(('127.0.0.1', port), timeout=20) as s:
        sent = 0
        try:
            for p in parts if most is None else parts[0]:
                s.sendall(p)
                sent += len(p)
                assert most is None or sent < most, f'{sent:,} bytes were taken'
            if most is None: s.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError): pass
        out = b''
        try:
            while data := s.recv(2**16): out += data
        except ConnectionResetError: pass
        return out

def endless(head, piece):
    yield head
    while True: yield piece

HOST = b'Host: 127.0.0.1\r\n'
POST = b'POST /a HTTP/1.1\r\n' + HOST
ENDLESS = {
    'an address': (b'GET /', b'a'*1000), 'a header': (POST + b'X: ', b'a'*1000), "a header's name": (POST, b'a'*1000),
    'headers': (POST, b'X: ' + b'a'*90 + b'\r\n'), 'a chunk that says what it is': (POST + b'Transfer-Encoding: chunked\r\n\r\n5;x=', b'a'*1000),
    'a header after the body': (POST + b'Transfer-Encoding: chunked\r\n\r\n0\r\nX: ', b'a'*1000),
    'headers after the body': (POST + b'Transfer-Encoding: chunked\r\n\r\n0\r\n', b'X: ' + b'a'*90 + b'\r\n')}

@pytest.mark.parametrize('what', ENDLESS)
def test_no_end(port, what):
    "Whatever never ends is refused before it takes memory"
    got = heard(port, endless(*ENDLESS[what]), most=2**24)
    assert not got or (got.startswith(b'HTTP/1.1 400') and got.count(b'HTTP/1.1') == 1)

def test_head_at_its_bound(port):
    "A head just below the bound is taken, one above it is not"
    def one(n): return heard(port, b'GET /a HTTP/1.1\r\n' + HOST + b'X: ' + b'a'*n + b'\r\n\r\n').split(b'\r\n')[0]
    assert one(HEAD - 100) == b'HTTP/1.1 200 OK'
    assert one(HEAD) == b'HTTP/1.1 400 Bad Request'

def test_refusal_is_json(port):
    head, body = heard(port, b'nonsense\r\n\r\n').split(b'\r\n\r\n')
    assert b'connection: close' in head and f'content-length: {len(body)}'.encode() in head
    assert 'not HTTP' in json.loads(body)['error']

def sized(body, *more, method=b'POST', address=b'/a'):
    return b'\r\n'.join([method + b' ' + address + b' HTTP/1.1', HOST[:-2], b'Content-Length: ' + str(len(body)).encode(), *more, b'', b'']) + body

CHUNKED = POST + b'Transfer-Encoding: chunked\r\n%s\r\n' + b''.join(b'%x\r\n' % 50_000 + BIG[:50_000] + b'\r\n' for _ in range(6)) + b'0\r\n\r\n'
OFFER = b'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n'

@pytest.mark.parametrize('offer', [b'', OFFER, b'Upgrade: websocket\r\nConnection: upgrade\r\n', b'upgrade: TLS/1.0\r\nconnection: Upgrade, close\r\n'])
@pytest.mark.parametrize('how', ['at once', 'in pieces', 'head first', 'chunked'])
def test_whole_body(port, offer, how):
    "A body arrives whole, however it is cut, and whatever else the client would like to speak"
    more = offer.rstrip(b'\r\n').split(b'\r\n') if offer else []
    whole = CHUNKED % offer if how == 'chunked' else sized(BIG, *more)
    cut = [whole[i:i+7001] for i in range(0, len(whole), 7001)] if how == 'in pieces' else whole.partition(b'\r\n\r\n') if how == 'head first' else [whole]
    got = heard(port, *cut)
    assert got.startswith(b'HTTP/1.1 200 OK') and got.endswith(b'POST /a 300000'*2), got[:200]

def test_offer_without_body(port):
    got = heard(port, b'GET /b?c HTTP/1.1\r\n' + HOST + OFFER + b'\r\n')
    assert got.endswith(b'GET /b 0'*2) and got.count(b'HTTP/1.1') == 1

@pytest.mark.parametrize('line', [b'CONNECT 127.0.0.1:80 HTTP/1.1', b'GET http://[ HTTP/1.1', b'GET /\xff HTTP/1.1', b'GET /a HTTP/3.7', b'PRI * HTTP/2.0'])
def test_odd_first_lines(port, line):
    "No proxy, no other protocol, no address that is none: one refusal, and the service stays"
    got = heard(port, line + b'\r\n' + HOST + b'\r\n')
    assert got.count(b'HTTP/1.1') == 1 and got.startswith(b'HTTP/1.1 400'), got
    assert heard(port, sized(b'abc')).endswith(b'POST /a 3'*2)

TWICE = {'two sizes': b'Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef', 'a size and chunks': b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
         'a size that is none': b'Content-Length: -5\r\n\r\n', 'a folded header': b'X: a\r\n b\r\nContent-Length: 0\r\n\r\n', 'space before the colon': b'Content-Length : 3\r\n\r\nabc',
         'a zero in a header': b'X: a\0b\r\n\r\n', 'chunks in other words': b'Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n', 'a size of chunk that is none': b'Transfer-Encoding: chunked\r\n\r\nzz\r\nabc'}

@pytest.mark.parametrize('what', TWICE)
def test_what_can_be_read_in_two_ways(port, what):
    "A request that two servers could cut at different places, with which one is smuggled past a proxy, is refused"
    got = heard(port, POST + TWICE[what])
    assert got.startswith(b'HTTP/1.1 400') and got.count(b'HTTP/1.1') == 1, got

def test_pipeline(port):
    "Two requests in one piece, and one in another protocol's words after them, get their answers in turn"
    got = heard(port, sized(b'abc', address=b'/1?slow') + sized(b'de', address=b'/2') + sized(b'f', *OFFER.rstrip().split(b'\r\n'), address=b'/3'))
    assert [got.find(x) >= 0 for x in (b'POST /1 3', b'POST /2 2', b'POST /3 1')] == [True]*3
    assert got.find(b'/1 3') < got.find(b'/2 2') < got.find(b'/3 1') and got.count(b'200 OK') == 3

BEHIND = {'no request': b'\0\0 nonsense\r\n\r\n', 'a head that is too long': b'GET /2 HTTP/1.1\r\nX: ' + b'a'*HEAD*2, 'a body in bad chunks': POST + b'Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n',
          'a whole request, then none': sized(b'de', address=b'/2') + b'\0 nonsense\r\n\r\n', 'two sizes': POST + b'Content-Length: 5\r\nContent-Length: 6\r\n\r\n'}

@pytest.mark.parametrize('what', BEHIND)
@pytest.mark.parametrize('apart', [False, True])
def test_damage_behind_a_request(port, what, apart):
    "What is damaged behind a whole request takes nothing from its answer, and puts nothing before or into it"
    parts = sized(b'abc', address=b'/1?slow'), BEHIND[what]
    with socket.create_connection(('127.0.0.1', port), timeout=20) as s:
        for p in parts if apart else [b''.join(parts)]:
            s.sendall(p)
            if apart: time.sleep(.2)
        out = b''
        try:
            while data := s.recv(2**16): out += data
        except ConnectionResetError: pass # it closes while bytes are left that nobody reads
    assert out.startswith(b'HTTP/1.1 200 OK') and b'POST /1 3POST /1 3' in out, out
    more = out.partition(b'POST /1 3POST /1 3')[2]
    assert (b'POST /2 2POST /2 2' in more) if 'then none' in what else more == b'', out

def test_asks_before_it_sends(port):
    "`Expect: 100-continue` is answered before the body comes"
    with socket.create_connection(('127.0.0.1', port), timeout=20) as s:
        s.sendall(POST + b'Content-Length: 3\r\nExpect: 100-continue\r\n\r\n')
        assert s.recv(100).startswith(b'HTTP/1.1 100')
        s.sendall(b'abc')
        out = b''
        while not out.endswith(b'POST /a 3'*2): out += s.recv(1000)

"Spans reach a collector with their stages and nobody's name; a collector that is away, slow or wrong harms nothing"
import socket, time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from servers import Handler, Server
from clients import Process, form, picture

class Collector(Handler):
    def do_POST(self):
        self.server.got.append((self.path, self.body()))
        self.answer({}, self.server.status)

def _value(v): return getattr(v, v.WhichOneof('value'))

def _spans(server):
    found = [ExportTraceServiceRequest.FromString(body) for _, body in server.got]
    return [(s, {a.key: _value(a.value) for a in s.attributes}) for m in found for r in m.resource_spans for c in r.scope_spans for s in c.spans]

def test_spans(bundle, tmp_path):
    got = Server(Collector, got=[], status=200)
    trace, parent = '4bf92f3577b34da6a3ce929d0e0e4736', '00f067aa0ba902b7'
    with Process(tmp_path, bundle, tmp_path/'s', more=f'[trace_to({got.url!r})]') as p:
        p.ready()
        body, kind = form([picture(1), picture(2)], dict(hospital='Seven Oaks', patient='Mrs Example'))
        r = p.ask('PUT', '/v1/gradings/Example-1952', body, kind, traceparent=f'00-{trace}-{parent}-01', tracestate='who=Example', baggage='who=Example')
        again = p.ask('PUT', '/v1/gradings/Example-1952', body, kind)
        assert p.ask('GET', '/v1/Example').status == 404 and r.status == again.status == 200
        p.ask('GET', '/v1/models', traceparent='00-Example-1952-01')
        assert p.stop() == 0
        assert 'Example' not in p.text()
    spans = _spans(got)
    assert {path for path, _ in got.got} == {'/v1/traces'}
    assert b'Example' not in b''.join(b for _, b in got.got) and b'Seven' not in b''.join(b for _, b in got.got)
    first, facts = next((s, f) for s, f in spans if f['retina.request'] == r.headers['x-request-id'])
    assert first.name == 'PUT /v1/gradings/{key}' and (first.trace_id.hex(), first.parent_span_id.hex()) == (trace, parent)
    assert facts['http.response.status_code'] == 200 and facts['retina.model'] == r.json['gradings'][0]['model']['id'] and facts['retina.answer'] == r.json['id']
    seconds = {k.rsplit('.', 1)[1]: v for k, v in facts.items() if k.startswith('retina.seconds.')}
    took = (first.end_time_unix_nano - first.start_time_unix_nano)/1e9
    assert set(seconds) == {'read', 'prepare', 'model', 'store'} and all(0 < v <= 2*took for v in seconds.values()) and facts['retina.photographs'] == 2
    assert seconds['model'] == pytest.approx(sum(g['seconds']['model'] for g in r.json['gradings']))
    second, facts = next((s, f) for s, f in spans if f['retina.request'] == again.headers['x-request-id'])
    assert facts['retina.repeated'] and 'retina.seconds.model' not in facts and second.trace_id.hex() != trace and not second.parent_span_id
    assert {f['http.route'] for _, f in spans} >= {'(none)', '/v1/models', '/v1/health/ready'}
    got.shutdown()

@pytest.mark.parametrize('kind', ['nobody', *(pytest.param(k, marks=pytest.mark.full) for k in ('silent', 'failing'))])
def test_a_collector_that_does_not_work(bundle, tmp_path, kind):
    got = Server(Collector, got=[], status=503)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        if kind == 'silent': s.listen() # takes the line, and never answers
        url = got.url if kind == 'failing' else f'http://127.0.0.1:{s.getsockname()[1]}'
        with Process(tmp_path, bundle, tmp_path/'s', more=f'[trace_to({url!r})]') as p:
            p.ready()
            start = time.time()
            for i in range(4): assert p.ask.grade(picture(i)).status == 200
            assert time.time() - start < 20
            start = time.time()
            assert p.stop() == 0 and time.time() - start < 15
            assert {l['event'] for l in p.lines()} <= {'request', 'ready', 'stopped'} and len(p.lines()) == len(p.text().splitlines())
    got.shutdown()

"An earlier model is deployed again while people send photographs: nobody is turned away, and each answer names the model that gave it"
import json, shutil, threading, time

import pytest

from retina_nb.deploy import Grader, load_bundle, write_sums
from retina_nb.serve import Store, replay_store
from random_model import random_run, shared
from clients import Process, picture

@pytest.fixture(scope='module')
def bundles(tmp_path_factory):
    "Two models that answer differently"
    from retina_nb.deploy.exporter import export
    d = tmp_path_factory.mktemp('two')
    return shutil.copytree(shared()[1], d/'old'), export(random_run(d/'run', size=96, operating_point=dict(threshold=.6)), d/'new')

def test_an_old_model_again_under_load(bundles, tmp_path):
    old, new = bundles
    ids = {load_bundle(b).id: Grader(b) for b in bundles}
    with Store(tmp_path/'s') as s: first = s.register(old)
    eyes, got, over = [picture(i) for i in range(4)], [], threading.Event()
    want = {(id, i): g(e).probabilities for id, g in ids.items() for i, e in enumerate(eyes)}
    with Process(tmp_path, new, tmp_path/'s', keep_images=repr(str(tmp_path/'pictures'))) as p:
        p.ready()
        def _send(k):
            i = k
            while not over.is_set():
                got.append((i % 4, p.ask.grade(eyes[i % 4], key=f'{k}-{i}')))
                i += 1
        senders = [threading.Thread(target=_send, args=(k,)) for k in range(3)]
        for t in senders: t.start()
        try:
            names = list(ids)
            for turn in range(4):
                time.sleep(.4)
                r = p.ask('POST', '/v1/deployments', dict(bundle=names[turn % 2]))
                assert r.status == 200 and r.json['share'] == 1 and p.ask('GET', '/v1/health/ready').json['model'] == names[turn % 2]
                seen = p.ask.grade(eyes[0]).json # who asks after the step hears the new one
                assert seen['model']['id'] == names[turn % 2]
        finally:
            over.set()
            for t in senders: t.join()
        assert {r.status for _, r in got} == {200}
        for i, r in got: assert r.json['probabilities'] == want[r.json['model']['id'], i] and r.json['threshold'] == ids[r.json['model']['id']].threshold
        assert {r.json['model']['id'] for _, r in got} == set(ids) and first in ids
        text = p.ask('GET', '/metrics').body.decode()
        assert text.count('retina_model{') == 1 and names[1] in text.split('retina_model{')[1].splitlines()[0]
    with Store(tmp_path/'s') as s:
        assert [d['bundle'] for d in s.deployments()] == [names[1], names[0], names[1], names[0], names[1]] and s.check() == []
        assert all(r.same for r in replay_store(s))

def test_a_bundle_that_cannot_answer_any_more(bundles, tmp_path):
    old, new = (shutil.copytree(b, tmp_path/b.name) for b in bundles)
    with Process(tmp_path, new, tmp_path/'s') as p:
        p.ready()
        with Store(tmp_path/'s') as s: id = s.register(old)
        live = p.ask('GET', '/v1/health/ready').json['model']
        def _refused(why):
            r = p.ask('POST', '/v1/deployments', dict(bundle=id))
            assert r.status == 409 and why in r.error and 'goes on' in r.error and str(tmp_path) not in r.error, r.body
            assert p.ask('GET', '/v1/health/ready').json['model'] == live and p.ask.grade(picture(1)).json['model']['id'] == live
        away = old.rename(tmp_path/'away')
        _refused('not there any more')
        shutil.copytree(new, old)
        _refused('holds another one')
        shutil.rmtree(old)
        shutil.copytree(away, old)
        (old/'model.onnx').write_bytes((old/'model.onnx').read_bytes()[:-1] + b'x')
        _refused('changed, or are damaged')
        shutil.rmtree(old)
        shutil.copytree(away, old)
        golden = json.loads((old/'golden/golden.json').read_text())
        golden['images'][0]['probabilities']['fp32'].reverse()
        (old/'golden/golden.json').write_text(json.dumps(golden))
        write_sums(old)
        _refused('golden images come out differently')
        shutil.rmtree(old)
        away.rename(old)
        assert p.ask('POST', '/v1/deployments', dict(bundle=id)).json['golden'] == 8
        assert p.ask('GET', '/v1/health/ready').json['model'] == id

def test_a_candidate_looks_on_unseen(bundles, tmp_path):
    "With a share of 0 it answers nobody; another preprocessing has to be wanted"
    old, new = bundles
    with Process(tmp_path, new, tmp_path/'s') as p:
        p.ready()
        with Store(tmp_path/'s') as s: id = s.register(old)
        r = p.ask('POST', '/v1/deployments', dict(bundle=id, alias='candidate'))
        assert r.status == 409 and 'other_preprocess' in r.error
        r = p.ask('POST', '/v1/deployments', dict(bundle=id, alias='candidate', other_preprocess=True))
        assert r.status == 200 and r.json['share'] == 0
        r = p.ask('POST', '/v1/deployments', dict(bundle=id, alias='candidate', part=.5))
        assert r.status == 422 and r.error.startswith('part: ')
        assert id not in {p.ask.grade(picture(i)).json['model']['id'] for i in range(3)}
        assert [(m['aliases'], m['share']) for m in p.ask('GET', '/v1/models').json['models'] if m['id'] == id] == [(['candidate'], 0)]
        assert 'looks on, unseen' in p.ask('GET', '/openapi.json').body.decode()
    with Store(tmp_path/'s') as s: assert [(d['alias'], d['share']) for d in s.deployments()] == [('live', 1.), ('candidate', 0.)]

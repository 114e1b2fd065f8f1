"retina_deploy as it is typed: what it refuses in one line, what it writes, and that a running service follows"
import contextlib, io, json, re, shutil, subprocess, time

import pytest

from retina_nb.deploy import MockSettings, write_mock, write_truth
from retina_nb.serve import Store
from clients import Process, picture
from random_model import shared

@pytest.fixture(scope='module')
def mocks(tmp_path_factory):
    d = tmp_path_factory.mktemp('mocks')
    return {k: write_mock(d/k, settings=MockSettings(p_correct=.9, seed=i)) for i, k in enumerate(('old', 'new'))}

@pytest.fixture
def retina_deploy():
    "The command line as a user types it, in this process"
    from retina_nb.commands import _parse
    from retina_nb.serve import retina_deploy
    def _run(*args):
        out, err, status = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try: retina_deploy(**_parse(retina_deploy.__wrapped__, [*map(str, args)]))
            except SystemExit as e: status = e.code or 0
        return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())
    return _run

def test_steps_and_back(retina_deploy, mocks, url):
    Store(url).close()
    def _typed(*args): return retina_deploy(*args, '--db', url, '--by', 'Anna')
    r = _typed(mocks['old'])
    assert r.returncode == 0 and 'is live' in r.stdout and r.stderr == ''
    assert 'looks on, unseen' in _typed(mocks['new'], '--as', 'candidate').stdout
    assert 'answers 10% of the patients' in _typed(mocks['new'], '--as=candidate', '--share', '.1', '--why', 'more data').stdout
    r = _typed('--status')
    assert r.returncode == 0 and 'more data' in r.stdout and 'shown to be worse on less than' in r.stdout
    r = _typed('--next')
    assert r.returncode == 2 and 'takes no step yet' in r.stderr and len(r.stderr.splitlines()) == 1
    assert 'candidate no longer' in _typed('--back', '--why', 'enough').stdout
    with Store(url) as s:
        new = s.bundles()[1]['id']
        assert [(d['alias'], d['share'], d['why'], d['by']) for d in s.deployments()] == [
            ('live', 1, '', 'Anna'), ('candidate', 0, '', 'Anna'), ('candidate', .1, 'more data', 'Anna'), ('withdrawn', 0, 'enough', 'Anna')]
    assert _typed(new).returncode == 0 and 'live again' in _typed('--back').stdout # by its id, and back
    with Store(url) as s: assert s.deployed()['id'] != new and s.check() == []

@pytest.mark.parametrize('args,words', [([], 'which bundle'), (['x', '--back'], 'takes no bundle'), (['--back', '--next'], 'Choose one'), (['x', '--as', 'king'], "choose live or candidate"),
    (['x', '--share', '.5'], '--share belongs to'), (['x', '--as', 'candidate', '--share', '2'], 'between 0 and 1'), (['x', '--share', 'half'], 'invalid float'),
    (['nowhere'], 'no such folder'), (['--back'], 'no candidate, and no model'), (['--next'], 'there is no candidate'), (['x', '--candidate'], 'no such option')])
def test_what_is_refused_in_one_line(retina_deploy, tmp_path, args, words):
    Store(tmp_path/'s').close()
    r = retina_deploy(*args, '--db', tmp_path/'s')
    assert r.returncode == 2 and words in r.stderr and len(r.stderr.splitlines()) == 1 and r.stdout == '', r
    with Store(tmp_path/'s') as s: assert s.deployments() == []

def test_a_store_is_not_made_by_a_slip(retina_deploy, mocks, tmp_path):
    r = retina_deploy(mocks['old'], '--db', tmp_path/'nowhere')
    assert r.returncode == 2 and 'no store here' in r.stderr and list(tmp_path.iterdir()) == []
    Store(tmp_path/'s').close()
    (tmp_path/'gate.json').write_text('{"king": 1}')
    assert 'unknown name' in retina_deploy('--status', '--db', tmp_path/'s', '--gate', tmp_path/'gate.json').stderr
    r = retina_deploy('--status', '--db', tmp_path/'s', '--gate', tmp_path/'none.json')
    assert r.returncode == 2 and 'none.json' in r.stderr

def test_back_and_back_again_goes_two_models_back(retina_deploy, mocks, tmp_path):
    third = write_mock(tmp_path/'third', settings=MockSettings(p_correct=.9, seed=9))
    def _live():
        with Store(tmp_path/'s') as s: return s.deployed()['id']
    def _typed(*args): return retina_deploy(*args, '--db', tmp_path/'s')
    Store(tmp_path/'s').close()
    ids = []
    for m in (mocks['old'], mocks['new'], third):
        assert _typed(m).returncode == 0
        ids.append(_live())
    for id in reversed(ids[:-1]): assert _typed('--back').returncode == 0 and _live() == id
    r = _typed('--back')
    assert r.returncode == 2 and 'no model was live before' in r.stderr and _live() == ids[0]
    for i in (1, 2): assert _typed(ids[i]).returncode == 0
    assert _typed(ids[0]).returncode == 0 and _typed('--back').returncode == 2 # by its id it is the first one again

def test_what_the_service_was_told_holds_for_the_command(retina_deploy, mocks, tmp_path, monkeypatch):
    "Its gate, the errors that it met, and drift, which is asked anew; only --gate names another gate"
    from retina_nb.serve import RolloutGate, follow_gate, trying
    from retina_nb.serve.rollout import count_fault
    with Store(tmp_path/'s') as s: follow_gate(s, RolloutGate(patients=7, faults=3))
    def _typed(*args): return retina_deploy(*args, '--db', tmp_path/'s')
    for args in ((mocks['old'],), (mocks['new'], '--as', 'candidate')): assert _typed(*args).returncode == 0
    with Store(tmp_path/'s') as s: count_fault(s, s.standing())
    said = _typed('--status').stdout
    assert '7 patients in this step' in said and 'at most 3 faults of the model: 1 so far' in said and 'no alarm of drift: none' in said
    (tmp_path/'gate.json').write_text('{"patients": 9}')
    assert '9 patients in this step' in _typed('--status', '--gate', tmp_path/'gate.json').stdout
    def _no(*args, **kwargs): raise ValueError('a time that is none')
    monkeypatch.setattr(trying, 'watch_store', _no)
    assert 'open    no alarm of drift: cannot be watched (ValueError)' in _typed('--status').stdout
    assert 'no alarm of drift: cannot be watched' in _typed('--next').stderr

def test_golden_images_are_replayed_before_anything_is_written(retina_deploy, tmp_path):
    "A real bundle whose golden answers do not come out is refused, also one that was live before"
    from retina_nb.deploy import write_sums
    bundle = shutil.copytree(shared()[1], tmp_path/'b')
    Store(tmp_path/'s').close()
    assert retina_deploy(bundle, '--db', tmp_path/'s').returncode == 0
    with Store(tmp_path/'s') as s: id = s.deployed()['id']
    golden = json.loads((bundle/'golden/golden.json').read_text())
    golden['images'][0]['probabilities']['fp32'].reverse()
    (bundle/'golden/golden.json').write_text(json.dumps(golden))
    write_sums(bundle)
    with Store(tmp_path/'s') as s: before = s.deployments()
    r = retina_deploy(id, '--db', tmp_path/'s')
    assert r.returncode == 2 and ('come out differently' in r.stderr or 'another one' in r.stderr) and len(r.stderr.splitlines()) == 1
    with Store(tmp_path/'s') as s: assert s.deployments() == before

def test_a_running_service_follows(retina_deploy, mocks, tmp_path):
    "Live, a candidate for all, and back, each by the command, while photographs are answered"
    eye = write_truth(picture(0, size=64), 0)
    with Process(tmp_path, mocks['old'], tmp_path/'s') as p:
        p.ready()
        def _by(): return p.ask.grade(eye, dict(patient='P1')).json['model']['id']
        def _until(id):
            end = time.monotonic() + 8
            while (got := _by()) != id and time.monotonic() < end: time.sleep(.1)
            return got == id
        old = _by()
        r = retina_deploy(mocks['new'], '--db', tmp_path/'s', '--as', 'candidate', '--share', '1')
        new = re.match(r'\w+', r.stdout)[0]
        assert r.returncode == 0 and _until(new)
        assert retina_deploy('--back', '--db', tmp_path/'s').returncode == 0 and _until(old)
        assert retina_deploy(new, '--db', tmp_path/'s').returncode == 0 and _until(new)
        assert p.ask('GET', '/v1/health/ready').json['model'] == new
        assert retina_deploy('--back', '--db', tmp_path/'s').returncode == 0 and _until(old)
    with Store(tmp_path/'s') as s: assert s.check() == [] and [d['alias'] for d in s.deployments()] == ['live', 'candidate', 'withdrawn', 'live', 'live']

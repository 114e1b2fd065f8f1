"What goes wrong with place, tracker, data and objects of one's own is said before the first photograph is read"
import json, random, shutil, subprocess, sys, time
from pathlib import Path

import numpy as np, pandas as pd, pytest

torch = pytest.importorskip('torch')
from torch import nn
from random_model import shared
from servers import Handler, Server
from retina_nb.core import RetinaError, Run, RunError, SettingError, TASKS
from retina_nb.data import load_records, split_records
from retina_nb.measure import evaluate
from retina_nb.synth import sample_dir
from retina_nb.train import (TrainConfig, compare, evaluate_run, load_model, make_learner, paired, predict, retina_compare,
                             retina_evaluate, retina_train, save_run, together, train)

TINY = dict(arch='test_resnet', size=32, epochs=1, pretrained=False, progress=False)

@pytest.fixture(scope='module')
def records():
    return split_records(load_records(sample_dir()), seed=42).groupby(['split', 'label'], group_keys=False).head(4).reset_index(drop=True)

@pytest.fixture(scope='module')
def run(records, tmp_path_factory): return train(records, out=tmp_path_factory.mktemp('r')/'run', **TINY)

@pytest.fixture
def unread(monkeypatch):
    "Reading labels or photographs is an error of the test"
    def no(*a, **k): raise AssertionError('the data were read')
    monkeypatch.setattr('retina_nb.train.learner.load_records', no)
    monkeypatch.setattr('retina_nb.train.learner.require_usable', no)

@pytest.fixture
def says(capsys):
    "Run a command in this process: what it said on stderr, which must be one line with exit status 2"
    def _run(f, *args, **kw):
        start = time.perf_counter()
        with pytest.raises(SystemExit) as e: f(*args, **kw)
        err = capsys.readouterr().err
        assert e.value.code == 2 and len(err.strip().splitlines()) == 1 and err.startswith('error: '), err
        assert time.perf_counter() - start < 60 # ten seconds, and a machine that does much else
        return err
    return _run

def answers(status, body=b'no', wait=0.):
    "A server with one answer to everything"
    class Ill(Handler):
        def do_POST(self):
            time.sleep(wait)
            self.send_response(status); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
        do_GET = do_POST
        def log_message(self, *_): pass
    return Server(Ill)

# --- tracking

@pytest.mark.parametrize('uri, told', [
    ('./mlruns', 'plain folders'), ('mlruns', 'plain folders'), ('file:///tmp/mlruns', 'plain folders'), ('ftp://db.example/x', 'no such address'),
    ('foo:bar', 'no such address'), ('http://127.0.0.1:9', 'no server answers'), ('sqlite://', 'names no database'), ('sqlite:///:memory:', 'names no database'),
    ('sqlite:////proc/nothing/x.db', 'cannot be written'), ('postgresql://me:secret@127.0.0.1:1/x', 'postgresql://...@')])
def test_mlflow_that_cannot_be_spoken_to(uri, told, unread, says, tmp_path):
    pytest.importorskip('mlflow')
    err = says(retina_train, 'data', out=tmp_path/'run', no_pretrained=True, track='mlflow', track_uri=uri)
    assert told in err and 'secret' not in err and not (tmp_path/'run').exists()

@pytest.mark.parametrize('status, wait, told', [(500, 0, 'error of its own'), (503, 0, 'error of its own'), (401, 0, 'login'), (404, 0, 'not MLflow'), (200, 20, 'no server answers|no answer')])
def test_a_server_that_is_ill_is_asked_once(status, wait, told, unread, says, tmp_path):
    pytest.importorskip('mlflow')
    server = answers(status, wait=wait)
    err = says(retina_train, 'data', out=tmp_path/'run', no_pretrained=True, track='mlflow', track_uri=server.url)
    assert any(t in err for t in told.split('|')), err
    server.shutdown()

def test_a_place_that_mlflow_cannot_use(unread, says, tmp_path):
    pytest.importorskip('mlflow')
    (tmp_path/'text.db').write_text('no database at all')
    (tmp_path/'folder').mkdir()
    for name, told in (('text.db', 'not an SQLite'), ('folder', 'is a folder'), ('text.db/x.db', 'not a folder')):
        assert told in says(retina_train, 'data', out=tmp_path/'run', no_pretrained=True, track='mlflow', track_uri=f'sqlite:///{tmp_path}/{name}')

def test_tensorboard_and_wandb(unread, says, tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    (tmp_path/'file').touch()
    how = dict(out=tmp_path/'run', no_pretrained=True)
    assert 'folder' in says(retina_train, 'data', track='tensorboard', track_uri=tmp_path/'file', **how)
    assert 'folder' in says(retina_train, 'data', track='tensorboard', track_uri='http://localhost:6006', **how)
    assert '--track' in says(retina_train, 'data', track_uri='http://localhost:6006', **how)
    fake = type(sys)('wandb')
    fake.run, fake.api = None, type('Api', (), dict(api_key='k'))
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    monkeypatch.setenv('WANDB_BASE_URL', 'http://127.0.0.1:9')
    assert 'WANDB_MODE=offline' in says(retina_train, 'data', track='wandb', **how)
    fake.api.api_key = None
    assert 'wandb login' in says(retina_train, 'data', track='wandb', **how)
    assert 'name without' in says(retina_train, 'data', track='wandb', track_uri='http://x', **how)

# --- places, in order

def test_an_out_that_is_taken_is_refused_before_anything_else(run, unread, says, tmp_path):
    (tmp_path/'other').mkdir()
    (tmp_path/'other'/'notes.txt').touch()
    bundle = tmp_path/'bundle'
    bundle.mkdir()
    (bundle/'config.json').write_text('{"format": "retina_nb bundle"}')
    assert 'holds a run already' in says(retina_train, 'nothing', out=run.path)
    for place, told in ((tmp_path/'other', 'not a run folder'), (bundle, 'not a run folder'), (tmp_path/'other'/'notes.txt', 'not a folder'), ('/dev/null', 'not a folder')):
        assert told in says(retina_train, 'nothing', out=place, layout='nonsense')
    assert sorted(f.name for f in (tmp_path/'other').iterdir()) == ['notes.txt']
    assert 'exists already' in says(retina_evaluate, run.path, out=tmp_path/'other')
    assert 'exists already' in says(retina_compare, [run.path, 'nothing'], out=tmp_path/'other')

def test_data_and_layout_are_looked_at_before_weights_are_asked_for(says, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert 'nodata' in says(retina_train, 'nodata', out=tmp_path/'run', arch='resnet34')
    assert 'unknown layout' in says(retina_train, str(sample_dir()), out=tmp_path/'run', arch='resnet34', layout='foo')
    assert 'synth:N' in says(retina_train, 'synth:many', out=tmp_path/'run', arch='resnet34')
    assert 'resnet81' in says(retina_train, 'synth:100', out=tmp_path/'run', arch='resnet81', no_pretrained=True)
    assert 'weights' in says(retina_train, str(sample_dir()), out=tmp_path/'runs'/'run', arch='resnet34')
    assert not (tmp_path/'runs').exists()

def test_two_trainings_into_one_folder(records, tmp_path):
    "The second is refused while the first is at work, begun or not, and with --resume too"
    code = f'import time; from retina_nb.core import out_lock\nwith out_lock({str(tmp_path/"run")!r}): print("held", flush=True); time.sleep(60)'
    first = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline().strip() == 'held'
        for resume in (False, True):
            with pytest.raises(RunError, match=f'process {first.pid}'): train(records, out=tmp_path/'run', resume=resume, **TINY)
    finally:
        first.kill(); first.wait()
    assert train(records, out=tmp_path/'run', **TINY).finished # a lock goes with its process
    assert not (tmp_path/'run'/'.lock').exists()

def test_the_seed_of_the_split_stands_apart(records, tmp_path):
    whole = load_records(sample_dir(), warn=False).groupby('label').head(14)
    runs = [train(whole.assign(split=''), out=tmp_path/str(s), seed=s, split_seed=7, **TINY) for s in (1, 2)]
    a, b = (r.records.set_index('image').split for r in runs)
    assert a.equals(b.reindex(a.index)) and (runs[0].predictions.p_0 != runs[1].predictions.p_0).any()
    assert len(paired(runs, n_boot=50)) # the same test, so nothing has to be graded again
    assert runs[0].config['split_seed'] == 7 and TrainConfig(seed=3).data_seed == 3

# --- one's own objects

class _NoOutputs(nn.Module):
    def __init__(self): super().__init__()

@pytest.mark.parametrize('given, told', [
    (dict(loss=nn.BCEWithLogitsLoss()), 'loss BCEWithLogitsLoss'), (dict(loss=lambda raw, y: 1.), 'not one number'), (dict(loss=nn.CrossEntropyLoss(reduction='none')), 'not one number'),
    (dict(loss=nn.CrossEntropyLoss(weight=torch.ones(4))), 'CrossEntropyLoss'), (dict(loss=3), 'function'), (dict(metrics=[lambda y: 0]), 'probabilities'),
    (dict(metrics=['f1']), 'f1'), (dict(metrics=[dict]), 'neither'), (dict(aug=float('nan')), 'a number'), (dict(aug='strong'), 'a number'), (dict(aug=[nn.Linear(2, 2)]), 'aug: Linear'),
    (dict(arch=None), 'arch=None'), (dict(lr=float('inf')), 'lr'), (dict(ema=float('nan')), 'ema')])
def test_what_cannot_work_is_named(given, told):
    with pytest.raises(SettingError, match=told): TrainConfig(**given)

@pytest.mark.parametrize('arch, told', [(_NoOutputs, 'could not be made'), (lambda n: 1/0, 'could not be made'), (5, 'neither a name nor a network'), (lambda n: nn.Conv2d(1, 4, 3), 'does not take')])
def test_a_network_is_tried_before_the_images(arch, told, records, tmp_path, monkeypatch):
    def no(*a, **k): raise AssertionError('the photographs were read')
    monkeypatch.setattr('retina_nb.train.learner.require_usable', no)
    with pytest.raises(SettingError, match=told): train(records, out=tmp_path/'run', **TINY | dict(arch=arch))

def test_transforms_of_every_library():
    from fastai.vision.augment import Flip, Resize, aug_transforms
    from torchvision import transforms as T
    from torchvision.transforms import v2
    def named(*, image): return dict(image=image[:, ::-1])
    pillow = T.Compose([T.RandomHorizontalFlip(), T.ToTensor()])
    kinds = [Flip(), aug_transforms(), T.ColorJitter(.2), v2.RandomHorizontalFlip(), T.TrivialAugmentWide(), T.AutoAugment(), named, pillow, nn.Identity(), lambda x: x]
    learn = make_learner(split_records(load_records(sample_dir()), seed=42).groupby(['split', 'label']).head(2).reset_index(drop=True), aug=kinds, **TINY)
    x, _ = learn.dls.train.one_batch()
    assert x.shape[1:] == (3, 32, 32) and torch.isfinite(x).all()
    for one, told in ((Flip, 'is a class'), (Resize(32), 'size='), (T.Normalize(0, 1), 'leave it out'), (T.Resize(20), 'keep its size'), (lambda x: None, 'nothing'), ({}, 'a number')):
        with pytest.raises(SettingError, match=told): TrainConfig(aug=[one] if one != {} else one)

def test_a_transform_that_fails_later_is_one_line():
    from retina_nb.train.augment import own_transforms
    from fastai.torch_core import TensorImage
    calls = []
    def moody(x):
        calls.append(1)
        if len(calls) > 1: raise ValueError('not today')
        return x
    one = own_transforms([moody])[0]
    with pytest.raises(SettingError, match='moody: not today'): one(TensorImage(torch.rand(2, 3, 8, 8)), split_idx=0)

def test_random_numbers_are_left_alone():
    from torchvision import transforms as T
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    TrainConfig(aug=[T.ColorJitter(.2), T.RandAugment()], loss=nn.CrossEntropyLoss(), metrics=[lambda p, y: float(p.mean())])
    assert torch.equal(before[0], torch.random.get_rng_state()) and before[1] == random.getstate() and (before[2] == np.random.get_state()[1]).all()

# --- trained by hand

@pytest.mark.parametrize('options', [dict(loss='corn', ema=.9), *(pytest.param(o, marks=pytest.mark.full) for o in (dict(), dict(loss='regression', best=True)))], ids=str)
def test_a_learner_trained_by_hand_becomes_a_run(records, tmp_path, options):
    learn = make_learner(records, **TINY | options)
    with learn.no_bar(), learn.no_logging():
        learn.lr_find(show_plot=False)
        learn.fit_one_cycle(2, 6e-3)
        learn.fit(1, 1e-3)
    run = save_run(learn, tmp_path/'mine', progress=False)
    assert run.finished and list(run.history.epoch) == [0, 1, 2] and run.config['epochs'] == 3
    again = predict(run, run.records[run.records.split == 'test'], progress=False)
    np.testing.assert_allclose(again.p_1, run.predictions.p_1, atol=1e-6)
    run.check()
    assert evaluate_run(run, n_boot=20)[0]['n_images'] == len(run.predictions)
    with pytest.raises(RunError, match='holds a run'): save_run(learn, tmp_path/'mine')

def test_fastai_s_interpretation(records):
    import matplotlib.pyplot as plt
    from fastai.interpret import ClassificationInterpretation
    learn = make_learner(records, **TINY)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        seen = ClassificationInterpretation.from_learner(learn)
        valid = records[records.split == 'valid']
        assert seen.confusion_matrix().shape == (5, 5) and seen.confusion_matrix().sum() == len(valid)
        seen.plot_confusion_matrix()
        seen.plot_top_losses(3)
        seen.most_confused()
        learn.show_results(max_n=2)
    _, where = seen.top_losses(2)
    assert [seen.dl.items.iloc[where].files[0]] == [valid.image.iloc[int(where[0])]]
    plt.close('all')

# --- comparisons

def test_runs_evaluations_and_tables_side_by_side(run, records, tmp_path, capsys):
    other = train(records, out=tmp_path/'other', **TINY | dict(seed=1))
    _, folder = evaluate_run(other, out=tmp_path/'ev', n_boot=50)
    elsewhere = other.predictions.assign(image=other.predictions.image.map(lambda f: Path(f).name))
    elsewhere.drop(columns='task').to_csv(tmp_path/'theirs.csv', index=False)
    retina_compare([run.path, other.path, folder, tmp_path/'theirs.csv'], out=tmp_path/'cmp', task='dr')
    said = capsys.readouterr().out
    assert said.strip().splitlines()[-1].startswith('next: ')
    table, d = (pd.read_csv(tmp_path/'cmp'/f'{n}.csv') for n in ('comparison', 'paired'))
    assert list(table.run) == ['run', 'other', 'ev', 'theirs'] and table.qwk[1] == table.qwk[2] == table.qwk[3]
    own = [r.config['operating_point']['threshold'] for r in (run, other, other)]
    assert table.threshold.tolist() == pytest.approx([*own, .5]) and 'theirs 0.5 (default, it brings none)' in said
    assert set(d[d.score == 'qwk'].difference.round(6)) == {round(table.qwk[1] - table.qwk[0], 6)}
    retina_compare([run.path, other.path], out=tmp_path/'cmp') # an earlier comparison is replaced
    assert len(pd.read_csv(tmp_path/'cmp'/'comparison.csv')) == 2

def test_each_side_refers_from_its_own_operating_point(tmp_path):
    "What a comparison says of referral is what the runs themselves were scored with"
    from retina_nb.report import example_run
    a, b = (example_run(tmp_path/name, n=60) for name in 'ab')
    (b.path/'config.json').write_text(json.dumps(b.config | dict(operating_point=dict(threshold=.3))))
    b.seal()
    b = Run(b.path)
    (tmp_path/'ev').mkdir()
    for name, text in dict(predictions=a.predictions.to_csv(index=False), metrics=json.dumps(a.metrics)).items():
        (tmp_path/'ev'/f'{name}.{"csv" if name == "predictions" else "json"}').write_text(text)
    a.predictions.to_csv(tmp_path/'table.csv', index=False)
    one, two = a.metrics['referable'], evaluate(b.predictions, threshold=.3, n_boot=10)['referable']
    half = evaluate(a.predictions, n_boot=10)['referable']
    assert len({f['sensitivity']['value'] + f['specificity']['value'] for f in (one, two, half)}) == 3
    d = paired([a, b, tmp_path/'ev', tmp_path/'table.csv'], n_boot=10)
    for score in ('sensitivity', 'specificity'):
        found = d[d.score == f'referable.{score}']
        assert found.a.tolist() == pytest.approx([one[score]['value']]*3)
        assert found.b.tolist() == pytest.approx([f[score]['value'] for f in (two, one, half)])
    bare = [example_run(tmp_path/f'bare{i}', n=20, drop=[f'p_{k}' for k in range(5)]) for i in range(2)]
    assert [s.threshold for s in together(bare).values()] == [None, None] and len(paired(bare, n_boot=10)) # grades alone

def test_runs_with_other_tests_are_brought_together(tmp_path, records):
    whole = load_records(sample_dir(), warn=False).groupby('label').head(14)
    one, two = (train(whole.assign(split=''), out=tmp_path/str(s), seed=s, **TINY) for s in (1, 2))
    with pytest.raises(RunError, match='--data'): paired([one, two])
    new = load_records(sample_dir(), warn=False).groupby('label').tail(4)
    new.drop(columns='split').to_csv(tmp_path/'new.csv', index=False)
    retina_compare([one.path, two.path], data=str(tmp_path/'new.csv'), out=tmp_path/'cmp')
    assert (pd.read_csv(tmp_path/'cmp'/'comparison.csv').n_test == len(new)).all()
    both = together([one, two], pd.concat([new, whole], ignore_index=True), progress=False) # what either was trained on is left out
    for r, s in zip((one, two), both.values()):
        assert s.metrics['referable']['threshold'] == s.threshold == r.config['operating_point']['threshold']
    left = [set(s.predictions.image) for s in both.values()]
    assert left[0] == left[1] == set(new.image) | (set(one.predictions.image) & set(two.predictions.image))

# --- config.json

def _mutations(good, n, seed=0):
    "Texts that are not, or not quite, the settings of a run"
    whole = ['[]', 'null', '3', '"x"', 'true', '{}', '[{}]', '', '{', '[' * 100_000, '{"a":' * 50_000, '\x00', '[' * 3000 + ']' * 3000]
    values = [None, [], {}, 'x', -1, 0, True, 1e300, [None], {'x': 1}, float('nan')]
    rng, out = random.Random(seed), [(repr(t[:20]), t) for t in whole]
    while len(out) < n:
        key = rng.choice(list(good))
        inner = rng.choice(list(good[key])) if isinstance(good[key], dict) and good[key] and rng.random() < .5 else None
        gone, value = rng.random() < .3, rng.choice(values)
        def changed(d, k): return {a: b for a, b in d.items() if a != k} | ({} if gone else {k: value})
        new = changed(good, key) if inner is None else good | {key: changed(good[key], inner)}
        out.append((f"{key}{'.' + inner if inner else ''} {'gone' if gone else value!r}", json.dumps(new)))
    return out

@pytest.mark.parametrize('n', [20, pytest.param(1000, marks=pytest.mark.full)])
def test_every_reader_of_a_run_understands_its_settings_or_refuses_them_in_one_line(n, run, tmp_path):
    from retina_nb.deploy import export
    from retina_nb.report.run_report import _checked
    mine, other = (shutil.copytree(run.path, tmp_path/name) for name in ('mine', 'other'))
    readers = dict(model=lambda: load_model(mine), compare=lambda: compare([other, mine]), learner=lambda: TrainConfig.of_run(Run(mine).config), report=lambda: _checked(mine),
                   evaluate=lambda: evaluate_run(mine, out=tmp_path/'ev', n_boot=2), resume=lambda: train(run.records, out=mine, resume=True, **TINY))
    known, good = dict(TASKS), json.loads((mine/'config.json').read_text())
    for name, text in _mutations(good, n):
        (mine/'config.json').write_text(text)
        for who, read in readers.items():
            TASKS.clear(); TASKS.update(known)
            try: read()
            except RetinaError as e: assert len(str(e).splitlines()) == 1, (name, who)
            except Exception as e: raise AssertionError(f'{name}: {who}: {type(e).__name__}: {e}') from e
    TASKS.clear(); TASKS.update(known)
    (mine/'config.json').write_text('[]')
    with pytest.raises(RunError, match='config.json'): export(mine, tmp_path/'bundle')

@pytest.mark.parametrize('where', ['s3://clinic/run', 'gs://name:secret@clinic/run', 'https://clinic.example/run', 'file:///tmp/run'])
def test_what_is_written_here_alone_takes_no_address(where, tmp_path, monkeypatch, typed):
    "A training, a folder of records, a report: none makes a folder called `s3:`"
    monkeypatch.chdir(tmp_path)
    for command in ('retina_train synth:20', 'retina_pretrain synth:20', 'retina_lesions', 'retina_shift a=synth:20 b=synth:30', 'retina_compare synth:20', 'retina_cache synth:20',
                    'retina_explore synth:20', f'retina_export {shared()[0]}', f'retina_triton {shared()[1]}', 'retina_sample', 'retina_demo'):
        command = (*command.split(), '--out', where)
        r = typed(*command)
        assert r.returncode == 2 and r.stderr.strip().count('\n') == 0 and 'secret' not in r.stderr, (command, r)
        assert any(w in r.stderr for w in ('is an address', 'on this machine')), (command, r.stderr)
    assert list(tmp_path.iterdir()) == []

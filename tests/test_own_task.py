"""A task of one's own goes the whole road: by commands with `--task FILE.json`, and by functions with `Task(...)`. What comes out
speaks of its classes and its positives, and tables of two tasks are taken by nobody."""
import json, re

import numpy as np, pandas as pd, pytest
from PIL import Image

from retina_nb.core import DataError, Run, SettingError, Task, get_task, task_of, with_task

GLAUCOMA = dict(name='glaucoma', classes=['healthy', 'glaucoma'], positive=['glaucoma'], positive_name='suspected glaucoma')
STAGES = dict(name='stages', classes=['none', 'early', 'moderate', 'advanced', 'severe', 'end stage'], ordinal=True,
              positive=[3, 4, 5], positive_name='needs surgery', title='Stages of glaucoma')
TINY = '--arch', 'test_resnet', '--size', '64', '--epochs', '1', '--bs', '16', '--no_pretrained'

def eye(level, rng):
    "A round field with a disc that grows with the level"
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    field, a = np.hypot(x, y) < .95, np.zeros((96, 96, 3))
    a[field] = 150 + rng.normal(0, 8), 80, 40
    a[np.hypot(x-.3, y) < .12 + .05*level] = 230, 200, 120
    a[field] += rng.normal(0, 6, (int(field.sum()), 3))
    return Image.fromarray(a.clip(0, 255).astype(np.uint8))

@pytest.fixture(scope='module')
def here(tmp_path_factory):
    "Two made-up datasets: class folders named as the classes, and a CSV with names of classes"
    d, rng = tmp_path_factory.mktemp('own'), np.random.default_rng(0)
    for c, name in enumerate(GLAUCOMA['classes']):
        (d/'eyes'/name).mkdir(parents=True)
        for i in range(24): eye(3*c, rng).save(d/'eyes'/name/f'p{c}{i:02}_left.png')
    (d/'six'/'img').mkdir(parents=True)
    rows = [dict(image=f'img/a{i:02}.png', label=STAGES['classes'][i%6], patient=f'q{i//2}') for i in range(48)]
    for i, r in enumerate(rows): eye(i%6, rng).save(d/'six'/r['image'])
    pd.DataFrame(rows).to_csv(d/'six'/'labels.csv', index=False)
    for t in (GLAUCOMA, STAGES): (d/f"{t['name']}.json").write_text(json.dumps(t))
    return d

@pytest.fixture
def go(here, command, typed):
    "Run a command in the folder of the datasets, in this process but where `alone`; what it printed"
    def _go(name, *args, rc=0, alone=False):
        done = (command if alone else typed)(name, *args, cwd=here)
        assert done.returncode == rc, f'{name}: {done.stdout[-800:]}{done.stderr[-800:]}'
        return done.stdout if rc == 0 else done.stderr
    return _go

def nothing_of_dr(text): assert not re.search(r'referable|diabetic|retinopathy|\bDR\b', re.sub('base64,[^"]*', '', text)), text[-2000:]

def test_the_whole_road_by_commands_with_class_folders(here, go):
    told = go('retina_explore', 'eyes', '--task', 'glaucoma.json', '--out', 'look')
    assert 'healthy: 24, glaucoma: 24' in told
    nothing_of_dr((here/'look'/'report.html').read_text())
    told = go('retina_train', 'eyes', '--task', 'glaucoma.json', '--out', 'run', *TINY, alone=True) # and what follows has only the run to know it from
    assert 'suspected glaucoma: sensitivity' in told
    nothing_of_dr(told)
    config = json.loads((here/'run'/'config.json').read_text())
    assert config['task'] == 'glaucoma' and Task.from_dict(config['task_detail']) == Task.from_dict(GLAUCOMA)
    assert set(pd.read_csv(here/'run'/'predictions.csv').task) == set(pd.read_csv(here/'run'/'records.csv').task) == {'glaucoma'}
    nothing_of_dr(go('retina_evaluate', 'run'))       # the run says what its task is
    scores = json.loads((here/'run'/'metrics.json').read_text())
    assert scores['task'] == 'glaucoma' and 'sensitivity' in scores['referable']       # keys stay as they are written down
    go('retina_export', 'run', '--out', 'bundle')
    nothing_of_dr((here/'bundle'/'card.md').read_text())
    one = next((here/'eyes'/'glaucoma').iterdir())
    told = go('retina_grade', 'bundle', one)
    assert 'suspected glaucoma' in told and re.search('healthy|glaucoma', told)
    row = json.loads(go('retina_grade', 'bundle', one, '--json'))[0]
    assert row['task'] == 'glaucoma' and row['name'] in GLAUCOMA['classes'] and row['referable'] in (True, False)
    go('retina_check', 'bundle')
    go('retina_report', 'run')
    page = (here/'run'/'report.html').read_text()
    nothing_of_dr(page)
    assert 'suspected glaucoma' in page and '<h1>Glaucoma: run</h1>' in page
    from retina_nb.deploy import Grader, GradingPanel
    panel = GradingPanel(Grader(here/'bundle'))
    panel.session.add('eye.png', one.read_bytes())
    panel.refresh()
    assert 'suspected glaucoma' in str(panel.refer_card.value if hasattr(panel.refer_card, 'value') else panel.refer_card)

@pytest.mark.full
def test_the_whole_road_by_commands_with_a_csv(here, go):
    csv, task = 'six/labels.csv', ('--task', 'stages.json')
    assert 'end stage: 8' in go('retina_explore', csv, *task, '--out', 'look6')
    go('retina_cache', csv, *task, '--out', 'cache6', '--size', '64')
    told = go('retina_train', 'cache6', *task, '--out', 'run6', *TINY)
    assert 'needs surgery: sensitivity' in told
    nothing_of_dr(told)
    assert "'stages'" in go('retina_evaluate', 'run6/predictions.csv', '--out', 'ev', rc=2)   # a table alone does not define a task
    nothing_of_dr(go('retina_evaluate', 'run6/predictions.csv', *task, '--out', 'ev'))
    nothing_of_dr(go('retina_evaluate', 'run6', '--data', csv, '--out', 'ev2'))
    go('retina_export', 'run6', '--out', 'bundle6')
    assert 'needs surgery' in go('retina_grade', 'bundle6', 'six/img/a05.png')
    go('retina_report', 'run6')
    page = (here/'run6'/'report.html').read_text()
    nothing_of_dr(page)
    assert 'needs surgery' in page and 'Stages of glaucoma: run6' in page

@pytest.mark.parametrize('spoilt, says', [('{"name": "x", "classes": ["a"]}', 'at least two classes'), ('{', 'not readable as JSON'),
                                          ('{"name": "dr", "classes": ["a", "b"]}', 'already means something else')])
def test_a_bad_definition_is_one_line(here, typed, spoilt, says):
    (here/'bad.json').write_text(spoilt)
    done = typed('retina_explore', 'eyes', '--task', 'bad.json', '--out', 'no', cwd=here)
    said = done.stderr
    assert done.returncode == 2 and says in said and 'bad.json' in said and len(said.strip().splitlines()) == 1 and not (here/'no').exists()

def test_labels_of_another_task_are_refused(here, typed):
    done = typed('retina_train', 'six/labels.csv', '--out', 'no', *TINY, cwd=here)     # --task forgotten
    assert done.returncode == 2 and ('early' in done.stderr or 'none' in done.stderr)
    assert not (here/'no').exists()

def test_by_functions_with_a_csv(here, tmp_path):
    from retina_nb.data import cache_records, load_records, split_records
    from retina_nb.explore import label_table, plot_labels
    from retina_nb.measure import confusion_matrix, evaluate, plot_confusion
    from retina_nb.report import example_run, report_notebook
    task = Task(**STAGES)
    records = split_records(load_records(here/'six'/'labels.csv', task=task))
    assert task_of(records) == task and records.label.tolist()[:6] == [0, 1, 2, 3, 4, 5] and records.columns[-1] == 'task'
    assert label_table(records)['count'].tolist() == [8]*6
    plot_labels(records, by='split')
    cache_records(records, tmp_path/'cache', size=64)
    assert task_of(load_records(tmp_path/'cache', task='stages')) == task
    run = example_run(tmp_path/'run', task, n=40)
    assert run.task == task and confusion_matrix(run.predictions).shape == (6, 6)
    ax = plot_confusion(run.predictions)
    assert 'needs surgery' in ' '.join(t.get_text() for t in ax.figure.findobj(lambda a: hasattr(a, 'get_text')))
    assert 'needs surgery' in str(evaluate(run, n_boot=50))
    nothing_of_dr(str(evaluate(run, n_boot=50)))
    nothing_of_dr('\n'.join(c.source for c in report_notebook(run).cells if c.cell_type == 'markdown'))

@pytest.mark.parametrize('modality, crop', [('fundus', 'fundus'), ('oct', 'oct'), ('xray', 'none')])
def test_the_kind_of_image_decides_whether_a_field_is_cropped(modality, crop):
    from retina_nb.image import Preprocess
    assert Preprocess.for_task(Task('own', ['a', 'b'], modality=modality), size=64).crop == crop

def two_tasks():
    "Predictions and records of two tasks with as many classes, put together"
    from retina_nb.measure import example_predictions
    own = Task('own', list('abcde'), ordinal=True, positive=[3, 4])
    a, b = (example_predictions(30, seed=s, task=t) for s, t in ((1, 'dr'), (2, own)))
    b = b.assign(image='B' + b.image, patient='B' + b.patient)
    preds = pd.concat([a, b], ignore_index=True)
    records = preds.rename(columns=dict(target='label')).assign(split=np.resize(['train', 'valid', 'test'], len(preds)), source='')
    return preds, records[['image', 'label', 'patient', 'eye', 'split', 'source', 'task']]

def takers():
    "What takes a table, and must refuse one of two tasks, also when it is told which task to take"
    from retina_nb import data, explore, measure, train
    preds = dict(evaluate=lambda p, **k: measure.evaluate(p, n_boot=20, **k), confusion=measure.confusion_matrix, plot=measure.plot_confusion,
                 pairs=measure.confused_pairs, kinds=measure.error_kinds, compare=lambda p, **k: measure.compare_models(p, p, **k),
                 groups=lambda p, **k: measure.subgroup_scores(p, 'eye', n_boot=20, **k), decisions=measure.decisions, roc=measure.plot_roc,
                 reliability=measure.plot_reliability, risk=measure.plot_risk_coverage, sets=measure.ConformalSets)
    records = dict(labels=explore.label_table, plot=explore.plot_labels, patients=explore.patient_table, images=explore.show_images,
                   check=data.check_records, split=lambda r, task=None: data.split_records(r.drop(columns='split')),
                   train=lambda r, **k: train.train(r, arch='test_resnet', size=64, epochs=1, pretrained=False, **k))
    return [('predictions', n, f) for n, f in preds.items()] + [('records', n, f) for n, f in records.items()]

@pytest.mark.parametrize('kind, name, f', takers())
@pytest.mark.parametrize('told', [None, 'dr'])
def test_tables_of_two_tasks_are_refused(kind, name, f, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = two_tasks()[kind == 'records']
    with pytest.raises((DataError, SettingError), match=r'different tasks \(dr, own\)'): f(table, **({} if told is None else dict(task=told)))
    assert not list(tmp_path.iterdir())

def test_two_runs_of_different_tasks_are_not_compared(tmp_path):
    from retina_nb.report import example_run
    from retina_nb.train import compare
    runs = [example_run(tmp_path/n, t, n=30) for n, t in (('a', 'dr'), ('b', Task(**STAGES)))]
    with pytest.raises(Exception, match='task'): compare(runs)

def test_a_run_is_read_where_its_task_was_never_heard_of(tmp_path):
    from retina_nb.core import forget_task
    from retina_nb.report import example_run
    run = example_run(tmp_path/'run', Task(**STAGES), n=30)
    forget_task('stages')
    assert task_of(Run(run.path).predictions).positive_name == 'needs surgery' and get_task('stages').title == 'Stages of glaucoma'
    assert task_of(with_task(run.predictions, STAGES)).name == 'stages'

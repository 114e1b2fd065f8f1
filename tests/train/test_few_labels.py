"The study of few labels: what it does first, that it keeps to its plan and to its parts, and that a training of it is what it says."
import dataclasses, sys
from pathlib import Path
import cv2, numpy as np, pandas as pd, pytest

torch = pytest.importorskip('torch')
from retina_nb.train.probe import draw_labels
sys.path.insert(0, str(Path(__file__).parents[2]/'benchmarks'))
try: import few_labels as f
finally: sys.path.pop(0)

TINY = dataclasses.replace(f.QUICK, size=32, precision='fp32')

@pytest.fixture
def scanned(tmp_path, monkeypatch):
    "96 drawn pictures of 64 patients, of which a class is a grey level, in place of the real scans; one has two labels"
    (tmp_path/'data').mkdir()
    rows, rng = [], np.random.default_rng(0)
    for i in range(96):
        who, file = i % 64, tmp_path/'data'/f'{i}.png'
        cv2.imwrite(str(file), np.full((40, 40 + 8*(who % 3)), 30 + 50*(who % 4) + rng.integers(20), np.uint8))
        rows.append(dict(image=str(file), patient=f'{who}', label=who % 4, split='', task='oct', width=40 + 8*(who % 3), height=40, label_conflict=i == 5))
    r = pd.DataFrame(rows).astype(dict(label='Int64'))
    r.attrs['task'] = 'oct'
    monkeypatch.setenv('RETINA_NB_DATA', str(tmp_path))
    monkeypatch.setattr(f, 'load_records', lambda *a, **k: r.copy())
    return tmp_path/'runs'

def test_what_can_be_read_after_an_hour_comes_first():
    plan = f.Plan()
    cells = f.wanted(plan)
    jobs = f.jobs_of(plan, cells)
    assert [j for j in jobs if len(j) > 2] == cells and {j for j in jobs if len(j) == 2} == {(m, s) for m in plan.methods for s in range(f.seeds_of(plan, f'{m} linear'))}
    for i,j in enumerate(jobs):                              # a pretraining stands before all that need it
        if len(j) == 2: assert not any(c[0].split()[0] == j[0] and c[3] == j[1] for c in jobs[:i] if len(c) > 2)
    groups = list(dict.fromkeys(c[:2] for c in cells if c[0] == 'scratch' or 'fine' in c[0]))
    assert groups[:2] == [('scratch', '10 a class'), ('simclr-patients fine-tuned', '10 a class')]
    where = {g: [i for i,c in enumerate(cells) if c[:2] == g] for g in groups}
    for g in groups:                                         # all draws and seeds of a column that has a goal, one after the other
        assert len(where[g]) == np.prod(f.repeats(plan, *g))
        if g[1] in f.GOALS: assert where[g] == list(range(where[g][0], where[g][0] + len(where[g])))
    assert f.seeds_of(plan, 'vicreg linear') == 1 and f.repeats(plan, 'scratch', '3 a class') == (5, 3) and plan.methods[0] not in plan.again
    assert f.repeats(plan, 'simclr-imagenet fine-tuned', '10 a class') == (5, 3) and f.repeats(plan, 'simclr-imagenet fine-tuned', '3 a class') == (0, 0)
    assert f.repeats(plan, 'self-taught', 'all') == f.repeats(plan, 'vicreg fine-tuned', '1%') == (0, 0) and f.repeats(plan, 'vicreg linear', '1%') == (5, 1)

def test_a_folder_holds_one_plan(tmp_path):
    f.keep_to(tmp_path, f.QUICK)
    f.keep_to(tmp_path, f.QUICK)
    with pytest.raises(SystemExit, match='another plan'): f.keep_to(tmp_path, f.Plan())

def test_settings_are_tried_without_the_test_part(scanned):
    real, tried = f.scans(scanned/'a', TINY), f.scans(scanned/'b', dataclasses.replace(TINY, on='valid'))
    assert len(real) == 95 and set(real.split) == {'train', 'valid', 'test'}
    assert set(tried.split) == {'train', 'valid'} and not set(tried.patient) & set(real.patient[real.split == 'test'])
    assert set(tried.patient) == set(real.patient[real.split != 'test']) and real.groupby('patient').split.nunique().max() == 1
    told = f.facts(real)
    assert told['scans'] == 95 and told['patients'] == 64 and sum(x['scans'] for x in told['by_class'].values()) == 95
    assert sum(sum(x.values()) for x in told['by_size'].values()) == 95

def test_a_training_of_the_study_sees_drawn_labels_only(scanned):
    r = f.scans(scanned, TINY)
    drawn = draw_labels(r, per_class=3)
    a = f.supervised(scanned, TINY, r, drawn, ('scratch', '3 a class', 0, 0), None)
    assert set(a.image) == set(r.image[(r.split == 'test') | (r.split == 'train') & ~drawn]) and np.allclose(a.filter(like='p_').sum(axis=1), 1)
    assert list(f.asked(a, r, TINY).image) == list(r.image[r.split == 'test'])
    others = r.assign(label=r.label.where(pd.Series(drawn), 3 - r.label))     # all other labels are wrong now
    b = f.supervised(scanned, TINY, others, drawn, ('scratch', '3 a class', 0, 0), None)
    assert np.array_equal(a.filter(like='p_'), b.filter(like='p_'))
    frozen = dataclasses.replace(TINY, freeze=1)
    from safetensors.torch import save_file
    from retina_nb.train.network import Net
    save_file(Net(TINY.arch, 4, n_in=1).state_dict(), scanned/'w.safetensors')
    c = f.supervised(scanned, frozen, r, drawn, ('simclr fine-tuned', '3 a class', 0, 0), scanned/'w.safetensors')
    assert len(c) == len(a) and not np.array_equal(a.filter(like='p_'), c.filter(like='p_'))

def test_a_training_that_is_taught_by_another_sees_no_more_labels(scanned, monkeypatch):
    r, plan = f.scans(scanned, TINY), dataclasses.replace(TINY, sure=.3)
    drawn, cell = draw_labels(r, per_class=3), ('self-taught', '3 a class', 0, 0)
    seen = []
    real = f.supervised
    def spy(runs, plan, r, use, cell, weights):
        seen.append((r['label'].astype(int).to_numpy()[use], int(use.sum())))
        return real(runs, plan, r, use, cell, weights)
    monkeypatch.setattr(f, 'supervised', spy)
    a = f.self_taught(scanned, plan, r, drawn, cell)
    assert list(a.image) == list(r.image[r.split == 'test']) and seen[0][1] == drawn.sum() and seen[1][1] > seen[0][1]
    others = r.assign(label=r.label.where(pd.Series(drawn) | (r.split == 'test'), 3 - r.label))
    b = f.self_taught(scanned, plan, others, drawn, cell)     # by the same first training, which is kept
    assert len(seen) == 3 and np.array_equal(a.filter(like='p_'), b.filter(like='p_'))

def test_what_lies_near():
    r = pd.DataFrame(dict(patient=['a', 'a', 'b', 'c'], label=[0, 0, 0, 1], width=[5, 6, 6, 5], height=5))
    x = np.array([[1, 0], [1, .1], [1, .3], [0, 1.]])
    assert f.near(x, r) == dict(same_class=.75, same_size=.5, same_patient=1.)

def test_seeds_together_are_the_mean_of_their_probabilities_and_held_against_their_like(scanned, monkeypatch):
    monkeypatch.setattr(f, 'counted', lambda *a: {})         # 64 patients are too few for all columns
    r, plan, rng = f.scans(scanned, TINY), dataclasses.replace(TINY, seeds=2), np.random.default_rng(0)
    test = r[r.split == 'test']
    cells = [c for c in f.wanted(plan, quick=True) if f.trained(c[0]) and c[1] == '3 a class']
    for cell in cells:
        p = rng.dirichlet(np.ones(4), len(test))
        table = test[['image', 'patient']].assign(target=test.label.astype(int), grade=p.argmax(1), **{f'p_{j}': p[:,j] for j in range(4)})
        f.write_table(f.file_of(scanned, cell), table)
    of = [('scratch', '3 a class', 0, s) for s in range(2)]
    both = f.several(scanned, plan, cells, 0)
    assert {k[0] for k in both} == {'scratch' + f.SEVERAL, 'simclr fine-tuned' + f.SEVERAL}   # the self-taught one is beside
    mean = f.kept(scanned, of[0]).assign(**{f'p_{j}': sum(f.kept(scanned, c)[f'p_{j}'] for c in of)/2 for j in range(4)})
    mean['grade'] = mean.filter(like='p_').to_numpy().argmax(1)
    assert both['scratch' + f.SEVERAL, '3 a class'][0, 0]['macro_auc'].value == pytest.approx(f.scored(mean)['macro_auc'].value)
    rows = {x['row']: x for x in f.summary(scanned, plan, cells, 50)['rows']}
    tuned, base = rows['simclr fine-tuned' + f.SEVERAL], rows['scratch' + f.SEVERAL]
    assert tuned['less_scratch']['value'] == pytest.approx(tuned['macro_auc']['value'] - base['macro_auc']['value']) and 'less_scratch' not in base
    assert tuned['n'] == tuned['planned'] == 1 and rows['scratch']['n'] == 2
    f.file_of(scanned, of[1]).unlink()
    assert 'scratch' + f.SEVERAL not in {k[0] for k in f.several(scanned, plan, cells, 0)}    # a draw counts when all of its seeds are done

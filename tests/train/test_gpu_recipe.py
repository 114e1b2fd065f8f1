"The recipe for one GPU, on whatever is here: every part of it runs, tells what it measured, and goes on where it was stopped"
import json, sys
from pathlib import Path

import pytest, torch

sys.path.insert(0, str(Path(__file__).parents[2]/'benchmarks'))
import gpu

def recipe(monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['gpu.py', *map(str, args)])
    gpu.main()

@pytest.fixture(scope='module')
def found(tmp_path_factory):
    runs = tmp_path_factory.mktemp('gpu')
    with pytest.MonkeyPatch.context() as m: recipe(m, 'all', '--quick', '--runs', runs, '--without', 'compiled')
    return runs, json.loads((runs/'gpu.json').read_text())

def test_the_loader_is_held_against_a_batch_that_stays(found):
    rows = found[1]['parts']['speed']['found']
    assert {'bf16, channels last', 'fp32', 'plain memory order'} <= set(rows) and 'compiled' not in rows
    for r in rows.values():
        assert r['images_a_second'] > 0 and r['ratio'] == pytest.approx(r['images_a_second']/r['held_batch'])
        assert (r['peak_gib'] is None) == (not torch.cuda.is_available())
    assert rows['fp32']['precision'] == 'fp32' and rows['plain memory order']['channels_last'] is False

def test_every_training_of_the_recipe_ends_with_scores(found):
    parts = found[1]['parts']
    assert set(parts) == {'speed', 'idrid', 'pairs', 'simclr'}
    assert set(parts['idrid']['found']) == {'random weights', 'marked lesions'}
    assert set(parts['pairs']['found']) == {'one eye', 'both eyes', 'the other eye hidden'}
    for scores in (*parts['pairs']['found'].values(), parts['simclr']['found']['from SimCLR']): assert 0 <= scores['accuracy'] <= 1 and scores['seconds'] > 0
    assert all(found[1]['estimated_minutes'][p] > 0 for p in parts)

def test_what_is_finished_is_not_trained_again(found, monkeypatch):
    runs, before = found
    weights = {f: f.stat().st_mtime_ns for f in runs.rglob('model.safetensors')}
    assert len(weights) >= 9
    recipe(monkeypatch, 'pairs', '--quick', '--runs', runs)
    assert {f: f.stat().st_mtime_ns for f in runs.rglob('model.safetensors')} == weights
    assert json.loads((runs/'gpu.json').read_text())['parts']['pairs']['found'] == before['parts']['pairs']['found']

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_without_a_gpu_it_says_so_and_changes_nothing(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match='--quick'): recipe(monkeypatch, 'speed', '--runs', tmp_path/'runs')
    assert not (tmp_path/'runs').exists()

@pytest.mark.full
def test_torch_compile_is_a_row_or_says_why_not(tmp_path, monkeypatch):
    recipe(monkeypatch, 'speed', '--quick', '--runs', tmp_path)
    row = json.loads((tmp_path/'gpu.json').read_text())['parts']['speed']['found']['compiled']
    assert row.get('left_out') or row['ratio'] > 0

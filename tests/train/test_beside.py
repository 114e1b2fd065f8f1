"What stands beside an evaluation: another place, readers, and whether the images were seen before"
import pandas as pd

from retina_nb.measure import evaluate, example_predictions, example_readers
from retina_nb.report import example_run
from retina_nb.train.prediction import _beside


def test_other_data_and_readers(tmp_path):
    run = example_run(tmp_path/'run', n=60)
    away = example_predictions(60, seed=9).assign(image=lambda d: 'away_' + d.image)
    away.to_csv(tmp_path/'predictions.csv', index=False)
    s = evaluate(away, n_boot=20)
    (text,) = _beside(run.path, 'away', None, tmp_path, s)
    assert text.startswith('External validation') and (tmp_path/'external.json').is_file()
    readers = example_readers(60, seed=9).assign(image=lambda d: 'away_' + d.image).drop(columns='target')
    readers.to_csv(tmp_path/'readers.csv', index=False)
    (text,) = _beside(run.path, None, tmp_path/'readers.csv', tmp_path, s)
    assert 'model minus readers' in text and len(pd.read_csv(tmp_path/'ceiling.csv')) == 6
    assert list(_beside(run.path, None, None, tmp_path, s)) == []

def test_images_of_the_training_are_no_test(tmp_path):
    run = example_run(tmp_path/'run', n=30)
    seen = run.records[run.records.split == 'valid'].image.head(7)
    d = example_predictions(30, seed=4).assign(image=lambda d: 'x_' + d.image)
    d.loc[:6, 'image'] = ['elsewhere/' + str(f) for f in seen]
    d.to_csv(tmp_path/'predictions.csv', index=False)
    said = list(_beside(run.path, 'data', None, tmp_path, evaluate(d, n_boot=20)))
    assert len(said) == 2 and '7 of 60 images have the name' in said[0]

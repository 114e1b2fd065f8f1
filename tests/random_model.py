"A run folder and a bundle whose model has random weights: everything but training, in seconds"
import functools, tempfile
from pathlib import Path

from retina_nb.core import get_task
from retina_nb.disk import write_json

def random_run(path, task='dr', size=64, arch='resnet10t', loss='ce', **config):
    "A run folder whose model has random weights"
    import torch
    from safetensors.torch import save_file
    from retina_nb.train.model import build_model
    from retina_nb.image.preprocess import Preprocess
    path, task = Path(path), get_task(task)
    pre = Preprocess.for_task(task, size=size)
    config = dict(task=task.name, task_detail=task.to_dict(), arch=arch, loss=loss, size=size, classes=list(task.classes),
                  preprocess=pre.to_dict(), preprocess_hash=pre.hash) | config
    torch.manual_seed(0)
    model = build_model(config)
    torch.nn.init.normal_(model.head.weight, std=1.)
    path.mkdir(parents=True)
    save_file(model.state_dict(), path/'model.safetensors')
    write_json(path/'config.json', config); write_json(path/'metrics.json', {})
    (path/'predictions.csv').write_text('image,patient,target,grade\n')
    return path

@functools.cache
def shared()->tuple: # run folder, bundle folder; made once a test session, not to be changed
    from retina_nb.deploy.exporter import export
    d = tempfile.TemporaryDirectory(prefix='retina_nb_tests_')
    shared.keep = d
    run = random_run(Path(d.name)/'run', operating_point=dict(threshold=.4))
    return run, export(run, Path(d.name)/'bundle')

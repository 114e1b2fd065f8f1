"A run folder and a bundle whose model has random weights: everything but training, in seconds"
import functools, os, shutil, tempfile
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
def shared()->tuple: # run folder, bundle folder; not to be changed
    "Made once: by each process for itself, or by the first of all those that RETINA_NB_SHARED leads to one folder"
    import fcntl
    from retina_nb.deploy.exporter import export
    folder = os.environ.get('RETINA_NB_SHARED')
    if not folder:
        shared.keep = tempfile.TemporaryDirectory(prefix='retina_nb_tests_')
        folder = shared.keep.name
    run, bundle = Path(folder)/'run', Path(folder)/'bundle'
    with open(Path(folder)/'lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX) # the others wait until it is closed
        if not bundle.exists():
            shutil.rmtree(run, ignore_errors=True)
            export(random_run(run, operating_point=dict(threshold=.4)), bundle)
    return run, bundle

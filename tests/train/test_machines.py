"Several machines train as one: simulated by network namespaces, over gloo, without a disk in common"
import os, shutil, signal, subprocess, sys, textwrap, time
from pathlib import Path

import pytest

from retina_nb.core import Run
from retina_nb.synth import sample_dir
from two_machines import Machines, children, until

HOW = ['--arch', 'test_resnet', '--size', '48', '--no_pretrained', '--bs', '32', '--ema', '.9', '--best']
TRAIN = ['-m', 'retina_nb.train.training']

def lines(text, word): return [l for l in text.splitlines() if word in l]

@pytest.fixture
def disks(tmp_path):
    "A disk for each machine, each with the same photographs"
    for d in ('one', 'two'):
        shutil.copytree(sample_dir(), tmp_path/d/'data')
    return [tmp_path/'one', tmp_path/'two']

def train(m, disks, out, *more, each=2, epochs=3, **env):
    "The same command on both machines, each on a disk of its own"
    m.port += 1
    return [m.start(i, [*m.torchrun(i, each), *TRAIN, disks[i]/'data', '--out', out, '--epochs', epochs, *HOW, *more], cwd=disks[i],
                    XDG_CACHE_HOME=str(disks[i]/'cache'), **env) for i in range(2)]

@pytest.mark.full
def test_two_machines_train_as_one(disks, tmp_path):
    "Two of two processes each, one without the run folder: the bytes of one machine with four; killed and resumed as well"
    with Machines(tmp_path) as m:
        whole = m.start(0, [*m.torchrun(0, 4, nodes=1), *TRAIN, disks[0]/'data', '--out', 'four', '--epochs', 3, *HOW], cwd=disks[0])
        codes, said = m.end([whole])
        assert codes == [0], said[0][-3000:]
        codes, said = m.end(train(m, disks, 'run'))
        assert codes == [0, 0], said
        assert {f.name for f in disks[1].iterdir()} <= {'cache', 'data'} # nothing is written where the first process is not
        four, run = Run(disks[0]/'four'), Run(disks[0]/'run')
        for f in ('model.safetensors', 'predictions.csv', 'predictions_valid.csv'): assert (four.path/f).read_bytes() == (run.path/f).read_bytes(), f
        assert run.config['processes'] == 4
        same = [c for c in run.history.columns if c != 'seconds']
        assert four.history[same].equals(run.history[same])

        ps = train(m, disks, 'killed')
        until(lambda: (disks[0]/'killed/history.csv').is_file() and len(Run(disks[0]/'killed').history) == 1)
        os.kill(children(ps[1].pid)[-1], signal.SIGKILL)
        start = time.monotonic()
        codes, said = m.end(ps)
        assert time.monotonic() - start < 60 and 0 not in codes
        told = lines(said[0], '--resume')
        assert len(told) == 1 and 'node2' in told[0] if m.apart else told, said[0][-3000:]
        assert 'Signal 9' in said[1]
        codes, said = m.end(train(m, disks, 'killed', '--resume'))
        assert codes == [0, 0], said
        assert (disks[0]/'killed/model.safetensors').read_bytes() == (run.path/'model.safetensors').read_bytes()
        assert (disks[0]/'killed/predictions.csv').read_bytes() == (run.path/'predictions.csv').read_bytes()

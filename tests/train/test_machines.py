"Several machines train as one: simulated by network namespaces, over gloo, without a disk in common"
import os, shutil, signal, subprocess, sys, time

import pytest

from retina_nb.core import Run
from retina_nb.synth import sample_dir
from two_machines import Machines, children, until

HOW = ['--arch', 'test_resnet', '--size', '48', '--no_pretrained', '--bs', '30', '--ema', '.9', '--best']
TRAIN = ['-m', 'retina_nb.train.training']

def lines(text, word): return [line for line in text.splitlines() if word in line]

@pytest.fixture
def disks(tmp_path):
    "A disk for each machine, each with the same photographs"
    for d in ('one', 'two'): shutil.copytree(sample_dir(), tmp_path/d/'data')
    return [tmp_path/'one', tmp_path/'two']

def train(m, disks, out, *more, each=(1, 1), epochs=3, second=(), **env):
    "The same command on both machines, each on a disk of its own; `second` are further words of the second's"
    m.port += 1
    return [m.start(i, [*m.torchrun(i, each[i]), *TRAIN, disks[i]/'data', '--out', out, '--epochs', epochs, *HOW, *more, *(second if i else ())],
                    cwd=disks[i], RETINA_NB_CACHE=str(disks[i]/'cache'), **env) for i in range(2)]

def refused(m, *args, **kwargs):
    "What the two say, a line each, of a training that is refused"
    start = time.monotonic()
    codes, said = m.end(train(m, *args, **kwargs))
    told = [lines(s, 'error: ') for s in said]
    assert 0 not in codes and [len(t) for t in told] == [1, 1], said
    assert time.monotonic() - start < 90
    return told[0][0], told[1][0]

def same_result(a, b):
    for f in ('model.safetensors', 'predictions_valid.csv', 'predictions.csv'): assert (a/f).read_bytes() == (b/f).read_bytes(), f
    a, b = (Run(r).history.drop(columns='seconds') for r in (a, b))
    assert a.equals(b)

@pytest.mark.full
def test_two_machines_train_as_one(disks, tmp_path):
    "Three processes on two machines, one without the run folder: the bytes of one machine with three; killed and resumed as well"
    one, two = disks
    with Machines(tmp_path) as m:
        whole = m.start(0, [*m.torchrun(0, 3, nodes=1), *TRAIN, one/'data', '--out', 'three', '--epochs', 3, *HOW], cwd=one)
        codes, said = m.end([whole])
        assert codes == [0], said[0][-3000:]
        codes, said = m.end(train(m, disks, 'run', each=(2, 1)))
        assert codes == [0, 0], said
        assert {f.name for f in two.iterdir()} <= {'cache', 'data'} # nothing is written where the first process is not
        same_result(one/'three', one/'run')
        assert Run(one/'run').config['processes'] == 3

        ps = train(m, disks, 'killed', each=(2, 1))
        until(lambda: (one/'killed/history.csv').is_file())
        os.kill(children(ps[1].pid)[-1], signal.SIGKILL)
        start = time.monotonic()
        codes, said = m.end(ps)
        assert time.monotonic() - start < 60 and 0 not in codes
        told = lines(said[0], 'error: ')
        assert len(told) == 1 and 'process 2 on ' in told[0] and '(machine 1)' in told[0] and '--resume' in told[0], said[0][-3000:]
        assert 'node2' in told[0] or not m.apart
        assert 'Signal 9' in said[1]
        codes, said = m.end(train(m, disks, 'killed', '--resume', each=(2, 1)))
        assert codes == [0, 0], said
        same_result(one/'killed', one/'run')

@pytest.mark.full
def test_what_differs_between_machines_is_refused_on_both(disks, tmp_path):
    one, two = disks
    images = sorted((two/'data/images').rglob('*.jpg'))
    with Machines(tmp_path) as m:
        for said in refused(m, disks, 'run', second=['--lr', '.01']): assert 'process 1 on ' in said and 'has lr=0.01' in said
        with images[0].open('ab') as f: f.write(b'\0') # still the same picture
        for said in refused(m, disks, 'run'): assert 'process 1 on ' in said and 'image files' in said and 'copy it again' in said
        images[0].unlink()
        for said in refused(m, disks, 'run'): assert images[0].name in said and '1 of ' in said and 'process 1 on ' in said
        (two/'data').rename(two/'elsewhere')
        for said in refused(m, disks, 'run'): assert str(two/'data') in said and 'process 1 on ' in said
    assert not (one/'run').exists() and not (two/'run').exists()

@pytest.mark.full
def test_a_cable_that_is_pulled_ends_both(disks, tmp_path):
    "Nobody is told that a connection has ended: only the silence says it"
    with Machines(tmp_path) as m:
        if not m.apart: pytest.skip('network namespaces are not allowed here')
        ps = train(m, disks, 'run', epochs=200, RETINA_NB_PATIENCE='8')
        until(lambda: (disks[0]/'run/history.csv').is_file())
        m.cut()
        start = time.monotonic()
        until(lambda: not any(children(p.pid)[-1:] and ps_alive(p) for p in ps), 60)
        said = [open(p.log.name).read() for p in ps]
        assert time.monotonic() - start < 60
        assert len(lines(said[0], 'process 1 on node2 (machine 1): not heard of')) == 1, said[0][-2000:]
        assert len(lines(said[1], 'process 0 on node1 (machine 0), by way of which all find each other, has not answered')) == 1, said[1][-2000:]

@pytest.mark.full
def test_the_first_machine_dies(disks, tmp_path):
    "It holds the store by which all find each other; the other one can tell that nevertheless"
    with Machines(tmp_path) as m:
        ps = train(m, disks, 'run', epochs=200)
        until(lambda: (disks[0]/'run/history.csv').is_file())
        for pid in [ps[0].pid, *children(ps[0].pid)]: os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        codes, said = m.end(ps, 60)
        told = lines(said[1], 'error: ')
        assert codes[1] and time.monotonic() - start < 45 and len(told) == 1, said[1][-3000:]
        assert 'process 0 on ' in told[0] and '(machine 0)' in told[0] and 'has not answered' in told[0]

@pytest.mark.full
def test_one_machine_begins_again_by_itself(disks, tmp_path):
    with Machines(tmp_path) as m:
        launcher, words = m.torchrun(0, 2, nodes=1), [*TRAIN, disks[0]/'data', '--out', 'run', '--epochs', 3, *HOW, '--resume']
        p = m.start(0, [*launcher, '--max_restarts', 1, *words], cwd=disks[0])
        until(lambda: (disks[0]/'run/history.csv').is_file())
        os.kill(children(p.pid)[-1], signal.SIGKILL)
        codes, said = m.end([p])
        assert codes == [0] and Run(disks[0]/'run').finished and 'SIGKILL' not in said[0].splitlines()[-1], said[0][-3000:]
        assert len(Run(disks[0]/'run').history) == 3 and 'exitcode: -9' in said[0]

def ps_alive(p):
    "Is a training process of this launcher still there?"
    try: return any('retina_nb.train.training' in open(f'/proc/{c}/cmdline').read() and c != p.pid and 'torch.distributed.run' not in
                    open(f'/proc/{c}/cmdline').read() for c in children(p.pid))
    except (FileNotFoundError, ProcessLookupError): return False

PROGRAM = '''
import os, sys, time
from retina_nb.core import DataError
from retina_nb.train.distributed import by_first, gather, one_voice, processes, rank, rank0_first, require_same, together
from retina_nb.commands import one_line_errors
order = []
def fail(e): raise e
@one_line_errors
def main():
    with one_voice(), processes():
        assert by_first(lambda: f'told by {rank()}') == 'told by 0'
        told = open(sys.argv[1], 'a')
        rank0_first(lambda: (time.sleep(.3*(1 - rank())), told.write(str(rank())), told.close()))
        assert open(sys.argv[1]).read() == '01'
        for bad in ((0,), (1,), (0, 1)):
            try: together(lambda: fail(DataError('no photographs')) if rank() in bad else None)
            except DataError as e: assert str(e).endswith('no photographs') and (f'process {bad[0]} on' in str(e)) == (len(bad) == 1), e
            else: raise AssertionError('nobody was told')
        try: require_same(dict(bs=4 + rank()))
        except Exception as e: assert 'process 1 on' in str(e) and 'bs=5' in str(e) and 'bs=4' in str(e), e
        else: raise AssertionError('4 is not 5')
        if rank(): os.kill(os.getpid(), 9)
        gather(1)
main()
'''

def test_two_processes_agree_and_one_that_dies_is_named(tmp_path):
    "Without a launcher, as each of its processes is started"
    (tmp_path/'two.py').write_text(PROGRAM)
    with Machines(tmp_path) as m:
        group = dict(WORLD_SIZE='2', LOCAL_RANK='0', MASTER_ADDR=m.first, MASTER_PORT=str(m.port), RETINA_NB_PATIENCE='2.5')
        ps = [m.start(i, [sys.executable, tmp_path/'two.py', tmp_path/'order.txt'], RANK=str(i), GROUP_RANK=str(i), **group) for i in range(2)]
        codes, said = m.end(ps, 60)
    assert codes == [2, -9], said
    assert len(lines(said[0], 'error: process 1 on ')) == 1 and '(machine 1): not heard of' in said[0] and 'Error' not in said[0] + said[1], said

def test_each_start_has_a_store_of_its_own(monkeypatch):
    "torchrun with --master_addr keeps its store when it starts anew, and with it the addresses of those who are gone"
    import torch.distributed as dist
    from retina_nb.train import distributed
    kept, stores = dist.HashStore(), []
    monkeypatch.setattr(dist, 'rendezvous', lambda *_, **__: iter([(kept, 0, 2)]))
    monkeypatch.setattr(dist, 'init_process_group', lambda *_, store, **__: stores.append(store))
    for n in '01':
        monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', n)
        distributed._find(1, 'gloo')
    stores[0].set('address', 'of one who is gone')
    assert stores[0].check(['address']) and not stores[1].check(['address'])

# --- SLURM: its two commands that the script calls are played here
SRUN = '''#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
failed=0
for node in 0 1; do SLURM_NODEID=$node "$@" & pids="$pids $!"; done
for pid in $pids; do wait $pid || failed=$?; done
exit $failed
'''

@pytest.fixture
def slurm(tmp_path, root):
    "Submit the script: a function of its words, and of a torchrun that takes the place of the true one"
    (tmp_path/'bin').mkdir()
    def program(name, text):
        (tmp_path/'bin'/name).write_text(text)
        (tmp_path/'bin'/name).chmod(0o755)
    program('srun', SRUN)
    program('scontrol', '#!/bin/sh\n[ "$*" = "show hostnames gpu[7-8]" ] && printf "127.0.0.1\\ngpu8\\n"')
    def submit(*words, torchrun=None, **env):
        if torchrun: program('torchrun', torchrun)
        path = os.pathsep.join([str(tmp_path/'bin'), os.path.dirname(sys.executable), os.environ['PATH']])
        of = dict(SLURM_JOB_NODELIST='gpu[7-8]', SLURM_JOB_NUM_NODES='2', SLURM_JOB_ID=str(os.getpid()), PATH=path, CUDA_VISIBLE_DEVICES='')
        return subprocess.run(['bash', root/'deploy/slurm_train.sh', *map(str, words)], env={**os.environ, **of, **env}, capture_output=True, text=True,
                              timeout=240, cwd=tmp_path)
    return submit

def test_slurm_starts_a_launcher_a_machine(slurm, tmp_path, root):
    assert subprocess.run(['bash', '-n', root/'deploy/slurm_train.sh']).returncode == 0
    tell = f'#!/bin/sh\nprintf "%s|" $OMP_NUM_THREADS "$@" > {tmp_path}/told$SLURM_NODEID'
    p = slurm('my data', '--out', "runs/Ann's", torchrun=tell, SLURM_GPUS_ON_NODE='8', SLURM_CPUS_PER_TASK='60', OMP_NUM_THREADS='')
    assert p.returncode == 0, p.stderr
    for node in '01':
        threads, *words = (tmp_path/f'told{node}').read_text().split('|')[:-1]
        at = words.index('-m')
        how = dict(zip(words[:at:2], words[1:at:2]))
        port = int(how.pop('--master_port'))
        assert how == {'--nnodes': '2', '--node_rank': node, '--nproc_per_node': '8', '--master_addr': '127.0.0.1'} and 20000 <= port < 40000
        assert words[at:] == ['-m', 'retina_nb.train.training', 'my data', '--out', "runs/Ann's", '--resume'] and threads == '8'
    assert slurm('data', torchrun='#!/bin/sh\n[ $SLURM_NODEID = 0 ]').returncode # one that fails is no success

@pytest.mark.full
def test_slurm_trains_on_two_machines_and_the_same_line_goes_on(slurm, tmp_path):
    words = sample_dir(), '--out', 'run', '--epochs', '1', *HOW
    p = slurm(*words, OMP_NUM_THREADS='1')
    assert p.returncode == 0, p.stderr[-3000:]
    run = Run(tmp_path/'run')
    assert run.finished and run.config['processes'] == 2
    assert slurm(*words, OMP_NUM_THREADS='1').returncode == 0 and Run(tmp_path/'run').finished

# --- from an object store, and from Python
@pytest.mark.full
def test_images_at_addresses_are_fetched_once_a_machine(s3, disks, tmp_path):
    "Three processes of one machine train through one cache, which the first of them fills"
    from retina_nb.storage import place_at
    one, place = disks[0], place_at(s3)
    for f in (one/'data').rglob('*'):
        if f.is_file(): place.write(f.relative_to(one/'data').as_posix(), f.read_bytes())
    with Machines(tmp_path, apart=False) as m: # the store listens on loopback
        words = [*m.torchrun(0, 3, nodes=1), *TRAIN, s3, '--epochs', 1, *HOW]
        (p,), (said,) = m.end([m.start(0, [*words, '--out', 'far'], cwd=one, RETINA_NB_CACHE=str(one/'cache'))])
        assert p == 0, said[-3000:]
        run = Run(one/'far')
        assert run.finished and len(list((one/'cache/near').iterdir())) == 1 and run.config['preprocess']['via'] == 512
        assert not list((one/'cache').glob('seen_*'))

SCRIPT = '''
import hashlib, os, sys
from fastai.callback.core import Callback
from retina_nb.core import RunError
from retina_nb.train import train
from retina_nb.train.distributed import bare, gather, processes, rank
out, data, fails = sys.argv[1:]
class Weights(Callback):
    order = 98
    def after_fit(self):
        all = gather(hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in bare(self.model).parameters())).hexdigest())
        print('rank', rank(), 'same', len(set(all)), flush=True)
class Fail(Callback):
    def after_epoch(self):
        if str(rank()) == fails: raise ValueError('a mistake of mine')
try: run = train(data, out=out, arch='test_resnet', size=48, epochs=2, pretrained=False, bs=30, progress=False, cbs=[Weights, Fail])
except RunError as e: print('told:', e, flush=True); sys.exit(3)
print('run', run, flush=True)
'''

@pytest.mark.full
def test_train_in_a_script_of_ones_own_on_two_machines(disks, tmp_path):
    "The same weights in each process; a mistake in one is told to the other; the run is None where it is not"
    (tmp_path/'mine.py').write_text(SCRIPT)
    with Machines(tmp_path) as m:
        def both(fails):
            m.port += 1
            return m.end([m.start(i, [*m.torchrun(i, 1), tmp_path/'mine.py', f'run{fails}', disks[i]/'data', fails], cwd=disks[i],
                                  RETINA_NB_CACHE=str(disks[i]/'cache')) for i in range(2)])
        codes, said = both('none')
        assert codes == [0, 0], said
        for i, s in enumerate(said): assert f'rank {i} same 1' in s, s
        assert "run Run('runnone')" in said[0] and 'run None' in said[1]
        codes, said = both('1')
        assert 0 not in codes
        assert 'a mistake of mine' in said[1] and 'Traceback' in said[1] and len(lines(said[0], 'told: process 1 on ')) == 1 and 'has ended: ValueError: a mistake of mine' in said[0], said

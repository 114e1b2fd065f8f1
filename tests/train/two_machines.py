"Two machines on one: network namespaces joined by a cable, each with a name of its own; where those are not allowed, two launchers side by side"
import contextlib, os, shutil, signal, subprocess, sys, time
from pathlib import Path

def _ip(*words): return subprocess.run(['ip', *words], capture_output=True, text=True)

class Machines:
    "Two of them; `start(i, ...)` launches processes on machine i, and all that was started ends with the block"
    def __init__(self, folder, apart=True):
        self.folder, self.started, self.port = Path(folder), [], 20000 + os.getpid() % 20000
        self.spaces = [f'rn{os.getpid()}{c}' for c in 'ab']
        self.apart = apart and bool(shutil.which('ip') and shutil.which('unshare')) and not _ip('netns', 'add', self.spaces[0]).returncode
        self.first = '10.77.0.1' if self.apart else '127.0.0.1'
        if self.apart: self._cable()
    def _cable(self):
        _ip('netns', 'add', self.spaces[1])
        _ip('link', 'add', 'eth0', 'netns', self.spaces[0], 'type', 'veth', 'peer', 'name', 'eth0', 'netns', self.spaces[1])
        for i,s in enumerate(self.spaces):
            _ip('-n', s, 'addr', 'add', f'10.77.0.{i+1}/24', 'dev', 'eth0')
            for dev in ('lo', 'eth0'): _ip('-n', s, 'link', 'set', dev, 'up')
    def cut(self):
        "Pull the cable"
        _ip('-n', self.spaces[1], 'link', 'set', 'eth0', 'down')
    def on(self, i):
        "The words that run a command on machine i"
        if not self.apart: return []
        return ['ip', 'netns', 'exec', self.spaces[i], 'unshare', '--uts', 'sh', '-c', f'hostname node{i+1}; exec "$@"', 'sh']
    def env(self, **more):
        ifname = dict(GLOO_SOCKET_IFNAME='eth0') if self.apart else {}
        return {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', **ifname, **more}
    def torchrun(self, i, each, nodes=2):
        "The launcher's words on machine i; each call of `train` takes another port"
        return [sys.executable, '-m', 'torch.distributed.run', '--nnodes', str(nodes), '--nproc_per_node', str(each), '--node_rank', str(i),
                '--master_addr', self.first, '--master_port', str(self.port)]
    def start(self, i, words, cwd=None, **env):
        log = open(self.folder/f'log{len(self.started)}.txt', 'w+')
        p = subprocess.Popen([*self.on(i), *map(str, words)], stdout=log, stderr=subprocess.STDOUT, env=self.env(**env), cwd=cwd, start_new_session=True)
        p.log = log
        self.started.append(p)
        return p
    def end(self, ps, timeout=240):
        "What the programs said, and what they ended with"
        for p in ps: p.wait(timeout)
        return [p.returncode for p in ps], [Path(p.log.name).read_text() for p in ps]
    def __enter__(self): return self
    def __exit__(self, *e):
        for p in self.started:
            with contextlib.suppress(ProcessLookupError): os.killpg(p.pid, signal.SIGKILL)
            p.wait()
            p.log.close()
        if self.apart:
            for s in self.spaces:
                for pid in _ip('netns', 'pids', s).stdout.split():
                    with contextlib.suppress(ProcessLookupError): os.kill(int(pid), signal.SIGKILL)
                _ip('netns', 'del', s)

def children(pid):
    "The processes that a process started, and theirs"
    mine = [int(c) for c in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    return mine + [g for c in mine for g in children(c)]

def until(what, seconds=120):
    "Wait until something is so"
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(.1)

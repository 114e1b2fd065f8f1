"""Mutated bundles, from a seed: settings, ONNX bytes, weights, golden files, hashes, and links and pipes in place of files, opened and graded in processes of their own, with bounds on time and memory. Each case has to end in a typed error or in a valid grading, and may open no
file outside its bundle. `python tests/deploy/fuzz.py BUNDLE 1000` prints the table."""
import collections, copy, json, os, random, re, shutil, struct, subprocess, sys, tempfile, time
from pathlib import Path

SECONDS, MEMORY = 120, 3*2**30 # bounds on one case: time, and address space beyond what the empty process has

# ---- mutations of settings

ODD = [None, True, False, 0, 1, -1, 7, 1e308, -1e-300, .5, 2**70, 10**400, '', 'x', '0.4', 'nan', '../../etc/passwd', '<script>alert(1)</script>', '\x1b[2J', '\u202egnp',
       '\ud800', 'a'*100_000, [], [[]], [None], {}, {'a': 1}, {'value': 'x'}, {'threshold': 'x'}, [0]*2000, list(range(5)), float('nan'), float('inf'), [1.0, 'x'], {'': {}}]

def places(o, at=()):
    "Every place in a value"
    out = [at] if at else []
    for k,v in (o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else ()): out += places(v, (*at, k))
    return out

def changed(o, r):
    "A value with one to three places changed: another value, gone, twice, under another name"
    o = copy.deepcopy(o)
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        *way, last = r.choice(places(o))
        inside = o
        try:
            for k in way: inside = inside[k]
            how = r.randrange(10)
            if how == 0: del inside[last]
            elif how == 1 and isinstance(inside, dict): inside[str(r.choice(ODD))[:50]] = inside.pop(last)
            elif how == 2 and isinstance(inside, list): inside.insert(0, copy.deepcopy(inside[last]))
            elif how == 3 and isinstance(inside[last], (int,float)): inside[last] = inside[last]*r.choice((-1, 0, 1e3, .999, 1e-9))
            elif how == 4 and isinstance(inside[last], (int,float)): inside[last] = str(inside[last])
            else: inside[last] = copy.deepcopy(r.choice(ODD))
        except (KeyError, IndexError, TypeError): pass # changed away by the one before
    return o

# a bundle as full as they come: scores, an operating curve, counts of what it was trained on
def filled(config):
    score = dict(value=.8, ci95=[.7, .9])
    metrics = dict(n_images=40, n_patients=20, seed=42, task='dr', title='Diabetic retinopathy', positive_name='referable DR', qwk=score, accuracy=score,
                   balanced_accuracy=score, macro_auc=score, f1_macro=score, confusion=[[1, 2], [3, 4]], warnings=['few'], left_out=[],
                   referable=dict(sensitivity=score, specificity=score, auc=score, threshold=.4, prevalence=.25), majority=dict(accuracy=score, grade=0))
    t = [i/10 for i in range(1, 10)]
    part = dict(images=30, patients=15, synthetic=30)
    return config | dict(metrics=metrics, operating_curve=dict(threshold=t, sensitivity=[.9]*9, specificity=[.5]*9, images=40, positives=10), epochs=3, seed=1, lr=1e-3, bs=8,
                         operating_point=dict(threshold=.4, question='referable', sensitivity=.9, specificity=.5, n_images=40, chosen_on='validation'),
                         data=dict(source='data', layout='pairs', n_images=60, n_patients=30), trained_with=dict(torch='2.9'),
                         gradable=dict(images=40, refused=2, applies=True), novelty=config.get('novelty') or dict(reason='too few photographs'),
                         trained_on=part | dict(parts=dict(train=part), sources=[part | dict(source='synth', part='train')]))

def sums(b):
    from retina_nb.deploy.bundle import write_sums
    write_sums(b)

def settings(b, r):
    config = json.loads((b/'config.json').read_text())
    text = json.dumps(changed(config, r))
    if r.random() < .05: text = text.replace('"', r.choice(("'", '', '""', '\\"')), r.randrange(1, 5))
    (b/'config.json').write_text(text, encoding='utf-8', errors='surrogatepass')

def golden(b, r):
    f = b/'golden'/'golden.json'
    if r.random() < .6: f.write_text(json.dumps(changed(json.loads(f.read_text()), r)))
    else: flipped(r.choice(sorted((b/'golden').glob('*.png'))), r)

def flipped(f, r):
    "Some bytes of a file changed, cut out, put in or moved"
    d = bytearray(f.read_bytes())
    for _ in range(r.choice((1, 1, 3, 20))):
        i, n = r.randrange(len(d) or 1), r.choice((1, 1, 4, 64, 1000))
        how = r.randrange(4)
        if how == 0: d[i:i+n] = r.randbytes(len(d[i:i+n]))
        elif how == 1: del d[i:i+n]
        elif how == 2: d[i:i] = r.randbytes(n)
        elif d: j = r.randrange(len(d)); d[i:i+n] = d[j:j+n]
    f.write_bytes(bytes(d))

def weights(b, r):
    f = b/'model.safetensors'
    d = f.read_bytes()
    n = int.from_bytes(d[:8], 'little')
    if r.random() < .5: # its header
        header = json.dumps(changed(json.loads(d[8:8+n]), r)).encode('utf-8', 'replace')
        f.write_bytes(struct.pack('<Q', r.choice((len(header),)*3 + (2**62, len(header)+1))) + header + d[8+n:])
    else: flipped(f, r)

def onnx_bytes(b, r):
    "Bytes of the graph changed outside of the weights, where they mean most"
    f = b/'model.onnx'
    d, big = f.read_bytes(), 4096
    import onnx
    m = onnx.ModelProto.FromString(d)
    raws = [t.raw_data for t in m.graph.initializer if len(t.raw_data) > big]
    marks = []
    for i,raw in enumerate(raws):
        mark = b'<%08d>' % i
        marks.append((mark, raw)); d = d.replace(raw, mark, 1)
    g = f.with_name('g'); g.write_bytes(d); flipped(g, r); d = g.read_bytes(); g.unlink()
    for mark,raw in marks: d = d.replace(mark, raw, 1)
    f.write_bytes(d)

def onnx_graph(b, r):
    "Legal protobuf, hostile content"
    import onnx
    from onnx import TensorProto as T, helper as h
    f = b/'model.onnx'
    m = onnx.ModelProto.FromString(f.read_bytes())
    g = m.graph
    node, t = r.choice(list(g.node)), r.choice(list(g.initializer))
    sub = h.make_graph([h.make_node('Identity', ['x'], ['y'])], 'g', [], [])
    big = lambda name: g.initializer.append(h.make_tensor(name, T.INT64, [4], [1, 1, 2**r.randrange(5, 40), 2**r.randrange(5, 40)]))
    def hidden(op):
        big('big'); g.node.append(h.make_node(op, *dict(ConstantOfShape=(['big'],), Tile=(['cam' if op == 'Tile' else 'big', 'big'],), Expand=(['probabilities', 'big'],))[op], ['extra']))
    def external(t): t.ClearField('raw_data'); t.data_location = T.EXTERNAL; t.external_data.add(key='location', value=r.choice(('/etc/passwd', 'card.md', '../outside')))
    def answer(): # the same network, with an answer of another kind
        last = next(n for n in g.node if 'probabilities' in n.output)
        last.output[list(last.output).index('probabilities')] = 'before'
        how = r.randrange(6)
        if how == 0: g.node.append(h.make_node('Sub', ['before', 'before'], ['probabilities']))
        elif how == 1: g.node.append(h.make_node('Mul', ['before', 'before'], ['probabilities']))
        elif how == 2: g.node.append(h.make_node('Log', ['before'], ['probabilities']))
        elif how == 3: g.node.append(h.make_node('Concat', ['before']*r.choice((1, 2, 200)), ['probabilities'], axis=1))
        elif how == 4: g.node.append(h.make_node('Cast', ['before'], ['probabilities'], to=r.choice((T.DOUBLE, T.INT64, T.FLOAT16, T.FLOAT))))
        else: g.node.append(h.make_node('Transpose', ['before'], ['probabilities'], perm=[1, 0]))
    def heavy(): # an operator as large as chance has it, which the answer waits for, or (early) which is worked out when the model is opened
        kind, op, early = r.choice((T.FLOAT, T.FLOAT, T.DOUBLE, T.INT64)), r.choice('Conv ConvTranspose MatMul LRN MaxPool AveragePool TopK Pow Transpose CumSum Resize Mod'.split()), r.random() < .5
        side, few, k = 2**r.randrange(3, 12), 2**r.randrange(0, 6), 2**r.randrange(0, 10) + 1
        size = [side, side] if op in ('MatMul', 'TopK', 'Pow', 'Transpose', 'Mod', 'CumSum') else [1, few, side, side]
        def weight(name, kind, *v): g.initializer.append(h.make_tensor(name, kind, [len(v)], v))
        def add(op, ins, out, **at): g.node.append(h.make_node(op, ins, [out], **at))
        def fill(name, size): weight(name + '_size', T.INT64, *size); add('ConstantOfShape', [name + '_size'], name, value=h.make_tensor('one', kind, [1], [1]))
        last = next(n for n in g.node if 'probabilities' in n.output)
        last.output[list(last.output).index('probabilities')] = 'before'
        fill('h0', size); add('ReduceMax', ['before'], 'top', keepdims=0); add('Cast', ['top'], 'top_kind', to=kind)
        add('Identity' if early else 'Add', ['h0'] if early else ['h0', 'top_kind'], 'h1')
        ins, at = ['h1'], {}
        if op.startswith('Conv'): fill('w', [few, few, min(k, 65), min(k, 65)] if op == 'Conv' else [few, 1, k, k]); ins.append('w')
        if op in ('MatMul', 'Pow', 'Mod'): ins.append('h1'); at = dict(fmod=1) if op == 'Mod' else {}
        if op == 'LRN': at = dict(size=r.choice((k, 2*10**8 + 1, 2**40 + 1)))
        if op.endswith('Pool'): at = dict(kernel_shape=[k, k], pads=[k//2]*4)
        if op == 'TopK': weight('k', T.INT64, max(side//2, 1)); ins.append('k')
        if op == 'CumSum': weight('axis', T.INT64, 1); ins.append('axis')
        if op == 'Resize': weight('scales', T.FLOAT, 1., 1., 2.*few, 2.*few); ins += ['', 'scales']; at = dict(mode=r.choice(('nearest', 'linear', 'cubic')))
        g.node.append(h.make_node(op, ins, ['h2', 'h3'] if op == 'TopK' else ['h2'], **at))
        add('Cast', ['h2'], 'h4', to=T.FLOAT); add('ReduceMin', ['h4'], 'low', keepdims=0); weight('none', T.FLOAT, 0.); add('Mul', ['low', 'none'], 'nothing'); add('Add', ['before', 'nothing'], 'probabilities')
    ways = [lambda: node.attribute.append(h.make_attribute('then_branch', sub)), lambda: external(t), lambda: setattr(node, 'op_type', r.choice('Loop If Scan RandomNormal NonZero Relu Softmax Conv ImageDecoder'.split())),
            lambda: setattr(node, 'domain', r.choice(('com.microsoft', 'ai.onnx.ml', 'x', 'ai.onnx'))), lambda: g.sparse_initializer.add(), lambda: m.functions.add(name='f', domain='x'),
            lambda: m.training_info.add(), lambda: m.metadata_props.add(key='k', value='v'), lambda: m.opset_import.add(domain='x', version=1),
            lambda: setattr(m.opset_import[0], 'version', r.randrange(1, 40)), lambda: setattr(m, 'ir_version', r.randrange(0, 40)), lambda: hidden('ConstantOfShape'), lambda: hidden('Tile'),
            lambda: hidden('Expand'), lambda: t.dims.append(r.choice((0, 2, -1, 2**40))), lambda: setattr(t, 'data_type', r.randrange(0, 25)), lambda: t.string_data.append(b'x'),
            lambda: g.node.append(node), lambda: g.initializer.append(t), lambda: g.node.remove(node), lambda: setattr(g.input[0].type.tensor_type.shape.dim[r.randrange(4)], 'dim_value', r.choice((0, 1, -5, 3, 2**30))),
            lambda: setattr(g.input[0].type.tensor_type.shape.dim[1], 'dim_param', 's'), lambda: setattr(g.input[0].type.tensor_type, 'elem_type', r.randrange(0, 20)), lambda: g.output.append(g.output[0]),
            lambda: g.output.add(name=r.choice((node.output[0], 'secret'))), lambda: g.output.pop(0), lambda: node.input.insert(0, r.choice((*node.input, 'nothing'))), answer, answer, answer, answer, heavy, heavy, heavy, heavy, heavy, heavy,
            lambda: t.dims.extend([r.choice((1, 2, 127))]*r.choice((9, 1000, 200_000))), lambda: node.input.extend([node.input[0]]*r.choice((9, 200_000))), lambda: node.attribute.append(node.attribute[0] if len(node.attribute) else h.make_attribute('size', 2)),
            lambda: node.attribute.append(h.make_attribute('kernel_shape', [127]*r.choice((3, 300_000)))),
            lambda: [setattr(a, 'i', r.choice((0, -1, 2**40))) or (a.ints and a.ints.__setitem__(0, r.choice((0, -1, 2**40)))) for a in node.attribute],
            lambda: [g.node.append(h.make_node('MatMul', ['w0' if i == 0 else f'w{i}', 'w0'], [f'w{i+1}'])) for i in range(300)] and g.initializer.append(h.make_tensor('w0', T.FLOAT, [800, 800], b'\0'*2560000, raw=True)),
            lambda: node.attribute.append(h.make_attribute('sparse_value', h.make_sparse_tensor(h.make_tensor('v', T.FLOAT, [1], [1.]), h.make_tensor('i', T.INT64, [1], [0]), [3])))]
    for _ in range(r.choice((1, 1, 1, 2))): r.choice(ways)()
    d = m.SerializeToString()
    if r.random() < .15: d = r.choice((d + b'\xfa\x7f\x03abc', d.replace(b'\x3a', b'\xba\x80\x00', 1), d + b'\x08\x07', d + d, d[:-r.randrange(1, 2000)]))
    f.write_bytes(d)

def hashes(b, r):
    "The list of hashes itself, its files not as it says"
    f = b/'SHA256SUMS'
    if r.random() < .3: flipped(r.choice([p for p in b.rglob('*') if p.is_file()]), r)
    else: lines = f.read_text().splitlines(True); r.shuffle(lines); f.write_text(''.join(lines[:r.randrange(len(lines)+1)]) + r.choice(('', '0'*64 + '  ../x\n', '0'*64 + '  card.md\n', 'x\n', '\x00')))

def files(b, r):
    "Something else in place of a file, whose hash is right: a link to outside or to nowhere, a pipe, a folder, far too many bytes"
    sums(b)
    name = r.choice(('config.json', 'config.json', 'SHA256SUMS', 'card.md', 'model.onnx', 'model.safetensors', 'golden/golden.json', 'golden/0.png', 'golden/0.input.png', 'golden'))
    f, outside = b/name, b.parent.parent/f'outside_{b.parent.name}'
    def moved(): shutil.move(f, outside); return outside
    def link(): f.symlink_to(moved())
    def around(): f.symlink_to(os.path.relpath(moved(), f.parent))
    def nowhere(): moved(); f.symlink_to(b.parent.parent/'nowhere')
    def circle(): moved(); f.symlink_to(f)
    def device(): moved(); f.symlink_to(r.choice(('/dev/zero', '/dev/stdin', '/proc/self/environ', '/etc/passwd')))
    def pipe(): moved(); os.mkfifo(f)
    def folder(): moved(); f.mkdir()
    def sparse(): moved(); open(f, 'wb').close(); os.truncate(f, 5*2**30)
    def large(): moved(); f.write_bytes(r.choice((b'['+b'[],'*15_000_000+b'[]]', b'{"a":'*3_000_000, b' '*2**21 + (outside.read_bytes() if outside.is_file() else b''), b'['*900_000)))
    r.choice((link, link, around, nowhere, circle, device, pipe, pipe, folder, sparse, large, large))()
    if r.random() < .3: (b/'SHA256SUMS').unlink(missing_ok=True) if not (b/'SHA256SUMS').is_dir() else None # then nothing vouches for anything

KINDS = dict(settings=(settings, 10), golden=(golden, 3), graph=(onnx_graph, 8), onnx=(onnx_bytes, 4), weights=(weights, 2), hashes=(hashes, 1), files=(files, 3)) # mutation and its share of the cases

def make(bundle, folder, seed)->tuple:
    "A mutated copy of a bundle: its folder, and which kind of mutation"
    r, b = random.Random(seed), Path(folder)/str(seed)/'bundle'
    shutil.copytree(bundle, b, copy_function=lambda s, d: os.link(s, d) if os.path.getsize(s) > 2**20 else shutil.copy(s, d))
    kind = r.choices(list(KINDS), [w for _,w in KINDS.values()])[0]
    for f in ('model.onnx', 'model.safetensors'): # a link is copied before it is written to
        if kind in ('graph', 'onnx', 'weights', 'hashes'): d = (b/f).read_bytes(); (b/f).unlink(); (b/f).write_bytes(d)
    config = filled(json.loads((b/'config.json').read_text()))
    (b/'config.json').write_text(json.dumps(config))
    sums(b)
    KINDS[kind][0](b, r)
    if kind not in ('hashes', 'files'): sums(b)
    return b, kind

# ---- in a process of its own: open, grade, show

def watch(allowed):
    "Note every file that is opened outside of `allowed` and of what Python itself lives on"
    opened, own = [], own_places()
    def hook(event, args):
        if event in ('subprocess.Popen', 'os.system', 'socket.connect', 'os.exec', 'os.posix_spawn'): opened.append(event)
        if event == 'open' and isinstance(args[0], (str, bytes, os.PathLike)):
            p = os.path.realpath(os.fsdecode(args[0])) # a link leads elsewhere
            if not p.startswith((allowed[0], *own, *SYSTEM)): opened.append(p)
    def allow(folder): allowed[0] = os.path.realpath(folder)
    allow(allowed[0])
    sys.addaudithook(hook)
    return allow, opened

def judged(b, photo):
    "What becomes of a bundle: 'refused' and the sentence, or 'graded'; anything else is a fault"
    from retina_nb.core import RetinaError
    from retina_nb.deploy import Grader, hub_card, load_bundle
    from retina_nb.deploy.golden import check_bundle
    from retina_nb.deploy.session import Session
    try: bundle = load_bundle(b)
    except RetinaError as e: return fine(e) or ('refused at load', str(e))
    try:
        grader = Grader(bundle)
        grading = grader(photo, name='photo.png', cam=True)
        p = grading.probabilities
        if len(p) != len(bundle.task) or abs(sum(p) - 1) > 1e-6 or min(p) < 0 or max(p) > 1: return 'FAULT', f'probabilities {p}'
        json.dumps(json.loads(grading.to_json()), allow_nan=False).encode()
        grading._repr_html_().encode(), str(grading).encode(), hub_card(bundle).encode(), repr(grader).encode(), repr(bundle).encode()
        check_bundle(bundle)
        shown(Session(grader, feedback=b.parent/'feedback.csv'), photo)
    except RetinaError as e: return fine(e) or ('refused by what it answered', str(e))
    return 'graded', ''

def shown(s, photo):
    "Everything that the panel says of a photograph"
    from retina_nb.deploy import words
    s.add('photo.png', photo)
    if s.state == 'withheld': s.reveal()
    s.to_csv().encode()
    words.head_html(s.grader).encode(), words.table_html(s).encode(), words.verdict_html(s.current, s.task).encode()
    for t in (s.threshold, .01, .5, .99):
        s.threshold = t
        if s.task.positive and s.state == 'graded': words.referral_html(s).encode()

def fine(e):
    "A refusal is one line of reasonable length"
    text = str(e)
    text.encode()
    return ('FAULT', f'a message of {len(text)} characters') if len(text) > 700 or '\n' in text or '\x1b' in text else None

def worker():
    "Takes folders from stdin, one a line; answers with a line of JSON each"
    bundle = Path(sys.argv[2])
    from retina_nb.synth import synth_eye
    photo = synth_eye(3, grade=2, size=128).image
    judged(bundle, photo) # everything is imported now
    try:
        import resource
        now = int(next(o.split()[1] for o in open('/proc/self/status') if o.startswith('VmSize')))*1024
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    except (ImportError, OSError, StopIteration): pass # another system: without this bound
    allow, opened = watch(['/nowhere'])
    print('ready', flush=True)
    for line in sys.stdin:
        b = Path(line.strip()); allow(str(b.parent)); opened.clear()
        start = time.perf_counter()
        try: what, why = judged(b, photo)
        except BaseException as e: what, why = 'FAULT', f'{type(e).__name__}: {e}'[:300]
        if opened: what, why = 'FAULT', f'opened {opened[:3]}'
        print(json.dumps(dict(what=what, why=why, seconds=time.perf_counter()-start)), flush=True)

def own_places():
    "Where Python and the package live: what a process may open"
    found = {sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parent.parent.parent), *(p for p in sys.path if p and os.path.isdir(p))}
    return tuple(found | {str(Path(o).resolve()) for o in found})

SYSTEM = '/proc/', '/sys/', '/dev/null', '/dev/urandom', '/etc/localtime', '/usr/share/zoneinfo', '/usr/lib', '/lib', '/etc/ld.so'

def can_trace()->bool:
    "Is strace there, and allowed to look?"
    return bool(shutil.which('strace')) and subprocess.run(['strace', '-qq', '-o', os.devnull, 'true'], capture_output=True).returncode == 0

class Worker:
    "A process that judges bundles, started anew when one has ended it; with `trace`, strace writes there what it opens"
    def __init__(self, bundle, trace=None):
        import selectors
        self.trace, self.at = trace, 0
        command = ['strace', '-f', '-qq', '-e', 'trace=open,openat,execve,connect,unlink,rename', '-o', str(trace)] if trace else []
        self.proc = subprocess.Popen([*command, sys.executable, '-W', 'ignore', __file__, '--worker', str(bundle)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                     env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join(filter(None, sys.path))))
        self.ready = selectors.DefaultSelector(); self.ready.register(self.proc.stdout, selectors.EVENT_READ)
        assert self.line(SECONDS) == 'ready'
        self.outside('/nowhere') # what it opened to start
    def line(self, seconds): return self.proc.stdout.readline().strip() if self.ready.select(seconds) else None
    def judge(self, b):
        "What became of a bundle; None where the process ended or took too long"
        self.proc.stdin.write(f'{b}\n'); self.proc.stdin.flush()
        line = self.line(SECONDS)
        return json.loads(line) if line else None
    def outside(self, folder)->list:
        "What was opened, started or connected to since the last call, outside of a folder and of what Python lives on"
        if not self.trace: return []
        with open(self.trace, errors='replace') as f:
            f.seek(self.at)
            lines = [o for o in f if ' = -1 ' not in o]
            self.at = f.tell()
        paths = [(o, re.search(r'"([^"]*)"', o)) for o in lines]
        fine = (os.path.realpath(folder), *own_places(), *SYSTEM)
        def foreign(p): return p.startswith('/') and not os.path.realpath(p).startswith(fine)
        return [o.split(None, 1)[1].strip()[:200] for o,p in paths if 'execve(' in o or 'connect(' in o or (p and foreign(p[1]))]
    def stop(self):
        self.proc.stdin.close()
        try: self.proc.wait(5)
        except subprocess.TimeoutExpired: pass
        self.proc.kill(); self.proc.wait()

def run(bundle, n, *, start=0, traced=False)->list: # dicts: seed, kind, what, why, seconds
    "Judge `n` mutated bundles; `traced`: strace looks on as well"
    out = []
    with tempfile.TemporaryDirectory(prefix='fuzz_', dir=Path(bundle).parent) as d:
        trace = Path(d)/'trace' if traced else None
        worker = Worker(bundle, trace)
        for seed in range(start, start+n):
            b, kind = make(bundle, d, seed)
            found = worker.judge(b)
            if found is None:
                code = worker.proc.poll()
                worker.stop(); worker = Worker(bundle, trace)
                found = dict(what='FAULT', why=f'the process ended ({code})' if code is not None else f'more than {SECONDS} s', seconds=SECONDS)
            elif opened := worker.outside(b.parent): found |= dict(what='FAULT', why=f'opened {opened[:3]}')
            out.append(dict(seed=seed, kind=kind) | found)
            shutil.rmtree(b.parent)
        worker.stop()
    return out

def table(found)->str: # Markdown
    "What became of the cases, by kind of mutation"
    ends = 'refused at load', 'refused by what it answered', 'graded', 'FAULT'
    count = collections.Counter((o['kind'], o['what']) for o in found)
    rows = [[k, *(count[k, e] for e in ends)] for k in KINDS]
    rows.append(['all', *(sum(r[i] for r in rows) for i in range(1, 5))])
    slowest = max(o['seconds'] for o in found)
    lines = ['| mutated | refused when opened | refused for its answer | graded | faults |', '|---|---|---|---|---|', *('| ' + ' | '.join(map(str, r)) + ' |' for r in rows)]
    return '\n'.join(lines) + f'\n\nSlowest case: {slowest:.1f} s.'

if __name__ == '__main__':
    if sys.argv[1] == '--worker': worker()
    else:
        found = run(sys.argv[1], int(sys.argv[2]), start=int(sys.argv[3]) if len(sys.argv) > 3 else 0, traced=can_trace())
        print(table(found), '' if can_trace() else 'Without strace.')
        for o in found:
            if o['what'] == 'FAULT': print(o)

"""Which statements of the package the tests of this process reach, at hardly any cost. A tracer, which Python 3.11 calls for every line of
every library, would double the time of the tests; here each statement of `retina_nb` notes by itself that it was run, and the rest runs
as it is. What was reached is written in the form of coverage.py, whose report then counts."""
import ast, importlib.machinery, os, sys
from pathlib import Path

class _Marks(ast.NodeTransformer):
    "Before each statement of a module the line `__hits__[n] = 1`; `lines[n]` holds the lines that stand for it"
    def __init__(self): self.lines = []
    def mark(self, at, *lines):
        new = ast.Assign([ast.Subscript(ast.Name('__hits__', ast.Load()), ast.Constant(len(self.lines)), ast.Store())], ast.Constant(1))
        self.lines.append(lines)
        for n in ast.walk(new): ast.copy_location(n, at)
        return new
    def generic_visit(self, node):
        super().generic_visit(node)
        for field in ('body', 'orelse', 'finalbody'):
            if isinstance(block := getattr(node, field, None), list): setattr(node, field, list(self.block(node, field, block)))
        return node
    def block(self, node, field, block):
        head = (node.pattern if isinstance(node, ast.match_case) else node) if isinstance(node, (ast.ExceptHandler, ast.match_case)) else None
        for i, s in enumerate(block):
            words = isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) and isinstance(s.value.value, str)
            kept = words and i == 0 and field == 'body' and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            early = isinstance(s, ast.ImportFrom) and s.module == '__future__' # nothing may stand before it
            lines = {s.lineno, *(d.lineno for d in getattr(s, 'decorator_list', ()))} | ({head.lineno} if head and i == 0 else set())
            marks = not kept and (head or lines != {getattr(node, 'lineno', 0)}) # `if a: b` is one line
            if marks and not early: yield self.mark(s, *lines)
            yield s
            if marks and early: yield self.mark(s, *lines)

FOUND = {} # file -> [(lines of each mark, whether it was passed)]

class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname): # nothing of it is kept in __pycache__, where other processes would find it
        marks = _Marks()
        tree = marks.visit(ast.parse(self.get_data(self.path), self.path))
        FOUND.setdefault(self.path, []).append((marks.lines, bytearray(len(marks.lines))))
        return compile(tree, self.path, 'exec', dont_inherit=True)
    def exec_module(self, module):
        code = self.get_code(module.__name__)
        module.__dict__['__hits__'] = FOUND[self.path][-1][1]
        exec(code, module.__dict__)

class Finder:
    "Gives the modules of `package` a loader that puts marks into them"
    def __init__(self, package): self.package = package
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] != self.package: return None
        found = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self and hasattr(f, 'find_spec'))
        spec = next((s for s in found if s), None)
        if spec and type(spec.loader) is importlib.machinery.SourceFileLoader: spec.loader = _Loader(name, spec.origin)
        return spec

def install(package='retina_nb'): sys.meta_path.insert(0, Finder(package))

def write(folder):
    "What was reached so far, into a file of this process in `folder`"
    from coverage import CoverageData
    data = CoverageData(basename=str(Path(folder)/'.coverage'), suffix=f'p{os.getpid()}')
    data.add_lines({path: {n for lines, passed in times for one, yes in zip(lines, passed) if yes for n in one} for path, times in FOUND.items()})
    data.write()

"""The files of an image, put together in the stage that builds it: python3 assemble.py VENV OUT

What was installed, Python itself, the shared libraries that both name, certificates, time zones, a user. Left behind: tests of other
packages, sources in C, debugging symbols, Python's editor and installer, and of Debian everything else."""
import os, re, shutil, subprocess, sys, sysconfig
from pathlib import Path

USER, HOME = 10001, '/var/lib/retina'
TESTS = {'test', 'tests', '__pycache__'}
SOURCES = {'.c', '.cc', '.cpp', '.h', '.hpp', '.pyx', '.pxd', '.pyi', '.a'}
STDLIB = {'test', 'tests', '__pycache__', 'idlelib', 'lib2to3', 'pydoc_data', 'ensurepip', 'tkinter', 'turtledemo', 'site-packages', 'dist-packages'}
ORT = 'libonnxruntime.so.*' # for programs in C; Python's module has the whole of it inside

def size(folder): return sum(p.lstat().st_size for p in Path(folder).rglob('*') if not p.is_dir() or p.is_symlink())

def clean(site):
    "Take out of the installed packages what no request runs"
    for folder, names, files in os.walk(site):
        for n in [n for n in names if n in TESTS]:
            shutil.rmtree(Path(folder)/n)
            names.remove(n)
        for f in files:
            if Path(f).suffix in SOURCES: (Path(folder)/f).unlink()
    for p in site.glob(f'onnxruntime/capi/{ORT}'): p.unlink()

def binaries(folder): return sorted(p for p in Path(folder).rglob('*.so*') if p.is_file() and not p.is_symlink() and re.search(r'\.so[.\d]*$', p.name))

def strip(site):
    "Take the debugging symbols off; libraries that wheels bring along (*.libs) were edited after linking and stay as they are"
    own = [p for p in binaries(site) if not p.parent.name.endswith('.libs')]
    subprocess.run(['strip', '--strip-unneeded', *own], check=True)

def needed(files):
    "The shared libraries of the system that some files ask for; those that wheels bring along are found by whoever loads them"
    found, brought = set(), {f.name for f in files}
    for f in files:
        said = subprocess.run(['ldd', str(f)], capture_output=True, text=True).stdout
        lost = set(re.findall(r'(\S+) => not found', said)) - brought
        if lost: raise SystemExit(f'assemble: {f} asks for {", ".join(sorted(lost))}, which is nowhere')
        found |= set(re.findall(r'(/\S+) \(0x', said))
    return {Path(f) for f in found}

def put(file, out):
    "Copy a file, or what a link leads to, to the same place below `out`"
    to = out/str(file).lstrip('/')
    to.parent.mkdir(parents=True, exist_ok=True)
    if not to.exists(): shutil.copy2(file, to)

LOADS = """import ctypes, py_compile, sys
for f in sys.argv[1:]: ctypes.CDLL(f)
import retina_nb.serve.service, retina_nb.serve.serve_command, retina_nb.serve.bucket, psycopg, cv2, onnx, onnxruntime, simplejpeg
how = py_compile.PycInvalidationMode.UNCHECKED_HASH # nobody changes a file here, and copies may lose their times
for f in [getattr(m, '__file__', None) for m in list(sys.modules.values())]:
    if f and f.endswith('.py'): py_compile.compile(f, invalidation_mode=how, doraise=True)"""

def check(venv, out):
    """Every library loads, and the service too, where nothing but the image is; those of .libs come with those that need them. The modules
    that the service loads are compiled: it could not keep them itself, and would compile them at each start"""
    files = [f'/{p.relative_to(out)}' for p in binaries(out/str(venv).lstrip('/')) if '.libs' not in p.parent.name]
    r = subprocess.run([shutil.which('chroot', path='/usr/sbin:/sbin:/usr/bin'), out, venv/'bin/python', '-B', '-c', LOADS, *files],
                       env=dict(HOME='/tmp', MPLCONFIGDIR='/tmp/matplotlib'), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if r.returncode: raise SystemExit(f'assemble: what was put together does not run: {r.stdout[-3000:]}')
    shutil.rmtree(out/'tmp/matplotlib', ignore_errors=True)

def assemble(venv, out):
    site, stdlib = next(venv.glob('lib/python3*/site-packages')), Path(sysconfig.get_path('stdlib'))
    before = size(venv)
    clean(site)
    strip(site)
    python = Path(os.path.realpath(sys.executable))
    shutil.copytree(venv, out/str(venv).lstrip('/'), symlinks=True)
    shutil.copy2('entrypoint.py', out/str(venv).lstrip('/'))
    shutil.copytree(stdlib, out/str(stdlib).lstrip('/'), ignore=lambda d, names: [n for n in names if n in STDLIB or n.startswith('config-')])
    put(python, out)
    link = Path(os.readlink(venv/'bin/python3'))
    if link.is_absolute() and link != python: # the venv asks for python3, which is a link to the version
        (out/str(link).lstrip('/')).symlink_to(python)
    asked = [python, *binaries(site), *binaries(stdlib/'lib-dynload')]
    for f in needed(asked):
        if venv not in f.parents: put(f, out)
    # where the loader looks: Python's own images have its library in /usr/local/lib, which it finds by its cache alone
    put(Path('/etc/ld.so.conf'), out)
    shutil.copytree('/etc/ld.so.conf.d', out/'etc/ld.so.conf.d')
    subprocess.run([shutil.which('ldconfig', path='/usr/sbin:/sbin'), '-r', out], check=True)
    shutil.copytree('/etc/ssl/certs', out/'etc/ssl/certs', ignore_dangling_symlinks=True)
    shutil.copytree('/usr/share/zoneinfo', out/'usr/share/zoneinfo', symlinks=True, ignore=shutil.ignore_patterns('right', 'posix'))
    for name, text in {'passwd': f'root:x:0:0::/:/none\nretina:x:{USER}:{USER}::{HOME}:/none\n', 'group': f'root:x:0:\nretina:x:{USER}:\n',
                       'nsswitch.conf': 'hosts: files dns\n'}.items(): (out/'etc'/name).write_text(text)
    (out/'tmp').mkdir()
    (out/'tmp').chmod(0o1777)
    check(venv, out)
    print(f'assemble: {before/1e6:.0f} MB were installed, {size(out/str(venv).lstrip("/"))/1e6:.0f} MB of them are kept; the image has {size(out)/1e6:.0f} MB')

if __name__ == '__main__':
    assemble(Path(sys.argv[1]), Path(sys.argv[2]))
    Path('/home-of-retina').mkdir()

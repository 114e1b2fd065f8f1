"Mutated bundles from a seed, in processes of their own: a few dozen in `make test`, a thousand in `make test-full`."
import subprocess, sys

import pytest

import fuzz
from random_model import shared

def _fuzz(tmp_path, n, traced):
    import shutil
    bundle = shutil.copytree(shared()[1], tmp_path/'bundle')
    found = fuzz.run(bundle, n, traced=traced)
    print(fuzz.table(found))
    assert not [o for o in found if o['what'] == 'FAULT']
    assert len(found) == n and {o['what'] for o in found} >= {'refused at load', 'graded'}

def test_a_few_dozen(tmp_path): _fuzz(tmp_path, 36, fuzz.can_trace())

@pytest.mark.full
def test_a_thousand(tmp_path): _fuzz(tmp_path, 1000, fuzz.can_trace())

def test_the_fuzzer_finds_what_it_looks_for(tmp_path):
    "A file that is opened outside would be noticed, by both ways of looking"
    (tmp_path/'in').mkdir(); (tmp_path/'secret').write_text('x')
    code = f'''import sys; sys.path.insert(0, {str(fuzz.Path(fuzz.__file__).parent)!r})
import fuzz
allow, opened = fuzz.watch([{str(tmp_path/"in")!r}])
open({str(tmp_path/"in"/"x")!r}, "w").close(); open({str(tmp_path/"secret")!r}).close()
print(opened)'''
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.stdout.strip() == str([str(tmp_path/'secret')]), r
    if fuzz.can_trace():
        w = object.__new__(fuzz.Worker)
        w.trace, w.at = tmp_path/'trace', 0
        subprocess.run(['strace', '-f', '-qq', '-e', 'trace=openat', '-o', w.trace, 'cat', tmp_path/'secret'], capture_output=True)
        assert any('secret' in o for o in w.outside(tmp_path/'in')) and not w.outside(tmp_path/'in')

def test_a_link_hides_nothing_from_the_fuzzer(tmp_path):
    "What is opened through a link inside the bundle lies outside of it"
    (tmp_path/'in').mkdir(); (tmp_path/'secret').write_text('x'); (tmp_path/'in'/'config.json').symlink_to(tmp_path/'secret')
    code = f'''import sys; sys.path.insert(0, {str(fuzz.Path(fuzz.__file__).parent)!r})
import fuzz
allow, opened = fuzz.watch([{str(tmp_path/"in")!r}])
open({str(tmp_path/"in"/"config.json")!r}).close()
print(opened)'''
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.stdout.strip() == str([str((tmp_path/'secret').resolve())]), r

def test_something_else_in_place_of_a_file(tmp_path):
    "Links, pipes, folders and far too many bytes are refused at once, without being opened"
    import random, shutil, time
    from pathlib import Path
    from retina_nb.core import BundleError
    from retina_nb.deploy import load_bundle
    for seed in range(40):
        b = Path(shutil.copytree(shared()[1], tmp_path/str(seed)/'bundle'))
        fuzz.files(b, random.Random(seed))
        start = time.process_time()
        with pytest.raises(BundleError): load_bundle(b)
        assert time.process_time() - start < 5, seed
        shutil.rmtree(b.parent)
        for o in tmp_path.glob('outside_*'): shutil.rmtree(o) if o.is_dir() else o.unlink()

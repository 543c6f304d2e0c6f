# Two commands do everything on a fresh machine: `make demo` and `make test`. Each makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help venv demo test fuzz test-slow test-lowest test-gpu browser lint types bench bench-gpu bench-group peers bench-peers test-peers lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

venv: $(READY) ## make .venv with the pinned versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: $(READY) ## the test suite (without the slow tests)
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-slow: $(READY) ## the tests marked slow; installs Ray, which they need
	$(BIN)/python -c 'import ray' 2>/dev/null || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	$(BIN)/python -m pytest -m slow

# The bounds are read from pyproject.toml, so that what is tested is what is declared. What they need in turn is the newest, of which
# they may use what is to be removed, or is an experiment: warnings that are no errors here.
LOWEST := .venv-lowest
test-lowest: $(LOWEST)/ready ## the test suite with the lowest versions that pyproject.toml allows (Python 3.11)
	$(LOWEST)/bin/python -m pytest -n 2 -m 'not slow' -W default::DeprecationWarning -W 'default:Named tensors:UserWarning'

$(LOWEST)/ready: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	grep -oE '"[A-Za-z0-9-]+>=[0-9.]+"' pyproject.toml | tr -d '"' | sed 's/>=/==/' | sort -u > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	touch $@

browser: ## chromium for the test of the report (Debian and root; elsewhere that test is skipped unless there is one)
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name && exit; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	else echo 'no chromium, and no right to install it: the report is not looked at in a browser'; fi

test-peers: peers ## agreement with aihwkit, and with CrossSim where PYTHONPATH=… leads to it
	$(PEERS)/bin/python -m pytest tests/chip/test_peers.py tests/profile/test_crosssim.py tests/profile/test_aihwkit.py tests/profile/test_coming_from.py

# From .venv where there is one, else of an environment that holds nothing else: style needs no torch.
RUFF := $(or $(wildcard $(BIN)/ruff),.venv-lint/bin/ruff)
lint: $(RUFF) ## ruff: style and format
	$(RUFF) check .
	$(RUFF) format --check .

.venv-lint/bin/ruff: constraints.txt
	$(PYTHON) -m venv .venv-lint
	.venv-lint/bin/python -m pip install --quiet --constraint constraints.txt ruff
	touch $@

types: $(READY) ## pyright
	$(BIN)/pyright

.PHONY: docs
docs: $(READY) ## the documentation site, docs/_build/html; a broken link or reference fails
	$(BIN)/python -c 'import pydata_sphinx_theme, myst_parser, numpydoc, sphinx_copybutton' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	rm -rf docs/_build docs/api  # of pages that have not changed nothing would be said
	$(BIN)/python -m sphinx -q -n -W --keep-going -j 2 -c docs . docs/_build/html
	$(BIN)/python -m pytest -q tests/test_site.py

demo: $(READY) ## train LeNet-5 on digits plainly and under noise, sweep both, compare
	$(BIN)/analogsim demo

SPEED := benchmarks/results/speed
bench: $(READY) ## measure speed against plain torch and write the tables (20 minutes; leave the machine alone)
	$(BIN)/analogsim bench --threads 1,2 --force --out $(SPEED)/kernels.json
	$(BIN)/python -m benchmarks.shapes --out $(SPEED)/shapes.json
	$(BIN)/python -m benchmarks.layers --out $(SPEED)/layers.json
	$(BIN)/python -m benchmarks.questions --out $(SPEED)/questions.json
	$(BIN)/python -m benchmarks.training --out $(SPEED)/training.json
	$(BIN)/python -m benchmarks.startup --out $(SPEED)/startup.json
	$(BIN)/python -m benchmarks.scaling --out $(SPEED)/scaling.json
	$(BIN)/python -m benchmarks.devices --out $(SPEED)/devices.json
	$(BIN)/python -m benchmarks.tables

bench-gpu: $(READY) ## measure the Triton kernels against torch, on a machine with a CUDA GPU
	$(BIN)/python -m benchmarks.gpu --out $(SPEED)/gpu.json
	$(BIN)/python -m benchmarks.tables

fuzz: $(READY) ## random layers, profiles and inputs: make fuzz SEED=1 CASES=20000 MINUTES=30
	$(BIN)/python -m tests.fuzz --seed $(or $(SEED),0) --cases $(or $(CASES),20000) --minutes $(or $(MINUTES),30)

test-gpu: $(READY) ## the tests that need a CUDA GPU
	$(BIN)/python -m pytest tests/kernels/test_gpu.py tests/training/test_gpu_group.py

bench-group: $(READY) ## measure groups of networks against one process a network (leave the machine alone)
	$(BIN)/python -m benchmarks.group --out $(SPEED)/group.json

PEERS := .venv-peers
peers: $(READY) ## make .venv-peers: this environment, and other simulators beside it
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/analogsim.pth
	-$(PEERS)/bin/pip install --quiet --no-deps --only-binary :all: aihwkit
	-$(PEERS)/bin/pip install --quiet --no-deps --only-binary :all: aihwkit-lightning

bench-peers: peers ## measure other simulators beside ours
	$(PEERS)/bin/python -m benchmarks.peers --out $(SPEED)/peers.json
	$(BIN)/python -m benchmarks.tables

lock: ## pin the versions now installed in .venv
	$(BIN)/python -m pip freeze --exclude-editable --exclude analogsim | sort --ignore-case > constraints.txt

clean: ## remove what the other targets made
	rm -rf .venv .venv-* runs .pytest_cache .ruff_cache .hypothesis *.egg-info
	rm -rf docs/_build docs/api

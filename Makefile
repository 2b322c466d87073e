PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest
# two workers of one thread each: with more threads than cores they wait for each other
PARALLEL := OMP_NUM_THREADS=1 $(PYTEST) -n 2

.PHONY: demo test check lint soak fuzz study bench docs lock clean

demo: .venv/.run                 ## evaluate the shipped checkpoint and say what to do next
	$(BIN)/ccvae-eval demo

test: .venv/.dev lint            ## everything that CI runs
	$(PARALLEL) --benchmark-disable -m "not soak"

check: .venv/.dev lint           ## the quick tier
	$(PARALLEL) --benchmark-skip -m "not soak and not slow" -q

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: .venv/.dev                 ## the long tests
	$(PYTEST) -m soak

fuzz: .venv/.dev                 ## coverage-guided fuzzing of the readers, five minutes each; needs Python 3.11 to 3.13
	$(PIP) -e '.[fuzz]'
	for target in checkpoint npz typed; do $(BIN)/python tools/fuzz.py atheris $$target --seconds 300 || exit 1; done

study: .venv/.dev                ## the calibration study; writes docs/calibration-*.md
	$(BIN)/python -m study

bench: .venv/.dev                ## budgets as ratios within one run; writes docs/performance.md
	$(PYTEST) tests/benchmarks --benchmark-only --benchmark-disable-gc -m "not soak" --benchmark-json=build/benchmarks.json
	$(BIN)/python tools/performance.py build/benchmarks.json docs/performance.md

docs: .venv/.docs                ## the documentation site, in build/site
	$(BIN)/sphinx-build -q -W --keep-going docs build/site
	@echo build/site/index.html

lock: .venv/.dev                 ## rewrite constraints.txt from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed "s/+cpu//" > constraints.txt

clean:
	rm -rf .venv build dist

# what a user needs
.venv/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

# what the documentation site needs
.venv/.docs: .venv/.run
	$(PIP) -e '.[docs]'
	@touch $@

# and what a developer needs
.venv/.dev: .venv/.run
	$(PIP) -e '.[dev]'
	@touch $@

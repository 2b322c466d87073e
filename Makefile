PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest
# two workers of one thread each: with more threads than cores they wait for each other
PARALLEL := OMP_NUM_THREADS=1 $(PYTEST) --benchmark-skip -n 2

.PHONY: demo test check lint soak bench lock clean

demo: .venv/.run                 ## evaluate the shipped checkpoint and say what to do next
	$(BIN)/ccvae-eval demo

test: .venv/.dev lint            ## everything that CI runs
	$(PARALLEL) -m "not soak"
	$(PYTEST) tests/benchmarks -m "not soak" --benchmark-only --benchmark-disable-gc -q

check: .venv/.dev lint           ## the quick tier
	$(PARALLEL) -m "not soak and not slow" -q

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: .venv/.dev                 ## the long tests
	$(PYTEST) -m soak

bench: .venv/.dev                ## ratios within one run
	$(PYTEST) tests/benchmarks --benchmark-only

lock: .venv/.dev                 ## rewrite constraints.txt from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed "s/+cpu//" > constraints.txt

clean:
	rm -rf .venv build dist

# what a user needs
.venv/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

# and what a developer needs
.venv/.dev: .venv/.run
	$(PIP) -e '.[dev]'
	@touch $@

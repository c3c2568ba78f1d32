# Everything rests on `make setup`; a second call finds the stamp and does nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
BENCH_STAMP := $(VENV)/.bench-stamp
DOCS_STAMP := $(VENV)/.docs-stamp

.PHONY: setup demo test experiments mintest maxtest check lint types contracts bench docs clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pathnorm needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make setup PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[all,test,dev]'
	@touch $@

demo: setup
	$(BIN)/pathnorm demo --force $(DEMO_ARGS)

# One process per core, each with one thread of BLAS.
test: setup
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

# Every experiment at its smallest size: does it run, and say something?
experiments: setup
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m experiment $(PYTEST_ARGS)

# The suite with the oldest versions that pyproject.toml allows, and with the newest there are, in environments of
# their own. Newer versions warn of what they will remove; that is shown and does not fail the run.
mintest:
	$(PYTHON) -m venv $(VENV)-min
	$(VENV)-min/bin/python -m pip install -c constraints-min.txt -e '.[all,test]'
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(VENV)-min/bin/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

maxtest:
	$(PYTHON) -m venv $(VENV)-max
	$(VENV)-max/bin/python -m pip install --upgrade -e '.[all,test]'
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(VENV)-max/bin/python -m pytest -n auto --dist worksteal -W default $(PYTEST_ARGS)

check: lint types contracts docs test

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

# The peers are not part of `setup`: only the comparison needs them.
$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	@touch $@

# One benchmark, `make bench BENCH=digits`, or every one that benchmarks/ has.
BENCH ?= $(filter-out _%,$(basename $(notdir $(wildcard benchmarks/*.py))))

bench: $(BENCH_STAMP)
	set -e; for name in $(BENCH); do $(BIN)/python -m benchmarks.$$name $(BENCH_ARGS); done

# Like the peers, what builds the site is not part of `setup`.
$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@

# The site, in build/docs: tutorials are run, the rest is made from the code and the committed results. No network is
# needed, and a warning is an error.
docs: $(DOCS_STAMP)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -n -W --keep-going -q $(DOCS_ARGS) docs build/docs

clean:
	rm -rf $(VENV) $(VENV)-min $(VENV)-max build dist pathnorm-demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Everything rests on `make setup`; a second call finds the stamp and does nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
BENCH_STAMP := $(VENV)/.bench-stamp

.PHONY: setup demo test check lint types contracts bench clean
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

check: lint types contracts test

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

clean:
	rm -rf $(VENV) build dist pathnorm-demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

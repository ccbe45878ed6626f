# make demo installs into .venv and runs the demo. make test, make check and make docs are for developers.
# Each step leaves a stamp in .venv, so a second run repeats only what changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
INSTALLED := $(VENV)/.installed

# Spinning idle OpenMP threads slow a shared two-core machine down tenfold.
export OMP_WAIT_POLICY ?= PASSIVE

# Processes that share the tests, each with one thread.
WORKERS ?= 2

# The browser for the tests of the report: Debian's Chromium, installed by apt where sudo needs no password.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo "sudo -n")
BROWSER := command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null

.PHONY: help install demo chromium test test-lowest coverage check fuzz kill format docs build clean
.DELETE_ON_ERROR:

help:
	@echo "make demo     install, erase two concepts from the embedded model, write demo/report.html"
	@echo "make test     install missing dependencies and run the tests"
	@echo "make test-lowest  run tests with the lowest versions that pyproject.toml allows (several GB)"
	@echo "make coverage run the tests and list the lines of src that no test runs"
	@echo "make check    check lint, format, docstrings and types"
	@echo "make fuzz     read 100,000 malformed files, and write benchmarks/results/fuzz.md (about half an hour)"
	@echo "make kill     interrupt commands 500 times and run them again, and write benchmarks/results/kills.md (about an hour)"
	@echo "make format   let ruff fix and format the code"
	@echo "make docs     build the documentation into site/"
	@echo "make build    build the wheel into dist/"

# Debian packages ensurepip separately, in python3-venv: install it as root, or else print how to.
$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv; } \
	  || { echo "Python's venv module is missing: install it first, e.g. sudo apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing efface into $(VENV) (about 1.5 GB with torch; two minutes on a fast connection)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.extra-%: $(INSTALLED)
	@$(PIP) --editable '.[$*]'
	@touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	@$(BIN)/efface demo --force -o demo

# Fails if Chromium is missing and cannot be installed.
chromium:
	@$(BROWSER) || { echo "Installing Chromium, which the tests of the report use"; \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

# Without Chromium, pytest reports the tests that need it as skipped.
test: $(VENV)/.extra-test
	@$(MAKE) --silent chromium || echo "Chromium is missing and cannot be installed: the tests in a browser will be skipped" >&2
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(PYTEST)

# The lowest versions of the direct dependencies; the newest are those of constraints.txt.
LOWEST_TESTS ?= tests/models/test_open.py tests/eraser tests/formats tests/apply
test-lowest:
	@[ -x .venv-lowest/bin/uv ] || { $(PYTHON) -m venv .venv-lowest && .venv-lowest/bin/python -m pip install --quiet uv; }
	@.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[test]'
	@OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest $(LOWEST_TESTS) $(PYTEST)

coverage: $(VENV)/.extra-test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal \
	  --cov=efface --cov-branch --cov-report=term-missing:skip-covered $(PYTEST)

check: $(VENV)/.extra-check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python tools/check_docstrings.py
	@$(BIN)/pyright --pythonpath $(BIN)/python

# Continues after an interruption. To start again, remove the state.
fuzz: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py --state $(VENV)/fuzz.json

# Continues after an interruption, with a state in the cache of efface. To start again, remove the state.
kill: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/kills.py

format: $(VENV)/.extra-check
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/.extra-docs
	@$(BIN)/python docs/make_results.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

build: $(BIN)/python
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) demo site dist .coverage .pytest_cache .ruff_cache

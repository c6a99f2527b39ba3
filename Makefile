# Every target makes .venv itself, so that each works as the first command in a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
# Without compiling, which takes longer than all the rest: Python compiles what is imported, and only that.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

# Where warnings are errors, a package that warns while it is compiled could not be imported. Some hold files for other
# versions of Python, which do not compile.
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 .venv/lib || true

.PHONY: demo test test-all lint bench docs clean

demo: .venv/demo
	$(BIN)/ravine demo --out out/demo

# A worker for each core, a thread of PyTorch for each worker; long files are given out first (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST)

# The long ones too: levels and power of every decision, the paper's figures, clusters, and commands that are killed.
test-all: lint
	$(PYTEST) -m 'calibration or not calibration'

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet src tests benchmarks examples
	$(BIN)/basedpyright --warnings
	$(BIN)/lint-imports

# Tables and numbers go to docs/benchmarks. On a quiet machine: some twenty minutes. `make bench KEEP=--keep` goes on
# after an interruption: networks that line.py has measured already, with the same code and settings, are not repeated.
bench: .venv/bench
	$(BIN)/python benchmarks/line.py $(KEEP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/spreading.py
	$(BIN)/python benchmarks/recorder.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/size.py
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/mnist.py

# The site, in out/site/index.html. The pages' snippets are run by `make test`; RAVINE_WRITE_DOCS=1 there writes anew what
# they print.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ravine needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

# What a user of ravine has, and the digits.
.venv/demo: .venv/python pyproject.toml constraints.txt
	@echo 'installing PyTorch and the rest: about a minute'
	$(INSTALL) -e '.[demo]'
	touch $@

.venv/ready: .venv/python pyproject.toml constraints.txt
	@echo 'installing PyTorch, the rest, and the tools: a few minutes'
	$(INSTALL) -e '.[dev]'
	$(COMPILE)
	touch .venv/demo $@

# The three packages that ravine is compared with, and transformers: the extra `bench`.
.venv/bench: .venv/ready
	$(INSTALL) -e '.[dev,bench]'
	touch $@

.venv/docs: .venv/ready
	$(INSTALL) -e '.[dev,docs]'
	touch $@

clean:
	rm -rf .venv out .pytest_cache .ruff_cache .import_linter_cache

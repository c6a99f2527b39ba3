# Every target makes .venv itself, so that each works as the first command in a fresh clone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/ready
	$(BIN)/ravine demo --out out/demo

test: lint
	$(BIN)/pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet src tests benchmarks
	$(BIN)/basedpyright --warnings
	$(BIN)/lint-imports

bench: .venv/ready
	$(BIN)/python benchmarks/line.py

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ravine needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	@echo 'making .venv (PyTorch and the rest: a minute or two)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv out .pytest_cache .ruff_cache .import_linter_cache

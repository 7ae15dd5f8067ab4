# make demo: from nothing to the answers of a trained transformer. make test: the tests. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
TEST_STAMP := $(VENV)/.ready-test
LINT_STAMP := $(VENV)/.ready-lint
DOCS_STAMP := $(VENV)/.ready-docs
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo test test-slow lint docs clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .  # the command astromodal
	@touch $(STAMP)

$(TEST_STAMP): $(STAMP) requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps sweeps==0.3.0
	@touch $(TEST_STAMP)

$(LINT_STAMP): $(STAMP) requirements-lint.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-lint.txt
	@touch $(LINT_STAMP)

$(DOCS_STAMP): $(STAMP) requirements-docs.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $(DOCS_STAMP)

setup: $(STAMP)  ## make the virtual environment .venv from requirements.txt

demo: $(STAMP)  ## synthetic sky -> tokenizers -> tokens -> transformer -> answers, a few minutes on two cores
	$(BIN)/python train_tokenizers.py experiment=demo
	$(BIN)/python encode.py experiment=demo
	$(BIN)/python train_lm.py experiment=demo
	$(BIN)/python evaluate.py experiment=demo

test: $(TEST_STAMP)  ## the test suite, on two cores (WORKERS=4: on four; a gigabyte of memory each)
	$(PYTEST) -m "not slow"

test-slow: $(TEST_STAMP)  ## the tests that take minutes
	$(PYTEST) -m slow

lint: $(LINT_STAMP)  ## ruff (rules and formatting) and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS_STAMP)  ## the site, in docs/_build/html; a warning or a broken link is an error
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs docs/_build/html

clean:  ## remove what runs and demos wrote (not the environment)
	rm -rf artifacts runs

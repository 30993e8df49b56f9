# Everything on a fresh machine: `make run` shows Driftline working, `make test` runs all tests.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# The first Python that is new enough; set PYTHON to choose another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Of the tests: half of their time is spent waiting for processes and brokers.
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN | awk '{ n = $$1 + 1; print n < 5 ? n : 5 }')
BIN := .venv/bin
INSTALLED := .venv/.installed
RUNS := .venv/.runs
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Enough to run: without what tests and reports need.
$(RUNS): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory .venv/bin/pip
	@$(INSTALL) --editable '.[server]' 2> >(grep -v "is ignored: it is neither" >&2)
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory .venv/bin/pip
	@$(INSTALL) --editable '.[dev]' 2> >(grep -v "is ignored: it is neither" >&2)
	@touch $@ $(RUNS)

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: none found; set PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Setting up .venv with $(PYTHON): one to five minutes the first time (2.5 GB on disk), seconds after that"
	@$(PYTHON) -m venv .venv

.PHONY: help setup run up test soak check format bench lock

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(RUNS) ## Make .venv and install everything

run: $(RUNS) ## Set up, run the demo: a support bot, four incidents, alerts and a rollback
	@$(BIN)/driftline demo

up: $(RUNS) ## Set up, start the local stack for your own events
	@$(BIN)/driftline up

test: $(INSTALLED) ## Set up, run all tests (KAFKA_HOME adds Apache Kafka, a Docker engine adds containers)
	@$(BIN)/pytest -q --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

soak: $(INSTALLED) ## Run what takes minutes: whole demos, storms of failures, many more random examples
	@$(BIN)/pytest -q -m slow
	@$(BIN)/pytest -q -m 'hypothesis and not slow' --hypothesis-profile soak

check: $(INSTALLED) ## Format, lint, types, import direction: changes nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## Resolve all dependencies anew and write constraints.txt, which every install here uses
	@set -o pipefail; folder=$$(mktemp -d) && trap "rm -rf $$folder" EXIT && $(PYTHON) -m venv $$folder && \
	$$folder/bin/pip install --quiet --disable-pip-version-check '.[dev]' 2> >(grep -v "is ignored: it is neither" >&2) && \
	$$folder/bin/pip freeze --exclude driftline | sed 's/+[a-z0-9.]*$$//' | \
	awk -F== '{ gsub(/[._]/, "-", $$1); print tolower($$1) "==" $$2 }' | LC_ALL=C sort -t= -k1,1 > $$folder/locked && \
	cp $$folder/locked constraints.txt

bench: $(INSTALLED) ## Run the benchmarks; each prints JSON
	@for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python -m benchmarks.$$(basename $$b .py) || exit 1; done
	@echo "== benchmarks/detection"; $(BIN)/python -m benchmarks.detection --quick

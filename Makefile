# Everything a newcomer needs: `make demo`, `make test`. Each sets up what is missing and may be run again at any time.
SHELL := /bin/bash
VENV ?= .venv
PYTHON := $(VENV)/bin/python
export KOKON_HOME ?= $(CURDIR)/.kokon
RUN := $(VENV)/bin

.PHONY: demo test lint unit bench fuzz setup guest lock clean help

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/'

demo: setup guest ## run a confidential container, end to end, and attack it
	@$(RUN)/kokon demo

test: setup guest lint unit ## everything that must pass

lint: setup ## style, types and who may import whom
	@$(RUN)/ruff check src tests bench fuzz examples
	@$(RUN)/ruff format --check -q src tests bench fuzz examples
	@$(RUN)/mypy
	@$(RUN)/lint-imports

unit: setup guest
	@$(RUN)/python -m coverage erase
	@$(RUN)/python -m coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20 tests/unit tests/vectors
	@# Machines and loads have clocks of their own: what runs there is not traced.
	@$(RUN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10 tests/e2e tests/vm tests/load
	@$(RUN)/python -m coverage combine -q
	@$(RUN)/python -m coverage report --fail-under=90 | tail -n 40

bench: setup guest ## measure, and print ratios (BENCH_OUT=FILE for JSON)
	@$(PYTHON) -m bench $(if $(BENCH_OUT),--out $(BENCH_OUT))

setup: ## Debian packages and the virtual environment
	@scripts/setup "$(VENV)"

guest: setup ## the guest image; built once for each set of inputs
	@$(RUN)/kokon guest build

fuzz: setup ## fuzz every parser (FUZZ_SECONDS=60 for each)
	@$(PYTHON) -m fuzz --seconds $(or $(FUZZ_SECONDS),60)

lock: ## refresh the locked dependencies
	@scripts/lock

clean: ## forget the environment and everything that was built
	rm -rf $(VENV) .kokon build dist

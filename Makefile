# `make help` says what there is. Needs only make and Python 3.11+; everything else is installed into $(VENV).
VENV ?= .venv
PYTHON ?=
ARGS ?=
RUN := $(VENV)/bin
STAMP := $(VENV)/.installed
.DEFAULT_GOAL := help
.PHONY: help setup lock demo test check fmt bench docs clean

help: ## list every target
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv and install requirements.lock and the project into it

$(STAMP): requirements.lock pyproject.toml infra/setup.sh
	@PYTHON="$(PYTHON)" infra/setup.sh $(VENV)
	@touch $@

demo: $(STAMP) ## the whole loop on real flights: ingest, train, gate, serve, watch, retrain (minutes)
	@$(RUN)/millrace demo flight_delay --from 2013-04-01 --until 2013-07-01 $(ARGS)

test: $(STAMP) ## every test on this machine; one: make test ARGS='tests/test_docs.py -k settings'; a Prefect server and a Ray cluster: ARGS='-m stack'
	@$(RUN)/python -m pytest $(or $(ARGS),--numprocesses logical --maxprocesses 4 --dist loadfile)

check: $(STAMP) ## ruff, mypy strict and the import contracts
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

fmt: $(STAMP) ## format the code and mend what ruff can
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

bench: $(STAMP) ## one table of figures: make bench NAME=serving
	@test -f "benchmarks/$(NAME).py" || { echo "make bench NAME=…, one of: $$(cd benchmarks && ls *.py | sed 's/\.py$$//' | xargs)"; exit 2; }
	@$(RUN)/python -m benchmarks.$(NAME) $(ARGS)

docs: $(STAMP) ## write docs/settings.md anew from the settings
	@$(RUN)/python -m millrace.settings_doc > $(VENV)/settings.md
	@mv $(VENV)/settings.md docs/settings.md

lock: $(STAMP) ## resolve requirements.lock anew from pyproject.toml; newest of all: make lock ARGS=--upgrade
	@$(RUN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --quiet --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links $(ARGS) --output-file requirements.lock > /dev/null
	@sed -E -e '/^(nvidia|cuda|triton(==|-windows))/d' -e '/^torch==/s/\+[a-z0-9.]+//' requirements.lock > $(VENV)/requirements.lock
	@mv $(VENV)/requirements.lock requirements.lock

clean: ## remove caches, build output and what demo and bench wrote; keeps .venv and your own .millrace
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .venv-ci
	rm -rf .millrace/demo .millrace/bench
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# `make demo` and `make test` work as the first command on a fresh clone: each installs first.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
MODULES = $(sort $(patsubst %.__init__,%,$(filter-out %.__main__ %.cli,$(subst /,.,\
  $(patsubst src/%.py,%,$(wildcard src/chainrule/*.py src/chainrule/*/*.py))))))

# DATA=folder: files that are not in the repository, for `make bench` and tests marked `data`.
ifdef DATA
export CHAINRULE_DATA := $(abspath $(DATA))
endif

.PHONY: help install demo test check format laws sanitize bench docs clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make .venv with everything in it

demo: $(STAMP) ## train on a book for a minute and show what came of it
	$(BIN)/chainrule demo

test: $(STAMP) ## the tests; JOBS=2 processes, ARGS='-m slow' for more
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

check: $(STAMP) ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

format: $(STAMP) ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

laws: $(STAMP) ## break the code on purpose: which law kills which mutant
	$(BIN)/python -m tests.laws.mutants

sanitize: $(STAMP) ## the compiled part's tests under the address and undefined behaviour sanitizers
	$(BIN)/python -m tests.sanitize

bench: $(STAMP) ## peers side by side; DATA=folder for those that need files
	$(BIN)/python -m bench $(ARGS)

docs: $(STAMP) ## the reference, from docstrings, into build/docs
	$(BIN)/python -m pdoc --output-directory build/docs $(MODULES)
	@echo "build/docs/index.html"

clean: ## remove what was built, .venv included
	rm -rf .venv build dist

$(STAMP): pyproject.toml constraints.txt CMakeLists.txt \
  $(wildcard src/chainrule/engine/native/* src/chainrule/series/native/*)
	@command -v $(PYTHON) >/dev/null || { \
	  echo "No '$(PYTHON)' here. Install Python 3.11 or later, or say which: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "chainrule needs Python 3.11 or later and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	  "Say which one to take: make PYTHON=python3.12"; exit 1; }
	@echo "Installing into .venv (once; a few minutes at most) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Every target makes .venv first, from setup.py at the versions of constraints.txt; it is made anew only when one of
# the two has changed. PYTHON names the interpreter that it is made with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := macrec_hf examples tests benchmarks docs/pictures setup.py mkdocs_hooks.py mkdocs_docstrings.py

.DEFAULT_GOAL := help
.PHONY: help demo docs pictures flags test test-slow quality style

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

# torch stands on the command itself as well as in the constraints: were it left to a dependency, pip could choose a newer CUDA build.
$(READY): constraints.txt setup.py
	@echo "First the package and what it needs are installed into $(VENV): 2 GB with torch for CPUs, minutes, once."
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch==2.13.0 -e ".[dev]"
	touch $(READY)

demo: $(READY) ## a shop made from a seed, through every stage; ends with demo/index.html
	@echo "The demo takes two to five minutes on two idle cores and ends with demo/index.html."
	$(BIN)/macrec demo --output demo

# Strict: a broken link or an unknown name ends it. The variable silences the theme's notice about its own future.
docs: $(READY) ## the documentation as a site: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Needs Chromium (apt-get install chromium).
pictures: demo ## the picture of the README, taken of the demo's page
	$(BIN)/python docs/pictures/make_pictures.py demo/index.html

# `macrec train --help` and `macrec quantize --help` read it instead of loading transformers.
flags: $(READY) ## macrec_hf/cli/fields.json, after transformers or a field of our arguments or configurations has changed
	$(BIN)/python -m macrec_hf.cli.fields

# The models of the tests are tiny: one thread each and two workers are several times faster than threads of their own.
test: $(READY) ## the fast lane of the tests: minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

test-slow: $(READY) ## the rest of the tests: killed and launched processes, several seeds, a browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q -m "slow or browser"

quality: $(READY) ## lint, formatting and types, changing nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

style: $(READY) ## mend what `make quality` finds
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

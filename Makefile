# Every target makes .venv first, from setup.py at the versions of constraints.txt; it is made anew only when one of
# the two has changed. PYTHON names the interpreter that it is made with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := macrec_hf examples tests benchmarks setup.py

.DEFAULT_GOAL := help
.PHONY: help demo test quality style

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/'

# torch stands on the command itself as well as in the constraints: were it left to a dependency, pip could choose a newer CUDA build.
$(READY): constraints.txt setup.py
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch==2.13.0 -e ".[dev]"
	touch $(READY)

# Waiting threads sleep instead of spinning: beside other work on the same cores, spinning makes small steps many times slower.
demo: $(READY) ## a shop made from a seed, through every stage; ends with demo/index.html
	OMP_WAIT_POLICY=PASSIVE $(BIN)/macrec demo --output demo

# The models of the tests are tiny: one thread each and two workers are several times faster than threads of their own.
test: $(READY) ## all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

quality: $(READY) ## lint and formatting, changing nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

style: $(READY) ## mend what `make quality` finds
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

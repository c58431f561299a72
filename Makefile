# Every target makes .venv first, from setup.py at the versions of constraints.txt; it is made anew only when one of
# the two has changed. PYTHON names the interpreter that it is made with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := macrec_hf examples tests benchmarks docs/pictures setup.py mkdocs_hooks.py mkdocs_docstrings.py

.DEFAULT_GOAL := help
.PHONY: help demo docs docs-serve pictures result-lists results flags test test-slow test-next quality style

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

# torch stands on the command itself as well as in the constraints: were it left to a dependency, pip could choose a newer CUDA build.
$(READY): constraints.txt setup.py
	@echo "First the package and what it needs are installed into $(VENV): 2 GB with torch for CPUs, minutes, once."
	$(PYTHON) -m venv --clear $(VENV)
	@echo "Looking for the packages in $(VENV), then fetching them:"
	@{ $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c constraints.txt torch==2.13.0 \
	-e ".[dev]" || touch $(VENV)/.failed; } 2>&1 | tee $(VENV)/install.log | while read -r word rest; do \
	case "$$word $$rest" in *.metadata*) ;; Downloading*|"Using cached"*) echo "  $$rest" ;; \
	"Installing collected"*) echo "Installing them takes a minute or two." ;; esac; done
	@test ! -e $(VENV)/.failed || { tail -n 30 $(VENV)/install.log; exit 1; }
	touch $(READY)

demo: $(READY) ## a shop made from a seed, through every stage; ends with demo/index.html
	@echo "The demo takes two to five minutes on two idle cores and ends with demo/index.html."
	$(BIN)/macrec demo --output demo

# Strict: a broken link or an unknown name ends it. The variable silences the theme's notice about its own future.
docs: $(READY) ## the documentation as a site: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(READY) ## the documentation on http://127.0.0.1:8000, built again whenever a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# Needs Chromium (apt-get install chromium). DEMO names a folder that `make demo` left elsewhere: then nothing is trained.
pictures: $(or $(DEMO:%=$(READY)),demo) ## the pictures of README and docs: the demo's page, macrec app, macrec doctor
	$(BIN)/python docs/pictures/make_pictures.py $(or $(DEMO),demo)

# RESULTS holds the flags of other data sets, such as --name hm --interactions interactions.csv --embeddings emb/.
result-lists: $(READY) ## hours: every system in six configurations and three seeds, on the demo shop or by RESULTS
	$(BIN)/python benchmarks/result_lists.py $(RESULTS)

results: $(READY) ## seconds: the tables of docs/results.md, from what is kept of those lists
	$(BIN)/python benchmarks/results.py

# `macrec train --help` and `macrec quantize --help` read it instead of loading transformers.
flags: $(READY) ## macrec_hf/cli/fields.json, after transformers or a field of our arguments or configurations has changed
	$(BIN)/python -c "from macrec_hf.cli.fields import write; write()"

# The models of the tests are tiny: one thread each and two workers are several times faster than threads of their own.
# worksteal: each worker takes one half in its order, so that what a file's tests share is made by one worker, not by both.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q
test: $(READY) ## the fast lane of the tests: five minutes on two idle cores; the last line says how long it took
	$(TEST)

test-slow: $(READY) ## the rest of the tests: killed and launched processes, several seeds, a browser
	$(TEST) -m "slow or browser"

# transformers and torch are the newest that pip finds, with whatever they ask for; everything else is as pinned. Of torch
# it takes the newest build for CPUs, because pip by itself takes the one for CUDA, several GB; NEXT_TORCH names another.
NEXT := .venv-next
NEWEST_TORCH := $(NEXT)/bin/python -m pip index versions torch 2>/dev/null | grep -o '[0-9.]*+cpu' | head -n 1
test-next: ## the fast lane with the newest transformers and torch, in an environment of its own; may fail
	$(PYTHON) -m venv --clear $(NEXT)
	grep -viE '^(torch|transformers|tokenizers|huggingface_hub|safetensors)==' constraints.txt >$(NEXT)/constraints.txt
	torch="$(NEXT_TORCH)"; torch=$${torch:-$$($(NEWEST_TORCH))}; \
	test -n "$$torch" || { echo "pip finds no build of torch for CPUs: name one, NEXT_TORCH=2.13.0"; exit 2; }; \
	$(NEXT)/bin/python -m pip install -qq --disable-pip-version-check -c $(NEXT)/constraints.txt \
		"torch==$$torch" transformers -e ".[dev]"
	$(TEST:$(BIN)%=$(NEXT)/bin%) >$(NEXT)/tests.txt; status=$$?; tail -n 60 $(NEXT)/tests.txt; \
	$(NEXT)/bin/python -c 'import sys, torch, transformers as t; \
		print(f"transformers {t.__version__}, torch {torch.__version__}:", sys.argv[1])' "$$(tail -n 1 $(NEXT)/tests.txt)"; \
	exit $$status

quality: $(READY) ## lint, formatting and types, changing nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

style: $(READY) ## mend what `make quality` finds
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

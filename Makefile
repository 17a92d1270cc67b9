# make demo and make test need nothing but Python 3.11 and make; both set up .venv on first use.

PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
DEMO = runs/latest/demo/HAM10000_images_part_1

.PHONY: demo test lint bench torture simulate clean

$(VENV)/.ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

demo: $(VENV)/.ready
	$(BIN)/python train.py --demo
	$(BIN)/python evaluate.py
	$(BIN)/python predict.py "$$(ls $(DEMO)/*.jpg | head -n 1)"

test: $(VENV)/.ready
	$(BIN)/python -m pytest

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python -m pytest tests/bench/speed.py --numprocesses=0 --benchmark-enable --benchmark-only --benchmark-autosave

torture: $(VENV)/.ready
	$(BIN)/python tests/torture.py

simulate: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python tests/simulation/coverage.py

clean:
	rm -rf $(VENV) .benchmarks .mypy_cache .ruff_cache .hypothesis

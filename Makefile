# Two commands do everything, set-up included:
#   make train   trains the CPU preset of the final notebook from nothing and paints
#   make test    checks the notebooks, the package and the command line
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= runs/cpu
PRESET ?= cpu

.PHONY: setup train test execute docs clean

# Everything is installed through constraints.txt: the versions the course was last executed with.
$(VENV)/.installed: settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

setup: $(VENV)/.installed

train: setup
	$(BIN)/minidiff_train --preset $(PRESET) --out $(OUT) --resume

test: setup
	$(BIN)/python scripts/check.py

# Run every notebook from a fresh kernel and save its outputs; NB=nbs/06_text.ipynb runs just one.
execute: setup
	$(BIN)/python scripts/execute.py $(NB)

docs: setup
	$(BIN)/nbdev_docs

clean:
	rm -rf $(VENV) _docs _proc build *.egg-info

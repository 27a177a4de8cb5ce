# Two commands do everything, set-up included:
#   make train   trains the CPU preset of the final notebook from nothing and paints
#   make test    checks the notebooks, the package and the command line
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= runs/cpu
PRESET ?= cpu

.PHONY: setup train test execute docs colab clean

# Everything is installed through constraints.txt: the versions the course was last executed with.
$(VENV)/.installed: settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt open_clip_torch  # read as a file only: it carries CLIP's vocabulary
	touch $@

setup: $(VENV)/.installed

train: setup
	$(BIN)/minidiff_train --preset $(PRESET) --out $(OUT) --resume

test: setup
	$(BIN)/python scripts/check.py

# Run every notebook from a fresh kernel and save its outputs; NB=nbs/06_tokenizer.ipynb runs just one.
execute: setup
	$(BIN)/python scripts/execute.py $(NB)

# The site, into _docs/; needs Quarto 1.7.34 and npm on the PATH. The README has its own source (scripts/readme.py), which nbdev leaves alone when it is the newer file.
docs: setup
	$(BIN)/python scripts/sidebar.py
	cd tests && npm ci --no-audit --no-fund --ignore-scripts
	touch README.md
	PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_docs

# Every notebook in an environment like Colab's (built in .colab, some 7 GB the first time).
colab: setup
	$(BIN)/python scripts/colab.py $(NB)

clean:
	rm -rf $(VENV) .colab tests/node_modules _docs _proc build *.egg-info

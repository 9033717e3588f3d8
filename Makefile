# make demo   see everything work: simulate, capture, align, pack, train, evaluate, zoom, into demo/
# make test   run the tests
# Both make a virtual environment and install into it first. PYTHON and VENV may be given.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install test demo clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "srraw needs Python 3.11 or later; give PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt --editable '.[compression,test]'
	@touch $@

test: install
	$(BIN)/python -m pytest

demo: install
	PATH="$(abspath $(BIN)):$$PATH" bash docs/demo.sh demo

clean:
	rm -rf $(VENV) demo build *.egg-info

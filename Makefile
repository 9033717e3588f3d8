# make demo   see everything work: simulate, capture, align, pack, train, evaluate, zoom, into demo/
# make test   run the tests
# make docs   build the documentation as a site: site/index.html
# All make a virtual environment and install into it first. PYTHON and VENV may be given.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install test demo docs clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "srraw needs Python 3.11 or later; give PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt --editable '.[compression,test]'
	@touch $@

test: install
	$(BIN)/python -m pytest

docs: install
	$(BIN)/mkdocs build --strict

demo: install
	PATH="$(abspath $(BIN)):$$PATH" bash docs/demo.sh demo

clean:
	rm -rf $(VENV) demo site build *.egg-info

# make install | demo | test | check. VENV= chooses where the environment lies; PYTHON= what makes it.
VENV ?= .venv
PYTHON ?= python3
DEMO ?= demo
DEMO_SIZE ?= full
BIN := $(VENV)/bin
HASH := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
STAMP := $(VENV)/.installed-$(HASH)
HERE := $(VENV)/.project-$(shell pwd | sha256sum | cut -c1-16)

.PHONY: install demo test check lint types

install: $(STAMP) $(HERE)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt "setuptools>=77,<82" wheel
	$(BIN)/pip install -q -c constraints.txt -e ".[cpu,dev]"
	rm -f $(VENV)/.installed-* $(VENV)/.project-*
	touch $(STAMP)

# An environment that another checkout filled points there; point it here.
$(HERE): $(STAMP)
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	rm -f $(VENV)/.project-*
	touch $(HERE)

demo: install
	$(BIN)/python tools/demo.py --out $(DEMO) --size $(DEMO_SIZE)

test: install
	$(BIN)/python -m pytest -n 2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

check: lint types test

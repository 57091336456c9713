# Everything runs in .venv, made with the plain standard tools. An extra is installed once: its stamp file is newer
# than pyproject.toml and constraints.txt until one of them changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow check format clean

demo: $(VENV)/.installed-all
	$(BIN)/energynets compare

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -m slow

check: $(VENV)/.installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-check
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info

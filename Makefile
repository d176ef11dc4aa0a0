PYTHON ?= python3
PY := .venv/bin/python

help:  ## show what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

install: .venv/.installed  ## make .venv and install everything into it

demo: .venv/.installed  ## search, retrain and report a cell on the embedded digits
	$(PY) run.py

test: .venv/.installed  ## run all tests
	$(PY) -m pytest

lint: .venv/.installed  ## style and types
	.venv/bin/ruff check .
	.venv/bin/mypy

clean:  ## remove the environment, not the results
	rm -rf .venv

.PHONY: help install demo test lint clean

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

gpu: .venv/.installed  ## on a GPU machine with CIFAR-10: its tests, the benchmarks, the papers' searches
	$(PY) -m pytest -m gpu
	for b in search_step algorithms scaling retrain_step cars_evaluation; do \
	    $(PY) -m benchmarks.$$b --json > $$b.tmp && mv $$b.tmp benchmarks/results/$${b}_gpu.json || exit 1; done
	$(PY) run.py -m algorithm=darts,darts_plus,asap,bayesnas,cars dataset=cifar10 stage=search hardware=gpu
	$(PY) run.py algorithm=darts dataset=cifar10 stage=search search.epochs=200 hardware=gpu

lint: .venv/.installed  ## style and types
	.venv/bin/ruff check .
	.venv/bin/mypy

clean:  ## remove the environment, not the results
	rm -rf .venv

.PHONY: help install demo test gpu lint clean

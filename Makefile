# make            lists the commands
# make demo       sets up and trains on the built-in data set
# make test       sets up and runs the tests
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: fuzz help demo test test-thorough test-kernels test-distributed lint format docs bench check install serve-demo
help:
	@echo "make demo          set up, train on the built-in data set, show metrics and recommendations"
	@echo "make serve-demo    the same as an HTTP service with a page, on this machine only"
	@echo "make test          set up, run the quick tests (two to four minutes)"
	@echo "make test-thorough the tests of a second or more, and more examples for each property"
	@echo "make test-distributed  train with 1, 2 and 3 processes and compare (minutes)"
	@echo "make test-kernels  run the Triton kernels in Triton's interpreter (no GPU needed)"
	@echo "make lint          ruff, mypy --strict, import-linter, codespell"
	@echo "make format        ruff format and safe fixes"
	@echo "make docs          build the documentation into site/, with executed tutorials and checked links"
	@echo "make fuzz          feed 10,000 damaged inputs to the readers (about ten minutes)"
	@echo "make bench         run the benchmarks, each after the tests of the code it measures"
	@echo "make check         lint, all tests, and the built wheel without the sources"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) pip
	$(PIP) torch
	$(PIP) -e '.[demo,fast,hub,onnx,ray,retrieval,serve,track,tune]' --group dev
	touch $(INSTALLED)

demo: install
	$(BIN)/ssd4rec demo

# The users of the demo data are in the store; the model answers with their histories.
serve-demo: install
	test -f artifacts/demo/manifest.json || $(BIN)/ssd4rec demo --out artifacts/demo
	$(BIN)/ssd4rec events import ml-latest-small --store sqlite:///artifacts/demo-events.db
	$(BIN)/ssd4rec serve artifacts/demo --store sqlite:///artifacts/demo-events.db

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not thorough and not slow and not gpu and not kernels"

test-thorough: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --hypothesis-profile=thorough -m "(thorough or hypothesis) and not slow and not gpu and not kernels"

test-kernels: install
	$(BIN)/python -m pytest -n 2 -m "kernels and not slow and not gpu"

test-distributed: install
	$(BIN)/python -m pytest tests/training/test_distributed.py -m "not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install
	$(PIP) --group docs
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install
	$(PIP) --group bench
	$(BIN)/python benchmarks/run.py

check: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --hypothesis-profile=thorough -m "not gpu"
	bash .ci/check-wheel

fuzz: install
	PYTHONPATH=tests POLARS_MAX_THREADS=1 $(BIN)/python -m fuzz.campaign --cases 10000 --seed 2024

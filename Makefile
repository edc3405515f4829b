# make        lists the commands
# make demo   sets up and trains on the built-in data set: metrics and recommendations in minutes
# make test   sets up and runs the tests
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo serve-demo test test-kernels lint format bench check install
help:
	@echo "make demo     set up, train on the built-in data set, recommend"
	@echo "make serve-demo  train the demo model if need be, serve it on http://127.0.0.1:8080"
	@echo "make test     set up, run the tests"
	@echo "make test-kernels  set up, run the Triton kernels in Triton's interpreter (minutes, no GPU needed)"
	@echo "make lint     ruff, mypy --strict, import-linter"
	@echo "make format   ruff format and its safe fixes"
	@echo "make bench    the benchmarks, each behind the green tests of what it measures (minutes)"
	@echo "make check    lint, every test, build the wheel, test the wheel without src"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	touch $(INSTALLED)

demo: install
	$(BIN)/ssd4rec demo

# The users of the demo data are in the store; the model answers with their histories.
serve-demo: install
	test -f artifacts/demo/manifest.json || $(BIN)/ssd4rec demo --out artifacts/demo
	$(BIN)/ssd4rec events import ml-latest-small --store sqlite:///artifacts/demo-events.db
	$(BIN)/ssd4rec serve artifacts/demo --store sqlite:///artifacts/demo-events.db

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu and not kernels"

test-kernels: install
	$(BIN)/python -m pytest -n 2 -m "kernels and not slow and not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py

check: lint
	$(BIN)/python -m pytest -n 2 -m "not gpu"
	bash .ci/check-wheel

# One command each; `make` lists them. All of them work in a virtual environment of the tree's own.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo run check format test slow bench chaos soak docker clean

help:
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY) ## start three members, write through one, read from another, stop
	$(BIN)/esker local --demo

run: $(READY) ## run three members until Ctrl-C; their data is kept in data/
	$(BIN)/esker local

check: $(READY) ## what a change must pass: format, lint, types, house rules, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow" -n 2

format: $(READY) ## rewrite the source in its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(READY) ## all tests, the slow ones too
	$(BIN)/python -m pytest -q -m "not slow" -n 2
	$(BIN)/python -m pytest -q -m slow -n 2

slow: $(READY) ## only the tests that start processes or take long
	$(BIN)/python -m pytest -q -m slow -n 2

SEEDS ?= 300

sim: $(READY) ## simulate whole clusters under faults, each decided by its seed (SEEDS=300)
	$(BIN)/python -m tests.simulation.simulator --seeds 0..$(SEEDS)

bench: $(READY) ## our own measurements, each with its environment
	for file in tests/bench/bench_*.py; do \
		$(BIN)/python -m tests.bench.$$(basename $$file .py) || exit 1; \
	done

chaos: $(READY) ## five minutes of faults against three real members; report in build/chaos
	$(BIN)/python -m tests.chaos --seconds 300

soak: $(READY) ## half an hour of constant load: memory, descriptors, disk and latency stay flat
	$(BIN)/python -m tests.chaos.soak --minutes 30

docker: ## build the image, run three containers, stop one, read from another
	tests/docker/run.sh

clean: ## remove what the commands above made, but no data
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

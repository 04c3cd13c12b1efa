# Two commands set everything up: `make run` (the whole main job) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PLAN ?= plans/digits.yaml

.PHONY: run test test-all check bench bench-gateway up down clean help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Stillhouse needs Python 3.11 or newer; call: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(INSTALLED) ## compress, judge, register, serve, roll out and promote the digits model
	$(BIN)/stillhouse run $(PLAN)

test: $(INSTALLED) ## the fast tests, offline, on all cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

test-all: $(INSTALLED) ## all tests; the slow ones start servers and time things, and so run one by one
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto
	$(BIN)/pytest -m slow

check: $(INSTALLED) ## lint, format, types, import rules, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

bench: $(INSTALLED) ## benchmarks: figures as ratios measured side by side, written to benchmarks/results
	$(BIN)/python -m benchmarks

bench-gateway: $(INSTALLED) ## the gateway beside other servers; PEERS=VENV adds MLServer, LitServe and Ray Serve
	$(BIN)/python -m benchmarks gateway $(if $(PEERS),--peers $(PEERS))

up: $(INSTALLED) ## Prefect, MLflow and the gateway on loopback, until Ctrl-C
	$(BIN)/stillhouse up

down: $(INSTALLED) ## end what `stillhouse up --detach` runs
	$(BIN)/stillhouse down

clean: ## remove the embedded state (.stillhouse) and the rebuilt data; keeps the environment
	rm -rf .stillhouse data .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# Two commands set everything up: `make run` (the whole main job) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PLAN ?= plans/digits.yaml
AUDIT := .venv-audit
AUDITING := $(AUDIT)/.installed

.PHONY: run test test-all check audit sbom licences bench bench-gateway up down clean help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Stillhouse needs Python 3.11 or newer; call: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# the auditors have an environment of their own: they need packages that Stillhouse must not be held to
$(AUDITING): infra/supply_chain/tools.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --requirement infra/supply_chain/tools.txt
	@touch $@

run: $(INSTALLED) ## compress, judge, register, serve, roll out and promote the digits model
	$(BIN)/stillhouse run $(PLAN)

test: $(INSTALLED) ## the fast tests, offline, on all cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

test-all: $(INSTALLED) ## all tests; the slow ones start servers and time things, and so run one by one
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto
	$(BIN)/pytest -m slow

check: $(INSTALLED) licences sbom ## lint, format, types, import rules, licences, list of parts, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

licences: $(INSTALLED) ## the environment fits together, and every licence may stand beside Apache-2.0
	$(BIN)/python -m pip check
	$(BIN)/python -m infra.supply_chain licences

audit: $(INSTALLED) $(AUDITING) ## known vulnerabilities of the pins; exit code 3 when nobody could be asked
	@$(BIN)/python -m infra.supply_chain vulnerabilities $(AUDIT)/bin/pip-audit constraints.txt

sbom: $(INSTALLED) $(AUDITING) ## build/sbom.json: all that is installed, as CycloneDX 1.6, checked against its schema
	@mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --spec-version 1.6 --output-reproducible \
	  --output-format JSON --validate --output-file build/sbom.json $(BIN)/python

bench: $(INSTALLED) ## benchmarks: figures as ratios measured side by side, written to benchmarks/results
	$(BIN)/python -m benchmarks

bench-gateway: $(INSTALLED) ## the gateway beside other servers; PEERS=VENV adds MLServer, LitServe and Ray Serve
	$(BIN)/python -m benchmarks gateway $(if $(PEERS),--peers $(PEERS))

up: $(INSTALLED) ## Prefect, MLflow and the gateway on loopback, until Ctrl-C
	$(BIN)/stillhouse up

down: $(INSTALLED) ## end what `stillhouse up --detach` runs
	$(BIN)/stillhouse down

clean: ## remove the embedded state (.stillhouse) and the rebuilt data; keeps the environment
	rm -rf .stillhouse build data .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

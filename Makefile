# Everything a newcomer, a maintainer or CI does here, in one word each. `make` alone lists it.
#
# Every target that needs Python first brings .venv up to date: made once, installed from requirements/dev.lock, and
# left alone (no network) until the lock, pyproject.toml or the checkout's place changes.

PYTHON ?= python3
TEST_WORKERS ?= 4
# Each test has processes of its own to keep busy; more at once would only make them wait for each other.
FAULT_WORKERS ?= 2
STORE ?= seaweedfs
DEMO_ARGS ?=
TEST_ARGS ?=
MINUTES ?= 30
BENCH_ARGS ?= --json
BENCH_DATA ?=
LOCK_ARGS ?=
SEEDS ?= 2000
FIRST ?= 0
AUDIT_ARGS ?=
IMAGE_ARGS ?=
SECONDS ?= 60
FUZZ ?=
KUBE ?=

UV_VERSION := 0.13.9
AUDIT_VERSION := 2.10.1
HELM_VERSION := v3.22.0
LOCK := requirements/dev.lock
# What the image is made of: the pins of the first, without what only developers need.
RUN_LOCK := requirements/run.lock
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BIN := .venv/bin
# Written last, so an interrupted installation is never taken for a finished one.
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-services test-chart test-faults test-image soak simulate fuzz bench lint fmt image lock \
  audit clean

help: ## Show this list
	@echo 'Headrace: a click stream from Kafka onto a live recommendation model.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'All you need is Python 3.11 or newer: make PYTHON=python3.11 demo picks one by name.'

venv: ## Create or update .venv (the targets below do it by themselves)
	@{ set -eu; \
	if command -v flock >/dev/null; then exec 9<$(LOCK); flock 9; fi; \
	want="$$(cat $(LOCK) pyproject.toml | cksum) $(CURDIR)"; \
	if [ -x $(BIN)/python ] && [ "$$(cat $(STAMP) 2>/dev/null)" = "$$want" ]; then exit 0; fi; \
	if [ ! -x $(BIN)/python ] || [ ! -f $(STAMP) ]; then \
	  if ! command -v '$(PYTHON)' >/dev/null; then \
	    echo 'There is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11'; exit 1; fi; \
	  if ! '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    echo "$$('$(PYTHON)' --version) is too old: Headrace needs 3.11 or newer."; \
	    echo 'Install one (on Debian: apt install python3.11 python3.11-venv) and name it: make PYTHON=python3.11'; exit 1; fi; \
	  if ! '$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo '$(PYTHON) comes without its venv module.'; \
	    echo 'Install it (on Debian: apt install python3-venv), or name another Python: make PYTHON=/path/to/python3.11'; exit 1; fi; \
	  echo 'Setting up .venv: about 460 MB the first time, a minute or two; later runs need no network.'; \
	  '$(PYTHON)' -m venv --clear .venv; \
	else echo 'The pins have changed: updating .venv.'; fi; \
	rm -f $(STAMP); \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $(LOCK); \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e .; \
	printf '%s\n' "$$want" >$(STAMP); } >&2

demo: venv ## Learn from a year of real purchases, live (DEMO_ARGS="--json --events 20000")
	@$(BIN)/headrace demo $(DEMO_ARGS)

test: venv ## Run the tests (TEST_ARGS="-k decode")
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile -m 'not faults' $(TEST_ARGS)

test-faults: venv ## Break real servers and processes: under 20 minutes on two cores (TEST_ARGS="-k disk")
	@$(BIN)/python -m pytest -n $(FAULT_WORKERS) --dist load tests/faults $(TEST_ARGS)

test-image: venv ## Execute the Dockerfile without Docker, and start the result (as root; IMAGE_ARGS="-k learns")
	@$(BIN)/python -m tests.image.check $(IMAGE_ARGS)

soak: venv ## Look for leaks: 200 restarts of the learner, then MINUTES at 80 % of peak load (MINUTES=30)
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

test-services: venv ## Run the tests on a real Kafka and S3 (STORE=seaweedfs or minio)
	@HEADRACE_TEST_STORE='$(STORE)' $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile tests/services tests/contract $(TEST_ARGS)

test-chart: venv ## Test the Helm chart; fetches Helm with Go (KUBE=1 builds a Kubernetes API server too: some minutes, once)
	@if [ -z "$$HELM" ] && ! command -v helm >/dev/null && [ ! -x .cache/bin/helm ]; then \
	  if ! command -v go >/dev/null; then \
	    echo 'Helm is absent. Install Helm 3.18 or newer, or Go 1.24 or newer and run this again: it fetches Helm then.' >&2; exit 1; fi; \
	  echo 'Fetching Helm $(HELM_VERSION) with Go: a minute or two, once.' >&2; \
	  GOBIN='$(CURDIR)/.cache/bin' go install helm.sh/helm/v3/cmd/helm@$(HELM_VERSION); fi
	@$(if $(KUBE),$(BIN)/python -m tests.servers.kube.build,true)
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile tests/chart $(TEST_ARGS)

simulate: venv ## Let thousands of simulated worlds go wrong, and judge each (SEEDS=100000 for a night; FIRST=0)
	@$(BIN)/python -m tests.recovery.simulation --seeds $(SEEDS) --first $(FIRST)

fuzz: venv ## Fuzz what reads bytes from outside (SECONDS=60; pip install '.[fuzz]' in .venv first)
	@$(BIN)/python -m tests.fuzz.run $(SECONDS) $(FUZZ)

bench: venv ## Measure speed and quality, one benchmark after another (BENCH_DATA=stream.parquet)
	@$(BIN)/python -m bench.pipeline $(BENCH_ARGS)
	@$(BIN)/python -m bench.checkpoint $(BENCH_ARGS)
	@$(BIN)/python -m bench.sizing $(BENCH_ARGS)
	@$(BIN)/python -m bench.retrain $(BENCH_ARGS)
	@$(BIN)/python -m bench.retrain_memory $(BENCH_ARGS)
	@$(BIN)/python -m bench.throughput $(BENCH_DATA) $(BENCH_ARGS)
	@$(BIN)/python -m bench.scaling $(BENCH_ARGS)
	@$(BIN)/python -m bench.memory $(BENCH_DATA) --events 1000000 $(BENCH_ARGS)
	@$(if $(BENCH_DATA),$(BIN)/python -m bench.incremental $(BENCH_DATA) $(BENCH_ARGS),echo \
	  'bench.incremental, .quality, .ablation and .weights are left out: they want a real stream: make bench BENCH_DATA=FILE' >&2)
	@$(if $(BENCH_DATA),$(BIN)/python -m bench.quality $(BENCH_DATA) $(BENCH_ARGS))
	@$(if $(BENCH_DATA),$(BIN)/python -m bench.ablation $(BENCH_DATA) $(BENCH_ARGS))
	@$(if $(BENCH_DATA),$(BIN)/python -m bench.weights $(BENCH_DATA) $(BENCH_ARGS))

lint: venv ## Check style and types: ruff, then mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

fmt: venv ## Format the code and fix what can be fixed
	@$(BIN)/ruff check --fix --exit-zero
	@$(BIN)/ruff format

image: ## Build the image headrace:VERSION with Docker (IMAGE_ARGS="--build-arg PYTHON=...@sha256:...")
	@docker build --build-arg VERSION=$(VERSION) --build-arg REVISION="$$(git rev-parse HEAD)" \
	  --build-arg CREATED="$$(date -u +%Y-%m-%dT%H:%M:%SZ)" --tag headrace:$(VERSION) $(IMAGE_ARGS) .

lock: ## Write the locks anew from pyproject.toml, over the network (LOCK_ARGS=--upgrade for newest pins)
	@$(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip --disable-pip-version-check install --quiet uv==$(UV_VERSION)
	@mkdir -p requirements
	@.cache/uv/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --quiet $(LOCK_ARGS) \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' -o $(LOCK) >/dev/null
	@.cache/uv/bin/uv pip compile pyproject.toml --constraint $(LOCK) --universal --python-version 3.11 --quiet --no-annotate \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' -o $(RUN_LOCK) >/dev/null

audit: ## Ask over the network whether any pin is known to be vulnerable (AUDIT_ARGS="--vulnerability-service=osv")
	@$(PYTHON) -m venv .cache/audit && .cache/audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit==$(AUDIT_VERSION)
	@.cache/audit/bin/python requirements/audit.py $(LOCK) $(AUDIT_ARGS)

clean: ## Remove .venv, caches, and whatever else was made here (the next run downloads again)
	@rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist out
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

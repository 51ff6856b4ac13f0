# One command per chore, the same here and in CI. `make` lists them.
PY := .venv/bin/python
STAGE := $(PY) deploy/ci/stage.py
# Under CI a skipped test must be on the list.
PYTEST := $(PY) -m pytest $(if $(CI),-p tests.plugins.skips)
# The files in which a marker stands: collecting all of them takes half a minute.
marked = $(shell grep -rlE 'mark\.$(1)\b' --include='test_*.py' tests | sort)
export HF_HUB_OFFLINE := 1
export PYTHON
# Without bytecode on the disk each process that a test starts compiles all of moelab, and pytest all tests, anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test lint types format families fast slow alone ray soak bench protos dashboards monitor \
	docs count clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup:  ## make .venv with everything in it; does nothing where it stands
	@sh deploy/ci/setup.sh

demo: setup  ## answer real prompts on an emulated machine, on Ray
	@.venv/bin/moelab run configs/run/demo.yaml

test: setup  ## all checks and all tests but the soak tests
	@$(STAGE) checks 240 -- $(MAKE) --no-print-directory -k -j 2 --output-sync lint types families
	@$(MAKE) --no-print-directory fast
	@$(MAKE) --no-print-directory slow
	@$(MAKE) --no-print-directory alone
	@$(MAKE) --no-print-directory ray

lint: setup  ## style, and who may import whom
	@$(PY) -m ruff check
	@.venv/bin/lint-imports --no-logo

types: setup  ## strict types
	@$(PY) -m mypy

format: setup  ## sort imports and apply the safe fixes
	@$(PY) -m ruff check --fix

families: setup  ## logits of every model family beside plain transformers, as a table in out/families.md
	@mkdir -p out && $(PY) -m moe.table out/families.md && cat out/families.md

# One thread a process: the tests share the cores among themselves.
fast: setup  ## the tests that take seconds
	@OMP_NUM_THREADS=1 $(STAGE) fast 540 -- $(PYTEST) -n logical --maxprocesses 4 --dist worksteal --durations 5 -m 'not slow and not alone and not ray and not soak'

slow: setup  ## the tests that take longer
	@OMP_NUM_THREADS=1 $(STAGE) slow 480 -- $(PYTEST) -n logical --maxprocesses 4 --dist worksteal --durations 5 -m 'slow and not ray and not soak' $(call marked,slow)

alone: setup  ## the tests that measure this machine, one after another
	@$(STAGE) alone 360 -- $(PYTEST) --durations 5 -m 'alone and not ray and not soak' $(call marked,alone)

ray: setup  ## the tests that start Ray
	@$(STAGE) ray 540 -- $(PYTEST) --durations 5 -m 'ray and not soak' $(call marked,ray)

soak: setup  ## the tests that take minutes, never in CI: all of them, or FILES=tests/fuzz
	@$(PY) -m pytest -m soak --timeout 3600 --durations 0 $(or $(FILES),$(call marked,soak))

bench: setup  ## measure speed on this machine: one table, and out/bench.json
	@.venv/bin/moelab bench all

protos: setup  ## make the Python of the gRPC protos again
	@$(PY) deploy/ci/protos.py

dashboards: setup  ## make the dashboards, Ray's recording rules and their table in the docs again, from the typed sources
	@$(PY) -m deploy.grafana.source

monitor: setup  ## Prometheus on loopback, and Grafana where it is installed, until Ctrl-C; PORT=9091 GRAFANA_PORT=3001
	@$(PY) deploy/monitor.py $(if $(PORT),--port $(PORT)) $(if $(GRAFANA_PORT),--grafana-port $(GRAFANA_PORT))

docs: setup  ## build the site of the docs into out/site; a link that leads nowhere fails
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet && echo "docs: out/site/index.html"

count: setup  ## lines of code by package, and the longest files
	@$(PY) deploy/ci/count.py

clean:  ## remove what was built and what runs left, and .venv
	@rm -rf .venv .venv.log out runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	@find $(wildcard emulation schedulers workloads moe actors studies cluster moelab tests deploy benchmarks) \
		-name __pycache__ -prune -exec rm -rf {} +

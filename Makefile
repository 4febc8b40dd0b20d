# Every step of a developer's day; `make` alone lists them. Paths are relative, so the folder may have any name.
# PYTHON=/path/to/python chooses the interpreter of new environments, JOBS=1 the number of test processes.

.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# Four for two cores: much of the tests is waiting.
JOBS ?= 4
# make chaos: how long, on which database; SEED repeats a session, CHAOS holds further options (python -m benchmarks.chaos --help)
MINUTES ?= 2
DATABASE ?= sqlite
# make attack: how long; ATTACK holds further options (python -m benchmarks.attack --help)
SECONDS ?= 120
# make fuzz-api: how many requests
CASES ?= 10000
# make test-long: how often, beside how many busy loops per core, which parts (of core,postgresql,runtime,trainer);
# PYTEST holds further options of pytest
RUNS ?= 1
BUSY ?= 2
PART ?= core
comma := ,
CORE = .venv-core/bin/python
FULL = .venv/bin/python
DJADE = .venv-core/bin/djade --target-version 5.2
# Settings for checks: a folder of their own, never the developer's var/ or .env.
APART = TUNIXRT_ENV_FILE=/dev/null TUNIXRT_VAR_DIR=build/var DATABASE_URL=
SAY = @printf '\n==> %s  %s\n' "$$(date +%T)"

# Browser tests need Debian's chromium or a Chrome; without one they are left out, and that is said.
BROWSER = $(shell command -v chromium || command -v chromium-browser || command -v google-chrome || command -v chrome)
WITHOUT_BROWSER = $(if $(BROWSER),, and not browser)

.PHONY: help
help: ## list the targets
	@echo "tunixrt: the targets"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'

# --- Use it -----------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: environment ## install everything, then train a tiny model until it can add (under 3 minutes)
	@$(FULL) manage.py migrate --verbosity 0
	@$(FULL) -u manage.py demo

.PHONY: serve
serve: environment ## web server and attendant together; Ctrl-C, or the end of the terminal, stops both
	@$(FULL) manage.py migrate --verbosity 0
	@PYTHONUNBUFFERED=1 $(FULL) -m tunixrt.serve

.PHONY: environment
environment: ## make .venv: the core and the training runtime
	@.ci/environment .venv tunix

# --- Check it ---------------------------------------------------------------------------------------------------------

.PHONY: test
test: lint test-core test-runtime ## everything: formatting, lint, types, layers, migrations, all tests

.PHONY: environment-core
environment-core: ## make .venv-core: the core and the developer's tools, without the runtime
	@.ci/environment .venv-core dev

.PHONY: environment-full
environment-full:
	@.ci/environment .venv tunix dev

.PHONY: environment-parity
environment-parity: environment-full
	@.ci/parity environment

.PHONY: lock
lock: environment-core ## write requirements/ anew from pyproject.toml (NEWEST=1: move everything to its newest version)
	@$(CORE) .ci/lock.py $(if $(NEWEST),--newest)

.PHONY: lint
lint: lint-core lint-trainer ## formatting, lint, types, layers, migrations, deploy check

.PHONY: lint-core
lint-core: environment-core ## the same without the training program's types (needs no runtime)
	$(SAY) "formatting (ruff format)"
	@$(CORE) -m ruff format --check .
	$(SAY) "formatting of templates (djade)"
	@$(DJADE) --check $$(git ls-files 'templates/*.html')
	$(SAY) "lint (ruff check)"
	@$(CORE) -m ruff check .
	$(SAY) "types (mypy)"
	@$(APART) $(CORE) -m mypy
	$(SAY) "layers (import-linter)"
	@.venv-core/bin/lint-imports --no-logo
	$(SAY) "migrations are complete"
	@$(APART) $(CORE) manage.py makemigrations --check --dry-run
	$(SAY) "deploy check with production settings"
	@$(APART) SECRET_KEY=$$($(CORE) -c 'import secrets; print(secrets.token_urlsafe(50))') TUNIXRT_LOCAL_MODE=false \
		ALLOWED_HOSTS=tunixrt.example TUNIXRT_BIND=0.0.0.0:8000 TUNIXRT_BEHIND_PROXY=true $(CORE) manage.py check --deploy --fail-level WARNING

.PHONY: lint-trainer
lint-trainer: environment-full
	$(SAY) "types of the training program (mypy)"
	@$(FULL) -m mypy --config-file .ci/mypy-trainer.ini

.PHONY: format
format: environment-core ## format and fix what can be fixed
	@$(CORE) -m ruff format .
	@$(DJADE) $$(git ls-files 'templates/*.html') || true  # its status says that it changed something
	@$(CORE) -m ruff check --fix --exit-zero .

.PHONY: test-core
test-core: environment-core ## the core alone, no runtime installed: tests on SQLite and PostgreSQL, coverage
	@rm -rf build/coverage && mkdir -p build/coverage
	@[ -n "$(BROWSER)" ] || echo "No Chromium here: the browser tests are left out (Debian: apt-get install chromium)."
	$(SAY) "tests without the runtime, SQLite"
	@COVERAGE_FILE="$$PWD/build/coverage/sqlite" $(CORE) -m pytest -q -n $(JOBS) -m "not tunix$(WITHOUT_BROWSER)" --cov --cov-report=
	$(SAY) "tests without the runtime, PostgreSQL"
	@COVERAGE_FILE="$$PWD/build/coverage/postgresql" $(CORE) -m pytest -q -n $(JOBS) -m "not tunix and not browser" --database=postgresql \
		--cov --cov-report=
	$(SAY) "coverage: lines at least 95 %, branches at least 90 %"
	@$(CORE) -m coverage combine -q --keep --data-file=build/coverage/both build/coverage/sqlite build/coverage/postgresql
	@$(CORE) -m coverage json -q --data-file=build/coverage/both -o build/coverage/both.json
	@$(CORE) .ci/coverage_floor.py build/coverage/both.json

.PHONY: test-runtime
test-runtime: environment-full ## the tests that train, and the training program's own
	$(SAY) "tests with the runtime, PostgreSQL"
	@$(FULL) -m pytest -q -n $(JOBS) -m tunix --database=postgresql
	$(SAY) "tests of the training program"
	@$(FULL) -I -m pytest -c runs/trainer/tests/pytest.ini runs/trainer/tests

.PHONY: test-long
test-long: environment-core $(if $(filter-out core postgresql,$(subst $(comma), ,$(PART))),environment-full) ## tests repeatedly in random order beside busy loops (RUNS=1 BUSY=2 PART=core SEED=…)
	@$(CORE) -m benchmarks.test_runs --part $(PART) --runs $(RUNS) --busy $(BUSY) --jobs $(JOBS) $(if $(SEED),--seed $(SEED)) -- $(PYTEST)

.PHONY: test-parity
test-parity: environment-full ## our models against transformers on PyTorch (an environment of its own, a large download)
	@.ci/parity

.PHONY: screenshots
screenshots: environment-full ## pictures of every page, light, dark and on a phone, in docs/screenshots (needs a Chromium; 10 minutes)
	@$(FULL) -m docs.screenshots

# --- Measure it -------------------------------------------------------------------------------------------------------

.PHONY: bench-web
bench-web: environment-core ## CPU time of requests; how fast lists, curves, logs and streams are (12 minutes; BEFORE=commit)
	@$(CORE) -m benchmarks.web $(if $(BEFORE),--before $(BEFORE))

.PHONY: bench-queue
bench-queue: environment-full ## how fast runs are claimed, drained and started; what the idle system costs (BEFORE=commit)
	@$(FULL) -m benchmarks.queue_speed $(if $(BEFORE),--before $(BEFORE))

.PHONY: bench-data
bench-data: environment-core ## imports of a million lines, Parquet and near duplicates of 200,000 examples, beside what people use otherwise (20 minutes)
	@$(CORE) -m benchmarks.data
	@$(CORE) -m benchmarks.data --parquet
	@$(CORE) -m benchmarks.near_duplicates

.PHONY: bench-scale
bench-scale: environment-core ## lists, searches, pages and exports with a million examples on SQLite and on PostgreSQL (40 minutes; SIZES="…")
	@$(CORE) -m benchmarks.scale $(if $(SIZES),--sizes $(SIZES))

.PHONY: bench-train
bench-train: environment-full ## training speed and memory against trl and google-tunix as it comes (MODEL=folder DATA=folder)
	@MODEL="$(MODEL)" DATA="$(DATA)" .ci/bench-train $(BENCH)

.PHONY: bench-eval
bench-eval: environment-full ## output tokens a second against google-tunix's sampler and transformers.generate (MODEL=folder DATA=folder)
	@MODEL="$(MODEL)" DATA="$(DATA)" .ci/bench-eval $(BENCH)

.PHONY: attack
attack: environment-full ## attack the whole system while somebody honest uses it (SECONDS=120 DATABASE=sqlite)
	@$(FULL) -m benchmarks.attack --seconds $(SECONDS) --database $(DATABASE) $(ATTACK)

.PHONY: fuzz-api
fuzz-api: environment-core ## ask a server what its OpenAPI document allows, and what not (CASES=10000 SEED=1)
	@$(CORE) -m benchmarks.fuzz_api --cases $(CASES) $(if $(SEED),--seed $(SEED))

.PHONY: chaos
chaos: environment-full ## kill everything there is while runs are under way (MINUTES=2 DATABASE=sqlite SEED=…)
	@$(FULL) -m benchmarks.chaos --minutes $(MINUTES) --database $(DATABASE) $(if $(SEED),--seed $(SEED)) $(CHAOS)

# --- Tidy up ----------------------------------------------------------------------------------------------------------

.PHONY: clean
clean: ## remove environments, caches and reports; var/ (database, runs) stays
	rm -rf .venv .venv-core .venv-parity .venv-bench build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

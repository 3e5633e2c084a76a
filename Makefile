# Every command a person needs. `make` prints them.
#
#   PYTHON=...   the interpreter to use (a name or a path; 3.11 or newer); default python3
#   INSTALL=0    install nothing: use PYTHON as it is, with the source folders on its path
#   TEST_JOBS=N  processes that share one package's tests, where pytest-xdist is there; default 2

PYTHON   ?= python3
INSTALL  ?= 1
PACKAGES := boolean_nca_cc neurograph resu spd dredge
MEMBERS  := $(PACKAGES) tools root
UV_PIN   := 0.13.9
SOURCES  := packages tools tests
TEST_JOBS ?= 2

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
SHELL := bash

ifeq ($(INSTALL),0)
  export PYTHONPATH := $(subst $() $(),:,$(foreach p,$(PACKAGES),$(CURDIR)/packages/$(p)/src) $(CURDIR)/tools/src)$(if $(PYTHONPATH),:$(PYTHONPATH))
  PY := $(PYTHON)
else
  PY := .venv/bin/python
  UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
endif

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z%<>_-]+:.*## / {printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Packages: $(PACKAGES), and tools and root for test-<package>."
	@echo "  PYTHON=3.12 chooses the interpreter; INSTALL=0 installs nothing and uses it as it is."

# --- set-up -----------------------------------------------------------------------------------------------------------

.uv/bin/uv:
	@echo "uv is not on PATH: installing it into .uv/"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) does not run here, or is older than Python 3.11; name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@if $(PYTHON) -m pip --version >/dev/null 2>&1; then $(PYTHON) -m pip install -q --disable-pip-version-check --root-user-action=ignore --target .uv 'uv==$(UV_PIN)'; \
	 elif $(PYTHON) -m venv .uv/venv; then .uv/venv/bin/pip install -q --disable-pip-version-check 'uv==$(UV_PIN)' && mkdir -p .uv/bin && ln -sf ../venv/bin/uv .uv/bin/uv; \
	 else echo "$(PYTHON) has neither pip nor venv; install one of them (Debian: python3-pip), or install uv" >&2; exit 1; fi

ifeq ($(INSTALL),0)
setup:
	@echo "INSTALL=0: nothing is installed; using $$($(PY) -c 'import sys; print(sys.executable, sys.version.split()[0])')"
else
setup: $(filter .uv/bin/uv,$(UV)) ## make the environment in .venv, with everything that tests and benches need
	@$(UV) sync --all-packages --python $(PYTHON) $(if $(wildcard .venv/bin/python),--quiet)
endif

# --- tests ------------------------------------------------------------------------------------------------------------

PYTEST = $(PY) -m pytest -q $(shell $(PY) -c 'import xdist' 2>/dev/null && echo --numprocesses $(TEST_JOBS) --dist worksteal)

test: $(addprefix test-,$(MEMBERS)) ## the tests of every package, of the tool and of the workspace

test-all: ## the same with the slow ones; members that passed on this very commit are not run again
	@for member in $(MEMBERS); do \
	  state=$$(git describe --always --dirty --abbrev=40 2>/dev/null); done_mark=".pytest_cache/all-$$member-$$state"; \
	  case "$$state" in ""|*-dirty) ;; *) if [ -e "$$done_mark" ]; then echo "== tests of $$member: passed before on this commit"; continue; fi;; esac; \
	  $(MAKE) --no-print-directory test-$$member TEST_ARGS="-m 'slow or not slow' $(TEST_ARGS)" || exit 1; \
	  mkdir -p .pytest_cache && touch "$$done_mark"; \
	done

test-<package>: ## the tests of one package: test-resu, test-tools, test-root, ...

define TEST_PACKAGE
.PHONY: test-$(1)
test-$(1): setup
	@echo "== tests of $(1)"
	@$$(PYTEST) --doctest-modules packages/$(1)/tests packages/$(1)/src $$(TEST_ARGS)
endef
$(foreach p,$(PACKAGES),$(eval $(call TEST_PACKAGE,$(p))))

test-tools: setup
	@echo "== tests of claimbench"
	@$(PYTEST) --doctest-modules tools/tests tools/src/claimbench --ignore=tools/src/claimbench/cases --ignore=tools/src/claimbench/runtimes $(TEST_ARGS)

test-root: setup
	@echo "== tests of the workspace"
	@$(PYTEST) tests $(TEST_ARGS)

test-wheels: setup ## build every wheel and try it alone in a fresh environment
	@$(PYTEST) tests -m wheels $(TEST_ARGS)

# --- benches ----------------------------------------------------------------------------------------------------------

RUN_BENCH = $(PY) -m claimbench run $(BENCH_ARGS)

bench: setup ## measure every claim on the best device here; prints the table, writes the report
	@$(RUN_BENCH)

bench-<package>: ## measure the claims of one package: bench-boolean_nca_cc, ...

.PHONY: $(addprefix bench-,$(PACKAGES))
$(addprefix bench-,$(PACKAGES)): bench-%: setup
	@$(RUN_BENCH) --package $*

bench-quick: setup ## one process a claim: a first look, no winner is declared
	@$(RUN_BENCH) --quick

bench-long: setup ## also the claims that train to a quality; goes on where it stopped
	@$(RUN_BENCH) --long --resume bench/long

bench-selftest: setup ## prove the tool: simulated noise, planted slowdowns, broken workers
	@$(PY) -m claimbench selftest

claims: setup ## the verdict table of the newest record
	@$(PY) -m claimbench claims

readme: setup ## write the verdicts of each package's newest committed record into the READMEs
	@$(PY) -m claimbench claims --write README.md
	@$(PY) -m claimbench claims --write packages/dredge/README.md --package dredge
	@$(PY) -m claimbench claims --write packages/neurograph/README.md --package neurograph
	@$(PY) -m claimbench claims --write packages/spd/README.md --package spd

# --- upkeep -----------------------------------------------------------------------------------------------------------

lint: setup ## ruff and the import contracts
	@$(PY) -m ruff check $(SOURCES)
	@$(PY) -m ruff format --check -q $(SOURCES) || { echo "run: make format"; exit 1; }
	@$(PY) -c 'from importlinter.cli import lint_imports_command as main; main()'

format: setup ## put the code into its one format
	@$(PY) -m ruff check --fix -q $(SOURCES) || true
	@$(PY) -m ruff format $(SOURCES)

types: setup ## mypy, strict
	@$(PY) -m mypy $(foreach p,$(PACKAGES),packages/$(p)/src) tools/src

# An old uv.lock is sticky, so both resolve from nothing, in an empty folder that holds the pyprojects alone.
define RESOLVE
@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && tar -cf - $$(git ls-files '*pyproject.toml') | tar -xf - -C "$$fresh" && \
(cd "$$fresh" && $(abspath $(UV)) lock --quiet --python $(PYTHON) && $(abspath $(UV)) export --quiet --python $(PYTHON) --no-header --no-annotate \
  --all-packages --all-extras --all-groups --no-emit-workspace --output-file requirements.lock >/dev/null)
endef

lock: setup ## write requirements.lock: every pin with its hashes, resolved from nothing
	$(RESOLVE) && cp "$$fresh/requirements.lock" requirements.lock && echo "requirements.lock is written"

lock-check: setup ## fail when requirements.lock is stale
	$(RESOLVE) && { diff -u requirements.lock "$$fresh/requirements.lock" || { echo "requirements.lock is stale; run: make lock" >&2; exit 1; }; } \
	  && echo "requirements.lock is what the pyprojects resolve to"

clean: ## remove environments, caches and benches
	rm -rf .venv .uv uv.lock .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis bench dist build
	find packages tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup test test-all test-tools test-root test-wheels bench bench-quick bench-long bench-selftest claims readme lint format types lock lock-check clean

# Each target makes its own .venv and installs what it needs, again only when
# pyproject.toml or constraints.txt changed. PYTHON=… picks the interpreter, ARGS=… is handed on.

ARGS ?=
BIN := .venv/bin
# A file to a worker, so that what a file serves is started once.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
QUICK := not soak and not faults and not processes and not browser
# Twice as many: what is left waits more than it works.
QUICK_PYTEST := $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Empty: the many processes that tests start find everything compiled.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test quick soak bench lint clean constraints

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/installed ## Show the main job: ARGS="--trace FILE --exit"
	$(BIN)/keyledger demo $(ARGS)

test: lint ## Lint, types, contracts, then tests: ARGS="-k lanes"
	$(call check,pytest,$(PYTEST) $(ARGS))

quick: .venv/installed-test ## The tests without processes of their own, faults and browsers
	$(call check,pytest,$(QUICK_PYTEST) -m "$(QUICK)" $(ARGS))

soak: export KEYLEDGER_TEST_SEED ?= $(shell date +%s)
soak: .venv/installed-test ## The long forms of what the suite plays in short
	$(call check,pytest,$(PYTEST) -m soak $(ARGS))

bench: .venv/installed-bench ## Measure against the peers: ARGS="--json"
	$(BIN)/keyledger bench $(ARGS)

lint: .venv/installed-test ## Format, lint, types and import contracts, without tests
	$(call check,ruff format,$(BIN)/ruff format --check --quiet)
	$(call check,ruff check,$(BIN)/ruff check --quiet)
	$(call check,mypy,$(BIN)/mypy)
	$(call check,lint-imports,$(BIN)/lint-imports)

clean: ## Remove .venv and caches; the data directory .keyledger stays
	rm -rf .venv .venv-pins build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

constraints: ## Pin the newest versions of everything in constraints.txt
	@rm -rf .venv-pins
	$(call make-venv,.venv-pins)
	.venv-pins/bin/python -m pip install -qq ".[test]"
	@{ sed '/^#/!d' constraints.txt; .venv-pins/bin/python -m pip freeze --exclude keyledger; } > .venv-pins/new
	@mv .venv-pins/new constraints.txt && rm -rf .venv-pins

# $(call check,NAME,COMMAND): the first that fails is named and ends the run.
define check
@echo "== $(1)"
@$(2) || { echo "== $(1) failed" >&2; exit 1; }
endef

# $(call make-venv,DIR): with the first Python that is new enough.
define make-venv
@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    $$python -m venv $(1) && exit 0; \
    rm -rf $(1); \
    echo "$$python cannot make a virtual environment (on Debian: apt-get install python3-venv)." >&2; \
    exit 1; \
  fi; \
done; \
echo "Keyledger needs Python 3.11 or newer, and found none: make PYTHON=/path/to/python3 ..." >&2; \
exit 1
endef

# $(call install,WHAT): editable, so that a changed source needs no new install; -qq: errors only.
define install
@echo "== installing $(1) into .venv (a minute or two the first time)"
@$(BIN)/python -m pip install -qq -c constraints.txt -e "$(1)"
@touch $@
endef

.venv/bin/python:
	$(call make-venv,.venv)

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(call install,.)

.venv/installed-test: .venv/bin/python pyproject.toml constraints.txt
	$(call install,.[test])

.venv/installed-bench: .venv/bin/python pyproject.toml constraints.txt
	$(call install,.[bench])

# `make` lists the targets. Everything happens in .venv; nothing else on the machine is touched.

PYTHON ?= python3
UV ?= uv
PYTEST_ARGS ?=
PYTEST_PROCESSES ?= 2

BIN := .venv/bin
# The second variable is what newer versions of pip read for the build backend; older ones ignore it.
PINNED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
PIP := $(PINNED) $(BIN)/python -m pip

.DEFAULT_GOAL := help
.PHONY: help venv venv-test demo test lint format dist docs constraints clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

venv: .venv/.installed ## Make .venv and install clipgru with its run-time dependencies

venv-test: .venv/.installed-test ## The same, and what lint and tests need

demo: .venv/.installed ## Train, evaluate and predict on generated videos; results in runs/demo
	$(BIN)/clipgru demo

test: lint ## Lint, types and tests: all that CI runs
	$(BIN)/pytest --numprocesses $(PYTEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
		--max-worker-restart 0 $(PYTEST_ARGS)

lint: .venv/.installed-test ## Style, formatting and types, nothing changed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.installed-test ## Fix style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

dist: .venv/.installed-test ## Build dist/clipgru-VERSION.tar.gz, and from that the wheel
	$(PINNED) $(BIN)/python -m build

docs: .venv/.installed-test ## Build the documentation as a site, build/site; links and anchors are checked
	rm -rf build/docs && mkdir -p build/docs
	tar -cf - README.md CHANGELOG.md CONTRIBUTING.md LICENSE benchmarks data/README.md docs examples | tar -xf - -C build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

constraints: ## Write constraints.txt anew, for every Python from 3.10 on (needs uv)
	$(UV) pip compile --quiet --universal --upgrade --python-version 3.10 --extra test --no-annotate \
		--custom-compile-command 'make constraints' --output-file constraints.txt pyproject.toml

clean: ## Remove .venv, caches and build output; runs/ and data/ stay
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name .git -prune -o -type d -name __pycache__ -exec rm -rf {} +

# A stamp is touched last, so that an interrupted step runs again.

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo 'clipgru needs Python 3.10 or newer as "$(PYTHON)"; name another one: make PYTHON=python3.12 ...' >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo '$(PYTHON) cannot make virtual environments; install its venv module' \
			'(Debian, Ubuntu: apt-get install python3-venv)' >&2; \
		exit 1; }
	@echo 'Making a virtual environment in .venv'
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed: pyproject.toml constraints.txt | .venv/.made
	@echo 'Installing clipgru into .venv (the first time on Linux about 6 GB, for torch brings its GPU libraries)'
	@$(PIP) install -qq --editable '.[serve]'
	@touch $@

.venv/.installed-test: .venv/.installed
	@echo 'Installing what lint and tests need'
	@$(PIP) install -qq --editable '.[test]'
	@touch $@

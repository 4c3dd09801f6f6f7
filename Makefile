# `make demo` and `make test` do all of their own set-up, on Linux with git, make and Python 3.11 or 3.12.
# ARGS go to the command underneath: make demo ARGS="--exit", make test ARGS="-k queue".
SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first that runs and is 3.11 or 3.12.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && \
	command -v $$python && break; done)
ifeq ($(PYTHON),)
$(error Python 3.11 or 3.12 is needed: install one, or name it, as in `make demo PYTHON=/opt/python/bin/python3.11`)
endif
UV := $(shell command -v uv || echo .uv/bin/uv)
export UV_PYTHON := $(PYTHON)
export UV_PYTHON_DOWNLOADS := never
# Where it is set, each of some hundred processes would compile torch, or Label Studio, anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-full test-gpu test-circle test-faults soak check lint audit format

help:
	@echo 'make demo    start everything with demo clips in it; make demo ARGS=--help shows the options'
	@echo 'make test    check the code and run every test; make test ARGS="-k queue" runs some'
	@echo 'make test-full  the paper'"'"'s models at their real size: some ten minutes and 12 GB of memory'
	@echo 'make test-gpu   what only a GPU can show: two minutes'
	@echo 'make test-circle  clips are corrected, Start Training is pressed, and the masks get better: ten minutes'
	@echo 'make test-faults  every fault at every moment of a job, and the soak: three quarters of an hour'
	@echo 'make soak     200 tasks and a random fault every five seconds for ten minutes'
	@echo 'make check   check the code and its dependencies: style, types, lock file, known vulnerabilities'
	@echo 'make format  write the code in the project'"'"'s style'

demo: .venv/demo
	.venv/bin/av2t up --demo $(ARGS)

# One more than there are cores, for a test often waits for what it has started. A run of all tests ends with the share
# of lines that they reach; lines that only a process of their own reaches are not counted.
test: lint
	.ci/get_browser
	OMP_NUM_THREADS=1 .venv/bin/pytest --numprocesses=$$(($$(nproc) + 1)) --maxprocesses=4 --dist=loadfile \
	--no-loadscope-reorder $(if $(ARGS),$(ARGS),--cov --cov-report=)
	$(if $(ARGS),,@echo "Lines covered: $$(.venv/bin/coverage report --format=total) %")

test-full: .venv/dev
	.venv/bin/pytest -m full -s $(ARGS)

test-gpu: .venv/dev
	.venv/bin/pytest -m gpu -s tests/gpu $(ARGS)

test-circle: .venv/dev
	.ci/get_browser
	.venv/bin/pytest -m circle -s tests/e2e/test_fine_tuning.py $(ARGS)

# AV2T_SEED=7 make soak repeats a run; AV2T_TASKS and AV2T_FAULTS make it shorter or longer.
test-faults: .venv/dev
	.venv/bin/pytest -m faults -s tests/faults $(ARGS)

soak: .venv/dev
	.venv/bin/pytest -m faults -s tests/faults/test_soak.py $(ARGS)

check: lint audit

lint: .venv/dev
	$(UV) lock --check
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

# Apart from lint, so that what is found out tomorrow about a package does not turn today's tests red. uv ends with 1
# for a vulnerability, and with 2 where it cannot reach the database, osv.dev.
audit: .venv/dev
	@$(UV) audit --locked --preview-features audit-command || { test $$? = 2 && \
	echo 'The dependencies were not scanned; tests/test_lock.py still refuses the versions known to be bad.'; }

format: .venv/dev
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

# Stamps: the environment is made again only when the lock has changed.
.venv/demo: uv.lock pyproject.toml | $(UV)
	$(UV) sync --locked --all-extras --no-dev --inexact
	@touch $@

.venv/dev: uv.lock pyproject.toml | $(UV)
	$(UV) sync --locked --all-extras
	@touch $@ .venv/demo

.uv/bin/uv:
	$(PYTHON) .ci/get_uv.py

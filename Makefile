# `make` alone lists the commands. Each installs first what it needs, in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo run test test-all test-gpu check format install uninstall clean

# What to install besides the core: see [project.optional-dependencies] in pyproject.toml.
EXTRAS ?= asr,dev
SERVICE_EXTRAS = $(if $(filter file,$(origin EXTRAS)),asr,$(EXTRAS))
CONFIG ?= config.toml
BIN := .venv/bin

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | sort | awk -F'\t' '{ printf "make %-10s %s\n", $$1, $$2 }'

setup: ## make .venv with everything in it (quick if nothing changed)
	@PYTHON="$(PYTHON)" systemd/make-venv --editable .venv . "$(EXTRAS)"

demo: setup ## show Penstock at work on files of its own
	@$(BIN)/penstock demo

run: setup ## watch the folders of config.toml until Ctrl-C
	@$(BIN)/penstock run --config "$(CONFIG)"

test: check ## format, lint, types, house rules and the fast tests
	@$(BIN)/pytest

test-all: check ## the same with the slow tests
	@$(BIN)/pytest -m "not gpu"

test-gpu: setup ## the tests that need an NVIDIA card
	@$(BIN)/pytest -m gpu

check: setup ## format, lint and types only
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup ## bring the code into its format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

install: ## install the system service (root)
	@EXTRAS="$(SERVICE_EXTRAS)" PYTHON="$(PYTHON)" DESTDIR="$(DESTDIR)" NO_VENV="$(NO_VENV)" \
		systemd/install

uninstall: ## take the system service away; config and data stay
	@DESTDIR="$(DESTDIR)" systemd/uninstall

clean: ## remove .venv and caches; media, state and logs stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find daemon pipeline tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# `make demo` and `make test` set up all they need, in .venv; the rest is for developers.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: help demo test check format test-gpu bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo      restore a real clip on the CPU: video, picture and figures in demo/"
	@echo "make test      lint, types, and all tests"
	@echo "make check     lint, format and types only"
	@echo "make format    format everything"
	@echo "make test-gpu  the tests that need an NVIDIA GPU; fails without one"
	@echo "make bench     measure speed here, against the peers; JSON in benchmarks/results/"

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"zsm needs Python 3.11 or newer, this is {v.major}.{v.minor}: give another with make PYTHON=...")'
	$(PYTHON) -m venv .venv

# What running needs: no torch, no compiler.
.venv/demo.done: $(BIN)/pip pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

.venv/dev.done: $(BIN)/pip pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ .venv/demo.done

demo: .venv/demo.done
	$(BIN)/python scripts/demo.py

check: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports --no-logo
	git ls-files '*.cc' '*.cu' '*.cuh' '*.h' | xargs -r $(BIN)/clang-format --dry-run --Werror

format: .venv/dev.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.cc' '*.cu' '*.cuh' '*.h' | xargs -r $(BIN)/clang-format -i

test: check
	scripts/system_packages.sh ffmpeg g++
	$(BIN)/pytest

test-gpu: .venv/dev.done
	ZSM_REQUIRE_GPU=1 $(BIN)/pytest -m gpu

bench: .venv/dev.done
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/stream.py compact --size 32x20

clean:
	rm -rf .venv build demo dist

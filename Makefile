# `make demo` and `make test` set up .venv with all the Python packages they need; the rest is for developers.
PYTHON ?= python3
BIN := .venv/bin
# VapourSynth needs 3.12 or newer, the Triton server 3.13 or older.
HOSTS_PYTHON ?= python3.12
HOSTS := build/hosts/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
# Each process prepares for itself what its tests share, so more than 4 save no time.
PYTEST := $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal
NATIVE := benchmarks plugins tests '(' -name '*.c' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h' ')'

.PHONY: help demo test test-all test-cuda-provider test-hosts test-tensorrt check format coverage test-gpu docs dist bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo                restore a real clip on the CPU: video, picture and figures in demo/"
	@echo "make test                lint, types, and the tests, except the slow ones"
	@echo "make test-all            the slow tests too: sanitizers, FP16 at full size, every combination of sound and container"
	@echo "make test-cuda-provider  ONNX Runtime's CUDA provider, without a GPU: downloads 256 MB, needs nvcc"
	@echo "make test-hosts          zsm inside VapourSynth and a real Triton server; HOSTS_PYTHON=python3.12"
	@echo "make test-tensorrt       bundles and plugin in TensorRT's builder, without a GPU: downloads 150 MB, needs nvcc"
	@echo "make check               lint, format and types only"
	@echo "make format              format everything"
	@echo "make coverage            all tests, and the lines they don't reach; HTML in build/coverage/"
	@echo "make test-gpu            the tests that need an NVIDIA GPU; fails if anything they need is missing"
	@echo "make docs                the API reference, in build/docs/"
	@echo "make dist                sdist and pure wheel in dist/, checked and run"
	@echo "make bench               measure speed here, against the peers; JSON in benchmarks/results/"

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

.venv/tensorrt.done: .venv/dev.done
	$(PIP) install -c constraints.txt -e '.[dev,tensorrt-builder]'
	@touch $@

demo: .venv/demo.done
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/native.sh
	$(BIN)/python scripts/demo.py

check: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=src $(BIN)/lint-imports --no-logo
	find $(NATIVE) -exec $(BIN)/clang-format --dry-run --Werror {} +

format: .venv/dev.done
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find $(NATIVE) -exec $(BIN)/clang-format -i {} +

test: check
	scripts/system_packages.sh ffmpeg g++
	$(PYTEST) -m "not slow"

test-all: check
	scripts/system_packages.sh ffmpeg g++
	$(PYTEST)

# ZSM_TENSORRT_INCLUDE_DIRS names the folder with TensorRT 11's headers (scripts/headers.sh).
test-tensorrt: .venv/tensorrt.done
	ZSM_REQUIRE=$${ZSM_REQUIRE-compiler,nvcc,tensorrt-builder,tensorrt-headers} $(PYTEST) -m tensorrt

coverage: .venv/dev.done
	scripts/system_packages.sh ffmpeg g++
	$(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html --cov-report=xml

# An environment of its own: Triton's client needs older packages. The server is a wheel that pins what only its own
# Python interface needs.
build/hosts/done: pyproject.toml
	$(HOSTS_PYTHON) -m venv build/hosts
	$(HOSTS)/pip --disable-pip-version-check --quiet install '.[cpu,vapoursynth]' pytest vapoursynth-bestsource vapoursynth-scenechange 'tritonclient[grpc,http]'
	$(HOSTS)/pip --disable-pip-version-check --quiet install --no-deps nvidia-pytriton==0.7.0
	@touch $@

# Of zsm as users get it: the wheel.
test-hosts: build/hosts/done
	scripts/system_packages.sh ffmpeg
	$(HOSTS)/pip --disable-pip-version-check --quiet install --no-deps --force-reinstall .
	ZSM_REQUIRE=ffmpeg,triton,vapoursynth $(HOSTS)/python -m pytest --confcutdir=tests/hosts tests/hosts

# All on one GPU, hence one process. ZSM_REQUIRE=gpu,nvcc asks for less.
test-gpu: .venv/dev.done
	ZSM_REQUIRE=$${ZSM_REQUIRE-all} $(BIN)/pytest -m gpu

# onnxruntime-gpu installs the same module as onnxruntime: a folder of its own, before .venv's on the path.
CUDA_PROVIDER := build/cuda-provider/packages
$(CUDA_PROVIDER)/done: .venv/dev.done
	$(PIP) install -c constraints.txt --no-deps --upgrade --target $(CUDA_PROVIDER) onnxruntime-gpu
	@touch $@

test-cuda-provider: $(CUDA_PROVIDER)/done
	ZSM_REQUIRE=$${ZSM_REQUIRE-cuda-provider,nvcc} PYTHONPATH=$(CUDA_PROVIDER) $(BIN)/pytest -m cuda_provider -ra

docs: .venv/dev.done
	$(BIN)/python scripts/api_reference.py build/docs

dist:
	PYTHON=$(PYTHON) scripts/dist.sh

bench: .venv/dev.done
	$(BIN)/python benchmarks/network.py
	$(BIN)/python benchmarks/stream.py compact --size 32x20

clean:
	rm -rf .venv build demo dist

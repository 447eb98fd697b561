#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one run: build, tests, compute-sanitizer, compiler report, benchmark.
#
#   scripts/gpu_report.sh [FOLDER]      writes results to FOLDER, by default build/gpu-report
#
# Requires a driver, the CUDA toolkit, cmake and ninja; in .venv: zsm[dev], cuda-python, and for the benchmark torch and
# torchvision with CUDA. Adapters are built if ZSM_TENSORRT_INCLUDE_DIRS and ZSM_ONNXRUNTIME_INCLUDE_DIR name headers.
# A failed step doesn't stop the others; the script fails at the end.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/gpu-report}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
failed=()

step() {
  local name=$1
  shift
  echo "== $name: $*"
  "$@" 2>&1 | tee "$out/$name.txt" || failed+=("$name")
}

headers=()
[[ -n ${ZSM_TENSORRT_INCLUDE_DIRS:-} ]] && headers+=("-DTensorRT_INCLUDE_DIR=${ZSM_TENSORRT_INCLUDE_DIRS//:/;}")
[[ -n ${ZSM_ONNXRUNTIME_INCLUDE_DIR:-} ]] && headers+=("-Donnxruntime_INCLUDE_DIR=$ZSM_ONNXRUNTIME_INCLUDE_DIR")

step machine nvidia-smi
step configure cmake --preset gpu "${headers[@]}"
step build cmake --build --preset gpu
step compiler "$python" scripts/kernel_report.py --json "$out/kernels.json"
step native build/gpu/bin/cuda_test
step tests env ZSM_REQUIRE=gpu,nvcc,cuda-python "$python" -m pytest -m gpu -ra
step benchmark "$python" benchmarks/deform_conv.py --device cuda --build build/gpu --out "$out/deform-conv-cuda.json"

if ((${#failed[@]})); then
  echo "failed: ${failed[*]}; see $out"
  exit 1
fi
echo "all passed; see $out"

#!/bin/sh
# Build the native operator into build/release, if there is a compiler; quick if nothing changed. Never fails: zsm runs
# without it, only slower. PATH must have pip.
set -eu
cd "$(dirname "$0")/.."
library=build/release/lib/libzsm_onnxruntime.so
if ! command -v c++ >/dev/null; then
    [ -f $library ] ||
        echo "No C++ compiler (such as g++): ONNX Runtime's own deformable convolution is used, which is slower." >&2
    exit 0
fi
mkdir -p build
echo "Building the native deformable convolution; log in build/native.log" >&2
if {
    pip --disable-pip-version-check --quiet install -c constraints.txt cmake ninja &&
    { [ -f build/release/CMakeCache.txt ] || cmake --preset release -DZSM_CUDA=OFF; } && # keeps a developer's options
    cmake --build --preset release
} >build/native.log 2>&1; then
    echo "The native deformable convolution is used." >&2
else
    [ -f $library ] && fallback="an earlier build is used" || fallback="ONNX Runtime's own is used, which is slower"
    echo "It can't be built here (see the log): $fallback." >&2
fi

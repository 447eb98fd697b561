#!/bin/sh
# Build the native operator into build/release, if there is a compiler and it isn't built yet. Never fails: zsm runs
# without it, only slower. PATH must have pip.
set -eu
cd "$(dirname "$0")/.."
[ ! -f build/release/lib/libzsm_onnxruntime.so ] || exit 0
if ! command -v c++ >/dev/null; then
    echo "No C++ compiler (such as g++): ONNX Runtime's own deformable convolution is used, which is slower." >&2
    exit 0
fi
mkdir -p build
echo "Building the native deformable convolution; log in build/native.log" >&2
if {
    pip --disable-pip-version-check --quiet install -c constraints.txt cmake ninja &&
    cmake --preset release -DZSM_CUDA=OFF &&
    cmake --build --preset release
} >build/native.log 2>&1; then
    echo "The native deformable convolution is used." >&2
else
    echo "It can't be built here (see the log): ONNX Runtime's own is used, which is slower." >&2
fi

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
configure() {
    if [ ! -f build/release/CMakeCache.txt ]; then
        cmake --preset release -DZSM_CUDA=OFF
    elif [ ! -f $library ]; then
        cmake build/release # with a developer's options; the headers' download may work this time
    fi
}
mkdir -p build
echo "Building the native deformable convolution; log in build/native.log" >&2
if {
    pip --disable-pip-version-check --quiet install -c constraints.txt cmake ninja &&
    configure &&
    cmake --build --preset release
} >build/native.log 2>&1; then
    [ -f $library ] && result="The native deformable convolution is used" ||
        result="ONNX Runtime's headers are missing (see the log): its own deformable convolution is used, which is slower"
else
    [ -f $library ] && fallback="an earlier build is used" || fallback="ONNX Runtime's own is used, which is slower"
    result="It can't be built here (see the log): $fallback"
fi
echo "$result." >&2

#!/usr/bin/env bash
# Download the headers that an adapter is compiled against, to FOLDER/include.
#
#   scripts/headers.sh onnxruntime VERSION FOLDER      from the release's archive
#   scripts/headers.sh tensorrt TAG FOLDER             from NVIDIA's public repository
set -euo pipefail
library=$1 version=$2 folder=$3
mkdir -p "$folder"

case $library in
  onnxruntime)
    archive=onnxruntime-linux-x64-$version
    curl --fail --location --silent --show-error --retry 3 \
      "https://github.com/microsoft/onnxruntime/releases/download/v$version/$archive.tgz" |
      tar -xz -C "$folder" --strip-components=1 "$archive/include"
    ;;
  tensorrt)
    git clone --quiet --depth 1 --filter=blob:none --sparse --branch "$version" \
      https://github.com/NVIDIA/TensorRT "$folder"
    git -C "$folder" sparse-checkout set include
    ;;
  *)
    echo "unknown library '$library', expected onnxruntime or tensorrt" >&2
    exit 2
    ;;
esac

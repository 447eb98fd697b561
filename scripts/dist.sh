#!/usr/bin/env bash
# Build the sdist and the pure wheel into dist/, check what they contain, and run the wheel in fresh environments:
# without extras, and with [cpu].
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

environment() { # NAME REQUIREMENT
  "$python" -m venv "$folder/$1"
  "$folder/$1/bin/pip" --disable-pip-version-check --quiet install -c constraints.txt "$2"
}

rm -rf dist
environment build build
"$folder/build/bin/python" -m build --outdir dist
"$python" scripts/check_dist.py dist
wheel=$(realpath dist/*.whl)
environment bare "$wheel"
environment cpu "${wheel}[cpu]"

cd "$folder" # where nothing of the checkout can be imported by accident
set -x
bare/bin/zsm --help >/dev/null
bare/bin/zsm info compact >/dev/null
bare/bin/python -c "import zsm.engine; zsm.engine.Bundle"
cpu/bin/python -c "
import numpy, zsm
with zsm.Runtime('compact') as rt:
    assert rt(numpy.zeros((2, 16, 16, 3), numpy.uint8)).shape == (3, 64, 64, 3)
"

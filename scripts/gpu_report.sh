#!/usr/bin/env bash
# Build, check and measure zsm on an NVIDIA GPU: everything, most valuable first, in at most 9 minutes.
#
#   scripts/gpu_report.sh [--long] [--out FOLDER] [--limit SECONDS]
#
# Needs Python 3.11 and says what else is missing. Takes the first Python with a torch for CUDA: $PYTHON, .venv's, then
# those on the search path. See docs/gpu.md.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
recent='import sys; sys.exit(sys.version_info < (3, 11))'
cuda='import torch; raise SystemExit(torch.version.cuda is None)'

for check in "$cuda" ""; do
  for python in ${PYTHON:-"$root/.venv/bin/python" python3 python /opt/conda/bin/python}; do
    timeout 60 "$python" -c "$recent" 2>/dev/null && timeout 60 "$python" -c "$check" 2>/dev/null || continue
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    exec "$python" -P -m scripts.gpu_report "$@"
  done
done
echo "scripts/gpu_report.sh needs Python 3.11 or newer, and found none; set PYTHON to one" >&2
exit 1

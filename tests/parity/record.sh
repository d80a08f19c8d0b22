#!/usr/bin/env bash
# Records the loss curves of PyTorch Lightning that parity_test compares with, into tests/golden/parity. Needs a Python
# with the packages below; makes one beside the test packages if none is named, that of benchmarks/run.sh.
#
#   tests/parity/record.sh [PYTHON]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${1:-.deps/venv-lightning/bin/python}
if [[ ! -x $python ]]; then
  python3 -m venv .deps/venv-lightning
  .deps/venv-lightning/bin/pip install --quiet lightning==2.6.6 torch==2.15.0 safetensors==0.8.0
fi
"$python" tests/parity/record.py data/digits.csv.gz tests/golden/parity

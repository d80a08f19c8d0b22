#!/usr/bin/env bash
# Builds the release preset with its tests and runs them. Works in a clone of any state: tools/setup.sh runs first.
#
#   tools/test.sh [--all] [ctest arguments, such as -R <name of a test>]
#
#   --all   the slow tests too (faults, long fuzzing), and the unit and integration tests built by GCC, under
#           AddressSanitizer with UBSan, and under ThreadSanitizer

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case ${1:-} in
  -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
  --all) all=true && shift ;;
  *) all=false ;;
esac

tools/setup.sh --quiet --no-build --cuda-build

# What the tests read our files with, as users of Python would.
venv=$PWD/.deps/venv
if ! cmp -s tests/requirements.txt "$venv/requirements.txt"; then
  echo "Test packages: installing tests/requirements.txt"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$venv/requirements.txt"
fi
export TRAINER_TEST_PYTHON=$venv/bin/python

options=(-DTRAINER_BUILD_TESTS=ON)
if [ -z "${LIBTORCH_ROOT:-}" ]; then
  options+=(-DTRAINER_WITH_CUDA=ON) # what it needs was installed above; its absence is an error, not a smaller build
fi

# run_tests PRESET [CTEST_ARGUMENT...]
run_tests() {
  cmake --preset "$1" "${options[@]}"
  cmake --build --preset "$1"
  ctest --preset "$1" -j"$(nproc)" --output-on-failure --no-tests=error "${@:2}"
}

if $all; then
  run_tests release "$@"
  run_tests gcc -L '^(unit|integration)$' "$@"
  run_tests asan -L '^(unit|integration)$' "$@"
  run_tests tsan -L '^(unit|integration)$' "$@"
else
  run_tests release -LE slow "$@"
fi

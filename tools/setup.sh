#!/usr/bin/env bash
# Makes a fresh clone ready: Debian packages, LibTorch, the data of the examples, the release build.
# A step whose result is already there says so in one line, so running it again is cheap.
#
#   tools/setup.sh [--cuda | --cuda-build] [--no-build] [--quiet]
#
#   --cuda        LibTorch with all that a GPU needs (4.1 GB instead of 1.3 GB)
#   --cuda-build  what the CUDA library of this project is compiled and linked with, on a machine without a GPU too
#                 (0.2 GB more; not enough to use a GPU)
#   --no-build    stop before the build
#   --quiet       say nothing about the steps that have nothing to do
#
# LIBTORCH_ROOT=/folder/with/lib/libtorch_cpu.so tools/setup.sh    uses that LibTorch and downloads none

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Clang builds this project four times as fast as GCC (docs/decisions/0010); with its runtime for the sanitizers.
packages=(clang libclang-rt-14-dev g++ cmake ninja-build ccache pkg-config git ca-certificates python3-venv
  libopenmpi-dev openmpi-bin libyaml-cpp-dev libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev libgtest-dev libxxhash-dev zlib1g-dev)

# LibTorch is the torch wheel. Its CPU library was linked against these two CUDA libraries and needs them to load.
cpu_set=(torch==2.15.0 nvidia-cuda-runtime==13.2.86 nvidia-cuda-cupti==13.2.86)
# NCCL with its header, and crt/host_defines.h and nv/target, which the CUDA headers include.
cuda_build_set=(nvidia-nccl-cu13==2.30.7 nvidia-cuda-crt==13.2.86 nvidia-cuda-cccl==13.2.86)

venv=.deps/venv
libtorch=.deps/libtorch
download=.deps/libtorch.download

cuda=false cuda_build=false build=true quiet=false
for argument in "$@"; do
  case $argument in
    --cuda) cuda=true ;;
    --cuda-build) cuda_build=true ;;
    --no-build) build=false ;;
    --quiet) quiet=true ;;
    -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    *) echo "tools/setup.sh: unknown argument '$argument'; see tools/setup.sh --help" >&2 && exit 2 ;;
  esac
done

nothing_to_do() { $quiet || echo "$*"; }
fail() {
  echo "tools/setup.sh: $*" >&2
  exit 1
}

install_packages() {
  if ! command -v dpkg-query >/dev/null; then
    nothing_to_do "Packages: this is not a Debian system; install what it calls ${packages[*]}"
    return
  fi
  local package missing=() as_root=()
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed* ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    nothing_to_do "Packages: already there"
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || fail "these Debian packages are missing, and only root may install them:
  ${missing[*]}
  As root, run: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}
  Then run tools/setup.sh again."
  fi
  echo "Packages: installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq \
    --no-install-recommends "${missing[@]}" >/dev/null
}

make_venv() {
  if "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    nothing_to_do "Python environment: already there ($venv)"
    return
  fi
  echo "Python environment: making $venv"
  python3 -m venv --clear "$venv"
}

install_libtorch() {
  if [ -n "${LIBTORCH_ROOT:-}" ]; then
    [[ $LIBTORCH_ROOT == /* && -e $LIBTORCH_ROOT/lib/libtorch_cpu.so ]] ||
      fail "LIBTORCH_ROOT=$LIBTORCH_ROOT is not the absolute path of a folder that holds lib/libtorch_cpu.so.
  Correct it, or unset it to have LibTorch downloaded."
    nothing_to_do "LibTorch: LIBTORCH_ROOT=$LIBTORCH_ROOT"
    return
  fi
  local wheel found wanted=("${cpu_set[@]}") missing=() replace=false
  if $cuda || $cuda_build; then
    wanted+=("${cuda_build_set[@]}")
  fi
  for wheel in "${wanted[@]}"; do
    is_installed "$wheel" || missing+=("$wheel")
    if is_other_version_installed "$wheel"; then
      replace=true
    fi
  done
  if $replace; then
    missing=("${wanted[@]}")
  fi
  add_wheels "${missing[@]}"
  if $cuda && [[ $(cat "$libtorch/cuda_set.txt" 2>/dev/null) != "${wanted[*]}" ]]; then
    replace=false
    found=$(wheels_that_torch_lacks) || fail "pip could not tell what torch needs for a GPU, see above."
    mapfile -t missing < <(printf %s "$found")
    add_wheels "${missing[@]}"
    echo "${wanted[*]}" >"$libtorch/cuda_set.txt"
  elif ((${#missing[@]} == 0)); then
    nothing_to_do "LibTorch: already there ($libtorch)"
  fi
}

# The folder in which pip records what it has installed of NAME==VERSION.
record_of() {
  local wheel=${1//-/_}
  echo "$libtorch/${wheel/==/-}.dist-info"
}

is_installed() { [ -d "$(record_of "$1")" ]; }

is_other_version_installed() {
  ! is_installed "$1" && compgen -G "$(record_of "${1%%==*}==*")" >/dev/null
}

# The NVIDIA wheels among the dependencies of the installed torch that are not there yet, one NAME==VERSION a line.
# What only Python needs stays out.
wheels_that_torch_lacks() {
  PYTHONPATH=$libtorch "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --dry-run --report - \
    "${cpu_set[@]}" "${cuda_build_set[@]}" |
    "$venv/bin/python" -c '
import json, sys
for item in json.load(sys.stdin)["install"]:
    metadata = item["metadata"]
    if metadata["name"].startswith("nvidia-"):
        print(metadata["name"] + "==" + metadata["version"])'
}

# Downloads wheels and adds them to what is there, or puts them in its place where `replace` says so.
add_wheels() {
  (($# > 0)) || return 0
  echo "LibTorch: downloading $*"
  # One folder for all that is half done, on the disk of the result so that nothing is copied.
  rm -rf "$download"
  trap 'rm -rf "$download"' EXIT
  mkdir -p "$download/tmp"
  TMPDIR=$PWD/$download/tmp "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile --no-deps \
    --target "$download/wheels" "$@" ||
    fail "pip could not install LibTorch, see above.
  It needs Linux and Python 3.11 or later; this is $(python3 --version).
  With a LibTorch of your own, run LIBTORCH_ROOT=/folder/with/lib/libtorch_cpu.so tools/setup.sh"
  if $replace; then
    rm -rf "$libtorch"
  fi
  # The records come last: they say that a wheel is complete.
  mkdir -p "$download/records" "$libtorch"
  mv "$download"/wheels/*.dist-info "$download/records"
  cp -alf "$download/wheels/." "$libtorch/"
  cp -alf "$download/records/." "$libtorch/"
  rm -rf "$download"
}

make_data() {
  local options=(--libtorch "${LIBTORCH_ROOT:-$libtorch/torch}")
  $quiet && options+=(--quiet)
  "$venv/bin/python" tools/make_data.py "${options[@]}"
}

install_packages
make_venv
install_libtorch
make_data
if $build; then
  cmake --preset release
  cmake --build --preset release
  echo "Ready. Train the first model:  build/bin/trainer fit --config configs/digits.yaml"
  echo "Run the tests:                 tools/test.sh"
else
  nothing_to_do "Ready to build: cmake --preset release && cmake --build --preset release"
fi

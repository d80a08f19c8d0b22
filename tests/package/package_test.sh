#!/usr/bin/env bash
# Uses trainer as other projects do: installed and moved elsewhere, as a plug-in's host, and as a subdirectory.
#
#   package_test.sh SOURCE_DIR BUILD_DIR

set -euo pipefail
source=$1 build=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export CXX=g++  # as most users have, whatever built the library
# Threads that wait for each other on a machine busy with other tests would take minutes.
export OMP_NUM_THREADS=1

fail() {
  echo "package_test.sh: $*" >&2
  exit 1
}
expect_files() {
  local file
  for file in "$@"; do
    [ -s "$file" ] || fail "there is no $PWD/$file, or it is empty"
  done
}
expect_run() {
  expect_files "$1"/{config.yaml,metrics.csv,provenance.json,checkpoints/last,checkpoints/best}
  expect_files "$1/checkpoints/$(cat "$1/checkpoints/last")"/{manifest.json,model.safetensors}
}

echo "== install, then move the installation"
cmake --install "$build" --prefix "$work/first" >/dev/null
mv first prefix
if [ -e "$build/lib/libtrainer_cuda.so" ]; then
  expect_files prefix/lib*/libtrainer_cuda.so
fi
! grep -rqF "$build" prefix/lib*/cmake || fail "the package files name the build folder"

echo "== what an installed header includes is installed"
grep -rhoE '#include <(trainer|strategies|callbacks|loggers)/[^>]+>' prefix/include | sort -u | sed 's/#include <\(.*\)>/\1/' |
  while read -r header; do
    [ -e "prefix/include/$header" ] || fail "$header is not installed"
  done

echo "== build a project with find_package(trainer)"
cp -r "$source/examples/standalone" project
cmake -G Ninja -S project -B project/build -DCMAKE_PREFIX_PATH="$work/prefix"
cmake --build project/build

echo "== run its program, its hand-made Trainer, and its plug-in in the installed program"
mkdir program by_hand plugin
(cd program && ../project/build/sine fit --config ../project/config.yaml --trainer.max_epochs=2 && expect_run runs/version_0)
(cd program && ../project/build/sine list | grep 'SineNet .*\[this program\]' >/dev/null) || fail "list does not show SineNet"
(cd by_hand && ../project/build/hand_made && expect_run runs/version_0)
(cd plugin && ../prefix/bin/trainer fit --plugin ../project/build/libmine.so --config ../project/config.yaml \
  --trainer.max_epochs=2 && expect_run runs/version_0)
cmp program/runs/version_0/metrics.csv plugin/runs/version_0/metrics.csv ||
  fail "the program and the plug-in trained differently"
status=0
prefix/bin/trainer fit --config project/config.yaml 2>stderr || status=$?
[ $status = 2 ] || fail "without the plug-in, trainer ended with $status instead of 2"
grep -q "unknown module 'SineNet'" stderr || fail "without the plug-in, trainer said: $(cat stderr)"

echo "== configure a project with add_subdirectory(trainer)"
mkdir subdirectory
echo 'int main() {}' >subdirectory/main.cpp
cat >subdirectory/CMakeLists.txt <<END
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES CXX)
add_subdirectory("$source" trainer)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE trainer::trainer)
END
cmake -G Ninja -S subdirectory -B subdirectory/build
ninja -C subdirectory/build -t query consumer | grep libtrainer >/dev/null || fail "consumer does not link libtrainer"
echo "package_test.sh: passed"

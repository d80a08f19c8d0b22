#!/usr/bin/env bash
# The arrows between the layers point one way, and tools/check_layers.py finds one that does not.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/tools/check_layers.py" "$root"

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
expect_wrong() {  # FILE INCLUDE
  mkdir -p "$copy/$(dirname "$1")"
  echo "#include <$2>" >"$copy/$1"
  if "$root/tools/check_layers.py" "$copy" >"$copy/out"; then
    echo "check_layers.py did not object to $1 including $2" && exit 1
  fi
  grep -q "^$1 includes $2" "$copy/out"
  rm "$copy/$1"
}
expect_wrong trainer/core/error.h trainer/trainer.h
expect_wrong trainer/fit_loop.cpp strategies/single_device.h
expect_wrong trainer/strategy.h trainer/module.h
expect_wrong strategies/single_device.cpp trainer/trainer.h
expect_wrong loggers/csv_logger.cpp trainer/module.h
expect_wrong trainer/trainer.cpp trainer/cli/cli.h
expect_wrong callbacks/progress_bar.cpp examples/digits/digits_data.h
expect_wrong trainer/core/config.cpp yaml-cpp/yaml.h
expect_wrong loggers/csv_logger.cpp spdlog/spdlog.h
expect_wrong strategies/single_device.cpp strategies/cuda/nccl_communicator.h
expect_wrong strategies/comm/communicator.cpp c10/cuda/CUDAStream.h
expect_wrong trainer/precision.cpp cuda_runtime.h
expect_wrong strategies/cuda/nccl_communicator.cpp strategies/single_device.h

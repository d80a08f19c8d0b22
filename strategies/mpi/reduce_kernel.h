#pragma once
// Arithmetic of reductions between ranks, in plain memory.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <torch/types.h>

#include <trainer/strategy.h>

namespace trainer {

/// Reduces `count` elements, one row of each rank, in the order of the ranks, and writes the result
/// to every row of `to`, which may be rows of `from`. bfloat16 and float16 are reduced in float32
/// and rounded once. A minimum or maximum with NaN is NaN. The mean divides by the number of rows.
/// One row is copied, whatever its dtype.
void reduce_rows(const std::vector<const std::byte*>& from, const std::vector<std::byte*>& to,
                 int64_t count, torch::ScalarType dtype, ReduceOp op);

}  // namespace trainer

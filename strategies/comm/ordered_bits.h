#pragma once
// Floating-point numbers as whole numbers in the same order, NaN beyond all of them. NCCL's minimum
// and maximum lose a NaN; those of whole numbers keep the one that stands for it.

#include <limits>

#include <torch/types.h>

#include <trainer/strategy.h>

namespace trainer {

/// kInt64 for float64, kInt32 for the other formats. NaN is the smallest number for kMin, else the
/// largest.
inline torch::Tensor to_ordered_bits(const torch::Tensor& numbers, ReduceOp op) {
  const bool is_double = numbers.scalar_type() == torch::kFloat64;
  const auto wide = is_double ? numbers : numbers.to(torch::kFloat32);
  const int64_t largest =
      is_double ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int32_t>::max();
  const auto bits = wide.view(is_double ? torch::kInt64 : torch::kInt32);
  // Negative numbers have their sign bit set and grow with their distance from 0.
  const auto ordered =
      bits.bitwise_xor(bits.bitwise_right_shift(is_double ? 63 : 31).bitwise_and(largest));
  return ordered.masked_fill_(wide.isnan(), op == ReduceOp::kMin ? -largest - 1 : largest);
}

/// The numbers again: float64 for kInt64, float32 for kInt32.
inline torch::Tensor from_ordered_bits(const torch::Tensor& ordered) {
  const bool is_double = ordered.scalar_type() == torch::kInt64;
  const int64_t largest =
      is_double ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int32_t>::max();
  return ordered.bitwise_xor(ordered.bitwise_right_shift(is_double ? 63 : 31).bitwise_and(largest))
      .view(is_double ? torch::kFloat64 : torch::kFloat32);
}

}  // namespace trainer

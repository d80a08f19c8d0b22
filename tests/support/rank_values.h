#pragma once
// For tests of collectives: tensors that are a function of the rank, so that every rank can work
// out what the result has to be, and what can be reduced.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <torch/torch.h>

#include <trainer/strategy.h>

namespace trainer::test {

inline const std::vector<torch::ScalarType> kFloats = {torch::kFloat64, torch::kFloat32,
                                                       torch::kBFloat16, torch::kFloat16};
inline const std::vector<torch::ScalarType> kIntegers = {
    torch::kInt64, torch::kInt32, torch::kInt16, torch::kInt8, torch::kUInt8};
/// From nothing to several pieces of every path; odd, so that parts differ.
inline const std::vector<int64_t> kSizes = {0, 1, 3, 1000, 70'001, 2'300'003};

/// Every dtype with every operation that it can be reduced by.
inline std::vector<std::pair<torch::ScalarType, ReduceOp>> reductions() {
  std::vector<std::pair<torch::ScalarType, ReduceOp>> all;
  for (const auto op :
       {ReduceOp::kSum, ReduceOp::kMean, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct}) {
    for (const auto dtype : kFloats) {
      all.emplace_back(dtype, op);
    }
    for (const auto dtype : kIntegers) {
      if (op != ReduceOp::kMean) {
        all.emplace_back(dtype, op);
      }
    }
  }
  for (const auto op : {ReduceOp::kMin, ReduceOp::kMax}) {
    all.emplace_back(torch::kBool, op);
  }
  for (const auto op : {ReduceOp::kSum, ReduceOp::kMean}) {
    all.emplace_back(torch::kComplexFloat, op);
    all.emplace_back(torch::kComplexDouble, op);
  }
  return all;
}

/// What rank `r` contributes, on the processor.
inline torch::Tensor values(int r, const std::vector<int64_t>& shape, torch::ScalarType dtype) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(1000 + r));
  const auto numbers = torch::rand(shape, generator, torch::kFloat64);
  if (c10::isFloatingType(dtype)) {
    return (numbers * 4 - 2).to(dtype);
  }
  if (c10::isComplexType(dtype)) {
    return torch::complex(numbers, 1 - numbers).to(dtype);
  }
  return dtype == torch::kBool ? numbers > 0.5 : (numbers * 4).to(dtype);
}

/// What each of `size` ranks contributes.
inline std::vector<torch::Tensor> all_values(int size, const std::vector<int64_t>& shape,
                                             torch::ScalarType dtype) {
  std::vector<torch::Tensor> all;
  for (int r = 0; r < size; ++r) {
    all.push_back(values(r, shape, dtype));
  }
  return all;
}

/// Reduced in a wide format, in the order of the ranks, and rounded once.
inline torch::Tensor reduced(const std::vector<torch::Tensor>& all, ReduceOp op) {
  const auto dtype = all[0].scalar_type();
  const bool is_short = dtype == torch::kBFloat16 || dtype == torch::kFloat16;
  const auto wide = is_short ? torch::kFloat32 : dtype;
  auto result = all[0].to(wide).clone();
  for (size_t i = 1; i < all.size(); ++i) {
    const auto next = all[i].to(wide);
    switch (op) {
      case ReduceOp::kSum:
      case ReduceOp::kMean: result += next; break;
      case ReduceOp::kProduct: result *= next; break;
      case ReduceOp::kMin: result = torch::minimum(result, next); break;
      case ReduceOp::kMax: result = torch::maximum(result, next); break;
    }
  }
  if (op == ReduceOp::kMean) {
    // Both parts of a complex number on their own: its division rounds otherwise.
    auto numbers = result.is_complex() ? torch::view_as_real(result) : result;
    numbers /= static_cast<double>(all.size());
  }
  return result.to(dtype);
}

}  // namespace trainer::test

#pragma once
// Buffers that are used again: never more of them than were needed at a time, and each grows to
// what was needed of it.

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <torch/types.h>

namespace trainer {

class BufferPool {
 public:
  /// Of so many bytes.
  using Allocate = std::function<torch::Tensor(int64_t bytes)>;
  explicit BufferPool(Allocate allocate) : allocate_(std::move(allocate)) {}

  /// `bytes` or more.
  torch::Tensor take(int64_t bytes);
  /// What take() returned, whole.
  void give_back(torch::Tensor buffer);

 private:
  Allocate allocate_;
  std::vector<torch::Tensor> free_;  // the smallest first
};

}  // namespace trainer

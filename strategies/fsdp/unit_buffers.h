#pragma once
// Buffers for whole units, in memory where a communicator's operations need no copy of them.

#include <strategies/comm/buffer_pool.h>
#include <strategies/comm/communicator.h>

namespace trainer {

class UnitBuffers {
 public:
  /// `communicator` must outlive it.
  explicit UnitBuffers(Communicator& communicator)
      : pool_([&](int64_t bytes) { return communicator.empty({bytes}, torch::kUInt8); }) {}

  /// [numel], not initialized.
  torch::Tensor take(int64_t numel, torch::ScalarType dtype) {
    const auto bytes = numel * static_cast<int64_t>(c10::elementSize(dtype));
    return pool_.take(bytes).narrow(0, 0, bytes).view(dtype);
  }
  /// What take() returned; the tensor is undefined then.
  void give_back(torch::Tensor& buffer) {
    const auto bytes = static_cast<int64_t>(buffer.storage().nbytes());
    pool_.give_back(buffer.view(torch::kUInt8).as_strided({bytes}, {1}, 0));
    buffer.reset();
  }

 private:
  BufferPool pool_;
};

}  // namespace trainer

#pragma once
// The state of a random generator at some time, to draw the same numbers again.

#include <mutex>

#include <ATen/core/Generator.h>
#include <torch/types.h>

namespace trainer {

class GeneratorState {
 public:
  /// As it is now.
  explicit GeneratorState(at::Generator generator) : generator_(std::move(generator)) {
    const std::lock_guard<std::mutex> lock(generator_.mutex());
    state_ = generator_.get_state();
  }
  const at::Generator& generator() const { return generator_; }
  /// Of the same generator.
  GeneratorState now() const { return GeneratorState(generator_); }
  void restore() const {
    at::Generator generator = generator_;  // a handle
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state_);
  }

 private:
  at::Generator generator_;
  torch::Tensor state_;
};

}  // namespace trainer

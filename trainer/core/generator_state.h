#pragma once
// The state of a random generator at some time, to draw the same numbers again.

#include <mutex>
#include <utility>
#include <vector>

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
  /// Of bytes that bytes() has returned once.
  GeneratorState(at::Generator generator, torch::Tensor bytes)
      : generator_(std::move(generator)), state_(std::move(bytes)) {}

  const at::Generator& generator() const { return generator_; }
  const torch::Tensor& bytes() const { return state_; }
  /// Of the same generator.
  GeneratorState now() const { return GeneratorState(generator_); }
  /// Throws c10::Error for bytes that are no state of the generator.
  void restore() const {
    at::Generator generator = generator_;  // a handle
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state_);
  }

 private:
  at::Generator generator_;
  torch::Tensor state_;
};

/// While it lives, generators draw what they drew at an earlier time; then they go on.
class DrawsAgain {
 public:
  explicit DrawsAgain(const std::vector<GeneratorState>& then) {
    for (const auto& state : then) {
      now_.push_back(state.now());
      state.restore();
    }
  }
  DrawsAgain(const DrawsAgain&) = delete;
  DrawsAgain& operator=(const DrawsAgain&) = delete;
  ~DrawsAgain() {
    for (const auto& state : now_) {
      state.restore();
    }
  }

 private:
  std::vector<GeneratorState> now_;
};

}  // namespace trainer

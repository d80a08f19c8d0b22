#pragma once
// For optimizers whose update of an element depends on others of its tensor, where this process may
// hold one-dimensional segments of parameters, gradients and state, and other processes the rest.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <torch/types.h>

namespace trainer {

/// What such an optimizer asks of whole tensors, in every process the same in the same order. This
/// class is that of tensors which are whole; a strategy that shards derives from it.
class WholeTensors {
 public:
  using Tensors = std::vector<torch::Tensor>;
  /// Returns a tensor of the same sizes and dtype, and leaves its argument as it is.
  using Change = std::function<torch::Tensor(const torch::Tensor& whole)>;
  using Take = std::function<void(size_t index, const torch::Tensor& segment)>;

  virtual ~WholeTensors() = default;

  /// Of the whole to which `parameter` belongs. Throws UsageError for one that is not the module's.
  virtual std::vector<int64_t> sizes(const torch::Tensor& parameter) const {
    return parameter.sizes().vec();
  }
  /// Adds up, in place, what each process computed from its segments. Collective: yes.
  virtual void sum(const torch::Tensor& /*values*/) const {}
  /// `tensors` have a number for each element of `parameters`, in one dtype. Calls `change` with
  /// each of them as a whole, in one of the processes, and `take` in all of them with what they
  /// hold of the result. No process has more than one whole at a time. Throws UsageError as
  /// sizes(). Collective: yes.
  virtual void change_each(const Tensors& /*parameters*/, const Tensors& tensors,
                           const Change& change, const Take& take) const {
    for (size_t i = 0; i < tensors.size(); ++i) {
      take(i, change(tensors[i]));
    }
  }
};

/// Derive such an optimizer from it: a strategy that shards then tells it of the wholes.
class UsesWholeTensors {
 public:
  virtual ~UsesWholeTensors() = default;
  /// While the returned object lives, parameters are segments of what `whole` knows.
  std::shared_ptr<void> use(const WholeTensors& whole) {
    whole_ = &whole;
    return {nullptr, [this](void*) { whole_ = nullptr; }};
  }

 protected:
  const WholeTensors& whole() const {
    static const WholeTensors kUnsharded;
    return whole_ != nullptr ? *whole_ : kUnsharded;
  }

 private:
  const WholeTensors* whole_ = nullptr;
};

}  // namespace trainer

#pragma once
// Modules that are larger than a rank: while they are made, large tensors have a shape and no
// memory, and what would fill them is recorded. Sharding then makes one unit after the other, keeps
// a slice of each, and frees the rest. The values are those of an ordinary construction, bit for
// bit: random operators draw when they are recorded, to leave the generator as it should be, and
// once more, from the same state, when values are wanted.
//
// It sees operators by the dispatch key of guarded_storage.h. Source of the technique: torchdistx,
// https://pytorch.org/torchdistx/latest/deferred_init.html.

#include <cstddef>
#include <memory>

#include <torch/types.h>

namespace trainer {

class DeferredConstruction {
 public:
  /// Smaller tensors are made at once.
  static constexpr size_t kMinBytes = 16 << 10;

  /// Throws UsageError on a LibTorch without the dispatch key.
  explicit DeferredConstruction(size_t min_bytes = kMinBytes);
  DeferredConstruction(const DeferredConstruction&) = delete;
  DeferredConstruction& operator=(const DeferredConstruction&) = delete;
  /// Deferred tensors that are left then get their values when an operator first takes them.
  ~DeferredConstruction();

  /// While the returned object lives, tensors that this thread makes on the processor are deferred.
  /// What operators do to deferred ones is recorded until this object's end.
  [[nodiscard]] std::shared_ptr<void> scope();

  static bool is_deferred(const torch::Tensor& tensor);
  /// Gives a deferred tensor, and all that are views of the same memory, its values; any other
  /// tensor stays as it is.
  static void materialize(const torch::Tensor& tensor);

 private:
  struct Implementation;
  std::shared_ptr<Implementation> implementation_;
};

}  // namespace trainer

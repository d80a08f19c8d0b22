#pragma once
// How the gradients of a bucket become their mean over the ranks: with a hook, in a form that takes
// fewer bytes. `strategy: {class_path: DDP, init_args: {comm_hook: {class_path: BF16Compress}}}`.

#include <cstddef>
#include <memory>

#include <torch/types.h>

#include <strategies/comm/communicator.h>

namespace trainer {

class CommHook {
 public:
  using Base = CommHook;
  static constexpr const char* kKind = "communication hook";

  /// A reduction under way.
  class Reduction {
   public:
    virtual ~Reduction() = default;
    /// Returns when the mean is in the gradients. Collective: yes.
    virtual void finish() = 0;
  };

  virtual ~CommHook() = default;

  /// Begins to average `gradients`, flat and dense, in place. `bucket` counts from 0 and stands for
  /// the same parameters in every step until forget_buckets(). Every rank starts the same buckets
  /// in the same order, and finishes them in that order. Collective: yes.
  virtual std::unique_ptr<Reduction> start(Communicator& communicator,
                                           const torch::Tensor& gradients, size_t bucket) = 0;

  /// The parameters are in other buckets from now on.
  virtual void forget_buckets() {}
};

}  // namespace trainer

#pragma once
// How the gradients of a bucket become their mean over the ranks: with a hook, in a form that takes
// fewer bytes. `strategy: {class_path: DDP, init_args: {comm_hook: BF16Compress}}`; derive from it
// for a form of your own.

#include <cstddef>
#include <memory>
#include <vector>

#include <torch/types.h>

#include <strategies/comm/communicator.h>

namespace trainer {

/// The gradients that travel together. A parameter that this rank did not use has zeros in it.
struct GradientBucket {
  torch::Tensor flat;                // all of them, dense
  std::vector<torch::Tensor> slots;  // the same memory, one view of each parameter's shape
  size_t index;                      // from 0
};

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

  /// Begins to average the gradients in place, which stay there until finish(). Buckets of an index
  /// have the same parameters in every step until forget_buckets(). In a step every rank starts the
  /// same buckets in the order of their indices, and then finishes them in that order. Called
  /// without gradients being recorded. Collective: yes.
  virtual std::unique_ptr<Reduction> start(Communicator& communicator,
                                           const GradientBucket& bucket) = 0;

  /// The parameters are in other buckets from now on.
  virtual void forget_buckets() {}
};

}  // namespace trainer

#pragma once
// A strategy spreads one training step over devices and processes. It gets a module and tensors,
// never a Trainer: the loop calls it at the places where a step may need other ranks.

#include <functional>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

namespace trainer {

/// kMean: of floating-point numbers only.
enum class ReduceOp { kSum, kMean, kMin, kMax, kProduct };

class Strategy {
 public:
  using Base = Strategy;
  static constexpr const char* kKind = "strategy";
  using Closure = std::function<torch::Tensor()>;

  virtual ~Strategy() = default;

  /// The device this rank computes on; called once, before everything else.
  virtual void set_device(torch::Device device) = 0;
  virtual torch::Device device() const = 0;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  /// Moves, broadcasts or shards the module; called before configure_optimizers(). Collective: yes.
  virtual void setup_module(torch::nn::Module& module) = 0;

  /// Makes the gradients of `optimizer` undefined or zero before a window's first backward pass.
  /// The strategy owns how, since gradients may be views into its own storage.
  virtual void zero_gradients(torch::optim::Optimizer& optimizer) = 0;

  /// Off while a window accumulates: backward then leaves gradients on their rank.
  virtual void require_gradient_sync(bool required) = 0;

  /// After the last backward pass of a window: returns when every gradient is final. Collective:
  /// yes.
  virtual void finish_gradient_sync() = 0;

  /// Scales the gradients in place so that their global L2 norm is at most `max_norm`.
  /// Returns the norm before, a float32 scalar on device(). Collective: yes. Syncs: no.
  virtual torch::Tensor clip_gradients(torch::optim::Optimizer& optimizer, double max_norm) = 0;

  /// Runs the optimizer's step; `closure` evaluates loss and gradients. Returns the closure's loss.
  virtual torch::Tensor optimizer_step(torch::optim::Optimizer& optimizer,
                                       const Closure& closure) = 0;

  /// Reduces `tensor` over the ranks in place. Collective: yes.
  virtual void all_reduce(torch::Tensor& tensor, ReduceOp op) = 0;

  /// The tensors of all ranks in their order: [world_size, ...]; of the same shape on every rank.
  /// Collective: yes.
  virtual torch::Tensor all_gather(const torch::Tensor& tensor) = 0;

  /// Returns when every rank has called it. Collective: yes.
  virtual void barrier() = 0;

  bool is_global_zero() const { return rank() == 0; }
};

}  // namespace trainer

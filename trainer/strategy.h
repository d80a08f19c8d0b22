#pragma once
// A strategy spreads one training step over devices and processes. It gets a module and tensors,
// never a Trainer: the loop calls it at the places where a step may need other ranks.

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <trainer/core/segment.h>

namespace trainer {

/// kMean: of floating-point numbers only.
enum class ReduceOp { kSum, kMean, kMin, kMax, kProduct };

/// Of a strategy whose ranks hold slices of the parameters, and of what optimizers keep of them.
class Sharding {
 public:
  virtual ~Sharding() = default;
  /// While the returned object lives, the module's parameters are ordinary tensors, whole on every
  /// rank: to be read, or written alike by all. Collective: yes.
  virtual std::shared_ptr<void> whole_parameters() = 0;
  /// While the returned object lives, parameters are this rank's one-dimensional segments of them,
  /// as an optimizer sees them. Collective: yes.
  virtual std::shared_ptr<void> segments() = 0;
  /// Which segment of a parameter this rank holds, nothing for a tensor that is not sharded.
  virtual std::optional<Segment> segment_of(const torch::Tensor& parameter) const = 0;
  /// Whether checkpoints take this rank's segments: of ranks that hold the same ones, one.
  virtual bool writes_parts() const { return true; }
  /// Whether checkpoints are those of one process, which rank 0 writes, in place of parts by ranks.
  virtual bool saves_whole() const { return false; }
};

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

  /// Whether batch norm layers take their statistics over the batches of all ranks in training from
  /// the next setup_module() on.
  virtual void set_sync_batchnorm(bool /*synced*/) {}

  /// While what it returns lives, the module builds its large layers (configure_model()): a
  /// strategy may put off making their values until setup_module(). Null where it does not.
  virtual std::shared_ptr<void> construction() { return nullptr; }

  /// Moves, broadcasts or shards the module; called before configure_optimizers(). Collective: yes.
  virtual void setup_module(torch::nn::Module& module) = 0;

  /// At the end of a stage, and before one that follows an error: parameters are ordinary tensors
  /// again, whole on every rank. Collective: yes.
  virtual void teardown_module(torch::nn::Module& /*module*/) {}

  /// Null where every rank holds whole parameters.
  virtual Sharding* sharding() { return nullptr; }
  /// Whether there is one after setup_module().
  virtual bool shards() const { return false; }
  /// For a reader: what of the module a rank of `num_ranks` would hold. Empty: all of it.
  virtual std::string describe_sharding(const torch::nn::Module& /*module*/,
                                        int /*num_ranks*/) const {
    return "";
  }

  /// Makes the gradients of `optimizer` undefined or zero before a window's first backward pass.
  /// The strategy owns how, since gradients may be views into its own storage.
  virtual void zero_gradients(torch::optim::Optimizer& optimizer) = 0;

  /// Whether the next backward pass is the last before finish_gradient_sync(): gradients may then
  /// be reduced while it runs. Off while a window accumulates.
  virtual void require_gradient_sync(bool required) = 0;

  /// Before gradients are looked at, clipped or used: returns when every gradient is the mean over
  /// the ranks. Those that it has seen before and that no backward pass has added to since stay as
  /// they are. Collective: yes.
  virtual void finish_gradient_sync() = 0;

  /// Scales the gradients in place so that their global L2 norm is at most `max_norm`.
  /// Returns the norm before, a float32 scalar on device(). Collective: yes. Syncs: no.
  virtual torch::Tensor clip_gradients(torch::optim::Optimizer& optimizer, double max_norm) = 0;

  /// Runs the optimizer's step; `closure` evaluates loss and gradients. Returns the closure's loss.
  virtual torch::Tensor optimizer_step(torch::optim::Optimizer& optimizer,
                                       const Closure& closure) = 0;

  /// After the update of a batch, also where it was left out.
  virtual void end_step() {}

  /// A few numbers that every rank should know the sum of, whenever it costs nothing.
  using StepNumbers = std::array<double, 8>;
  /// They ride on the next gradient reduction, which may carry them in the gradients' dtype.
  virtual void set_step_numbers(const StepNumbers& numbers) = 0;
  /// The sums over the ranks of what was set last, once: by the gradient reduction since, or where
  /// there was none by a reduction of their own. Collective: yes.
  virtual StepNumbers take_step_numbers() = 0;

  /// Off while this rank goes through a repeated batch beside others that still have samples: it is
  /// left out of statistics over the ranks (synchronized batch norm).
  virtual void set_batch_counts(bool /*counts*/) {}

  /// Gives every rank the buffers of rank 0, which a backward pass does not keep equal: running
  /// statistics, say. Collective: yes.
  virtual void broadcast_buffers(torch::nn::Module& module) = 0;

  /// Reduces `tensor` over the ranks in place. Collective: yes.
  virtual void all_reduce(torch::Tensor& tensor, ReduceOp op) = 0;

  /// The tensors of all ranks in their order: [world_size, ...]; of the same shape on every rank.
  /// Collective: yes.
  virtual torch::Tensor all_gather(const torch::Tensor& tensor) = 0;

  /// The texts of all ranks in their order, of any length. Collective: yes. Syncs: no.
  virtual std::vector<std::string> all_gather_text(const std::string& text) = 0;

  /// Returns when every rank has called it. Collective: yes.
  virtual void barrier() = 0;

  bool is_global_zero() const { return rank() == 0; }
};

}  // namespace trainer

#pragma once
// Fully sharded data parallel: each rank holds a slice of the parameters, of their gradients and of
// what the optimizer keeps of them. Layers are gathered when operators need them and freed after.
// Choose it for a module that is too large for one rank together with its optimizer; modules,
// configure_optimizers() and the loop stay as they are. Source: Zhao et al. 2023, arXiv:2304.11277.

#include <memory>
#include <vector>

#include <strategies/distributed.h>
#include <trainer/core/reflect.h>
#include <trainer/core/registry.h>

namespace trainer {

class DeferredConstruction;
class ShardedModule;

class FSDP : public Distributed, private Sharding {
 public:
  static constexpr const char* kDoc =
      "Every rank holds a slice of the parameters, gradients and optimizer state.";

  struct Init {
    bool deferred_construction = false;

    static constexpr auto fields() {
      return std::tuple{config::field<&Init::deferred_construction>(
          "What configure_model() builds has no memory until it is sharded, for a module that is "
          "larger than a rank's memory.")};
    }
  };

  FSDP() : FSDP(Init{}) {}
  explicit FSDP(Init init);
  ~FSDP() override;

  std::shared_ptr<void> construction() override;
  /// Shards the module: each child of a ModuleList or Sequential is gathered and freed as a whole,
  /// the rest stays gathered from the forward to the end of the backward pass. Throws UsageError.
  /// Collective: yes.
  void setup_module(torch::nn::Module& module) override;
  void teardown_module(torch::nn::Module& module) override;
  Sharding* sharding() override { return this; }

  /// Between finish_gradient_sync() and the end of optimizer_step() parameters are this rank's
  /// segments of them.
  void zero_gradients(torch::optim::Optimizer& optimizer) override;
  void finish_gradient_sync() override;
  torch::Tensor clip_gradients(torch::optim::Optimizer& optimizer, double max_norm) override;
  /// Evaluates the closure once, before the update. Throws UsageError for an optimizer that needs
  /// whole tensors.
  torch::Tensor optimizer_step(torch::optim::Optimizer& optimizer, const Closure& closure) override;
  void end_step() override;

 private:
  void place(torch::nn::Module& module) override;
  std::shared_ptr<void> whole_parameters() override;
  std::shared_ptr<void> segments() override;
  torch::Tensor whole_state(const torch::Tensor& parameter, const torch::Tensor& state) override;
  torch::Tensor own_state(const torch::Tensor& parameter, const torch::Tensor& whole) override;

  const Init init_;
  std::unique_ptr<DeferredConstruction> deferred_;  // from construction() to setup_module()
  std::unique_ptr<ShardedModule> sharded_;
};

}  // namespace trainer

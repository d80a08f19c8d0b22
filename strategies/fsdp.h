#pragma once
// Fully sharded data parallel: each rank holds a slice of the parameters, of their gradients and of
// what the optimizer keeps of them. Layers are gathered when operators need them and freed after.
// Choose it for a module that is too large for one rank together with its optimizer; modules,
// configure_optimizers() and the loop stay as they are. Source: Zhao et al. 2023, arXiv:2304.11277.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <strategies/distributed.h>
#include <trainer/core/reflect.h>
#include <trainer/core/registry.h>

namespace trainer {

class ShardedModule;

class FSDP : public Distributed, private Sharding {
 public:
  static constexpr const char* kDoc =
      "Every rank holds a slice of the parameters, gradients and optimizer state.";

  struct Init {
    std::string state_dict_type = "sharded";
    static constexpr auto fields() {
      return std::tuple{
          config::field<&Init::state_dict_type>("Checkpoints: sharded, each rank writes its part; "
                                                "full, rank 0 writes those of one process.",
                                                config::one_of("sharded", "full"))};
    }
  };

  FSDP() : FSDP(Init{}) {}
  explicit FSDP(Init init);
  ~FSDP() override;

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
  std::shared_ptr<void> whole_parameters() override;
  std::shared_ptr<void> segments() override;
  std::optional<Segment> segment_of(const torch::Tensor& parameter) const override;
  bool saves_whole() const override { return init_.state_dict_type == "full"; }

  Init init_;
  std::unique_ptr<ShardedModule> sharded_;
};

}  // namespace trainer

#pragma once
// Fully sharded data parallel: each rank holds a slice of the parameters, of their gradients and of
// what the optimizer keeps of them. Layers are gathered when operators need them and freed after.
// Choose it for a module that is too large for one rank together with its optimizer; modules,
// configure_optimizers() and the loop stay as they are. Source: Zhao et al. 2023, arXiv:2304.11277;
// Rajbhandari et al. 2020, arXiv:1910.02054 (what ZeRO-1, 2 and 3 are).

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <strategies/comm/device_mesh.h>
#include <strategies/distributed.h>
#include <trainer/core/reflect.h>
#include <trainer/core/registry.h>

namespace trainer {

class DeferredConstruction;
class ShardedModule;
struct ShardingOptions;
struct UnitPlan;

class FSDP : public Distributed, private Sharding {
 public:
  static constexpr const char* kDoc =
      "Every rank holds a slice of the parameters, gradients and optimizer state.";

  struct Init {
    std::string mode = "full_shard";
    std::optional<std::map<std::string, int64_t>> mesh = std::nullopt;
    std::vector<std::string> units = {};
    std::optional<int64_t> min_unit_numel = std::nullopt;
    std::optional<std::string> param_dtype = std::nullopt;
    std::optional<std::string> reduce_dtype = std::nullopt;
    bool reduce_each_batch = true;
    int64_t prefetch = 1;
    std::string intercept = "auto";
    std::string state_dict_type = "sharded";
    bool deferred_construction = false;
    bool cpu_offload = false;

    static constexpr auto fields() {
      using config::field, config::at_least, config::one_of;
      return std::tuple{
          field<&Init::mode>(
              "What is sharded. full_shard: everything (ZeRO-3); shard_grad_op: gradients and "
              "optimizer state, parameters between steps (ZeRO-2); shard_optimizer: its state, "
              "gradients and parameters between steps (ZeRO-1); hybrid_shard: everything within a "
              "node, whose slices each node has; no_shard: nothing.",
              one_of("full_shard", "shard_grad_op", "shard_optimizer", "hybrid_shard", "no_shard")),
          field<&Init::mesh>(
              "Ranks as a grid: {replicate: R, shard: S} gives each line of S ranks the whole "
              "module in slices, R times; unset: what `mode` says."),
          field<&Init::units>(
              "Names of the modules that are gathered as a whole, with * for any text: "
              "[blocks.*]; empty: each child of a ModuleList or Sequential."),
          field<&Init::min_unit_numel>(
              "Instead of names: the smallest modules that have as many elements are units.",
              at_least(1)),
          field<&Init::param_dtype>(
              "In which parameters are gathered and used, while the optimizer updates them as they "
              "are: for trainer.precision bf16-mixed and 16-mixed.",
              one_of("bf16", "fp16", "fp32")),
          field<&Init::reduce_dtype>(
              "In which gradients travel and are averaged; unset: as the optimizer gets them.",
              one_of("bf16", "fp16", "fp32")),
          field<&Init::reduce_each_batch>(
              "Whether gradients are averaged after each batch of an accumulation, which needs no "
              "memory for whole gradients, or once in the end, which needs less communication."),
          field<&Init::prefetch>("Units that are gathered ahead of their use.", at_least(0)),
          field<&Init::intercept>(
              "How operators that use parameters are met. auto: by dispatch key where LibTorch has "
              "it, and not at all on one rank.",
              one_of("auto", "dispatch_key", "observer")),
          field<&Init::state_dict_type>(
              "Checkpoints: sharded, each rank writes its part; full, rank 0 writes those of one "
              "process.",
              one_of("sharded", "full")),
          field<&Init::deferred_construction>("What configure_model() builds has no memory until "
                                              "it is sharded, for a module that is "
                                              "larger than a rank's memory."),
          field<&Init::cpu_offload>(
              "On GPUs: slices of parameters and gradients and the optimizer's state lie in the "
              "memory of the host, where the optimizer works."),
      };
    }
  };

  FSDP() : FSDP(Init{}) {}
  /// Throws ConfigError for settings that exclude each other.
  explicit FSDP(Init init);
  ~FSDP() override;

  std::shared_ptr<void> construction() override;
  /// Shards the module. Throws ConfigError where a setting does not fit it or the ranks.
  /// Collective: yes.
  void setup_module(torch::nn::Module& module) override;
  void teardown_module(torch::nn::Module& module) override;
  Sharding* sharding() override { return sharded_ != nullptr ? this : nullptr; }
  bool shards() const override;
  std::string describe_sharding(const torch::nn::Module& module, int num_ranks) const override;

  /// Between finish_gradient_sync() and the end of optimizer_step() parameters are this rank's
  /// segments of them.
  void zero_gradients(torch::optim::Optimizer& optimizer) override;
  void require_gradient_sync(bool required) override;
  void finish_gradient_sync() override;
  torch::Tensor clip_gradients(torch::optim::Optimizer& optimizer, double max_norm) override;
  /// Evaluates the closure once, before the update. Throws UsageError for LBFGS and LibTorch's own
  /// Adagrad. Collective: yes, for an optimizer that needs whole tensors.
  torch::Tensor optimizer_step(torch::optim::Optimizer& optimizer, const Closure& closure) override;
  void end_step() override;

 private:
  void place(torch::nn::Module& module) override;
  std::shared_ptr<void> whole_parameters() override;
  std::shared_ptr<void> segments() override;
  std::optional<Segment> segment_of(const torch::Tensor& parameter) const override;
  bool writes_parts() const override { return mesh_->axis("replicate").rank() == 0; }
  bool saves_whole() const override { return init_.state_dict_type == "full"; }

  std::vector<UnitPlan> plan_of(const torch::nn::Module& module) const;
  /// {replicate, shard}, for so many ranks on so many nodes.
  DeviceMesh::Axes axes(int num_ranks, int num_nodes) const;
  ShardingOptions options() const;

  void check_nodes(int ranks_of_a_node) const;
  void shard(torch::nn::Module& module);
  void make(torch::Tensor parameter);

  const Init init_;
  std::unique_ptr<DeferredConstruction> deferred_;  // from construction() to setup_module()
  std::unique_ptr<DeviceMesh> mesh_;
  std::unique_ptr<ShardedModule> sharded_;  // null where there is nothing to shard
};

}  // namespace trainer

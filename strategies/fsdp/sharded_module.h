#pragma once
// A module whose parameters are spread over the ranks, each of which keeps a slice: what an
// operator needs is gathered before it and freed when others are needed, in the forward as in the
// backward pass, and gradients are reduced to the slices. The module's code stays as it is.
//
// Every rank calls the same layers in the same order.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/types.h>

#include <strategies/comm/communicator.h>
#include <strategies/fsdp/guarded_storage.h>
#include <strategies/fsdp/sharded_unit.h>

namespace trainer {

/// Which parameters are gathered and freed together.
struct UnitPlan {
  std::string name;
  std::vector<std::pair<std::string, torch::Tensor>> parameters;  // by their names in the module
  bool is_root = false;  // stays gathered from the forward to the end of the backward pass
};

/// Each child of a ModuleList or Sequential is a unit, the outermost ones count; what is left is
/// the root unit.
std::vector<UnitPlan> default_units(const torch::nn::Module& module);

struct ShardingOptions {
  Interception interception = default_interception();
  /// Called with each parameter before its unit takes it: to give it its values, say.
  std::function<void(const torch::Tensor&)> before_sharding = nullptr;
};

class ShardedModule : public ShardedUnit::Owner {
 public:
  /// The parameters' values are equal on all ranks. A tensor that several names share belongs to
  /// where it comes first; units without one are left out, and those of several dtypes become
  /// several. `communicator` must outlive it. Collective: yes.
  ShardedModule(std::vector<UnitPlan> plan, Communicator& communicator,
                ShardingOptions options = {});
  ShardedModule(const ShardedModule&) = delete;
  ShardedModule& operator=(const ShardedModule&) = delete;
  ~ShardedModule() override;

  void before_use(ShardedUnit& unit) override;

  const std::vector<std::unique_ptr<ShardedUnit>>& units() const { return units_; }

  /// Between passes: frees what is gathered.
  void release_all();

  /// Returns when the gradients of all backward passes so far are reduced, and has every rank know
  /// which parameters got one. `numbers` are summed over the ranks on the way. Collective: yes.
  void finish_gradients(std::span<double> numbers);
  /// Makes those of a parameter undefined, of the module or any other.
  void clear_gradient(const torch::Tensor& parameter);

  /// Parameters become this rank's segments of them, with gradients, for an optimizer; and back.
  void show_segments();
  void hide_segments();

  /// Parameters are ordinary tensors again, whole on every rank. Collective: yes.
  void make_whole();

  /// Unit and index of a parameter of the module, nullopt for another tensor.
  std::optional<std::pair<size_t, size_t>> place_of(const torch::Tensor& parameter) const;

  /// The module's parameters whole, on every rank, for as long as it lives: to read, or to write
  /// the same values on all ranks. Collective: yes.
  class WholeParameters {
   public:
    explicit WholeParameters(ShardedModule& module);
    WholeParameters(const WholeParameters&) = delete;
    WholeParameters& operator=(const WholeParameters&) = delete;
    ~WholeParameters();

   private:
    ShardedModule& module_;
  };

 private:
  void free_others(const ShardedUnit& needed);
  void begin_backward();
  void end_backward();
  void abandon_pass();
  void on_gradient(size_t unit, size_t index);
  void start_ready_reductions();
  void start_reduction(ShardedUnit& unit);
  void finish_reduction();

  std::unique_ptr<Communicator> gathers_, reductions_;
  UnitBuffers gather_buffers_{*gathers_}, gradient_buffers_{*reductions_};
  std::vector<std::unique_ptr<ShardedUnit>> units_;
  std::vector<bool> is_root_;
  std::unordered_map<const void*, std::pair<size_t, size_t>> places_;  // of parameters: unit, index
  const ShardedUnit* last_used_ = nullptr;
  size_t next_reduction_ = 0;         // counted from the last unit
  ShardedUnit* under_way_ = nullptr;  // its reduction is
  bool in_backward_ = false;
};

}  // namespace trainer

#pragma once
// A module whose parameters lie in slices on all ranks: units are gathered when an operator needs
// them and freed after, gradients are averaged while the backward pass goes on. The module's code
// stays as it is.
//
// Source: Zhao et al. 2023, "PyTorch FSDP", arXiv:2304.11277; Rajbhandari et al. 2020, "ZeRO",
// arXiv:1910.02054.

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

#include <strategies/comm/communicator.h>
#include <strategies/fsdp/guarded_storage.h>
#include <strategies/fsdp/sharded_unit.h>
#include <strategies/fsdp/unit_plan.h>

namespace trainer {

struct ShardingOptions {
  Interception interception = default_interception();
  bool shares_memory = true;      ///< Where the ranks can, the whole lies in memory once.
  bool frees_in_forward = true;   ///< Else what is gathered stays until gradients are reduced.
  bool reduces_each_pass = true;  ///< Else gradients stay whole until require_reduction(true).
  bool offloads = false;          ///< What the optimizer sees lies in host memory.
  int64_t prefetch = 1;           ///< Units that are gathered ahead of their use.
  /// Of floating-point parameters, in forward and backward passes; unset: as they are.
  std::optional<torch::ScalarType> gathered_dtype = std::nullopt;
  /// In which their gradients travel; unset: as they are without gathered_dtype.
  std::optional<torch::ScalarType> reduced_dtype = std::nullopt;
  /// Called with each parameter before its unit takes it: to give it its values, say.
  std::function<void(const torch::Tensor&)> before_sharding = nullptr;
};

class ShardedModule : public ShardedUnit::Owner {
 public:
  /// The parameters' values are equal on all ranks. A tensor that several names share belongs to
  /// where it comes first; units without one are left out, and those of several dtypes become
  /// several. `shard` are the ranks that have a slice each, `replicas` those that have the same
  /// slice, null where there are none. Collective: yes.
  ShardedModule(std::vector<UnitPlan> plan, Communicator& shard, Communicator* replicas = nullptr,
                ShardingOptions options = {});
  ShardedModule(const ShardedModule&) = delete;
  ShardedModule& operator=(const ShardedModule&) = delete;
  ~ShardedModule() override;

  const std::vector<std::unique_ptr<ShardedUnit>>& units() const { return units_; }

  void before_use(ShardedUnit& unit) override;
  void before_write() override;

  /// Whether the backward passes from now on reduce gradients.
  void require_reduction(bool required) { reduces_ = required || options_.reduces_each_pass; }
  /// Frees what is gathered.
  void release_all();
  /// Returns when the gradients of all backward passes so far are reduced, and has every rank know
  /// which parameters got one. `numbers` are summed over the ranks on the way. Segments have to be
  /// shown next. Collective: yes.
  void finish_gradients(std::span<double> numbers);
  /// Makes those of a parameter undefined, of the module or any other.
  void clear_gradient(const torch::Tensor& parameter);

  /// Parameters become this rank's segments of them, for an optimizer, and back. Collective: yes,
  /// the first one.
  void show_segments();
  void hide_segments();
  bool shows_segments() const { return !units_.empty() && units_.front()->shows_segments(); }

  /// Parameters are ordinary tensors again, whole on every rank, and no unit is left. Collective:
  /// yes.
  void make_whole();

  /// Unit and index of a parameter of the module, nullopt for another tensor.
  std::optional<std::pair<size_t, size_t>> place_of(const torch::Tensor& parameter) const;

  /// While it lives, parameters are ordinary tensors, whole on every rank; writes to them stay.
  /// Collective: yes.
  class WholeParameters {
   public:
    explicit WholeParameters(ShardedModule& module);
    WholeParameters(const WholeParameters&) = delete;
    WholeParameters& operator=(const WholeParameters&) = delete;
    ~WholeParameters();

   private:
    ShardedModule& module_;
    const bool showed_segments_;
  };

 private:
  struct Unit {
    bool is_root = false;
    ShardedUnit* next_in_forward = nullptr;  // what was gathered after it, when it was last
    ShardedUnit* next_in_backward = nullptr;
  };

  void add_unit(UnitPlan plan);
  static void remove_hooks(const ShardedUnit& unit);
  void show_whole();
  void wait_for_updates();
  bool frees(const ShardedUnit& unit) const;
  void free_others(const ShardedUnit& needed);
  void prefetch_after(ShardedUnit& unit);
  void begin_backward();
  void end_backward();
  void abandon_pass();
  void on_gradient(size_t unit, size_t index);
  void make_room();
  void start_ready_reductions();
  void start_reduction(ShardedUnit& unit);
  void finish_reduction();
  void reduce_the_rest();

  const ShardingOptions options_;
  std::unique_ptr<Communicator> gathers_, reductions_, replicas_;
  UnitBuffers gather_buffers_{*gathers_}, gradient_buffers_{*reductions_};
  std::vector<std::unique_ptr<ShardedUnit>> units_;
  std::unordered_map<const ShardedUnit*, Unit> about_;
  std::unordered_map<const void*, std::pair<size_t, size_t>> places_;  // of parameters: unit, index
  bool shares_memory_ = false;
  bool is_current_ = false;  // shared memory: every rank's update is done
  bool is_read_ = false;     // it may be, by other ranks too, since all were at the same place
  ShardedUnit* last_used_ = nullptr;
  size_t next_reduction_ = 0;         // counted from the last unit
  ShardedUnit* under_way_ = nullptr;  // its reduction is
  bool reduces_ = true;
  bool waits_for_room_ = true;  // in this pass
  bool has_unreduced_ = false;  // of passes that did not reduce
  bool in_backward_ = false;
};

}  // namespace trainer

#pragma once
// The gradients of a unit: of its whole parameters as backward passes bring them, and this rank's
// slice of their mean over the ranks.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <strategies/comm/communicator.h>
#include <strategies/fsdp/unit_buffers.h>
#include <strategies/fsdp/unit_layout.h>

namespace trainer {

/// Between whom gradients are averaged.
struct ReductionWays {
  Communicator& shard;      // each rank gets its slice
  Communicator* replicas;   // of ranks that have the same slice; null: there are none
  UnitBuffers& buffers;     // in the memory of `shard`
  torch::ScalarType dtype;  // that they travel in
};

class UnitGradients {
 public:
  using Parameters = std::vector<std::pair<std::string, torch::Tensor>>;  // with their names

  /// The mean is kept in dtype and device of `kept`. References must outlive it.
  UnitGradients(const UnitLayout& layout, const Parameters& parameters, torch::TensorOptions kept,
                ReductionWays ways);

  /// A backward pass begins.
  void begin_pass();
  /// Takes a parameter's gradient of the pass at hand, and adds it to what was not reduced yet.
  /// Throws UsageError for a sparse one.
  void add(size_t index);
  /// Parameters that want one and did not get it in this pass.
  int64_t num_missing() const { return num_missing_; }
  bool wants_any() const;
  bool wants_all() const;
  /// Whether there is memory of the whole: gradients that were not reduced yet.
  bool has_sum() const { return sum_.defined(); }

  /// The mean over the ranks; parameters without a gradient count as zeros. Collective: yes.
  void start_reduction();
  bool reduction_is_done();
  /// Adds it to what this rank's slice has.
  void finish_reduction();
  /// Forgets what was not reduced.
  void drop();

  /// Whether a parameter has one for the optimizer: this rank knows of its own, until it is told.
  bool has(size_t index) const { return states_[index].has; }
  void set_has(size_t index, bool has) { states_[index].has = has; }
  /// This rank's segment of it: [count].
  const torch::Tensor& segment(size_t index) const { return segments_[index]; }
  /// Forgets the mean of a parameter, and that of all with their memory.
  void clear(size_t index);
  void forget();

 private:
  struct State {
    bool is_cleared = true;  // what the mean holds of it does not count
    bool has = false;
    bool is_in_sum = false;  // since the last reduction
    bool arrived = false;    // in this pass
  };

  void take_sum();
  bool can_receive() const;
  torch::Tensor received() const { return reduced_.defined() ? reduced_ : mean_; }
  void go_on_to_replicas();

  const UnitLayout& layout_;
  const Parameters& parameters_;
  const torch::TensorOptions kept_;
  const ReductionWays ways_;
  std::vector<State> states_;
  torch::Tensor sum_;                    // of the whole, since the last reduction
  torch::Tensor mean_;                   // this rank's slice
  std::vector<torch::Tensor> segments_;  // of it, for each parameter
  torch::Tensor reduced_;                // what comes, where it cannot come into the mean
  Work work_;
  bool is_at_replicas_ = false;
  int64_t num_missing_ = 0;
};

}  // namespace trainer

#pragma once
// A group of parameters that are gathered and freed together. One storage holds them one after the
// other; of it each rank keeps an equal slice, and the whole is there only while operators need it.
// Source: Zhao et al. 2023, arXiv:2304.11277, sec. 4.2 (FlatParameter).

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <strategies/comm/buffer_pool.h>
#include <strategies/comm/communicator.h>
#include <strategies/fsdp/guarded_storage.h>

namespace trainer {

/// Buffers for whole units, in memory where the communicator's operations need no copy.
class UnitBuffers {
 public:
  explicit UnitBuffers(Communicator& communicator)
      : pool_([&](int64_t bytes) { return communicator.empty({bytes}, torch::kUInt8); }) {}
  torch::Tensor take(int64_t numel, torch::ScalarType dtype);
  void give_back(const torch::Tensor& buffer);

 private:
  BufferPool pool_;
};

class ShardedUnit : public GuardedStorage {
 public:
  struct Parameter {
    std::string name;
    torch::Tensor tensor;  // the module's
    std::vector<int64_t> sizes;
    int64_t begin = 0, numel = 0;
    bool is_cleared = true;     // what the slice of gradients holds of it does not count
    bool has_gradient = false;  // for the optimizer
    bool got_gradient = false;  // in the backward pass at hand, on this rank
  };
  /// What it asks for before operators touch it.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void before_use(ShardedUnit& unit) = 0;
  };

  /// Takes the parameters' values, equal on all ranks and of one dtype, and makes them views of the
  /// unit. References must outlive it.
  ShardedUnit(std::string name,
              const std::vector<std::pair<std::string, torch::Tensor>>& parameters,
              Communicator& gathers, Communicator& reductions, UnitBuffers& gather_buffers,
              UnitBuffers& gradient_buffers, Owner& owner, Interception way);

  const std::string& name() const { return name_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  std::vector<Parameter>& parameters() { return parameters_; }
  /// Elements of the whole unit, with padding, and of this rank's slice.
  int64_t numel() const { return numel_; }
  int64_t shard_numel() const { return shard_.numel(); }
  torch::ScalarType dtype() const { return shard_.scalar_type(); }

  bool is_gathered() const { return has_contents(); }
  /// Throws UsageError where a parameter has left the unit. Collective: yes.
  void start_gather();
  void finish_gather();
  /// Frees the whole; keeps this rank's slice of what was written to it.
  void release();

  /// A backward pass begins.
  void begin_pass();
  /// Adds a parameter's gradient to those of the backward pass at hand.
  void add_gradient(size_t index);
  /// Parameters that want one and did not get it in this pass.
  int64_t num_missing() const { return num_missing_; }
  bool wants_gradients() const;
  /// The mean over the ranks of the gradients of this pass; parameters without count as zeros.
  /// Collective: yes.
  void start_reduction();
  bool reduction_is_done() { return reduction_.is_done(); }
  /// Adds it to what this rank's slice has.
  void finish_reduction();
  /// Forgets the pass at hand.
  void drop_gradients();
  /// Forgets a parameter's gradient of all passes.
  void clear_gradient(size_t index);

  /// Parameters become this rank's one-dimensional segments of them, with gradients, which an
  /// optimizer can update; and back.
  void show_segments();
  void hide_segments();
  bool shows_segments() const { return shows_segments_; }
  /// Parameters become ordinary tensors, whole on every rank; and back, with what was written to
  /// them. Collective: yes, the first one.
  void show_plain();
  void hide_plain();
  /// Elements of this rank's segment of a parameter, and where they begin in it.
  std::pair<int64_t, int64_t> place_of_segment(size_t index) const;

 private:
  void touch(bool writes) override;
  torch::Tensor segment_in(const torch::Tensor& slice, const Parameter& parameter) const;
  void show_views();
  void check_place(const Parameter& parameter) const;
  std::pair<int64_t, int64_t> segment(const Parameter& parameter) const;

  const std::string name_;
  const std::string freed_message_;
  const int64_t tag_;  // of its gathers
  std::vector<Parameter> parameters_;
  Communicator& gathers_;
  Communicator& reductions_;
  UnitBuffers& gather_buffers_;
  UnitBuffers& gradient_buffers_;
  Owner& owner_;
  int64_t numel_ = 0;
  torch::Tensor shard_;           // this rank's slice
  torch::Tensor shard_gradient_;  // the mean over the ranks, where a parameter has one
  torch::Tensor buffer_;          // the whole, while it is there or on its way
  Work gather_;
  torch::Tensor gradient_;  // of the whole, in the backward pass at hand
  torch::Tensor reduced_;   // of this pass, where earlier ones left a gradient
  torch::Tensor plain_;
  Work reduction_;
  int64_t num_missing_ = 0;
  bool was_written_ = false;
  bool shows_segments_ = false;
};

}  // namespace trainer

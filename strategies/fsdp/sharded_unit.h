#pragma once
// Parameters that are gathered and freed together. Each rank holds an equal slice of them, and a
// slice of their gradients.
//
// Where the ranks share memory, the whole lies in it once for all of them: gathering it copies
// nothing, it takes that every rank's update is done.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <strategies/comm/communicator.h>
#include <strategies/fsdp/guarded_storage.h>
#include <strategies/fsdp/unit_buffers.h>
#include <strategies/fsdp/unit_gradients.h>
#include <strategies/fsdp/unit_layout.h>

namespace trainer {

class ShardedUnit : public GuardedStorage {
 public:
  /// Who sees to it that ranks do the same at the same time.
  class Owner {
   public:
    virtual ~Owner() = default;
    /// Before each operator that takes a parameter.
    virtual void before_use(ShardedUnit& unit) = 0;
    /// Before this rank writes to memory that the others may be reading. Collective: yes.
    virtual void before_write() = 0;
  };

  /// Parameters with their names, of one dtype and with equal values on all ranks; they become
  /// views of the unit. They are gathered in `gathered_dtype`; where they are shared in memory, if
  /// `shares_memory` and the ranks can. References must outlive it. Collective: yes.
  struct Init {
    std::string name;
    UnitGradients::Parameters parameters;
    Communicator& gathers;
    UnitBuffers& buffers;
    ReductionWays reductions;
    torch::ScalarType gathered_dtype;
    Interception interception;
    bool shares_memory;
    bool offloads;  // slices that an optimizer updates lie in host memory
    Owner& owner;
  };
  explicit ShardedUnit(Init init);

  const std::string& name() const { return name_; }
  const UnitGradients::Parameters& parameters() const { return parameters_; }
  const UnitLayout& layout() const { return layout_; }
  UnitGradients& gradients() { return gradients_; }
  bool shares_memory() const { return shared_.defined(); }

  /// Throws UsageError where a parameter has left the unit.
  void check_place(size_t index) const;
  void check_places() const;
  bool is_gathered() const { return has_contents(); }
  bool is_under_way() const { return buffer_.defined() && !has_contents(); }
  /// Throws UsageError as check_places(). Collective: yes, without shared memory.
  void start_gather();
  void finish_gather();
  /// Frees the whole; keeps this rank's slice of what was written to it. Shared memory stays.
  void release();
  /// Has others see what this rank's slice became. Collective: no.
  void refresh();

  /// Parameters become this rank's one-dimensional segments of them, with gradients, which an
  /// optimizer can update; and back.
  void show_segments();
  void hide_segments();
  bool shows_segments() const { return shows_segments_; }
  /// Parameters become ordinary tensors, whole on every rank; and back, with what was written to
  /// them. Collective: yes, the first one.
  void show_plain();
  void hide_plain();

 private:
  void touch(bool writes) override;
  void make_private();
  void write_back();
  void show_views();

  const std::string name_;
  const std::string freed_message_;
  const int64_t tag_;                  // of its gathers
  const torch::TensorOptions master_;  // of what an optimizer sees
  const UnitGradients::Parameters parameters_;
  const UnitLayout layout_;
  const torch::ScalarType gathered_dtype_;
  Communicator& gathers_;
  UnitBuffers& buffers_;
  Owner& owner_;
  UnitGradients gradients_;
  torch::Tensor shared_;                         // the whole, of all ranks
  torch::Tensor shard_;                          // this rank's slice, which the optimizer updates
  torch::Tensor own_;                            // the same as others get it
  std::vector<torch::Tensor> views_, segments_;  // of each parameter, in the storage and in shard_
  torch::Tensor buffer_;  // the whole of this rank alone, while it is there or on its way
  Work gather_;
  torch::Tensor plain_;
  bool is_stale_ = true;  // own_ is older than shard_
  bool was_written_ = false;
  bool shows_segments_ = false;
};

}  // namespace trainer

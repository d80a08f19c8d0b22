#pragma once
// For an optimizer that needs more of a sharded parameter than this rank's segment of it.

#include <cstdint>
#include <vector>

#include <strategies/comm/communicator.h>
#include <strategies/fsdp/sharded_module.h>
#include <trainer/core/segment.h>
#include <trainer/optim/whole_tensors.h>

namespace trainer {

class ShardedTensors : public WholeTensors {
 public:
  /// `shard` are the ranks that have a slice of `module` each. Both must outlive it.
  ShardedTensors(const ShardedModule& module, Communicator& shard)
      : module_(module), shard_(shard) {}

  /// Throws UsageError for a parameter that is not the module's.
  std::vector<int64_t> sizes(const torch::Tensor& parameter) const override;
  void sum(const torch::Tensor& values) const override { shard_.all_reduce(values); }
  /// The ranks change as many tensors at the same time as they are. Throws UsageError as sizes().
  void change_each(const Tensors& parameters, const Tensors& tensors, const Change& change,
                   const Take& take) const override;

 private:
  /// What every rank has of a parameter, in their order.
  std::vector<Segment> segments_of(const torch::Tensor& parameter) const;

  const ShardedModule& module_;
  Communicator& shard_;
};

}  // namespace trainer

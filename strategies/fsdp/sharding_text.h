#pragma once
// What `trainer describe-sharding` shows of a sharded module.

#include <string>
#include <vector>

#include <strategies/fsdp/sharded_module.h>
#include <strategies/fsdp/unit_plan.h>

namespace trainer {

/// A table of the units with their sizes, and the bytes that a rank of `shards` times `replicas`
/// needs for parameters, gradients and an optimizer with two numbers for each element (AdamW).
std::string describe_sharding(const std::vector<UnitPlan>& plan, int replicas, int shards,
                              const ShardingOptions& options);

}  // namespace trainer

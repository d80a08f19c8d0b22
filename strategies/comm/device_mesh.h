#pragma once
// Ranks as a grid with named axes, the last of which counts fastest: of {replicate: 2, shard: 3}
// ranks 0, 1, 2 lie along one line of `shard`, ranks 0 and 3 along one of `replicate`.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <strategies/comm/communicator.h>

namespace trainer {

class DeviceMesh {
 public:
  using Axes = std::vector<std::pair<std::string, int>>;

  /// Throws ConfigError where an axis has no ranks, or they do not multiply to `num_ranks`.
  static void check(const Axes& axes, int num_ranks);

  /// Throws as check(). Collective: yes.
  DeviceMesh(Communicator& all, Axes axes);

  /// Of the ranks that differ from this one along this axis only, in their order. Throws UsageError
  /// for a name that no axis has.
  Communicator& axis(const std::string& name) const;

 private:
  const Axes axes_;
  std::vector<std::unique_ptr<Communicator>> lines_;  // of each axis, the one through this rank
};

}  // namespace trainer

#pragma once
// The cores of this computer that a process may use, and how processes share them.

#include <cstddef>
#include <string>
#include <vector>

namespace trainer {

/// One core, as the numbers of its hardware threads.
using Core = std::vector<int>;

/// Those in the affinity mask of this thread, in the order of their numbers. Where the system does
/// not tell which hardware threads make a core, each counts as one.
std::vector<Core> allowed_cores();

/// The part of process `index` of `count`: neighbours, of sizes that differ by one at most. Empty
/// where there are fewer cores than processes.
std::vector<Core> share_of(const std::vector<Core>& cores, size_t index, size_t count);

/// Keeps this thread, and those that it starts, on these cores. Does nothing where the system
/// refuses: it costs speed only.
void bind_to(const std::vector<Core>& cores);

/// "0,1,4".
std::string to_string(const std::vector<Core>& cores);

}  // namespace trainer

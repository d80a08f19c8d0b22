#pragma once
// A part of a tensor whose elements are spread over several ranks, or over several files.

#include <cstdint>
#include <vector>

namespace trainer {

/// Of a dense tensor of these sizes, all its elements one after the other, `count` from `first` on.
struct Segment {
  std::vector<int64_t> sizes;
  int64_t first = 0;
  int64_t count = 0;
};

}  // namespace trainer

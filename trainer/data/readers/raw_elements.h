#pragma once
// Array elements as files store them, one after another, turned into a tensor. Shared by
// the readers whose files are a header and such a block (IDX, NPY).

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <torch/types.h>

#include <trainer/core/filesystem.h>

namespace trainer::data {

/// What a header says about the elements that follow it.
struct ElementLayout {
  torch::Dtype dtype = torch::kFloat32;
  std::vector<int64_t> shape = {};  ///< No negative size.
  bool fortran_order = false;       ///< The first dimension varies fastest.
  bool big_endian = false;
};

/// The elements of `file` (the content of `path`, for messages) from byte `offset` to its end, as a
/// contiguous tensor of their own memory.
///
/// Throws: DataError where the file does not hold exactly the elements of `layout`, the shape is
///         larger than a tensor can be, or a bool is neither 0 nor 1. Messages count records from
///         1, along the dimension that varies slowest.
torch::Tensor tensor_from_elements(const fs::Path& path, std::span<const std::byte> file,
                                   size_t offset, const ElementLayout& layout);

}  // namespace trainer::data

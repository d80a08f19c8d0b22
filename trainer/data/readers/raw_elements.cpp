#include <trainer/data/readers/raw_elements.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/error.h>

namespace trainer::data {
namespace {

constexpr size_t kMaxDims = 64;  // what LibTorch's reductions take

/// Bytes of the elements, or nothing where they, or the strides of such a tensor, exceed 63 bits.
std::optional<int64_t> checked_size_bytes(const ElementLayout& layout) {
  auto stride = static_cast<int64_t>(torch::elementSize(layout.dtype));
  bool is_empty = false;
  for (const int64_t size : layout.shape) {
    is_empty = is_empty || size == 0;
    // LibTorch strides over an empty dimension as if it were 1.
    if (__builtin_mul_overflow(stride, std::max<int64_t>(size, 1), &stride)) {
      return std::nullopt;
    }
  }
  return is_empty ? 0 : stride;
}

int64_t num_records(const ElementLayout& layout) {
  if (layout.shape.empty()) {
    return 1;
  }
  return layout.fortran_order ? layout.shape.back() : layout.shape.front();
}

/// Throws unless the file holds `expected` bytes from `offset` on.
void require_size(const fs::Path& path, size_t offset, int64_t found, int64_t expected,
                  const ElementLayout& layout) {
  if (found == expected) {
    return;
  }
  const auto what = fmt::format(
      "{}: byte {}: shape [{}] of {}-byte elements takes {} bytes from here, the file holds {}",
      path.string(), offset, fmt::join(layout.shape, ", "), torch::elementSize(layout.dtype),
      expected, found);
  if (found > expected) {
    throw DataError(fmt::format(
        "{}: {} too many.\n  Its header or its content is damaged: make or download it again.",
        what, found - expected));
  }
  const int64_t records = num_records(layout);
  throw DataError(fmt::format(
      "{}: record {} of {} is incomplete.\n  The file is cut: copy or download it again.", what,
      found / (expected / records) + 1, records));
}

void require_bools(const fs::Path& path, size_t offset, std::span<const std::byte> elements,
                   const ElementLayout& layout) {
  const auto bad =
      std::find_if(elements.begin(), elements.end(), [](std::byte b) { return b > std::byte{1}; });
  if (bad == elements.end()) {
    return;
  }
  const auto index = static_cast<size_t>(bad - elements.begin());
  const auto records = static_cast<size_t>(num_records(layout));
  throw DataError(
      fmt::format("{}: byte {}: record {} of {}: a bool is {}, neither 0 nor 1.\n"
                  "  The file or its dtype is damaged: make or download it again.",
                  path.string(), offset + index, index / (elements.size() / records) + 1, records,
                  static_cast<int>(*bad)));
}

template <size_t kUnitBytes>
void reverse_units(std::byte* data, size_t size_bytes) {
  for (size_t i = 0; i < size_bytes; i += kUnitBytes) {
    std::reverse(data + i, data + i + kUnitBytes);
  }
}

/// The two parts of a complex number are swapped each for itself.
void swap_byte_order(torch::Tensor& tensor) {
  auto* data = static_cast<std::byte*>(tensor.data_ptr());
  switch (tensor.element_size() / (tensor.is_complex() ? 2 : 1)) {
    case 2: return reverse_units<2>(data, tensor.nbytes());
    case 4: return reverse_units<4>(data, tensor.nbytes());
    case 8: return reverse_units<8>(data, tensor.nbytes());
    default: return;
  }
}

/// Fortran order is C order of the transpose.
torch::Tensor empty_tensor_stored_as(const ElementLayout& layout) {
  auto shape = layout.shape;
  if (layout.fortran_order) {
    std::reverse(shape.begin(), shape.end());
  }
  return torch::empty(shape, layout.dtype);
}

torch::Tensor transposed(const torch::Tensor& tensor) {
  std::vector<int64_t> dims(static_cast<size_t>(tensor.dim()));
  std::iota(dims.rbegin(), dims.rend(), 0);
  return tensor.permute(dims).contiguous();
}

}  // namespace

torch::Tensor tensor_from_elements(const fs::Path& path, std::span<const std::byte> file,
                                   size_t offset, const ElementLayout& layout) {
  const auto size_bytes = checked_size_bytes(layout);
  if (!size_bytes || layout.shape.size() > kMaxDims) {
    throw DataError(fmt::format(
        "{}: shape [{}] in its header is larger than a tensor can be ({} dimensions, 2^63 bytes).\n"
        "  The header is damaged: make or download the file again.",
        path.string(), fmt::join(layout.shape, ", "), kMaxDims));
  }
  const auto elements = file.subspan(offset);
  require_size(path, offset, static_cast<int64_t>(elements.size()), *size_bytes, layout);
  if (layout.dtype == torch::kBool) {
    require_bools(path, offset, elements, layout);
  }
  auto tensor = empty_tensor_stored_as(layout);
  if (!elements.empty()) {
    std::memcpy(tensor.data_ptr(), elements.data(), elements.size());
  }
  if (layout.big_endian != (std::endian::native == std::endian::big)) {
    swap_byte_order(tensor);
  }
  return layout.fortran_order ? transposed(tensor) : tensor;
}

}  // namespace trainer::data

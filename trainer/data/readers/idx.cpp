#include <trainer/data/readers/idx.h>

#include <span>
#include <string>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/data/readers/raw_elements.h>

namespace trainer::data {
namespace {

constexpr size_t kMagicBytes = 4;
constexpr size_t kDimBytes = 4;

[[noreturn]] void fail(const fs::Path& path, size_t offset, const std::string& what) {
  throw DataError(
      fmt::format("{}: byte {}: {}.\n  This is no IDX file, or it is damaged: download it again.",
                  path.string(), offset, what));
}

torch::Dtype dtype_of(const fs::Path& path, uint8_t code) {
  switch (code) {
    case 0x08: return torch::kUInt8;
    case 0x09: return torch::kInt8;
    case 0x0B: return torch::kInt16;
    case 0x0C: return torch::kInt32;
    case 0x0D: return torch::kFloat32;
    case 0x0E: return torch::kFloat64;
    default:
      fail(path, 2, fmt::format("the type code is 0x{:02x}, not one of 08 09 0b 0c 0d 0e", code));
  }
}

}  // namespace

torch::Tensor read_idx(const fs::Path& path, uint64_t max_bytes) {
  const std::string content = read_maybe_gzip(path, max_bytes);
  const auto byte = [&](size_t offset) { return static_cast<uint8_t>(content[offset]); };
  if (content.size() < kMagicBytes) {
    fail(path, content.size(),
         fmt::format("the file ends inside the {} bytes of its magic number", kMagicBytes));
  }
  if (byte(0) != 0 || byte(1) != 0) {
    fail(path, 0,
         fmt::format("the magic number starts with {:02x} {:02x}, not 00 00", byte(0), byte(1)));
  }
  ElementLayout layout{.dtype = dtype_of(path, byte(2)), .big_endian = true};
  const size_t num_dims = byte(3);
  if (num_dims == 0) {
    fail(path, 3, "the number of dimensions is 0");
  }
  const size_t data_offset = kMagicBytes + num_dims * kDimBytes;
  if (content.size() < data_offset) {
    fail(path, content.size(),
         fmt::format("the file ends inside the sizes of its {} dimensions", num_dims));
  }
  for (size_t at = kMagicBytes; at < data_offset; at += kDimBytes) {
    layout.shape.push_back(int64_t{byte(at)} << 24 | int64_t{byte(at + 1)} << 16 |
                           int64_t{byte(at + 2)} << 8 | int64_t{byte(at + 3)});
  }
  return tensor_from_elements(path, std::as_bytes(std::span(content)), data_offset, layout);
}

}  // namespace trainer::data

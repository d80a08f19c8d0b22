#include <trainer/data/readers/npy.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/error.h>
#include <trainer/data/readers/raw_elements.h>

namespace trainer::data {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kVersionOneHeaderOffset = 10;  // magic, version, 16-bit header size
constexpr size_t kVersionTwoHeaderOffset = 12;  // the same with 32 bits
constexpr size_t kAlignment = 64;               // of the data, as NumPy writes it

struct NamedDtype {
  std::string_view name;
  torch::Dtype dtype;
};
constexpr std::array kDtypes = {
    NamedDtype{"b1", torch::kBool},         NamedDtype{"i1", torch::kInt8},
    NamedDtype{"i2", torch::kInt16},        NamedDtype{"i4", torch::kInt32},
    NamedDtype{"i8", torch::kInt64},        NamedDtype{"u1", torch::kUInt8},
    NamedDtype{"u2", torch::kUInt16},       NamedDtype{"u4", torch::kUInt32},
    NamedDtype{"u8", torch::kUInt64},       NamedDtype{"f2", torch::kFloat16},
    NamedDtype{"f4", torch::kFloat32},      NamedDtype{"f8", torch::kFloat64},
    NamedDtype{"c8", torch::kComplexFloat}, NamedDtype{"c16", torch::kComplexDouble},
};

struct NpyHeader {
  std::string_view descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

[[noreturn]] void fail(const fs::Path& path, size_t offset, std::string_view what,
                       std::string_view fix) {
  throw DataError(fmt::format("{}: byte {}: {}.\n  {}", path.string(), offset, what, fix));
}

constexpr std::string_view kMakeAgain =
    "This is no NPY file, or it is damaged: make or download it again.";

/// Reads the header's text, a Python dictionary of exactly descr, fortran_order and shape, e.g.
/// {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderParser {
 public:
  HeaderParser(const fs::Path& path, std::string_view text, size_t offset_in_file)
      : path_(path), text_(text), offset_in_file_(offset_in_file) {}

  NpyHeader parse() {
    std::optional<std::string_view> descr;
    std::optional<bool> fortran_order;
    std::optional<std::vector<int64_t>> shape;
    expect("{");
    do {
      const std::string_view key = string();
      expect(":");
      if (key == "descr" && !descr) {
        descr = string();
      } else if (key == "fortran_order" && !fortran_order) {
        fortran_order = boolean();
      } else if (key == "shape" && !shape) {
        shape = tuple();
      } else {
        at_ = static_cast<size_t>(key.data() - text_.data());
        fail_here("a key that is repeated or not one of 'descr', 'fortran_order', 'shape'");
      }
    } while (accept(",") && !next_is("}"));
    expect("}");
    skip_space();
    if (at_ != text_.size()) {
      fail_here("something after the header's '}'");
    }
    if (!descr || !fortran_order || !shape) {
      fail_here("'descr', 'fortran_order' or 'shape' is missing from the header");
    }
    return {*descr, *fortran_order, *std::move(shape)};
  }

 private:
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \n", at_), text_.size()); }

  bool next_is(std::string_view token) {
    skip_space();
    return text_.substr(at_).starts_with(token);
  }

  bool accept(std::string_view token) {
    const bool found = next_is(token);
    at_ += found ? token.size() : 0;
    return found;
  }

  void expect(std::string_view token) {
    if (!accept(token)) {
      fail_here(fmt::format("the header should go on with {}", token));
    }
  }

  std::string_view string() {
    if (next_is("[")) {
      fail(path_, offset_in_file_ + at_, "the array has a structured dtype (named fields)",
           "Save each field as an array of its own: numpy.save('x.npy', array['x']).");
    }
    const std::string_view quote = next_is("\"") ? "\"" : "'";
    expect(quote);
    const size_t end = text_.find_first_of("'\"\\\n", at_);
    if (end == std::string_view::npos || text_[end] != quote[0]) {
      fail_here("a string without its end");
    }
    const std::string_view content = text_.substr(at_, end - at_);
    at_ = end + 1;
    return content;
  }

  bool boolean() {
    if (accept("True")) {
      return true;
    }
    expect("False");
    return false;
  }

  std::vector<int64_t> tuple() {
    std::vector<int64_t> sizes;
    expect("(");
    while (!next_is(")")) {
      sizes.push_back(size());
      if (!accept(",")) {
        if (sizes.size() == 1) {
          fail_here("a shape of one dimension without its comma, as in (3,)");
        }
        break;
      }
    }
    expect(")");
    return sizes;
  }

  int64_t size() {
    int64_t value = 0;
    const auto [end, error] =
        std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (error != std::errc() || value < 0) {
      fail_here("a dimension that is no number from 0 to 2^63 - 1");
    }
    at_ = static_cast<size_t>(end - text_.data());
    return value;
  }

  [[noreturn]] void fail_here(std::string_view what) const {
    fail(path_, offset_in_file_ + at_, what, kMakeAgain);
  }

  const fs::Path& path_;
  std::string_view text_;
  size_t offset_in_file_;
  size_t at_ = 0;
};

ElementLayout layout_of(const fs::Path& path, const NpyHeader& header, size_t descr_offset) {
  const std::string_view order = header.descr.substr(0, 1);
  const std::string_view name = header.descr.substr(order.size());
  if (name.starts_with('O')) {
    fail(path, descr_offset,
         fmt::format("the array holds Python objects (dtype '{}')", header.descr),
         "Reading them needs pickle, which can run any code: save numbers, as "
         "array.astype('float32').");
  }
  const auto* found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& d) { return d.name == name; });
  const bool is_byte = name.ends_with('1');
  if (found == kDtypes.end() || !(order == "<" || order == ">" || (order == "|" && is_byte))) {
    fail(path, descr_offset, fmt::format("dtype '{}' is not supported", header.descr),
         "Save the array as bool, int, uint, float or complex numbers, e.g. "
         "array.astype('float32').");
  }
  return {.dtype = found->dtype,
          .shape = header.shape,
          .fortran_order = header.fortran_order,
          .big_endian = order == ">"};
}

std::string_view header_text(const fs::Path& path, std::string_view file) {
  if (file.size() < kVersionOneHeaderOffset || !file.starts_with(kMagic)) {
    fail(path, 0, "the file does not start with the magic number of NPY", kMakeAgain);
  }
  const auto byte = [&](size_t at) { return size_t{static_cast<uint8_t>(file[at])}; };
  const size_t major = byte(6);
  const size_t minor = byte(7);
  if (major < 1 || major > 3 || minor != 0) {
    fail(path, 6, fmt::format("format version {}.{}, not one of 1.0, 2.0, 3.0", major, minor),
         kMakeAgain);
  }
  const size_t offset = major == 1 ? kVersionOneHeaderOffset : kVersionTwoHeaderOffset;
  size_t size = byte(8) | byte(9) << 8;
  if (major > 1 && file.size() >= offset) {
    size |= byte(10) << 16 | byte(11) << 24;
  }
  if (file.size() < offset || file.size() - offset < size) {
    fail(path, file.size(), fmt::format("the file ends inside its header of {} bytes", size),
         kMakeAgain);
  }
  return file.substr(offset, size);
}

std::string_view descr_of(torch::Dtype dtype) {
  const auto* found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& d) { return d.dtype == dtype; });
  if (found == kDtypes.end()) {
    throw UsageError(
        fmt::format("write_npy: NumPy has no dtype for {}. Convert the tensor, e.g. with "
                    "tensor.to(torch::kFloat32).",
                    torch::toString(dtype)));
  }
  return found->name;
}

/// Magic, version, size and dictionary, padded so that the data is aligned.
std::string header_of(const torch::Tensor& tensor) {
  const char order = tensor.element_size() == 1                   ? '|'
                     : std::endian::native == std::endian::little ? '<'
                                                                  : '>';
  std::string text = fmt::format("{{'descr': '{}{}', 'fortran_order': False, 'shape': ({}{}), }}",
                                 order, descr_of(tensor.scalar_type()),
                                 fmt::join(tensor.sizes(), ", "), tensor.dim() == 1 ? "," : "");
  const size_t unpadded = kVersionOneHeaderOffset + text.size() + 1;
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  text += '\n';
  std::string header(kMagic);
  header += '\x01';
  header += '\x00';
  header += static_cast<char>(text.size() & 0xff);
  header += static_cast<char>(text.size() >> 8);
  return header + text;
}

}  // namespace

torch::Tensor read_npy(const fs::Path& path) {
  const fs::MappedFile mapped(path);
  const std::string_view file(reinterpret_cast<const char*>(mapped.bytes().data()),
                              mapped.bytes().size());
  const std::string_view text = header_text(path, file);
  const auto text_offset = static_cast<size_t>(text.data() - file.data());
  const NpyHeader header = HeaderParser(path, text, text_offset).parse();
  const auto descr_offset = static_cast<size_t>(header.descr.data() - file.data());
  const ElementLayout layout = layout_of(path, header, descr_offset);
  return tensor_from_elements(path, mapped.bytes(), text_offset + text.size(), layout);
}

void write_npy(const fs::Path& path, const torch::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != torch::kStrided || tensor.is_meta()) {
    throw UsageError(
        "write_npy: the tensor is undefined, sparse or on the meta device. Give a dense one with "
        "values.");
  }
  const auto dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous();
  const std::string header = header_of(dense);
  fs::write_atomically(path, [&](fs::OutputFile& file) {
    file.write(header);
    file.write(dense.data_ptr(), dense.nbytes());
  });
}

}  // namespace trainer::data

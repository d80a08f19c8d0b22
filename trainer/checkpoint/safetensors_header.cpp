#include <trainer/checkpoint/safetensors_header.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <limits>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>

namespace trainer::safetensors::detail {

std::string dtype_names() {
  std::string names;
  for (const Dtype& dtype : kDtypes) {
    names += names.empty() ? "" : ", ";
    names += dtype.name;
  }
  return names;
}

std::string shown(std::string_view text) {
  constexpr size_t kMaxShown = 80;
  const bool cut = text.size() > kMaxShown;
  return nlohmann::json(text.substr(0, kMaxShown))
             .dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) +
         (cut ? "..." : "");
}

void damaged(const fs::Path& path, uint64_t offset, std::string_view what) {
  throw CheckpointError(fmt::format(
      "{}: damaged at byte {}: {}.\n  Copy or download the file again, or load another checkpoint "
      "(--ckpt_path=last chooses the newest complete one).",
      path.string(), offset, what));
}

namespace {

constexpr std::array<std::string_view, 3> kFields = {"dtype", "shape", "data_offsets"};

/// Bytes of a dense tensor. Nothing when they, or the strides that LibTorch makes (which count an
/// empty dimension as one), exceed 63 bits.
std::optional<uint64_t> dense_bytes(std::span<const uint64_t> shape, uint64_t element_bytes) {
  uint64_t extent = element_bytes;
  bool is_empty = false;
  for (const uint64_t size : shape) {
    is_empty = is_empty || size == 0;
    if (__builtin_mul_overflow(extent, std::max<uint64_t>(size, 1), &extent) ||
        extent > uint64_t{std::numeric_limits<int64_t>::max()}) {
      return std::nullopt;
    }
  }
  return is_empty ? 0 : extent;
}

/// Walks the header and keeps its place in `reached`, because SAX events do not say where they are.
struct Cursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char& operator*() const { return *at; }
  Cursor& operator++() {
    *reached = ++at;
    return *this;
  }
  bool operator==(const Cursor& other) const { return at == other.at; }

  const char* at;
  const char** reached;
};

/// Takes the header event by event, so that nothing larger or deeper than the format allows is ever
/// built.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const fs::Path& path, std::string_view text, uint64_t data_bytes)
      : path_(path), text_(text), data_bytes_(data_bytes), reached_(text.data()) {}

  Header read() {
    const char* end = text_.data() + text_.size();
    nlohmann::json::sax_parse(Cursor{text_.data(), &reached_}, Cursor{end, &reached_}, this);
    return std::move(header_);
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    unexpected("a number with a fraction or beyond 64 bits");
  }
  bool binary(binary_t&) override { unexpected("binary"); }

  bool number_unsigned(number_unsigned_t number) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) {
      unexpected("a number");
    }
    std::vector<uint64_t>& list = place_ == Place::kShape ? shape_ : offsets_;
    const size_t limit = place_ == Place::kShape ? kMaxDimensions : 2;
    if (list.size() == limit) {
      damaged_here(fmt::format("tensor {} has more than {} numbers in {}", shown(name_), limit,
                               fields_.back()));
    }
    list.push_back(number);
    return true;
  }

  bool string(string_t& text) override {
    if (place_ == Place::kMetadata) {
      header_.metadata[metadata_key_] = std::move(text);
    } else if (place_ == Place::kTensor && fields_.back() == "dtype") {
      dtype_ = std::find_if(kDtypes.begin(), kDtypes.end(),
                            [&](const Dtype& known) { return known.name == text; });
      if (dtype_ == kDtypes.end()) {
        damaged_here(fmt::format("tensor {} has dtype {}, which is none of {}", shown(name_),
                                 shown(text), dtype_names()));
      }
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart: place_ = Place::kHeader; break;
      case Place::kHeader:
        place_ = name_ == kMetadataKey ? Place::kMetadata : Place::kTensor;
        break;
      default: unexpected("an object");
    }
    fields_.clear();
    shape_.clear();
    offsets_.clear();
    return true;
  }

  bool key(string_t& text) override {
    if (place_ == Place::kHeader) {
      name_ = std::move(text);
      if (header_.infos.contains(name_) ||
          (name_ == kMetadataKey && std::exchange(has_metadata_, true))) {
        damaged_here(fmt::format("the header names {} twice", shown(name_)));
      }
    } else if (place_ == Place::kMetadata) {
      metadata_key_ = std::move(text);
      if (header_.metadata.contains(metadata_key_)) {
        damaged_here(fmt::format("the metadata names {} twice", shown(metadata_key_)));
      }
    } else {
      start_field(text);
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      finish_tensor();
    }
    place_ = Place::kHeader;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || fields_.back() == "dtype") {
      unexpected("a list");
    }
    place_ = fields_.back() == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::json::exception&) override {
    damaged_here("the header is not UTF-8 JSON");
  }

 private:
  enum class Place { kStart, kHeader, kMetadata, kTensor, kShape, kOffsets };

  [[noreturn]] void damaged_here(std::string_view what) const {
    damaged(path_, kLengthBytes + static_cast<uint64_t>(reached_ - text_.data()), what);
  }

  [[noreturn]] void unexpected(std::string_view found) const {
    switch (place_) {
      case Place::kHeader:
        damaged_here(fmt::format("the entry of {} is {}, not an object", shown(name_), found));
      case Place::kMetadata:
        damaged_here(fmt::format("metadata {} is {}, not a string", shown(metadata_key_), found));
      default: break;
    }
    damaged_here(fmt::format("{} of tensor {} is {}, not {}", fields_.back(), shown(name_), found,
                             fields_.back() == "dtype" ? "a string" : "a list of whole numbers"));
  }

  void start_field(const std::string& field) {
    if (std::find(kFields.begin(), kFields.end(), field) == kFields.end()) {
      damaged_here(fmt::format("tensor {} has the unknown field {}", shown(name_), shown(field)));
    }
    if (std::find(fields_.begin(), fields_.end(), field) != fields_.end()) {
      damaged_here(fmt::format("tensor {} has {} twice", shown(name_), field));
    }
    fields_.push_back(field);
  }

  void finish_tensor() {
    for (const std::string_view field : kFields) {
      if (std::find(fields_.begin(), fields_.end(), field) == fields_.end()) {
        damaged_here(fmt::format("tensor {} has no {}", shown(name_), field));
      }
    }
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
      damaged_here(fmt::format("data_offsets of tensor {} are [{}], not its begin and its end",
                               shown(name_), fmt::join(offsets_, ", ")));
    }
    const uint64_t bytes = offsets_[1] - offsets_[0];
    const auto expected = dense_bytes(shape_, c10::elementSize(dtype_->type));
    if (expected != bytes) {
      damaged_here(fmt::format(
          "tensor {} of dtype {} and shape [{}] needs {} bytes, its data_offsets [{}, {}] give {}",
          shown(name_), dtype_->name, fmt::join(shape_, ", "),
          expected ? std::to_string(*expected) : "2^63 or more", offsets_[0], offsets_[1], bytes));
    }
    if (offsets_[1] > data_bytes_) {
      damaged_here(fmt::format(
          "tensor {} has data_offsets [{}, {}], but only {} bytes follow the header: the file is "
          "cut short",
          shown(name_), offsets_[0], offsets_[1], data_bytes_));
    }
    const uint64_t data_begin = kLengthBytes + text_.size();
    header_.infos.emplace(
        name_,
        TensorInfo{dtype_->type, {shape_.begin(), shape_.end()}, data_begin + offsets_[0], bytes});
  }

  const fs::Path& path_;
  std::string_view text_;
  uint64_t data_bytes_;
  const char* reached_;

  Header header_;
  Place place_ = Place::kStart;
  std::string name_;          // of the entry being read
  std::string metadata_key_;  // of the text being read
  bool has_metadata_ = false;
  std::vector<std::string> fields_;  // of the tensor being read, so far
  const Dtype* dtype_ = nullptr;
  std::vector<uint64_t> shape_;
  std::vector<uint64_t> offsets_;
};

/// The JSON text at the start of the file.
std::string_view header_text(const fs::MappedFile& file) {
  const auto bytes = file.bytes();
  if (bytes.size() < kLengthBytes) {
    damaged(file.path(), bytes.size(),
            "the file ends inside the 8 bytes that give the length of its header");
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) {
    damaged(file.path(), 0,
            fmt::format("the header claims {} bytes, more than {}: this is no safetensors file",
                        length, kMaxHeaderBytes));
  }
  if (length > bytes.size() - kLengthBytes) {
    damaged(file.path(), bytes.size(),
            fmt::format("the header claims {} bytes, but the file ends after {} of them", length,
                        bytes.size() - kLengthBytes));
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (!header.starts_with('{')) {
    damaged(file.path(), kLengthBytes,
            "the header does not begin with '{': this is no safetensors file");
  }
  // The parser takes a NUL for the end of the input and would not look at what follows.
  if (const size_t nul = header.find('\0'); nul != std::string_view::npos) {
    damaged(file.path(), kLengthBytes + nul, "the header holds a NUL byte");
  }
  return header;
}

/// The tensors in the order of their data. Every byte of it belongs to exactly one of them, so that
/// no other content can hide in the file.
std::vector<std::string> checked_layout(const fs::MappedFile& file, uint64_t data_begin,
                                        const Header& header) {
  using Entry = decltype(header.infos)::value_type;
  std::vector<const Entry*> entries;
  for (const Entry& entry : header.infos) {
    entries.push_back(&entry);
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry* a, const Entry* b) {
    return std::tie(a->second.offset, a->second.bytes) <
           std::tie(b->second.offset, b->second.bytes);
  });
  std::vector<std::string> names;
  uint64_t end = data_begin;
  for (const Entry* entry : entries) {
    const auto& [name, info] = *entry;
    if (info.offset < end) {
      damaged(file.path(), info.offset,
              fmt::format("tensors {} and {} overlap", shown(names.back()), shown(name)));
    }
    if (info.offset > end) {
      damaged(file.path(), end,
              fmt::format("the {} bytes before tensor {} belong to no tensor", info.offset - end,
                          shown(name)));
    }
    end = info.offset + info.bytes;
    names.push_back(name);
  }
  if (end != file.bytes().size()) {
    damaged(file.path(), end,
            fmt::format("the last {} bytes of the file belong to no tensor",
                        file.bytes().size() - end));
  }
  return names;
}

}  // namespace

Header read_header(const fs::MappedFile& file) {
  const std::string_view text = header_text(file);
  const uint64_t data_begin = kLengthBytes + text.size();
  Header header = HeaderReader(file.path(), text, file.bytes().size() - data_begin).read();
  header.names = checked_layout(file, data_begin, header);
  return header;
}

}  // namespace trainer::safetensors::detail

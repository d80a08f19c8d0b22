#include <trainer/checkpoint/saved_tensors.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>

namespace trainer {
namespace {

constexpr const char* kSegments = "segments";

/// Nothing where it, or the strides that LibTorch makes (which count an empty dimension as one),
/// exceed 63 bits.
std::optional<int64_t> numel_of(const std::vector<int64_t>& sizes) {
  int64_t numel = 1;
  bool is_empty = false;
  for (const int64_t size : sizes) {
    is_empty = is_empty || size == 0;
    if (size < 0 || __builtin_mul_overflow(numel, std::max<int64_t>(size, 1), &numel)) {
      return std::nullopt;
    }
  }
  return is_empty ? 0 : numel;
}

/// What the file's metadata says, which is untrusted: by the tensor's name.
nlohmann::json segments_of(const safetensors::File& file) {
  const auto text = file.metadata().find(kSegments);
  if (text == file.metadata().end()) {
    return nlohmann::json::object();
  }
  auto segments = nlohmann::json::parse(text->second, nullptr, /*allow_exceptions=*/false);
  if (!segments.is_object()) {
    throw CheckpointError(
        fmt::format("{}: '{}' in its metadata is not a JSON object: damaged.\n  Load another "
                    "checkpoint.",
                    file.path().string(), kSegments));
  }
  return segments;
}

/// Nothing where the tensor that the file has cannot be that segment.
std::optional<Segment> read_segment(const nlohmann::json& said,
                                    const std::vector<int64_t>& shape_in_file) {
  try {
    Segment segment;
    said.at("shape").get_to(segment.sizes);
    said.at("first").get_to(segment.first);
    segment.count = shape_in_file.size() == 1 ? shape_in_file[0] : -1;
    const auto numel = numel_of(segment.sizes);
    const bool fits = numel && segment.first >= 0 && segment.first <= *numel &&
                      segment.count >= 0 && segment.count <= *numel - segment.first;
    return fits ? std::optional(segment) : std::nullopt;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

}  // namespace

safetensors::Metadata metadata_of(const std::map<std::string, Segment>& segments) {
  auto all = nlohmann::json::object();
  for (const auto& [name, segment] : segments) {
    all[name] = {{"shape", segment.sizes}, {"first", segment.first}};
  }
  return {{kSegments, all.dump()}};
}

SavedTensors::SavedTensors(safetensors::File file)
    : SavedTensors(std::vector<safetensors::File>{std::move(file)}) {}

SavedTensors::SavedTensors(std::vector<safetensors::File> parts)
    : path_(parts.size() == 1 ? parts[0].path() : parts.at(0).path().parent_path()),
      files_(std::move(parts)) {
  for (size_t file = 0; file < files_.size(); ++file) {
    add_pieces(file);
  }
  for (auto& [name, entry] : entries_) {
    check_complete(name, entry);
  }
}

void SavedTensors::fail(const std::string& name, const std::string& what) const {
  throw CheckpointError(
      fmt::format("{}: tensor '{}' {}.\n  The parts are damaged or not those of one checkpoint: "
                  "give the whole checkpoint folder, or another checkpoint.",
                  path_.string(), name, what));
}

void SavedTensors::add_pieces(size_t file) {
  const auto segments = segments_of(files_[file]);
  for (const auto& name : files_[file].names()) {
    const auto& info = files_[file].info(name);
    Segment segment{info.shape, 0, numel_of(info.shape).value()};
    if (const auto said = segments.find(name); said != segments.end()) {
      const auto read = read_segment(*said, info.shape);
      if (!read) {
        fail(name,
             fmt::format("of shape [{}] in {} cannot be the segment {}",
                         fmt::join(info.shape, ", "), files_[file].path().filename().string(),
                         said->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
      }
      segment = *read;
    }
    const auto [found, is_new] = entries_.try_emplace(name);
    Entry& entry = found->second;
    if (is_new) {
      names_.push_back(name);
      entry.dtype = info.dtype;
      entry.sizes = segment.sizes;
    } else if (entry.dtype != info.dtype || entry.sizes != segment.sizes) {
      fail(name, fmt::format("is {} [{}] in one part and {} [{}] in another",
                             c10::toString(entry.dtype), fmt::join(entry.sizes, ", "),
                             c10::toString(info.dtype), fmt::join(segment.sizes, ", ")));
    }
    entry.pieces.push_back({file, segment.first, segment.count});
  }
}

void SavedTensors::check_complete(const std::string& name, Entry& entry) const {
  std::sort(entry.pieces.begin(), entry.pieces.end(),
            [](const Piece& a, const Piece& b) { return a.first < b.first; });
  const int64_t numel = numel_of(entry.sizes).value();
  int64_t next = 0;
  for (const auto& piece : entry.pieces) {
    if (piece.first < next) {
      fail(name, fmt::format("has its elements {} to {} in two parts", piece.first, next - 1));
    }
    if (piece.first > next) {
      fail(name, fmt::format("lacks its elements {} to {}", next, piece.first - 1));
    }
    next += piece.count;
  }
  if (next < numel) {
    fail(name, fmt::format("lacks its elements {} to {}", next, numel - 1));
  }
}

const SavedTensors::Entry& SavedTensors::entry(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw CheckpointError(
        fmt::format("{}: has no tensor '{}', only {} others.\n  Use the configuration that the "
                    "checkpoint was made with, or another checkpoint.",
                    path_.string(), name, names_.size()));
  }
  return found->second;
}

torch::Tensor SavedTensors::tensor(std::string_view name) const {
  const Entry& whole = entry(name);
  return range(name, 0, numel_of(whole.sizes).value()).view(whole.sizes);
}

torch::Tensor SavedTensors::range(std::string_view name, int64_t first, int64_t count) const {
  const Entry& whole = entry(name);
  TRAINER_CHECK(first >= 0 && count >= 0 && first + count <= numel_of(whole.sizes).value(),
                fmt::format("elements {} to {} of '{}'", first, first + count, name));
  torch::Tensor joined;
  for (const auto& piece : whole.pieces) {
    const int64_t begin = std::max(first, piece.first);
    const int64_t end = std::min(first + count, piece.first + piece.count);
    if (begin >= end) {
      continue;
    }
    const auto part =
        files_[piece.file].tensor(name).reshape({-1}).narrow(0, begin - piece.first, end - begin);
    if (end - begin == count) {
      return part;
    }
    if (!joined.defined()) {
      joined = torch::empty({count}, part.options());
    }
    // Not every dtype of the format has operators.
    std::memcpy(joined.narrow(0, begin - first, end - begin).mutable_data_ptr(),
                part.const_data_ptr(), part.nbytes());
  }
  return joined.defined() ? joined : torch::empty({0}, torch::TensorOptions(whole.dtype));
}

void SavedTensors::save_whole(const fs::Path& path) const {
  std::vector<safetensors::TensorForm> forms;
  for (const auto& [name, whole] : entries_) {
    forms.push_back({name, whole.dtype, whole.sizes});
  }
  forms = safetensors::in_data_order(std::move(forms));
  fs::write_atomically(path, [&](fs::OutputFile& file) {
    safetensors::write_header(file, forms);
    for (const auto& form : forms) {
      for (const auto& piece : entry(form.name).pieces) {
        files_[piece.file].stream(form.name, [&](std::span<const std::byte> bytes) {
          file.write(bytes.data(), bytes.size());
        });
      }
    }
  });
}

}  // namespace trainer

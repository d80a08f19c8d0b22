#include <trainer/checkpoint/safetensors.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <set>
#include <tuple>

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <trainer/checkpoint/safetensors_header.h>
#include <trainer/core/error.h>

namespace trainer::safetensors {
namespace {

using detail::Dtype;
using detail::kDtypes;
using detail::shown;

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

[[noreturn]] void refuse_save(const fs::Path& path, std::string_view what) {
  throw UsageError(fmt::format("{}: cannot save: {}", path.string(), what));
}

std::string json_string(const fs::Path& path, std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    refuse_save(path, fmt::format("{} is not UTF-8. Names and metadata must be.", shown(text)));
  }
}

struct Row {
  std::string_view name;
  const torch::Tensor* tensor;
  const Dtype* dtype;
};

Row checked_row(const fs::Path& path, const std::string& name, const torch::Tensor& tensor) {
  if (name == detail::kMetadataKey) {
    refuse_save(path,
                fmt::format("the format reserves the name {}. Rename the tensor.", shown(name)));
  }
  if (!tensor.defined() || tensor.layout() != torch::kStrided || tensor.is_meta() ||
      tensor.is_nested()) {
    refuse_save(
        path,
        fmt::format("tensor {} is undefined, sparse, nested or on the meta device. Save dense "
                    "tensors that have data.",
                    shown(name)));
  }
  if (static_cast<size_t>(tensor.dim()) > detail::kMaxDimensions) {
    refuse_save(path,
                fmt::format("tensor {} has {} dimensions, more than {}. Flatten some of them.",
                            shown(name), tensor.dim(), detail::kMaxDimensions));
  }
  const auto* dtype = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const Dtype& known) {
    return known.type == tensor.scalar_type();
  });
  if (dtype == kDtypes.end()) {
    refuse_save(
        path, fmt::format(
                  "tensor {} has dtype {}, which safetensors cannot hold. Convert it to one of {}.",
                  shown(name), c10::toString(tensor.scalar_type()), detail::dtype_names()));
  }
  return {name, &tensor, dtype};
}

std::string make_header(const fs::Path& path, const std::vector<Row>& rows, Metadata metadata) {
  metadata.try_emplace("format", "pt");
  std::string header = fmt::format("{{\"{}\":", detail::kMetadataKey);
  char separator = '{';
  for (const auto& [key, text] : metadata) {
    header += fmt::format("{}{}:{}", std::exchange(separator, ','), json_string(path, key),
                          json_string(path, text));
  }
  header += '}';
  uint64_t begin = 0;
  for (const Row& row : rows) {
    const uint64_t end = begin + row.tensor->numel() * row.tensor->element_size();
    header += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          json_string(path, row.name), row.dtype->name,
                          fmt::join(row.tensor->sizes(), ","), begin, end);
    begin = end;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  if (header.size() > detail::kMaxHeaderBytes) {
    refuse_save(
        path,
        fmt::format(
            "the names and metadata take {} bytes, more than the {} of the format. Spread the "
            "tensors over several files.",
            header.size(), detail::kMaxHeaderBytes));
  }
  return header;
}

}  // namespace

void save(const fs::Path& path, const Tensors& tensors, const Metadata& metadata) {
  std::vector<Row> rows;
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : tensors) {
    rows.push_back(checked_row(path, name, tensor));
    if (!names.insert(name).second) {
      refuse_save(path, fmt::format("two tensors have the name {}. Rename one.", shown(name)));
    }
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return std::tie(b.dtype, a.name) <
           std::tie(a.dtype, b.name);  // dtype descending: kDtypes is one array
  });
  const std::string header = make_header(path, rows, metadata);
  const uint64_t length = header.size();
  fs::OutputFile file(path);
  file.write(&length, sizeof(length));
  file.write(header);
  for (const Row& row : rows) {
    const torch::Tensor dense =
        row.tensor->detach().resolve_conj().resolve_neg().cpu().contiguous();
    file.write(dense.const_data_ptr(), dense.nbytes());
  }
  file.sync();
  file.close();
}

File::File(const fs::Path& path) : mapping_(std::make_shared<const fs::MappedFile>(path)) {
  detail::Header header = detail::read_header(*mapping_);
  names_ = std::move(header.names);
  infos_ = std::move(header.infos);
  metadata_ = std::move(header.metadata);
}

const TensorInfo& File::info(std::string_view name) const {
  const auto found = infos_.find(name);
  if (found == infos_.end()) {
    std::string held;
    for (size_t i = 0; i < std::min<size_t>(names_.size(), 5); ++i) {
      held += (i == 0 ? "" : ", ") + shown(names_[i]);
    }
    throw CheckpointError(fmt::format(
        "{}: has no tensor {}. It holds {} tensors{}{}{}.", mapping_->path().string(), shown(name),
        names_.size(), held.empty() ? "" : ": ", held, names_.size() > 5 ? ", ..." : ""));
  }
  return found->second;
}

torch::Tensor File::tensor(std::string_view name) const {
  const TensorInfo& entry = info(name);
  const auto options = torch::TensorOptions(entry.dtype);
  if (entry.bytes == 0) {
    return torch::empty(entry.shape, options);
  }
  const auto data = mapping_->bytes().subspan(entry.offset, entry.bytes);
  if (entry.dtype == torch::kBool) {
    // LibTorch's kernels count on 0 and 1: another value can make them write out of bounds.
    const auto bad = std::find_if(data.begin(), data.end(),
                                  [](std::byte value) { return value > std::byte{1}; });
    if (bad != data.end()) {
      detail::damaged(mapping_->path(), entry.offset + static_cast<uint64_t>(bad - data.begin()),
                      fmt::format("tensor {} holds the BOOL {}, neither 0 nor 1", shown(name),
                                  std::to_integer<int>(*bad)));
    }
  }
  if (reinterpret_cast<uintptr_t>(data.data()) % c10::elementSize(entry.dtype) != 0) {
    torch::Tensor copy = torch::empty(entry.shape, options);
    std::memcpy(copy.mutable_data_ptr(), data.data(), data.size());
    return copy;
  }
  return torch::from_blob(
      const_cast<std::byte*>(data.data()), entry.shape, [mapping = mapping_](void*) {}, options);
}

Tensors load(const fs::Path& path) {
  const File file(path);
  Tensors tensors;
  for (const std::string& name : file.names()) {
    tensors.emplace_back(name, file.tensor(name).clone());
  }
  return tensors;
}

}  // namespace trainer::safetensors

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

const Dtype* dtype_of(torch::ScalarType type) {
  return std::find_if(kDtypes.begin(), kDtypes.end(),
                      [&](const Dtype& known) { return known.type == type; });
}

void check_form(const fs::Path& path, const TensorForm& tensor) {
  if (tensor.name == detail::kMetadataKey) {
    refuse_save(path, fmt::format("the format reserves the name {}. Rename the tensor.",
                                  shown(tensor.name)));
  }
  if (tensor.shape.size() > detail::kMaxDimensions) {
    refuse_save(path,
                fmt::format("tensor {} has {} dimensions, more than {}. Flatten some of them.",
                            shown(tensor.name), tensor.shape.size(), detail::kMaxDimensions));
  }
  if (dtype_of(tensor.dtype) == kDtypes.end()) {
    refuse_save(
        path, fmt::format(
                  "tensor {} has dtype {}, which safetensors cannot hold. Convert it to one of {}.",
                  shown(tensor.name), c10::toString(tensor.dtype), detail::dtype_names()));
  }
}

void check_dense(const fs::Path& path, std::string_view name, const torch::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != torch::kStrided || tensor.is_meta() ||
      tensor.is_nested()) {
    refuse_save(
        path,
        fmt::format("tensor {} is undefined, sparse, nested or on the meta device. Save dense "
                    "tensors that have data.",
                    shown(name)));
  }
}

std::string make_header(const fs::Path& path, const std::vector<TensorForm>& tensors,
                        Metadata metadata) {
  metadata.try_emplace("format", "pt");
  std::string header = fmt::format("{{\"{}\":", detail::kMetadataKey);
  char separator = '{';
  for (const auto& [key, text] : metadata) {
    header += fmt::format("{}{}:{}", std::exchange(separator, ','), json_string(path, key),
                          json_string(path, text));
  }
  header += '}';
  std::set<std::string_view> names;
  uint64_t begin = 0;
  for (const TensorForm& tensor : in_data_order(tensors)) {
    check_form(path, tensor);
    if (!names.insert(tensor.name).second) {
      refuse_save(path,
                  fmt::format("two tensors have the name {}. Rename one.", shown(tensor.name)));
    }
    const uint64_t end =
        begin + c10::multiply_integers(tensor.shape) * c10::elementSize(tensor.dtype);
    header += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          json_string(path, tensor.name), dtype_of(tensor.dtype)->name,
                          fmt::join(tensor.shape, ","), begin, end);
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

void write_length_and_text(fs::OutputFile& file, const std::string& header) {
  const uint64_t length = header.size();
  file.write(&length, sizeof(length));
  file.write(header);
}

}  // namespace

std::vector<TensorForm> in_data_order(std::vector<TensorForm> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorForm& a, const TensorForm& b) {
    return std::tuple(dtype_of(b.dtype), std::string_view(a.name)) <
           std::tuple(dtype_of(a.dtype), std::string_view(b.name));  // kDtypes is one array
  });
  return tensors;
}

torch::Tensor dense_on_cpu(const fs::Path& path, std::string_view name,
                           const torch::Tensor& tensor) {
  check_dense(path, name, tensor);
  return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous();
}

void write_header(fs::OutputFile& file, const std::vector<TensorForm>& tensors,
                  const Metadata& metadata) {
  write_length_and_text(file, make_header(file.path(), tensors, metadata));
}

void save(const fs::Path& path, const Tensors& tensors, const Metadata& metadata) {
  std::vector<TensorForm> forms;
  std::map<std::string_view, const torch::Tensor*> by_name;
  for (const auto& [name, tensor] : tensors) {
    check_dense(path, name, tensor);
    forms.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
    by_name.emplace(name, &tensor);
  }
  const std::string header = make_header(path, forms, metadata);
  fs::OutputFile file(path);
  write_length_and_text(file, header);
  for (const TensorForm& form : in_data_order(std::move(forms))) {
    const torch::Tensor dense = dense_on_cpu(path, form.name, *by_name.at(form.name));
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

void File::stream(std::string_view name,
                  const std::function<void(std::span<const std::byte>)>& take) const {
  const TensorInfo& entry = info(name);
  mapping_->stream(entry.offset, entry.bytes, take);
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

#pragma once
// Tensors in a safetensors file: a JSON header and the raw bytes, nothing that could run code. Use
// it for weights that other programs read (Python's `safetensors`, the Hugging Face Hub) and for
// files whose origin you do not trust.
//
// Format: https://github.com/huggingface/safetensors#format. Dtypes: BOOL U8 I8 I16 U16 I32 U32 I64
// U64 F16 BF16 F32 F64 C64 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ. Nothing here protects
// the data against flipped bits: keep a hash beside the file (trainer/core/hash.h).

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torch/types.h>

#include <trainer/core/filesystem.h>

namespace trainer::safetensors {

/// Tensors with their names.
using Tensors = std::vector<std::pair<std::string, torch::Tensor>>;
/// Free text beside the tensors, `__metadata__` in the header.
using Metadata = std::map<std::string, std::string>;

/// Writes the tensors to `path` and waits until they are on the disk; the folder is the caller's to
/// sync.
///
/// Equal tensors make equal bytes, those that the reference implementation writes: 8-byte dtypes
/// first, so that all data is aligned, then by name. Any device and strides; a tensor that needs it
/// is copied to the CPU, one at a time. Tensors that share memory are written each. `"format":
/// "pt"`, which Hugging Face asks for, joins the metadata unless it has a "format". Throws
/// UsageError, before it touches the file, for a name given twice, the name
/// `__metadata__`, text that is not UTF-8, and a tensor that is not dense or whose dtype the format
/// lacks; IoError when writing fails, which leaves a part of the file. Never write over a file that
/// a File has open.
void save(const fs::Path& path, const Tensors& tensors, const Metadata& metadata = {});

/// A tensor without its data.
struct TensorForm {
  std::string name;
  torch::ScalarType dtype = torch::kFloat32;
  std::vector<int64_t> shape;
};

/// In the order in which save() lays out the data.
std::vector<TensorForm> in_data_order(std::vector<TensorForm> tensors);

/// What save() writes of a tensor. Throws UsageError, which names the file and the tensor, for one
/// that is not dense.
torch::Tensor dense_on_cpu(const fs::Path& path, std::string_view name,
                           const torch::Tensor& tensor);

/// Begins a file whose data the caller writes after it, tensor by tensor in the order of
/// in_data_order(): for tensors that are not in memory whole. Throws as save() does.
void write_header(fs::OutputFile& file, const std::vector<TensorForm>& tensors,
                  const Metadata& metadata = {});

/// What the header says about one tensor.
struct TensorInfo {
  torch::ScalarType dtype = torch::kFloat32;
  std::vector<int64_t> shape;
  uint64_t offset = 0;  ///< First byte of the data, counted from the start of the file.
  uint64_t bytes = 0;
};

/// A safetensors file, mapped: opening reads the header alone, and pages are loaded when a tensor
/// touches them.
///
/// The file is untrusted: the header may be 100 MB at most; names are UTF-8 and unique; the tensors
/// cover the data without overlap or hole; sizes fit 63 bits. The constructor throws
/// CheckpointError for anything else, with the byte where it was noticed, and DataError when the
/// file is missing or unreadable.
class File {
 public:
  explicit File(const fs::Path& path);

  const fs::Path& path() const { return mapping_->path(); }

  /// In the order of their data.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const { return infos_.find(name) != infos_.end(); }
  /// Throws CheckpointError when the file has no such tensor.
  const TensorInfo& info(std::string_view name) const;
  /// The tensor on the CPU without a copy: it keeps the mapping alive, also after the File and the
  /// file are gone. Writing into it crashes; `clone()` it first. Data that its writer did not align
  /// is copied. Throws CheckpointError when the file has no such tensor, or when a BOOL is neither
  /// 0 nor 1.
  torch::Tensor tensor(std::string_view name) const;
  /// Passes the tensor's bytes on in pieces, of which no page stays in memory. Throws
  /// CheckpointError when the file has no such tensor.
  void stream(std::string_view name,
              const std::function<void(std::span<const std::byte>)>& take) const;
  /// Empty when the file has none.
  const Metadata& metadata() const { return metadata_; }

 private:
  std::shared_ptr<const fs::MappedFile> mapping_;
  std::vector<std::string> names_;
  std::map<std::string, TensorInfo, std::less<>> infos_;
  Metadata metadata_;
};

/// Copies of all tensors, in the order of their data. Throws what File does.
Tensors load(const fs::Path& path);

}  // namespace trainer::safetensors

#pragma once
// The tensors of a checkpoint as they are when whole, whether one file has them or ranks have
// written parts of them, each to a file of its own.
//
// A part that is a segment of a tensor has one dimension; `segments` in its file's metadata is a
// JSON object that has the tensor's shape, and where the segment begins in it.

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <torch/types.h>

#include <trainer/checkpoint/safetensors.h>
#include <trainer/core/segment.h>

namespace trainer {

/// What the metadata of a file says of those of its tensors that are segments.
safetensors::Metadata metadata_of(const std::map<std::string, Segment>& segments);

class SavedTensors {
 public:
  /// Of one file. Throws CheckpointError where it has segments of tensors that others have too.
  SavedTensors(safetensors::File file);  // NOLINT: a file is tensors
  /// Of parts, the files of one folder. Throws CheckpointError that names the tensor where they do
  /// not hold each element exactly once, or do not agree on dtype or shape.
  explicit SavedTensors(std::vector<safetensors::File> parts);

  /// The file, or the folder of the parts: for messages.
  const fs::Path& path() const { return path_; }
  const std::vector<std::string>& names() const { return names_; }
  bool contains(std::string_view name) const { return entries_.find(name) != entries_.end(); }

  // These throw CheckpointError where there is no such tensor, and as safetensors::File.

  torch::ScalarType dtype(std::string_view name) const { return entry(name).dtype; }
  const std::vector<int64_t>& sizes(std::string_view name) const { return entry(name).sizes; }
  /// The whole tensor, to read only: not copied where it lies in one piece.
  torch::Tensor tensor(std::string_view name) const;
  /// Of all its elements, one after the other, `count` from `first` on; to read only. Nothing else
  /// of the tensor is read, apart from a file's part of one that is BOOL or not aligned.
  torch::Tensor range(std::string_view name, int64_t first, int64_t count) const;

  /// Writes one file with the whole tensors, which replaces `path` when it is complete. No more
  /// than a few megabytes are in memory at a time. Throws IoError, and UsageError where all names
  /// together are too long for one file.
  void save_whole(const fs::Path& path) const;

 private:
  struct Piece {
    size_t file = 0;
    int64_t first = 0, count = 0;
  };
  struct Entry {
    torch::ScalarType dtype = torch::kFloat32;
    std::vector<int64_t> sizes;
    std::vector<Piece> pieces;  // in their order in the tensor
  };

  const Entry& entry(std::string_view name) const;
  void add_pieces(size_t file);
  void check_complete(const std::string& name, Entry& entry) const;
  [[noreturn]] void fail(const std::string& name, const std::string& what) const;

  fs::Path path_;
  std::vector<safetensors::File> files_;
  std::vector<std::string> names_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace trainer

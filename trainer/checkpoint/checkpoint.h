#pragma once
// A checkpoint is a folder that either is complete or does not exist: its files are written into a
// temporary folder, manifest.json with their sizes and hashes last, and the folder is then renamed.
// docs/checkpoint_format.md has the layout.

#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include <trainer/checkpoint/safetensors.h>
#include <trainer/checkpoint/saved_tensors.h>
#include <trainer/core/filesystem.h>

namespace trainer {

/// What the name of a checkpoint folder ends in, and what stands in it while it is being written.
constexpr const char* kCheckpointExtension = ".ckpt";
constexpr const char* kTemporaryCheckpoint = ".ckpt.tmp-";

/// The file of `what` ("model", "optimizer", "optimizer1") that has all of it, and the one that a
/// rank writes of it.
std::string whole_file(const std::string& what);
std::string part_file(const std::string& what, int rank);

/// Files in the folder of a checkpoint that is being written, with their sizes and hashes. Where
/// several processes write one, each has its own. What adds a file throws IoError where that cannot
/// be written.
class CheckpointPart {
 public:
  /// The folder is there.
  explicit CheckpointPart(fs::Path folder) : folder_(std::move(folder)) {}

  const fs::Path& folder() const { return folder_; }
  void add_text(const std::string& name, std::string_view text);
  /// Throws UsageError too, as safetensors::save().
  void add_tensors(const std::string& name, const safetensors::Tensors& tensors,
                   const safetensors::Metadata& metadata = {});
  /// One that was written into the folder, and synced, by other means. Throws DataError, or
  /// std::filesystem::filesystem_error, where it cannot be read.
  void add_written(const std::string& name);
  /// For the manifest.
  const nlohmann::json& files() const { return files_; }

 protected:
  nlohmann::json files_ = nlohmann::json::object();

 private:
  fs::Path folder_;
};

/// Writes one checkpoint folder. What was not committed is removed by the destructor.
class CheckpointWriter : public CheckpointPart {
 public:
  /// Throws IoError when the folder above `path` cannot be written.
  explicit CheckpointWriter(const fs::Path& path);
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter();

  /// The files() of a part that another process has written into folder().
  void add_part(const nlohmann::json& files);

  /// Writes the manifest with `about` (module class, step, ...) and puts the folder in place,
  /// replacing one that is there. Throws IoError.
  void commit(nlohmann::json about);

 private:
  fs::Path path_;
  bool committed_ = false;
};

/// Reads one checkpoint folder. Every file is checked against the manifest before it is used.
class CheckpointReader {
 public:
  /// Throws DataError when there is no such folder, CheckpointError when it is incomplete or
  /// damaged, naming the file.
  explicit CheckpointReader(const fs::Path& path);

  const fs::Path& path() const { return path_; }
  /// What commit() was given.
  const nlohmann::json& about() const { return about_; }
  /// Content of a file of this checkpoint. Throws CheckpointError when it is not in the manifest.
  std::string text(const std::string& name) const;
  nlohmann::json json(const std::string& name) const;
  safetensors::File tensors(const std::string& name) const;
  /// The tensors of "model", "optimizer" or "optimizer1", from one file or from the parts of ranks.
  /// Throws CheckpointError where there is none, or parts do not make wholes.
  SavedTensors saved(const std::string& what) const;

  /// The manifest alone, without reading the files: cheap, for choosing among checkpoints. Throws
  /// as the constructor.
  static nlohmann::json read_about(const fs::Path& path);

 private:
  fs::Path file(const std::string& name) const;

  fs::Path path_;
  nlohmann::json about_;
  nlohmann::json files_;
};

/// Weights in a checkpoint, or in a folder with a model.safetensors, or in a safetensors file.
/// Throws as CheckpointReader and SavedTensors.
SavedTensors open_weights(const fs::Path& path);

}  // namespace trainer

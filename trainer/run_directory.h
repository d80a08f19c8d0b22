#pragma once
// The folder of a run: `<default_root_dir>/version_N/` with config.yaml, metrics, provenance.json
// and checkpoints/.
//
// `checkpoints/last` and `checkpoints/best` are text files that hold the name of a checkpoint
// folder beside them.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/core/filesystem.h>

namespace trainer {

class RunDirectory {
 public:
  /// Makes the next version_N below `root`. Throws IoError when it cannot be written.
  static RunDirectory create_next(const fs::Path& root);
  /// The run that a checkpoint folder lies in (`<run>/checkpoints/<name>`), if it lies in one.
  static std::optional<RunDirectory> containing(const fs::Path& checkpoint);
  /// The newest run below `root` that has a complete checkpoint of this module class. One whose
  /// checkpoints are all damaged counts too: it may be the one that is meant.
  static std::optional<RunDirectory> newest(const fs::Path& root, const std::string& module_class);

  /// `writes`: false on ranks other than 0, which leave the folder alone.
  explicit RunDirectory(fs::Path path, bool writes = true)
      : path_(std::move(path)), writes_(writes) {}

  const fs::Path& path() const { return path_; }
  bool writes() const { return writes_; }
  fs::Path checkpoints() const { return path_ / "checkpoints"; }

  /// The checkpoint that `last` or `best` names. Where the pointer is missing or names no complete
  /// checkpoint, `last` is the complete one with the most steps, and `best` is nothing.
  std::optional<fs::Path> last() const;
  std::optional<fs::Path> best() const;
  /// Every complete checkpoint as far as manifests tell: the one that `last` names, then by steps.
  std::vector<fs::Path> newest_first() const;

  /// The folder that a pointer file names, and every checkpoint folder: complete or damaged.
  std::optional<fs::Path> named(const std::string& pointer) const;
  std::vector<fs::Path> checkpoint_folders() const;

  // What changes the folder does nothing on a rank that does not write.

  void create_checkpoints() const;

  /// Writes a pointer file. Throws IoError.
  void point(const std::string& pointer, const std::string& checkpoint_name) const;

  /// Writes down, before a newer checkpoint is saved, which ones shall go when it is in place, and
  /// removes them, except those that `is_kept`. A killed process leaves the list to the next one.
  void plan_removal(const std::vector<std::string>& names) const;
  void remove_planned(const std::function<bool(const std::string& name)>& is_kept) const;

  /// Removes what a killed process left half-written; for the holder of the folder's lock.
  void remove_leftovers() const;

 private:
  fs::Path path_;
  bool writes_;
};

/// Opens the checkpoint that `--ckpt_path` means: "last", "best" or a path. `run` narrows last and
/// best to one run; else they come from the newest run below `root` with this module class. Where
/// the last one is damaged, the newest whole one of its run is taken, with a warning. Throws
/// DataError where there is none, CheckpointError where none can be read, and as CheckpointReader.
CheckpointReader open_checkpoint(const std::string& ckpt_path, const std::optional<fs::Path>& run,
                                 const fs::Path& root, const std::string& module_class);

}  // namespace trainer

#pragma once
// For tests that run on several ranks: a folder that all of them share.

#include <optional>

#include <trainer/core/filesystem.h>
#include <trainer/world.h>

#include <tests/support/temp_dir.h>

namespace trainer::test {

/// Rank 0's TempDir, there until every rank has left its scope.
class SharedDir {
 public:
  SharedDir() {
    if (world().is_global_zero()) {
      own_.emplace();
    }
    path_ = world().broadcast(own_ ? own_->path().string() : "");
  }
  SharedDir(const SharedDir&) = delete;
  SharedDir& operator=(const SharedDir&) = delete;
  ~SharedDir() { world().barrier(); }

  const fs::Path& path() const { return path_; }
  fs::Path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::optional<TempDir> own_;
  fs::Path path_;
};

}  // namespace trainer::test

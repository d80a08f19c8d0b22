#pragma once
// A folder of a test's own, gone when the test is over.

#include <filesystem>
#include <string>

namespace trainer::test {

class TempDir {
 public:
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// Makes `path` the current folder for the scope's life.
class WorkingDirectory {
 public:
  explicit WorkingDirectory(const std::filesystem::path& path);
  WorkingDirectory(const WorkingDirectory&) = delete;
  WorkingDirectory& operator=(const WorkingDirectory&) = delete;
  ~WorkingDirectory();

 private:
  std::filesystem::path previous_;
};

/// The whole file; fails the test when it cannot be read.
std::string read_file(const std::filesystem::path& path);
/// Returns `path`; fails the test when it cannot be written.
std::filesystem::path write_file(const std::filesystem::path& path, const std::string& content);

}  // namespace trainer::test

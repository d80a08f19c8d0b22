#pragma once
// What the tests of safetensors files share: a folder, files made by hand, and the reference
// implementation.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include <trainer/core/filesystem.h>

#include <tests/support/process.h>

namespace trainer::safetensors {

inline std::string read_bytes(const fs::Path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_bytes(const fs::Path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

/// A file of this header and data, as a stranger might make it.
inline std::string file_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

/// A folder of its own, removed afterwards.
class Safetensors : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  /// What the script beside this file prints.
  static std::string python(const std::vector<std::string>& arguments) {
    return test::run_python("checkpoint/safetensors_read.py", arguments);
  }

  const fs::Path folder_ =
      fs::Path(testing::TempDir()) /
      (std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + "_" +
       std::to_string(::getpid()));
  const fs::Path path_ = folder_ / "model.safetensors";
};

}  // namespace trainer::safetensors

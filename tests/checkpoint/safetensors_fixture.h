#pragma once
// What the tests of safetensors files share: a folder, files made by hand, and the reference
// implementation.

#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <trainer/core/filesystem.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>

namespace trainer::safetensors {

/// A file of this header and data, as a stranger might make it.
inline std::string file_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header + data;
}

class Safetensors : public testing::Test {
 protected:
  /// What the script beside this file prints.
  static std::string python(const std::vector<std::string>& arguments) {
    return test::run_python("checkpoint/safetensors_read.py", arguments);
  }

  const test::TempDir folder_;
  const fs::Path path_ = folder_ / "model.safetensors";
};

}  // namespace trainer::safetensors

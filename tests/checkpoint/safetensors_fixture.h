#pragma once
// What the tests of safetensors files share: a folder, files made by hand, and the reference
// implementation.

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unistd.h>

#include <gtest/gtest.h>

#include <trainer/core/filesystem.h>

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
  std::string python(const std::string& arguments) const {
    const char* interpreter = std::getenv("TRAINER_TEST_PYTHON");
    if (interpreter == nullptr) {
      throw std::runtime_error(
          "TRAINER_TEST_PYTHON names no Python with safetensors and numpy. Run the tests through "
          "tools/test.sh, which prepares one.");
    }
    const auto script = std::filesystem::path(__FILE__).parent_path() / "safetensors_read.py";
    const std::string command =
        std::string("'") + interpreter + "' '" + script.string() + "' " + arguments + " 2>&1";
    std::FILE* pipe = ::popen(command.c_str(), "r");
    if (pipe == nullptr) {
      throw std::runtime_error("cannot start " + command);
    }
    std::string output;
    std::array<char, 4096> buffer{};
    while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
      output.append(buffer.data(), n);
    }
    if (::pclose(pipe) != 0) {
      throw std::runtime_error(command + " failed:\n" + output);
    }
    return output;
  }

  const fs::Path folder_ =
      fs::Path(testing::TempDir()) /
      (std::string(testing::UnitTest::GetInstance()->current_test_info()->name()) + "_" +
       std::to_string(::getpid()));
  const fs::Path path_ = folder_ / "model.safetensors";
};

}  // namespace trainer::safetensors

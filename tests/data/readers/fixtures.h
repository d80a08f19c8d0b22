#pragma once
// What the tests of the readers share: a folder of their own, files made and checked by NumPy (so
// that the two sides of a format are not both ours), and the ways a file is damaged.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/core/filesystem.h>

#include <tests/support/process.h>

namespace trainer::data::test {

/// A folder of one test, removed at its end.
class Folder {
 public:
  Folder() : path_(testing::TempDir()) {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    path_ /= fmt::format("{}_{}_{}", info->test_suite_name(), info->name(), ::getpid());
    std::filesystem::create_directories(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  fs::Path operator/(const std::string& name) const { return path_ / name; }
  const fs::Path& path() const { return path_; }

 private:
  fs::Path path_;
};

inline std::string read_bytes(const fs::Path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("the test has no file " + path.string());
  }
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

inline fs::Path write_bytes(const fs::Path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << bytes;
  file.close();
  if (!file) {
    throw std::runtime_error("the test cannot write " + path.string());
  }
  return path;
}

/// Runs a script of this folder as `python SCRIPT FOLDER ACTION`.
inline void run_python(const std::string& script, const Folder& folder,
                       const std::string& action = "make") {
  trainer::test::run_python("data/readers/" + script, {folder.path().string(), action});
}

/// The list that a script leaves of what it made.
inline nlohmann::json index_of(const Folder& folder) {
  return nlohmann::json::parse(read_bytes(folder / "index.json"));
}

/// `entry` of the index says dtype and shape; the file `raw` beside holds the elements, native and
/// in C order.
inline void expect_equals_raw(const torch::Tensor& tensor, const nlohmann::json& entry,
                              const Folder& folder) {
  static const std::map<std::string, torch::Dtype> kDtypes = {
      {"bool", torch::kBool},
      {"int8", torch::kInt8},
      {"int16", torch::kInt16},
      {"int32", torch::kInt32},
      {"int64", torch::kInt64},
      {"uint8", torch::kUInt8},
      {"uint16", torch::kUInt16},
      {"uint32", torch::kUInt32},
      {"uint64", torch::kUInt64},
      {"float16", torch::kFloat16},
      {"float32", torch::kFloat32},
      {"float64", torch::kFloat64},
      {"complex64", torch::kComplexFloat},
      {"complex128", torch::kComplexDouble},
  };
  EXPECT_EQ(tensor.scalar_type(), kDtypes.at(entry.at("dtype").get<std::string>()));
  EXPECT_EQ(tensor.sizes().vec(), entry.at("shape").get<std::vector<int64_t>>());
  EXPECT_TRUE(tensor.is_contiguous());
  const std::string bytes(static_cast<const char*>(tensor.data_ptr()), tensor.nbytes());
  EXPECT_EQ(bytes, read_bytes(folder / entry.at("raw").get<std::string>()));
}

/// The message of the error that `call` throws; "" and a failure where it throws none.
template <class E>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

/// False where `call` throws DataError; every other exception goes on and fails the test.
inline bool accepts(const std::function<void()>& call) {
  try {
    call();
  } catch (const DataError&) {
    return false;
  }
  return true;
}

constexpr int kNumChanges = 9;

/// `visit(damaged, at)` for each byte in [begin, end) changed kNumChanges times: each of its bits,
/// and all of them.
inline void for_every_changed_byte(
    const std::string& bytes, size_t begin, size_t end,
    const std::function<void(const std::string& damaged, size_t at)>& visit) {
  for (size_t at = begin; at < end; ++at) {
    for (const int change : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(static_cast<unsigned char>(bytes[at]) ^ change);
      visit(damaged, at);
    }
  }
}

}  // namespace trainer::data::test

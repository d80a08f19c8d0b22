#pragma once
// What the tests of the readers share: files made and checked by NumPy (so
// that the two sides of a format are not both ours), and the ways a file is damaged.

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/core/filesystem.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer::test {

/// The list that a script leaves of what it made.
inline nlohmann::json index_of(const TempDir& folder) {
  return nlohmann::json::parse(read_file(folder / "index.json"));
}

/// `entry` of the index says dtype and shape; the file `raw` beside holds the elements, native and
/// in C order.
inline void expect_equals_raw(const torch::Tensor& tensor, const nlohmann::json& entry,
                              const TempDir& folder) {
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
  EXPECT_EQ(bytes, read_file(folder / entry.at("raw").get<std::string>()));
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

}  // namespace trainer::test

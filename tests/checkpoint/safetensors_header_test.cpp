#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "safetensors_fixture.h"
#include <trainer/checkpoint/safetensors.h>
#include <trainer/core/error.h>

namespace trainer::safetensors {
namespace {

using test::read_file;
using test::write_file;

class SafetensorsHeader : public Safetensors {
 protected:
  /// The message of the CheckpointError that opening the file throws; "" when it opens.
  std::string refusal(const std::string& bytes) const {
    write_file(path_, bytes);
    try {
      load(path_);
      return "";
    } catch (const CheckpointError& error) {
      return error.what();
    }
  }

  /// The whole message for damage at a byte.
  std::string damage(uint64_t offset, const std::string& what) const {
    return path_.string() + ": damaged at byte " + std::to_string(offset) + ": " + what +
           ".\n  Copy or download the file again, or load another checkpoint (--ckpt_path=last "
           "chooses the newest complete one).";
  }
};

TEST_F(SafetensorsHeader, FileCutAtAnyByteIsRefused) {
  save(path_,
       {{"a", torch::ones(3)}, {"b", torch::ones(2, torch::kUInt8)}, {"c", torch::ones({0, 2})}});
  const std::string whole = read_file(path_);
  EXPECT_EQ(refusal(whole), "");
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_TRUE(refusal(whole.substr(0, size)).starts_with(path_.string() + ": damaged at byte "))
        << size;
  }
  EXPECT_EQ(refusal(""),
            damage(0, "the file ends inside the 8 bytes that give the length of its header"));
  EXPECT_EQ(refusal(whole.substr(0, 20)),
            damage(20, "the header claims 200 bytes, but the file ends after 12 of them"));
  EXPECT_EQ(refusal(whole + "x"),
            damage(whole.size(), "the last 1 bytes of the file belong to no tensor"));
}

/// A header of tensors "a" (4 bytes at 0) and "b", whose dtype, shape and offsets are given.
std::string header_with_b(const std::string& dtype, const std::string& shape,
                          const std::string& offsets) {
  return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":")" + dtype +
         R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

TEST_F(SafetensorsHeader, TensorsMustCoverTheDataOnce) {
  EXPECT_EQ(refusal(file_bytes(header_with_b("U8", "[2]", "[4,6]"), "012345")), "");
  const auto begin = 8 + header_with_b("U8", "[2]", "[4,6]").size();
  EXPECT_EQ(refusal(file_bytes(header_with_b("U8", "[2]", "[3,5]"), "01234")),
            damage(begin + 3, "tensors \"a\" and \"b\" overlap"));
  EXPECT_EQ(refusal(file_bytes(header_with_b("U8", "[2]", "[6,8]"), "01234567")),
            damage(begin + 4, "the 2 bytes before tensor \"b\" belong to no tensor"));
  EXPECT_EQ(refusal(file_bytes(header_with_b("U8", "[2]", "[4,6]"), "0123456")),
            damage(begin + 6, "the last 1 bytes of the file belong to no tensor"));
  EXPECT_EQ(refusal(file_bytes(header_with_b("U8", "[0]", "[2,2]"), "0123")),
            damage(begin + 2, "tensors \"a\" and \"b\" overlap"));
}

TEST_F(SafetensorsHeader, SizesAreCheckedWithoutOverflow) {
  const auto refused = [&](const std::string& dtype, const std::string& shape,
                           const std::string& offsets, const std::string& what) {
    const std::string header = header_with_b(dtype, shape, offsets);
    EXPECT_EQ(refusal(file_bytes(header, "012345")), damage(8 + header.size() - 1, what));
  };
  refused("F32", "[2]", "[4,6]",
          R"(tensor "b" of dtype F32 and shape [2] needs 8 bytes, its data_offsets [4, 6] give 2)");
  refused("U8", "[4]", "[4,8]",
          R"(tensor "b" has data_offsets [4, 8], but only 6 bytes follow the header: )"
          "the file is cut short");
  refused("U8", "[2]", "[6,4]",
          R"(data_offsets of tensor "b" are [6, 4], not its begin and its end)");
  refused("U8", "[2]", "[4]", R"(data_offsets of tensor "b" are [4], not its begin and its end)");
  // 2^32 * 2^32 elements, and 2^61 elements of 8 bytes, are 0 modulo 2^64.
  refused("U8", "[4294967296,4294967296]", "[4,4]",
          R"(tensor "b" of dtype U8 and shape [4294967296, 4294967296] needs 2^63 or more bytes, )"
          "its data_offsets [4, 4] give 0");
  refused("F64", "[2305843009213693952]", "[4,4]",
          R"(tensor "b" of dtype F64 and shape [2305843009213693952] needs 2^63 or more bytes, )"
          "its data_offsets [4, 4] give 0");
  refused("U8", "[18446744073709551611]", "[4,18446744073709551615]",
          R"(tensor "b" of dtype U8 and shape [18446744073709551611] needs 2^63 or more bytes, )"
          "its data_offsets [4, 18446744073709551615] give 18446744073709551611");
  // The bytes fit the offsets, but these lie far behind the end; adding them up must not wrap.
  refused("U8", "[1]", "[18446744073709551614,18446744073709551615]",
          R"(tensor "b" has data_offsets [18446744073709551614, 18446744073709551615], )"
          "but only 6 bytes follow the header: the file is cut short");
  // No data, but strides that do not fit.
  refused("U8", "[0,4294967296,4294967296]", "[4,4]",
          R"(tensor "b" of dtype U8 and shape [0, 4294967296, 4294967296] needs 2^63 or more )"
          "bytes, its data_offsets [4, 4] give 0");
}

TEST_F(SafetensorsHeader, EmptyTensorMayHaveHugeOtherDimensions) {
  write_file(path_, file_bytes(header_with_b("U8", "[0,1099511627776]", "[4,4]"), "0123"));
  EXPECT_EQ(File(path_).tensor("b").sizes(), (std::vector<int64_t>{0, 1099511627776}));
}

TEST_F(SafetensorsHeader, HeaderMustBeTheFormatsJsonAndNothingElse) {
  const std::string good = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  EXPECT_EQ(refusal(file_bytes(good + "   ", "x")), "");
  const auto refused = [&](const std::string& header, size_t at, const std::string& what) {
    EXPECT_EQ(refusal(file_bytes(header, "x")), damage(8 + at, what));
  };
  const auto tensor_refused = [&](const std::string& fields, const std::string& what) {
    const std::string message = refusal(file_bytes(R"({"b":{)" + fields + "}}", "x"));
    EXPECT_NE(message.find(": " + what + ".\n"), std::string::npos) << message;
  };
  refused(" " + good, 0, "the header does not begin with '{': this is no safetensors file");
  refused("", 0, "the header does not begin with '{': this is no safetensors file");
  refused(good + std::string("\0}", 2), good.size(), "the header holds a NUL byte");
  refused(good + "}", good.size() + 1, "the header is not UTF-8 JSON");
  refused(good.substr(0, 20), 20, "the header is not UTF-8 JSON");
  refused("{\"\xFF", 3, "the header is not UTF-8 JSON");
  refused(R"({"b":null})", 9, "the entry of \"b\" is null, not an object");
  refused(R"({"b":[]})", 6, "the entry of \"b\" is a list, not an object");
  refused(R"({"__metadata__":{"k":1}})", 23, "metadata \"k\" is a number, not a string");
  refused(R"({"__metadata__":{"k":{}}})", 22, "metadata \"k\" is an object, not a string");
  refused(R"({"__metadata__":{"k":"","k":""}})", 27, "the metadata names \"k\" twice");
  refused(R"({"__metadata__":{},"__metadata__":{}})", 33,
          "the header names \"__metadata__\" twice");
  refused(good.substr(0, good.size() - 1) + R"(,"b":{}})", good.size() + 3,
          "the header names \"b\" twice");
  tensor_refused(R"("shape":[1],"data_offsets":[0,1])", "tensor \"b\" has no dtype");
  tensor_refused(R"("dtype":"U8","data_offsets":[0,1])", "tensor \"b\" has no shape");
  tensor_refused(R"("dtype":"U8","shape":[1])", "tensor \"b\" has no data_offsets");
  tensor_refused(R"("dtype":"U8","dtype":"U8")", "tensor \"b\" has dtype twice");
  tensor_refused(R"("stride":[1])", "tensor \"b\" has the unknown field \"stride\"");
  tensor_refused(R"("dtype":8)", "dtype of tensor \"b\" is a number, not a string");
  tensor_refused(R"("dtype":["U8"])", "dtype of tensor \"b\" is a list, not a string");
  tensor_refused(R"("shape":"1")",
                 "shape of tensor \"b\" is a string, not a list of whole numbers");
  tensor_refused(R"("shape":[-1])",
                 "shape of tensor \"b\" is a negative number, not a list of whole numbers");
  tensor_refused(R"("shape":[1.0])",
                 "shape of tensor \"b\" is a number with a fraction or beyond 64 bits, not a list "
                 "of whole numbers");
  tensor_refused(R"("shape":[true])",
                 "shape of tensor \"b\" is a boolean, not a list of whole numbers");
  tensor_refused(R"("data_offsets":[0,1,1])",
                 "tensor \"b\" has more than 2 numbers in data_offsets");
  tensor_refused(R"("dtype":"F4")",
                 "tensor \"b\" has dtype \"F4\", which is none of BOOL, U8, I8, F8_E5M2, F8_E4M3, "
                 "F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, I16, U16, F16, BF16, I32, U32, "
                 "F32, C64, F64, I64, U64");
}

TEST_F(SafetensorsHeader, HeaderSizeAndDepthAreBounded) {
  uint64_t length = 100'000'001;
  EXPECT_EQ(
      refusal(std::string(reinterpret_cast<const char*>(&length), 8) + "{}"),
      damage(
          0,
          "the header claims 100000001 bytes, more than 100000000: this is no safetensors file"));
  length = ~uint64_t{0};
  EXPECT_EQ(refusal(std::string(reinterpret_cast<const char*>(&length), 8) + "{}"),
            damage(0,
                   "the header claims 18446744073709551615 bytes, more than 100000000: this is no "
                   "safetensors file"));
  std::string deep = R"({"b":{"shape":)" + std::string(1'000'000, '[');
  EXPECT_EQ(refusal(file_bytes(deep, "")),
            damage(8 + 16, "shape of tensor \"b\" is a list, not a list of whole numbers"));
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) {
    ones += ",1";
  }
  const std::string header = R"({"b":{"shape":[)" + ones;
  EXPECT_EQ(refusal(file_bytes(header, "")),
            damage(8 + header.size(), "tensor \"b\" has more than 64 numbers in shape"));
}

TEST_F(SafetensorsHeader, MessagesShowHostileNamesHarmlessly) {
  const std::string header = R"({"\u001b[2J)" + std::string(200, 'x') + R"(":null})";
  EXPECT_EQ(refusal(file_bytes(header, "")),
            damage(8 + header.size() - 1, R"(the entry of "\u001b[2J)" + std::string(76, 'x') +
                                              R"("... is null, not an object)"));
}

TEST_F(SafetensorsHeader, BoolsOtherThanZeroAndOneAreRefused) {
  const std::string header = R"({"b":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}})";
  EXPECT_EQ(refusal(file_bytes(header, std::string("\0\1\1", 3))), "");
  EXPECT_EQ(refusal(file_bytes(header, std::string("\0\1\2", 3))),
            damage(8 + header.size() + 2, "tensor \"b\" holds the BOOL 2, neither 0 nor 1"));
}

/// `whole` with its header changed at random in one to three places; its length stays true mostly.
std::string mutated(const std::string& whole, std::mt19937& random) {
  static const std::vector<std::string> kPieces = {
      "\"",  "{",    "}",    "[",    "]",   ",",    ":", "0", "-", "9",     "1e",
      "\\u", "null", "true", "\xFF", "F32", "BOOL", "b", " ", "8", "shape", "18446744073709551615"};
  uint64_t length = 0;
  std::memcpy(&length, whole.data(), sizeof(length));
  std::string header = whole.substr(8, length);
  const std::string data = whole.substr(8 + length);
  for (auto changes = random() % 3 + 1; changes > 0; --changes) {
    const size_t at = random() % header.size();
    switch (random() % 4) {
      case 0: header[at] = static_cast<char>(header[at] ^ (1 << random() % 8)); break;
      case 1: header.erase(at, random() % 8 + 1); break;
      case 2: header.insert(at, kPieces[random() % kPieces.size()]); break;
      default: header.insert(at, header.substr(random() % header.size(), random() % 60)); break;
    }
  }
  const std::string bytes = file_bytes(header, data);
  return random() % 8 == 0 ? whole.substr(0, 8) + bytes.substr(8) : bytes;
}

TEST_F(SafetensorsHeader, WhatWeReadOfMutatedHeadersTheReferenceReadsToo) {
  save(
      path_,
      {{"a", torch::ones({2, 3})}, {"b", torch::ones(4, torch::kBool)}, {"c", torch::ones({0, 2})}},
      {{"key", std::string(300, '8')}});
  const std::string whole = read_file(path_);
  const fs::Path folder = folder_ / "mutated";
  std::filesystem::create_directory(folder);
  std::mt19937 random(7);
  std::set<std::string> ours;
  for (int i = 0; i < 2000; ++i) {
    const std::string bytes = mutated(whole, random);
    write_file(folder / std::to_string(i), bytes);
    if (refusal(bytes).empty()) {
      ours.insert(std::to_string(i));
    }
  }
  EXPECT_GT(ours.size(), 100);
  EXPECT_LT(ours.size(), 1900);
  std::istringstream lines(python({"accept", folder.string()}));
  const std::set<std::string> reference(std::istream_iterator<std::string>(lines), {});
  for (const std::string& file : ours) {
    EXPECT_TRUE(reference.contains(file)) << file << ": " << read_file(folder / file);
  }
}

}  // namespace
}  // namespace trainer::safetensors

#include <trainer/data/readers/token_file.h>

#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include "fixtures.h"

namespace trainer::data {
namespace {

using test::accepts;
using test::read_file;
using test::run_python;
using test::TempDir;
using test::thrown;
using test::write_file;

TEST(TokenFile, GivesAnyWindowOfWhatNumpyWrote) {
  const TempDir folder;
  run_python("data/readers/make_tokens.py", {folder.path().string()});
  std::mt19937_64 random(1);
  for (const auto dtype : {torch::kUInt8, torch::kUInt16}) {
    const std::string name = dtype == torch::kUInt8 ? "uint8" : "uint16";
    const std::string raw = read_file(folder / (name + ".int64"));
    const auto expected =
        torch::empty({static_cast<int64_t>(raw.size() / sizeof(int64_t))}, torch::kInt64);
    std::memcpy(expected.data_ptr(), raw.data(), raw.size());

    const TokenFile tokens(folder / (name + ".bin"), dtype);
    ASSERT_EQ(tokens.size(), expected.size(0));
    EXPECT_TRUE(torch::equal(tokens.window(0, tokens.size()), expected));
    for (int i = 0; i < 500; ++i) {
      const auto start = static_cast<int64_t>(random() % static_cast<uint64_t>(tokens.size()));
      const auto length =
          1 + static_cast<int64_t>(random() % static_cast<uint64_t>(tokens.size() - start));
      const auto window = tokens.window(start, length);
      EXPECT_EQ(window.scalar_type(), torch::kInt64);
      EXPECT_TRUE(torch::equal(window, expected.slice(0, start, start + length)));
      std::vector<int64_t> copied(static_cast<size_t>(length));
      tokens.copy(start, length, copied.data());
      EXPECT_TRUE(torch::equal(torch::tensor(copied), window));
    }
  }
}

TEST(TokenFile, RefusesWindowsThatLeaveTheFile) {
  const TempDir folder;
  const auto path = write_file(folder / "train.bin", "abcdefgh");
  const TokenFile tokens(path);
  ASSERT_EQ(tokens.size(), 4);
  EXPECT_EQ(thrown<UsageError>([&] { tokens.window(3, 2); }),
            path.string() +
                ": a window of 2 tokens from token 3 is not in the file: it holds 4 tokens.\n"
                "  Ask for at least one token, and none before 0 or after 3.");
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  const std::vector<std::pair<int64_t, int64_t>> windows = {
      {-1, 1},   {4, 1},    {0, 5},    {0, 0},       {0, -1},      {4, 0},
      {1, kMax}, {kMax, 1}, {kMin, 1}, {kMax, kMax}, {kMin, kMin}, {0, kMax}};
  int64_t untouched = 42;
  for (const auto& [start, length] : windows) {
    EXPECT_THROW(tokens.window(start, length), UsageError) << start << " " << length;
    EXPECT_THROW(tokens.copy(start, length, &untouched), UsageError) << start << " " << length;
  }
  EXPECT_EQ(untouched, 42);
}

TEST(TokenFile, RefusesTokensOutsideTheVocabulary) {
  const TempDir folder;
  const auto path =
      write_file(folder / "train.bin", std::string("\x01\x00\x02\x00\x50\xc4\x51\xc4\x03\x00", 10));
  const TokenFile tokens(path, torch::kUInt16, 50257);  // 0xc450 is 50256
  EXPECT_TRUE(torch::equal(tokens.window(0, 3), torch::tensor({1, 2, 50256}, torch::kInt64)));
  EXPECT_TRUE(torch::equal(tokens.window(4, 1), torch::tensor({3}, torch::kInt64)));
  EXPECT_EQ(thrown<DataError>([&] { tokens.window(1, 4); }),
            path.string() +
                ": byte 6: record 3: token 50257 is outside the vocabulary of 50257.\n"
                "  The file was made by another tokenizer, is of another dtype, or is damaged.");
  EXPECT_TRUE(torch::equal(TokenFile(path).window(3, 1), torch::tensor({50257}, torch::kInt64)));
}

TEST(TokenFile, ACutFileIsRefusedUnlessItIsAWholeNumberOfTokens) {
  const TempDir folder;
  run_python("data/readers/make_tokens.py", {folder.path().string()});
  const std::string whole = read_file(folder / "uint16.bin").substr(0, 40);
  const TokenFile all(write_file(folder / "all.bin", whole));
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto path = write_file(folder / "cut.bin", whole.substr(0, size));
    if (size == 0 || size % 2 != 0) {
      EXPECT_FALSE(accepts([&] { TokenFile tokens(path); })) << size;
      continue;
    }
    const TokenFile tokens(path);
    ASSERT_EQ(tokens.size(), static_cast<int64_t>(size / 2));
    EXPECT_TRUE(torch::equal(tokens.window(0, tokens.size()), all.window(0, tokens.size())));
    EXPECT_THROW(tokens.window(0, tokens.size() + 1), UsageError);
  }
}

TEST(TokenFile, ErrorsSayWhatIsWrongWithTheFile) {
  const TempDir folder;
  const auto path = folder / "train.bin";
  write_file(path, "abc");
  EXPECT_EQ(thrown<DataError>([&] { TokenFile tokens(path); }),
            path.string() +
                ": byte 2: record 1 is incomplete: the file is 3 bytes, not a multiple of the 2 of "
                "a token.\n  The file is cut, or its tokens are of another dtype.");
  write_file(path, "");
  EXPECT_EQ(thrown<DataError>([&] { TokenFile tokens(path, torch::kUInt8); }),
            path.string() + ": is empty.\n  Write the tokens again.");
  EXPECT_EQ(thrown<UsageError>([&] { TokenFile tokens(path, torch::kInt32); }),
            "TokenFile: dtype Int is not supported. Choose torch::kUInt8 or torch::kUInt16.");
  EXPECT_EQ(thrown<UsageError>([&] { TokenFile tokens(path, torch::kUInt16, 0); }),
            "TokenFile: vocab_size is 0. Give the size of the tokenizer, or std::nullopt for no "
            "check.");
  EXPECT_THROW(TokenFile(folder / "missing.bin"), DataError);
}

}  // namespace
}  // namespace trainer::data

#include <trainer/checkpoint/saved_tensors.h>

#include <fstream>
#include <set>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/peak_memory.h>
#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::read_file;
using test::TempDir;
using test::thrown;

/// A segment of a whole tensor, to be written to a part.
struct Piece {
  std::string name;
  torch::Tensor whole;
  int64_t first = 0, count = 0;
};

class SavedTensorsTest : public testing::Test {
 protected:
  /// Writes the part of the next rank.
  void add_part(const std::vector<Piece>& pieces, safetensors::Tensors others = {}) {
    std::map<std::string, Segment> segments;
    for (const auto& piece : pieces) {
      others.emplace_back(piece.name,
                          piece.whole.reshape({-1}).narrow(0, piece.first, piece.count));
      segments[piece.name] = {piece.whole.sizes().vec(), piece.first, piece.count};
    }
    add_file(others, metadata_of(segments));
  }
  void add_file(const safetensors::Tensors& tensors, const safetensors::Metadata& metadata) {
    const fs::Path path = dir_ / std::to_string(paths_.size());
    safetensors::save(path, tensors, metadata);
    paths_.push_back(path);
  }
  SavedTensors parts() const {
    std::vector<safetensors::File> files;
    for (const auto& path : paths_) {
      files.emplace_back(path);
    }
    return SavedTensors(std::move(files));
  }
  /// What is wrong with them, apart from the advice.
  std::string refused() const {
    const std::string text = thrown<CheckpointError>([&] { parts(); });
    const size_t begin = text.find(": ") + 2;
    return text.substr(begin, text.find(".\n") - begin);
  }

  TempDir dir_;
  std::vector<fs::Path> paths_;
  torch::Tensor a_ = torch::randn({3, 4});
  torch::Tensor b_ = torch::arange(7, torch::kInt16);
};

TEST_F(SavedTensorsTest, OfPartsAreWhole) {
  add_part({{"a", a_, 8, 4}}, {{"step", torch::tensor(5)}});
  add_part({{"a", a_, 0, 5}, {"b", b_, 0, 1}});
  add_part({{"a", a_, 5, 3}, {"b", b_, 1, 6}});
  const auto saved = parts();
  EXPECT_EQ(saved.path(), dir_.path());
  EXPECT_EQ(std::set<std::string>(saved.names().begin(), saved.names().end()),
            (std::set<std::string>{"a", "b", "step"}));
  EXPECT_EQ(saved.names().size(), 3U);
  EXPECT_TRUE(torch::equal(saved.tensor("a"), a_));
  EXPECT_TRUE(torch::equal(saved.tensor("b"), b_));
  EXPECT_TRUE(torch::equal(saved.tensor("step"), torch::tensor(5)));
  EXPECT_EQ(saved.sizes("a"), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(saved.dtype("b"), torch::kInt16);
  EXPECT_TRUE(saved.contains("b"));
  EXPECT_FALSE(saved.contains("c"));
  EXPECT_THROW((void)saved.tensor("c"), CheckpointError);
}

TEST_F(SavedTensorsTest, AreReadInAnyRange) {
  add_part({{"a", a_, 0, 5}});
  add_part({{"a", a_, 5, 3}});
  add_part({{"a", a_, 8, 4}});
  const auto saved = parts();
  for (int64_t first = 0; first <= 12; ++first) {
    for (int64_t count = 0; first + count <= 12; ++count) {
      EXPECT_TRUE(
          torch::equal(saved.range("a", first, count), a_.reshape({-1}).narrow(0, first, count)))
          << first << " " << count;
    }
  }
  EXPECT_THROW((void)saved.range("a", 8, 5), InternalError);
}

TEST_F(SavedTensorsTest, OfOneFileAreTheFiles) {
  safetensors::save(dir_ / "one", {{"a", a_}, {"empty", torch::zeros({0, 4})}});
  const SavedTensors saved = safetensors::File(dir_ / "one");
  EXPECT_EQ(saved.path(), dir_ / "one");
  EXPECT_TRUE(torch::equal(saved.tensor("a"), a_));
  EXPECT_EQ(saved.tensor("empty").sizes(), (std::vector<int64_t>{0, 4}));
}

TEST_F(SavedTensorsTest, WithoutElementsKeepTheirShape) {
  const auto empty = torch::zeros({2, 0}, torch::kFloat64);
  add_part({{"a", a_, 0, 12}, {"empty", empty, 0, 0}});
  add_part({{"b", b_, 0, 7}});
  const auto saved = parts();
  EXPECT_TRUE(torch::equal(saved.tensor("empty"), empty));
  EXPECT_EQ(saved.range("empty", 0, 0).sizes(), std::vector<int64_t>{0});
}

TEST_F(SavedTensorsTest, OfEveryDtypeAreJoinedBitForBit) {
  for (const auto dtype : {torch::kBool, torch::kInt8, torch::kBFloat16, torch::kFloat8_e4m3fn,
                           torch::kFloat64, torch::kComplexFloat}) {
    paths_.clear();
    const auto whole = (torch::randn({3, 5}) * 4).to(dtype);
    add_part({{"x", whole, 0, 4}});
    add_part({{"x", whole, 4, 11}});
    EXPECT_TRUE(torch::equal(parts().tensor("x").view(torch::kUInt8), whole.view(torch::kUInt8)))
        << dtype;
  }
}

TEST_F(SavedTensorsTest, WithHolesAreRefused) {
  add_part({{"a", a_, 0, 5}});
  EXPECT_EQ(refused(), "tensor 'a' lacks its elements 5 to 11");
  add_part({{"a", a_, 7, 5}});
  EXPECT_EQ(refused(), "tensor 'a' lacks its elements 5 to 6");
  paths_.erase(paths_.begin());
  EXPECT_EQ(refused(), "tensor 'a' lacks its elements 0 to 6");
}

TEST_F(SavedTensorsTest, WithOverlapsAreRefused) {
  add_part({{"a", a_, 0, 8}});
  add_part({{"a", a_, 6, 6}});
  EXPECT_EQ(refused(), "tensor 'a' has its elements 6 to 7 in two parts");
  paths_.clear();
  add_part({{"a", a_, 0, 12}});
  add_part({{"a", a_, 0, 12}});
  EXPECT_EQ(refused(), "tensor 'a' has its elements 0 to 11 in two parts");
  paths_.clear();
  add_part({}, {{"step", torch::tensor(1)}});
  add_part({}, {{"step", torch::tensor(1)}});
  EXPECT_EQ(refused(), "tensor 'step' has its elements 0 to 0 in two parts");
}

TEST_F(SavedTensorsTest, OfPartsThatDoNotAgreeAreRefused) {
  add_part({{"a", a_, 0, 8}});
  add_part({{"a", a_.view({4, 3}), 8, 4}});
  EXPECT_EQ(refused(), "tensor 'a' is Float [3, 4] in one part and Float [4, 3] in another");
  paths_.pop_back();
  add_part({{"a", a_.to(torch::kHalf), 8, 4}});
  EXPECT_EQ(refused(), "tensor 'a' is Float [3, 4] in one part and Half [3, 4] in another");
}

TEST_F(SavedTensorsTest, WithDamagedMetadataAreRefused) {
  for (const std::string text :
       {"7", "[]", "{", R"({"a": 7})", R"({"a": {"shape": [12]}})",
        R"({"a": {"shape": "12", "first": 0}})", R"({"a": {"shape": [12], "first": "0"}})",
        R"({"a": {"shape": [-12], "first": 0}})", R"({"a": {"shape": [12], "first": -1}})",
        R"({"a": {"shape": [12], "first": 1}})", R"({"a": {"shape": [11], "first": 0}})",
        R"({"a": {"shape": [13], "first": 0}})",
        R"({"a": {"shape": [12, 4294967296, 4294967296], "first": 0}})",
        R"({"a": {"shape": [0, 4294967296, 4294967296], "first": 0}})",
        R"({"a": {"shape": [12], "first": 18446744073709551615}})",
        R"({"a": {"shape": [12], "first": 9223372036854775807}})"}) {
    paths_.clear();
    add_file({{"a", a_.reshape({-1})}}, {{"segments", text}});
    EXPECT_THROW(parts(), CheckpointError) << text;
  }
  paths_.clear();
  add_file({{"a", a_}}, {{"segments", R"({"a": {"shape": [12], "first": 0}})"}});
  EXPECT_EQ(refused(),
            R"(tensor 'a' of shape [3, 4] in 0 cannot be the segment {"first":0,"shape":[12]})");
}

TEST_F(SavedTensorsTest, AreWrittenToOneFileAsIfTheyHadNeverBeenApart) {
  const auto large = torch::rand({16, 1 << 20});  // several pieces of a stream
  add_part({{"a", a_, 8, 4}, {"large", large, 0, 1'000'003}},
           {{"count", torch::arange(3)}, {"empty", torch::zeros({0, 4})}});
  add_part({{"a", a_, 0, 8}});
  add_part({{"large", large, 1'000'003, (16 << 20) - 1'000'003}});
  const auto saved = parts();
  const test::ResidentGrowth memory;
  saved.save_whole(dir_ / "joined");
  EXPECT_LT(memory.bytes(), 12 << 20) << "of 64 MiB";
  safetensors::save(
      dir_ / "expected",
      {{"a", a_}, {"large", large}, {"count", torch::arange(3)}, {"empty", torch::zeros({0, 4})}});
  EXPECT_TRUE(read_file(dir_ / "joined") == read_file(dir_ / "expected"));
  const auto result = test::run({test::python(), "-c",
                                 "import sys, safetensors.numpy\n"
                                 "for name, x in sorted(safetensors.numpy.load_file(sys.argv[1])"
                                 ".items()): print(name, x.shape, x.dtype)\n",
                                 (dir_ / "joined").string()});
  EXPECT_EQ(result.out,
            "a (3, 4) float32\ncount (3,) int64\nempty (0, 4) float32\nlarge (16, 1048576) "
            "float32\n")
      << result.err;
}

}  // namespace
}  // namespace trainer

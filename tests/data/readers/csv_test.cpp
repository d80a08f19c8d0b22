#include <trainer/data/readers/csv.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include "fixtures.h"

namespace trainer::data {
namespace {

using namespace std::string_literals;
using test::accepts;
using test::read_file;
using test::run_python;
using test::TempDir;
using test::thrown;
using test::write_file;

torch::Tensor table(const std::vector<std::vector<double>>& rows,
                    torch::Dtype dtype = torch::kFloat32) {
  std::vector<torch::Tensor> tensors;
  for (const auto& row : rows) {
    tensors.push_back(torch::tensor(row, torch::kFloat64));
  }
  return torch::stack(tensors).to(dtype);
}

/// A test whose files are all named data.csv.
class Csv : public testing::Test {
 protected:
  torch::Tensor read(const std::string& text, const CsvOptions& options = {}) {
    return read_csv(write_file(path_, text), options);
  }
  /// What follows the path in the DataError that `text` gives.
  std::string error(const std::string& text, const CsvOptions& options = {}) {
    const std::string message = thrown<DataError>([&] { read(text, options); });
    EXPECT_TRUE(message.starts_with(path_.string())) << message;
    return message.substr(std::min(path_.string().size(), message.size()));
  }

  TempDir folder_;
  fs::Path path_ = folder_ / "data.csv";
};

TEST_F(Csv, ReadsRandomTablesOfNumpyBitForBit) {
  run_python("data/readers/make_csv.py", {folder_.path().string()});
  for (const auto& entry : test::index_of(folder_)) {
    SCOPED_TRACE(entry.dump());
    const bool is_double = entry.at("dtype") == "float64";
    const CsvOptions options{.header = entry.at("header").get<bool>(),
                             .delimiter = entry.at("delimiter").get<std::string>().at(0),
                             .dtype = is_double ? torch::kFloat64 : torch::kFloat32,
                             .allow_non_finite = entry.at("allow_non_finite").get<bool>()};
    test::expect_equals_raw(read_csv(folder_ / entry.at("file").get<std::string>(), options), entry,
                            folder_);
  }
}

TEST_F(Csv, ReadsAllCommonFormsOfANumber) {
  const auto expected = table({{1, -2, 0.5, 5, 3e-4, 20, 7}});
  EXPECT_TRUE(torch::equal(read("1,-2,.5,5.,3e-4,2E+1,+7"), expected));
  EXPECT_TRUE(torch::equal(read("\xef\xbb\xbf"
                                "1, -2 ,\t.5,5.,3e-4 ,  2E+1,+7\r\n"),
                           expected));
}

TEST_F(Csv, RoundsEachCellOnce) {
  // Just above the middle of 1 and the next float32; by way of float64 it would round to 1.
  EXPECT_EQ(read("1.00000005960464477539062500001").item<float>(), std::nextafter(1.0F, 2.0F));
}

TEST_F(Csv, RoundsTinyNumbersToZeroWithTheirSign) {
  const auto found = read("1e-60,-1e-60,1e-400,1e-45");
  EXPECT_EQ(found.select(1, 0).item<float>(), 0.0F);
  EXPECT_TRUE(std::signbit(found.select(1, 1).item<float>()));
  EXPECT_EQ(found.select(1, 2).item<float>(), 0.0F);
  EXPECT_EQ(found.select(1, 3).item<float>(), std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(read("-1e-400", {.dtype = torch::kFloat64}).item<double>(), 0.0);
}

TEST_F(Csv, ErrorsNameFileLineColumnRecordAndValue) {
  EXPECT_EQ(error("1,2\n3,x4\n"),
            ":2:3: record 2, column 2: 'x4' is not a number.\n"
            "  Write numbers as 1, -2.5 or 3e-4, without quotes.");
  EXPECT_EQ(error("a,b\n3,4\n"),
            ":1:1: record 1, column 1: 'a' is not a number.\n"
            "  Write numbers as 1, -2.5 or 3e-4, without quotes. If this line names the columns, "
            "set header = true.");
  EXPECT_EQ(error("a,b\nc,4\n", {.header = true}),
            ":2:1: record 1, column 1: 'c' is not a number.\n"
            "  Write numbers as 1, -2.5 or 3e-4, without quotes.");
  EXPECT_EQ(error("1,2\n3,\n"),
            ":2:3: record 2, column 2: '' is empty.\n"
            "  Fill in a value or drop the record; a blank line counts as one.");
  EXPECT_EQ(error("1\n\n2\n"),
            ":2:1: record 2, column 1: '' is empty.\n"
            "  Fill in a value or drop the record; a blank line counts as one.");
  EXPECT_EQ(error("1,2\n3,4,5\n"),
            ":2:6: record 2 has 3 columns, record 1 has 2.\n"
            "  Give every record the same number of cells, with ',' between them.");
  EXPECT_EQ(error("1\t2\n3\n", {.delimiter = '\t'}),
            ":2:2: record 2 has 1 columns, record 1 has 2.\n"
            "  Give every record the same number of cells, with '\\x09' between them.");
  EXPECT_EQ(error("1,2\n3,nan\n"),
            ":2:3: record 2, column 2: 'nan' is not finite.\n"
            "  Drop the record or fill in a value; allow_non_finite = true lets it through.");
  EXPECT_EQ(error("1,-INF\n"),
            ":1:3: record 1, column 2: '-INF' is not finite.\n"
            "  Drop the record or fill in a value; allow_non_finite = true lets it through.");
  EXPECT_EQ(error("1,1e39\n"),
            ":1:3: record 1, column 2: '1e39' is out of the range of float32.\n"
            "  Scale the column, or read it with dtype = torch::kFloat64.");
  EXPECT_EQ(
      error("1e400\n", {.dtype = torch::kFloat64, .allow_non_finite = true}),
      ":1:1: record 1, column 1: '1e400' is out of the range of float64.\n  Scale the column.");
  EXPECT_EQ(error(""), ": is empty.\n  Check the path, or write the file again.");
  EXPECT_EQ(error("a,b\n", {.header = true}),
            ": holds a header but no records.\n  Check the path, or write the file again.");
}

TEST_F(Csv, ShowsCellsOfAnyBytesShortAndAsAscii) {
  EXPECT_EQ(error("1," + std::string("\0\xff", 2) + std::string(1000, 'z') + "\n"),
            ":1:3: record 1, column 2: '\\x00\\xff" + std::string(38, 'z') +
                "...' is not a number.\n"
                "  Write numbers as 1, -2.5 or 3e-4, without quotes. If this line names the "
                "columns, set header = true.");
}

TEST_F(Csv, RefusesWhatIsOnlyNearlyANumber) {
  for (const auto* cell : {"+", "-", ".", "+-1", "--1", "1e", "1e+", "0x10", "1_000", "1 2",
                           "\"1\"", "1.2.3", "1f", "true", "\r1", "1\r\r"}) {
    EXPECT_FALSE(accepts([&] { read(std::string("7,") + cell + "\n"); })) << cell;
  }
}

TEST_F(Csv, ReadsNonFiniteCellsWhereAllowed) {
  const auto found = read("nan,inf,-inf,NaN,Infinity", {.allow_non_finite = true});
  EXPECT_TRUE(torch::equal(found.isnan(), table({{1, 0, 0, 1, 0}}).to(torch::kBool)));
  EXPECT_TRUE(torch::equal(found.isposinf(), table({{0, 1, 0, 0, 1}}).to(torch::kBool)));
  EXPECT_TRUE(torch::equal(found.isneginf(), table({{0, 0, 1, 0, 0}}).to(torch::kBool)));
}

TEST_F(Csv, RefusesOptionsItCannotHonour) {
  EXPECT_EQ(thrown<UsageError>([&] { read("1", {.delimiter = 'e'}); }),
            "read_csv: delimiter 'e' can be part of a cell or of a line end. Choose one such as "
            "',', ';', '|', a space or a tab.");
  EXPECT_EQ(thrown<UsageError>([&] { read("1", {.dtype = torch::kInt64}); }),
            "read_csv: dtype Long is not supported. Choose torch::kFloat32 or torch::kFloat64.");
}

TEST_F(Csv, ACutFileIsRefusedOrAPrefixOfTheTable) {
  const std::string text = "11,22\n33,44\n55,66\n";
  const auto whole = read(text);
  for (size_t size = 0; size < text.size(); ++size) {
    torch::Tensor found;
    if (!accepts([&] { found = read(text.substr(0, size)); })) {
      continue;
    }
    const int64_t num_whole = found.size(0) - 1;  // the last record may have lost cells or digits
    ASSERT_LE(num_whole, 2);
    if (num_whole > 0) {
      EXPECT_TRUE(torch::equal(found.slice(0, 0, num_whole), whole.slice(0, 0, num_whole))) << size;
    }
  }
}

TEST_F(Csv, RefusesEveryCutAndSurvivesEveryChangeOfAGzipFile) {
  run_python("data/readers/make_gzip.py", {folder_.path().string()});
  const std::string bytes = read_file(folder_ / "small.gz");
  const auto whole = read(read_file(folder_ / "text.bin"));
  EXPECT_TRUE(torch::equal(read(bytes), whole));
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(accepts([&] { read(bytes.substr(0, size)); })) << size;
  }
  test::for_every_changed_byte(bytes, 0, bytes.size(), [&](const std::string& damaged, size_t at) {
    auto found = whole;
    accepts([&] { found = read(damaged); });
    EXPECT_TRUE(torch::equal(found, whole)) << "byte " << at;
  });
}

TEST_F(Csv, RandomBytesAreRefusedOrATableOfFiniteNumbers) {
  std::mt19937 random(11);
  const std::string alphabet = "0123456789.,,,\n\n\r+-eE \tnaif\"\0\xff"s;
  size_t num_accepted = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string text(random() % 12, '\0');
    for (char& c : text) {
      c = alphabet[random() % alphabet.size()];
    }
    torch::Tensor found;
    if (accepts([&] { found = read(text); })) {
      ++num_accepted;
      EXPECT_TRUE(found.isfinite().all().item<bool>());
      EXPECT_GT(found.numel(), 0);
    }
  }
  EXPECT_GT(num_accepted, 50U);
}

}  // namespace
}  // namespace trainer::data

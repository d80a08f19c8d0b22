#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/data/readers/csv.h>
#include <trainer/data/readers/idx.h>
#include <trainer/data/readers/npy.h>

#include <tests/fuzz/fuzz.h>
#include <tests/support/temp_dir.h>

namespace trainer::test {
namespace {

using namespace std::string_literals;

/// Every value, so that a tensor that reaches beyond its memory is found.
double sum_of(const torch::Tensor& tensor) {
  return tensor.to(torch::kFloat64).sum().item<double>();
}

void expect_both(const FuzzCount& count) {
  EXPECT_GT(count.read, 0);
  EXPECT_GT(count.refused, 0);
}

TEST(ReadersFuzz, CsvIsReadOrRefused) {
  const TempDir dir;
  const std::string whole = "a,b,c\n1,2.5,-3e4\n 0.1 ,7,1e-30\r\n4,5,6\n";
  const std::vector<std::string> pieces = {",",     "\n",    "\r\n", "nan",         "-inf",
                                           "1e999", "0x1p3", "\"",   " ",           "\t",
                                           "--",    "1_0",   "\0"s,  "\xEF\xBB\xBF"};
  expect_both(fuzz(
      400, [&](auto& random) { return mutated(whole, pieces, random); },
      [&](const std::string& text) {
        const auto table = data::read_csv(write_file(dir / "x.csv", text), {.header = true});
        ASSERT_EQ(table.dim(), 2);
        EXPECT_TRUE(table.isfinite().all().item<bool>()) << text;
      }));
}

TEST(ReadersFuzz, NpyIsReadOrRefused) {
  const TempDir dir;
  data::write_npy(dir / "whole.npy", torch::arange(12).reshape({3, 4}));
  const std::string whole = read_file(dir / "whole.npy");
  const std::vector<std::string> pieces = {"'descr': '<f4'",
                                           "'|b1'",
                                           "'>i2'",
                                           "'<U3'",
                                           "'|O'",
                                           "True",
                                           "(0,)",
                                           "(2, 3)",
                                           "(-1,)",
                                           "()",
                                           "{",
                                           "}",
                                           ",",
                                           "99999999999999999999",
                                           "1099511627776, ",
                                           "'shape'",
                                           "\0"s,
                                           "\n",
                                           "\x93NUMPY\x02\0\xff\xff\xff\xff"s};
  expect_both(fuzz(
      400, [&](auto& random) { return mutated(whole, pieces, random); },
      [&](const std::string& bytes) {
        sum_of(data::read_npy(write_file(dir / "x.npy", bytes)).abs());
      }));
}

TEST(ReadersFuzz, IdxIsReadOrRefused) {
  const TempDir dir;
  const std::string whole("\0\0\x08\x02\0\0\0\x02\0\0\0\x03\x01\x02\x03\x04\x05\x06", 18);
  const std::vector<std::string> pieces = {
      "\0\0\0\0"s,   "\xff\xff\xff\xff", "\x0d",       "\x0e", "\0\0\x08\x01"s,
      "\x80\0\0\0"s, "\x1f\x8b\x08\0"s,  "\0\0\0\x01"s};
  expect_both(fuzz(
      400, [&](auto& random) { return mutated(whole, pieces, random); },
      [&](const std::string& bytes) { sum_of(data::read_idx(write_file(dir / "x.idx", bytes))); }));
}

}  // namespace
}  // namespace trainer::test

#include <strategies/mpi/reduce_kernel.h>

#include <limits>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

#include <tests/support/rank_values.h>

namespace trainer {
namespace {

using test::all_values, test::reduced, test::reductions;

std::byte* bytes_of(const torch::Tensor& tensor) {
  return static_cast<std::byte*>(tensor.data_ptr());
}

/// The rows are reduced into all of themselves, or into `output`.
void reduce(const std::vector<torch::Tensor>& rows, const torch::Tensor& output, ReduceOp op) {
  std::vector<const std::byte*> from;
  std::vector<std::byte*> to;
  for (const auto& row : rows) {
    from.push_back(bytes_of(row));
    to.push_back(bytes_of(row));
  }
  if (output.defined()) {
    to = {bytes_of(output)};
  }
  reduce_rows(from, to, rows[0].numel(), rows[0].scalar_type(), op);
}

TEST(ReduceKernel, EqualsLibTorchForEveryDtypeOpAndLength) {
  for (const auto& [dtype, op] : reductions()) {
    for (const int64_t n : {0, 1, 3, 512, 1'537}) {
      for (const int ranks : {2, 3, 5}) {
        const auto rows = all_values(ranks, {n}, dtype);
        const auto expected = reduced(rows, op);
        auto output = torch::empty({n}, dtype);
        reduce(rows, output, op);
        EXPECT_TRUE(torch::equal(output, expected))
            << "op " << static_cast<int>(op) << ", " << ranks << " rows of " << n << " " << dtype;
        reduce(rows, {}, op);
        for (const auto& row : rows) {
          EXPECT_TRUE(torch::equal(row, expected)) << "in place";
        }
      }
    }
  }
}

TEST(ReduceKernel, IntegersOverflowAsLibTorchsDo) {
  for (const auto dtype : test::kIntegers) {
    const auto largest = torch::full({3}, 100, torch::kInt64).to(dtype) *
                         (dtype == torch::kInt8 || dtype == torch::kUInt8 ? 1 : 300);
    for (const auto op : {ReduceOp::kSum, ReduceOp::kProduct}) {
      const std::vector<torch::Tensor> rows = {largest.clone(), largest.clone(), largest.clone(),
                                               largest.clone(), largest.clone()};
      auto output = torch::empty({3}, dtype);
      reduce(rows, output, op);
      EXPECT_TRUE(torch::equal(output, reduced(rows, op))) << dtype;
    }
  }
}

TEST(ReduceKernel, NaNInAnyRowIsNaN) {
  for (const auto op : {ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kSum}) {
    for (const auto dtype : test::kFloats) {
      for (const int64_t at : {0, 1, 2}) {
        auto rows = all_values(3, {4}, dtype);
        rows[static_cast<size_t>(at)][2] = std::numeric_limits<double>::quiet_NaN();
        auto output = torch::empty({4}, dtype);
        reduce(rows, output, op);
        EXPECT_TRUE(torch::equal(output.isnan(), torch::tensor({false, false, true, false})))
            << output;
      }
    }
  }
}

TEST(ReduceKernel, OneRowIsCopiedWhateverItsDtype) {
  for (const auto dtype : {torch::kFloat8_e4m3fn, torch::kBool, torch::kComplexHalf}) {
    const auto row = torch::randint(0, 2, {1000}, torch::kFloat32).to(dtype);
    auto output = torch::zeros({1000}, torch::kFloat32).to(dtype);
    reduce({row}, output, ReduceOp::kSum);
    EXPECT_TRUE(torch::equal(output.to(torch::kComplexFloat), row.to(torch::kComplexFloat)));
  }
}

TEST(ReduceKernel, ADtypeWithoutSumsIsRefusedByName) {
  const auto rows = all_values(2, {3}, torch::kFloat32);
  const std::vector<torch::Tensor> eights = {rows[0].to(torch::kFloat8_e4m3fn),
                                             rows[1].to(torch::kFloat8_e4m3fn)};
  EXPECT_THROW(reduce(eights, {}, ReduceOp::kSum), UsageError);
}

}  // namespace
}  // namespace trainer

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <trainer/core/error.h>
#include <trainer/optim/clip.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

using torch::Tensor;

std::vector<Tensor> random_tensors(torch::ScalarType dtype, double scale = 1) {
  torch::manual_seed(3);
  std::vector<Tensor> result;
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{4, 3}, {7}, {}, {0, 2}, {2, 3, 4}}) {
    result.push_back((scale * torch::randn(shape, torch::kFloat64)).to(dtype));
  }
  return result;
}

std::vector<Tensor> clone(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) {
    result.push_back(tensor.clone());
  }
  return result;
}

/// The norm summed in float64.
double reference_norm(const std::vector<Tensor>& tensors) {
  double sum = 0;
  for (const Tensor& tensor : tensors) {
    sum += tensor.to(torch::kFloat64).square().sum().item<double>();
  }
  return std::sqrt(sum);
}

TEST(Gradients, AreTheDefinedDenseOnesOfAllGroupsInOrder) {
  std::vector<Tensor> p;
  for (int i = 0; i < 5; ++i) {
    p.push_back(torch::zeros({2}, torch::requires_grad(i != 4)));
  }
  torch::optim::SGD optimizer({torch::optim::OptimizerParamGroup({p[0], p[1], p[4]}),
                               torch::optim::OptimizerParamGroup({p[2], p[3]})},
                              torch::optim::SGDOptions(0.1));
  EXPECT_TRUE(gradients(optimizer).empty());
  for (const int i : {0, 2}) {
    p[i].mutable_grad() = torch::full({2}, i + 1.0);
  }
  p[3].mutable_grad() = torch::ones({2}).to_sparse();
  const auto result = gradients(optimizer);
  ASSERT_EQ(result.size(), 2U);
  EXPECT_TRUE(result[0].is_same(p[0].grad()));
  EXPECT_TRUE(result[1].is_same(p[2].grad()));
}

TEST(TotalNorm, OfNoTensorsIsZero) {
  EXPECT_EQ(total_norm({}).item<float>(), 0.0F);
  EXPECT_EQ(total_norm({}).scalar_type(), torch::kFloat32);
}

TEST(TotalNorm, IsTheFloat64SumToFloat32PrecisionForEveryDtype) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
    const auto tensors = random_tensors(dtype);
    const Tensor norm = total_norm(tensors);
    EXPECT_EQ(norm.scalar_type(), torch::kFloat32);
    EXPECT_EQ(norm.dim(), 0);
    EXPECT_NEAR(norm.item<double>(), reference_norm(tensors), 1e-6 * reference_norm(tensors))
        << dtype;
  }
}

TEST(TotalNorm, MixesDtypes) {
  auto tensors = random_tensors(torch::kBFloat16);
  for (const auto dtype : {torch::kFloat64, torch::kFloat32}) {
    for (const Tensor& tensor : random_tensors(dtype)) {
      tensors.push_back(tensor);
    }
  }
  EXPECT_NEAR(total_norm(tensors).item<double>(), reference_norm(tensors),
              1e-6 * reference_norm(tensors));
}

// 4096 ones: a bfloat16 sum would stop at 256.
TEST(TotalNorm, SumsHalfPrecisionInFloat32) {
  EXPECT_EQ(total_norm({torch::ones({4096}, torch::kBFloat16)}).item<float>(), 64.0F);
  EXPECT_EQ(total_norm(std::vector(4096, torch::ones({1}, torch::kBFloat16))).item<float>(), 64.0F);
}

TEST(ClipByNorm, IsThatOfPyTorch) {
  for (const double max_norm : {0.0, 0.5, 3.0, 1000.0}) {
    auto ours = random_tensors(torch::kFloat32);
    std::vector<Tensor> parameters;
    for (const Tensor& gradient : ours) {
      parameters.push_back(torch::zeros_like(gradient).requires_grad_());
      parameters.back().mutable_grad() = gradient.clone();
    }
    const double expected_norm = torch::nn::utils::clip_grad_norm_(parameters, max_norm);
    const Tensor norm = total_norm(ours);
    clip_by_norm(ours, norm, max_norm);
    EXPECT_NEAR(norm.item<double>(), expected_norm, 1e-6 * expected_norm);
    for (size_t i = 0; i < ours.size(); ++i) {
      EXPECT_TRUE(torch::allclose(ours[i], parameters[i].grad(), 1e-6, 1e-7))
          << max_norm << " " << i;
    }
  }
}

TEST(ClipByNorm, BringsTheNormToTheBoundInEveryDtype) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
    auto tensors = random_tensors(dtype, 5);
    clip_by_norm(tensors, total_norm(tensors), 2);
    EXPECT_NEAR(reference_norm(tensors), 2, dtype == torch::kBFloat16 ? 1e-2 : 1e-3) << dtype;
    EXPECT_EQ(tensors[0].scalar_type(), dtype);
  }
}

TEST(ClipByNorm, LeavesGradientsBelowTheBoundUntouchedBitForBit) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kBFloat16}) {
    auto tensors = random_tensors(dtype, 1e-3);
    tensors[1][0] = -0.0;
    tensors[1][1] = std::numeric_limits<float>::denorm_min();
    const auto before = clone(tensors);
    clip_by_norm(tensors, total_norm(tensors), 1.0);
    for (size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_TRUE(torch::equal(tensors[i], before[i]));
      EXPECT_TRUE(torch::equal(tensors[i].signbit(), before[i].signbit()));
    }
  }
}

TEST(ClipByNorm, MakesTheDamageOfAnInfiniteGradientVisible) {
  std::vector<Tensor> tensors = {torch::tensor({1.0F, std::numeric_limits<float>::infinity()})};
  clip_by_norm(tensors, total_norm(tensors), 1.0);
  EXPECT_EQ(tensors[0][0].item<float>(), 0.0F);
  EXPECT_TRUE(std::isnan(tensors[0][1].item<float>()));
}

TEST(ClipByNorm, WorksOnGradientsThatAreDifferentiable) {
  const Tensor x = torch::ones({4}, torch::requires_grad());
  std::vector<Tensor> tensors = {x * 2};
  const Tensor norm = total_norm(tensors);
  EXPECT_FALSE(norm.requires_grad());
  clip_by_norm(tensors, norm, 1.0);
  EXPECT_NEAR(reference_norm({tensors[0].detach()}), 1, 1e-5);
}

TEST(ClipByValue, ClampsEveryElement) {
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kBFloat16}) {
    auto tensors = random_tensors(dtype);
    const auto before = clone(tensors);
    clip_by_value(tensors, 0.5);
    for (size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_TRUE(torch::equal(tensors[i], before[i].clamp(-0.5, 0.5)));
    }
  }
}

TEST(Clip, TakesAnEmptyList) {
  std::vector<Tensor> none;
  clip_by_norm(none, total_norm(none), 1.0);
  clip_by_value(none, 1.0);
  EXPECT_TRUE(none.empty());
}

TEST(Clip, RefusesNegativeBounds) {
  std::vector<Tensor> none;
  EXPECT_EQ(thrown<UsageError>([&] { clip_by_norm(none, total_norm(none), -1); }),
            "clip_by_norm: max_norm is -1, it must be at least 0.");
  EXPECT_EQ(
      thrown<UsageError>([&] { clip_by_value(none, std::numeric_limits<double>::quiet_NaN()); }),
      "clip_by_value: max_value is nan, it must be at least 0.");
}

}  // namespace
}  // namespace trainer

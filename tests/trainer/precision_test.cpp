#include <trainer/precision.h>

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <trainer/core/error.h>
#include <trainer/trainer.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

using test::thrown;

torch::Dtype product_dtype() {
  return torch::mm(torch::ones({2, 2}), torch::ones({2, 2})).scalar_type();
}

TEST(Precision, TrueFloat32ChangesNothing) {
  const Precision precision("32-true");
  EXPECT_EQ(precision.name(), "32-true");
  const auto scope = precision.autocast(torch::kCPU);
  EXPECT_EQ(product_dtype(), torch::kFloat32);
}

TEST(Precision, MixedComputesProductsInBfloat16AndTheRestInFloat32) {
  const Precision precision("bf16-mixed");
  torch::nn::Linear linear(4, 2);
  {
    const auto scope = precision.autocast(torch::kCPU);
    EXPECT_EQ(product_dtype(), torch::kBFloat16);
    const auto output = linear->forward(torch::rand({3, 4}));
    EXPECT_EQ(output.scalar_type(), torch::kBFloat16);
    const auto loss = torch::nn::functional::mse_loss(output, torch::zeros({3, 2}));
    EXPECT_EQ(loss.scalar_type(), torch::kFloat32);
    loss.backward();
  }
  EXPECT_EQ(product_dtype(), torch::kFloat32);
  EXPECT_EQ(linear->weight.scalar_type(), torch::kFloat32);
  EXPECT_EQ(linear->weight.grad().scalar_type(), torch::kFloat32);
}

TEST(Precision, ScopesNestAndGiveBackWhatWasThere) {
  const Precision mixed("bf16-mixed");
  const Precision full("32-true");
  at::autocast::set_autocast_dtype(at::kCPU, at::kHalf);
  {
    const auto outer = mixed.autocast(torch::kCPU);
    {
      const auto inner = mixed.autocast(torch::kCPU);
      const auto nothing = full.autocast(torch::kCPU);
      EXPECT_EQ(product_dtype(), torch::kBFloat16);
    }
    EXPECT_EQ(product_dtype(), torch::kBFloat16);
  }
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
  EXPECT_EQ(at::autocast::get_autocast_dtype(at::kCPU), at::kHalf);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
}

/// A cast that outlives its step would hide what the optimizer did to the weight.
TEST(Precision, ChangedWeightsAreCastAgainInTheNextScope) {
  const Precision mixed("bf16-mixed");
  const auto weight = torch::ones({2, 2}, torch::requires_grad());
  const auto product = [&] {
    const auto scope = mixed.autocast(torch::kCPU);
    return torch::mm(torch::ones({2, 2}), weight).sum().item<float>();
  };
  EXPECT_EQ(product(), 8);
  {
    const torch::NoGradGuard no_grad;
    torch::Tensor changed = weight;
    changed.mul_(2);
  }
  EXPECT_EQ(product(), 16);
}

TEST(Precision, TrueFormatsConvertParametersBuffersAndInputs) {
  for (const auto& [name, dtype] :
       {std::pair{"64-true", torch::kFloat64}, std::pair{"16-true", torch::kFloat16},
        std::pair{"bf16-true", torch::kBFloat16}}) {
    const Precision precision(name);
    torch::nn::BatchNorm1d norm(3);
    const auto weight = norm->weight;
    precision.convert_module(*norm);
    EXPECT_TRUE(weight.is_same(norm->weight)) << "optimizers know it already";
    EXPECT_EQ(weight.scalar_type(), dtype);
    EXPECT_EQ(norm->running_mean.scalar_type(), dtype);
    EXPECT_EQ(norm->num_batches_tracked.scalar_type(), torch::kInt64);
    const auto batch = precision.convert_input({torch::ones({2, 3}), torch::arange(2)});
    EXPECT_EQ(batch[size_t{0}].scalar_type(), dtype);
    EXPECT_EQ(batch[size_t{1}].scalar_type(), torch::kInt64);
    EXPECT_FALSE(precision.needs_grad_scaler());
  }
  EXPECT_TRUE(Precision("16-mixed").needs_grad_scaler());
  EXPECT_FALSE(Precision("bf16-mixed").needs_grad_scaler());
}

TEST(Precision, UnknownNameIsRefusedWithThoseThereAre) {
  EXPECT_EQ(thrown<ConfigError>([] { Precision("bf16-mixd"); }),
            "trainer.precision: is 'bf16-mixd'. Did you mean 'bf16-mixed'? Choose one of: 32-true, "
            "64-true, 16-true, bf16-true, 16-mixed, bf16-mixed.");
  for (const auto& name : Precision::names()) {
    EXPECT_EQ(Precision(name).name(), name);
    TrainerConfig config;
    config.precision = name;
    EXPECT_NO_THROW(Trainer{config}) << "the settings take every name there is";
  }
  EXPECT_EQ(Precision("16").name(), "16-mixed");
  EXPECT_EQ(Precision("bf16").name(), "bf16-mixed");
  EXPECT_EQ(Precision("64").name(), "64-true");
  EXPECT_THROW(Precision(""), ConfigError);
}

}  // namespace
}  // namespace trainer

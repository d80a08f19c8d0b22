// Every optimizer against 100 recorded steps: of PyTorch where it has the optimizer, else of a
// textbook form (tests/parity/record_optimizers.py, which describes the problem).

#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/optim/lbfgs.h>

#include <tests/optim/optimizer_kinds.h>
#include <tests/support/process.h>

namespace trainer::optim {
namespace {

using nlohmann::json;
using test::Parameters;

using torch::Tensor;
using torch::optim::Optimizer;

Tensor initial(const std::vector<int64_t>& shape, torch::ScalarType dtype) {
  const int64_t n = torch::zeros(shape).numel();
  const Tensor values = torch::sin(torch::arange(1, n + 1, torch::kFloat64)) + 0.5;
  return values.reshape(shape).to(dtype).requires_grad_();
}

struct Problem {
  Tensor x, i, a, b;  // float64
};

Problem problem(const Tensor& parameter) {
  const Tensor i = torch::arange(parameter.numel(), torch::kFloat64).reshape(parameter.sizes());
  return {parameter.detach().to(torch::kFloat64), i, 0.5 + 0.1 * i, 1 + 0.05 * i};
}

void set_gradients(const Parameters& parameters, int step) {
  for (size_t k = 0; k < parameters.size(); ++k) {
    const auto [x, i, a, b] = problem(parameters[k]);
    const Tensor gradient = a * x + b * torch::cos(b * x) + 0.3 * torch::cos(step + i);
    const bool defined = k == 0 || step % 3 != 0;
    parameters[k].mutable_grad() = defined ? gradient.to(parameters[k].scalar_type()) : Tensor();
  }
}

Tensor evaluate(const Parameters& parameters) {
  Tensor loss = torch::zeros({}, torch::kFloat64);
  for (const Tensor& parameter : parameters) {
    const auto [x, i, a, b] = problem(parameter);
    parameter.mutable_grad() = a * x + b * torch::cos(b * x);
    loss += (0.5 * a * x.square() + torch::sin(b * x)).sum();
  }
  return loss;
}

template <class O>
std::unique_ptr<Optimizer> two_groups(const Parameters& p) {
  return std::make_unique<O>(test::Groups{{Parameters{p[0]}}, {Parameters{p[1]}}});
}

const std::map<std::string, std::function<std::unique_ptr<Optimizer>(const Parameters&)>> kMakers =
    {{"Adagrad", two_groups<Adagrad>},
     {"Adam", two_groups<Adam>},
     {"AdamW", two_groups<AdamW>},
     {"LAMB", two_groups<LAMB>},
     {"LBFGS", [](const Parameters& p) { return std::make_unique<LBFGS>(p); }},
     {"Lion", two_groups<Lion>},
     {"Muon", two_groups<Muon>},
     {"RMSprop", two_groups<RMSprop>},
     {"SGD", two_groups<SGD>},
     {"ScheduleFreeAdamW", two_groups<ScheduleFreeAdamW>}};

/// Of the difference, relative to the value or 1.
double tolerance(const std::string& optimizer, const json& golden) {
  if (optimizer == "Muon") {
    return 1e-2;  // Its iteration runs in bfloat16, which processors multiply differently.
  }
  if (optimizer == "LBFGS") {
    return 1e-9;  // It divides by differences of gradients that become small.
  }
  return golden["dtype"] == "float32" ? 1e-6 : 1e-12;
}

void expect_close(const Parameters& parameters, const json& expected, double limit,
                  const std::string& where) {
  for (size_t k = 0; k < parameters.size(); ++k) {
    const Tensor value = parameters[k].detach().to(torch::kFloat64).flatten();
    const Tensor golden = torch::tensor(expected[k].get<std::vector<double>>(), torch::kFloat64);
    const Tensor error = (value - golden).abs() / golden.abs().clamp_min(1);
    EXPECT_LE(error.max().item<double>(), limit) << where << ", parameter " << k;
  }
}

class Golden : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Optimizers, Golden,
                         testing::Values("Adagrad", "Adam", "AdamW", "LAMB", "LBFGS", "Lion",
                                         "Muon", "RMSprop", "SGD", "ScheduleFreeAdamW"),
                         [](const auto& test) { return test.param; });

TEST_P(Golden, StepsEqualTheRecordedOnes) {
  const std::string& name = GetParam();
  std::ifstream file(test::tests_dir() / "golden/optimizers" / (name + ".json"));
  const json content = json::parse(file);
  ASSERT_FALSE(content.at("cases").empty());
  for (const json& golden : content["cases"]) {
    const auto dtype = golden["dtype"] == "float32" ? torch::kFloat32 : torch::kFloat64;
    Parameters parameters;
    for (const json& shape : golden["shapes"]) {
      parameters.push_back(initial(shape.get<std::vector<int64_t>>(), dtype));
    }
    const auto optimizer = kMakers.at(name)(parameters);
    load_optimizer_state(*optimizer, {.parameters = {{}, {}}, .groups = golden["groups"]});
    ASSERT_EQ(optimizer_state(*optimizer).groups[0]["lr"], golden["groups"][0]["lr"]);
    const double limit = tolerance(name, golden);
    for (int step = 0; step < 100; ++step) {
      if (name == "LBFGS") {
        optimizer->step([&] { return evaluate(parameters); });
      } else {
        set_gradients(parameters, step);
        optimizer->step();
      }
      const std::string number = std::to_string(step + 1);
      if (golden["parameters"].contains(number)) {
        expect_close(parameters, golden["parameters"][number], limit,
                     golden["case"].get<std::string>() + " after step " + number);
      }
    }
    if (auto* switching = dynamic_cast<ModeSwitching*>(optimizer.get())) {
      switching->eval();
      expect_close(parameters, golden["average"], limit, "average");
    }
  }
}

}  // namespace
}  // namespace trainer::optim

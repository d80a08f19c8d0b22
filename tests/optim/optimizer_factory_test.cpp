#include <trainer/optim/optimizer_factory.h>

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/nn/modules/linear.h>
#include <torch/types.h>

#include <trainer/builtins.h>
#include <trainer/core/error.h>
#include <trainer/core/registry.h>
#include <trainer/optim/adam.h>
#include <trainer/optim/factories.h>
#include <trainer/optim/optimizer_state.h>

#include <tests/support/thrown.h>

namespace trainer::optim {
namespace {

using test::thrown;

using nlohmann::json;
using Names = std::vector<std::vector<std::string>>;

/// fc1, norm and head with weights and biases; the last one of fc2 is frozen.
struct Net : torch::nn::Module {
  Net() {
    register_module("fc1", torch::nn::Linear(4, 3));
    register_module("fc2", torch::nn::Linear(3, 3));
    register_module("head", torch::nn::Linear(3, 2));
    named_parameters()["fc2.bias"].set_requires_grad(false);
  }
};

Spec<OptimizerFactory> spec(const std::string& yaml) {
  register_builtins();
  config::Diagnostics diagnostics;
  auto result = config::read<Spec<OptimizerFactory>>(config::parse_yaml(yaml, "c.yaml"),
                                                     "optimizer", diagnostics);
  diagnostics.throw_if_any();
  return result;
}

/// The names of the parameters of each group.
Names names(const torch::nn::Module& module, const torch::optim::Optimizer& optimizer) {
  Names result;
  for (const auto& group : optimizer.param_groups()) {
    auto& of_group = result.emplace_back();
    for (const auto& parameter : group.params()) {
      for (const auto& item : module.named_parameters()) {
        if (item.value().is_same(parameter)) {
          of_group.push_back(item.key());
        }
      }
    }
  }
  return result;
}

TEST(OptimizerFactory, MakesEveryBuiltInOptimizerWithItsDefaults) {
  torch::nn::Linear matrices(torch::nn::LinearOptions(4, 3).bias(false));
  const std::vector<std::pair<std::string, std::string>> defaults = {
      {"Adagrad", R"({"eps":1e-10,"initial_accumulator_value":0.0,"lr":0.01,"lr_decay":0.0,)"
                  R"("weight_decay":0.0})"},
      {"Adam",
       R"({"amsgrad":false,"betas":[0.9,0.999],"eps":1e-08,"lr":0.001,"weight_decay":0.0})"},
      {"AdamW",
       R"({"amsgrad":false,"betas":[0.9,0.999],"eps":1e-08,"lr":0.001,"weight_decay":0.01})"},
      {"LAMB", R"({"betas":[0.9,0.999],"eps":1e-06,"lr":0.001,"weight_decay":0.01})"},
      {"LBFGS", R"({"history_size":100,"line_search_fn":null,"lr":1.0,"max_eval":25,"max_iter":20,)"
                R"("tolerance_change":1e-09,"tolerance_grad":1e-07})"},
      {"Lion", R"({"betas":[0.9,0.99],"lr":0.0001,"weight_decay":0.0})"},
      {"Muon", R"({"adjust_lr_fn":"original","eps":1e-07,"lr":0.001,"momentum":0.95,)"
               R"("nesterov":true,"ns_coefficients":[3.4445,-4.775,2.0315],"ns_steps":5,)"
               R"("weight_decay":0.1})"},
      {"RMSprop", R"({"alpha":0.99,"centered":false,"eps":1e-08,"lr":0.01,"momentum":0.0,)"
                  R"("weight_decay":0.0})"},
      {"SGD", R"({"dampening":0.0,"lr":0.001,"momentum":0.0,"nesterov":false,"weight_decay":0.0})"},
      {"ScheduleFreeAdamW",
       R"({"betas":[0.9,0.999],"eps":1e-08,"k":0,"lr":0.0025,"lr_max":0.0,"r":0.0,)"
       R"("train_mode":true,"warmup_steps":0,"weight_decay":0.0,"weight_lr_power":2.0,)"
       R"("weight_sum":0.0})"}};
  std::vector<std::string> registered;
  for (const auto& [name, expected] : defaults) {
    const auto optimizer = spec(name).create()->create(*matrices);
    EXPECT_EQ(optimizer_state(*optimizer).groups.dump(), "[" + expected + "]") << name;
    registered.push_back(name);
  }
  std::vector<std::string> known;
  for (const auto& info : registry::list(OptimizerFactory::kKind)) {
    known.push_back(info->name);
    EXPECT_FALSE(info->doc.empty()) << info->name;
  }
  std::sort(known.begin(), known.end());
  std::sort(registered.begin(), registered.end());
  EXPECT_EQ(known, registered);
}

TEST(OptimizerFactory, TakesArgumentsFromYaml) {
  const Net net;
  const auto optimizer = spec(R"(
class_path: AdamW
init_args: {lr: 1.0e-2, weight_decay: 0.1, betas: [0.8, 0.95], eps: 1.0e-6, amsgrad: true}
)")
                             .create()
                             ->create(net);
  EXPECT_EQ(optimizer_state(*optimizer).groups.dump(),
            R"([{"amsgrad":true,"betas":[0.8,0.95],"eps":1e-06,"lr":0.01,"weight_decay":0.1}])");
  EXPECT_EQ(names(net, *optimizer),
            (Names{{"fc1.weight", "fc1.bias", "fc2.weight", "head.weight", "head.bias"}}));
}

TEST(OptimizerFactory, MakesGroupsByNames) {
  const Net net;
  const auto optimizer = spec(R"(
class_path: Adam
init_args:
  lr: 1.0e-3
  weight_decay: 0.1
  no_decay: '.*\.bias'
  groups:
    - {match: 'head\..*', lr: 1.0e-2}
    - {match: '.*2\..*', weight_decay: 0.3}
)")
                             .create()
                             ->create(net);
  EXPECT_EQ(names(net, *optimizer),
            (Names{{"head.bias"}, {"head.weight"}, {"fc2.weight"}, {"fc1.bias"}, {"fc1.weight"}}));
  std::vector<std::pair<double, double>> rates;
  for (const json& group : optimizer_state(*optimizer).groups) {
    rates.emplace_back(group["lr"], group["weight_decay"]);
  }
  EXPECT_EQ(rates, (std::vector<std::pair<double, double>>{
                       {1e-2, 0}, {1e-2, 0.1}, {1e-3, 0.3}, {1e-3, 0}, {1e-3, 0.1}}));
}

TEST(OptimizerFactory, IsMadeInCodeToo) {
  const Net net;
  const auto lion = use<factory::Lion>({.lr = 0.5, .no_decay = ".*bias"});
  EXPECT_EQ(lion.class_path, "Lion");
  EXPECT_EQ(lion.create()->create(net)->param_groups()[1].options().get_lr(), 0.5);
}

// A value that is the constructor's would be replaced by the defaults' otherwise.
TEST(ParameterGroups, KeepValuesThatAreTheConstructorsDefaults) {
  const Net net;
  const Adam optimizer(
      parameter_groups(net, AdamOptions(0.5).weight_decay(0.1),
                       {.no_decay = ".*bias", .groups = {{.match = "head.*", .lr = 1e-3}}}));
  std::vector<std::pair<double, double>> rates;
  for (const json& group : optimizer.optimizer_state().groups) {
    rates.emplace_back(group["lr"], group["weight_decay"]);
  }
  EXPECT_EQ(rates,
            (std::vector<std::pair<double, double>>{{1e-3, 0}, {1e-3, 0.1}, {0.5, 0}, {0.5, 0.1}}));
}

TEST(ParameterGroups, TakeAParameterWithTwoNamesOnce) {
  struct Tied : torch::nn::Module {
    Tied() {
      auto in = register_module("in", torch::nn::Linear(3, 3));
      auto out = register_module("out", torch::nn::Linear(3, 3));
      out->weight = out->register_parameter("tied", in->weight);
    }
  };
  const Tied tied;
  size_t num_parameters = 0;
  for (const auto& group : parameter_groups(tied, AdamOptions(), {.no_decay = "in.*"})) {
    num_parameters += group.params().size();
  }
  EXPECT_EQ(num_parameters, 4U);
}

TEST(ParameterGroups, RefusePatternsThatMatchNothing) {
  const Net net;
  const auto message = [&](const GroupRules& rules) {
    return thrown<ConfigError>([&] { parameter_groups(net, AdamOptions(), rules); });
  };
  const std::string all = "fc1.weight, fc1.bias, fc2.weight, head.weight, head.bias.";
  EXPECT_EQ(message({.no_decay = "bias"}),
            "no_decay: 'bias' matches no parameter that requires a gradient.\n"
            "  A pattern matches whole names. They are " +
                all);
  EXPECT_EQ(message({.groups = {{.match = "head.*"}, {.match = "fc2.bias"}}}),
            "groups[1].match: 'fc2.bias' matches no parameter that requires a gradient.\n"
            "  A pattern matches whole names. They are " +
                all);
  EXPECT_EQ(message({.groups = {{.match = ".*bias"}, {.match = "head.bias"}}}),
            "groups[1].match: every parameter that 'head.bias' matches belongs to a group before "
            "it.\n  The first group that matches holds: put the narrower pattern first.");
  EXPECT_EQ(message({.no_decay = "(bias"}).find("no_decay: is '(bias': must be a regular expres"),
            0U);
}

TEST(ParameterGroups, ShowAFewOfManyNames) {
  struct Deep : torch::nn::Module {
    Deep() {
      for (int i = 0; i < 5; ++i) {
        register_module("fc" + std::to_string(i), torch::nn::Linear(1, 1));
      }
    }
  };
  EXPECT_EQ(thrown<ConfigError>([] { parameter_groups(Deep(), AdamOptions(), {.no_decay = "x"}); }),
            "no_decay: 'x' matches no parameter that requires a gradient.\n"
            "  A pattern matches whole names. They are fc0.weight, fc0.bias, fc1.weight, fc1.bias, "
            "fc2.weight, fc2.bias, ... (10 in all).");
}

TEST(ParameterGroups, RefuseAModuleWithoutTrainableParameters) {
  torch::nn::Linear frozen(2, 2);
  for (auto& parameter : frozen->parameters()) {
    parameter.set_requires_grad(false);
  }
  EXPECT_EQ(thrown<UsageError>([&] { parameter_groups(*frozen, AdamOptions()); }),
            "torch::nn::LinearImpl: no parameter requires a gradient, so an optimizer has nothing "
            "to do.\n  Register the layers in the constructor, and freeze fewer of them.");
}

TEST(OptimizerFactory, TellsMistakesOfTheFileWithTheirPlaces) {
  const auto message = [](const std::string& args) {
    return thrown<ConfigError>([&] { spec("class_path: AdamW\ninit_args: {" + args + "}"); });
  };
  EXPECT_EQ(message("lr: -1"),
            "c.yaml:2:17: optimizer.init_args.lr: is '-1': must be at least 0.0.");
  EXPECT_EQ(message("betas: [0.9]"),
            "c.yaml:2:20: optimizer.init_args.betas: has 1 values: must have 2.");
  EXPECT_EQ(message("betas: [0.9, 1]"),
            "c.yaml:2:20: optimizer.init_args.betas: is a list: each must be at least 0 and below "
            "1.");
  EXPECT_EQ(message("groups: [{lr: 1}]"),
            "c.yaml:2:22: optimizer.init_args.groups[0].match: is required: Which parameters, by "
            "name: 'head\\..*'.");
  EXPECT_EQ(message("no_decay: '(bias'")
                .find("c.yaml:2:23: optimizer.init_args.no_decay: is the text \"(bias\": must be a "
                      "regular expression"),
            0U);
  EXPECT_EQ(thrown<ConfigError>([] {
              spec("AdamWW");
            }).find("c.yaml:1:1: optimizer: unknown optimizer 'AdamWW'. Did you mean 'AdamW'?"),
            0U);
}

}  // namespace
}  // namespace trainer::optim

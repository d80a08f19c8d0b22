#include <strategies/fsdp/unit_plan.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <strategies/fsdp/sharding_text.h>
#include <trainer/core/error.h>

#include <tests/support/thrown.h>

namespace trainer {
namespace {

namespace nn = torch::nn;

struct NetImpl : nn::Module {
  NetImpl() {
    for (int i = 0; i < 2; ++i) {
      blocks->push_back(nn::Sequential(nn::Linear(4, 8), nn::ReLU(), nn::Linear(8, 4)));
    }
    register_module("embed", embed);
    register_module("blocks", blocks);
    register_module("head", head);
    scale = register_parameter("scale", torch::ones({4}));
    tied = register_parameter("tied", embed->weight);
  }
  nn::Embedding embed{10, 4};
  nn::ModuleList blocks;
  nn::Linear head{4, 10};
  torch::Tensor scale, tied;
};
TORCH_MODULE(Net);

/// Unit by unit, the names of its parameters.
std::string shown(const std::vector<UnitPlan>& plan) {
  std::string text;
  for (const auto& unit : distinct(plan)) {
    text += unit.name + (unit.is_root ? "*:" : ":");
    for (const auto& [name, tensor] : unit.parameters) {
      text += " " + name;
    }
    text += "\n";
  }
  return text;
}

TEST(UnitPlan, ChildrenOfListsAreUnitsAndTheRestIsTheRoot) {
  EXPECT_EQ(shown(default_units(*Net())),
            "root*: scale tied head.weight head.bias\n"
            "blocks.0: blocks.0.0.weight blocks.0.0.bias blocks.0.2.weight blocks.0.2.bias\n"
            "blocks.1: blocks.1.0.weight blocks.1.0.bias blocks.1.2.weight blocks.1.2.bias\n");
}

TEST(UnitPlan, TheOutermostModulesThatFitAPatternAreUnits) {
  EXPECT_EQ(shown(units_by_name(*Net(), {"blocks.*.0"})),
            "root*: scale tied blocks.0.2.weight blocks.0.2.bias blocks.1.2.weight "
            "blocks.1.2.bias head.weight head.bias\n"
            "blocks.0.0: blocks.0.0.weight blocks.0.0.bias\n"
            "blocks.1.0: blocks.1.0.weight blocks.1.0.bias\n");
}

TEST(UnitPlan, APatternThatNothingFitsIsNamed) {
  const auto error = test::thrown<ConfigError>([] {
    units_by_name(*Net(), {"embed", "layers.*"});
  });
  EXPECT_NE(error.find("'layers.*'"), std::string::npos) << error;
  EXPECT_NE(error.find("describe-sharding"), std::string::npos) << error;
}

TEST(UnitPlan, TheSmallestModulesOfASizeAreUnits) {
  EXPECT_EQ(shown(units_by_size(*Net(), 70)),
            "root*: scale tied head.weight head.bias\n"
            "blocks.0: blocks.0.0.weight blocks.0.0.bias blocks.0.2.weight blocks.0.2.bias\n"
            "blocks.1: blocks.1.0.weight blocks.1.0.bias blocks.1.2.weight blocks.1.2.bias\n");
  EXPECT_EQ(shown(units_by_size(*Net(), 100'000)).find("\n"),
            shown(units_by_size(*Net(), 100'000)).size() - 1);  // only the root
}

TEST(UnitPlan, AUnitHasOneDtype) {
  nn::Sequential layers(nn::Linear(2, 2));
  layers[0]->as<nn::Linear>()->bias.set_data(torch::zeros({2}, torch::kFloat64));
  EXPECT_EQ(shown(default_units(*layers)), "0: 0.weight\n0 (Double): 0.bias\n");
}

TEST(ShardingText, SaysWhatARankHolds) {
  const auto plan = default_units(*nn::Sequential(nn::Linear(512, 512), nn::Linear(512, 512)));
  const auto text = describe_sharding(plan, /*replicas=*/2, /*shards=*/4, {});
  // 512 * 512 + 512 elements of 4 bytes are 1.002 MiB, a quarter of them 0.2505.
  EXPECT_NE(text.find("0           2        262656        0.25           1.00\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("8 ranks: 4 slices, each 2 times. A rank needs about 6.0 MiB"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace trainer

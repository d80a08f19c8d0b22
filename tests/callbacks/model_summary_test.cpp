#include <callbacks/model_summary.h>

#include <memory>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <tests/callbacks/callback_fixture.h>
#include <trainer/core/error.h>
#include <trainer/trainer.h>

namespace trainer {
namespace {

namespace nn = torch::nn;

struct BlockImpl : nn::Module {
  BlockImpl() {
    conv = register_module("conv", nn::Conv2d(nn::Conv2dOptions(1, 4, 3).bias(false)));
    norm = register_module("norm", nn::BatchNorm2d(4));
  }
  nn::Conv2d conv{nullptr};
  nn::BatchNorm2d norm{nullptr};
};
TORCH_MODULE(Block);

template <class T>
struct Wrapper : nn::Module {
  Wrapper() { register_parameter("scale", torch::ones({7})); }
};

struct Net : nn::Module {
  Net() {
    register_module("block", block);
    register_module("classifier", classifier);
    register_module("wrapper", std::make_shared<Wrapper<nn::LinearImpl>>());
    register_parameter("temperature", torch::ones({1}));
  }
  Block block;
  nn::Linear classifier{676, 128};
};

TEST(ModelSummary, ListsTheLayersAndTheirTotals) {
  Net net;
  net.block->eval();
  net.classifier->weight.set_requires_grad(false);
  EXPECT_EQ(model_summary(net, 1),
            "name        type                            params  mode\n"
            "---------------------------------------------------------\n"
            "block       Block                               44  eval\n"
            "classifier  Linear                          86,656  train\n"
            "wrapper     Wrapper<torch::nn::LinearImpl>       7  train\n"
            "(own)       Net                                  1  train\n"
            "---------------------------------------------------------\n"
            "   180  trainable params\n"
            "86,528  non-trainable params\n"
            "86,708  total params\n"
            " 0.347  MB of params");
}

TEST(ModelSummary, ListsAllLevelsOrNone) {
  const Net net;
  EXPECT_EQ(model_summary(net, -1), model_summary(net, 2));
  EXPECT_EQ(model_summary(net, -1),
            "name        type                            params  mode\n"
            "---------------------------------------------------------\n"
            "block       Block                               44  train\n"
            "block.conv  Conv2d                              36  train\n"
            "block.norm  BatchNorm2d                          8  train\n"
            "classifier  Linear                          86,656  train\n"
            "wrapper     Wrapper<torch::nn::LinearImpl>       7  train\n"
            "(own)       Net                                  1  train\n"
            "---------------------------------------------------------\n"
            "86,708  trainable params\n"
            "     0  non-trainable params\n"
            "86,708  total params\n"
            " 0.347  MB of params");
  EXPECT_EQ(model_summary(net, 0),
            "86,708  trainable params\n"
            "     0  non-trainable params\n"
            "86,708  total params\n"
            " 0.347  MB of params");
}

TEST(ModelSummary, CountsSharedParametersOnceInTheTotals) {
  /// Output weights that are the embedding, as in language models.
  struct Tied : nn::Module {
    Tied() {
      const auto weight = torch::ones({100, 8});
      for (const char* name : {"embedding", "head"}) {
        auto layer = std::make_shared<nn::Module>(name);
        layer->register_parameter("weight", weight);
        register_module(name, std::move(layer));
      }
    }
  };
  EXPECT_EQ(model_summary(Tied(), 1),
            "name       type    params  mode\n"
            "--------------------------------\n"
            "embedding  Module     800  train\n"
            "head       Module     800  train\n"
            "--------------------------------\n"
            "  800  trainable params\n"
            "    0  non-trainable params\n"
            "  800  total params\n"
            "0.003  MB of params");
}

TEST(ModelSummary, MeasuresTheBytesOfTheParameters) {
  Net net;
  net.to(torch::kBFloat16);
  const std::string text = model_summary(net, 0);
  EXPECT_NE(text.find("0.173  MB of params"), std::string::npos) << text;
}

TEST(ModelSummary, HasNoTableForAModelWithoutLayers) {
  EXPECT_EQ(model_summary(nn::Module(), -1),
            "    0  trainable params\n"
            "    0  non-trainable params\n"
            "    0  total params\n"
            "0.000  MB of params");
}

TEST(ModelSummary, IsPrintedWhenTrainingStarts) {
  TrainerConfig config = test::quiet();
  config.max_epochs = 1;
  config.enable_model_summary = true;
  test::ScriptedModule module;
  Trainer trainer(config);
  const std::string text =
      test::standard_error_of([&] { trainer.fit(module, test::make_loader(1)); });
  EXPECT_EQ(text, model_summary(module, 1) + "\n");
  EXPECT_THROW(use<ModelSummary>({.max_depth = -2}).create(), ConfigError);
}

}  // namespace
}  // namespace trainer

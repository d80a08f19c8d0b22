// Memory of a rank that trains 100 MB of parameters in 8 blocks with AdamW, for
// benchmarks/peak_memory.py to look at from outside.
//
//   mpirun -n N sharded_memory STRATEGY         a strategy in YAML: ddp, fsdp,
//                                               {class_path: fsdp, init_args: ...}
//
// Each rank prints base_mb, what it holds before it builds the blocks.

#include <tests/support/memory.h>
#include <trainer/builtins.h>
#include <trainer/core/yaml.h>
#include <trainer/world.h>

#include "mlp.h"

namespace {

constexpr int64_t kDim = 1024, kHidden = 1536, kBlocks = 8, kSteps = 6;

class Blocks : public trainer::Module {
 public:
  void configure_model() override {
    if (!blocks_->is_empty()) {
      return;
    }
    benchmark::print("base_mb",
                     static_cast<double>(trainer::test::proportional_bytes()) / (1 << 20));
    register_module("blocks", blocks_);
    for (int64_t i = 0; i < kBlocks; ++i) {
      blocks_->push_back(torch::nn::Sequential(torch::nn::Linear(kDim, kHidden), torch::nn::GELU(),
                                               torch::nn::Linear(kHidden, kDim)));
    }
  }
  torch::Tensor training_step(const trainer::Batch& batch, int64_t) override {
    auto x = batch[0];
    for (const auto& block : *blocks_) {
      x = block->as<torch::nn::Sequential>()->forward(x);
    }
    return x.pow(2).mean();
  }
  trainer::OptimizerConfig configure_optimizers() override {
    return std::make_unique<trainer::optim::AdamW>(parameters(),
                                                   trainer::optim::AdamWOptions(1e-3));
  }

 private:
  torch::nn::ModuleList blocks_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: sharded_memory STRATEGY\n");
    return 2;
  }
  torch::set_num_threads(1);
  trainer::register_builtins();
  trainer::TrainerConfig config;
  config.max_steps = kSteps;
  config.enable_checkpointing = false;
  config.enable_progress_bar = false;
  config.enable_model_summary = false;
  trainer::config::Diagnostics diagnostics;
  trainer::config::Codec<trainer::Spec<trainer::Strategy>>::read(
      trainer::config::parse_yaml(argv[1], "STRATEGY"), "strategy", diagnostics, config.strategy);
  diagnostics.throw_if_any();
  Blocks module;
  auto dataset = std::make_shared<trainer::TensorDataset>(
      std::vector{torch::randn({4 * kSteps * trainer::world().size(), kDim})});
  trainer::Trainer(config).fit(module, {std::move(dataset), {.batch_size = 4}});
}

#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/cli/command.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

/// Of strategies that do not shard.
std::string describe_whole(const torch::nn::Module& module) {
  int64_t numel = 0;
  size_t bytes = 0;
  for (const auto& parameter : module.parameters()) {
    numel += parameter.numel();
    bytes += parameter.nbytes();
  }
  return fmt::format(
      "every rank holds the whole module: {} elements, {:.1f} MiB; trainer.strategy=fsdp shards "
      "it\n",
      numel, static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

int describe_sharding(const Arguments& arguments) {
  const RunConfig config = read_config(arguments.config);
  const int64_t configured = config.trainer.devices.count * config.trainer.num_nodes;
  const auto ranks = static_cast<int>(arguments.ranks.value_or(std::max<int64_t>(1, configured)));
  const auto module = config.model.create();
  const auto strategy = config.trainer.strategy.create();
  {
    const auto scope = strategy->construction();
    module->configure_model();
  }
  const auto text = strategy->describe_sharding(*module, ranks);
  console::print(text.empty() ? describe_whole(*module) : text);
  return static_cast<int>(ExitCode::kOk);
}

}  // namespace trainer

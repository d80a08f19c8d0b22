#include <callbacks/monitored.h>

#include <vector>

#include <torch/utils.h>
#include <fmt/format.h>

#include <trainer/core/config.h>

namespace trainer {

std::optional<double> find_metric(const Trainer& trainer, const std::string& name) {
  const auto metrics = trainer.callback_metrics();
  const auto found = metrics.find(name);
  return found == metrics.end() ? std::nullopt : std::optional(found->second);
}

std::string no_such_metric(const Trainer& trainer, const std::string& name) {
  std::vector<std::string> names;
  std::string all;
  for (const auto& [logged, value] : trainer.callback_metrics()) {
    names.push_back(logged);
    all += (all.empty() ? "" : ", ") + logged;
  }
  return fmt::format("there is no metric '{}'.{}\n  Logged so far: {}.", name,
                     config::did_you_mean(name, names), all.empty() ? "nothing" : all);
}

bool any_rank(Strategy& strategy, bool decision) {
  if (strategy.world_size() == 1) {
    return decision;
  }
  torch::Tensor flag = torch::full({1}, decision ? 1.0 : 0.0, strategy.device());
  strategy.all_reduce(flag, ReduceOp::kMax);
  return flag.item<float>() > 0;
}

}  // namespace trainer

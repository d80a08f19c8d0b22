#include <callbacks/monitored.h>

#include <vector>

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

}  // namespace trainer

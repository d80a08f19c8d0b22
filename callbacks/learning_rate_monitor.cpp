#include <callbacks/learning_rate_monitor.h>

#include <typeinfo>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>
#include <trainer/core/type_name.h>
#include <trainer/optim/optimizer_state.h>
#include <trainer/trainer.h>

namespace trainer {
namespace {

/// Momentum of a group's options: what SGD calls momentum and the Adams the first of their betas.
double momentum(const nlohmann::json& options) {
  return options.contains("betas") ? options["betas"][0].get<double>()
                                   : options.value("momentum", 0.0);
}

}  // namespace

std::vector<std::string> learning_rate_names(const torch::optim::Optimizer& optimizer) {
  const std::string base = "lr-" + type_name(typeid(optimizer));
  const size_t num_groups = optimizer.param_groups().size();
  std::vector<std::string> names;
  for (size_t i = 1; i <= num_groups; ++i) {
    names.push_back(num_groups == 1 ? base : fmt::format("{}/pg{}", base, i));
  }
  return names;
}

void LearningRateMonitor::on_train_start(Trainer& trainer, Module&) {
  const auto& optimizer = trainer.optimizer();
  if ((init_.log_momentum || init_.log_weight_decay) && !has_optimizer_state(optimizer)) {
    throw UsageError(fmt::format(
        "LearningRateMonitor: {} does not tell its momentum and weight decay. Derive it from "
        "StatefulOptimizer, or set log_momentum and log_weight_decay to false.",
        type_name(typeid(optimizer))));
  }
  names_ = learning_rate_names(optimizer);
}

void LearningRateMonitor::on_train_epoch_start(Trainer& trainer, Module&) {
  if (logs_epochs()) {
    log(trainer, {.on_step = false, .on_epoch = true});
  }
}

void LearningRateMonitor::on_train_batch_start(Trainer& trainer, Module&, const Batch&, int64_t) {
  const int64_t interval = trainer.config().log_every_n_steps;
  const bool is_logged = interval > 0 && (trainer.progress().global_step + 1) % interval == 0;
  if (is_logged && !logs_epochs()) {
    log(trainer, {.on_step = true, .on_epoch = false});
  }
}

void LearningRateMonitor::log(Trainer& trainer, const LogOptions& options) {
  const auto& optimizer = trainer.optimizer();
  const auto& groups = optimizer.param_groups();
  if (names_.size() != groups.size()) {
    names_ = learning_rate_names(optimizer);  // the module added a group
  }
  for (size_t i = 0; i < groups.size(); ++i) {
    trainer.log(names_[i], groups[i].options().get_lr(), options);
  }
  if (!init_.log_momentum && !init_.log_weight_decay) {
    return;
  }
  const auto group_options = optimizer_state(optimizer).groups;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (init_.log_momentum) {
      trainer.log(names_[i] + "-momentum", momentum(group_options[i]), options);
    }
    if (init_.log_weight_decay) {
      trainer.log(names_[i] + "-weight_decay", group_options[i].value("weight_decay", 0.0),
                  options);
    }
  }
}

}  // namespace trainer

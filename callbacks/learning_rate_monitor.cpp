#include <callbacks/learning_rate_monitor.h>

#include <map>
#include <typeinfo>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

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

std::vector<std::string> learning_rate_names(const Optimizers& optimizers) {
  std::map<std::string, int> seen;
  std::vector<std::string> names;
  for (const auto* optimizer : optimizers) {
    std::string base = "lr-" + type_name(typeid(*optimizer));
    if (const int earlier = seen[base]++; earlier > 0) {
      base += fmt::format("-{}", earlier);
    }
    const size_t num_groups = optimizer->param_groups().size();
    for (size_t i = 1; i <= num_groups; ++i) {
      names.push_back(num_groups == 1 ? base : fmt::format("{}/pg{}", base, i));
    }
  }
  return names;
}

void LearningRateMonitor::on_train_start(Trainer& trainer, Module&) {
  names_ = learning_rate_names(trainer.optimizers());
}

void LearningRateMonitor::on_train_epoch_start(Trainer& trainer, Module&) {
  if (logs_epochs()) {
    log(trainer, {.on_step = false, .on_epoch = true});
  }
}

void LearningRateMonitor::on_train_batch_start(Trainer& trainer, Module&, const Batch&, int64_t) {
  const int64_t interval = trainer.config().log_every_n_steps;
  const bool is_logged = interval > 0 && (trainer.progress().stepped_batches + 1) % interval == 0;
  if (is_logged && !logs_epochs()) {
    log(trainer, {.on_step = true, .on_epoch = false});
  }
}

void LearningRateMonitor::log(Trainer& trainer, const LogOptions& options) {
  const auto optimizers = trainer.optimizers();
  size_t num_groups = 0;
  for (const auto* optimizer : optimizers) {
    num_groups += optimizer->param_groups().size();
  }
  if (names_.size() != num_groups) {
    names_ = learning_rate_names(optimizers);  // the module added a group
  }
  auto name = names_.begin();
  for (const auto* optimizer : optimizers) {
    for (const auto& group : optimizer->param_groups()) {
      trainer.log(*name++, group.options().get_lr(), options);
    }
  }
  if (init_.log_momentum || init_.log_weight_decay) {
    log_options(trainer, options);
  }
}

void LearningRateMonitor::log_options(Trainer& trainer, const LogOptions& options) const {
  auto name = names_.begin();
  for (const auto* optimizer : trainer.optimizers()) {
    for (const auto& group : optimizer_state(*optimizer).groups) {
      if (init_.log_momentum) {
        trainer.log(*name + "-momentum", momentum(group), options);
      }
      if (init_.log_weight_decay) {
        trainer.log(*name + "-weight_decay", group.value("weight_decay", 0.0), options);
      }
      ++name;
    }
  }
}

}  // namespace trainer

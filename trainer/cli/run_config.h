#pragma once
// The configuration of one run, as YAML has it.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <trainer/core/registry.h>
#include <trainer/data/data_module.h>
#include <trainer/module.h>
#include <trainer/optim/optimizer_choice.h>
#include <trainer/trainer_config.h>

namespace trainer {

struct RunConfig {
  int64_t seed_everything = 42;
  std::vector<std::string> plugins = {};
  TrainerConfig trainer = {};
  Spec<Module> model = {};
  Spec<DataModule> data = {};
  std::optional<Spec<OptimizerFactory>> optimizer = std::nullopt;
  std::optional<Spec<LRSchedulerFactory>> lr_scheduler = std::nullopt;
  std::optional<std::string> lr_scheduler_interval = std::nullopt;
  int64_t lr_scheduler_frequency = 1;
  std::optional<std::string> lr_scheduler_monitor = std::nullopt;

  static constexpr auto fields() {
    using config::field, config::at_least, config::one_of, config::required;
    using T = RunConfig;
    return std::tuple{
        field<&T::seed_everything>(
            "Seed of weights, data order and everything else that is random.", at_least(0)),
        field<&T::plugins>(
            "Plug-ins to load, by name from the plug-in folder of this installation."),
        field<&T::trainer>("The Trainer."),
        field<&T::model>("The module to train.", required()),
        field<&T::data>("The data to train on.", required()),
        field<&T::optimizer>("The optimizer, instead of the module's configure_optimizers()."),
        field<&T::lr_scheduler>("The schedule of the learning rate of `optimizer`."),
        field<&T::lr_scheduler_interval>("Step it after each optimizer step, or each epoch; unset: "
                                         "step, or epoch where it follows a "
                                         "metric.",
                                         one_of("step", "epoch")),
        field<&T::lr_scheduler_frequency>("Step it every so many steps or epochs.", at_least(1)),
        field<&T::lr_scheduler_monitor>("The metric that a schedule as ReduceLROnPlateau follows."),
    };
  }

  /// lr_scheduler needs optimizer. Throws ConfigError.
  void validate() const;
  std::optional<OptimizerChoice> optimizer_choice() const;
};

/// Where a configuration comes from.
struct ConfigSources {
  std::vector<std::string> files;
  std::vector<std::string> overrides;  // "a.b=c"
  std::vector<std::string> plugins;    // paths, beside what the configuration names
};

/// Lays the files over each other in order, then the overrides, loads the plug-ins, and reads the
/// tree. Throws ConfigError with every mistake at once.
RunConfig read_config(const ConfigSources& sources);
/// Reads a tree whose plug-ins are loaded, with every class's arguments complete. Throws
/// ConfigError with the mistakes of `diagnostics` and of the tree.
RunConfig read_config(const config::Node& tree, config::Diagnostics& diagnostics);

/// Loads the plug-ins of a configuration, which may lack the rest. Throws ConfigError.
void load_plugins(const ConfigSources& sources);

}  // namespace trainer

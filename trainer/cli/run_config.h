#pragma once
// The configuration of one run, as YAML has it.

#include <cstdint>
#include <string>
#include <vector>

#include <trainer/core/registry.h>
#include <trainer/data/data_module.h>
#include <trainer/module.h>
#include <trainer/trainer_config.h>

namespace trainer {

struct RunConfig {
  int64_t seed_everything = 42;
  std::vector<std::string> plugins = {};
  TrainerConfig trainer = {};
  Spec<Module> model = {};
  Spec<DataModule> data = {};

  static constexpr auto fields() {
    using config::field, config::at_least, config::required;
    using T = RunConfig;
    return std::tuple{
        field<&T::seed_everything>(
            "Seed of weights, data order and everything else that is random.", at_least(0)),
        field<&T::plugins>(
            "Plug-ins to load, by name; they lie in the plug-in folder of this installation."),
        field<&T::trainer>("The Trainer."),
        field<&T::model>("The module to train.", required()),
        field<&T::data>("The data to train on.", required()),
    };
  }
};

/// Lays the files over each other in order, then the overrides (`a.b=c`), and loads the plug-ins
/// they name and those in `plugin_paths`. Returns the tree, its classes not looked up yet. Throws
/// ConfigError.
config::Node load_config(const std::vector<std::string>& files,
                         const std::vector<std::string>& overrides,
                         const std::vector<std::string>& plugin_paths);

/// Reads the tree, with every mistake at once. Throws ConfigError.
RunConfig resolve_config(const config::Node& tree);

}  // namespace trainer

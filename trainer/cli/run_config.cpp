#include <trainer/cli/run_config.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include <trainer/cli/plugin.h>
#include <trainer/core/error.h>
#include <trainer/world.h>

namespace trainer {
namespace {

/// The files are rank 0's: other nodes need not have them, or may have others of that name.
config::Node read_file(const std::string& file) {
  std::string text;
  std::optional<ConfigError> unreadable;
  if (world().is_global_zero()) {
    try {
      text = config::read_yaml_text(file);
    } catch (const ConfigError& error) {
      unreadable = error;
    }
  }
  text = world().broadcast(std::move(text));
  if (unreadable) {
    throw *unreadable;
  }
  return config::parse_yaml(text, file);
}

config::Node merge_files(const std::vector<std::string>& files, config::Diagnostics& diagnostics) {
  config::Node tree = config::Node::map();
  tree.mark.source =
      std::make_shared<const std::string>(files.empty() ? "command line" : files.back());
  for (const auto& file : files) {
    try {
      const config::Node content = read_file(file);
      if (content.is_map()) {
        config::merge(tree, content);
      } else if (!content.is_null()) {
        throw ConfigError(fmt::format("{}: is {}, not a map of keys.", file, content.describe()));
      }
    } catch (const ConfigError& error) {
      diagnostics.add(error);
    }
  }
  return tree;
}

/// Those that the configuration names lie in the plug-in folder: what is data may not load code
/// from anywhere else.
void load_plugins_of(const config::Node& tree, const std::vector<std::string>& paths,
                     config::Diagnostics& diagnostics) {
  const auto load = [&](const std::string& name_or_path, const config::Mark& mark) {
    try {
      load_plugin(name_or_path);
    } catch (const ConfigError& error) {
      diagnostics.add(mark, "", error.what());
    }
  };
  for (const auto& path : paths) {
    load(std::filesystem::absolute(path),
         {std::make_shared<const std::string>("--plugin " + path)});
  }
  const config::Node* given = tree.find("plugins");
  if (given == nullptr) {
    return;
  }
  const size_t before = diagnostics.size();
  const auto names = config::read<std::vector<std::string>>(*given, "plugins", diagnostics);
  for (size_t i = 0; i < names.size() && diagnostics.size() == before; ++i) {
    const config::Mark& mark = given->items()[i].mark;
    if (names[i].find('/') != std::string::npos) {
      diagnostics.add(mark, "plugins",
                      fmt::format("'{0}' is a path. A configuration names plug-ins of the plug-in "
                                  "folder only; give this one on the command line: --plugin {0}.",
                                  names[i]));
    } else {
      load(names[i], mark);
    }
  }
}

/// The tree, its classes not looked up yet. What is no override or no plug-in is told to
/// `diagnostics`. Throws when a file cannot be read.
config::Node load_config(const ConfigSources& sources, config::Diagnostics& diagnostics) {
  config::Node tree = merge_files(sources.files, diagnostics);
  diagnostics.throw_if_any();  // what the other files lack may stand in the one that was not read
  for (const auto& assignment : sources.overrides) {
    try {
      config::apply_override(tree, assignment);
    } catch (const ConfigError& error) {
      diagnostics.add(error);
    }
  }
  load_plugins_of(tree, sources.plugins, diagnostics);
  return tree;
}

}  // namespace

void RunConfig::validate() const {
  if (lr_scheduler && !optimizer) {
    throw ConfigError(
        "lr_scheduler is set without optimizer. Choose both here, or both in the module's "
        "configure_optimizers().");
  }
}

std::optional<OptimizerChoice> RunConfig::optimizer_choice() const {
  if (!optimizer) {
    return std::nullopt;
  }
  std::optional<Interval> interval;
  if (lr_scheduler_interval) {
    interval = *lr_scheduler_interval == "epoch" ? Interval::kEpoch : Interval::kStep;
  }
  return OptimizerChoice{.optimizer = *optimizer,
                         .lr_scheduler = lr_scheduler,
                         .interval = interval,
                         .frequency = lr_scheduler_frequency,
                         .monitor = lr_scheduler_monitor};
}

void load_plugins(const ConfigSources& sources) {
  config::Diagnostics diagnostics;
  load_config(sources, diagnostics);
  diagnostics.throw_if_any();
}

RunConfig read_config(const config::Node& tree, config::Diagnostics& diagnostics) {
  const auto config = config::read<RunConfig>(tree, "", diagnostics);
  diagnostics.throw_if_any();
  // Once more, so that defaults that name a class ("auto") are complete too.
  auto complete = config::read<RunConfig>(config::write(config), "", diagnostics);
  diagnostics.throw_if_any();
  return complete;
}

RunConfig read_config(const ConfigSources& sources) {
  config::Diagnostics diagnostics;
  const config::Node tree = load_config(sources, diagnostics);
  return read_config(tree, diagnostics);
}

}  // namespace trainer

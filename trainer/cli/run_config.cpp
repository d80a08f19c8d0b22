#include <trainer/cli/run_config.h>

#include <fmt/format.h>

#include <trainer/cli/plugin.h>
#include <trainer/core/error.h>

namespace trainer {

config::Node load_config(const std::vector<std::string>& files,
                         const std::vector<std::string>& overrides,
                         const std::vector<std::string>& plugin_paths) {
  config::Node tree = config::Node::map();
  tree.mark.source =
      std::make_shared<const std::string>(files.empty() ? "command line" : files.back());
  for (const auto& file : files) {
    const config::Node content = config::parse_yaml_file(file);
    if (!content.is_map() && !content.is_null()) {
      throw ConfigError(fmt::format("{}: is {}, not a map of keys.", file, content.describe()));
    }
    if (content.is_map()) {
      config::merge(tree, content);
    }
  }
  for (const auto& assignment : overrides) {
    config::apply_override(tree, assignment);
  }
  for (const auto& path : plugin_paths) {
    load_plugin_file(path);
  }
  if (const config::Node* names = tree.find("plugins")) {
    config::Diagnostics diagnostics;
    const auto plugins = config::read<std::vector<std::string>>(*names, "plugins", diagnostics);
    diagnostics.throw_if_any();
    for (size_t i = 0; i < plugins.size(); ++i) {
      load_plugin(plugins[i], names->items()[i].mark.str());
    }
  }
  return tree;
}

RunConfig resolve_config(const config::Node& tree) {
  config::Diagnostics diagnostics;
  auto config = config::read<RunConfig>(tree, "", diagnostics);
  diagnostics.throw_if_any();
  // Once more, so that defaults that name a class ("auto") are complete too.
  return config::read<RunConfig>(config::write(config), "", diagnostics);
}

}  // namespace trainer

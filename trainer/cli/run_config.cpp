#include <trainer/cli/run_config.h>

#include <filesystem>
#include <memory>
#include <set>
#include <utility>

#include <fmt/format.h>

#include <trainer/cli/plugin.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

config::Node merge_files(const std::vector<std::string>& files, config::Diagnostics& diagnostics) {
  config::Node tree = config::Node::map();
  tree.mark.source =
      std::make_shared<const std::string>(files.empty() ? "command line" : files.back());
  for (const auto& file : files) {
    try {
      const config::Node content = config::parse_yaml_file(file);
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

void load_listed_plugins(config::Node& tree, const std::vector<std::string>& paths,
                         config::Diagnostics& diagnostics) {
  std::vector<std::pair<std::string, config::Mark>> names;
  if (const config::Node* given = tree.find("plugins")) {
    const size_t before = diagnostics.size();
    const auto listed = config::read<std::vector<std::string>>(*given, "plugins", diagnostics);
    if (diagnostics.size() > before) {
      return;
    }
    for (size_t i = 0; i < listed.size(); ++i) {
      names.emplace_back(absolute_plugin(listed[i]), given->items()[i].mark);
    }
  }
  for (const auto& path : paths) {
    names.emplace_back(absolute_plugin(std::filesystem::absolute(path)),
                       config::Mark{std::make_shared<const std::string>("--plugin " + path)});
  }
  std::set<std::string> seen;
  config::Node plugins = config::Node::sequence();
  for (const auto& [name, mark] : names) {
    if (!seen.insert(name).second) {
      continue;
    }
    plugins.push_back(config::write(name));
    try {
      load_plugin(name);
    } catch (const ConfigError& error) {
      diagnostics.add(mark, "", error.what());
    }
  }
  tree.set("plugins", std::move(plugins));
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
  load_listed_plugins(tree, sources.plugins, diagnostics);
  return tree;
}

}  // namespace

void load_plugins(const ConfigSources& sources) {
  config::Diagnostics diagnostics;
  load_config(sources, diagnostics);
  diagnostics.throw_if_any();
}

RunConfig read_config(const ConfigSources& sources) {
  config::Diagnostics diagnostics;
  const config::Node tree = load_config(sources, diagnostics);
  const auto config = config::read<RunConfig>(tree, "", diagnostics);
  diagnostics.throw_if_any();
  // Once more, so that defaults that name a class ("auto") are complete too.
  auto complete = config::read<RunConfig>(config::write(config), "", diagnostics);
  diagnostics.throw_if_any();
  return complete;
}

}  // namespace trainer

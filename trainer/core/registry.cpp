#include <trainer/core/registry.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/error.h>

namespace trainer {
namespace registry {
namespace {

using Classes = std::map<std::string, std::shared_ptr<const ClassInfo>, std::less<>>;

struct State {
  std::mutex mutex;
  std::map<std::string, Classes, std::less<>> kinds;
  std::vector<std::string> clashes;  // of static initialisers of this program
};

// Lives here, in the one shared library, so that plug-ins and the program see the same classes.
State& state() {
  static State instance;
  return instance;
}

// Static initialisers of a plug-in run on the thread that loads it.
thread_local Load* current_load = nullptr;

/// Adds to `kinds`, or returns what is wrong.
std::string try_add(std::map<std::string, Classes, std::less<>>& kinds, std::string_view kind,
                    ClassInfo info) {
  auto& place = kinds[std::string(kind)][info.name];
  // By address: two plug-ins may each have a class Net, and type_info would compare their names.
  if (place != nullptr && place->type != info.type) {
    return fmt::format("the {} '{}' is registered twice ({}; {}). Rename one of them.", kind,
                       info.name, place->origin, info.origin);
  }
  place = std::make_shared<const ClassInfo>(std::move(info));
  return "";
}

}  // namespace

bool add(std::string_view kind, ClassInfo info) {
  if (current_load != nullptr) {
    info.origin = current_load->origin_;
    current_load->classes_.emplace_back(kind, std::move(info));
    return true;
  }
  info.origin = "this program";
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (const auto clash = try_add(state().kinds, kind, std::move(info)); !clash.empty()) {
    throw UsageError(clash);
  }
  return true;
}

bool add_at_start(bool (*registration)()) noexcept {
  if (current_load != nullptr) {
    current_load->pending_.push_back(registration);
    return true;
  }
  try {
    return registration();
  } catch (const UsageError& clash) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    state().clashes.emplace_back(clash.what());
    return false;
  }
}

Load::Load(std::string origin) : origin_(std::move(origin)) {
  TRAINER_CHECK(current_load == nullptr, "a Load within a Load");
  current_load = this;
}

Load::~Load() { current_load = nullptr; }

void Load::commit() {
  for (const auto registration : std::exchange(pending_, {})) {
    registration();
  }
  const std::lock_guard<std::mutex> lock(state().mutex);
  auto kinds = state().kinds;
  auto clashes = state().clashes;
  for (auto& [kind, info] : std::exchange(classes_, {})) {
    if (auto clash = try_add(kinds, kind, std::move(info)); !clash.empty()) {
      clashes.push_back(std::move(clash));
    }
  }
  if (!clashes.empty()) {
    throw ConfigError(fmt::format("{}", fmt::join(clashes, "\n")));
  }
  state().kinds = std::move(kinds);
}

std::shared_ptr<const ClassInfo> find(std::string_view kind, std::string_view name) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  const auto classes = state().kinds.find(kind);
  if (classes == state().kinds.end()) {
    return nullptr;
  }
  if (const auto named = classes->second.find(name); named != classes->second.end()) {
    return named->second;
  }
  for (const auto& [class_name, info] : classes->second) {
    if (std::find(info->aliases.begin(), info->aliases.end(), name) != info->aliases.end()) {
      return info;
    }
  }
  return nullptr;
}

std::vector<std::shared_ptr<const ClassInfo>> list(std::string_view kind) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  std::vector<std::shared_ptr<const ClassInfo>> all;
  if (const auto classes = state().kinds.find(kind); classes != state().kinds.end()) {
    for (const auto& [name, info] : classes->second) {
      all.push_back(info);
    }
  }
  return all;
}

std::string unknown_class(std::string_view kind, std::string_view name) {
  std::vector<std::string> names;
  for (const auto& info : list(kind)) {
    names.push_back(info->name);
    names.insert(names.end(), info->aliases.begin(), info->aliases.end());
  }
  return fmt::format(
      "unknown {} '{}'.{} `trainer list` shows what there is; a class of a plug-in needs `plugins: "
      "[name]` or --plugin.",
      kind, name, config::did_you_mean(name, names));
}

}  // namespace registry

namespace detail {

void read_spec(std::string_view kind, const config::Node& node, const std::string& path,
               config::Diagnostics& diagnostics, std::string& class_path, config::Node& init_args) {
  const config::Node* name = &node;
  config::Node args = config::Node::map();
  std::string args_path = path;
  if (node.is_map()) {
    name = node.find("class_path");
    const auto named =
        name != nullptr && name->is_scalar() ? registry::find(kind, name->text()) : nullptr;
    // An argument that stands beside class_path belongs one level deeper.
    const auto argument_hint = [&](const std::string& key) {
      const auto is_key = [&](const auto& field) { return field.name == key; };
      const bool is_argument =
          named != nullptr && std::any_of(named->fields.begin(), named->fields.end(), is_key);
      return is_argument ? fmt::format(" It is an argument of {}: write {}.init_args.{}.",
                                       named->name, path, key)
                         : std::string();
    };
    config::detail::check_keys(node, path, {"class_path", "init_args"}, diagnostics, argument_hint);
    if (name == nullptr) {
      diagnostics.add(node.mark, path, fmt::format("needs class_path, the {}'s name.", kind));
      return;
    }
    if (const config::Node* given = node.find("init_args"); given != nullptr && !given->is_null()) {
      args = *given;
      args_path = config::detail::join(path, "init_args");
    } else {
      args.mark = node.mark;
    }
  } else {
    args.mark = node.mark;
  }
  if (!name->is_scalar()) {
    diagnostics.add(
        name->mark, path,
        fmt::format(
            "is {}, which names no {}. Write its name, or {{class_path: ..., init_args: {{...}}}}.",
            name->describe(), kind));
    return;
  }
  const auto info = registry::find(kind, name->text());
  if (info == nullptr) {
    diagnostics.add(name->mark, path, registry::unknown_class(kind, name->text()));
    return;
  }
  class_path = info->name;
  init_args = info->resolve(args, args_path, diagnostics);
}

config::Node write_spec(const std::string& class_path, const config::Node& init_args) {
  config::Node node = config::Node::map();
  node.set("class_path", config::Node::scalar(class_path));
  node.set("init_args", init_args);
  return node;
}

std::shared_ptr<const ClassInfo> find_class(std::string_view kind, const std::string& name) {
  const auto info = registry::find(kind, name);
  if (info == nullptr) {
    throw ConfigError(registry::unknown_class(kind, name));
  }
  return info;
}

}  // namespace detail
}  // namespace trainer

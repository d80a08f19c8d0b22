#include <trainer/cli/plugin.h>

#include <dlfcn.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/config.h>
#include <trainer/core/error.h>
#include <trainer/core/registry.h>
#include <trainer/version.h>

namespace trainer {
namespace {

/// Loads the library; its static initialisers register its classes.
void load(const fs::Path& path, const std::string& name, const std::string& where) {
  const registry::OriginScope origin(fmt::format("plug-in {}", name));
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw ConfigError(
        fmt::format("{}: cannot load the plug-in {}: {}.\n  Build it against this trainer ({}).",
                    where, path.string(), ::dlerror(), kVersion));
  }
  const auto version =
      reinterpret_cast<const char* (*)()>(::dlsym(handle, "trainer_plugin_version"));
  if (version == nullptr) {
    throw ConfigError(
        fmt::format("{}: {} registers no class. Use TRAINER_REGISTER_MODULE and the like in it.",
                    where, path.string()));
  }
  if (std::string(version()) != kVersion) {
    throw ConfigError(
        fmt::format("{}: the plug-in {} was built for trainer {}, this is {}. Build it again.",
                    where, path.string(), version(), kVersion));
  }
}

}  // namespace

fs::Path plugin_folder() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&plugin_folder), &info) == 0 ||
      info.dli_fname == nullptr) {
    return "";
  }
  return std::filesystem::absolute(info.dli_fname).lexically_normal().parent_path() / "trainer" /
         "plugins";
}

std::vector<std::string> available_plugins() {
  std::vector<std::string> names;
  std::error_code error;  // an installation without plug-ins has no such folder
  for (const auto& entry : std::filesystem::directory_iterator(plugin_folder(), error)) {
    const std::string stem = entry.path().stem().string();
    if (entry.path().extension() == ".so" && stem.starts_with("lib")) {
      names.push_back(stem.substr(3));
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

void load_plugin(const std::string& name, const std::string& where) {
  const auto available = available_plugins();
  if (std::find(available.begin(), available.end(), name) == available.end()) {
    const bool is_path = name.find('/') != std::string::npos;
    throw ConfigError(fmt::format(
        "{}: plugins: {} '{}'.{} There are: {}.", where,
        is_path ? "a configuration names plug-ins, not paths (--plugin takes a path); got"
                : "no plug-in",
        name, config::did_you_mean(name, available),
        available.empty() ? "none" : fmt::format("{}", fmt::join(available, ", "))));
  }
  load(plugin_folder() / fmt::format("lib{}.so", name), name, where);
}

void load_plugin_file(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    throw ConfigError(fmt::format(
        "--plugin {}: there is no such file. Build the plug-in, then give its path.", path));
  }
  // An absolute path: the loader would look a bare name up in its own folders.
  load(std::filesystem::absolute(path), path, "--plugin");
}

}  // namespace trainer

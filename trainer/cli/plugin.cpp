#include <trainer/cli/plugin.h>

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/config.h>
#include <trainer/core/error.h>
#include <trainer/core/log.h>
#include <trainer/core/registry.h>
#include <trainer/version.h>

namespace trainer {
namespace {

bool is_path(const std::string& name_or_path) {
  return name_or_path.find('/') != std::string::npos;
}

/// The version that the plug-in was built for, or nullptr when it registers no class.
const char* version_of(void* library) {
  using Version = const char* (*)();
  void* symbol = ::dlsym(library, "trainer_plugin_version");
  Dl_info found{};
  link_map* loaded = nullptr;
  // dlsym() looks into libtrainer too, on which the plug-in depends.
  const bool own = symbol != nullptr && ::dladdr(symbol, &found) != 0 &&
                   ::dlinfo(library, RTLD_DI_LINKMAP, &loaded) == 0 &&
                   std::string_view(found.dli_fname) == loaded->l_name;
  return own ? reinterpret_cast<Version>(symbol)() : nullptr;
}

/// `name` is what the user wrote. A library that is refused stays in memory: to unload it would run
/// more of its code.
void load(const fs::Path& path, const std::string& name) {
  registry::Load classes(fmt::format("plug-in {}", name));
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw ConfigError(
        fmt::format("cannot load the plug-in {}: {}.\n  Build it against this trainer ({}).",
                    path.string(), ::dlerror(), kVersion));
  }
  const char* version = version_of(library);
  if (version == nullptr) {
    throw ConfigError(fmt::format(
        "the plug-in {} registers no class. Use TRAINER_REGISTER_MODULE and the like in it.",
        path.string()));
  }
  if (std::string_view(version) != kVersion) {
    throw ConfigError(
        fmt::format("the plug-in {} was built for trainer {}, this is {}. Build it again.",
                    path.string(), version, kVersion));
  }
  classes.commit();
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

void load_plugin(const std::string& name_or_path) {
  if (is_path(name_or_path)) {
    const std::string path = std::filesystem::absolute(name_or_path).lexically_normal();
    if (!std::filesystem::exists(path)) {
      throw ConfigError(fmt::format(
          "there is no plug-in {}. Build it, or check the path; relative paths start at the "
          "current folder.",
          path));
    }
    load(path, path);
    return;
  }
  const auto available = available_plugins();
  if (std::find(available.begin(), available.end(), name_or_path) == available.end()) {
    throw ConfigError(fmt::format(
        "no plug-in '{}'.{} There are: {}. One that lies elsewhere is given by --plugin PATH.",
        name_or_path, config::did_you_mean(name_or_path, available),
        available.empty() ? "none" : fmt::format("{}", fmt::join(available, ", "))));
  }
  load(plugin_folder() / fmt::format("lib{}.so", name_or_path), name_or_path);
}

void load_available_plugins() {
  for (const auto& name : available_plugins()) {
    try {
      load_plugin(name);
    } catch (const ConfigError& error) {
      log::warning(error.what());
    }
  }
}

}  // namespace trainer

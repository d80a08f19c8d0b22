#pragma once
// Plug-ins: shared libraries whose registered classes YAML can name. TRAINER_REGISTER_* in the
// library is all it takes.

#include <string>
#include <vector>

#include <trainer/core/filesystem.h>

namespace trainer {

/// Loads the plug-in `name` from the plug-in folder; a configuration can name only these.
/// Idempotent. Throws ConfigError, beginning with `where`, for a name that is a path or that is not
/// there.
void load_plugin(const std::string& name, const std::string& where);

/// Loads a shared library given on the command line. Throws ConfigError when it cannot be loaded.
void load_plugin_file(const std::string& path);

/// `lib/trainer/plugins` beside libtrainer, in the build tree and in an installation.
fs::Path plugin_folder();

/// Names of the plug-ins in the plug-in folder.
std::vector<std::string> available_plugins();

}  // namespace trainer

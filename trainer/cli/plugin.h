#pragma once
// Plug-ins: shared libraries whose registered classes YAML can name. TRAINER_REGISTER_* in the
// library is all it takes.

#include <string>
#include <vector>

#include <trainer/core/filesystem.h>

namespace trainer {

/// Loads a plug-in: by its name from the plug-in folder, or by its path, which has a '/'.
/// Idempotent. Throws ConfigError when there is no such plug-in, when it cannot be loaded, was
/// built for another version, or has a class whose name is taken; none of its classes is known
/// then.
void load_plugin(const std::string& name_or_path);

/// Loads every plug-in of the plug-in folder, with a warning for one that cannot be loaded.
void load_available_plugins();

/// `lib/trainer/plugins` beside libtrainer, in the build tree and in an installation.
fs::Path plugin_folder();

/// Names of the plug-ins in the plug-in folder.
std::vector<std::string> available_plugins();

}  // namespace trainer

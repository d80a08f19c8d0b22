#pragma once
// Messages for people: one line each on standard error, above the progress bar.

#include <string_view>

namespace trainer::log {

enum class Level { kDebug, kInfo, kWarning, kError };

void set_level(Level level);
void debug(std::string_view message);
void info(std::string_view message);
void warning(std::string_view message);
void error(std::string_view message);

}  // namespace trainer::log

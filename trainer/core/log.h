#pragma once
// Messages for people: one line each on standard error, above the progress bar. Where several
// processes train together, the console is rank 0's, and each rank has a file of its own.

#include <filesystem>
#include <string>
#include <string_view>

namespace trainer::log {

enum class Level { kDebug, kInfo, kWarning, kError };

void set_level(Level level);
void debug(std::string_view message);
void info(std::string_view message);
void warning(std::string_view message);
/// From a rank other than 0 it reaches the console too, after kErrorDelayMs: an error that all
/// ranks have is told by rank 0, which ends the program meanwhile.
void error(std::string_view message);

/// What ranks other than 0 wait before they tell of an error.
inline constexpr int kErrorDelayMs = 500;

/// Says which of how many processes this one is. Ranks other than 0 are silent from now on, but for
/// errors; the lines of all are kept for open_file().
void set_rank(int rank, int size);
/// "rank 1/4 (host): " where rank 0 has the console, else empty.
std::string rank_prefix();

/// The file of this rank in the folder of a run: logs/rank_00001.log.
std::filesystem::path rank_file(const std::filesystem::path& run_dir);
/// Appends the lines of this process to `path` from now on, first those since set_rank(); in place
/// of an earlier file. Makes the folders. Throws IoError.
void open_file(const std::filesystem::path& path);

}  // namespace trainer::log

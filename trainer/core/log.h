#pragma once
// Messages for people: one line each on standard error, above the progress bar. Where several
// processes train together, the console is rank 0's, and each rank has a file of its own.

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

namespace trainer::log {

enum class Level { kDebug, kInfo, kWarning, kError };

void set_level(Level level);
void debug(std::string_view message);
void info(std::string_view message);
void warning(std::string_view message);
/// From a rank other than 0 it reaches the console too, after wait_for_first_rank().
void error(std::string_view message);

/// Says which of how many processes this one is. Ranks other than 0 are silent from now on, but for
/// errors; the lines of all are kept for open_file(). `error_delay` is what it takes rank 0 to end
/// the others.
void set_rank(int rank, int size,
              std::chrono::milliseconds error_delay = std::chrono::milliseconds(500));
/// On a rank other than 0, waits before it tells of an error: one that all ranks have is told by
/// rank 0, which ends this process meanwhile. What follows within some seconds waits no more.
void wait_for_first_rank();
/// "rank 1/4 (host): " where rank 0 has the console, else empty.
std::string rank_prefix();

/// The file of this rank in the folder of a run: logs/rank_00001.log.
std::filesystem::path rank_file(const std::filesystem::path& run_dir);
/// Appends the lines of this process to `path` from now on, first those since set_rank(); in place
/// of an earlier file. Makes the folders. Throws IoError.
void open_file(const std::filesystem::path& path);

}  // namespace trainer::log

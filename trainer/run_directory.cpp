#include <trainer/run_directory.h>

#include <algorithm>
#include <charconv>
#include <sstream>
#include <tuple>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/core/error.h>
#include <trainer/core/log.h>

namespace trainer {
namespace {

constexpr std::string_view kPrefix = "version_";
constexpr const char* kRemovals = "removals";  // a list of names

/// N of `version_N`, or -1.
int64_t version_of(const fs::Path& path) {
  const std::string name = path.filename().string();
  int64_t version = -1;
  if (name.starts_with(kPrefix)) {
    const char* end = name.data() + name.size();
    if (std::from_chars(name.data() + kPrefix.size(), end, version).ptr != end) {
      return -1;
    }
  }
  return version;
}

std::vector<std::pair<int64_t, fs::Path>> versions(const fs::Path& root) {
  std::vector<std::pair<int64_t, fs::Path>> found;
  std::error_code error;  // a root that is not there yet has no versions
  for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
    if (const int64_t version = version_of(entry.path()); version >= 0) {
      found.emplace_back(version, entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// The manifest's words on a checkpoint that is complete; nothing for one that is not.
std::optional<nlohmann::json> about(const fs::Path& checkpoint) {
  try {
    return CheckpointReader::read_about(checkpoint);
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// What `last` may mean, the likeliest first. The one that the pointer names is among them where it
/// is damaged too, and where no checkpoint is complete they all are: whoever asks hears of it.
std::vector<fs::Path> candidates_for_last(const RunDirectory& run) {
  auto candidates = run.newest_first();
  const auto named = run.named("last");
  if (named && (candidates.empty() || candidates.front() != *named)) {
    candidates.insert(candidates.begin(), *named);
  }
  return candidates.empty() ? run.checkpoint_folders() : candidates;
}

/// The advice in the second line is to ask for the last one.
std::string without_advice(const Error& error) {
  const std::string what = error.what();
  return what.substr(0, what.find('\n'));
}

CheckpointReader open_last(const RunDirectory& run) {
  const auto candidates = candidates_for_last(run);
  if (candidates.empty()) {
    throw DataError(fmt::format(
        "--ckpt_path=last: {} has no checkpoint.\n  Train first, or name another run by "
        "--run, or a checkpoint by its path.",
        run.path().string()));
  }
  for (size_t i = 0; i + 1 < candidates.size(); ++i) {
    try {
      return CheckpointReader(candidates[i]);
    } catch (const Error& error) {
      log::warning(fmt::format("{}\n  Trying the one before it, {}.", without_advice(error),
                               candidates[i + 1].string()));
    }
  }
  try {
    return CheckpointReader(candidates.back());
  } catch (const Error& error) {
    throw CheckpointError(
        fmt::format("{}\n  No checkpoint of this run can be read: name another run by --run, or a "
                    "checkpoint by its path.",
                    without_advice(error)));
  }
}

}  // namespace

RunDirectory RunDirectory::create_next(const fs::Path& root) {
  fs::create_directories(root);
  const auto existing = versions(root);
  int64_t version = existing.empty() ? 0 : existing.back().first + 1;
  std::error_code error;
  while (!std::filesystem::create_directory(root / fmt::format("{}{}", kPrefix, version), error)) {
    if (error) {
      fs::create_directories(root /
                             fmt::format("{}{}", kPrefix, version));  // throws with the reason
    }
    ++version;  // another process was faster
  }
  return RunDirectory(root / fmt::format("{}{}", kPrefix, version));
}

std::optional<RunDirectory> RunDirectory::containing(const fs::Path& checkpoint) {
  const fs::Path absolute = std::filesystem::absolute(checkpoint).lexically_normal();
  const fs::Path folder =
      absolute.has_filename() ? absolute.parent_path() : absolute.parent_path().parent_path();
  if (folder.filename() != "checkpoints") {
    return std::nullopt;
  }
  // Relative stays relative, so that what is printed and stored reads as the user wrote it.
  const fs::Path given = checkpoint.has_filename() ? checkpoint : checkpoint.parent_path();
  const fs::Path run = given.parent_path().parent_path();
  return RunDirectory(run.empty() ? folder.parent_path() : run);
}

std::optional<RunDirectory> RunDirectory::newest(const fs::Path& root,
                                                 const std::string& module_class) {
  auto candidates = versions(root);
  for (auto candidate = candidates.rbegin(); candidate != candidates.rend(); ++candidate) {
    const RunDirectory run(candidate->second);
    const auto checkpoint = run.last();
    const bool is_wanted = checkpoint ? about(*checkpoint)->value("module", "") == module_class
                                      : !run.checkpoint_folders().empty();
    if (is_wanted) {
      return run;
    }
  }
  return std::nullopt;
}

std::optional<fs::Path> RunDirectory::named(const std::string& pointer) const {
  constexpr uint64_t kMaxName = 255;  // of a folder, and the newline
  const fs::Path file = checkpoints() / pointer;
  std::error_code error;  // a pointer that is not there
  const uint64_t size = std::filesystem::file_size(file, error);
  if (error || size > kMaxName + 1) {
    return std::nullopt;
  }
  std::string name = fs::read_text(file);
  while (!name.empty() && name.back() == '\n') {
    name.pop_back();
  }
  const bool is_name = name.size() <= kMaxName && name.ends_with(kCheckpointExtension) &&
                       name.find('/') == std::string::npos;
  if (!is_name || !std::filesystem::is_directory(checkpoints() / name, error)) {
    return std::nullopt;
  }
  return checkpoints() / name;
}

std::vector<fs::Path> RunDirectory::checkpoint_folders() const {
  std::vector<fs::Path> found;
  std::error_code error;  // a run without checkpoints
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints(), error)) {
    if (entry.path().extension() == kCheckpointExtension && entry.is_directory(error)) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<fs::Path> RunDirectory::newest_first() const {
  const auto pointed = named("last");
  std::vector<std::tuple<bool, int64_t, fs::Path>> ranked;
  for (const auto& path : checkpoint_folders()) {
    if (const auto words = about(path)) {
      ranked.emplace_back(path == pointed, words->value("global_step", int64_t{0}), path);
    }
  }
  std::sort(ranked.rbegin(), ranked.rend());
  std::vector<fs::Path> found;
  for (auto& [is_pointed, steps, path] : ranked) {
    found.push_back(std::move(path));
  }
  return found;
}

std::optional<fs::Path> RunDirectory::last() const {
  const auto found = newest_first();
  return found.empty() ? std::nullopt : std::optional(found.front());
}

std::optional<fs::Path> RunDirectory::best() const {
  auto best = named("best");
  return best && about(*best) ? best : std::nullopt;
}

void RunDirectory::create_checkpoints() const {
  if (writes_) {
    fs::create_directories(checkpoints());
  }
}

void RunDirectory::point(const std::string& pointer, const std::string& checkpoint_name) const {
  if (!writes_) {
    return;
  }
  fs::write_text_atomically(checkpoints() / pointer, checkpoint_name + "\n");
}

void RunDirectory::plan_removal(const std::vector<std::string>& names) const {
  if (!writes_) {
    return;
  }
  if (!names.empty()) {
    fs::write_text_atomically(checkpoints() / kRemovals,
                              fmt::format("{}\n", fmt::join(names, "\n")));
  }
}

void RunDirectory::remove_planned(
    const std::function<bool(const std::string& name)>& is_kept) const {
  if (!writes_) {
    return;
  }
  const fs::Path list = checkpoints() / kRemovals;
  std::error_code error;
  if (!std::filesystem::exists(list, error)) {
    return;
  }
  std::istringstream names(fs::read_text(list));
  for (std::string name; std::getline(names, name);) {
    if (!name.ends_with(kCheckpointExtension) || name.find('/') != std::string::npos ||
        is_kept(name)) {
      continue;
    }
    std::filesystem::remove_all(checkpoints() / name, error);
    if (error) {
      log::warning(fmt::format("cannot remove the old checkpoint {}: {}",
                               (checkpoints() / name).string(), error.message()));
    }
  }
  std::filesystem::remove(list, error);
}

void RunDirectory::remove_leftovers() const {
  if (!writes_) {
    return;
  }
  std::error_code error;  // a run without checkpoints, or a leftover that stays: it harms nobody
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints(), error)) {
    if (entry.path().filename().string().find(kTemporaryCheckpoint) != std::string::npos) {
      std::filesystem::remove_all(entry.path(), error);
    }
  }
}

CheckpointReader open_checkpoint(const std::string& ckpt_path, const std::optional<fs::Path>& run,
                                 const fs::Path& root, const std::string& module_class) {
  const bool is_last = ckpt_path == "last";
  if (!is_last && ckpt_path != "best") {
    return CheckpointReader(ckpt_path);
  }
  std::error_code error;
  if (run && !std::filesystem::is_directory(*run, error)) {
    throw DataError(
        fmt::format("--run {}: there is no such folder.\n  Check the path; relative paths start at "
                    "the current folder.",
                    run->string()));
  }
  const auto directory =
      run ? std::optional(RunDirectory(*run)) : RunDirectory::newest(root, module_class);
  if (!directory) {
    throw DataError(fmt::format(
        "--ckpt_path={}: no run below {} has a checkpoint of {}.\n  Train first, or give the "
        "run by --run or the checkpoint by its path.",
        ckpt_path, root.string(), module_class));
  }
  if (is_last) {
    return open_last(*directory);
  }
  if (const auto best = directory->named("best")) {
    return CheckpointReader(*best);
  }
  throw DataError(
      fmt::format("--ckpt_path=best: {} has no such checkpoint.\n  Try --ckpt_path=last, or give a "
                  "path.",
                  directory->path().string()));
}

}  // namespace trainer

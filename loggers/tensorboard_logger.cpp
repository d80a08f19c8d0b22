#include <loggers/tensorboard_logger.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <limits>
#include <string_view>
#include <unistd.h>

#include <fmt/format.h>

#include <loggers/tfevents.h>
#include <trainer/core/error.h>
#include <trainer/core/host.h>

namespace trainer {
namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";
constexpr int64_t kMaxTime = 9'999'999'998;  // names sort by time while it has ten digits

double wall_time_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// The newest <time> of the folder's event files that hold something; 0 when there is none.
int64_t newest_time(const fs::Path& run_dir) {
  int64_t newest = 0;
  std::error_code error;  // a folder that cannot be read cannot be written: opening the file tells
  for (const auto& entry : std::filesystem::directory_iterator(run_dir, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix) && entry.is_regular_file(error) && entry.file_size(error) > 0) {
      int64_t time = 0;
      std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), time);
      newest = std::max(newest, std::min(time, kMaxTime));
    }
  }
  return newest;
}

}  // namespace

void TensorBoardLogger::setup(const fs::Path& run_dir) {
  fs::create_directories(run_dir);
  run_dir_ = run_dir;
}

void TensorBoardLogger::open() {
  static std::atomic<int> next_uid = 0;
  const int64_t newest = newest_time(run_dir_);
  // Readers take the files in the order of their names: a later file needs a later time, whatever
  // the clock and the pids say.
  const int64_t time = std::max(static_cast<int64_t>(wall_time_s()), newest + 1);
  file_.emplace(run_dir_ / fmt::format("{}{:010}.{}.{}.{}", kPrefix, time, host_name(), ::getpid(),
                                       next_uid++));
  file_->append(tfevents::record(tfevents::file_version_event(wall_time_s())));
  if (resumed_ || newest == 0) {  // TensorBoard counts as restarts only those after a first start
    file_->append(tfevents::record(tfevents::session_start_event(wall_time_s(), last_step_ + 1)));
  }
}

void TensorBoardLogger::log_metrics(const Metrics& metrics, int64_t step) {
  TRAINER_CHECK(!run_dir_.empty(), "TensorBoardLogger: log_metrics() before setup()");
  if (!file_) {
    open();
  }
  std::string summary;
  for (const auto& [name, value] : metrics) {
    const bool is_new = tags_.insert(name).second;
    tfevents::append_scalar(summary, name, static_cast<float>(value), is_new);
  }
  file_->append(tfevents::record(tfevents::summary_event(wall_time_s(), step, summary)));
  last_step_ = std::max(last_step_, step);
}

void TensorBoardLogger::save() {
  if (file_) {
    file_->flush();
  }
}

nlohmann::json TensorBoardLogger::state_dict() const { return {{"last_step", last_step_}}; }

void TensorBoardLogger::load_state_dict(const nlohmann::json& state) {
  const bool valid =
      state.is_object() && state.contains("last_step") && state["last_step"].is_number_integer();
  const int64_t last_step =
      valid ? state["last_step"].get<int64_t>() : std::numeric_limits<int64_t>::max();
  if (last_step < -1 || last_step == std::numeric_limits<int64_t>::max()) {
    throw CheckpointError(fmt::format(
        "{}: the checkpoint's state of TensorBoardLogger is {}, not {{\"last_step\": S}}. Resume "
        "with the loggers of the run that wrote the checkpoint.",
        run_dir_.string(), state.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  }
  last_step_ = last_step;
  resumed_ = true;
  if (file_) {
    file_->append(tfevents::record(tfevents::session_start_event(wall_time_s(), last_step_ + 1)));
  }
}

}  // namespace trainer

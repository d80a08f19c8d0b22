#include <trainer/core/log.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <trainer/core/console.h>
#include <trainer/core/error.h>
#include <trainer/core/filesystem.h>
#include <trainer/core/host.h>

namespace trainer::log {
namespace {

std::atomic<int> rank_of_process = 0;
std::atomic<int> size_of_world = 1;
std::atomic<std::chrono::milliseconds> delay_of_errors = std::chrono::milliseconds(0);

/// Hands finished lines to the console, which keeps them clear of the status line.
class ConsoleSink : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const bool is_first = rank_of_process == 0;
    if (!is_first && message.level < spdlog::level::err) {
      return;
    }
    spdlog::details::log_msg prefixed = message;
    const std::string text =
        rank_prefix() + std::string(message.payload.data(), message.payload.size());
    prefixed.payload = text;
    spdlog::memory_buf_t line;
    formatter_->format(prefixed, line);
    std::string_view shown(line.data(), line.size());
    while (!shown.empty() && shown.back() == '\n') {
      shown.remove_suffix(1);
    }
    if (is_first) {
      console::write_line(shown);
    } else {
      wait_for_first_rank();
      console::write_error(shown);
    }
  }
  void flush_() override {}
};

/// Keeps the lines of one rank of many until it is told of a file.
class FileSink : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void open(const fs::Path& path) {
    fs::create_directories(path.parent_path());
    std::ofstream file(path, std::ios::app);
    if (!file) {
      throw IoError(fmt::format("{}: cannot write the log of this rank: {}.", path.string(),
                                std::strerror(errno)));
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    file_ = std::move(file);
    file_ << kept_ << std::flush;
    kept_.clear();
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    if (size_of_world == 1) {
      return;
    }
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    const std::string_view text(line.data(), line.size());
    if (file_.is_open()) {
      file_ << text << std::flush;  // what ends this process must find the line written
    } else if (kept_.size() < kMaxKept) {
      kept_ += text;
    }
  }
  void flush_() override {}

 private:
  static constexpr size_t kMaxKept = 1 << 20;
  std::ofstream file_;
  std::string kept_;
};

struct Log {
  std::shared_ptr<FileSink> file = std::make_shared<FileSink>();
  std::shared_ptr<ConsoleSink> console = std::make_shared<ConsoleSink>();
  // The file first: the console may have to wait.
  spdlog::logger logger{"trainer", {file, console}};

  Log() {
    file->set_pattern("%Y-%m-%d %H:%M:%S %L %v");
    console->set_pattern("%H:%M:%S %L %v");
  }
};

Log& instance() {
  static Log log;
  return log;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::kDebug: return spdlog::level::debug;
    case Level::kInfo: return spdlog::level::info;
    case Level::kWarning: return spdlog::level::warn;
    case Level::kError: return spdlog::level::err;
  }
  return spdlog::level::info;
}

void write(Level level, std::string_view message) {
  instance().logger.log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

}  // namespace

void set_level(Level level) { instance().logger.set_level(to_spdlog(level)); }
void debug(std::string_view message) { write(Level::kDebug, message); }
void info(std::string_view message) { write(Level::kInfo, message); }
void warning(std::string_view message) { write(Level::kWarning, message); }
void error(std::string_view message) { write(Level::kError, message); }

void set_rank(int rank, int size, std::chrono::milliseconds error_delay) {
  rank_of_process = rank;
  size_of_world = size;
  delay_of_errors = error_delay;
  if (rank != 0) {
    console::mute();
  }
}

void wait_for_first_rank() {
  using std::chrono::steady_clock;
  static std::mutex mutex;
  static std::optional<steady_clock::time_point> last;
  const std::lock_guard<std::mutex> lock(mutex);
  if (rank_of_process == 0 || (last && steady_clock::now() - *last < std::chrono::seconds(5))) {
    return;
  }
  std::this_thread::sleep_for(delay_of_errors.load());
  last = steady_clock::now();
}

std::string rank_prefix() {
  return rank_of_process == 0 ? "" : rank_name(rank_of_process, size_of_world) + ": ";
}

std::filesystem::path rank_file(const std::filesystem::path& run_dir) {
  return run_dir / "logs" / fmt::format("rank_{:05}.log", rank_of_process.load());
}

void open_file(const std::filesystem::path& path) { instance().file->open(path); }

}  // namespace trainer::log

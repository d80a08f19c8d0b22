#include <trainer/core/console.h>

#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace trainer::console {
namespace {

struct State {
  std::mutex mutex;
  std::string status;
  std::atomic<bool> muted = false;
};

State& state() {
  static State instance;
  return instance;
}

constexpr std::string_view kEraseLine = "\r\x1b[2K";

void put(std::FILE* stream, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stream);
}

/// Takes the status line off the screen while `write` puts text there.
template <class F>
void above_status(F&& write) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (!s.status.empty()) {
    put(stderr, kEraseLine);
    std::fflush(stderr);
  }
  write();
  if (!s.status.empty()) {
    put(stderr, s.status);
  }
  std::fflush(stderr);
}

}  // namespace

bool is_live() {
  static const bool live = [] {
    if (std::getenv(kTerminalVariable) != nullptr) {
      return true;
    }
    const char* term = std::getenv("TERM");
    return ::isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb" &&
           std::getenv("CI") == nullptr;
  }();
  return live;
}

int columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  const char* forwarded = std::getenv(kTerminalVariable);
  const char* columns = forwarded != nullptr ? forwarded : std::getenv("COLUMNS");
  const int n = columns == nullptr ? 0 : std::atoi(columns);
  return n > 0 ? n : 80;
}

void write_error(std::string_view line) {
  const std::string whole = std::string(line) + "\n";  // in one piece: other ranks write there too
  above_status([&] { put(stderr, whole); });
}

void write_line(std::string_view line) {
  if (!state().muted) {
    write_error(line);
  }
}

void print(std::string_view text) {
  if (state().muted) {
    return;
  }
  above_status([&] {
    put(stdout, text);
    std::fflush(stdout);
  });
}

void set_status(std::string text) {
  State& s = state();
  if (!is_live() || s.muted) {
    return;
  }
  const std::lock_guard<std::mutex> lock(s.mutex);
  put(stderr, kEraseLine);
  put(stderr, text);
  std::fflush(stderr);
  s.status = std::move(text);
}

void clear_status() {
  State& s = state();
  if (!is_live() || s.muted) {
    return;
  }
  const std::lock_guard<std::mutex> lock(s.mutex);
  put(stderr, kEraseLine);
  std::fflush(stderr);
  s.status.clear();
}

void mute() {
  clear_status();
  state().muted = true;
}

}  // namespace trainer::console

#include <trainer/cli/launch_ends.h>

#include <cstring>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/failure.h>
#include <trainer/core/json.h>

namespace trainer {
namespace {

// Of Open MPI's mpirun.
constexpr int kLostDaemon = 205;
constexpr int kTimeLimit = 110;

constexpr int kTimedOut = 124;  // as timeout(1) has it
constexpr int kOfSignal = 128;

constexpr uint64_t kMaxErrorBytes = 1 << 20;

constexpr int code(ExitCode exit_code) { return static_cast<int>(exit_code); }

JobEnd end_of_stopped(int stop_signal) {
  switch (stop_signal) {
    case SIGINT: return {code(ExitCode::kInterrupted), "stopped by Ctrl-C"};
    case SIGTERM:
    case SIGHUP: return {code(ExitCode::kTerminated), "stopped by SIGTERM or SIGHUP"};
    default: return {code(ExitCode::kTryAgain), "stopped by SIGUSR1 or SIGUSR2"};
  }
}

}  // namespace

JobEnd end_of_job(const ProcessEnd& mpirun, int stop_signal, bool has_hosts) {
  const int ended = mpirun.exit_code;
  // Ranks that had nothing to save are ended by the SIGUSR1 that they were sent.
  const bool has_stopped =
      mpirun.was_forced || ended == code(ExitCode::kTryAgain) || ended == kOfSignal + SIGUSR1;
  if (stop_signal != 0 && has_stopped) {
    return end_of_stopped(stop_signal);
  }
  switch (ended) {
    case kLostDaemon:
      return {code(ExitCode::kTryAgain), "a host was lost: mpirun no longer reaches it", true};
    case kTimeLimit: return {kTimedOut, "mpirun's time limit (MPIEXEC_TIMEOUT) is over", true};
    case kTimedOut: return {kTimedOut, "a time limit is over", true};
    case code(ExitCode::kTryAgain):
      return {ended, "the ranks lost each other, one hung or stood still, or one got SIGUSR1",
              true};
    case code(ExitCode::kInterrupted):
    case code(ExitCode::kTerminated): return {ended, "a rank was asked to stop"};
    case code(ExitCode::kOk): return {};
    case code(ExitCode::kUserCode):
    case code(ExitCode::kConfig):
    case code(ExitCode::kNoInput):
    case code(ExitCode::kIo):
    case code(ExitCode::kCheckpoint):
    case code(ExitCode::kNonFinite):
      return {ended, fmt::format("a rank has ended with exit code {}: see its message", ended)};
    default: break;
  }
  const char* signal = ended > kOfSignal ? ::sigabbrev_np(ended - kOfSignal) : nullptr;
  if (signal != nullptr) {
    return {ended,
            fmt::format("a process was ended by SIG{}{}", signal,
                        ended == kOfSignal + SIGKILL ? " (by hand, or for want of memory)" : ""),
            true};
  }
  if (has_hosts) {
    return {code(ExitCode::kTryAgain),
            fmt::format("a host was lost or cannot be reached (exit code {} of mpirun)", ended),
            true};
  }
  return {ended, fmt::format("a rank has ended with exit code {}", ended)};
}

std::string error_of_rank(const fs::Path& run, std::filesystem::file_time_type since) {
  std::error_code missing;
  const auto written = std::filesystem::last_write_time(run / kErrorFile, missing);
  if (missing || written < since) {
    return "";
  }
  try {
    const auto file = nlohmann::json::parse(fs::read_text(run / kErrorFile, kMaxErrorBytes));
    const auto& message = file.at("message").at("message").get_ref<const std::string&>();
    const auto& extra = file.at("message").at("extraInfo");
    const auto rank = fmt::format("rank {}/{} (", json::to_int64(extra.at("rank")),
                                  json::to_int64(extra.at("world_size")));
    return message.starts_with(rank)  // as that of the communicator
               ? message
               : fmt::format("{}{}): {}", rank, extra.at("host").get<std::string>(), message);
  } catch (const DataError&) {
  } catch (const nlohmann::json::exception&) {
  }
  return "";  // what is damaged explains nothing
}

}  // namespace trainer

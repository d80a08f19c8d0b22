#pragma once
// The exceptions that this library throws and the exit code each one stands for.
//
// Every message says what happened with the value, where (file:line:column, key path, device), and
// how to fix it. Catch `trainer::Error` for all of them; `trainer::cli()` turns them into the exit
// codes below.

#include <stdexcept>
#include <string>

namespace trainer {

/// Exit codes of the `trainer` program and of `trainer::cli()`.
enum class ExitCode : int {
  kOk = 0,        ///< Done; also when a callback stopped the run on purpose.
  kUserCode = 1,  ///< The module, data or callback of the user raised, or misused the API.
  kConfig = 2,    ///< Bad command line or configuration.
  kNoInput = 66,  ///< Data or checkpoint missing, unreadable or damaged (EX_NOINPUT).
  kIo = 74,       ///< Cannot write: disk full, no permission (EX_IOERR).
  kTryAgain =
      75,  ///< Stopped by SIGUSR1 after a checkpoint: resume with --ckpt_path=last (EX_TEMPFAIL).
  kCheckpoint = 85,    ///< The checkpoint is damaged or belongs to another architecture.
  kNonFinite = 86,     ///< The loss became NaN or infinite.
  kInterrupted = 130,  ///< Ctrl-C, after a checkpoint.
  kTerminated = 143,   ///< SIGTERM or SIGHUP, after a checkpoint.
};

/// Base of everything this library throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  virtual ExitCode exit_code() const noexcept { return ExitCode::kUserCode; }
};

/// The user's configuration file or command line is wrong.
class ConfigError : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const noexcept override { return ExitCode::kConfig; }
};

/// The API was called in a way it does not support.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Input data is missing, unreadable, empty or damaged.
class DataError : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const noexcept override { return ExitCode::kNoInput; }
};

/// Writing failed: disk full, no permission, read-only file system.
class IoError : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const noexcept override { return ExitCode::kIo; }
};

/// A checkpoint is damaged, incomplete, or does not fit the module.
class CheckpointError : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const noexcept override { return ExitCode::kCheckpoint; }
};

/// The loss is NaN or infinite.
class NonFiniteError : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const noexcept override { return ExitCode::kNonFinite; }
};

/// Processes that train together cannot reach or understand each other: MPI, NCCL, a mismatch.
class CommError : public Error {
 public:
  using Error::Error;
  ExitCode exit_code() const noexcept override { return ExitCode::kTryAgain; }
};

/// Beside the kind of an error: every rank throws it at the same place, so that one who catches it
/// may go on with the others.
class OnEveryRank {
 public:
  virtual ~OnEveryRank() = default;
};

/// A defect of this library; please report it.
class InternalError : public Error {
 public:
  using Error::Error;
};

namespace detail {
[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const std::string& what);
}  // namespace detail

}  // namespace trainer

/// Throws InternalError with the condition and its place when `condition` does not hold.
#define TRAINER_CHECK(condition, what)                                         \
  do {                                                                         \
    if (!(condition)) {                                                        \
      ::trainer::detail::check_failed(#condition, __FILE__, __LINE__, (what)); \
    }                                                                          \
  } while (false)

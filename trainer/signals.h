#pragma once
// Signals that ask a run to stop. A handler only sets a flag; the fit loop reads it at the edge of
// a step, saves a checkpoint and ends cleanly.

namespace trainer {

/// While it lives, SIGINT, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP (the terminal is gone) set a flag,
/// and SIGPIPE (nobody reads the output any more) does nothing. A second SIGINT ends the process at
/// once, as users expect of a second Ctrl-C. The handlers that were there before come back at the
/// end. Scopes do not nest.
///
/// An mpirun that ends its processes sends SIGCONT, a second later SIGTERM, and another one later
/// SIGKILL: its SIGCONT counts as the SIGTERM, which doubles the time to save.
class SignalScope {
 public:
  SignalScope();
  SignalScope(const SignalScope&) = delete;
  SignalScope& operator=(const SignalScope&) = delete;
  ~SignalScope();

  /// The first signal that came, SIGTERM for SIGCONT and SIGUSR1 for SIGUSR2, or 0.
  static int received();
};

}  // namespace trainer

#pragma once
// Starting and ending MPI, and what its calls answer.

#include <string>

namespace trainer::mpi {

/// Starts MPI, unless this program has, and lets the end of the program end it then. For the main
/// thread. Throws CommError.
void initialize();

/// Settings of Open MPI, as environment variables, for what it is to start: no warnings of hardware
/// that is not there or of what a container forbids. The user's own stay.
void set_quiet_defaults();

/// MPI_Abort, without Open MPI's words about it: what this process has written last stays the last.
/// Any thread may call it, also while another one waits in MPI for ever: it needs no lock that such
/// a wait holds. Where that fails too, an alarm ends this process.
void abort(int exit_code);

/// Throws CommError that names `what` and what MPI says of it, where `code` is not MPI_SUCCESS.
void check(int code, const std::string& what);

/// The exit code of this program, once it ends.
int exit_status();

/// Whether MPI was started, by this or by the host program.
bool is_initialized();
/// Whether MPI has ended already: what is left then is not given back.
bool is_finalized();

}  // namespace trainer::mpi

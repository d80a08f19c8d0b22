#pragma once
// How a process of a job ends before its time.

namespace trainer {

/// Has the launcher read what this process has written: to be called before it ends. From now on an
/// alarm ends it in some seconds whatever happens, also where the terminal is blocked or a thread
/// that hangs holds the lock of a stream.
void deliver_last_words();

/// Ends this process at once where MPI cannot, as its launcher is gone or ends the job already: the
/// shared memory that the job's MPI would leave in /dev/shm is removed.
[[noreturn]] void end_without_mpi(int exit_code);

}  // namespace trainer

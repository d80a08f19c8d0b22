#pragma once
// A process whose launcher was killed.

namespace trainer {

/// Removes the shared memory that the job's MPI leaves (in /dev/shm), which the launcher would have
/// done, and ends this process with exit code 75, at once: nobody is there any more to be told, and
/// MPI cannot end it without its launcher.
[[noreturn]] void end_orphan();

}  // namespace trainer

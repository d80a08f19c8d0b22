#pragma once
// The memory that malloc() has got from the system.

namespace trainer {

/// Gives back what is free of it, where the C library can.
void trim_heap();

}  // namespace trainer

#pragma once
// Every class that comes with this library, registered once. Explicit, since static initialisers in
// a static library are dropped by the linker.

namespace trainer {

/// Idempotent and thread-safe.
void register_builtins();

}  // namespace trainer

#pragma once
// Every class that comes with this library, registered once. Explicit, since static initialisers in
// a static library are dropped by the linker.

namespace trainer {

/// Idempotent and thread-safe. Throws ConfigError when a class of this program has the name of a
/// built-in class, or two of them share one.
void register_builtins();

}  // namespace trainer

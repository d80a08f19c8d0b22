#pragma once
// The machine that this process runs on.

#include <string>

namespace trainer {

/// Its name in the network, "localhost" where it has none.
std::string host_name();

}  // namespace trainer

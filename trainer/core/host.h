#pragma once
// The machine that this process runs on.

#include <string>

namespace trainer {

/// Its name in the network, "localhost" where it has none.
std::string host_name();

/// What messages call one of several processes, this one: "rank 1/4 (host)", or with its device
/// "rank 1/4 (host, cuda:0)".
std::string rank_name(int rank, int size, const std::string& device = "");

}  // namespace trainer

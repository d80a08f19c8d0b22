#include <trainer/core/host.h>

#include <unistd.h>

#include <array>

#include <fmt/format.h>

namespace trainer {

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "localhost";
}

std::string rank_name(int rank, int size, const std::string& device) {
  return fmt::format("rank {}/{} ({}{}{})", rank, size, host_name(), device.empty() ? "" : ", ",
                     device);
}

}  // namespace trainer

#include <strategies/comm/cores.h>

#include <sched.h>

#include <fstream>
#include <map>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace trainer {
namespace {

constexpr int kMaxCPUs = 1 << 16;

/// A set of so many bits; cpu_set_t alone ends at 1,024.
struct CPUSet {
  size_t bytes = CPU_ALLOC_SIZE(kMaxCPUs);
  std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> bits{CPU_ALLOC(kMaxCPUs),
                                                        [](cpu_set_t* set) { CPU_FREE(set); }};
  CPUSet() { CPU_ZERO_S(bytes, bits.get()); }
};

/// The lowest number of the hardware threads that make a core with this one.
int first_sibling(int cpu) {
  std::ifstream file(
      fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list", cpu));
  int first = cpu;
  return file >> first ? first : cpu;
}

}  // namespace

std::vector<Core> allowed_cores() {
  const CPUSet allowed;
  if (::sched_getaffinity(0, allowed.bytes, allowed.bits.get()) != 0) {
    return {{0}};
  }
  std::map<int, Core> by_first;
  for (int cpu = 0; cpu < kMaxCPUs; ++cpu) {
    if (CPU_ISSET_S(static_cast<size_t>(cpu), allowed.bytes, allowed.bits.get())) {
      by_first[first_sibling(cpu)].push_back(cpu);
    }
  }
  std::vector<Core> cores;
  for (auto& [first, core] : by_first) {
    cores.push_back(std::move(core));
  }
  return cores;
}

std::vector<Core> share_of(const std::vector<Core>& cores, size_t index, size_t count) {
  const auto at = [&](size_t i) {
    return cores.begin() + static_cast<std::ptrdiff_t>(cores.size() * i / count);
  };
  return cores.size() < count ? std::vector<Core>() : std::vector<Core>(at(index), at(index + 1));
}

void bind_to(const std::vector<Core>& cores) {
  const CPUSet set;
  for (const Core& core : cores) {
    for (const int cpu : core) {
      CPU_SET_S(static_cast<size_t>(cpu), set.bytes, set.bits.get());
    }
  }
  if (!cores.empty()) {
    ::sched_setaffinity(0, set.bytes, set.bits.get());
  }
}

std::string to_string(const std::vector<Core>& cores) {
  std::vector<int> all;
  for (const Core& core : cores) {
    all.insert(all.end(), core.begin(), core.end());
  }
  return fmt::format("{}", fmt::join(all, ","));
}

}  // namespace trainer

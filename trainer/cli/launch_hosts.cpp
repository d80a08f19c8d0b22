#include <trainer/cli/launch_hosts.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <sstream>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

/// What ssh gets to connect to a host and mpirun to start its daemon there.
constexpr auto kAnswerLimit = std::chrono::seconds(20);
constexpr int64_t kUnknown = 0;

int64_t parse_slots(const std::string& text, const std::string& where) {
  int64_t slots = 0;
  const char* end = text.data() + text.size();
  if (std::from_chars(text.data(), end, slots).ptr != end || slots < 1) {
    throw ConfigError(
        fmt::format("{}: '{}' is not a number of ranks. Give 1 or more.", where, text));
  }
  return slots;
}

std::vector<Host> with_slots(std::vector<Host> hosts, std::optional<int64_t> num_ranks) {
  const auto unknown =
      std::count_if(hosts.begin(), hosts.end(), [](const Host& h) { return h.slots == kUnknown; });
  if (unknown == 0) {
    return hosts;
  }
  const int64_t left = std::max<int64_t>(num_ranks.value_or(0) - slots_of(hosts), 0);
  const int64_t share = std::max<int64_t>((left + unknown - 1) / unknown, 1);
  for (Host& host : hosts) {
    host.slots = host.slots == kUnknown ? share : host.slots;
  }
  return hosts;
}

void add(std::vector<Host>& hosts, Host host, const std::string& where, const char* example) {
  const bool is_name = !host.name.empty() && host.name.find_first_of(":,=") == std::string::npos;
  if (!is_name) {
    throw ConfigError(
        fmt::format("{}: '{}' is not a host name. Write {}.", where, host.name, example));
  }
  for (const Host& other : hosts) {
    if (other.name == host.name) {
      throw ConfigError(fmt::format("{}: {} is named twice. Name it once, with all its slots.",
                                    where, host.name));
    }
  }
  hosts.push_back(std::move(host));
}

}  // namespace

std::vector<Host> parse_hosts(const std::string& list, std::optional<int64_t> num_ranks) {
  std::vector<Host> hosts;
  std::istringstream items(list);
  for (std::string item; std::getline(items, item, ',');) {
    const std::string where = fmt::format("--hosts {}", list);
    const size_t colon = item.find(':');
    add(hosts,
        {item.substr(0, colon),
         colon == std::string::npos ? kUnknown : parse_slots(item.substr(colon + 1), where)},
        where, "name:8");
  }
  return with_slots(std::move(hosts), num_ranks);
}

std::vector<Host> read_hostfile(const fs::Path& path, std::optional<int64_t> num_ranks) {
  constexpr uint64_t kMaxBytes = 1 << 20;
  std::vector<Host> hosts;
  std::istringstream lines(fs::read_text(path, kMaxBytes));
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string where = fmt::format("{}:{}", path.string(), ++number);
    std::istringstream words(line.substr(0, line.find('#')));
    Host host{"", kUnknown};
    if (!(words >> host.name)) {
      continue;
    }
    for (std::string word; words >> word;) {
      if (word.starts_with("slots=")) {
        host.slots = parse_slots(word.substr(std::string("slots=").size()), where);
      } else if (!word.starts_with("max_slots=") && !word.starts_with("max-slots=")) {
        throw ConfigError(
            fmt::format("{}: '{}' is not known here. Write name slots=8.", where, word));
      }
    }
    add(hosts, std::move(host), where, "name slots=8");
  }
  if (hosts.empty()) {
    throw ConfigError(
        fmt::format("{}: names no host. Write name slots=8 in a line for each.", path.string()));
  }
  return with_slots(std::move(hosts), num_ranks);
}

int64_t slots_of(const std::vector<Host>& hosts) {
  return std::accumulate(hosts.begin(), hosts.end(), int64_t{0},
                         [](int64_t sum, const Host& host) { return sum + host.slots; });
}

std::vector<Host> hosts_that_answer(Supervision& supervision, const std::vector<Host>& hosts) {
  std::vector<Host> answering;
  for (const Host& host : hosts) {
    if (supervision.stop_signal() != 0) {
      break;
    }
    const auto command = command_of({.num_ranks = 1, .hosts = {{host.name, 1}}}, "true");
    const auto end = supervision.run(command, Supervision::Output::kDropped, kAnswerLimit);
    if (end.exit_code == 0) {
      answering.push_back(host);
    }
  }
  return answering;
}

}  // namespace trainer

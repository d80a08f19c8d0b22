#include <strategies/comm/hang_report.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace trainer {
namespace {

constexpr size_t kMostNamed = 8;  // of many ranks

std::string named(const std::vector<size_t>& ranks) {
  const auto shown = std::min(ranks.size(), kMostNamed);
  std::string text = fmt::format(
      "{} {}", ranks.size() == 1 ? "rank" : "ranks",
      fmt::join(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  return shown == ranks.size() ? text : text + fmt::format(" and {} more", ranks.size() - shown);
}

std::string activity(const flight::Status& status) {
  if (status.waits_in.number != 0) {
    return fmt::format("waits in {} (collective {})", describe(status.waits_in),
                       status.waits_in.number);
  }
  return status.task.empty() ? "is in no collective" : status.task;
}

/// The operation that begins last of those that somebody waits in.
const flight::Operation& latest_awaited(const std::vector<RankStatus>& ranks) {
  return std::max_element(ranks.begin(), ranks.end(),
                          [](const auto& a, const auto& b) {
                            return a.status.waits_in.number < b.status.waits_in.number;
                          })
      ->status.waits_in;
}

/// Of those that are in a stage which others have left.
std::vector<size_t> left_behind(const std::vector<RankStatus>& ranks) {
  const bool one_has_left = std::any_of(ranks.begin(), ranks.end(),
                                        [](const auto& rank) { return rank.status.stage.empty(); });
  std::vector<size_t> behind;
  for (size_t r = 0; one_has_left && r < ranks.size(); ++r) {
    if (!ranks[r].status.stage.empty()) {
      behind.push_back(r);
    }
  }
  return behind;
}

}  // namespace

HangReport report_hang(const std::vector<RankStatus>& ranks, double seconds) {
  const flight::Operation& awaited = latest_awaited(ranks);
  std::vector<size_t> missing, waiting;
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (ranks[r].status.last_number < awaited.number) {
      missing.push_back(r);
    } else if (ranks[r].status.waits_in.number != 0) {
      waiting.push_back(r);
    }
  }
  const std::string nothing = fmt::format("nothing has gone on for {:.3g} s", seconds);
  if (const auto behind = left_behind(ranks); missing.empty() && !behind.empty()) {
    const auto& first = ranks[behind.front()].status;
    return {behind.front(),
            fmt::format("{}: {} did not come to the end of {}, which the others have left. In step "
                        "{} rank {} {}.",
                        nothing, named(behind), first.stage, first.step, behind.front(),
                        activity(first))};
  }
  if (missing.empty()) {
    const bool is_same = std::all_of(ranks.begin(), ranks.end(), [&](const auto& rank) {
      return describe(rank.status.waits_in) == describe(awaited);
    });
    std::string text =
        nothing + (awaited.number == 0 || is_same
                       ? ", and no rank is behind the others:"
                       : ", since the ranks have taken different ways through the code, to which "
                         "TRAINER_CHECK_COLLECTIVES=1 leads:");
    for (size_t r = 0; r < std::min(ranks.size(), kMostNamed); ++r) {
      text += fmt::format("\n  rank {} ({}) {}, in step {}", r, ranks[r].host,
                          activity(ranks[r].status), ranks[r].status.step);
    }
    return {0, text};
  }
  const auto& first = ranks[missing.front()];
  return {missing.front(),
          fmt::format("{}: {} did not come to {} (collective {}) in step {}, in which {} {}. There "
                      "rank {} {}.\n  Where a step takes so long, raise trainer.hang_timeout_s.",
                      nothing, named(missing), describe(awaited), awaited.number, first.status.step,
                      named(waiting), waiting.size() == 1 ? "waits" : "wait", missing.front(),
                      activity(first.status))};
}

}  // namespace trainer

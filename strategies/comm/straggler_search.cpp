#include <strategies/comm/straggler_search.h>

#include <algorithm>
#include <cstddef>

#include <fmt/format.h>

namespace trainer {
namespace {

constexpr double kShare = 0.2;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::optional<std::string> StragglerSearch::look(const std::vector<RankStatus>& ranks,
                                                 Clock::time_point now) {
  is_disturbed_ |= std::any_of(ranks.begin(), ranks.end(), [](const RankStatus& rank) {
    return rank.status.stage.empty() ||
           (!rank.status.task.empty() && rank.status.task != flight::kWaitsForData);
  });
  if (began_ && now - *began_ < window_) {
    return std::nullopt;
  }
  std::vector<double> waited, waited_now;
  for (size_t r = 0; r < ranks.size(); ++r) {
    waited_now.push_back(ranks[r].status.waited_s);
    waited.push_back(waited_now[r] - (began_ ? waited_before_[r] : waited_now[r]));
  }
  const std::chrono::duration<double> seconds = now - began_.value_or(now);
  const bool counts = began_.has_value() && !is_disturbed_;
  began_ = now;
  waited_before_ = std::move(waited_now);
  is_disturbed_ = false;
  if (!counts) {
    return std::nullopt;
  }
  const auto slowest =
      static_cast<size_t>(std::min_element(waited.begin(), waited.end()) - waited.begin());
  const double own = waited[slowest];
  waited.erase(waited.begin() + static_cast<std::ptrdiff_t>(slowest));
  const double share = (median(std::move(waited)) - own) / seconds.count();
  if (share < kShare || told_ == slowest) {
    return std::nullopt;
  }
  told_ = slowest;
  return fmt::format(
      "rank {} ({}) is slower than the others, which waited for it {:.0f} % of the last {:.3g} s",
      slowest, ranks[slowest].host, 100 * share, seconds.count());
}

}  // namespace trainer

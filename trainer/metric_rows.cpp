#include <trainer/metric_rows.h>

#include <cstring>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

constexpr char kEndOfNames = '\0';

/// The names, one a line, and the bytes of the numbers.
std::string to_text(const MetricRow& row) {
  std::string text = fmt::format("{}{}", fmt::join(row.names, "\n"), kEndOfNames);
  const size_t size = row.numbers.size() * sizeof(double);
  text.resize(text.size() + size);
  std::memcpy(text.data() + text.size() - size, row.numbers.data(), size);
  return text;
}

std::string names_of(const std::string& text) { return text.substr(0, text.find(kEndOfNames)); }

std::string shown(std::string names) {
  for (size_t at = 0; (at = names.find('\n', at)) != std::string::npos; at += 2) {
    names.replace(at, 1, ", ");
  }
  return names;
}

}  // namespace

MetricRows gather_rows(Strategy& strategy, const MetricRow& own) {
  if (strategy.world_size() == 1) {
    return {.numbers = torch::tensor(own.numbers, torch::kFloat64).unsqueeze(0)};
  }
  const auto texts = strategy.all_gather_text(to_text(own));
  std::vector<size_t> ranks;  // that have logged something
  for (size_t r = 0; r < texts.size(); ++r) {
    const std::string names = names_of(texts[r]);
    if (names.empty()) {
      continue;
    }
    ranks.push_back(r);
    if (names != names_of(texts[ranks.front()])) {
      throw UsageError(fmt::format(
          "the ranks logged different metrics in this epoch: rank {} {}; rank {} {}.\n  Log the "
          "same names in the same order on every rank.",
          ranks.front(), shown(names_of(texts[ranks.front()])), r, shown(names)));
    }
  }
  MetricRows rows;
  rows.is_of_all_ranks = ranks.size() == texts.size();
  rows.first_rank = ranks.empty() ? 0 : static_cast<int>(ranks.front());
  const size_t begin = ranks.empty() ? 0 : names_of(texts[ranks.front()]).size() + 1;
  const size_t size = ranks.empty() ? 0 : texts[ranks.front()].size() - begin;
  rows.numbers = torch::empty(
      {static_cast<int64_t>(ranks.size()), static_cast<int64_t>(size / sizeof(double))},
      torch::kFloat64);
  for (size_t i = 0; i < ranks.size(); ++i) {
    TRAINER_CHECK(texts[ranks[i]].size() == begin + size, "equal names have equal rows");
    std::memcpy(static_cast<std::byte*>(rows.numbers.mutable_data_ptr()) + i * size,
                texts[ranks[i]].data() + begin, size);
  }
  return rows;
}

}  // namespace trainer

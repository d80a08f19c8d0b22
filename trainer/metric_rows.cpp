#include <trainer/metric_rows.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

constexpr char kEndOfHeader = '\0';

/// What is not a number as JSON, then the bytes of the numbers.
std::string to_text(const MetricRow& row) {
  const nlohmann::json header = {
      {"names", row.names}, {"sizes", row.sizes}, {"lacks_batches", row.lacks_batches}};
  std::string text = header.dump() + kEndOfHeader;
  text.append(reinterpret_cast<const char*>(row.numbers.data()),
              row.numbers.size() * sizeof(double));
  return text;
}

MetricRow from_text(const std::string& text) {
  const size_t end = text.find(kEndOfHeader);
  const auto header = nlohmann::json::parse(text.substr(0, end));
  MetricRow row{.names = header.at("names"),
                .sizes = header.at("sizes"),
                .lacks_batches = header.at("lacks_batches")};
  for (size_t at = end + 1; at < text.size(); at += sizeof(double)) {
    std::memcpy(&row.numbers.emplace_back(), text.data() + at, sizeof(double));
  }
  return row;
}

/// A rank that lacks batches may lack names, but has no other ones.
void check_names(const std::vector<MetricRow>& rows, size_t model) {
  for (size_t r = 0; r < rows.size(); ++r) {
    const auto is_known = [&](const std::string& name) {
      const auto& known = rows[model].names;
      return std::find(known.begin(), known.end(), name) != known.end();
    };
    const auto& own = rows[r].names;
    const bool fits = rows[r].lacks_batches ? std::all_of(own.begin(), own.end(), is_known)
                                            : own == rows[model].names;
    if (!fits) {
      throw UsageError(fmt::format(
          "the ranks logged different metrics in this epoch: rank {} {}; rank {} {}.\n  Log the "
          "same names in the same order on every rank.",
          model, fmt::join(rows[model].names, ", "), r, fmt::join(own, ", ")));
    }
  }
}

}  // namespace

std::optional<double> of_first_rank(Strategy& strategy, std::optional<double> value) {
  if (strategy.world_size() == 1) {
    return value;
  }
  const auto texts = strategy.all_gather_text(
      value ? std::string(reinterpret_cast<const char*>(&*value), sizeof(double)) : "");
  if (texts.front().empty()) {
    return std::nullopt;
  }
  double first = 0;
  std::memcpy(&first, texts.front().data(), sizeof(double));
  return first;
}

MetricRows gather_rows(Strategy& strategy, const MetricRow& own) {
  std::vector<MetricRow> of_ranks = {own};
  if (strategy.world_size() > 1) {
    of_ranks.clear();
    for (const auto& text : strategy.all_gather_text(to_text(own))) {
      of_ranks.push_back(from_text(text));
    }
  }
  size_t model = 0;  // the first with batches of every loader, or the one with most names
  for (size_t r = 1; r < of_ranks.size(); ++r) {
    const auto completeness = [&](size_t rank) {
      const bool lacks = of_ranks[rank].lacks_batches;
      return std::pair(!lacks, lacks ? of_ranks[rank].names.size() : 0);
    };
    model = completeness(r) > completeness(model) ? r : model;
  }
  check_names(of_ranks, model);

  MetricRows rows{.names = of_ranks[model].names};
  std::map<std::string, std::vector<torch::Tensor>> found;
  for (size_t r = 0; r < of_ranks.size(); ++r) {
    const auto& row = of_ranks[r];
    rows.is_same_on_all_ranks &= row.names.size() == rows.names.size();
    auto next = row.numbers.begin();
    for (size_t i = 0; i < row.names.size(); ++i) {
      found[row.names[i]].push_back(
          torch::tensor(std::vector<double>(next, next + row.sizes[i]), torch::kFloat64));
      rows.first_rank.emplace(row.names[i], r);
      next += row.sizes[i];
    }
  }
  for (const auto& [name, numbers] : found) {
    rows.numbers[name] = torch::stack(numbers);
  }
  return rows;
}

}  // namespace trainer

#include <callbacks/model_summary.h>

#include <algorithm>
#include <array>
#include <typeinfo>
#include <unordered_set>
#include <vector>

#include <fmt/format.h>
#include <torch/types.h>

#include <trainer/core/console.h>
#include <trainer/core/type_name.h>
#include <trainer/trainer.h>

namespace trainer {
namespace {

using Row = std::array<std::string, 4>;  // name, type, params, mode

/// The class as people write it: without namespaces, and without the Impl of torch::nn.
std::string type_of(const torch::nn::Module& module) {
  std::string name = type_name(typeid(module));
  return name.ends_with("Impl") ? name.substr(0, name.size() - 4) : name;
}

/// 1234567 as "1,234,567".
std::string with_commas(int64_t value) {
  std::string text = std::to_string(value);
  for (size_t at = text.size(); at > 3;) {
    at -= 3;
    text.insert(at, ",");
  }
  return text;
}

/// Without the repetitions of parameters that are registered more than once (tied weights).
std::vector<torch::Tensor> distinct(std::vector<torch::Tensor> tensors) {
  std::unordered_set<const void*> seen;
  std::erase_if(tensors,
                [&](const auto& t) { return !seen.insert(t.unsafeGetTensorImpl()).second; });
  return tensors;
}

int64_t num_params(const torch::nn::Module& module, bool recurse = true) {
  int64_t sum = 0;
  for (const auto& parameter : distinct(module.parameters(recurse))) {
    sum += parameter.numel();
  }
  return sum;
}

Row make_row(const std::string& name, const torch::nn::Module& module, int64_t params) {
  return {name, type_of(module), with_commas(params), module.is_training() ? "train" : "eval"};
}

void add_rows(const torch::nn::Module& module, const std::string& prefix, int64_t depth,
              std::vector<Row>& rows) {
  if (depth == 0) {
    return;
  }
  for (const auto& child : module.named_children()) {
    rows.push_back(make_row(prefix + child.key(), *child.value(), num_params(*child.value())));
    add_rows(*child.value(), prefix + child.key() + ".", depth - 1, rows);
  }
}

std::string layer_table(const std::vector<Row>& rows) {
  const Row header = {"name", "type", "params", "mode"};
  std::array<size_t, 4> widths{};
  for (size_t i = 0; i < widths.size(); ++i) {
    widths[i] = header[i].size();
    for (const auto& row : rows) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  const auto line = [&](const Row& row) {
    return fmt::format("{:<{}}  {:<{}}  {:>{}}  {}\n", row[0], widths[0], row[1], widths[1], row[2],
                       widths[2], row[3]);
  };
  const std::string rule(widths[0] + widths[1] + widths[2] + widths[3] + 6, '-');
  std::string text = line(header) + rule + "\n";
  for (const auto& row : rows) {
    text += line(row);
  }
  return text + rule + "\n";
}

std::string totals(const torch::nn::Module& module) {
  int64_t all = 0, trainable = 0;
  double bytes = 0;
  for (const auto& parameter : distinct(module.parameters())) {
    all += parameter.numel();
    trainable += parameter.requires_grad() ? parameter.numel() : 0;
    bytes += static_cast<double>(parameter.nbytes());
  }
  const std::array<std::string, 4> numbers = {with_commas(trainable), with_commas(all - trainable),
                                              with_commas(all), fmt::format("{:.3f}", bytes / 1e6)};
  size_t width = 0;
  for (const auto& number : numbers) {
    width = std::max(width, number.size());
  }
  return fmt::format(
      "{:>{}}  trainable params\n{:>{}}  non-trainable params\n{:>{}}  total params\n{:>{}}  MB of "
      "params",
      numbers[0], width, numbers[1], width, numbers[2], width, numbers[3], width);
}

}  // namespace

std::string model_summary(const torch::nn::Module& module, int64_t max_depth) {
  std::vector<Row> rows;
  add_rows(module, "", max_depth, rows);
  const int64_t own = num_params(module, /*recurse=*/false);
  if (max_depth != 0 && own > 0) {
    rows.push_back(make_row("(own)", module, own));
  }
  return (rows.empty() ? "" : layer_table(rows)) + totals(module);
}

void ModelSummary::on_fit_start(Trainer& trainer, Module& module) {
  if (trainer.strategy().is_global_zero()) {
    console::write_line(model_summary(module, init_.max_depth));
  }
}

}  // namespace trainer

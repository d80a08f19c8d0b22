#include <trainer/metrics/mean.h>

#include <torch/utils.h>

namespace trainer::metrics {

void Mean::update(const torch::Tensor& values, const torch::Tensor& weights) {
  const torch::NoGradGuard no_grad;
  const auto wide = values.to(torch::kFloat64);
  const auto each = weights.to(torch::kFloat64).expand_as(wide);
  add({(wide * each).sum(), each.sum()});
}

void Mean::update(const torch::Tensor& values, double weight) {
  update(values, torch::full({}, weight, values.options().dtype(torch::kFloat64)));
}

torch::Tensor Mean::value(const std::vector<torch::Tensor>& state) const {
  return state[0] / state[1];
}

}  // namespace trainer::metrics

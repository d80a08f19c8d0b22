#pragma once
// The weighted mean of values, where log()'s weights by samples are not the ones that are meant:
// a loss by tokens, say.

#include <trainer/metrics/metric.h>

namespace trainer::metrics {

/// sum(value * weight) / sum(weight), as torchmetrics' MeanMetric; NaN stays NaN instead of being
/// left out.
class Mean : public Metric {
 public:
  Mean() : Metric({{ReduceOp::kSum}, {ReduceOp::kSum}}) {}
  /// `values` of any shape; `weights` of a shape that broadcasts to it.
  void update(const torch::Tensor& values, const torch::Tensor& weights);
  void update(const torch::Tensor& values, double weight = 1);
  torch::Tensor value(const std::vector<torch::Tensor>& state) const override;
};

}  // namespace trainer::metrics

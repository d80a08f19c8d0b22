#pragma once
// How many predictions are right.

#include <cstdint>
#include <optional>

#include <trainer/metrics/metric.h>

namespace trainer::metrics {

enum class Average {
  kMicro,     ///< Over all samples.
  kMacro,     ///< The mean of the classes' accuracies; classes that never occur do not count.
  kWeighted,  ///< The same, weighted by the samples of each class.
};

struct AccuracyOptions {
  int64_t num_classes = 2;
  Average average = Average::kMicro;
  /// Right where the target is among the k highest scores; with kMicro only.
  int64_t top_k = 1;
  /// Targets of this value are left out.
  std::optional<int64_t> ignore_index = std::nullopt;
};

/// As torchmetrics' MulticlassAccuracy.
class Accuracy : public Metric {
 public:
  /// Throws UsageError for options out of range.
  explicit Accuracy(AccuracyOptions options);
  /// `predictions`: scores [batch, classes, ...], or classes of the targets' shape; `targets`:
  /// int64 [batch, ...]. Throws UsageError for other shapes. Syncs: only with ignore_index.
  void update(const torch::Tensor& predictions, const torch::Tensor& targets);
  torch::Tensor value(const std::vector<torch::Tensor>& state) const override;

 private:
  AccuracyOptions options_;
};

/// Two classes from one score, as torchmetrics' BinaryAccuracy.
class BinaryAccuracy : public Metric {
 public:
  explicit BinaryAccuracy(double threshold = 0.5)
      : Metric({{ReduceOp::kSum}, {ReduceOp::kSum}}), threshold_(threshold) {}
  /// `predictions`: probabilities, or logits where any value lies outside of 0 to 1, or classes 0
  /// and 1, of the targets' shape; `targets`: 0 and 1. Throws UsageError for shapes that differ.
  /// Syncs: no.
  void update(const torch::Tensor& predictions, const torch::Tensor& targets);
  torch::Tensor value(const std::vector<torch::Tensor>& state) const override;

 private:
  double threshold_;
};

}  // namespace trainer::metrics

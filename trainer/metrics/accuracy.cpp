#include <trainer/metrics/accuracy.h>

#include <fmt/format.h>
#include <torch/torch.h>

#include <trainer/core/error.h>

namespace trainer::metrics {
namespace {

/// What the state counts for each class.
enum Count : size_t { kRight, kPredicted, kActual };

torch::Tensor count(const torch::Tensor& classes, int64_t num_classes) {
  // Unlike bincount, its size is known beforehand, so that nothing waits for a device.
  return torch::zeros({num_classes}, classes.options().dtype(torch::kFloat64))
      .scatter_add_(0, classes, torch::ones_like(classes, torch::kFloat64));
}

/// One count for all, or one for each class.
std::vector<int64_t> shape_of(const AccuracyOptions& options) {
  return options.average == Average::kMicro ? std::vector<int64_t>{}
                                            : std::vector<int64_t>{options.num_classes};
}

}  // namespace

Accuracy::Accuracy(AccuracyOptions options)
    : Metric(std::vector<MetricState>(3, {ReduceOp::kSum, shape_of(options)})), options_(options) {
  const auto& [num_classes, average, top_k, ignore_index] = options_;
  if (num_classes < 2 || top_k < 1 || top_k > num_classes ||
      (top_k > 1 && average != Average::kMicro)) {
    throw UsageError(
        fmt::format("Accuracy: num_classes {}, top_k {}: there must be two classes, and top_k must "
                    "be between 1 and their number, and 1 unless average is kMicro.",
                    num_classes, top_k));
  }
}

void Accuracy::update(const torch::Tensor& predictions, const torch::Tensor& targets) {
  const torch::NoGradGuard no_grad;
  const bool are_scores = predictions.dim() == targets.dim() + 1;
  const bool fits = are_scores ? predictions.size(1) == options_.num_classes &&
                                     predictions.select(1, 0).sizes() == targets.sizes()
                               : predictions.sizes() == targets.sizes() && options_.top_k == 1;
  if (!fits) {
    throw UsageError(fmt::format(
        "Accuracy: predictions of shape {} and targets of shape {} do not fit {} classes. Give "
        "scores [batch, classes, ...] and targets [batch, ...].",
        c10::str(predictions.sizes()), c10::str(targets.sizes()), options_.num_classes));
  }
  auto actual = targets.flatten();
  auto predicted = (are_scores ? predictions.argmax(1) : predictions).flatten();
  torch::Tensor right = predicted == actual;
  if (options_.top_k > 1) {
    const auto best = std::get<1>(predictions.topk(options_.top_k, 1));
    right = (best == targets.unsqueeze(1)).any(1).flatten();
  }
  if (options_.ignore_index) {
    const auto counts = actual != *options_.ignore_index;
    actual = actual.masked_select(counts);
    predicted = predicted.masked_select(counts);
    right = right.masked_select(counts);
  }
  if (options_.average == Average::kMicro) {
    const auto all = torch::full({}, static_cast<double>(actual.numel()),
                                 right.options().dtype(torch::kFloat64));
    add({right.sum(), all, all});
    return;
  }
  const int64_t classes = options_.num_classes;
  const auto actual_counts = count(actual, classes);
  add({torch::zeros_like(actual_counts).scatter_add_(0, actual, right.to(torch::kFloat64)),
       count(predicted, classes), actual_counts});
}

torch::Tensor Accuracy::value(const std::vector<torch::Tensor>& state) const {
  const auto& right = state[kRight];
  const auto& actual = state[kActual];
  if (options_.average == Average::kMicro) {
    return right / actual;
  }
  const auto by_class = (right / actual).nan_to_num();  // 0 of 0 is right: 0, as in torchmetrics
  const auto weights = options_.average == Average::kWeighted
                           ? actual
                           : ((actual + state[kPredicted]) > 0).to(torch::kFloat64);
  return (by_class * weights).sum() / weights.sum();
}

void BinaryAccuracy::update(const torch::Tensor& predictions, const torch::Tensor& targets) {
  if (predictions.sizes() != targets.sizes()) {
    throw UsageError(fmt::format("BinaryAccuracy: predictions of shape {} for targets of shape {}.",
                                 c10::str(predictions.sizes()), c10::str(targets.sizes())));
  }
  const torch::NoGradGuard no_grad;
  auto predicted = predictions;
  if (predictions.is_floating_point()) {
    const auto are_logits = ((predictions < 0) | (predictions > 1)).any();
    predicted = torch::where(are_logits, predictions.sigmoid(), predictions) > threshold_;
  }
  add({(predicted == targets.to(predicted.scalar_type())).sum(),
       torch::full({}, static_cast<double>(targets.numel()),
                   predictions.options().dtype(torch::kFloat64))});
}

torch::Tensor BinaryAccuracy::value(const std::vector<torch::Tensor>& state) const {
  return state[0] / state[1];
}

}  // namespace trainer::metrics

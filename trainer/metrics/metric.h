#pragma once
// Metrics that keep a state: what no mean of batch values gives, such as a perplexity, an accuracy
// per class, or a mean with weights of its own. Register one in a module, update it in a step, and
// log it; the Trainer computes it over the epoch and over all ranks, resets it, and keeps it in
// checkpoints:
//
//   std::shared_ptr<metrics::Accuracy> accuracy_ = register_module(
//       "accuracy", std::make_shared<metrics::Accuracy>(metrics::AccuracyOptions{.num_classes =
//       10}));
//
//   void validation_step(const Batch& batch, int64_t) override {
//     auto [x, y] = batch.unpack<2>();
//     accuracy_->update(forward(x), y);
//     log("val_accuracy", *accuracy_);
//   }
//
// In a loop of your own: update(), compute(), reset().

#include <cstdint>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <torch/nn/module.h>
#include <torch/types.h>

#include <trainer/strategy.h>

namespace trainer::metrics {

/// A tensor of a metric's state, and how those of two batches, or of two ranks, become one.
struct MetricState {
  ReduceOp merge_op;
  std::vector<int64_t> shape = {};
};

/// For a metric of your own: declare the state, and implement value() and an update() that hands
/// the state of its batch to add(). What a batch adds must not depend on earlier ones, so that
/// states merge in any order.
class Metric : public torch::nn::Module {
 public:
  /// The value over everything since reset(), on this rank: a float64 scalar on the state's device.
  /// Syncs: no.
  torch::Tensor compute() const { return value(total_); }
  /// The same over the newest update alone. Syncs: no.
  torch::Tensor batch_value() const { return value(newest_); }
  void reset();

  /// The scalar that a state stands for. `state` is float64, on any device; before the first update
  /// identity() of each.
  virtual torch::Tensor value(const std::vector<torch::Tensor>& state) const = 0;

  // For the Trainer.

  const std::vector<torch::Tensor>& state() const { return total_; }
  ReduceOp merge_op(size_t index) const { return layout_[index].merge_op; }
  /// Syncs: yes.
  nlohmann::json state_dict() const;
  /// Throws CheckpointError for a state of another metric.
  void load_state_dict(const nlohmann::json& state);

 protected:
  explicit Metric(std::vector<MetricState> layout) : layout_(std::move(layout)) { reset(); }
  /// Merges the state of one batch, of the declared shapes.
  void add(std::vector<torch::Tensor> batch);

 private:
  std::vector<MetricState> layout_;
  std::vector<torch::Tensor> total_, newest_;
};

/// What changes nothing when it is merged: 0, infinity for a minimum, minus infinity for a maximum.
double identity(ReduceOp op);
/// Two values merged into one; NaN stays NaN.
double merge(double a, double b, ReduceOp op);
/// The same element by element, into `into`.
void merge(torch::Tensor& into, const torch::Tensor& from, ReduceOp op);

}  // namespace trainer::metrics

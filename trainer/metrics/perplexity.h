#pragma once
// How surprised a language model is.

#include <cstdint>
#include <optional>

#include <trainer/metrics/metric.h>

namespace trainer::metrics {

/// exp of the mean negative log likelihood of all tokens, as torchmetrics' Perplexity.
class Perplexity : public Metric {
 public:
  /// Targets equal to `ignore_index` are left out.
  explicit Perplexity(std::optional<int64_t> ignore_index = std::nullopt)
      : Metric({{ReduceOp::kSum}, {ReduceOp::kSum}}), ignore_index_(ignore_index) {}
  /// `logits` [batch, seq, vocab], `targets` int64 [batch, seq]. Throws UsageError for other
  /// shapes. Syncs: no.
  void update(const torch::Tensor& logits, const torch::Tensor& targets);
  /// The same from a loss that is there already: the mean negative log likelihood of `num_tokens`.
  void update_mean(const torch::Tensor& loss, int64_t num_tokens);
  torch::Tensor value(const std::vector<torch::Tensor>& state) const override;

 private:
  std::optional<int64_t> ignore_index_;
};

}  // namespace trainer::metrics

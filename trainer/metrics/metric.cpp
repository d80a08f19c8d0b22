#include <trainer/metrics/metric.h>

#include <cmath>
#include <limits>
#include <typeinfo>

#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/json.h>
#include <trainer/core/type_name.h>

namespace trainer::metrics {

double identity(ReduceOp op) {
  switch (op) {
    case ReduceOp::kMin: return std::numeric_limits<double>::infinity();
    case ReduceOp::kMax: return -std::numeric_limits<double>::infinity();
    case ReduceOp::kProduct: return 1;
    case ReduceOp::kMean:
    case ReduceOp::kSum: break;
  }
  return 0;
}

double merge(double a, double b, ReduceOp op) {
  switch (op) {
    case ReduceOp::kMin: return std::isnan(b) || b < a ? b : a;
    case ReduceOp::kMax: return std::isnan(b) || b > a ? b : a;
    case ReduceOp::kProduct: return a * b;
    case ReduceOp::kMean:
    case ReduceOp::kSum: break;
  }
  return a + b;
}

void merge(torch::Tensor& into, const torch::Tensor& from, ReduceOp op) {
  switch (op) {
    case ReduceOp::kMean:
    case ReduceOp::kSum: into.add_(from); break;
    case ReduceOp::kMin: into.copy_(torch::minimum(into, from)); break;
    case ReduceOp::kMax: into.copy_(torch::maximum(into, from)); break;
    case ReduceOp::kProduct: into.mul_(from); break;
  }
}

void Metric::reset() {
  const c10::InferenceMode off(false);  // its tensors are changed in training too
  total_.clear();
  newest_.clear();
  for (const auto& [merge_op, shape] : layout_) {
    total_.push_back(torch::full(shape, identity(merge_op), torch::kFloat64));
    newest_.push_back(total_.back().clone());
  }
}

void Metric::add(std::vector<torch::Tensor> batch) {
  TRAINER_CHECK(batch.size() == layout_.size(), "a metric adds every tensor of its state");
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < batch.size(); ++i) {
    batch[i] = batch[i].detach().to(torch::kFloat64);
    TRAINER_CHECK(batch[i].sizes() == c10::IntArrayRef(layout_[i].shape),
                  "a metric adds tensors of the shapes that it declared");
    total_[i] = total_[i].to(batch[i].device());  // the first time it is on the processor
    merge(total_[i], batch[i], layout_[i].merge_op);
  }
  newest_ = std::move(batch);
}

nlohmann::json Metric::state_dict() const {
  auto state = nlohmann::json::array();
  for (const auto& tensor : total_) {
    const auto flat = tensor.to(torch::kCPU).contiguous();
    auto values = nlohmann::json::array();
    for (int64_t i = 0; i < flat.numel(); ++i) {
      values.push_back(json::number(flat.const_data_ptr<double>()[i]));
    }
    state.push_back(std::move(values));
  }
  return state;
}

void Metric::load_state_dict(const nlohmann::json& state) {
  reset();
  bool fits = state.size() == layout_.size();
  for (size_t i = 0; fits && i < total_.size(); ++i) {
    const auto& saved = state[i];
    fits = saved.size() == static_cast<size_t>(total_[i].numel());
    for (size_t k = 0; fits && k < saved.size(); ++k) {
      total_[i].mutable_data_ptr<double>()[k] = json::to_double(saved[k]);
    }
  }
  if (!fits) {
    throw CheckpointError(fmt::format("{}: the checkpoint holds the state of another metric: {}.",
                                      type_name(typeid(*this)), state.dump()));
  }
}

}  // namespace trainer::metrics

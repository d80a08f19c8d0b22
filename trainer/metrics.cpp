#include <trainer/metrics.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/json.h>

namespace trainer {
namespace {

/// The number in a one-element tensor on the processor. Loss and metrics are float32 nearly always:
/// read without a trip through the dispatcher.
double read_scalar(const torch::Tensor& value) {
  switch (value.scalar_type()) {
    case at::kFloat: return *value.const_data_ptr<float>();
    case at::kDouble: return *value.const_data_ptr<double>();
    default: return value.item().toDouble();
  }
}

double start_value(ReduceFx fx) {
  switch (fx) {
    case ReduceFx::kMin: return std::numeric_limits<double>::infinity();
    case ReduceFx::kMax: return -std::numeric_limits<double>::infinity();
    default: return 0;
  }
}

double finish(ReduceFx fx, double reduced, double weight) {
  return fx == ReduceFx::kMean ? reduced / weight : reduced;
}

bool same(const LogOptions& a, const LogOptions& b) {
  return a.on_step == b.on_step && a.on_epoch == b.on_epoch && a.prog_bar == b.prog_bar &&
         a.logger == b.logger && a.reduce_fx == b.reduce_fx;
}

}  // namespace

MetricCollector::Entry& MetricCollector::entry(std::string_view plain_name,
                                               const LogOptions& options) {
  std::string suffixed;
  std::string_view name = plain_name;
  if (!suffix_.empty() && options.add_dataloader_idx) {
    suffixed = std::string(plain_name) + suffix_;
    name = suffixed;
  }
  if (scope_ == Scope::kForbidden) {
    throw UsageError(
        fmt::format("log('{}'): cannot log in {}. Log in training_step, validation_step, test_step "
                    "or an epoch hook.",
                    name, hook_));
  }
  LogOptions resolved = options;
  resolved.on_step = options.on_step.value_or(scope_ == Scope::kTrainBatch);
  resolved.on_epoch = options.on_epoch.value_or(scope_ != Scope::kTrainBatch);
  if (scope_ == Scope::kEpoch && *resolved.on_step) {
    throw UsageError(
        fmt::format("log('{}'): on_step=true in {}, which runs once an epoch. Leave on_step out.",
                    name, hook_));
  }
  const auto found = index_.find(name);
  if (found == index_.end()) {
    index_.emplace(name, entries_.size());
    Entry made;
    made.name = name;
    made.options = resolved;
    made.reduced = start_value(resolved.reduce_fx);
    return entries_.emplace_back(std::move(made));
  }
  Entry& existing = entries_[found->second];
  if (!same(existing.options, resolved)) {
    throw UsageError(
        fmt::format("log('{}') in {}: logged before with other options (on_step, on_epoch, "
                    "prog_bar, logger or reduce_fx). Use one "
                    "set of options for a name, or two names.",
                    name, hook_));
  }
  return existing;
}

void MetricCollector::log(std::string_view name, const torch::Tensor& value,
                          const LogOptions& options) {
  if (!value.defined() || value.numel() != 1) {
    const std::string what = value.defined()
                                 ? fmt::format("a tensor of shape {}", c10::str(value.sizes()))
                                 : std::string("an undefined tensor");
    throw UsageError(
        fmt::format("log('{}') in {}: the value is {}, not one number. Log value.mean(), say.",
                    name, hook_, what));
  }
  if (value.is_cpu()) {
    log(name, read_scalar(value), options);
    return;
  }
  Entry& e = entry(name, options);
  e.fresh = e.is_new = true;
  e.device_last = value.variable_data();  // without the graph, which would otherwise live on
  if (*e.options.on_epoch) {
    const auto weight = static_cast<double>(options.batch_size.value_or(batch_size_));
    accumulate(e, e.device_last, weight);
    e.weight += weight;
  }
}

void MetricCollector::log(std::string_view name, double value, const LogOptions& options) {
  Entry& e = entry(name, options);
  e.fresh = e.is_new = true;
  e.last = value;
  if (*e.options.on_epoch) {
    const auto weight = static_cast<double>(options.batch_size.value_or(batch_size_));
    accumulate(e, e.options.reduce_fx == ReduceFx::kMean ? value * weight : value);
    e.weight += weight;
  }
}

void MetricCollector::accumulate(Entry& e, double value) {
  e.has_epoch = true;
  switch (e.options.reduce_fx) {
    case ReduceFx::kMean:
    case ReduceFx::kSum: e.reduced += value; break;
    // NaN must not get lost in a comparison.
    case ReduceFx::kMin:
      e.reduced = std::isnan(value) || value < e.reduced ? value : e.reduced;
      break;
    case ReduceFx::kMax:
      e.reduced = std::isnan(value) || value > e.reduced ? value : e.reduced;
      break;
  }
}

void MetricCollector::accumulate(Entry& e, const torch::Tensor& value, double weight) {
  const torch::NoGradGuard no_grad;
  e.has_epoch = true;
  const auto wide = value.reshape({}).to(at::kDouble);
  const bool is_mean = e.options.reduce_fx == ReduceFx::kMean;
  const auto term = is_mean ? wide * weight : wide;
  if (!e.device_reduced.defined()) {
    e.device_reduced = is_mean ? term : term.clone();
    return;
  }
  switch (e.options.reduce_fx) {
    case ReduceFx::kMean:
    case ReduceFx::kSum: e.device_reduced.add_(term); break;
    case ReduceFx::kMin: e.device_reduced.copy_(torch::minimum(e.device_reduced, term)); break;
    case ReduceFx::kMax: e.device_reduced.copy_(torch::maximum(e.device_reduced, term)); break;
  }
}

void MetricCollector::fetch() {
  std::vector<torch::Tensor> pending;
  for (const auto& e : entries_) {
    for (const auto* tensor : {&e.device_last, &e.device_reduced}) {
      if (tensor->defined()) {
        pending.push_back(tensor->reshape({}).to(at::kDouble));
      }
    }
  }
  if (pending.empty()) {
    return;
  }
  const auto values = torch::stack(pending).to(torch::kCPU);
  const double* next = values.const_data_ptr<double>();
  for (auto& e : entries_) {
    if (e.device_last.defined()) {
      e.last = *next++;
      e.device_last.reset();
    }
    if (e.device_reduced.defined()) {
      accumulate(e, *next++);
      e.device_reduced.reset();
    }
  }
}

Metrics MetricCollector::step_metrics() {
  fetch();
  Metrics metrics;
  for (const auto& e : entries_) {
    if (e.fresh && *e.options.on_step && e.options.logger) {
      metrics.emplace_back(*e.options.on_epoch ? e.name + "_step" : e.name, e.last);
    }
  }
  return metrics;
}

Metrics MetricCollector::progress_bar_metrics() {
  fetch();
  Metrics metrics;
  for (const auto& e : entries_) {
    if (e.fresh && e.options.prog_bar && *e.options.on_step) {
      metrics.emplace_back(*e.options.on_epoch ? e.name + "_step" : e.name, e.last);
    }
  }
  return metrics;
}

Metrics MetricCollector::new_values() {
  fetch();
  Metrics metrics;
  for (const auto& e : entries_) {
    if (e.is_new && *e.options.on_step) {
      metrics.emplace_back(e.name, e.last);
      if (*e.options.on_epoch) {
        metrics.emplace_back(e.name + "_step", e.last);
      }
    }
  }
  return metrics;
}

void MetricCollector::forget_new_values() {
  for (auto& e : entries_) {
    e.is_new = false;
  }
}

std::vector<MetricCollector::EpochValue> MetricCollector::reduce_epoch(Strategy& strategy) {
  fetch();
  std::vector<EpochValue> values;
  for (auto& e : entries_) {
    if (!e.has_epoch) {
      continue;
    }
    if (strategy.world_size() > 1) {
      const ReduceOp op = e.options.reduce_fx == ReduceFx::kMin   ? ReduceOp::kMin
                          : e.options.reduce_fx == ReduceFx::kMax ? ReduceOp::kMax
                                                                  : ReduceOp::kSum;
      auto packed = torch::tensor({e.reduced, op == ReduceOp::kSum ? e.weight : 0.0}, at::kDouble);
      strategy.all_reduce(packed, op);
      e.reduced = packed[0].item<double>();
      e.weight = op == ReduceOp::kSum ? packed[1].item<double>() : e.weight;
    }
    values.push_back({*e.options.on_step ? e.name + "_epoch" : e.name, e.name,
                      finish(e.options.reduce_fx, e.reduced, e.weight), e.options.logger,
                      e.options.prog_bar});
  }
  return values;
}

void MetricCollector::reset_epoch() {
  for (auto& e : entries_) {
    e.fresh = false;
    e.has_epoch = false;
    e.reduced = start_value(e.options.reduce_fx);
    e.weight = 0;
    e.device_reduced.reset();
  }
}

nlohmann::json MetricCollector::state_dict() {
  fetch();
  auto state = nlohmann::json::array();
  for (const auto& e : entries_) {
    state.push_back({{"name", e.name},
                     {"on_step", *e.options.on_step},
                     {"on_epoch", *e.options.on_epoch},
                     {"prog_bar", e.options.prog_bar},
                     {"logger", e.options.logger},
                     {"reduce_fx", static_cast<int>(e.options.reduce_fx)},
                     {"fresh", e.fresh},
                     {"is_new", e.is_new},
                     {"has_epoch", e.has_epoch},
                     {"last", json::number(e.last)},
                     {"reduced", json::number(e.reduced)},
                     {"weight", e.weight}});
  }
  return state;
}

void MetricCollector::load_state_dict(const nlohmann::json& state) {
  index_.clear();
  entries_.clear();
  for (const auto& saved : state) {
    Entry e;
    e.name = saved.at("name");
    e.options = {.on_step = saved.at("on_step").get<bool>(),
                 .on_epoch = saved.at("on_epoch").get<bool>(),
                 .prog_bar = saved.at("prog_bar"),
                 .logger = saved.at("logger"),
                 .reduce_fx = static_cast<ReduceFx>(saved.at("reduce_fx").get<int>())};
    e.fresh = saved.at("fresh");
    e.is_new = saved.at("is_new");
    e.has_epoch = saved.at("has_epoch");
    e.last = json::to_double(saved.at("last"));
    e.reduced = json::to_double(saved.at("reduced"));
    e.weight = saved.at("weight");
    index_.emplace(e.name, entries_.size());
    entries_.push_back(std::move(e));
  }
}

}  // namespace trainer

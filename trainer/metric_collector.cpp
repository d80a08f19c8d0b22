#include <trainer/metric_collector.h>

#include <algorithm>

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

/// A mean is merged as a sum of weighted values.
ReduceOp merge_op(ReduceFx fx) {
  switch (fx) {
    case ReduceFx::kMin: return ReduceOp::kMin;
    case ReduceFx::kMax: return ReduceOp::kMax;
    case ReduceFx::kMean:
    case ReduceFx::kSum: break;
  }
  return ReduceOp::kSum;
}

int64_t num_elements(const std::vector<torch::Tensor>& tensors) {
  int64_t sum = 0;
  for (const auto& tensor : tensors) {
    sum += tensor.numel();
  }
  return sum;
}

/// The value that rows of {reduced, weight} stand for, if they hold any sample.
std::optional<double> merged_value(ReduceFx fx, const torch::Tensor& rows) {
  const auto columns = rows.accessor<double, 2>();
  double reduced = metrics::identity(merge_op(fx));
  double weight = 0;
  for (int64_t rank = 0; rank < rows.size(0); ++rank) {
    if (columns[rank][1] > 0) {
      reduced = metrics::merge(reduced, columns[rank][0], merge_op(fx));
      weight += columns[rank][1];
    }
  }
  if (weight == 0) {
    return std::nullopt;
  }
  return fx == ReduceFx::kMean ? reduced / weight : reduced;
}

/// The same of rows of a metric's state, whose elements stand one after the other.
double merged_value(const metrics::Metric& metric, const torch::Tensor& rows) {
  std::vector<torch::Tensor> state;
  int64_t at = 0;
  for (size_t i = 0; i < metric.state().size(); ++i) {
    const auto& own = metric.state()[i];
    const auto of_ranks = rows.slice(1, at, at + own.numel()).unbind();
    auto whole = of_ranks[0].clone();
    for (size_t rank = 1; rank < of_ranks.size(); ++rank) {
      metrics::merge(whole, of_ranks[rank], metric.merge_op(i));
    }
    state.push_back(whole.reshape(own.sizes()));
    at += own.numel();
  }
  return metric.value(state).item<double>();
}

std::string to_text(const std::vector<MetricCollector::EpochValue>& values) {
  auto list = nlohmann::json::array();
  for (const auto& value : values) {
    list.push_back(
        {value.name, value.plain_name, json::number(value.value), value.logger, value.prog_bar});
  }
  return list.dump();
}

std::vector<MetricCollector::EpochValue> from_text(const std::string& text) {
  std::vector<MetricCollector::EpochValue> values;
  for (const auto& value : nlohmann::json::parse(text)) {
    values.push_back({value[0], value[1], json::to_double(value[2]), value[3], value[4]});
  }
  return values;
}

bool same(const LogOptions& a, const LogOptions& b) {
  return a.on_step == b.on_step && a.on_epoch == b.on_epoch && a.prog_bar == b.prog_bar &&
         a.logger == b.logger && a.reduce_fx == b.reduce_fx;
}

}  // namespace

std::string MetricCollector::Entry::step_name() const {
  return *options.on_step && *options.on_epoch ? name + "_step" : name;
}

std::string MetricCollector::Entry::epoch_name() const {
  return *options.on_step && *options.on_epoch ? name + "_epoch" : name;
}

MetricCollector::Entry& MetricCollector::entry(std::string_view plain_name,
                                               const LogOptions& options, metrics::Metric* metric) {
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
  if (found != index_.end()) {
    Entry& existing = entries_[found->second];
    check_same_use(existing, resolved, metric);
    if (!existing.fresh) {
      existing.loader = suffix_;
    }
    return existing;
  }
  check_name(name, metric);
  Entry made;
  made.name = name;
  made.loader = suffix_;
  made.options = resolved;
  made.reduced = metrics::identity(merge_op(resolved.reduce_fx));
  made.metric = metric;
  return add(std::move(made));
}

void MetricCollector::check_name(std::string_view name, const metrics::Metric* metric) const {
  if (name == "step" || name == "epoch") {
    throw UsageError(fmt::format(
        "log('{}') in {}: every row has a column of that name. Use another name.", name, hook_));
  }
  for (const auto& other : entries_) {
    if (metric != nullptr && other.metric == metric) {
      throw UsageError(
          fmt::format("log('{}') in {}: the same metric is logged as '{}'. Use a metric for each "
                      "name, and for each of several loaders.",
                      name, hook_, other.name));
    }
  }
}

void MetricCollector::check_same_use(const Entry& existing, const LogOptions& resolved,
                                     const metrics::Metric* metric) const {
  if (existing.metric != metric) {
    throw UsageError(
        fmt::format("log('{}') in {}: logged before from another metric, or as a number. Use two "
                    "names.",
                    existing.name, hook_));
  }
  if (!same(existing.options, resolved)) {
    throw UsageError(
        fmt::format("log('{}') in {}: logged before with other options (on_step, on_epoch, "
                    "prog_bar, logger or reduce_fx). Use one set of options for a name, or two "
                    "names.",
                    existing.name, hook_));
  }
  if (existing.fresh && existing.loader != suffix_) {
    throw UsageError(
        fmt::format("log('{}') in {}: logged before from another loader, with "
                    "add_dataloader_idx=false. Use a name for each loader.",
                    existing.name, hook_));
  }
}

MetricCollector::Entry& MetricCollector::add(Entry made) {
  for (const auto& other : entries_) {
    for (const auto& name : {made.step_name(), made.epoch_name()}) {
      if (name == other.step_name() || name == other.epoch_name()) {
        throw UsageError(fmt::format(
            "log('{}') in {}: its values are called '{}', as those of '{}'. Rename one.", made.name,
            hook_, name, other.name));
      }
    }
  }
  index_.emplace(made.name, entries_.size());
  return entries_.emplace_back(std::move(made));
}

bool MetricCollector::knows(const metrics::Metric& metric) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const Entry& e) { return e.metric == &metric; });
}

void MetricCollector::log(std::string_view name, const torch::Tensor& value,
                          const LogOptions& options) {
  if (!value.defined() || value.numel() != 1 || value.is_complex()) {
    const std::string what = !value.defined() ? "an undefined tensor"
                             : value.is_complex()
                                 ? "complex"
                                 : fmt::format("a tensor of shape {}", c10::str(value.sizes()));
    throw UsageError(
        fmt::format("log('{}') in {}: the value is {}, not one number. Log value.mean(), say.",
                    name, hook_, what));
  }
  if (value.is_cpu()) {
    log(name, read_scalar(value), options);
    return;
  }
  Entry& e = entry(name, options);
  take(e, value);
  const double weight = weight_of(options);
  if (*e.options.on_epoch && weight > 0) {
    accumulate(e, e.device_last, weight);
    e.weight += weight;
  }
}

/// The step's value.
void MetricCollector::take(Entry& e, const torch::Tensor& value) {
  e.fresh = e.is_new = true;
  if (value.is_cpu()) {
    e.last = read_scalar(value);
  } else {
    e.device_last = value.variable_data();  // without the graph, which would otherwise live on
  }
}

void MetricCollector::log(std::string_view name, metrics::Metric& metric,
                          const LogOptions& options) {
  Entry& e = entry(name, options, &metric);
  e.fresh = e.is_new = true;
  e.has_epoch = *e.options.on_epoch;
  if (*e.options.on_step) {
    take(e, metric.batch_value());
  }
}

void MetricCollector::log(std::string_view name, double value, const LogOptions& options) {
  Entry& e = entry(name, options);
  e.fresh = e.is_new = true;
  e.last = value;
  const double weight = weight_of(options);
  if (*e.options.on_epoch && weight > 0) {  // a mean over no samples is no number
    accumulate(e, e.options.reduce_fx == ReduceFx::kMean ? value * weight : value);
    e.weight += weight;
  }
}

void MetricCollector::accumulate(Entry& e, double value) {
  e.has_epoch = true;
  e.reduced = metrics::merge(e.reduced, value, merge_op(e.options.reduce_fx));
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
  metrics::merge(e.device_reduced, term, merge_op(e.options.reduce_fx));
}

std::vector<double> MetricCollector::fetch(const std::vector<torch::Tensor>& more) {
  std::vector<torch::Tensor> pending;
  for (const auto& e : entries_) {
    for (const auto* tensor : {&e.device_last, &e.device_reduced}) {
      if (tensor->defined()) {
        pending.push_back(tensor->reshape({1}).to(at::kDouble));
      }
    }
  }
  for (const auto& tensor : more) {
    pending.push_back(tensor.flatten());
  }
  if (pending.empty()) {
    return {};
  }
  const auto values = torch::cat(pending).to(torch::kCPU);
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
  return {next, values.const_data_ptr<double>() + values.numel()};
}

Metrics MetricCollector::last_values(bool LogOptions::*wanted) {
  fetch();
  Metrics metrics;
  for (const auto& e : entries_) {
    if (e.fresh && *e.options.on_step && e.options.*wanted) {
      metrics.emplace_back(e.step_name(), e.last);
    }
  }
  return metrics;
}

bool MetricCollector::has_step_values() const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const Entry& e) { return e.fresh && *e.options.on_step; });
}

Metrics MetricCollector::new_values() {
  fetch();
  Metrics metrics;
  for (const auto& e : entries_) {
    if (e.is_new && *e.options.on_step) {
      metrics.emplace_back(e.name, e.last);
      if (*e.options.on_epoch) {
        metrics.emplace_back(e.step_name(), e.last);
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

/// Of each name its sum and weight, or the elements of its state.
MetricRow MetricCollector::epoch_row() {
  std::vector<torch::Tensor> states;
  for (const auto& e : entries_) {
    if (is_of_epoch(e) && e.metric != nullptr) {
      states.insert(states.end(), e.metric->state().begin(), e.metric->state().end());
    }
  }
  const auto state_elements = fetch(states);
  MetricRow row;
  auto element = state_elements.begin();
  for (const auto& e : entries_) {
    if (!is_of_epoch(e)) {
      continue;
    }
    row.names.push_back(e.epoch_name());
    if (e.metric != nullptr) {
      row.sizes.push_back(num_elements(e.metric->state()));
      row.numbers.insert(row.numbers.end(), element, element + row.sizes.back());
      element += row.sizes.back();
    } else {
      row.sizes.push_back(2);
      row.numbers.insert(row.numbers.end(), {e.reduced, e.weight});
    }
  }
  row.lacks_batches = lacks_batches_;
  return row;
}

/// Of the names that this rank knows.
std::vector<MetricCollector::EpochValue> MetricCollector::merged(const MetricRows& rows) const {
  std::vector<EpochValue> values;
  for (const auto& e : entries_) {
    if (!is_of_epoch(e)) {
      continue;
    }
    const auto& numbers = rows.numbers.at(e.epoch_name());
    const auto value = e.metric != nullptr ? std::optional(merged_value(*e.metric, numbers))
                                           : merged_value(e.options.reduce_fx, numbers);
    if (value) {
      values.push_back({e.epoch_name(), e.name, *value, e.options.logger, e.options.prog_bar});
    }
  }
  return values;
}

std::vector<MetricCollector::EpochValue> MetricCollector::reduce_epoch(Strategy& strategy) {
  const auto rows = gather_rows(strategy, epoch_row());
  auto values = merged(rows);
  if (rows.is_same_on_all_ranks) {
    return values;
  }
  // A rank without a batch of a loader does not know what was logged of it, and is told.
  const auto told = strategy.all_gather_text(to_text(values));
  values.clear();
  for (const auto& name : rows.names) {
    for (auto& value : from_text(told[rows.first_rank.at(name)])) {
      if (value.name == name) {
        values.push_back(std::move(value));
      }
    }
  }
  return values;
}

void MetricCollector::reset_epoch() {
  lacks_batches_ = false;
  for (auto& e : entries_) {
    e.fresh = false;
    e.has_epoch = false;
    e.reduced = metrics::identity(merge_op(e.options.reduce_fx));
    e.weight = 0;
    e.device_reduced.reset();
    if (e.metric != nullptr) {
      e.metric->reset();
    }
  }
}

nlohmann::json MetricCollector::state_dict(const NamedMetrics& all) {
  fetch();
  auto names = nlohmann::json::array();
  std::map<const metrics::Metric*, std::string> known;
  auto states = nlohmann::json::object();
  for (const auto& [name, metric] : all) {
    known[metric] = name;
    states[name] = metric->state_dict();
  }
  for (const auto& e : entries_) {
    names.push_back(
        {{"name", e.name},
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
         {"weight", e.weight},
         {"metric", e.metric == nullptr ? nlohmann::json() : nlohmann::json(known.at(e.metric))}});
  }
  return {{"names", std::move(names)}, {"states", std::move(states)}};
}

void MetricCollector::load_state_dict(const nlohmann::json& state, const NamedMetrics& all) {
  const auto metric_called = [&](const std::string& name) {
    const auto found = all.find(name);
    if (found == all.end()) {
      throw CheckpointError(fmt::format(
          "the checkpoint holds the state of a metric '{}', which the module does not register.",
          name));
    }
    return found->second;
  };
  for (const auto& [name, saved] : state.at("states").items()) {
    metric_called(name)->load_state_dict(saved);
  }
  index_.clear();
  entries_.clear();
  for (const auto& saved : state.at("names")) {
    Entry e;
    e.name = saved.at("name");
    e.options = {.on_step = saved.at("on_step").get<bool>(),
                 .on_epoch = saved.at("on_epoch").get<bool>(),
                 .prog_bar = saved.at("prog_bar"),
                 .logger = saved.at("logger"),
                 .reduce_fx = static_cast<ReduceFx>(json::to_int64(saved.at("reduce_fx")))};
    e.fresh = saved.at("fresh");
    e.is_new = saved.at("is_new");
    e.has_epoch = saved.at("has_epoch");
    e.last = json::to_double(saved.at("last"));
    e.reduced = json::to_double(saved.at("reduced"));
    e.weight = saved.at("weight");
    if (!saved.at("metric").is_null()) {
      e.metric = metric_called(saved.at("metric"));
    }
    add(std::move(e));
  }
}

}  // namespace trainer

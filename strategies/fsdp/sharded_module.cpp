#include <strategies/fsdp/sharded_module.h>

#include <algorithm>
#include <iterator>
#include <unordered_set>

#include <fmt/format.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/utils.h>

#include <strategies/gradient_hook.h>
#include <trainer/core/error.h>

namespace trainer {

namespace {

bool is_in_backward() { return torch::autograd::get_current_graph_task_id() != -1; }

/// Collects `module`'s units, and in `rest` the parameters outside of them.
void collect(const torch::nn::Module& module, const std::string& prefix,
             std::vector<UnitPlan>& units, UnitPlan& rest) {
  const auto name_of = [&](const std::string& name) {
    return prefix.empty() ? name : prefix + "." + name;
  };
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    rest.parameters.emplace_back(name_of(item.key()), item.value());
  }
  const bool is_list = dynamic_cast<const torch::nn::ModuleListImpl*>(&module) != nullptr ||
                       dynamic_cast<const torch::nn::SequentialImpl*>(&module) != nullptr;
  for (const auto& child : module.named_children()) {
    if (!is_list) {
      collect(*child.value(), name_of(child.key()), units, rest);
      continue;
    }
    UnitPlan unit;
    unit.name = name_of(child.key());
    for (const auto& item : child.value()->named_parameters()) {
      unit.parameters.emplace_back(unit.name + "." + item.key(), item.value());
    }
    units.push_back(std::move(unit));
  }
}

/// A parameter belongs to where it comes first; a unit has one dtype.
std::vector<UnitPlan> distinct(const std::vector<UnitPlan>& plan) {
  std::unordered_set<const void*> known;
  std::vector<UnitPlan> units;
  for (const auto& unit : plan) {
    std::vector<UnitPlan> by_dtype;
    for (const auto& parameter : unit.parameters) {
      if (!known.insert(parameter.second.unsafeGetTensorImpl()).second) {
        continue;
      }
      const auto dtype = parameter.second.scalar_type();
      auto part = std::find_if(by_dtype.begin(), by_dtype.end(), [&](const UnitPlan& one) {
        return one.parameters.front().second.scalar_type() == dtype;
      });
      if (part == by_dtype.end()) {
        const std::string suffix =
            by_dtype.empty() ? "" : fmt::format(" ({})", c10::toString(dtype));
        by_dtype.push_back({unit.name + suffix, {}, unit.is_root});
        part = std::prev(by_dtype.end());
      }
      part->parameters.push_back(parameter);
    }
    std::move(by_dtype.begin(), by_dtype.end(), std::back_inserter(units));
  }
  return units;
}

}  // namespace

std::vector<UnitPlan> default_units(const torch::nn::Module& module) {
  std::vector<UnitPlan> units;
  UnitPlan root{"root", {}, /*is_root=*/true};
  collect(module, "", units, root);
  units.insert(units.begin(), std::move(root));
  return units;
}

ShardedModule::ShardedModule(std::vector<UnitPlan> plan, Communicator& communicator,
                             ShardingOptions options)
    // The order of gathers follows the operators, that of reductions the units.
    : gathers_(communicator.split(/*color=*/0)), reductions_(communicator.split(/*color=*/0)) {
  for (auto& unit : distinct(plan)) {
    for (size_t i = 0; i < unit.parameters.size(); ++i) {
      const auto& tensor = unit.parameters[i].second;
      if (options.before_sharding) {
        options.before_sharding(tensor);
      }
      places_[tensor.unsafeGetTensorImpl()] = {units_.size(), i};
      set_gradient_hook(tensor, [this, u = units_.size(), i] { on_gradient(u, i); });
    }
    units_.push_back(std::make_unique<ShardedUnit>(unit.name, unit.parameters, *gathers_,
                                                   *reductions_, gather_buffers_, gradient_buffers_,
                                                   *this, options.interception));
    is_root_.push_back(unit.is_root);
  }
}

ShardedModule::~ShardedModule() {
  for (const auto& unit : units_) {
    for (const auto& parameter : unit->parameters()) {
      set_gradient_hook(parameter.tensor, nullptr);
    }
  }
}

/// Before each operator that takes a parameter of the unit.
void ShardedModule::before_use(ShardedUnit& unit) {
  if (unit.shows_segments()) {
    return;
  }
  if (is_in_backward()) {
    begin_backward();
  } else if (in_backward_) {
    abandon_pass();  // an exception ended that one
  }
  if (&unit == last_used_ && unit.is_gathered()) {
    return;
  }
  const GuardedStorage::Unguarded unguarded;
  free_others(unit);  // before the memory for this one is needed
  unit.finish_gather();
  last_used_ = &unit;
}

/// Root units, and those of the operator at hand, stay.
void ShardedModule::free_others(const ShardedUnit& needed) {
  for (size_t i = 0; i < units_.size(); ++i) {
    auto& unit = *units_[i];
    if (&unit != &needed && unit.is_gathered() && !is_root_[i] && !unit.is_pinned()) {
      unit.release();
    }
  }
}

void ShardedModule::begin_backward() {
  if (!std::exchange(in_backward_, true)) {
    next_reduction_ = 0;
    for (const auto& unit : units_) {
      unit->begin_pass();
    }
    torch::autograd::Engine::get_default_engine().queue_callback([this] { end_backward(); });
  }
}

void ShardedModule::on_gradient(size_t unit, size_t index) {
  const GuardedStorage::Unguarded unguarded;
  begin_backward();
  if (units_.size() - 1 - unit < next_reduction_) {
    throw UsageError(fmt::format(
        "FSDP: '{}' got a second gradient in one backward pass, after the first one had "
        "gone off to the other ranks. Use a layer whose backward pass runs another one "
        "(activation checkpointing) once in a forward pass.",
        units_[unit]->parameters()[index].name));
  }
  units_[unit]->add_gradient(index);
  start_ready_reductions();
  reductions_->poll();
}

/// From the last unit to the first, on every rank alike.
void ShardedModule::start_ready_reductions() {
  while (next_reduction_ < units_.size()) {
    const size_t i = units_.size() - 1 - next_reduction_;
    ShardedUnit& unit = *units_[i];
    if (unit.wants_gradients()) {
      if (unit.num_missing() > 0) {
        return;
      }
      // One at a time, for its memory. But it is not waited for: another rank may begin it at the
      // end of its pass only, for which it needs units of this one.
      if (under_way_ != nullptr && !under_way_->reduction_is_done()) {
        return;
      }
      if (!unit.is_pinned() && !is_root_[i]) {
        unit.release();
      }
      start_reduction(unit);
    }
    ++next_reduction_;
  }
}

void ShardedModule::start_reduction(ShardedUnit& unit) {
  finish_reduction();
  unit.start_reduction();
  under_way_ = &unit;
}

void ShardedModule::finish_reduction() {
  if (under_way_ != nullptr) {
    std::exchange(under_way_, nullptr)->finish_reduction();
  }
}

void ShardedModule::end_backward() {
  const GuardedStorage::Unguarded unguarded;
  for (; next_reduction_ < units_.size(); ++next_reduction_) {
    ShardedUnit& unit = *units_[units_.size() - 1 - next_reduction_];
    if (unit.wants_gradients()) {
      start_reduction(unit);
    }
  }
  finish_reduction();
  in_backward_ = false;
  release_all();
}

void ShardedModule::abandon_pass() {
  finish_reduction();
  in_backward_ = false;
  for (const auto& unit : units_) {
    unit->drop_pins();
    unit->drop_gradients();
  }
  release_all();
}

void ShardedModule::release_all() {
  for (const auto& unit : units_) {
    if (!unit->is_pinned()) {
      unit->release();
    }
  }
  last_used_ = nullptr;
}

void ShardedModule::finish_gradients(std::span<double> numbers) {
  std::vector<double> values(numbers.begin(), numbers.end());
  for (const auto& unit : units_) {
    for (const auto& parameter : unit->parameters()) {
      values.push_back(parameter.has_gradient ? 1 : 0);
    }
  }
  const auto sums =
      torch::from_blob(values.data(), {static_cast<int64_t>(values.size())}, torch::kFloat64);
  reductions_->all_reduce(sums);
  std::copy_n(values.begin(), numbers.size(), numbers.begin());
  size_t next = numbers.size();
  for (const auto& unit : units_) {
    for (auto& parameter : unit->parameters()) {
      parameter.has_gradient = values[next++] > 0;
    }
  }
}

std::optional<std::pair<size_t, size_t>> ShardedModule::place_of(
    const torch::Tensor& parameter) const {
  const auto place = places_.find(parameter.unsafeGetTensorImpl());
  return place != places_.end() ? std::optional(place->second) : std::nullopt;
}

void ShardedModule::clear_gradient(const torch::Tensor& parameter) {
  if (const auto place = place_of(parameter)) {
    units_[place->first]->clear_gradient(place->second);
  } else {
    parameter.mutable_grad().reset();
  }
}

void ShardedModule::show_segments() {
  for (const auto& unit : units_) {
    unit->show_segments();
  }
}

void ShardedModule::hide_segments() {
  for (const auto& unit : units_) {
    unit->hide_segments();
  }
}

void ShardedModule::make_whole() {
  abandon_pass();
  hide_segments();
  for (const auto& unit : units_) {
    unit->show_plain();
  }
}

ShardedModule::WholeParameters::WholeParameters(ShardedModule& module) : module_(module) {
  module_.make_whole();
}

ShardedModule::WholeParameters::~WholeParameters() {
  for (const auto& unit : module_.units_) {
    unit->hide_plain();
  }
}

}  // namespace trainer

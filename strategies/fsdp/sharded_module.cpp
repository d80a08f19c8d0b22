#include <strategies/fsdp/sharded_module.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include <fmt/format.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/utils.h>

#include <strategies/gradient_hook.h>
#include <trainer/core/error.h>
#include <trainer/core/heap.h>

namespace trainer {
namespace {

bool is_in_backward() { return torch::autograd::get_current_graph_task_id() != -1; }

}  // namespace

ShardedModule::ShardedModule(std::vector<UnitPlan> plan, Communicator& shard,
                             Communicator* replicas, ShardingOptions options)
    : options_(options),
      // The order of gathers follows the operators, that of reductions the units.
      gathers_(shard.split(/*color=*/0)),
      reductions_(shard.split(/*color=*/0)),
      replicas_(replicas != nullptr ? replicas->split(/*color=*/0) : nullptr) {
  for (auto& unit : distinct(plan)) {
    add_unit(std::move(unit));
  }
  trim_heap();  // what the parameters lay in is the system's again
}

void ShardedModule::add_unit(UnitPlan plan) {
  for (size_t i = 0; i < plan.parameters.size(); ++i) {
    const auto& tensor = plan.parameters[i].second;
    if (options_.before_sharding) {
      options_.before_sharding(tensor);
    }
    places_[tensor.unsafeGetTensorImpl()] = {units_.size(), i};
    set_gradient_hook(tensor, [this, u = units_.size(), i] { on_gradient(u, i); });
  }
  const auto dtype = plan.parameters.front().second.scalar_type();
  const bool converts = c10::isFloatingType(dtype);
  units_.push_back(std::make_unique<ShardedUnit>(ShardedUnit::Init{
      .name = std::move(plan.name),
      .parameters = std::move(plan.parameters),
      .gathers = *gathers_,
      .buffers = gather_buffers_,
      .reductions = {*reductions_, replicas_.get(), gradient_buffers_,
                     converts ? options_.reduced_dtype.value_or(dtype) : dtype},
      .gathered_dtype = converts ? options_.gathered_dtype.value_or(dtype) : dtype,
      .interception = options_.interception,
      .shares_memory = options_.shares_memory,
      .offloads = options_.offloads,
      .owner = *this,
  }));
  about_[units_.back().get()].is_root = plan.is_root;
  shares_memory_ |= units_.back()->shares_memory();
}

ShardedModule::~ShardedModule() {
  for (const auto& unit : units_) {
    remove_hooks(*unit);
  }
}

void ShardedModule::remove_hooks(const ShardedUnit& unit) {
  for (const auto& [name, parameter] : unit.parameters()) {
    set_gradient_hook(parameter, nullptr);
  }
}

void ShardedModule::before_use(ShardedUnit& unit) {
  if (unit.shows_segments()) {
    return;
  }
  if (is_in_backward()) {
    begin_backward();
  } else if (in_backward_) {
    abandon_pass();  // an exception ended that one
  }
  if (unit.is_gathered() && (&unit == last_used_ || unit.shares_memory())) {
    return;
  }
  const GuardedStorage::Unguarded unguarded;
  free_others(unit);  // before the memory for this one is needed
  wait_for_updates();
  unit.finish_gather();
  prefetch_after(unit);
  last_used_ = &unit;
}

/// Memory that ranks share has what the last update made of it once all have come here.
void ShardedModule::wait_for_updates() {
  if (!shares_memory_) {
    return;
  }
  is_read_ = true;
  if (!std::exchange(is_current_, true)) {
    for (const auto& unit : units_) {
      unit->refresh();
    }
    gathers_->barrier();
  }
}

void ShardedModule::before_write() {
  gathers_->barrier();
  is_read_ = false;
  is_current_ = false;
}

/// Root units, and those of the operator at hand, stay; shared memory does not have to go.
bool ShardedModule::frees(const ShardedUnit& unit) const {
  return options_.frees_in_forward && !unit.shares_memory() && !unit.is_pinned() &&
         !about_.at(&unit).is_root;
}

void ShardedModule::free_others(const ShardedUnit& needed) {
  for (const auto& unit : units_) {
    if (unit.get() != &needed && unit->is_gathered() && frees(*unit)) {
      unit->release();
    }
  }
}

/// What was used after the unit the last time is on its way while this one is used. Ranks run the
/// same layers, so that they agree.
void ShardedModule::prefetch_after(ShardedUnit& unit) {
  if (options_.prefetch == 0 || unit.shares_memory()) {
    return;
  }
  const auto next = in_backward_ ? &Unit::next_in_backward : &Unit::next_in_forward;
  if (last_used_ != nullptr && last_used_ != &unit) {
    about_[last_used_].*next = &unit;
  }
  std::vector<ShardedUnit*> wanted;
  for (auto* ahead = about_[&unit].*next; ahead != nullptr && ahead != &unit;
       ahead = about_[ahead].*next) {
    if (static_cast<int64_t>(wanted.size()) == options_.prefetch) {
      break;
    }
    wanted.push_back(ahead);
  }
  for (const auto& other : units_) {  // those that were used later than was expected
    if (other->is_under_way() &&
        std::find(wanted.begin(), wanted.end(), other.get()) == wanted.end()) {
      other->release();
    }
  }
  for (auto* const ahead : wanted) {
    ahead->start_gather();
  }
}

void ShardedModule::begin_backward() {
  if (!std::exchange(in_backward_, true)) {
    next_reduction_ = 0;
    waits_for_room_ = true;
    for (const auto& unit : units_) {
      unit->gradients().begin_pass();
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
        "gone off to the other ranks. Use a layer whose backward pass runs another one once in a "
        "forward pass; trainer::checkpointed() runs layers again without one.",
        units_[unit]->parameters()[index].first));
  }
  auto& of_it = *units_[unit];
  of_it.check_place(index);
  if (reduces_ && !of_it.gradients().has_sum()) {
    make_room();
  }
  of_it.gradients().add(index);
  if (of_it.gradients().num_missing() == 0 && of_it.gradients().wants_all() && frees(of_it)) {
    of_it.release();  // no operator of this pass needs it any more
  }
  if (reduces_) {
    start_ready_reductions();
    reductions_->poll();
  }
}

/// Whole gradients are those of two units at a time: one on its way, and one that comes together. A
/// rank that is ahead waits for the others. Where these may wait for units of this one, since a
/// parameter got its gradient here only and they begin the reduction at the end of their pass, it
/// goes on after a while.
void ShardedModule::make_room() {
  const auto num_sums = std::count_if(units_.begin(), units_.end(),
                                      [](const auto& unit) { return unit->gradients().has_sum(); });
  if (num_sums < 2 || under_way_ == nullptr || !waits_for_room_) {
    return;
  }
  const bool gathers = std::any_of(units_.begin(), units_.end(),
                                   [](const auto& unit) { return !unit->shares_memory(); });
  constexpr auto kPatience = std::chrono::milliseconds(250);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (gathers && !under_way_->gradients().reduction_is_done()) {
    if (std::chrono::steady_clock::now() > deadline) {
      waits_for_room_ = false;
      return;
    }
    gathers_->poll();
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  finish_reduction();
  start_ready_reductions();
}

/// From the last unit to the first, on every rank alike.
void ShardedModule::start_ready_reductions() {
  while (next_reduction_ < units_.size()) {
    ShardedUnit& unit = *units_[units_.size() - 1 - next_reduction_];
    if (unit.gradients().wants_any()) {
      if (unit.gradients().num_missing() > 0) {
        return;
      }
      if (under_way_ != nullptr && !under_way_->gradients().reduction_is_done()) {
        return;  // one at a time, for its memory
      }
      start_reduction(unit);
    }
    ++next_reduction_;
  }
}

void ShardedModule::start_reduction(ShardedUnit& unit) {
  finish_reduction();
  unit.gradients().start_reduction();
  under_way_ = &unit;
}

void ShardedModule::finish_reduction() {
  if (under_way_ != nullptr) {
    std::exchange(under_way_, nullptr)->gradients().finish_reduction();
  }
}

void ShardedModule::reduce_the_rest() {
  for (; next_reduction_ < units_.size(); ++next_reduction_) {
    ShardedUnit& unit = *units_[units_.size() - 1 - next_reduction_];
    if (unit.gradients().wants_any()) {
      start_reduction(unit);
    }
  }
  finish_reduction();
}

void ShardedModule::end_backward() {
  const GuardedStorage::Unguarded unguarded;
  if (reduces_) {
    reduce_the_rest();
  }
  has_unreduced_ = !reduces_;
  in_backward_ = false;
  if (reduces_ || options_.frees_in_forward) {
    release_all();
  }
}

void ShardedModule::abandon_pass() {
  finish_reduction();
  in_backward_ = false;
  has_unreduced_ = false;
  for (const auto& unit : units_) {
    unit->drop_pins();
    unit->gradients().drop();
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
  if (std::exchange(has_unreduced_, false)) {
    next_reduction_ = 0;
    reduce_the_rest();
  }
  std::vector<double> values(numbers.begin(), numbers.end());
  for (const auto& unit : units_) {
    for (size_t i = 0; i < unit->parameters().size(); ++i) {
      values.push_back(unit->gradients().has(i) ? 1 : 0);
    }
  }
  const auto host =
      torch::from_blob(values.data(), {static_cast<int64_t>(values.size())}, torch::kFloat64);
  const auto sums = host.to(torch::Device(reductions_->device_type()));  // itself on the processor
  reductions_->all_reduce(sums);
  if (replicas_ != nullptr) {
    replicas_->all_reduce(sums);
  }
  host.copy_(sums);
  is_read_ = false;
  std::copy_n(values.begin(), numbers.size(), numbers.begin());
  size_t next = numbers.size();
  for (const auto& unit : units_) {
    for (size_t i = 0; i < unit->parameters().size(); ++i) {
      unit->gradients().set_has(i, values[next++] > 0);
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
    units_[place->first]->gradients().clear(place->second);
  } else {
    parameter.mutable_grad().reset();
  }
}

void ShardedModule::show_segments() {
  for (const auto& unit : units_) {
    unit->show_segments();
  }
  if (shares_memory_ && is_read_) {
    before_write();
  }
}

void ShardedModule::hide_segments() {
  for (const auto& unit : units_) {
    unit->hide_segments();
  }
  is_current_ = false;
}

void ShardedModule::show_whole() {
  if (in_backward_) {
    abandon_pass();
  }
  release_all();
  hide_segments();
  for (const auto& unit : units_) {
    unit->show_plain();
  }
  is_read_ = false;
}

void ShardedModule::make_whole() {
  abandon_pass();
  hide_segments();
  for (const auto& unit : units_) {
    unit->gradients().forget();
  }
  places_.clear();
  while (!units_.empty()) {  // the memory of one goes before that of the next is needed
    units_.front()->show_plain();
    remove_hooks(*units_.front());
    about_.erase(units_.front().get());
    units_.erase(units_.begin());
  }
}

ShardedModule::WholeParameters::WholeParameters(ShardedModule& module)
    : module_(module), showed_segments_(module.shows_segments()) {
  module_.show_whole();
}

ShardedModule::WholeParameters::~WholeParameters() {
  for (const auto& unit : module_.units_) {
    unit->hide_plain();
  }
  module_.is_current_ = false;
  if (showed_segments_) {
    module_.show_segments();
  }
}

}  // namespace trainer

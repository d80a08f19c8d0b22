#include <strategies/fsdp.h>

#include <typeinfo>

#include <fmt/format.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/lbfgs.h>
#include <torch/utils.h>

#include <strategies/fsdp/deferred_construction.h>
#include <strategies/fsdp/sharded_module.h>
#include <trainer/core/error.h>
#include <trainer/core/type_name.h>
#include <trainer/optim/clip.h>
#include <trainer/optim/lamb.h>
#include <trainer/optim/lbfgs.h>
#include <trainer/optim/mode_switching.h>
#include <trainer/optim/muon.h>

namespace trainer {
namespace {

template <class... Optimizers>
bool is_one_of(const torch::optim::Optimizer& optimizer) {
  return ((dynamic_cast<const Optimizers*>(&optimizer) != nullptr) || ...);
}

/// Those that need more of a parameter than this rank's segment of it.
void check_is_elementwise(const torch::optim::Optimizer& optimizer) {
  if (is_one_of<optim::LAMB, optim::Muon, optim::LBFGS, torch::optim::LBFGS, torch::optim::Adagrad,
                ModeSwitching>(optimizer)) {
    throw UsageError(fmt::format(
        "FSDP: the optimizer {} works on whole tensors, of which a rank has segments. Use one that "
        "treats each element on its own (AdamW, Adam, SGD, Lion, RMSprop, Adagrad of "
        "trainer::optim), or strategy ddp.",
        type_name(typeid(optimizer))));
  }
}

/// The sum of the squares of all elements, a float64 scalar.
torch::Tensor sum_of_squares(const std::vector<torch::Tensor>& tensors, torch::Device device) {
  const torch::NoGradGuard no_grad;
  if (tensors.empty()) {
    return torch::zeros({}, torch::dtype(torch::kFloat64).device(device));
  }
  return tensor_norms(tensors).to(torch::kFloat64).square().sum();
}

}  // namespace

FSDP::FSDP(Init init) : init_(init) {}
FSDP::~FSDP() = default;

std::shared_ptr<void> FSDP::construction() {
  if (!init_.deferred_construction) {
    return nullptr;
  }
  deferred_ = std::make_unique<DeferredConstruction>();
  return deferred_->scope();
}

void FSDP::setup_module(torch::nn::Module& module) {
  teardown_module(module);
  Distributed::setup_module(module);
  ShardingOptions options;
  if (deferred_ != nullptr) {
    options.before_sharding = [this](torch::Tensor parameter) {
      DeferredConstruction::materialize(parameter);
      parameter.set_data(parameter.to(device()));
      broadcast(parameter);
    };
  }
  sharded_ = std::make_unique<ShardedModule>(default_units(module), communicator(), options);
  deferred_.reset();
}

/// Parameters that have no memory yet are placed when their unit takes them.
void FSDP::place(torch::nn::Module& module) {
  if (deferred_ == nullptr) {
    Distributed::place(module);
    return;
  }
  for (auto& buffer : module.buffers()) {
    DeferredConstruction::materialize(buffer);
    buffer.set_data(buffer.to(device()));
  }
}

void FSDP::teardown_module(torch::nn::Module&) {
  if (sharded_ != nullptr) {
    sharded_->make_whole();
    sharded_.reset();
  }
}

void FSDP::end_step() { sharded_->hide_segments(); }

void FSDP::zero_gradients(torch::optim::Optimizer& optimizer) {
  for (const auto& group : optimizer.param_groups()) {
    for (const auto& parameter : group.params()) {
      sharded_->clear_gradient(parameter);
    }
  }
}

void FSDP::finish_gradient_sync() {
  auto sums = step_numbers();
  sharded_->finish_gradients(sums);
  set_step_number_sums(sums);
  sharded_->show_segments();
}

torch::Tensor FSDP::clip_gradients(torch::optim::Optimizer& optimizer, double max_norm) {
  auto all = gradients(optimizer);
  auto squares = sum_of_squares(all, device());
  all_reduce(squares, ReduceOp::kSum);
  auto norm = squares.sqrt().to(torch::kFloat32);
  clip_by_norm(all, norm, max_norm);
  return norm;
}

torch::Tensor FSDP::optimizer_step(torch::optim::Optimizer& optimizer, const Closure& closure) {
  check_is_elementwise(optimizer);
  const torch::Tensor loss = closure ? closure() : torch::Tensor();
  sharded_->show_segments();
  optimizer.step();
  end_step();
  return loss;
}

std::shared_ptr<void> FSDP::whole_parameters() {
  return std::make_shared<ShardedModule::WholeParameters>(*sharded_);
}

std::shared_ptr<void> FSDP::segments() {
  sharded_->show_segments();
  return {nullptr, [this](void*) { sharded_->hide_segments(); }};
}

torch::Tensor FSDP::whole_state(const torch::Tensor& parameter, const torch::Tensor& state) {
  const auto place = sharded_->place_of(parameter);
  if (!place || state.dim() == 0) {
    return state;
  }
  const auto& unit = *sharded_->units()[place->first];
  const auto parts = communicator().all_gather_uneven(state.contiguous());
  return torch::cat(parts).view(unit.parameters()[place->second].sizes);
}

torch::Tensor FSDP::own_state(const torch::Tensor& parameter, const torch::Tensor& whole) {
  const auto place = sharded_->place_of(parameter);
  if (!place || whole.dim() == 0) {
    return whole;
  }
  const auto [first, count] = sharded_->units()[place->first]->place_of_segment(place->second);
  return whole.reshape({-1}).narrow(0, first, count).clone();
}

}  // namespace trainer

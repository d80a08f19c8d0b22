#include <strategies/fsdp.h>

#include <algorithm>

#include <fmt/format.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/lbfgs.h>
#include <torch/utils.h>

#include <strategies/fsdp/deferred_construction.h>
#include <strategies/fsdp/sharded_module.h>
#include <strategies/fsdp/sharded_tensors.h>
#include <strategies/fsdp/sharding_text.h>
#include <trainer/core/error.h>
#include <trainer/optim/clip.h>
#include <trainer/optim/whole_tensors.h>
#include <trainer/world.h>

namespace trainer {
namespace {

void check_takes_segments(const torch::optim::Optimizer& optimizer) {
  if (dynamic_cast<const torch::optim::LBFGS*>(&optimizer) != nullptr) {
    throw UsageError(
        "FSDP: LBFGS evaluates the loss within its step, in which parameters are this rank's "
        "segments of them. Train with another optimizer, or in one process without sharding.");
  }
  if (dynamic_cast<const torch::optim::Adagrad*>(&optimizer) != nullptr) {
    throw UsageError(
        "FSDP: torch::optim::Adagrad keeps a number for each element of whole parameters, of which "
        "a rank has segments. Use trainer::optim::Adagrad.");
  }
}

/// The sum of the squares of all elements, a float64 scalar.
torch::Tensor sum_of_squares(const std::vector<torch::Tensor>& tensors, torch::Device device) {
  const torch::NoGradGuard no_grad;
  if (tensors.empty()) {
    return torch::zeros({}, torch::dtype(torch::kFloat64).device(device));
  }
  return tensor_norms(tensors).to(torch::kFloat64).square().sum().to(device);
}

std::optional<torch::ScalarType> dtype_of(const std::optional<std::string>& name) {
  if (!name) {
    return std::nullopt;
  }
  return *name == "bf16" ? torch::kBFloat16 : *name == "fp16" ? torch::kFloat16 : torch::kFloat32;
}

void materialize_on(torch::Tensor tensor, torch::Device device) {
  DeferredConstruction::materialize(tensor);
  tensor.set_data(tensor.to(device));
}

DeviceMesh::Axes axes_of(const std::map<std::string, int64_t>& mesh) {
  DeviceMesh::Axes axes = {{"replicate", 1}, {"shard", 1}};
  for (const auto& wanted : mesh) {
    const auto axis = std::find_if(axes.begin(), axes.end(),
                                   [&](const auto& known) { return known.first == wanted.first; });
    if (axis == axes.end()) {
      throw ConfigError(fmt::format(
          "FSDP: the mesh has an axis '{}'. Its axes are replicate and shard.", wanted.first));
    }
    axis->second = static_cast<int>(wanted.second);
  }
  return axes;
}

}  // namespace

FSDP::FSDP(Init init) : init_(std::move(init)) {
  if (!init_.units.empty() && init_.min_unit_numel) {
    throw ConfigError(
        "FSDP: `units` and `min_unit_numel` both say what is gathered as a whole. Leave one out.");
  }
  if (init_.mesh && init_.mode == "no_shard") {
    throw ConfigError(
        "FSDP: mode no_shard has no use for a `mesh`. Leave it out, or choose full_shard.");
  }
}

FSDP::~FSDP() = default;

DeviceMesh::Axes FSDP::axes(int num_ranks, int num_nodes) const {
  if (init_.mesh) {
    auto mesh = axes_of(*init_.mesh);
    DeviceMesh::check(mesh, num_ranks);
    return mesh;
  }
  int replicas = 1;
  if (init_.mode == "no_shard") {
    replicas = num_ranks;
  } else if (init_.mode == "hybrid_shard") {
    replicas = num_nodes;
    if (num_ranks % num_nodes != 0) {
      throw ConfigError(fmt::format(
          "FSDP: mode hybrid_shard shards within a node, and {} ranks on {} nodes are not as many "
          "on each. Set `mesh`, or start as many on each node.",
          num_ranks, num_nodes));
    }
  }
  return {{"replicate", replicas}, {"shard", num_ranks / replicas}};
}

std::vector<UnitPlan> FSDP::plan_of(const torch::nn::Module& module) const {
  if (init_.min_unit_numel) {
    return units_by_size(module, *init_.min_unit_numel);
  }
  return init_.units.empty() ? default_units(module) : units_by_name(module, init_.units);
}

ShardingOptions FSDP::options() const {
  ShardingOptions options;
  if (init_.intercept != "auto") {
    options.interception =
        init_.intercept == "observer" ? Interception::kObserver : Interception::kDispatchKey;
  }
  const bool keeps_gradients = init_.mode == "shard_optimizer" || init_.mode == "no_shard";
  options.frees_in_forward = init_.mode == "full_shard" || init_.mode == "hybrid_shard";
  options.reduces_each_pass = init_.reduce_each_batch && !keeps_gradients;
  options.prefetch = init_.prefetch;
  options.offloads = init_.cpu_offload;
  options.gathered_dtype = dtype_of(init_.param_dtype);
  options.reduced_dtype = dtype_of(init_.reduce_dtype);
  return options;
}

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
  const auto sizes = axes(communicator().size(), world().num_nodes());
  if (shards()) {
    check_nodes(sizes.back().second);
    mesh_ = std::make_unique<DeviceMesh>(communicator(), sizes);
    shard(module);
  } else if (deferred_ != nullptr) {
    for (const auto& parameter : module.parameters()) {
      make(parameter);
    }
  }
  deferred_.reset();
}

bool FSDP::shards() const {
  const bool offloads = init_.cpu_offload && device().is_cuda();
  return world_size() > 1 || init_.intercept != "auto" || offloads;
}

/// What is to be sharded within nodes has its ranks there.
void FSDP::check_nodes(int ranks_of_a_node) const {
  if (init_.mode != "hybrid_shard" || init_.mesh) {
    return;
  }
  const bool is_there = rank() / ranks_of_a_node == world().node_rank();
  const auto all = world().all_gather(is_there ? "yes" : "no");
  const auto wrong = std::find(all.begin(), all.end(), "no") - all.begin();
  if (wrong < static_cast<int64_t>(all.size())) {
    const auto first = wrong / ranks_of_a_node * ranks_of_a_node;
    throw ConfigError(fmt::format(
        "FSDP: mode hybrid_shard shards within a node, but ranks {} to {} are not on one. Start "
        "the ranks node by node, as many on each, or set `mesh`.",
        first, first + ranks_of_a_node - 1));
  }
}

void FSDP::shard(torch::nn::Module& module) {
  Communicator& replicas = mesh_->axis("replicate");
  auto sharding = options();
  if (deferred_ != nullptr) {
    sharding.before_sharding = [this](const torch::Tensor& parameter) { make(parameter); };
  }
  sharded_ = std::make_unique<ShardedModule>(plan_of(module), mesh_->axis("shard"),
                                             replicas.size() > 1 ? &replicas : nullptr,
                                             std::move(sharding));
}

/// A parameter whose construction was deferred.
void FSDP::make(torch::Tensor parameter) {
  materialize_on(parameter, device());
  broadcast(parameter);
}

/// Parameters that have no memory yet are placed when their unit takes them.
void FSDP::place(torch::nn::Module& module) {
  if (deferred_ == nullptr) {
    Distributed::place(module);
    return;
  }
  for (const auto& buffer : module.buffers()) {
    materialize_on(buffer, device());
  }
}

void FSDP::teardown_module(torch::nn::Module&) {
  if (sharded_ != nullptr) {
    sharded_->make_whole();
    sharded_.reset();
  }
}

std::string FSDP::describe_sharding(const torch::nn::Module& module, int num_ranks) const {
  const auto mesh = axes(num_ranks, /*num_nodes=*/1);
  return trainer::describe_sharding(plan_of(module), mesh.front().second, mesh.back().second,
                                    options());
}

void FSDP::end_step() {
  if (sharded_ != nullptr) {
    sharded_->hide_segments();
  }
}

void FSDP::zero_gradients(torch::optim::Optimizer& optimizer) {
  if (sharded_ == nullptr) {
    Distributed::zero_gradients(optimizer);
    return;
  }
  for (const auto& group : optimizer.param_groups()) {
    for (const auto& parameter : group.params()) {
      sharded_->clear_gradient(parameter);
    }
  }
}

void FSDP::require_gradient_sync(bool required) {
  if (sharded_ != nullptr) {
    sharded_->require_reduction(required);
  }
}

void FSDP::finish_gradient_sync() {
  if (sharded_ == nullptr) {
    return;
  }
  auto sums = step_numbers();
  sharded_->finish_gradients(sums);
  set_step_number_sums(sums);
  sharded_->show_segments();
}

torch::Tensor FSDP::clip_gradients(torch::optim::Optimizer& optimizer, double max_norm) {
  if (sharded_ == nullptr) {
    return Distributed::clip_gradients(optimizer, max_norm);
  }
  auto all = gradients(optimizer);
  auto squares = sum_of_squares(all, device());
  mesh_->axis("shard").all_reduce(squares);
  auto norm = squares.sqrt().to(torch::kFloat32);
  clip_by_norm(all, all.empty() ? norm : norm.to(all.front().device()), max_norm);
  return norm;
}

torch::Tensor FSDP::optimizer_step(torch::optim::Optimizer& optimizer, const Closure& closure) {
  if (sharded_ == nullptr) {
    return Distributed::optimizer_step(optimizer, closure);
  }
  check_takes_segments(optimizer);
  const torch::Tensor loss = closure ? closure() : torch::Tensor();
  sharded_->show_segments();
  const ShardedTensors whole(*sharded_, mesh_->axis("shard"));
  auto* const of_wholes = dynamic_cast<UsesWholeTensors*>(&optimizer);
  const auto scope = of_wholes != nullptr ? of_wholes->use(whole) : nullptr;
  optimizer.step();
  end_step();
  return loss;
}

std::shared_ptr<void> FSDP::whole_parameters() {
  return std::make_shared<ShardedModule::WholeParameters>(*sharded_);
}

std::shared_ptr<void> FSDP::segments() {
  if (sharded_->shows_segments()) {
    return nullptr;  // they stay
  }
  sharded_->show_segments();
  return {nullptr, [this](void*) { sharded_->hide_segments(); }};
}

std::optional<Segment> FSDP::segment_of(const torch::Tensor& parameter) const {
  const auto place = sharded_->place_of(parameter);
  if (!place) {
    return std::nullopt;
  }
  const auto& unit = *sharded_->units()[place->first];
  const auto [first, count] = unit.layout().segment(place->second);
  return Segment{unit.layout().sizes(place->second), first, count};
}

}  // namespace trainer

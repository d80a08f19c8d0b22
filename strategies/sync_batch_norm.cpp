#include <strategies/sync_batch_norm.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/ops/batch_norm_native.h>
#include <ATen/ops/instance_norm_native.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <trainer/core/error.h>

namespace trainer {

struct SyncBatchNorm::State {
  std::unique_ptr<Communicator> communicator;
  bool counts = true;
  std::thread::id thread = std::this_thread::get_id();
};

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using State = SyncBatchNorm::State;
using OptionalTensor = std::optional<Tensor>;

std::mutex live_mutex;
std::vector<std::shared_ptr<State>> live;  // of the objects, the newest last
thread_local bool is_in_instance_norm = false;

std::shared_ptr<State> state_of_this_thread() {
  const std::lock_guard lock(live_mutex);
  const auto found = std::find_if(live.rbegin(), live.rend(), [](const auto& state) {
    return state->thread == std::this_thread::get_id();
  });
  return found == live.rend() ? nullptr : *found;
}

/// What a graph keeps of the state.
struct KeptState : torch::CustomClassHolder {
  explicit KeptState(std::shared_ptr<State> kept) : state(std::move(kept)) {}
  std::shared_ptr<State> state;
};

/// Of all ranks, each [channels], and how many values a channel has.
struct Statistics {
  Tensor mean, var;  // biased, float64 of float64, else float32
  Tensor count;      // float64 scalar
};

torch::ScalarType statistics_dtype(const Tensor& input) {
  return input.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32;
}

/// Count, means and sums of squared deviations, in one row.
Tensor own_statistics(const Tensor& input, bool counts) {
  const int64_t channels = input.size(1);
  auto row = torch::zeros({2 * channels + 1}, input.options().dtype(torch::kFloat64));
  if (!counts || input.numel() == 0) {
    return row;
  }
  // Running statistics that nobody reads have the kernels keep float32 for short formats.
  const auto unread = torch::zeros({channels}, input.options().dtype(statistics_dtype(input)));
  const auto [mean, var] = at::batch_norm_update_stats(input, unread, unread.clone(), 1.0);
  const auto count = static_cast<double>(input.numel() / channels);
  row.narrow(0, 0, 1).fill_(count);
  row.narrow(0, 1, channels).copy_(mean);
  row.narrow(0, 1 + channels, channels).copy_(var).mul_(count);
  return row;
}

void update(const OptionalTensor& running, const Tensor& value, double momentum) {
  if (running && running->defined()) {
    running->copy_(running->to(torch::kFloat64) * (1 - momentum) + value * momentum);
  }
}

/// Also updates the running statistics.
Statistics statistics(const State& state, const Tensor& input, const OptionalTensor& running_mean,
                      const OptionalTensor& running_var, double momentum) {
  const torch::NoGradGuard no_grad;
  const int64_t channels = input.size(1);
  const auto own = own_statistics(input, state.counts);
  auto rows = torch::empty({state.communicator->size(), own.numel()}, own.options());
  state.communicator->all_gather(rows, own);
  const auto counts = rows.narrow(1, 0, 1);
  const auto means = rows.narrow(1, 1, channels);
  const auto count = counts.sum();
  if (count.is_cpu() && count.item<double>() < 2) {
    throw UsageError(fmt::format(
        "batch norm in training: the batches of all {} ranks together have {} value per channel, "
        "this rank's is {}. Let batches have 2 samples or more, or leave out the last one "
        "(drop_last).",
        state.communicator->size(), count.item<double>(), c10::str(input.sizes())));
  }
  const auto mean = (counts * means).sum(0) / count;
  const auto squares =
      rows.narrow(1, 1 + channels, channels).sum(0) + (counts * (means - mean).square()).sum(0);
  update(running_mean, mean, momentum);
  update(running_var, squares / (count - 1), momentum);
  const auto dtype = statistics_dtype(input);
  return {mean.to(dtype), (squares / count).to(dtype), count};
}

/// (input - mean) / sqrt(var + eps) * weight + bias, by the kernels of evaluation mode.
Tensor normalize(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                 const Tensor& mean, const Tensor& var, double eps) {
  if (input.numel() == 0) {
    return torch::empty_like(input);
  }
  return std::get<0>(at::native_batch_norm(input, weight, bias, mean, var, /*training=*/false,
                                           /*momentum=*/0, eps));
}

class Function : public torch::autograd::Function<Function> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const OptionalTensor& weight,
                        const OptionalTensor& bias, const Statistics& of_ranks,
                        const std::shared_ptr<State>& state, double eps) {
    const auto widened = [&](const OptionalTensor& parameter) -> OptionalTensor {
      return parameter ? OptionalTensor(parameter->to(of_ranks.mean.scalar_type())) : parameter;
    };
    ctx->save_for_backward(
        {input, weight.value_or(Tensor()), of_ranks.mean, of_ranks.var, of_ranks.count});
    ctx->saved_data["state"] = c10::IValue::make_capsule(c10::make_intrusive<KeptState>(state));
    ctx->saved_data["counts"] = state->counts;
    ctx->saved_data["eps"] = eps;
    if (bias) {
      ctx->saved_data["bias_dtype"] = static_cast<int64_t>(bias->scalar_type());
    }
    return normalize(input, widened(weight), widened(bias), of_ranks.mean, of_ranks.var, eps);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    if (at::GradMode::is_enabled()) {
      throw UsageError(
          "batch norm over the ranks: a backward pass with create_graph, whose result could be "
          "differentiated again, is not there. Set sync_batchnorm to false, or normalize another "
          "way (GroupNorm).");
    }
    const auto saved = ctx->get_saved_variables();
    const auto& [input, weight, mean, var, count] =
        std::tie(saved[0], saved[1], saved[2], saved[3], saved[4]);
    const double eps = ctx->saved_data["eps"].toDouble();
    const bool counts = ctx->saved_data["counts"].toBool();
    const auto gradient = gradients[0].contiguous(input.suggest_memory_format());
    const auto factor = weight.defined() ? weight.to(mean.scalar_type()) : torch::ones_like(mean);

    // This rank's sums of dy, and of dy times the normalized input: the gradients of bias and
    // weight.
    auto sums = torch::zeros({2, input.size(1)}, mean.options());
    if (input.numel() > 0) {
      const auto unused = torch::empty({0}, mean.options());
      const auto [none, of_weight, of_bias] =
          at::native_batch_norm_backward(gradient, input, factor, mean, var, unused, unused,
                                         /*train=*/false, eps, {false, true, true});
      sums[0].copy_(of_bias);
      sums[1].copy_(of_weight);
    }
    variable_list result(6);
    if (weight.defined()) {
      result[1] = sums[1].to(weight.scalar_type());
    }
    if (const auto dtype = ctx->saved_data.find("bias_dtype"); dtype != ctx->saved_data.end()) {
      result[2] = sums[0].to(static_cast<torch::ScalarType>(dtype->second.toInt()));
    }
    if (!ctx->needs_input_grad(0)) {
      return result;
    }

    auto means = counts ? sums.to(torch::kFloat64, /*non_blocking=*/false, /*copy=*/true)
                        : torch::zeros_like(sums, torch::kFloat64);
    auto& kept = static_cast<KeptState&>(*ctx->saved_data["state"].toCapsule());
    kept.state->communicator->all_reduce(means);
    means = (means / count).to(mean.scalar_type());
    const auto scale = factor * (var + eps).rsqrt();
    std::vector<int64_t> shape(static_cast<size_t>(input.dim()), 1);
    shape[1] = input.size(1);
    const auto dtype = input.scalar_type();
    const auto direct = gradient.to(mean.scalar_type());
    if (!counts) {  // its input is in nobody's statistics
      result[0] = (direct * scale.view(shape)).to(dtype);
      return result;
    }
    // scale * (dy - mean(dy) - normalized * mean(dy * normalized))
    auto of_input = normalize(input.to(mean.scalar_type()), -scale * means[1], -scale * means[0],
                              mean, var, eps);
    of_input.addcmul_(direct, scale.view(shape));
    result[0] = of_input.to(dtype);
    return result;
  }
};

Tensor batch_norm(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                  const OptionalTensor& running_mean, const OptionalTensor& running_var,
                  bool training, double momentum, double eps, bool cudnn_enabled) {
  const auto present = [](const OptionalTensor& tensor) { return tensor && tensor->defined(); };
  const auto fits = [&](const OptionalTensor& tensor) {
    return !present(tensor) || tensor->numel() == input.size(1);
  };
  // A layer without running statistics says `training` in evaluation mode too.
  const bool is_training =
      training && !is_in_instance_norm && (present(running_mean) || at::GradMode::is_enabled());
  const auto state = is_training ? state_of_this_thread() : nullptr;
  if (!state || input.device().type() != state->communicator->device_type() || input.dim() < 2 ||
      !fits(weight) || !fits(bias) || !fits(running_mean) || !fits(running_var)) {
    return at::native::batch_norm(input, weight, bias, running_mean, running_var, training,
                                  momentum, eps, cudnn_enabled);
  }
  const auto of_ranks = statistics(*state, input, running_mean, running_var, momentum);
  return Function::apply(input, present(weight) ? weight : std::nullopt,
                         present(bias) ? bias : std::nullopt, of_ranks, state, eps);
}

/// It calls batch_norm on samples that it has made channels.
Tensor instance_norm(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                     const OptionalTensor& running_mean, const OptionalTensor& running_var,
                     bool use_input_stats, double momentum, double eps, bool cudnn_enabled) {
  struct Scope {
    bool before = std::exchange(is_in_instance_norm, true);
    ~Scope() { is_in_instance_norm = before; }
  } const scope;
  return at::native::instance_norm(input, weight, bias, running_mean, running_var, use_input_stats,
                                   momentum, eps, cudnn_enabled);
}

/// Both operators are composed of others in LibTorch: a kernel of their own for autograd's keys
/// comes first, and the composition is back when it goes.
struct Operators {
  Operators() {
    for (const auto key : {c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutogradCUDA}) {
      library.impl("batch_norm", torch::dispatch(key, TORCH_FN(batch_norm)));
      library.impl("instance_norm", torch::dispatch(key, TORCH_FN(instance_norm)));
    }
  }
  torch::Library library{torch::Library::IMPL, "aten", std::nullopt, __FILE__, __LINE__};
};

/// With live_mutex held.
std::shared_ptr<void> operators() {
  static std::weak_ptr<Operators> shared;
  auto present = shared.lock();
  if (!present) {
    present = std::make_shared<Operators>();
    shared = present;
  }
  return present;
}

}  // namespace

SyncBatchNorm::SyncBatchNorm(std::unique_ptr<Communicator> communicator)
    : state_(std::make_shared<State>()) {
  state_->communicator = std::move(communicator);
  const std::lock_guard lock(live_mutex);
  operators_ = operators();
  live.push_back(state_);
}

SyncBatchNorm::~SyncBatchNorm() {
  const std::lock_guard lock(live_mutex);
  live.erase(std::find(live.begin(), live.end(), state_));
  operators_.reset();
}

void SyncBatchNorm::set_counts(bool counts) { state_->counts = counts; }

}  // namespace trainer

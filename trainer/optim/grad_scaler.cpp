#include <trainer/optim/grad_scaler.h>

#include <algorithm>
#include <map>

#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_amp_update_scale.h>
#include <fmt/format.h>
#include <torch/utils.h>

#include <trainer/core/error.h>
#include <trainer/core/json.h>
#include <trainer/optim/multi_tensor.h>

namespace trainer {
namespace {

/// The values of every gradient, those of a sparse one without repetition, by dtype: a kernel takes
/// one.
std::map<torch::ScalarType, std::vector<torch::Tensor>> gradients_by_dtype(
    torch::optim::Optimizer& optimizer) {
  std::map<torch::ScalarType, std::vector<torch::Tensor>> result;
  for (auto& group : optimizer.param_groups()) {
    for (auto& parameter : group.params()) {
      auto& gradient = parameter.mutable_grad();
      if (!gradient.defined()) {
        continue;
      }
      if (gradient.scalar_type() == torch::kFloat16) {
        throw UsageError(fmt::format(
            "GradScaler: a gradient of shape {} is float16, which has no room for a scale. Keep "
            "the parameters in float32 (precision 16-mixed), or train in 16-true without a scaler.",
            c10::str(gradient.sizes())));
      }
      if (gradient.is_sparse()) {
        gradient = gradient.coalesce();
      }
      result[gradient.scalar_type()].push_back(gradient.is_sparse() ? gradient._values()
                                                                    : gradient);
    }
  }
  return result;
}

void drop_gradients(torch::optim::Optimizer& optimizer) {
  for (auto& group : optimizer.param_groups()) {
    for (auto& parameter : group.params()) {
      parameter.mutable_grad().reset();
    }
  }
}

}  // namespace

GradScaler::GradScaler(torch::Device device, GradScalerOptions options)
    : options_(options),
      scale_(torch::full({}, options.init_scale, torch::dtype(torch::kFloat32).device(device))),
      growth_tracker_(torch::zeros({}, torch::dtype(torch::kInt32).device(device))),
      found_inf_(torch::zeros_like(scale_)) {
  if (!(options.init_scale > 0 && options.growth_factor > 1 && options.backoff_factor > 0 &&
        options.backoff_factor < 1 && options.growth_interval > 0)) {
    throw UsageError(fmt::format(
        "GradScaler: init_scale {}, growth_factor {}, backoff_factor {}, growth_interval {}: the "
        "scale and the interval must be above 0, growth above 1, backoff between 0 and 1.",
        options.init_scale, options.growth_factor, options.backoff_factor,
        options.growth_interval));
  }
}

GradScaler::Seen& GradScaler::seen(const torch::optim::Optimizer& optimizer) {
  const auto found = std::find_if(seen_.begin(), seen_.end(),
                                  [&](const Seen& one) { return one.optimizer == &optimizer; });
  return found != seen_.end() ? *found
                              : seen_.emplace_back(Seen{&optimizer, torch::zeros_like(scale_)});
}

void GradScaler::unscale(torch::optim::Optimizer& optimizer) {
  Seen& own = seen(optimizer);
  if (own.is_unscaled) {
    return;
  }
  const torch::NoGradGuard no_grad;
  own.found_inf.zero_();
  // In float64, as the reciprocal of a large float32 could be subnormal.
  const auto inverse = scale_.to(torch::kFloat64).reciprocal().to(torch::kFloat32);
  for (const auto& [dtype, gradients] : gradients_by_dtype(optimizer)) {
    at::_amp_foreach_non_finite_check_and_unscale_(gradients, own.found_inf, inverse);
  }
  own.is_unscaled = true;
}

void GradScaler::prepare_step(torch::optim::Optimizer& optimizer) {
  unscale(optimizer);
  Seen& own = seen(optimizer);
  own.is_unscaled = false;
  stepped_ = true;
  found_inf_.add_(own.found_inf);
  if (auto* own_kind = dynamic_cast<optim::MultiTensorOptimizer*>(&optimizer)) {
    own_kind->skip_next_step_if(own.found_inf);
  } else if (own.found_inf.item<float>() != 0) {
    drop_gradients(optimizer);
  }
}

void GradScaler::step(torch::optim::Optimizer& optimizer) {
  prepare_step(optimizer);
  optimizer.step();
}

void GradScaler::update() {
  if (!stepped_) {
    return;
  }
  at::_amp_update_scale_(scale_, growth_tracker_, found_inf_, options_.growth_factor,
                         options_.backoff_factor, options_.growth_interval);
  found_inf_.zero_();
  stepped_ = false;
}

nlohmann::json GradScaler::state_dict() const {
  return {{"scale", get_scale()},
          {"growth_factor", options_.growth_factor},
          {"backoff_factor", options_.backoff_factor},
          {"growth_interval", options_.growth_interval},
          {"_growth_tracker", growth_tracker_.item<int64_t>()}};
}

void GradScaler::load_state_dict(const nlohmann::json& state) {
  options_.growth_factor = state.at("growth_factor");
  options_.backoff_factor = state.at("backoff_factor");
  options_.growth_interval = json::to_int64(state.at("growth_interval"));
  scale_.fill_(state.at("scale").get<double>());
  growth_tracker_.fill_(json::to_int64(state.at("_growth_tracker")));
}

}  // namespace trainer

#include <trainer/precision.h>

#include <algorithm>
#include <iterator>

#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/config.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

struct Mode {
  const char* name;
  const char* alias;  // what Lightning takes for it too
  torch::ScalarType dtype;
  std::optional<torch::ScalarType> autocast_dtype;
};

constexpr Mode kModes[] = {
    {"32-true", "32", at::kFloat, std::nullopt},
    {"64-true", "64", at::kDouble, std::nullopt},
    {"16-true", "16-true", at::kHalf, std::nullopt},
    {"bf16-true", "bf16-true", at::kBFloat16, std::nullopt},
    {"16-mixed", "16", at::kFloat, at::kHalf},
    {"bf16-mixed", "bf16", at::kFloat, at::kBFloat16},
};

}  // namespace

AutocastScope::AutocastScope(c10::DeviceType device, std::optional<at::ScalarType> dtype)
    : device_(device), active_(dtype.has_value()) {
  if (!active_) {
    return;
  }
  previous_enabled_ = at::autocast::is_autocast_enabled(device_);
  previous_dtype_ = at::autocast::get_autocast_dtype(device_);
  at::autocast::set_autocast_enabled(device_, true);
  at::autocast::set_autocast_dtype(device_, *dtype);
  at::autocast::increment_nesting();
}

AutocastScope::~AutocastScope() {
  if (!active_) {
    return;
  }
  if (at::autocast::decrement_nesting() == 0) {
    at::autocast::clear_cache();
  }
  at::autocast::set_autocast_enabled(device_, previous_enabled_);
  at::autocast::set_autocast_dtype(device_, previous_dtype_);
}

const std::vector<std::string>& Precision::names() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const Mode& mode : kModes) {
      names.emplace_back(mode.name);
    }
    return names;
  }();
  return kNames;
}

Precision::Precision(const std::string& name) {
  const auto* mode = std::find_if(std::begin(kModes), std::end(kModes), [&](const Mode& one) {
    return name == one.name || name == one.alias;
  });
  if (mode == std::end(kModes)) {
    throw ConfigError(fmt::format("trainer.precision: is '{}'.{} Choose one of: {}.", name,
                                  config::did_you_mean(name, names()), fmt::join(names(), ", ")));
  }
  name_ = mode->name;
  dtype_ = mode->dtype;
  autocast_dtype_ = mode->autocast_dtype;
}

void Precision::convert_module(torch::nn::Module& module) const {
  if (dtype_ == at::kFloat) {
    return;
  }
  const torch::NoGradGuard no_grad;
  const auto convert = [&](torch::Tensor tensor) {
    if (tensor.is_floating_point() && tensor.scalar_type() != dtype_) {
      tensor.set_data(tensor.to(dtype_));
    }
  };
  for (const auto& parameter : module.parameters()) {
    convert(parameter);
  }
  for (const auto& buffer : module.buffers()) {
    convert(buffer);
  }
}

}  // namespace trainer

#include <trainer/precision.h>

#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <trainer/core/config.h>
#include <trainer/core/error.h>

namespace trainer {

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
  static const std::vector<std::string> kNames = {"32-true", "bf16-mixed"};
  return kNames;
}

Precision::Precision(const std::string& name) : name_(name) {
  if (name == "bf16-mixed") {
    dtype_ = at::kBFloat16;
  } else if (name != "32-true") {
    throw ConfigError(fmt::format("trainer.precision: is '{}'.{} Choose one of: {}.", name,
                                  config::did_you_mean(name, names()), fmt::join(names(), ", ")));
  }
}

}  // namespace trainer

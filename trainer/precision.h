#pragma once
// The number format of a run: which dtype operators compute in. Parameters stay float32 in every
// mode here.

#include <optional>
#include <string>
#include <vector>

#include <torch/types.h>

namespace trainer {

/// Autocast for the scope's life; nothing where no dtype is given. LibTorch's cast cache is cleared
/// at the end of the outermost scope, as torch.autocast does.
class AutocastScope {
 public:
  AutocastScope(c10::DeviceType device, std::optional<at::ScalarType> dtype);
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;
  ~AutocastScope();

 private:
  c10::DeviceType device_;
  bool active_ = false;
  bool previous_enabled_ = false;
  at::ScalarType previous_dtype_ = at::kFloat;
};

class Precision {
 public:
  /// "32-true": float32 throughout. "bf16-mixed": matrix products in bfloat16, parameters and
  /// reductions in float32. Throws ConfigError for another name.
  explicit Precision(const std::string& name);
  static const std::vector<std::string>& names();

  const std::string& name() const { return name_; }
  AutocastScope autocast(torch::Device device) const { return {device.type(), dtype_}; }

 private:
  std::string name_;
  std::optional<at::ScalarType> dtype_;
};

}  // namespace trainer

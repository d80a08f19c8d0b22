#pragma once
// The number format of a run: which dtype parameters have, and which operators compute in.

#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>
#include <torch/types.h>

#include <trainer/core/batch.h>

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

/// A default dtype for the scope's life: what torch::zeros() and the like make without being told.
/// For all threads.
class DefaultDtypeScope {
 public:
  explicit DefaultDtypeScope(torch::ScalarType dtype) : before_(torch::get_default_dtype()) {
    torch::set_default_dtype(c10::scalarTypeToTypeMeta(dtype));
  }
  DefaultDtypeScope(const DefaultDtypeScope&) = delete;
  DefaultDtypeScope& operator=(const DefaultDtypeScope&) = delete;
  ~DefaultDtypeScope() { torch::set_default_dtype(before_); }

 private:
  const caffe2::TypeMeta before_;
};

class Precision {
 public:
  /// "32-true", "64-true", "16-true", "bf16-true": parameters, data and results in that format.
  /// "16-mixed", "bf16-mixed": parameters and reductions in float32, matrix products in the short
  /// format; 16-mixed with a GradScaler. "64", "32", "16" and "bf16" stand for 64-true, 32-true,
  /// 16-mixed and bf16-mixed, as in Lightning. Throws ConfigError for another name.
  explicit Precision(const std::string& name);
  static const std::vector<std::string>& names();

  const std::string& name() const { return name_; }
  /// Of parameters, and of what the module is given.
  torch::ScalarType dtype() const { return dtype_; }
  bool is_mixed() const { return autocast_dtype_.has_value(); }
  bool needs_grad_scaler() const { return autocast_dtype_ == at::kHalf; }

  /// Converts floating-point parameters and buffers; nothing where dtype() is float32, as a module
  /// may have been made in another one.
  void convert_module(torch::nn::Module& module) const;
  /// Converts floating-point tensors; nothing where dtype() is float32.
  Batch convert_input(Batch batch) const {
    return dtype_ == at::kFloat ? std::move(batch) : std::move(batch).to(dtype_);
  }
  AutocastScope autocast(torch::Device device) const { return {device.type(), autocast_dtype_}; }

 private:
  std::string name_;
  torch::ScalarType dtype_ = at::kFloat;
  std::optional<at::ScalarType> autocast_dtype_;
};

}  // namespace trainer

#pragma once
// LibTorch's process-wide switches.

#include <optional>

#include <torch/csrc/autograd/anomaly_mode.h>

#include <trainer/precision.h>
#include <trainer/trainer_config.h>

namespace trainer {

/// Sets them as the configuration says (deterministic, benchmark, detect_anomaly, the dtype of a
/// -true precision) for the scope's life, and then back to what they were.
class GlobalSwitches {
 public:
  GlobalSwitches(const TrainerConfig& config, const Precision& precision);
  GlobalSwitches(const GlobalSwitches&) = delete;
  GlobalSwitches& operator=(const GlobalSwitches&) = delete;
  ~GlobalSwitches();

 private:
  const bool deterministic_, warn_only_, benchmark_;
  std::optional<torch::autograd::DetectAnomalyGuard> anomaly_;
  std::optional<DefaultDtypeScope> default_dtype_;
};

}  // namespace trainer

#include <trainer/global_switches.h>

#include <ATen/Context.h>

namespace trainer {

GlobalSwitches::GlobalSwitches(const TrainerConfig& config, const Precision& precision)
    : deterministic_(at::globalContext().deterministicAlgorithms()),
      warn_only_(at::globalContext().deterministicAlgorithmsWarnOnly()),
      benchmark_(at::globalContext().benchmarkCuDNN()) {
  if (precision.dtype() != at::kFloat) {
    default_dtype_.emplace(precision.dtype());
  }
  if (config.detect_anomaly && !torch::autograd::AnomalyMode::is_enabled()) {
    anomaly_.emplace();
  }
  if (config.deterministic != "off") {
    at::globalContext().setDeterministicAlgorithms(true, config.deterministic == "warn");
  }
  at::globalContext().setBenchmarkCuDNN(config.benchmark || benchmark_);
}

GlobalSwitches::~GlobalSwitches() {
  at::globalContext().setDeterministicAlgorithms(deterministic_, warn_only_);
  at::globalContext().setBenchmarkCuDNN(benchmark_);
}

}  // namespace trainer

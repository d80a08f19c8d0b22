#pragma once
// Prints what a model is made of before training starts: its layers with their number of
// parameters, and the totals. Every run has one (enable_model_summary); list it in `callbacks` to
// see more levels.

#include <cstdint>
#include <string>
#include <tuple>

#include <torch/nn/module.h>

#include <trainer/callback.h>
#include <trainer/core/reflect.h>

namespace trainer {

class ModelSummary : public Callback {
 public:
  static constexpr const char* kDoc = "Prints the model's layers and number of parameters.";

  struct Init {
    int64_t max_depth = 1;

    static constexpr auto fields() {
      return std::tuple{config::field<&Init::max_depth>(
          "Levels of layers to print: 1 for the module's own, -1 for all, 0 for the totals alone.",
          config::at_least(-1))};
    }
  };

  ModelSummary() : ModelSummary(Init{}) {}
  explicit ModelSummary(Init init) : init_(init) {}

  /// Prints to standard error, on rank 0.
  void on_fit_start(Trainer&, Module&) override;

 private:
  Init init_;
};

/// The table, without a newline at its end. A layer's row counts everything below it; a parameter
/// that several layers share is in each of their rows, and once in the totals. Parameters that the
/// module itself registered have a row "(own)". 1 MB is 10^6 bytes.
std::string model_summary(const torch::nn::Module& module, int64_t max_depth);

}  // namespace trainer

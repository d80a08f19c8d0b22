#pragma once
// The schedule that follows a metric instead of the number of steps.

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include <trainer/core/reflect.h>
#include <trainer/optim/lr_scheduler.h>

namespace trainer {

/// Multiplies the learning rates by `factor` when the metric given to step() has not improved for
/// more than `patience` steps, as PyTorch's of that name; a metric that is NaN or infinite is no
/// improvement. It reduces from the initial learning rates: nothing else should change them.
class ReduceLROnPlateau : public LRScheduler {
 public:
  struct Init {
    std::string mode = "min";
    double factor = 0.1;
    int64_t patience = 10;
    double threshold = 1e-4;
    std::string threshold_mode = "rel";
    int64_t cooldown = 0;
    double min_lr = 0;
    double eps = 1e-8;

    static constexpr auto fields() {
      using config::field, config::at_least, config::greater_than, config::in_range, config::one_of;
      return std::tuple{
          field<&Init::mode>("Whether less or more of the metric is better.", one_of("min", "max")),
          field<&Init::factor>("Factor of a reduction; below 1.", greater_than(0.0),
                               in_range(0.0, 1.0)),
          field<&Init::patience>("Steps without improvement that are tolerated.", at_least(0)),
          field<&Init::threshold>("An improvement smaller than it does not count.", at_least(0.0)),
          field<&Init::threshold_mode>(
              "Whether the threshold is a fraction of the best value or a difference to it.",
              one_of("rel", "abs")),
          field<&Init::cooldown>("Steps after a reduction that count for nothing.", at_least(0)),
          field<&Init::min_lr>("No learning rate is reduced below it.", at_least(0.0)),
          field<&Init::eps>("A reduction by this or less is left out.", at_least(0.0))};
    }
    void validate() const;
  };

  /// Throws ConfigError for arguments out of range.
  ReduceLROnPlateau(torch::optim::Optimizer& optimizer, Init init);

  bool needs_metric() const override { return true; }
  double lr(double initial_lr, int64_t count) const override;

  /// That of LRScheduler with {"best": 0.5, "num_bad_epochs": 2, "cooldown_counter": 0,
  /// "num_reductions": 1}; best is null before the first finite metric.
  nlohmann::json state_dict() const override;
  void load_state_dict(const nlohmann::json& state) override;

 protected:
  void observe(double metric) override;

 private:
  struct State {
    std::optional<double> best = std::nullopt;
    int64_t num_bad_epochs = 0;
    int64_t cooldown_counter = 0;
    int64_t num_reductions = 0;
  };

  static State read_state(const nlohmann::json& state);
  bool is_better(double metric) const;

  Init init_;
  State state_;
};

}  // namespace trainer

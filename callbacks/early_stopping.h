#pragma once
// Ends training when a metric has stopped improving, reached a goal, diverged or become NaN. Use it
// where the number of epochs is not known beforehand: give a generous max_epochs and let the metric
// decide.
//
// Settings and the order of the tests are Lightning's. `patience` counts checks, not epochs. A
// check takes place after each validation, or at the end of each training epoch where the run does
// not validate; never in the sanity check.

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include <nlohmann/json.hpp>

#include <trainer/callback.h>
#include <trainer/core/reflect.h>

namespace trainer {

class EarlyStopping : public Callback {
 public:
  static constexpr const char* kDoc = "Stops training when a metric has stopped improving.";

  struct Init {
    std::string monitor = "";
    double min_delta = 0.0;
    int64_t patience = 3;
    bool verbose = false;
    std::string mode = "min";
    bool strict = true;
    bool check_finite = true;
    std::optional<double> stopping_threshold = std::nullopt;
    std::optional<double> divergence_threshold = std::nullopt;
    std::optional<bool> check_on_train_epoch_end = std::nullopt;

    static constexpr auto fields() {
      using config::field, config::at_least, config::one_of, config::required;
      return std::tuple{
          field<&Init::monitor>("Name of the metric to watch.", required()),
          field<&Init::min_delta>("A change counts as an improvement when it is larger than this.",
                                  at_least(0.0)),
          field<&Init::patience>("Checks without improvement after which training stops.",
                                 at_least(0)),
          field<&Init::verbose>("Tell of every improvement; the reason to stop is always told."),
          field<&Init::mode>("Whether a smaller or a larger metric is better.",
                             one_of("min", "max")),
          field<&Init::strict>("A metric that was not logged is an error; false: skip the check."),
          field<&Init::check_finite>("Stop when the metric is NaN or infinite."),
          field<&Init::stopping_threshold>("Stop when the metric is better than this."),
          field<&Init::divergence_threshold>("Stop when the metric is worse than this."),
          field<&Init::check_on_train_epoch_end>(
              "Check at the end of the training epoch, not after validation; unset: only where "
              "the run does not validate."),
      };
    }
    /// Throws ConfigError when monitor is empty.
    void validate() const;
  };

  /// Why training was stopped.
  enum class Reason {
    kNotStopped,
    kNonFiniteMetric,
    kStoppingThreshold,
    kDivergenceThreshold,
    kPatienceExhausted,
  };

  explicit EarlyStopping(Init init);

  Role role() const override { return Role::kMonitors; }
  /// Both throw UsageError when the metric was not logged and `strict` is set. Collective: yes.
  void on_validation_end(Trainer&, Module&) override;
  void on_train_epoch_end(Trainer&, Module&) override;

  std::string state_key() const override;
  /// {"wait_count": 2, "best_score": 0.25, "stopped_epoch": 0, "patience": 3}; a best_score that is
  /// not finite is a string.
  nlohmann::json state_dict() const override;
  /// Restores all but patience, where the configuration holds: to go on after a stop, resume with a
  /// larger one. Throws CheckpointError, with nothing changed, when the state is malformed.
  void load_state_dict(const nlohmann::json& state) override;

  /// Checks since the last improvement.
  int64_t wait_count() const { return wait_count_; }
  /// Infinite (the worst value) before the first check.
  double best_score() const { return best_score_; }
  /// The epoch in which training was stopped, 0 where it was not.
  int64_t stopped_epoch() const { return stopped_epoch_; }
  Reason stopping_reason() const { return reason_; }
  /// The reason as a sentence with its numbers, empty where training was not stopped.
  const std::string& message() const { return message_; }

 private:
  void check(Trainer& trainer, const char* when);
  /// The metric, or nothing where it is missing and need not be there.
  std::optional<double> current(const Trainer& trainer, const char* when);
  /// Applies the tests in order. Returns whether to stop; reason_ and message_ then say why.
  bool evaluate(double value);
  bool stop(Reason reason, std::string message);
  bool is_better(double a, double b) const { return init_.mode == "min" ? a < b : a > b; }

  Init init_;
  int64_t wait_count_ = 0;
  double best_score_ = 0;
  int64_t stopped_epoch_ = 0;
  Reason reason_ = Reason::kNotStopped;
  std::string message_;
  bool told_of_missing_metric_ = false;
};

}  // namespace trainer

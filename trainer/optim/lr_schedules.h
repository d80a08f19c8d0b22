#pragma once
// The learning-rate schedules: pure functions of the number of steps. Where PyTorch has one of the
// name, it has the same arguments and gives the same numbers, up to the rounding of PyTorch's
// recursions (below 1e-12 of the initial learning rate over 100 steps; tests/golden has them).
//
//   StepLR scheduler(optimizer, {.step_size = 30, .gamma = 0.1});
//
// Every constructor throws ConfigError for arguments out of the range that fields() gives, and for
// a length of the run that is neither given nor known.

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <trainer/core/reflect.h>
#include <trainer/optim/lr_scheduler.h>

namespace trainer {

/// `factor` times the initial learning rate until `total_iters`, then the initial one.
class ConstantLR : public LRScheduler {
 public:
  struct Init {
    double factor = 1.0 / 3;
    int64_t total_iters = 5;

    static constexpr auto fields() {
      using config::field, config::at_least, config::in_range;
      return std::tuple{field<&Init::factor>("Factor of the learning rate.", in_range(0.0, 1.0)),
                        field<&Init::total_iters>("Steps that it lasts.", at_least(0))};
    }
  };

  ConstantLR(torch::optim::Optimizer& optimizer, Init init);
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
};

/// A straight line from `start_factor` to `end_factor` over `total_iters`, constant after it.
class LinearLR : public LRScheduler {
 public:
  struct Init {
    double start_factor = 1.0 / 3;
    double end_factor = 1;
    int64_t total_iters = 5;

    static constexpr auto fields() {
      using config::field, config::at_least, config::in_range, config::greater_than;
      return std::tuple{field<&Init::start_factor>("Factor at the first step.", greater_than(0.0),
                                                   in_range(0.0, 1.0)),
                        field<&Init::end_factor>("Factor from total_iters on.", in_range(0.0, 1.0)),
                        field<&Init::total_iters>("Steps between the two.", at_least(1))};
    }
  };

  LinearLR(torch::optim::Optimizer& optimizer, Init init);
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
};

/// A linear rise over `warmup_steps`, (count + 1) / (warmup_steps + 1), so that no step runs with
/// 0; then the initial learning rate.
class LinearWarmupLR : public LRScheduler {
 public:
  struct Init {
    int64_t warmup_steps = 0;

    static constexpr auto fields() {
      using config::field, config::at_least, config::required;
      return std::tuple{field<&Init::warmup_steps>("Steps of the rise.", required(), at_least(0))};
    }
  };

  LinearWarmupLR(torch::optim::Optimizer& optimizer, Init init);
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
};

/// gamma^(count / step_size), with an integer division.
class StepLR : public LRScheduler {
 public:
  struct Init {
    int64_t step_size = 1;
    double gamma = 0.1;

    static constexpr auto fields() {
      using config::field, config::at_least, config::required;
      return std::tuple{
          field<&Init::step_size>("Steps between two decays.", required(), at_least(1)),
          field<&Init::gamma>("Factor of each decay.", at_least(0.0))};
    }
  };

  StepLR(torch::optim::Optimizer& optimizer, Init init);
  StepLR(torch::optim::Optimizer& optimizer, int64_t step_size, double gamma = 0.1)
      : StepLR(optimizer, Init{step_size, gamma}) {}
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
};

/// gamma for each milestone that is reached; one that is listed twice counts twice.
class MultiStepLR : public LRScheduler {
 public:
  struct Init {
    std::vector<int64_t> milestones = {};
    double gamma = 0.1;

    static constexpr auto fields() {
      using config::field, config::at_least, config::required;
      return std::tuple{
          field<&Init::milestones>("Counts of steps at which it decays, in order.", required()),
          field<&Init::gamma>("Factor of each decay.", at_least(0.0))};
    }
    void validate() const;
  };

  MultiStepLR(torch::optim::Optimizer& optimizer, Init init);
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
};

/// gamma^count.
class ExponentialLR : public LRScheduler {
 public:
  struct Init {
    double gamma = 0.1;

    static constexpr auto fields() {
      using config::field, config::at_least, config::required;
      return std::tuple{field<&Init::gamma>("Factor of each step.", required(), at_least(0.0))};
    }
  };

  ExponentialLR(torch::optim::Optimizer& optimizer, Init init);
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
};

/// (1 - count / total_iters)^power, 0 from total_iters on.
class PolynomialLR : public LRScheduler {
 public:
  struct Init {
    std::optional<int64_t> total_iters = std::nullopt;
    double power = 1;

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::total_iters>("Steps until 0; unset: the length of the run.", at_least(1)),
          field<&Init::power>("Exponent; 1 is a straight line.", at_least(0.0))};
    }
  };

  PolynomialLR(torch::optim::Optimizer& optimizer, Init init, LRSchedulerContext context = {});
  double lr(double initial_lr, int64_t count) const override;

 private:
  int64_t total_iters_;
  double power_;
};

/// Half a cosine from the initial learning rate down to `eta_min` at `T_max`, and up again after
/// it. Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
class CosineAnnealingLR : public LRScheduler {
 public:
  struct Init {
    std::optional<int64_t> T_max = std::nullopt;
    double eta_min = 0;

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::T_max>("Steps of the descent; unset: the length of the run.", at_least(1)),
          field<&Init::eta_min>("Lowest learning rate.", at_least(0.0))};
    }
  };

  CosineAnnealingLR(torch::optim::Optimizer& optimizer, Init init, LRSchedulerContext context = {});
  double lr(double initial_lr, int64_t count) const override;

 private:
  int64_t T_max_;
  double eta_min_;
};

/// Half a cosine down to `eta_min` over `T_0` steps, then again from the top over T_0 * T_mult, and
/// so on. Source: Loshchilov and Hutter 2017, arXiv:1608.03983.
class CosineAnnealingWarmRestarts : public LRScheduler {
 public:
  struct Init {
    int64_t T_0 = 1;
    int64_t T_mult = 1;
    double eta_min = 0;

    static constexpr auto fields() {
      using config::field, config::at_least, config::required;
      return std::tuple{
          field<&Init::T_0>("Steps until the first restart.", required(), at_least(1)),
          field<&Init::T_mult>("How many times longer the next descent is.", at_least(1)),
          field<&Init::eta_min>("Lowest learning rate.", at_least(0.0))};
    }
  };

  CosineAnnealingWarmRestarts(torch::optim::Optimizer& optimizer, Init init);
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
};

/// One rise to the peak and one long descent, with the momentum (or first beta) the other way
/// round. Steps past `total_steps` stay at the lowest learning rate; PyTorch throws there. Source:
/// Smith and Topin 2018, arXiv:1708.07120.
class OneCycleLR : public LRScheduler {
 public:
  struct Init {
    std::optional<double> max_lr = std::nullopt;
    std::optional<int64_t> total_steps = std::nullopt;
    double pct_start = 0.3;
    std::string anneal_strategy = "cos";
    bool cycle_momentum = true;
    double base_momentum = 0.85;
    double max_momentum = 0.95;
    double div_factor = 25;
    double final_div_factor = 1e4;
    bool three_phase = false;

    static constexpr auto fields() {
      using config::field, config::at_least, config::greater_than, config::in_range, config::one_of;
      return std::tuple{
          field<&Init::max_lr>("Peak of every parameter group; unset: its own learning rate.",
                               at_least(0.0)),
          field<&Init::total_steps>("Steps of the cycle; unset: the length of the run.",
                                    at_least(1)),
          field<&Init::pct_start>("Fraction of the steps spent rising.", in_range(0.0, 1.0)),
          field<&Init::anneal_strategy>("Form of rise and descent.", one_of("cos", "linear")),
          field<&Init::cycle_momentum>("Change the momentum too."),
          field<&Init::base_momentum>("Momentum at the peak.", in_range(0.0, 1.0)),
          field<&Init::max_momentum>("Momentum at both ends.", in_range(0.0, 1.0)),
          field<&Init::div_factor>("The first learning rate is the peak divided by it.",
                                   greater_than(0.0)),
          field<&Init::final_div_factor>("The last one is the first divided by it.",
                                         greater_than(0.0)),
          field<&Init::three_phase>("Descend to the first learning rate in as many steps as the "
                                    "rise took, and on to the last one in the rest.")};
    }
  };

  /// Throws ConfigError too where cycle_momentum is on and the optimizer has no momentum.
  OneCycleLR(torch::optim::Optimizer& optimizer, Init init, LRSchedulerContext context = {});
  double lr(double initial_lr, int64_t count) const override;
  std::optional<double> momentum(int64_t count) const override;

 private:
  struct Phase {
    double end;                                         // its last step
    double from_lr, to_lr, from_momentum, to_momentum;  // learning rates: of the peak
  };

  double anneal(double progress, double from, double to) const;
  /// The phase of a step, and how much of it is done.
  std::pair<const Phase&, double> at(int64_t count) const;

  Init init_;
  int64_t total_steps_;
  std::vector<Phase> phases_;
};

/// Linear rise over `warmup_steps`, then half a cosine down to `min_factor` at `total_steps`,
/// constant after it: (count + 1) / (warmup_steps + 1) in the warm-up, so that no step runs with 0,
/// and 1 at its end. The same as PyTorch's LinearLR(start_factor=1/(warmup_steps+1),
/// total_iters=warmup_steps) followed by CosineAnnealingLR(T_max=total_steps-warmup_steps,
/// eta_min=min_factor*lr). Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.
class WarmupCosineLR : public LRScheduler {
 public:
  struct Init {
    int64_t warmup_steps = 0;
    std::optional<int64_t> total_steps = std::nullopt;
    double min_factor = 0;

    static constexpr auto fields() {
      using config::field, config::at_least, config::in_range;
      return std::tuple{
          field<&Init::warmup_steps>("Steps of the rise.", at_least(0)),
          field<&Init::total_steps>("Steps of rise and descent; unset: the length of the run.",
                                    at_least(1)),
          field<&Init::min_factor>("Factor at the end.", in_range(0.0, 1.0))};
    }
    void validate() const;
  };

  WarmupCosineLR(torch::optim::Optimizer& optimizer, Init init, LRSchedulerContext context = {});
  /// `total_steps`: as estimated_stepping_batches() tells it; a run that ends within the warm-up,
  /// as a quick trial does, just keeps rising.
  WarmupCosineLR(torch::optim::Optimizer& optimizer, int64_t warmup_steps, int64_t total_steps,
                 double min_factor = 0.0)
      : WarmupCosineLR(optimizer, Init{warmup_steps, std::nullopt, min_factor}, {total_steps}) {}
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
  int64_t total_steps_;
};

/// Warm-up, stable, decay: a linear rise as WarmupCosineLR's, the initial learning rate, and in the
/// last `decay_steps` of `total_steps` a descent to `min_factor`. A run that is to go on longer
/// branches off before the decay. Source: Hu et al. 2024 (MiniCPM), arXiv:2404.06395; the form
/// 1-sqrt: Haegele et al. 2024, arXiv:2405.18392.
class WSDLR : public LRScheduler {
 public:
  struct Init {
    int64_t warmup_steps = 0;
    int64_t decay_steps = 1;
    std::optional<int64_t> total_steps = std::nullopt;
    double min_factor = 0;
    std::string decay = "linear";

    static constexpr auto fields() {
      using config::field, config::at_least, config::in_range, config::one_of, config::required;
      return std::tuple{
          field<&Init::warmup_steps>("Steps of the rise.", at_least(0)),
          field<&Init::decay_steps>("Steps of the descent.", required(), at_least(1)),
          field<&Init::total_steps>("Steps of all three parts; unset: the length of the run.",
                                    at_least(1)),
          field<&Init::min_factor>("Factor at the end.", in_range(0.0, 1.0)),
          field<&Init::decay>("Form of the descent.", one_of("linear", "cosine", "1-sqrt"))};
    }
    void validate() const;
  };

  WSDLR(torch::optim::Optimizer& optimizer, Init init, LRSchedulerContext context = {});
  double lr(double initial_lr, int64_t count) const override;

 private:
  Init init_;
  int64_t decay_start_;
};

}  // namespace trainer

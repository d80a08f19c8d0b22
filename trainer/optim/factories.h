#pragma once
// The optimizers that YAML can name. C++ makes the optimizers themselves; use<> of a class of this
// file is for code that chooses among them:
//
//   trainer::Spec<trainer::OptimizerFactory> optimizer = trainer::use<factory::Lion>({.lr = 1e-4});
//
// Defaults are those of the optimizers. `no_decay` and `groups` are optim::GroupRules.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <trainer/core/config.h>
#include <trainer/optim/optimizer_factory.h>

namespace trainer::optim::factory {

/// A rule: decay rates.
struct EachBelowOne {
  std::string text() const { return "each >= 0 and < 1"; }
  template <size_t N>
  std::string violation(const std::array<double, N>& values) const {
    for (const double value : values) {
      if (!(value >= 0 && value < 1)) {
        return "each must be at least 0 and below 1.";
      }
    }
    return "";
  }
};

inline constexpr const char* kNoDecay =
    "Parameters without weight decay, by name: '.*bias|.*norm.*'.";
inline constexpr const char* kGroups = "Options of their own for parameters, by name.";

class AdamW : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "AdamW: Adam with decoupled weight decay.";
  struct Init {
    double lr = 1e-3;
    std::array<double, 2> betas = {0.9, 0.999};
    double eps = 1e-8;
    double weight_decay = 1e-2;
    bool amsgrad = false;
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{field<&Init::lr>("Learning rate.", at_least(0.0)),
                        field<&Init::betas>("Decay rates of the two moments.", EachBelowOne{}),
                        field<&Init::eps>("Added to the denominator.", at_least(0.0)),
                        field<&Init::weight_decay>("Decoupled weight decay.", at_least(0.0)),
                        field<&Init::amsgrad>("Divide by the largest second moment so far."),
                        field<&Init::no_decay>(kNoDecay, Pattern{}),
                        field<&Init::groups>(kGroups)};
    }
  };

  explicit AdamW(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class Adam : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "Adam.";
  struct Init {
    double lr = 1e-3;
    std::array<double, 2> betas = {0.9, 0.999};
    double eps = 1e-8;
    double weight_decay = 0;
    bool amsgrad = false;
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::betas>("Decay rates of the two moments.", EachBelowOne{}),
          field<&Init::eps>("Added to the denominator.", at_least(0.0)),
          field<&Init::weight_decay>("Weight decay, a part of the gradient.", at_least(0.0)),
          field<&Init::amsgrad>("Divide by the largest second moment so far."),
          field<&Init::no_decay>(kNoDecay, Pattern{}),
          field<&Init::groups>(kGroups)};
    }
  };

  explicit Adam(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class SGD : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "Stochastic gradient descent with momentum.";
  struct Init {
    double lr = 1e-3;
    double momentum = 0;
    double dampening = 0;
    double weight_decay = 0;
    bool nesterov = false;
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::momentum>("Decay rate of the momentum.", at_least(0.0)),
          field<&Init::dampening>("How much less a gradient counts in the momentum."),
          field<&Init::weight_decay>("Weight decay, a part of the gradient.", at_least(0.0)),
          field<&Init::nesterov>("Nesterov's momentum."),
          field<&Init::no_decay>(kNoDecay, Pattern{}),
          field<&Init::groups>(kGroups)};
    }
  };

  explicit SGD(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class Adagrad : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "Adagrad.";
  struct Init {
    double lr = 1e-2;
    double lr_decay = 0;
    double weight_decay = 0;
    double initial_accumulator_value = 0;
    double eps = 1e-10;
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::lr_decay>("Divides the learning rate by 1 + lr_decay * steps.",
                                 at_least(0.0)),
          field<&Init::weight_decay>("Weight decay, a part of the gradient.", at_least(0.0)),
          field<&Init::initial_accumulator_value>("First value of the sums of squares.",
                                                  at_least(0.0)),
          field<&Init::eps>("Added to the denominator.", at_least(0.0)),
          field<&Init::no_decay>(kNoDecay, Pattern{}),
          field<&Init::groups>(kGroups)};
    }
  };

  explicit Adagrad(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class RMSprop : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "RMSprop.";
  struct Init {
    double lr = 1e-2;
    double alpha = 0.99;
    double eps = 1e-8;
    double weight_decay = 0;
    double momentum = 0;
    bool centered = false;
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::alpha>("Decay rate of the mean square.", at_least(0.0)),
          field<&Init::eps>("Added to the denominator.", at_least(0.0)),
          field<&Init::weight_decay>("Weight decay, a part of the gradient.", at_least(0.0)),
          field<&Init::momentum>("Decay rate of the momentum.", at_least(0.0)),
          field<&Init::centered>("Divide by the standard deviation instead."),
          field<&Init::no_decay>(kNoDecay, Pattern{}),
          field<&Init::groups>(kGroups)};
    }
  };

  explicit RMSprop(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class LAMB : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "LAMB, for large batches.";
  struct Init {
    double lr = 1e-3;
    std::array<double, 2> betas = {0.9, 0.999};
    double eps = 1e-6;
    double weight_decay = 0.01;
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::betas>("Decay rates of the two moments.", EachBelowOne{}),
          field<&Init::eps>("Added to the denominator.", at_least(0.0)),
          field<&Init::weight_decay>("Weight decay, within the trust ratio.", at_least(0.0)),
          field<&Init::no_decay>(kNoDecay, Pattern{}),
          field<&Init::groups>(kGroups)};
    }
  };

  explicit LAMB(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class Lion : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "Lion: the sign of the momentum.";
  struct Init {
    double lr = 1e-4;
    std::array<double, 2> betas = {0.9, 0.99};
    double weight_decay = 0;
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::betas>("Interpolation of the update, decay rate of the momentum.",
                              EachBelowOne{}),
          field<&Init::weight_decay>("Decoupled weight decay.", at_least(0.0)),
          field<&Init::no_decay>(kNoDecay, Pattern{}), field<&Init::groups>(kGroups)};
    }
  };

  explicit Lion(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class Muon : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "Muon: orthogonal updates, for modules of matrices only.";
  struct Init {
    double lr = 1e-3;
    double weight_decay = 0.1;
    double momentum = 0.95;
    bool nesterov = true;
    std::array<double, 3> ns_coefficients = {3.4445, -4.7750, 2.0315};
    double eps = 1e-7;
    int64_t ns_steps = 5;
    std::string adjust_lr_fn = "original";
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least, config::in_range, config::one_of;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::weight_decay>("Decoupled weight decay.", at_least(0.0)),
          field<&Init::momentum>("Decay rate of the momentum.", in_range(0.0, 1.0)),
          field<&Init::nesterov>("Nesterov's momentum."),
          field<&Init::ns_coefficients>("Of the Newton-Schulz iteration."),
          field<&Init::eps>("Smallest norm to divide by.", at_least(0.0)),
          field<&Init::ns_steps>("Newton-Schulz iterations.", in_range(0, 99)),
          field<&Init::adjust_lr_fn>("How the shape scales the learning rate.",
                                     one_of("original", "match_rms_adamw", "spectral_unclamped")),
          field<&Init::no_decay>(kNoDecay, Pattern{}),
          field<&Init::groups>(kGroups)};
    }
  };

  explicit Muon(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class ScheduleFreeAdamW : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "AdamW without a learning rate schedule.";
  struct Init {
    double lr = 2.5e-3;
    std::array<double, 2> betas = {0.9, 0.999};
    double eps = 1e-8;
    double weight_decay = 0;
    int64_t warmup_steps = 0;
    double r = 0;
    double weight_lr_power = 2;
    std::string no_decay = "";
    std::vector<GroupRule> groups = {};

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::betas>("Interpolation (above 0), decay rate of the second moment.",
                              EachBelowOne{}),
          field<&Init::eps>("Added to the denominator.", at_least(0.0)),
          field<&Init::weight_decay>("Decoupled weight decay.", at_least(0.0)),
          field<&Init::warmup_steps>("Steps in which the learning rate grows.", at_least(0)),
          field<&Init::r>("Power of the step in the weights of the average.", at_least(0.0)),
          field<&Init::weight_lr_power>("Power of the learning rate in them.", at_least(0.0)),
          field<&Init::no_decay>(kNoDecay, Pattern{}),
          field<&Init::groups>(kGroups)};
    }
  };

  explicit ScheduleFreeAdamW(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

class LBFGS : public OptimizerFactory {
 public:
  static constexpr const char* kDoc = "L-BFGS, for full batches.";
  struct Init {
    double lr = 1;
    int64_t max_iter = 20;
    std::optional<int64_t> max_eval = std::nullopt;
    double tolerance_grad = 1e-7;
    double tolerance_change = 1e-9;
    int64_t history_size = 100;
    std::optional<std::string> line_search_fn = std::nullopt;

    static constexpr auto fields() {
      using config::field, config::at_least, config::one_of;
      return std::tuple{
          field<&Init::lr>("Learning rate.", at_least(0.0)),
          field<&Init::max_iter>("Iterations in a step.", at_least(1)),
          field<&Init::max_eval>("Evaluations in a step; null: 1.25 * max_iter.", at_least(1)),
          field<&Init::tolerance_grad>("Largest gradient of a minimum.", at_least(0.0)),
          field<&Init::tolerance_change>("Smallest change to go on for.", at_least(0.0)),
          field<&Init::history_size>("Differences that are kept.", at_least(1)),
          field<&Init::line_search_fn>("Line search; null: fixed steps.", one_of("strong_wolfe"))};
    }
  };

  explicit LBFGS(Init init) : init_(std::move(init)) {}
  std::unique_ptr<torch::optim::Optimizer> create(const torch::nn::Module& module) const override;

 private:
  Init init_;
};

}  // namespace trainer::optim::factory

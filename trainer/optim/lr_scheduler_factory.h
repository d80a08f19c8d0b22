#pragma once
// Learning-rate schedulers by name, as YAML chooses them, and schedulers made of others.
//
//   struct Init {
//     Spec<LRSchedulerFactory> lr_scheduler = "WarmupCosineLR";   // a field of a module
//   };
//   auto scheduler = init.lr_scheduler.create()->create(*optimizer, {.total_steps = 1000});
//
// A scheduler of your own has a nested struct Init with fields(), a constructor (Optimizer&, Init)
// or (Optimizer&, Init, LRSchedulerContext), and TRAINER_REGISTER_LR_SCHEDULER in a .cpp file.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <trainer/core/registry.h>
#include <trainer/optim/lr_scheduler.h>

namespace trainer {

/// Arguments of a scheduler that wait for their optimizer.
class LRSchedulerFactory {
 public:
  using Base = LRSchedulerFactory;
  static constexpr const char* kKind = "lr scheduler";

  virtual ~LRSchedulerFactory() = default;
  /// Throws ConfigError for arguments that the optimizer or the run cannot do with.
  virtual std::unique_ptr<LRScheduler> create(torch::optim::Optimizer& optimizer,
                                              LRSchedulerContext context) const = 0;
};

/// The factory of a scheduler class.
template <class T>
class LRSchedulerOf : public LRSchedulerFactory {
 public:
  using Init = typename T::Init;
  explicit LRSchedulerOf(Init init) : init_(std::move(init)) {}

  std::unique_ptr<LRScheduler> create(torch::optim::Optimizer& optimizer,
                                      LRSchedulerContext context) const override {
    if constexpr (std::is_constructible_v<T, torch::optim::Optimizer&, Init, LRSchedulerContext>) {
      return std::make_unique<T>(optimizer, init_, context);
    } else {
      return std::make_unique<T>(optimizer, init_);
    }
  }

 private:
  Init init_;
};

/// Registers the scheduler class T for YAML under its own name.
template <class T>
bool register_lr_scheduler() {
  return registry::add(LRSchedulerFactory::kKind,
                       class_info<LRSchedulerOf<T>>(std::string(config::type_name<T>())));
}

/// A registered scheduler class with arguments, made in code; registers T where it is not yet.
/// `lr_scheduler<LinearLR>({.total_iters = 10})`.
template <class T>
Spec<LRSchedulerFactory> lr_scheduler(typename T::Init init) {
  const std::string name(config::type_name<T>());
  const auto known = registry::find(LRSchedulerFactory::kKind, name);
  if (known == nullptr || known->type != &typeid(LRSchedulerOf<T>)) {
    register_lr_scheduler<T>();  // throws where another class has the name
  }
  return {name, config::write(init)};
}

/// Schedulers that all run at once: each takes what the one before it gives as its initial learning
/// rate. For those that multiply, as in PyTorch, the result is the product of their factors.
class ChainedScheduler : public LRScheduler {
 public:
  struct Init {
    std::vector<Spec<LRSchedulerFactory>> schedulers = {};

    static constexpr auto fields() {
      return std::tuple{
          config::field<&Init::schedulers>("The schedulers, in order.", config::required())};
    }
    void validate() const;
  };

  /// Throws ConfigError for no scheduler, and for one that needs a metric.
  ChainedScheduler(torch::optim::Optimizer& optimizer, const Init& init,
                   LRSchedulerContext context = {});
  double lr(double initial_lr, int64_t count) const override;
  /// That of the last scheduler that has one.
  std::optional<double> momentum(int64_t count) const override;

 private:
  std::vector<std::unique_ptr<LRScheduler>> schedulers_;
};

/// Schedulers one after the other: scheduler i + 1 begins, with its count 0, when the count reaches
/// milestones[i]. The length that a scheduler may leave unset is that of its own part.
class SequentialLR : public LRScheduler {
 public:
  struct Init {
    std::vector<Spec<LRSchedulerFactory>> schedulers = {};
    std::vector<int64_t> milestones = {};

    static constexpr auto fields() {
      using config::field, config::required;
      return std::tuple{field<&Init::schedulers>("The schedulers, in order.", required()),
                        field<&Init::milestones>(
                            "Counts of steps at which the next one takes over.", required())};
    }
    void validate() const;
  };

  /// Throws ConfigError for no scheduler, one that needs a metric, and milestones that are not
  /// rising, above 0 and one fewer than the schedulers.
  SequentialLR(torch::optim::Optimizer& optimizer, const Init& init,
               LRSchedulerContext context = {});
  double lr(double initial_lr, int64_t count) const override;
  std::optional<double> momentum(int64_t count) const override;

 private:
  /// The scheduler of a step, and how often it was stepped itself.
  std::pair<const LRScheduler&, int64_t> at(int64_t count) const;

  std::vector<std::unique_ptr<LRScheduler>> schedulers_;
  std::vector<int64_t> milestones_;
};

}  // namespace trainer

/// Registers a scheduler class of your program or plug-in; stands in a .cpp file, outside any
/// function.
#define TRAINER_REGISTER_LR_SCHEDULER(T)                                            \
  [[maybe_unused]] static const bool TRAINER_DETAIL_CONCAT(registered_, __LINE__) = \
      ::trainer::registry::add_at_start([] { return ::trainer::register_lr_scheduler<T>(); })

#include <trainer/run_state.h>

#include <cmath>
#include <set>

#include <fmt/format.h>

#include <trainer/checkpoint/module_state.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/json.h>
#include <trainer/core/log.h>
#include <trainer/core/seed.h>
#include <trainer/core/type_name.h>
#include <trainer/optim/optimizer_state.h>
#include <trainer/save_together.h>
#include <trainer/version.h>

namespace trainer {
namespace {

using C = Callback;

constexpr const char* kModel = "model";
constexpr const char* kState = "trainer_state.json";

/// Class name, its own key, and a number where two would be alike: what a checkpoint calls a
/// callback or logger.
template <class T>
class StateKeys {
 public:
  std::string operator()(const T& object) {
    std::string key = type_name(typeid(object));
    if constexpr (requires { object.state_key(); }) {
      key += object.state_key().empty() ? "" : "/" + object.state_key();
    }
    const std::string base = key;
    for (int i = 2; !used_.insert(key).second; ++i) {
      key = fmt::format("{}#{}", base, i);
    }
    return key;
  }

 private:
  std::set<std::string> used_;
};

template <class T>
nlohmann::json save_states(const std::vector<std::shared_ptr<T>>& objects) {
  auto states = nlohmann::json::object();
  StateKeys<T> keys;
  for (const auto& object : objects) {
    const std::string key = keys(*object);
    if (auto state = object->state_dict(); !state.is_null()) {
      states[key] = std::move(state);
    }
  }
  return states;
}

template <class T>
void load_states(const std::vector<std::shared_ptr<T>>& objects, const nlohmann::json& states) {
  StateKeys<T> keys;
  for (const auto& object : objects) {
    const auto state = states.find(keys(*object));
    if (state != states.end()) {
      object->load_state_dict(*state);
    }
  }
}

/// The first optimizer's tensors are called "optimizer", those of others "optimizer1" and so on.
std::string optimizer_name(size_t index) {
  return index == 0 ? "optimizer" : fmt::format("optimizer{}", index);
}

SegmentOf segments_of(const Sharding* sharding) {
  if (sharding == nullptr) {
    return {};
  }
  return [sharding](const torch::Tensor& parameter) { return sharding->segment_of(parameter); };
}

/// The tensors that this rank has of the module and of each optimizer.
std::vector<NamedPart> state_parts(const Module& module, Optimization& optimization,
                                   const Sharding* sharding) {
  std::vector<NamedPart> parts = {{kModel, module_part(module, segments_of(sharding))}};
  for (size_t i = 0; i < optimization.num_optimizers(); ++i) {
    parts.push_back({optimizer_name(i),
                     optimizer_part(module, optimization.optimizer(i), segments_of(sharding))});
  }
  return parts;
}

double first_lr(const torch::optim::Optimizer& optimizer) {
  const auto& groups = optimizer.param_groups();
  return groups.empty() ? 0 : groups.front().options().get_lr();
}

/// A resumed run goes on with the checkpoint's learning rate: who changed it should know.
void tell_of_other_lr(double configured, double saved, bool is_scheduled) {
  if (std::abs(configured - saved) <= 1e-9 * std::abs(saved)) {
    return;
  }
  log::warning(
      is_scheduled
          ? fmt::format(
                "the learning rate was {:.3g} in the checkpoint; the schedule, as it is "
                "configured now, goes on from {:.3g}. Its settings or the run's length changed",
                saved, configured)
          : fmt::format(
                "the learning rate stays the checkpoint's {:.3g}; the configured {:.3g} has "
                "no effect on a resumed run",
                saved, configured));
}

/// Calls `read`; what it misses in the state is an error of the checkpoint.
template <class F>
auto reading(const fs::Path& path, const F& read) {
  try {
    return read();
  } catch (const nlohmann::json::exception& error) {
    throw CheckpointError(fmt::format(
        "{}: {} does not hold what this trainer ({}) expects: {}.\n  Resume with the program that "
        "wrote it, or from another checkpoint.",
        path.string(), kState, kVersion, error.what()));
  }
}

/// With the parameters as they are.
void save_shown(const fs::Path& path, Run& run, FitLoop& loop) {
  Optimization& optimization = loop.optimization();
  auto user = nlohmann::json::object();
  nlohmann::json state = {
      {"loop", loop.state_dict()},
      {"seed", global_seed()},
      {"callbacks", save_states(run.callbacks.all())},
      {"loggers", save_states(run.loggers)},
      {"data", run.data.state_dict()},
      {"optimizers", nlohmann::json::array()},
  };
  for (size_t i = 0; i < optimization.num_optimizers(); ++i) {
    state["optimizers"].push_back(optimizer_groups(optimization.optimizer(i)));
  }
  run.callbacks.call<&C::on_save_checkpoint>(user);
  run.module.on_save_checkpoint(user);
  state["user"] = std::move(user);

  Sharding* const sharding = run.strategy.sharding();
  if (sharding == nullptr && !run.strategy.is_global_zero()) {
    return;
  }
  const auto add_rest = [&](CheckpointPart& part) {
    part.add_text(kState, state.dump(1) + "\n");
    part.add_text("config.yaml", config::to_yaml(run.hyperparams));
  };
  const nlohmann::json about = {{"module", class_name(run.module)},
                                {"epoch", state["loop"]["current_epoch"]},
                                {"global_step", run.progress.global_step},
                                {"world_size", run.strategy.world_size()},
                                {"trainer", kVersion}};
  if (sharding != nullptr) {
    const auto scope = sharding->segments();
    std::vector<NamedPart> parts;
    on_every_rank(path, [&] { parts = state_parts(run.module, optimization, sharding); });
    save_together(path, parts, add_rest, about, run.strategy, *sharding);
    return;
  }
  CheckpointWriter writer(path);
  for (const auto& [name, part] : state_parts(run.module, optimization, nullptr)) {
    writer.add_tensors(whole_file(name), part.tensors);
  }
  add_rest(writer);
  writer.commit(about);
}

}  // namespace

void save_run(const fs::Path& path, Run& run, FitLoop& loop) {
  const flight::LongTask task("saves a checkpoint");
  const auto save_loggers = [&] {  // of rank 0
    for (const auto& logger : run.loggers) {
      logger->save();
    }
  };
  if (run.strategy.sharding() != nullptr) {
    on_every_rank(path, save_loggers);
  } else {
    save_loggers();
  }
  with_evaluation_parameters(loop.optimization(), run.strategy,
                             [&] { save_shown(path, run, loop); });
}

SavedRun::SavedRun(const CheckpointReader& checkpoint)
    : checkpoint_(checkpoint), state_(checkpoint.json(kState)) {}

uint64_t SavedRun::seed() const {
  return reading(path(), [&] { return static_cast<uint64_t>(json::to_int64(state_.at("seed"))); });
}

Progress SavedRun::progress() const {
  return reading(path(), [&] { return state_.at("loop").get<Progress>(); });
}

void SavedRun::call_load_hook(Module& module) const {
  module.on_load_checkpoint(reading(path(), [&] { return state_.at("user"); }));
}

void SavedRun::restore_module(Module& module) const {
  call_load_hook(module);
  restore_weights(module, nullptr);
}

void SavedRun::restore_weights(Module& module, const Sharding* sharding) const {
  naming_the_module(
      module, [&] { load_module_state(module, checkpoint_.saved(kModel), segments_of(sharding)); });
}

/// Of another class than the saved one an error should say so.
template <class F>
void SavedRun::naming_the_module(const Module& module, const F& action) const {
  try {
    action();
  } catch (const CheckpointError& error) {
    const std::string saved = checkpoint_.about().value("module", "");
    if (saved == class_name(module)) {
      throw;
    }
    throw CheckpointError(
        fmt::format("a checkpoint of {}, not of {}: {}", saved, class_name(module), error.what()));
  }
}

void SavedRun::restore_model(Run& run) const {
  call_load_hook(run.module);
  if (run.strategy.shards()) {  // now: before loggers lose rows to a checkpoint that does not fit
    naming_the_module(run.module, [&] {
      check_module_state(module_part(run.module), checkpoint_.saved(kModel));
    });
  } else {
    restore_weights(run.module, nullptr);
  }
  run.callbacks.call<&C::on_load_checkpoint>(reading(path(), [&] { return state_.at("user"); }));
}

void SavedRun::restore_segments(Run& run) const {
  if (Sharding* const sharding = run.strategy.sharding()) {
    const auto scope = sharding->segments();
    restore_weights(run.module, sharding);
  }
}

void SavedRun::restore_callbacks(Run& run) const {
  reading(path(), [&] {
    if (!state_.at("data").is_null()) {
      run.data.load_state_dict(state_.at("data"));
    }
    load_states(run.callbacks.all(), state_.at("callbacks"));
  });
}

void SavedRun::restore_loggers(Run& run) const {
  reading(path(), [&] { load_states(run.loggers, state_.at("loggers")); });
}

void SavedRun::restore_loop(FitLoop& loop, Run& run) const {
  reading(path(), [&] {
    loop.load_state_dict(state_.at("loop"));
    restore_optimizers(loop.optimization(), run);
  });
  loop.optimization().show_training_parameters();
}

void SavedRun::restore_optimizers(Optimization& optimization, Run& run) const {
  Sharding* const sharding = run.strategy.sharding();
  const auto scope = sharding != nullptr ? sharding->segments() : nullptr;
  const auto& groups = state_.at("optimizers");
  if (groups.size() != optimization.num_optimizers()) {
    throw CheckpointError(
        fmt::format("{}: holds {} optimizers, the module's configure_optimizers() returned {}. "
                    "Resume with the same ones.",
                    path().string(), groups.size(), optimization.num_optimizers()));
  }
  for (size_t i = 0; i < groups.size(); ++i) {
    auto& optimizer = optimization.optimizer(i);
    const double configured = first_lr(optimizer);
    load_optimizer(run.module, optimizer, checkpoint_.saved(optimizer_name(i)), groups[i],
                   segments_of(sharding));
    tell_of_other_lr(configured, first_lr(optimizer), !optimization.lr_schedulers().empty());
  }
}

}  // namespace trainer

#include <trainer/optim/reduce_lr_on_plateau.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/core/config.h>
#include <trainer/core/error.h>

namespace trainer {

void ReduceLROnPlateau::Init::validate() const {
  if (factor == 1) {
    throw ConfigError("factor is 1, which reduces nothing; it must be below 1.");
  }
}

ReduceLROnPlateau::ReduceLROnPlateau(torch::optim::Optimizer& optimizer, Init init)
    : LRScheduler(optimizer), init_(std::move(init)) {
  config::check(init_, "ReduceLROnPlateau");
  apply();
}

bool ReduceLROnPlateau::is_better(double metric) const {
  if (!std::isfinite(metric)) {
    return false;
  }
  if (!state_.best) {
    return true;
  }
  const double sign = init_.mode == "min" ? -1 : 1;
  const double bound = init_.threshold_mode == "rel" ? *state_.best * (1 + sign * init_.threshold)
                                                     : *state_.best + sign * init_.threshold;
  return sign * metric > sign * bound;
}

void ReduceLROnPlateau::observe(double metric) {
  if (is_better(metric)) {
    state_.best = metric;
    state_.num_bad_epochs = 0;
  } else {
    ++state_.num_bad_epochs;
  }
  if (state_.cooldown_counter > 0) {
    --state_.cooldown_counter;
    state_.num_bad_epochs = 0;
  }
  if (state_.num_bad_epochs > init_.patience) {
    ++state_.num_reductions;
    state_.cooldown_counter = init_.cooldown;
    state_.num_bad_epochs = 0;
  }
}

double ReduceLROnPlateau::lr(double initial_lr, int64_t) const {
  double present = initial_lr;
  for (int64_t i = 0; i < state_.num_reductions; ++i) {
    const double reduced = std::max(present * init_.factor, init_.min_lr);
    if (!(present - reduced > init_.eps)) {
      break;  // and so would be all that follow
    }
    present = reduced;
  }
  return present;
}

nlohmann::json ReduceLROnPlateau::state_dict() const {
  auto state = LRScheduler::state_dict();
  state["best"] = state_.best ? nlohmann::json(*state_.best) : nlohmann::json();
  state["num_bad_epochs"] = state_.num_bad_epochs;
  state["cooldown_counter"] = state_.cooldown_counter;
  state["num_reductions"] = state_.num_reductions;
  return state;
}

ReduceLROnPlateau::State ReduceLROnPlateau::read_state(const nlohmann::json& state) {
  State read;
  bool is_good = state.contains("best") && (state["best"].is_null() || state["best"].is_number());
  for (const auto& [key, member] : {std::pair{"num_bad_epochs", &read.num_bad_epochs},
                                    std::pair{"cooldown_counter", &read.cooldown_counter},
                                    std::pair{"num_reductions", &read.num_reductions}}) {
    is_good = is_good && state.contains(key) && state[key].is_number_integer();
    if (is_good) {
      *member = state[key].get<int64_t>();
      is_good = *member >= 0;
    }
  }
  if (!is_good) {
    throw CheckpointError(fmt::format(
        "ReduceLROnPlateau: the state is {}, expected {{\"best\": number or null, "
        "\"num_bad_epochs\", \"cooldown_counter\", \"num_reductions\": integers >= 0}} in it.\n"
        "  The checkpoint is damaged or has the state of something else here.",
        state.dump()));
  }
  if (!state["best"].is_null()) {
    read.best = state["best"].get<double>();
  }
  return read;
}

void ReduceLROnPlateau::load_state_dict(const nlohmann::json& state) {
  const State before = std::exchange(state_, read_state(state));
  try {
    LRScheduler::load_state_dict(state);  // which sets the learning rates by state_
  } catch (...) {
    state_ = before;
    throw;
  }
}

}  // namespace trainer

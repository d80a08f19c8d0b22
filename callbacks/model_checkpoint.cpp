#include <callbacks/model_checkpoint.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include <callbacks/monitored.h>
#include <trainer/checkpoint/checkpoint.h>
#include <trainer/core/error.h>
#include <trainer/core/json.h>
#include <trainer/core/log.h>
#include <trainer/metric_rows.h>
#include <trainer/trainer.h>
#include <trainer/world.h>

namespace trainer {
namespace {

/// The epoch that the present state belongs to: the one that just ended, where one did.
int64_t epoch_of(const Trainer& trainer) {
  const Progress& progress = trainer.progress();
  return progress.batch_idx == 0 && progress.current_epoch > 0 ? progress.current_epoch - 1
                                                               : progress.current_epoch;
}

std::string one_value(const std::string& format, double value, bool is_count) {
  if (format.empty()) {
    return is_count ? fmt::format("{}", static_cast<int64_t>(value)) : fmt::format("{}", value);
  }
  // Zero-padded counts (02d) and fixed decimals (.2f) are what people write here.
  return is_count ? fmt::format(fmt::runtime("{:" + format + "}"), static_cast<int64_t>(value))
                  : fmt::format(fmt::runtime("{:" + format + "}"), value);
}

}  // namespace

std::string format_checkpoint_name(const std::string& name_template,
                                   const std::map<std::string, double>& values,
                                   bool auto_insert_metric_name) {
  std::string name;
  for (size_t at = 0; at < name_template.size();) {
    if (name_template[at] != '{') {
      name += name_template[at++];
      continue;
    }
    const size_t end = name_template.find('}', at);
    if (end == std::string::npos) {
      throw ConfigError(
          fmt::format("ModelCheckpoint.filename: '{}' has a {{ without a }}.", name_template));
    }
    const std::string inside = name_template.substr(at + 1, end - at - 1);
    const size_t colon = inside.find(':');
    const std::string key = inside.substr(0, colon);
    const std::string format = colon == std::string::npos ? "" : inside.substr(colon + 1);
    const auto value = values.find(key);
    try {
      name += (auto_insert_metric_name ? key + "=" : "") +
              one_value(format, value == values.end() ? 0 : value->second,
                        key == "epoch" || key == "step");
    } catch (const fmt::format_error& error) {
      throw ConfigError(fmt::format(
          "ModelCheckpoint.filename: '{}' is no number format ({}). Write {{{}:.2f}}, say.", inside,
          error.what(), key));
    }
    at = end + 1;
  }
  std::replace(name.begin(), name.end(), '/', '_');  // a metric called val/loss makes no folder
  if (name.empty() || name.front() == '.') {
    throw ConfigError(
        fmt::format("ModelCheckpoint.filename: '{}' gives the name '{}'. Begin it with a letter.",
                    name_template, name));
  }
  return name;
}

void ModelCheckpoint::Init::validate() const {
  if (int{every_n_train_steps.has_value()} + int{every_n_epochs.has_value()} +
          int{train_time_interval.has_value()} >
      1) {
    throw ConfigError(
        "every_n_train_steps, train_time_interval and every_n_epochs exclude each other. Give one "
        "of them.");
  }
  if (train_time_interval && !train_time_interval->is_time()) {
    throw ConfigError(fmt::format("train_time_interval is {}, which is no time. Write 30min, say.",
                                  train_time_interval->text()));
  }
  if (!monitor && save_top_k > 1) {
    throw ConfigError(fmt::format(
        "save_top_k is {} without a monitor. Name the metric in monitor, or use -1, 0 or 1.",
        save_top_k));
  }
  format_checkpoint_name(filename, {}, auto_insert_metric_name);
}

void ModelCheckpoint::on_train_start(Trainer& trainer, Module&) {
  saved_at_ = std::chrono::steady_clock::now();
  run_ = trainer.run_directory();
  if (!run_) {
    return;
  }
  run_->create_checkpoints();
  run_->remove_leftovers();
  // A checkpoint that was resumed in another place, or whose neighbours were deleted.
  const auto is_gone = [&](const std::string& name) {
    std::error_code error;
    return !std::filesystem::exists(run_->checkpoints() / name, error);
  };
  std::erase_if(kept_, [&](const auto& kept) { return is_gone(kept.first); });
  best_ = !best_.empty() && is_gone(best_) ? "" : best_;
  last_ = !last_.empty() && is_gone(last_) ? "" : last_;
  // Rank 0 has the folder; the others decide as it does.
  load_state_dict(nlohmann::json::parse(world().broadcast(state_dict().dump())));
  write_pointers(trainer);
  remove_planned(trainer);  // what a killed run did not get to
}

void ModelCheckpoint::on_train_batch_end(Trainer& trainer, Module&, const torch::Tensor&,
                                         const Batch&, int64_t) {
  if (trainer.at_step_edge() && is_due_this_step(trainer)) {
    saved_at_ = std::chrono::steady_clock::now();
    waits_for_validation_ =
        init_.monitor && trainer.num_val_batches() != 0 &&
        any_rank(trainer.strategy(), !trainer.callback_metrics().contains(*init_.monitor));
    if (!waits_for_validation_) {
      save_if_wanted(trainer);
    }
  }
}

void ModelCheckpoint::on_validation_end(Trainer& trainer, Module&) {
  const bool is_due = saves_by_epochs()
                          ? saves_after_validation(trainer) && is_due_this_epoch(trainer)
                          : waits_for_validation_;
  if (is_due) {
    waits_for_validation_ = false;
    save_if_wanted(trainer);
  }
}

void ModelCheckpoint::on_train_epoch_end(Trainer& trainer, Module&) {
  if (saves_by_epochs() && !saves_after_validation(trainer) && is_due_this_epoch(trainer)) {
    save_if_wanted(trainer);
  }
}

void ModelCheckpoint::on_train_stop(Trainer& trainer, Module&) { save_last(trainer); }

void ModelCheckpoint::on_train_end(Trainer& trainer, Module&) { save_last(trainer); }

bool ModelCheckpoint::is_due_this_step(Trainer& trainer) const {
  const int64_t step = trainer.progress().global_step;
  if (init_.every_n_train_steps) {
    return step > 0 && step % *init_.every_n_train_steps == 0;
  }
  if (!init_.train_time_interval) {
    return false;
  }
  const std::chrono::duration<double> since = std::chrono::steady_clock::now() - saved_at_;
  return any_rank(trainer.strategy(), since.count() >= init_.train_time_interval->count);
}

bool ModelCheckpoint::saves_after_validation(const Trainer& trainer) const {
  return !init_.save_on_train_epoch_end.value_or(trainer.num_val_batches() == 0);
}

bool ModelCheckpoint::is_due_this_epoch(const Trainer& trainer) const {
  return (trainer.progress().current_epoch + 1) % init_.every_n_epochs.value_or(1) == 0;
}

void ModelCheckpoint::save_if_wanted(Trainer& trainer) {
  const bool is_saved = trainer.progress().global_step == last_step_ && kept_.contains(last_);
  if (!run_ || trainer.stage() != Stage::kFit || is_saved || init_.save_top_k == 0) {
    return;
  }
  const auto value = of_first_rank(trainer.strategy(), score(trainer));
  if (!value || is_among_best(*value)) {
    save(trainer, value);
  }
}

void ModelCheckpoint::save_last(Trainer& trainer) {
  const int64_t step = trainer.progress().global_step;
  const auto all = all_of(trainer);
  const bool is_saved =
      std::any_of(all.begin(), all.end(), [&](auto* one) { return one->last_step_ == step; });
  if (run_ && step > 0 && !is_saved) {
    save(trainer, std::nullopt);
  }
}

/// `score` places the checkpoint among the best; without one it is only the last, until a newer one
/// comes.
void ModelCheckpoint::save(Trainer& trainer, std::optional<double> score) {
  const std::string name = world().broadcast(unused_name(trainer));
  std::vector<std::string> superseded;
  if (!last_.empty() && !kept_.contains(last_)) {
    superseded.push_back(last_);
  }
  if (score) {
    kept_[name] = *score;
    const auto by_score = [&](const auto& a, const auto& b) {
      return is_better(a.second, b.second);
    };
    best_ = std::min_element(kept_.begin(), kept_.end(), by_score)->first;
    if (init_.save_top_k > 0 && static_cast<int64_t>(kept_.size()) > init_.save_top_k) {
      superseded.push_back(std::max_element(kept_.begin(), kept_.end(), by_score)->first);
      kept_.erase(superseded.back());
    }
  }
  if (!init_.monitor) {
    best_ = name;  // the newest
  }
  last_ = name;
  run_->plan_removal(superseded);
  last_step_ = trainer.progress().global_step;
  trainer.save_checkpoint(run_->checkpoints() /
                          name);  // holds the state above, this checkpoint included
  write_pointers(trainer);
  remove_planned(trainer);  // only now, when the new one is complete and pointed to
  if (init_.verbose) {
    log::info(fmt::format("saved {}", (run_->checkpoints() / name).string()));
  }
}

std::optional<double> ModelCheckpoint::score(const Trainer& trainer) {
  if (!init_.monitor) {
    return static_cast<double>(trainer.progress().global_step);
  }
  const auto value = find_metric(trainer, *init_.monitor);
  if (!value && trainer.num_val_batches() == 0) {
    if (!std::exchange(warned_, true)) {
      log::warning("ModelCheckpoint: monitor: " + no_such_metric(trainer, *init_.monitor) +
                   "\n  Without validation only the newest checkpoint is kept.");
    }
    return std::nullopt;
  }
  if (!value) {
    throw UsageError("ModelCheckpoint: monitor: " + no_such_metric(trainer, *init_.monitor));
  }
  const double worst = (init_.mode == "min" ? 1 : -1) * std::numeric_limits<double>::infinity();
  return std::isnan(*value) ? worst : *value;
}

bool ModelCheckpoint::is_better(double a, double b) const {
  return init_.monitor && init_.mode == "min" ? a < b : a > b;
}

bool ModelCheckpoint::is_among_best(double score) const {
  if (init_.save_top_k < 0 || static_cast<int64_t>(kept_.size()) < init_.save_top_k) {
    return true;
  }
  return std::any_of(kept_.begin(), kept_.end(),
                     [&](const auto& kept) { return is_better(score, kept.second); });
}

std::string ModelCheckpoint::unused_name(const Trainer& trainer) const {
  auto values = trainer.callback_metrics();
  values["epoch"] = static_cast<double>(epoch_of(trainer));
  values["step"] = static_cast<double>(trainer.progress().global_step);
  const std::string base =
      format_checkpoint_name(init_.filename, values, init_.auto_insert_metric_name);
  std::string name = base + kCheckpointExtension;
  // What an earlier run left behind under that name is replaced, and a last one without a score;
  // what this run keeps is not.
  const bool replaces_last = name == last_ && !kept_.contains(last_);
  for (int version = 1; !replaces_last && is_taken(trainer, name); ++version) {
    name = fmt::format("{}-v{}{}", base, version, kCheckpointExtension);
  }
  return name;
}

std::vector<const ModelCheckpoint*> ModelCheckpoint::all_of(const Trainer& trainer) {
  std::vector<const ModelCheckpoint*> all;
  for (const auto& callback : trainer.callbacks()) {
    if (const auto* one = dynamic_cast<const ModelCheckpoint*>(callback.get())) {
      all.push_back(one);
    }
  }
  return all;
}

bool ModelCheckpoint::is_taken(const Trainer& trainer, const std::string& name) {
  const auto all = all_of(trainer);
  return std::any_of(all.begin(), all.end(), [&](auto* one) { return one->owns(name); });
}

void ModelCheckpoint::write_pointers(const Trainer& trainer) const {
  if (!last_.empty()) {
    run_->point("last", last_);
  }
  // `best` is that of the first one with a monitor, or of the first.
  const auto all = all_of(trainer);
  const auto monitored = std::find_if(all.begin(), all.end(),
                                      [](auto* one) { return one->init_.monitor.has_value(); });
  const auto* leader = monitored != all.end() ? *monitored : all.front();
  if (leader == this && !best_.empty()) {
    run_->point("best", best_);
  }
}

void ModelCheckpoint::remove_planned(const Trainer& trainer) {
  run_->remove_planned([&](const std::string& name) { return is_taken(trainer, name); });
}

std::string ModelCheckpoint::state_key() const { return init_.monitor.value_or(""); }

nlohmann::json ModelCheckpoint::state_dict() const {
  return {{"best", best_},
          {"last", last_},
          {"last_step", last_step_},
          {"waits_for_validation", waits_for_validation_},
          {"kept", json::numbers(kept_)}};
}

void ModelCheckpoint::load_state_dict(const nlohmann::json& state) {
  best_ = state.at("best");
  last_ = state.at("last");
  last_step_ = json::to_int64(state.at("last_step"));
  waits_for_validation_ = state.at("waits_for_validation");
  kept_ = json::to_doubles(state.at("kept"));
}

std::optional<fs::Path> ModelCheckpoint::best_model_path() const {
  return run_ && !best_.empty() ? std::optional(run_->checkpoints() / best_) : std::nullopt;
}

std::optional<double> ModelCheckpoint::best_model_score() const {
  const auto found = kept_.find(best_);
  return init_.monitor && found != kept_.end() ? std::optional(found->second) : std::nullopt;
}

std::optional<fs::Path> ModelCheckpoint::last_model_path() const {
  return run_ && !last_.empty() ? std::optional(run_->checkpoints() / last_) : std::nullopt;
}

}  // namespace trainer

#pragma once
// Saves checkpoints while training runs: the newest, the best by a metric, every so many steps,
// minutes or epochs. Every run has one (enable_checkpointing); list it in `callbacks` to choose
// what it keeps.
//
// Beside the checkpoint folders it keeps two pointer files: `last` names the newest one, which
// always holds the state in which training ended, and `best` the best by `monitor` (without
// monitor, the newest). A run may have several of these callbacks, each with its own rules: none
// touches what another keeps, and `best` follows the first that has a monitor.
//
// A resumed run goes on from the state of its checkpoint: folders that the earlier run saved after
// it stay, until one of the same name replaces them.

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <trainer/callback.h>
#include <trainer/core/duration.h>
#include <trainer/core/filesystem.h>
#include <trainer/core/reflect.h>
#include <trainer/run_directory.h>

namespace trainer {

class ModelCheckpoint : public Callback {
 public:
  static constexpr const char* kDoc =
      "Saves checkpoints: the newest, the best, every so many steps or epochs.";

  struct Init {
    std::string filename = "{epoch}-{step}";
    std::optional<std::string> monitor = std::nullopt;
    std::string mode = "min";
    int64_t save_top_k = 1;
    std::optional<int64_t> every_n_train_steps = std::nullopt;
    std::optional<Duration> train_time_interval = std::nullopt;
    std::optional<int64_t> every_n_epochs = std::nullopt;
    std::optional<bool> save_on_train_epoch_end = std::nullopt;
    bool auto_insert_metric_name = true;
    bool verbose = false;

    static constexpr auto fields() {
      using config::field, config::at_least, config::one_of;
      return std::tuple{
          field<&Init::filename>(
              "Name of a checkpoint folder, without .ckpt: {epoch}, {step} and {metric:.2f}."),
          field<&Init::monitor>(
              "Metric that decides which checkpoints are the best; unset: the newest."),
          field<&Init::mode>("Whether a smaller or a larger metric is better.",
                             one_of("min", "max")),
          field<&Init::save_top_k>(
              "How many of the best to keep; -1 for all, 0 for none but the last.", at_least(-1)),
          field<&Init::every_n_train_steps>("Save every so many optimizer steps.", at_least(1)),
          field<&Init::train_time_interval>(
              "Save each time so much training time has passed, at a step's end, as 30min."),
          field<&Init::every_n_epochs>(
              "Save every so many epochs; 1 where no other interval is set.", at_least(1)),
          field<&Init::save_on_train_epoch_end>(
              "Save at the end of the training epoch, or after validation; unset: after validation "
              "where there is one."),
          field<&Init::auto_insert_metric_name>("Write epoch=3-step=400, not 3-400."),
          field<&Init::verbose>("Tell of every checkpoint that is saved."),
      };
    }
    /// Throws ConfigError for settings that exclude each other.
    void validate() const;
  };

  ModelCheckpoint() : ModelCheckpoint(Init{}) {}
  explicit ModelCheckpoint(Init init) : init_(std::move(init)) {}

  Role role() const override { return Role::kSaves; }
  void on_train_start(Trainer&, Module&) override;
  void on_train_batch_end(Trainer&, Module&, const torch::Tensor&, const Batch&, int64_t) override;
  void on_validation_end(Trainer&, Module&) override;
  void on_train_epoch_end(Trainer&, Module&) override;
  void on_train_stop(Trainer&, Module&) override;
  void on_train_end(Trainer&, Module&) override;

  std::string state_key() const override;
  nlohmann::json state_dict() const override;
  void load_state_dict(const nlohmann::json& state) override;

  /// Folder of the best checkpoint so far, and its score; of the newest one without monitor.
  std::optional<fs::Path> best_model_path() const;
  std::optional<double> best_model_score() const;
  std::optional<fs::Path> last_model_path() const;

 private:
  bool saves_by_epochs() const { return !init_.every_n_train_steps && !init_.train_time_interval; }
  /// A save by steps or by time is due at the end of this step.
  bool is_due_this_step(Trainer& trainer) const;
  bool saves_after_validation(const Trainer& trainer) const;
  bool is_due_this_epoch(const Trainer& trainer) const;
  /// Saves if the rules ask for it: among the best, or just the newest.
  void save_if_wanted(Trainer& trainer);
  /// Saves whatever the rules say, unless this step is saved already.
  void save_last(Trainer& trainer);
  void save(Trainer& trainer, std::optional<double> score);
  /// Of the present state; nothing, with one warning, where the fit has no validation to give it.
  std::optional<double> score(const Trainer& trainer);
  bool is_better(double a, double b) const;
  bool is_among_best(double score) const;
  std::string unused_name(const Trainer& trainer) const;
  /// This one and the others of the run.
  static std::vector<const ModelCheckpoint*> all_of(const Trainer& trainer);
  bool owns(const std::string& name) const { return name == last_ || kept_.contains(name); }
  /// A name that this one or another keeps.
  static bool is_taken(const Trainer& trainer, const std::string& name);
  void write_pointers(const Trainer& trainer) const;
  void remove_planned(const Trainer& trainer);

  Init init_;
  std::optional<RunDirectory> run_;
  // Checkpoints of the rules above by name, with their scores (the step, without monitor).
  std::map<std::string, double> kept_;
  std::string best_, last_;
  int64_t last_step_ = -1;
  bool warned_ = false;
  std::chrono::steady_clock::time_point saved_at_ = {};
  bool waits_for_validation_ =
      false;  // a save by steps or time whose metric no validation has given yet
};

/// The name that a template gives: "{epoch}-{val_loss:.2f}" becomes "epoch=3-val_loss=0.25". A
/// metric that is not there counts as 0, as in Lightning. Throws ConfigError for a template that is
/// malformed or names a path.
std::string format_checkpoint_name(const std::string& name_template,
                                   const std::map<std::string, double>& values,
                                   bool auto_insert_metric_name);

}  // namespace trainer

#pragma once
// The validation of a fit: its loaders, when it is due, and the pass itself.

#include <cstdint>
#include <optional>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/eval_loop.h>
#include <trainer/run.h>
#include <trainer/schedule.h>

namespace trainer {

class FitValidation {
 public:
  explicit FitValidation(Run& run) : run_(run), eval_loop_(run) {}

  /// Asks the data module for the loaders, and where they are given anew takes them in place of
  /// those before.
  void open();
  /// 0 where there is nothing to validate on; kAllBatches where only the end of the data tells.
  int64_t num_batches() const { return num_batches_; }

  /// `num_batches` of each loader at most, -1 for all, without a trace.
  void run_sanity_check(int64_t num_batches);

  /// Lays out when it is due over so many training batches of an epoch. What it has done so far,
  /// or what was restored, stays.
  void plan(int64_t num_training_batches);
  bool is_due(double training_s, bool epoch_is_over) const;
  bool runs_in_this_epoch() const;
  /// Something of it depends on the time that training took.
  bool has_time() const { return schedule_ && schedule_->has_time(); }
  void begin_epoch() { schedule_->begin_epoch(); }

  /// One pass. False where a signal came in between: it is still due then. Collective: yes.
  bool run(double training_s);

  /// {"validation": when it ran last, "evaluated_batches": ...}. `epoch_is_done`: the counters do
  /// not say so yet.
  nlohmann::json state_dict(bool epoch_is_done) const;
  void load_state_dict(const nlohmann::json& state);

 private:
  Run& run_;
  EvalLoop eval_loop_;
  std::vector<EvalData> data_;
  int64_t num_batches_ = 0;
  std::optional<ValidationSchedule> schedule_;
  nlohmann::json restored_;
};

}  // namespace trainer

#pragma once
// A logger writes the metrics of a run somewhere: a file, a service. Derive from it to add one;
// loggers know the run's folder and nothing else of the Trainer.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include <trainer/core/filesystem.h>
#include <trainer/core/yaml.h>

namespace trainer {

/// Names and values of one row, in the order in which they were logged; "epoch" is among them.
using Metrics = std::vector<std::pair<std::string, double>>;

class Logger {
 public:
  using Base = Logger;
  static constexpr const char* kKind = "logger";

  virtual ~Logger() = default;

  /// Called once before anything is logged. Appends to what an earlier run left in the folder;
  /// load_state_dict() cuts it back to a checkpoint. Throws IoError when the folder cannot be
  /// written.
  virtual void setup(const fs::Path& run_dir) = 0;

  /// The resolved configuration of the run.
  virtual void log_hyperparams(const config::Node&) {}

  /// One row. `step` is the index of the last optimizer step taken, from 0, as in Lightning.
  virtual void log_metrics(const Metrics& metrics, int64_t step) = 0;

  /// Hands buffered rows to the operating system; called before every checkpoint and now and then.
  virtual void save() {}

  /// The run ended: "success", "interrupted" or "failed".
  virtual void finalize(std::string_view /*status*/) { save(); }

  /// What was written so far, kept in checkpoints; load_state_dict() removes rows written after
  /// that checkpoint.
  virtual nlohmann::json state_dict() const { return nullptr; }
  virtual void load_state_dict(const nlohmann::json&) {}
};

}  // namespace trainer

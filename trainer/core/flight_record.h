#pragma once
// What this process is doing, as it does it: the recent collectives, and whether it gets on. The
// training thread writes it, without a lock or an allocation; a thread that watches over several
// processes reads it, and tells of it where one of them fails or hangs (docs/reliability.md).

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace trainer::flight {

/// A collective that this process has begun. Times are seconds of a clock that never jumps.
struct Operation {
  uint64_t number = 0;  ///< Counts them from 1, alike on every rank; 0 is none.
  std::string name;     ///< "all_reduce".
  std::string dtype;    ///< Empty for what moves no tensor.
  int64_t elements = 0;
  int64_t bytes = 0;
  double began_s = 0;
  double ended_s = 0;  ///< 0: it goes on.
};
/// "all_reduce of 650 Float elements".
std::string describe(const Operation& operation);

/// `name` and `dtype` have to live on: string literals. Returns the number.
uint64_t begin_operation(const char* name, const char* dtype = "", int64_t elements = 0,
                         int64_t bytes = 0);
void end_operation(uint64_t number);

/// The task of a rank that others are not meant to wait for, unlike that of a checkpoint.
inline constexpr const char* kWaitsForData = "waits for data";

/// This thread waits for an operation that has begun. It ends with the wait.
class Waiting {
 public:
  explicit Waiting(uint64_t number);
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting();

 private:
  const uint64_t number_;
  const double began_s_;
};

/// The run gets on: a batch begins, after so many optimizer steps.
void note_progress(int64_t step);

/// While it lives, the thread is at work that may take longer than a batch without a sign of
/// progress ("waits for data"); `what` has to live on. Tasks of one thread may nest.
class LongTask {
 public:
  explicit LongTask(const char* what);
  LongTask(const LongTask&) = delete;
  LongTask& operator=(const LongTask&) = delete;
  ~LongTask();

 private:
  const char* const before_;
};

/// While it lives, a stage runs (`name` has to live on), and is taken for hung after so many
/// seconds without progress; 0: never.
class Stage {
 public:
  Stage(const char* name, double hang_timeout_s);
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  ~Stage();
};

/// The folder of the newest stage, empty for none, and what tells what is saved there and how to go
/// on; from another thread, where `describe_saved` may be called too.
void set_run(std::filesystem::path folder, std::function<std::string()> describe_saved);
std::filesystem::path run_folder();
/// Empty where there is nothing to tell. Never throws.
std::string describe_saved();

/// Called whenever a stage begins or ends, by the thread that runs it; empty for nobody.
void set_stage_observer(std::function<void()> observer);

/// What the others have to know of this process.
struct Status {
  std::string stage;  ///< "fit"; empty between stages.
  uint64_t stage_number = 0;
  uint64_t progress = 0;  ///< Another value than before: it gets on.
  int64_t step = 0;
  std::string task;  ///< Of the innermost LongTask.
  double hang_timeout_s = 0;
  double waited_s = 0;       ///< In collectives, since the program began.
  uint64_t last_number = 0;  ///< Of the operation that it has begun last.
  Operation waits_in;
};
Status status();
void to_json(nlohmann::json& json, const Status& status);
void from_json(const nlohmann::json& json, Status& status);

/// The last operations, at most 256, the oldest first. One that is written meanwhile is left out.
std::vector<Operation> recent_operations();
/// Writes them, with the status, as JSON: flight/rank_N.json in the folder of the run. Throws
/// IoError; does nothing where there is no folder.
void write_record(int rank, const std::string& host, const std::string& reason);

}  // namespace trainer::flight

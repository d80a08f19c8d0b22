#include <trainer/core/flight_record.h>

#include <time.h>

#include <array>
#include <atomic>
#include <exception>
#include <mutex>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/core/filesystem.h>

namespace trainer::flight {
namespace {

constexpr uint64_t kRecent = 256;
constexpr auto kRelaxed = std::memory_order_relaxed;

/// Written by the thread that begins the operation, read by any. `number` is written first (as 0)
/// and last, so that a reader notices what changes under its eyes.
struct Slot {
  std::atomic<uint64_t> number = 0;
  std::atomic<const char*> name = "";
  std::atomic<const char*> dtype = "";
  std::atomic<int64_t> elements = 0, bytes = 0;
  std::atomic<double> began_s = 0, ended_s = 0;
};

std::array<Slot, kRecent> slots;
std::atomic<uint64_t> last_number = 0;
std::atomic<uint64_t> waits_in = 0;
std::atomic<double> waited = 0;  // seconds
std::atomic<uint64_t> progress = 0;
std::atomic<int64_t> step_of_run = 0;
std::atomic<const char*> task = "";
std::atomic<const char*> stage = "";
std::atomic<uint64_t> stage_number = 0;
std::atomic<double> hang_timeout = 0;

/// What is rarely written.
struct Shared {
  std::mutex mutex;
  std::filesystem::path folder;
  std::function<std::string()> describe_saved;
  std::function<void()> observer;
};

Shared& shared() {
  static auto* const instance = new Shared;  // a thread may ask at the very end of the program
  return *instance;
}

/// To some milliseconds, for a fifth of the price of the precise clock.
double now_s() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

/// `number` 0 where the slot holds another one by now.
Operation read(uint64_t number) {
  const Slot& slot = slots[number % kRecent];
  if (number == 0 || slot.number.load(std::memory_order_acquire) != number) {
    return {};
  }
  Operation operation{number,
                      slot.name.load(kRelaxed),
                      slot.dtype.load(kRelaxed),
                      slot.elements.load(kRelaxed),
                      slot.bytes.load(kRelaxed),
                      slot.began_s.load(kRelaxed),
                      slot.ended_s.load(std::memory_order_acquire)};
  return slot.number.load(kRelaxed) == number ? operation : Operation{};
}

/// What the thread waits in; or what it has begun last and lets go on beside other work: it may
/// look for the end of that without waiting in it.
Operation awaited() {
  if (auto operation = read(waits_in); operation.number != 0) {
    return operation;
  }
  const uint64_t last = last_number;
  for (uint64_t number = last; number > 0 && number + kRecent > last; --number) {
    if (auto operation = read(number); operation.number != 0 && operation.ended_s == 0) {
      return operation;
    }
  }
  return {};
}

nlohmann::json json_of(const Operation& operation) {
  return {{"number", operation.number},   {"operation", operation.name},
          {"dtype", operation.dtype},     {"elements", operation.elements},
          {"bytes", operation.bytes},     {"began_s", operation.began_s},
          {"ended_s", operation.ended_s}, {"done", operation.ended_s > 0}};
}

void tell_observer() {
  std::function<void()> observer;
  {
    const std::lock_guard<std::mutex> lock(shared().mutex);
    observer = shared().observer;
  }
  if (observer) {
    observer();
  }
}

}  // namespace

std::string describe(const Operation& operation) {
  return operation.dtype.empty() ? operation.name
                                 : fmt::format("{} of {} {} elements", operation.name,
                                               operation.elements, operation.dtype);
}

uint64_t begin_operation(const char* name, const char* dtype, int64_t elements, int64_t bytes) {
  const uint64_t number = last_number.fetch_add(1, kRelaxed) + 1;
  Slot& slot = slots[number % kRecent];
  slot.number.store(0, kRelaxed);
  slot.name.store(name, std::memory_order_release);
  slot.dtype.store(dtype, std::memory_order_release);
  slot.elements.store(elements, std::memory_order_release);
  slot.bytes.store(bytes, std::memory_order_release);
  slot.began_s.store(now_s(), std::memory_order_release);
  slot.ended_s.store(0, std::memory_order_release);
  slot.number.store(number, std::memory_order_release);
  progress.fetch_add(1, kRelaxed);
  return number;
}

void end_operation(uint64_t number) {
  Slot& slot = slots[number % kRecent];
  if (number != 0 && slot.number.load(kRelaxed) == number && slot.ended_s.load(kRelaxed) == 0) {
    slot.ended_s.store(now_s(), std::memory_order_release);
    progress.fetch_add(1, kRelaxed);
  }
}

Waiting::Waiting(uint64_t number) : number_(number), began_s_(now_s()) {
  waits_in.store(number, kRelaxed);
}

Waiting::~Waiting() {
  waited.store(waited.load(kRelaxed) + now_s() - began_s_, kRelaxed);
  waits_in.store(0, kRelaxed);
  end_operation(number_);
}

void note_progress(int64_t step) {
  step_of_run.store(step, kRelaxed);
  progress.fetch_add(1, kRelaxed);
}

LongTask::LongTask(const char* what) : before_(task.exchange(what, kRelaxed)) {}

LongTask::~LongTask() {
  task.store(before_, kRelaxed);
  progress.fetch_add(1, kRelaxed);
}

Stage::Stage(const char* name, double hang_timeout_s) {
  step_of_run = 0;
  hang_timeout = hang_timeout_s;
  progress.fetch_add(1, kRelaxed);
  stage_number.fetch_add(1);
  stage = name;
  tell_observer();
}

Stage::~Stage() {
  stage = "";
  tell_observer();
}

void set_run(std::filesystem::path folder, std::function<std::string()> describe) {
  const std::lock_guard<std::mutex> lock(shared().mutex);
  shared().folder = std::move(folder);
  shared().describe_saved = std::move(describe);
}

std::filesystem::path run_folder() {
  const std::lock_guard<std::mutex> lock(shared().mutex);
  return shared().folder;
}

std::string describe_saved() {
  std::function<std::string()> describe;
  {
    const std::lock_guard<std::mutex> lock(shared().mutex);
    describe = shared().describe_saved;
  }
  try {
    return describe ? describe() : "";
  } catch (const std::exception& error) {
    return fmt::format("What is saved cannot be told: {}", error.what());
  }
}

void set_stage_observer(std::function<void()> observer) {
  const std::lock_guard<std::mutex> lock(shared().mutex);
  shared().observer = std::move(observer);
}

Status status() {
  return {.stage = stage.load(),
          .stage_number = stage_number,
          .progress = progress,
          .step = step_of_run,
          .task = task.load(),
          .hang_timeout_s = hang_timeout,
          .waited_s = waited,
          .last_number = last_number,
          .waits_in = awaited()};
}

void to_json(nlohmann::json& json, const Status& status) {
  json = {{"stage", status.stage},
          {"stage_number", status.stage_number},
          {"progress", status.progress},
          {"step", status.step},
          {"task", status.task},
          {"hang_timeout_s", status.hang_timeout_s},
          {"waited_s", status.waited_s},
          {"last_number", status.last_number},
          {"waits_in", json_of(status.waits_in)}};
}

void from_json(const nlohmann::json& json, Status& status) {
  const auto& operation = json.at("waits_in");
  status = {.stage = json.at("stage"),
            .stage_number = json.at("stage_number"),
            .progress = json.at("progress"),
            .step = json.at("step"),
            .task = json.at("task"),
            .hang_timeout_s = json.at("hang_timeout_s"),
            .waited_s = json.at("waited_s"),
            .last_number = json.at("last_number"),
            .waits_in = {.number = operation.at("number"),
                         .name = operation.at("operation"),
                         .dtype = operation.at("dtype"),
                         .elements = operation.at("elements"),
                         .bytes = operation.at("bytes"),
                         .began_s = operation.at("began_s"),
                         .ended_s = operation.at("ended_s")}};
}

std::vector<Operation> recent_operations() {
  std::vector<Operation> operations;
  const uint64_t last = last_number;
  for (uint64_t number = last >= kRecent ? last - kRecent + 1 : 1; number <= last; ++number) {
    if (auto operation = read(number); operation.number != 0) {
      operations.push_back(std::move(operation));
    }
  }
  return operations;
}

void write_record(int rank, const std::string& host, const std::string& reason) {
  const auto folder = run_folder();
  if (folder.empty()) {
    return;
  }
  auto operations = nlohmann::json::array();
  for (const auto& operation : recent_operations()) {
    operations.push_back(json_of(operation));
  }
  const nlohmann::json record = {{"rank", rank},       {"host", host},
                                 {"reason", reason},   {"now_s", now_s()},
                                 {"status", status()}, {"collectives", std::move(operations)}};
  fs::create_directories(folder / "flight");
  fs::write_text_atomically(folder / "flight" / fmt::format("rank_{}.json", rank),
                            record.dump(1) + "\n");
}

}  // namespace trainer::flight

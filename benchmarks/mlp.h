#pragma once
// The workload of the step benchmarks: an MLP 64-64-10 on random data in memory, batches of 8,
// fused AdamW, one thread.

#include <cstdio>
#include <cstdlib>
#include <ctime>

#include <filesystem>
#include <string>
#include <vector>

#include <tests/support/memory.h>
#include <trainer/api.h>

namespace benchmark {

inline constexpr int64_t kBatchSize = 8;
inline constexpr int64_t kWarmupSteps = 500;

inline double seconds(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline void print(const char* name, double value) { std::printf("%s=%.6g\n", name, value); }

/// Seconds since compare.py started this process, which it tells in BENCHMARK_START.
inline void print_start_time() {
  if (const char* start = std::getenv("BENCHMARK_START")) {
    print("start_s", seconds(CLOCK_REALTIME) - std::atof(start));
  }
}

/// Time per step between the end of the warm-up and the last step.
class StepClock {
 public:
  explicit StepClock(int64_t num_steps) : num_steps_(num_steps) {}

  /// At the same place of each step, from step 0 on.
  void tick(int64_t step) {
    if (step == kWarmupSteps) {
      begin_ = seconds(CLOCK_MONOTONIC);
    } else if (step == num_steps_ - 1) {
      us_per_step_ =
          1e6 * (seconds(CLOCK_MONOTONIC) - begin_) / static_cast<double>(step - kWarmupSteps);
    }
  }
  double us_per_step() const { return us_per_step_; }

 private:
  int64_t num_steps_;
  double begin_ = 0;
  double us_per_step_ = 0;
};

/// Enough random samples for `num_steps` steps in one epoch, in a random order that depends on the
/// seed only.
inline trainer::DataLoader make_loader(int64_t num_steps) {
  const int64_t num_samples = num_steps * kBatchSize;
  auto dataset = std::make_shared<trainer::TensorDataset>(std::vector<torch::Tensor>{
      torch::randn({num_samples, 64}), torch::randint(0, 10, {num_samples})});
  return {std::move(dataset), {.batch_size = kBatchSize, .shuffle = true}};
}

class MLP : public trainer::Module {
 public:
  MLP(int64_t num_steps, int64_t logs_per_step)
      : clock_(num_steps),
        fc1_(register_module("fc1", torch::nn::Linear(64, 64))),
        fc2_(register_module("fc2", torch::nn::Linear(64, 10))) {
    for (int64_t i = 0; i < logs_per_step; ++i) {
      names_.push_back("loss_" + std::to_string(i));
    }
  }

  torch::Tensor loss(const torch::Tensor& x, const torch::Tensor& y) {
    return torch::nn::functional::cross_entropy(fc2_(torch::relu(fc1_(x))), y);
  }

  torch::Tensor training_step(const trainer::Batch& batch, int64_t batch_idx) override {
    if (batch_idx == 0) {
      print_start_time();
      print("rss_mb", static_cast<double>(trainer::test::resident_bytes()) / (1 << 20));
    }
    clock_.tick(batch_idx);
    const auto [x, y] = batch.unpack<2>();
    last_loss_ = loss(x, y);
    for (const auto& name : names_) {
      log(name, last_loss_);
    }
    return last_loss_;
  }

  trainer::OptimizerConfig configure_optimizers() override {
    return std::make_unique<trainer::optim::AdamW>(parameters(),
                                                   trainer::optim::AdamWOptions(1e-3));
  }

  double us_per_step() const { return clock_.us_per_step(); }
  double last_loss() const { return last_loss_.item<double>(); }

 private:
  StepClock clock_;
  std::vector<std::string> names_;
  torch::nn::Linear fc1_, fc2_;
  torch::Tensor last_loss_;
};

/// Trains it as users do: default callbacks (progress, summary, a checkpoint at the end) and a CSV
/// logger.
inline void fit(MLP& module, int64_t num_steps) {
  std::string folder =
      (std::filesystem::temp_directory_path() / "trainer_benchmark_XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    throw trainer::IoError(folder + ": cannot create this folder.");
  }
  trainer::Trainer trainer({.max_epochs = 1, .logger = {"CSVLogger"}, .default_root_dir = folder});
  trainer.fit(module, make_loader(num_steps));
  std::filesystem::remove_all(folder);
}

}  // namespace benchmark

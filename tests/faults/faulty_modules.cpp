// A plug-in for the driver of faults: a module for the digits with the fault that the environment
// asks for, once, as FAULT=throw FAULT_HOOK=training_step FAULT_RANK=1 FAULT_STEP=7. Before it has
// it, it makes the file that FAULT_MARK names.

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include <trainer/api.h>
#include <trainer/world.h>

namespace L = trainer;

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// Whether this rank is to have the fault in this hook, now: once, from that step on.
bool is_due(const std::string& hook, int64_t step) {
  static bool was_due = false;
  const bool due = !was_due && variable("FAULT_HOOK") == hook &&
                   std::atoll(variable("FAULT_STEP").c_str()) <= step &&
                   variable("FAULT_RANK") == std::to_string(L::world().rank());
  was_due = was_due || due;
  return due;
}

void have(const std::string& fault) {
  if (fault == "throw") {
    throw std::runtime_error("a fault was asked for");
  } else if (fault == "kill") {
    std::raise(SIGKILL);
  } else if (fault == "stop") {
    std::raise(SIGSTOP);
  } else if (fault == "exit") {
    std::exit(3);
  } else if (fault == "quick_exit") {
    ::_exit(3);
  } else if (fault == "abort") {
    std::abort();
  } else if (fault == "sleep") {
    std::this_thread::sleep_for(std::chrono::hours(1));
  } else if (fault == "terminate") {
    std::raise(SIGTERM);
  }
}

void fault_from(const char* hook, int64_t step) {
  if (is_due(hook, step)) {
    std::ofstream(variable("FAULT_MARK")).close();
    have(variable("FAULT"));
  }
}

}  // namespace

/// A layer on the digits, slow enough for signals to meet it in the middle of a run.
class FaultyModule : public L::Module {
 public:
  FaultyModule()
      : hidden_(register_module("hidden", torch::nn::Linear(64, 32))),
        out_(register_module("out", torch::nn::Linear(32, 10))) {}

  void configure_model() override { fault_at_start("configure_model"); }
  void setup(L::Stage) override { fault_at_start("setup"); }
  void on_fit_start() override { fault_at_start("on_fit_start"); }
  void on_train_start() override { fault_in("on_train_start"); }
  void on_train_epoch_start() override { fault_in("on_train_epoch_start"); }
  bool on_train_batch_start(const L::Batch&, int64_t) override {
    fault_in("on_train_batch_start");
    return true;
  }
  torch::Tensor training_step(const L::Batch& batch, int64_t) override {
    fault_in("training_step");
    const auto loss = loss_of(batch);
    log("train_loss", loss, {.on_step = true, .on_epoch = true});
    return loss;
  }
  void validation_step(const L::Batch& batch, int64_t) override {
    fault_in("validation_step");
    log("val_loss", loss_of(batch));
  }
  void on_before_zero_grad(torch::optim::Optimizer&) override { fault_in("on_before_zero_grad"); }
  void on_before_backward(const torch::Tensor&) override { fault_in("on_before_backward"); }
  void on_after_backward() override { fault_in("on_after_backward"); }
  void on_validation_epoch_start() override { fault_in("on_validation_epoch_start"); }
  void on_validation_epoch_end() override { fault_in("on_validation_epoch_end"); }
  void on_save_checkpoint(nlohmann::json&) override { fault_in("on_save_checkpoint"); }
  void on_train_end() override { fault_in("on_train_end"); }
  void on_before_optimizer_step(torch::optim::Optimizer&) override {
    fault_in("on_before_optimizer_step");
  }
  void on_train_batch_end(const torch::Tensor&, const L::Batch&, int64_t) override {
    fault_in("on_train_batch_end");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  void on_train_epoch_end() override { fault_in("on_train_epoch_end"); }
  L::OptimizerConfig configure_optimizers() override {
    fault_at_start("configure_optimizers");
    return std::make_unique<L::optim::AdamW>(parameters());
  }

 private:
  void fault_in(const char* hook) const { fault_from(hook, progress().global_step); }
  /// Before there is a run.
  static void fault_at_start(const char* hook) {
    fault_from(hook, std::numeric_limits<int64_t>::max());
  }
  torch::Tensor loss_of(const L::Batch& batch) {
    auto [x, y] = batch.unpack<2>();
    return torch::nn::functional::cross_entropy(out_(torch::relu(hidden_(x.flatten(1)))), y);
  }

  torch::nn::Linear hidden_, out_;
};

TRAINER_REGISTER_MODULE(FaultyModule);

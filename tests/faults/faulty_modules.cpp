// A plug-in for the driver of faults: a module for the digits with the fault that the environment
// asks for, once, as FAULT=throw FAULT_HOOK=training_step FAULT_RANK=1 FAULT_STEP=7. Before it has
// it, it makes the file that FAULT_MARK names.

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
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

}  // namespace

/// A layer on the digits, slow enough for signals to meet it in the middle of a run.
class FaultyModule : public L::Module {
 public:
  FaultyModule()
      : hidden_(register_module("hidden", torch::nn::Linear(64, 32))),
        out_(register_module("out", torch::nn::Linear(32, 10))) {}

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
  void on_before_optimizer_step(torch::optim::Optimizer&) override {
    fault_in("on_before_optimizer_step");
  }
  void on_train_batch_end(const torch::Tensor&, const L::Batch&, int64_t) override {
    fault_in("on_train_batch_end");
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  void on_train_epoch_end() override { fault_in("on_train_epoch_end"); }
  L::OptimizerConfig configure_optimizers() override {
    return std::make_unique<L::optim::AdamW>(parameters());
  }

 private:
  void fault_in(const char* hook) const {
    if (is_due(hook, progress().global_step)) {
      std::ofstream(variable("FAULT_MARK")).close();
      have(variable("FAULT"));
    }
  }
  torch::Tensor loss_of(const L::Batch& batch) {
    auto [x, y] = batch.unpack<2>();
    return torch::nn::functional::cross_entropy(out_(torch::relu(hidden_(x.flatten(1)))), y);
  }

  torch::nn::Linear hidden_, out_;
};

TRAINER_REGISTER_MODULE(FaultyModule);

#pragma once
// Distributed data parallel: every rank holds the whole module, computes on its own part of each
// batch, and the gradients are averaged over the ranks. Choose it (or `auto`, which does) to train
// faster on several processors or GPUs a module that fits each of them.

#include <memory>
#include <optional>

#include <strategies/distributed.h>
#include <strategies/gradient_bucketer.h>
#include <trainer/core/reflect.h>
#include <trainer/core/registry.h>

namespace trainer {

class DDP : public Distributed {
 public:
  static constexpr const char* kDoc =
      "Every rank holds the whole module; gradients are averaged while backward runs.";

  struct Init {
    std::optional<double> bucket_mb = std::nullopt;
    bool static_graph = false;
    std::optional<Spec<CommHook>> comm_hook = std::nullopt;

    static constexpr auto fields() {
      using config::field, config::at_least;
      return std::tuple{
          field<&Init::bucket_mb>(
              "Size of a gradient bucket in MiB; unset: 4 on the processor, 25 on GPUs.",
              at_least(0.001)),
          field<&Init::static_graph>(
              "The same parameters get gradients in every step, so that those without one are not "
              "waited for; a change is an error."),
          field<&Init::comm_hook>(
              "How gradients travel: BF16Compress, FP16Compress or PowerSGD; unset: as they are."),
      };
    }
  };

  DDP() : DDP(Init{}) {}
  explicit DDP(Init init);
  ~DDP() override;

  void set_device(torch::Device device) override;
  void setup_module(torch::nn::Module& module) override;
  void require_gradient_sync(bool required) override;
  void finish_gradient_sync() override;
  void set_step_numbers(const StepNumbers& numbers) override;

 private:
  void tell_of_unused();

  Init init_;
  std::shared_ptr<CommHook> hook_;
  std::unique_ptr<GradientBucketer> bucketer_;
  bool told_of_unused_ = false;
};

}  // namespace trainer

#pragma once
// Which blocks of a module are run again in the backward pass, of those that it calls through
// trainer/activation_checkpointing.h.

#include <string>
#include <unordered_map>
#include <vector>

#include <torch/nn/module.h>

#include <trainer/trainer_config.h>

namespace trainer {

/// In force for the scope's life, in the whole process, as other switches of LibTorch are.
class CheckpointedBlocks {
 public:
  /// Throws ConfigError for a pattern that no module's name matches.
  CheckpointedBlocks(const ActivationCheckpointing& choice, const torch::nn::Module& module);
  CheckpointedBlocks(const CheckpointedBlocks&) = delete;
  CheckpointedBlocks& operator=(const CheckpointedBlocks&) = delete;
  ~CheckpointedBlocks();

  /// Null for code that is no module.
  bool contains(const torch::nn::Module* block);
  /// After a training batch: warns, once, of what was chosen and was not called through the
  /// wrapper.
  void tell_of_unused();

 private:
  struct Block {
    std::vector<std::string> names;  // more than one where it is registered several times
    bool is_chosen = false;
    bool is_called = false;
  };
  std::vector<std::string> called() const;

  const ActivationCheckpointing choice_;
  std::unordered_map<const torch::nn::Module*, Block> blocks_;
  bool unnamed_is_called_ = false;
  bool has_told_ = false;
  CheckpointedBlocks* const outer_;
};

}  // namespace trainer

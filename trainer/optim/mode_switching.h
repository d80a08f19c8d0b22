#pragma once
// For optimizers whose parameters during training are not the ones to use afterwards.

namespace trainer {

/// Implement it in an optimizer that keeps two versions of its parameters. The Trainer calls
/// eval() before validation and before it saves a checkpoint, and train() before it goes on.
class ModeSwitching {
 public:
  virtual ~ModeSwitching() = default;
  /// Puts the training version into the parameters; nothing where it is there already.
  virtual void train() = 0;
  /// Puts the version for evaluation into the parameters; nothing where it is there already.
  virtual void eval() = 0;
};

}  // namespace trainer

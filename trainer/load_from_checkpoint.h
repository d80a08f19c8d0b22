#pragma once
// A trained module in anyone's program, without a Trainer:
//
//   auto module = trainer::load_from_checkpoint<LitClassifier>(
//       "runs/version_0/checkpoints/epoch=3-step=400.ckpt");
//   auto logits = module->forward(images);

#include <concepts>
#include <memory>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/core/config.h>
#include <trainer/core/filesystem.h>
#include <trainer/module.h>

namespace trainer {

namespace detail {
/// `model.init_args` of the configuration that a checkpoint holds. Throws CheckpointError where it
/// holds none.
config::Node saved_init_args(const CheckpointReader& checkpoint);
/// configure_model(), the weights, and what on_load_checkpoint() restores; the module is in eval
/// mode afterwards.
void load_weights(Module& module, const CheckpointReader& checkpoint);
}  // namespace detail

/// A module made with the arguments and weights of a checkpoint folder, in eval mode, on the
/// processor. Throws DataError where there is no checkpoint, CheckpointError where it is damaged or
/// of another architecture, or holds no arguments, ConfigError where the arguments that it holds
/// are not T's.
template <std::derived_from<Module> T>
std::shared_ptr<T> load_from_checkpoint(const fs::Path& path) {
  const CheckpointReader checkpoint(path);
  std::shared_ptr<T> module;
  if constexpr (requires { typename T::Init; }) {
    config::Diagnostics diagnostics;
    const auto init = config::read<typename T::Init>(detail::saved_init_args(checkpoint),
                                                     "model.init_args", diagnostics);
    diagnostics.throw_if_any();
    module = std::make_shared<T>(init);
  } else {
    module = std::make_shared<T>();
  }
  detail::load_weights(*module, checkpoint);
  return module;
}

/// The same with arguments that are given: for modules that a hand-made Trainer trained, whose
/// checkpoints do not hold them.
template <std::derived_from<Module> T, class Init>
std::shared_ptr<T> load_from_checkpoint(const fs::Path& path, const Init& init) {
  auto module = std::make_shared<T>(init);
  detail::load_weights(*module, CheckpointReader(path));
  return module;
}

}  // namespace trainer

#include <trainer/load_from_checkpoint.h>

#include <fmt/format.h>

#include <trainer/checkpoint/module_state.h>
#include <trainer/core/error.h>
#include <trainer/run_state.h>

namespace trainer::detail {

config::Node saved_init_args(const CheckpointReader& checkpoint) {
  const auto config = config::parse_yaml(checkpoint.text("config.yaml"),
                                         (checkpoint.path() / "config.yaml").string());
  const config::Node* model = config.find("model");
  const config::Node* arguments = model != nullptr ? model->find("init_args") : nullptr;
  if (arguments == nullptr) {
    throw CheckpointError(fmt::format(
        "{}: holds no arguments of its module, as the Trainer that saved it was made by hand. Give "
        "them: load_from_checkpoint<T>(path, init).",
        checkpoint.path().string()));
  }
  return *arguments;
}

void load_weights(Module& module, const CheckpointReader& checkpoint) {
  module.configure_model();
  SavedRun(checkpoint).restore_module(module);
  module.eval();
}

}  // namespace trainer::detail

#include <trainer/load_from_checkpoint.h>

#include <trainer/checkpoint/module_state.h>
#include <trainer/run_state.h>

namespace trainer::detail {

config::Node saved_init_args(const CheckpointReader& checkpoint) {
  const auto config = config::parse_yaml(checkpoint.text("config.yaml"),
                                         (checkpoint.path() / "config.yaml").string());
  const config::Node* model = config.find("model");
  const config::Node* arguments = model != nullptr ? model->find("init_args") : nullptr;
  return arguments != nullptr ? *arguments : config::Node::map();
}

void load_weights(Module& module, const CheckpointReader& checkpoint) {
  module.configure_model();
  SavedRun(checkpoint).restore_weights(module);
  module.eval();
}

}  // namespace trainer::detail

#include <trainer/load_from_checkpoint.h>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/checkpoint/module_state.h>
#include <trainer/run_state.h>

namespace trainer::detail {

config::Node saved_init_args(const fs::Path& checkpoint) {
  const CheckpointReader reader(checkpoint);
  const auto config =
      config::parse_yaml(reader.text("config.yaml"), (checkpoint / "config.yaml").string());
  const config::Node* model = config.find("model");
  const config::Node* arguments = model != nullptr ? model->find("init_args") : nullptr;
  return arguments != nullptr ? *arguments : config::Node::map();
}

void load_weights(Module& module, const fs::Path& checkpoint) {
  const CheckpointReader reader(checkpoint);
  SavedRun(reader).restore_weights(module);
  module.eval();
}

}  // namespace trainer::detail

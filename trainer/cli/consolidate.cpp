#include <fmt/format.h>

#include <trainer/checkpoint/checkpoint.h>
#include <trainer/cli/command.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>
#include <trainer/world.h>

namespace trainer {

int consolidate_checkpoint(const Arguments& arguments) {
  if (!world().is_global_zero()) {
    return static_cast<int>(ExitCode::kOk);  // there is nothing to share
  }
  const CheckpointReader checkpoint(arguments.checkpoint);
  const SavedTensors weights = checkpoint.saved("model");
  fs::Path file = arguments.output;
  if (!file.has_filename()) {
    fs::create_directories(file);
  }
  if (std::filesystem::is_directory(file)) {
    file /= whole_file("model");
  }
  weights.save_whole(file);
  console::print(
      fmt::format("weights     {} ({} tensors)\n", file.string(), weights.names().size()));
  return static_cast<int>(ExitCode::kOk);
}

}  // namespace trainer

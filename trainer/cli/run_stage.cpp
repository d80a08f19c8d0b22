#include <csignal>

#include <algorithm>

#include <fmt/format.h>

#include <trainer/checkpoint/safetensors.h>
#include <trainer/cli/command.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>
#include <trainer/core/log.h>
#include <trainer/core/seed.h>
#include <trainer/trainer.h>
#include <trainer/world.h>

namespace trainer {
namespace {

std::string table(const std::string& title, const Trainer::MetricMap& metrics) {
  size_t width = title.size();
  for (const auto& [name, value] : metrics) {
    width = std::max(width, name.size());
  }
  std::string text = fmt::format("{:-<{}}\n{:<{}}  value\n{:-<{}}\n", "", width + 14, title, width,
                                 "", width + 14);
  for (const auto& [name, value] : metrics) {
    text += fmt::format("{:<{}}  {:.6g}\n", name, width, value);
  }
  return text + fmt::format("{:-<{}}\n", "", width + 14);
}

std::string written_files(const Trainer& trainer) {
  if (trainer.run_dir().empty() || !world().is_global_zero()) {
    return "";  // another node may not even have the folder
  }
  std::string text = fmt::format("run         {}\n", trainer.run_dir().string());
  for (const auto& [name, checkpoint] : {std::pair("last", trainer.run_directory()->last()),
                                         std::pair("best", trainer.run_directory()->best())}) {
    if (checkpoint) {
      text += fmt::format("{}        {}\n", name, checkpoint->string());
    }
  }
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(trainer.run_dir())) {
    if (entry.is_regular_file()) {
      files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    text += fmt::format("file        {}\n", file);
  }
  return text;
}

int fit(Trainer& trainer, Module& module, DataModule& data, const Arguments& arguments) {
  trainer.fit(module, data, arguments.ckpt_path);
  if (const auto& metrics = trainer.validation_metrics(); !metrics.empty()) {
    console::print(table("validation", metrics));
  }
  console::print(written_files(trainer));
  const int signal = trainer.stop_signal();
  if (signal == 0) {
    return static_cast<int>(ExitCode::kOk);
  }
  const bool can_resume = trainer.run_directory() && trainer.run_directory()->last();
  log::warning(fmt::format(
      "stopped by signal {} after {} steps; {}", signal, trainer.progress().global_step,
      can_resume ? fmt::format("to go on, run the same command with --ckpt_path=last --run {}",
                               trainer.run_dir().string())
                 : "no checkpoint was saved, so it cannot be resumed"));
  const ExitCode code = signal == SIGINT                          ? ExitCode::kInterrupted
                        : (signal == SIGTERM || signal == SIGHUP) ? ExitCode::kTerminated
                                                                  : ExitCode::kTryAgain;
  return static_cast<int>(code);
}

/// Each rank those of its own batches.
void write_predictions(const std::vector<torch::Tensor>& predictions, const fs::Path& run_dir) {
  safetensors::Tensors tensors;
  for (size_t i = 0; i < predictions.size(); ++i) {
    tensors.emplace_back(fmt::format("batch_{:06}", i), predictions[i]);
  }
  const bool is_alone = world().size() == 1;
  fs::create_directories(run_dir);
  if (world().is_global_zero()) {  // those of more processes would stay beside these
    for (const auto& entry : std::filesystem::directory_iterator(run_dir)) {
      if (entry.path().filename().string().starts_with("predictions")) {
        std::filesystem::remove(entry.path());
      }
    }
  }
  world().barrier();
  const fs::Path path =
      run_dir / (is_alone ? "predictions.safetensors"
                          : fmt::format("predictions_rank_{:05}.safetensors", world().rank()));
  const fs::Path temporary = path.string() + ".tmp";
  safetensors::save(temporary, tensors);
  fs::rename(temporary, path);
  world().barrier();  // what is printed is there
  console::print(fmt::format(
      "predictions of {} batches{}: {}\n", predictions.size(),
      is_alone ? std::string() : fmt::format(" of rank 0 of {}", world().size()), path.string()));
}

}  // namespace

int run_stage(Stage stage, const Arguments& arguments) {
  RunConfig config = read_config(arguments.config);
  if (arguments.print_config) {
    console::print(config::to_yaml(config::write(config)));
    return static_cast<int>(ExitCode::kOk);
  }
  if (world().launcher().empty() && config.trainer.devices.count > 1 &&
      config.trainer.num_nodes == 1) {
    launch(config.trainer.devices.count);
  }
  config.trainer.check_world(world());
  seed_everything(static_cast<uint64_t>(config.seed_everything));  // before the weights are drawn
  Trainer trainer(config.trainer);
  config.trainer = trainer.config();  // with the callbacks that it added
  trainer.set_hyperparams(config::write(config));
  if (arguments.run && !arguments.ckpt_path) {
    throw ConfigError("--run says where --ckpt_path=last or best is looked for: give that too.");
  }
  if (stage != Stage::kFit && !arguments.ckpt_path && !arguments.init_from) {
    log::warning(
        fmt::format("{}: no --ckpt_path is given: the weights are untrained", to_string(stage)));
  }
  if (arguments.run) {
    trainer.set_run(*arguments.run);
  }
  if (auto choice = config.optimizer_choice()) {
    trainer.set_optimizer(std::move(*choice));
  }
  if (arguments.init_from) {
    trainer.set_init_from(*arguments.init_from);
  }
  const auto module = config.model.create();
  const auto data = config.data.create();
  switch (stage) {
    case Stage::kFit: return fit(trainer, *module, *data, arguments);
    case Stage::kValidate:
      console::print(table("validate", trainer.validate(*module, *data, arguments.ckpt_path)));
      break;
    case Stage::kTest:
      console::print(table("test", trainer.test(*module, *data, arguments.ckpt_path)));
      break;
    case Stage::kPredict: {
      const auto predictions = trainer.predict(*module, *data, arguments.ckpt_path);
      write_predictions(predictions, trainer.run_dir());
      break;
    }
  }
  return static_cast<int>(ExitCode::kOk);
}

}  // namespace trainer

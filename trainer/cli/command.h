#pragma once
// The parsed command line and the subcommands, one source file each.

#include <cstdint>
#include <optional>
#include <string>

#include <trainer/cli/launch.h>
#include <trainer/cli/run_config.h>
#include <trainer/progress.h>

namespace trainer {

/// What follows a subcommand.
struct Arguments {
  ConfigSources config;
  std::optional<std::string> ckpt_path;
  std::optional<std::string> run;
  std::optional<std::string> init_from;
  bool print_config = false;
  std::optional<int64_t> ranks;  // of describe-sharding
  std::string checkpoint;        // of `checkpoint consolidate`
  std::string output;
  LaunchOptions launch;
};

/// Each returns the exit code and throws the errors of trainer/core/error.h.
int run_stage(Stage stage, const Arguments& arguments);
int list_classes(const Arguments& arguments);
int print_schema(const Arguments& arguments);
int describe_sharding(const Arguments& arguments);
int consolidate_checkpoint(const Arguments& arguments);
int launch_job(const Arguments& arguments);

/// What a Spec can be of.
inline constexpr const char* kKinds[] = {"module",      "data module", "callback",
                                         "logger",      "strategy",    "communication hook",
                                         "accelerator", "optimizer",   "lr scheduler"};

/// The whole key tree of a run, or the arguments of one class. Throws ConfigError for an unknown
/// class.
std::string help_for_stage(Stage stage);
std::string help_for_class(const std::string& name);

}  // namespace trainer

#include <trainer/cli/cli.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <trainer/builtins.h>
#include <trainer/cli/command.h>
#include <trainer/cli/libtorch_warnings.h>
#include <trainer/core/config.h>
#include <trainer/core/console.h>
#include <trainer/core/error.h>
#include <trainer/core/log.h>
#include <trainer/version.h>
#include <trainer/world.h>

namespace trainer {
namespace {

constexpr const char* kCheckpoint = "checkpoint";
constexpr const char* kConsolidate = "consolidate";
constexpr const char* kLaunch = "launch";

constexpr const char* kExitCodes =
    "\nExit codes:\n"
    "  0    done\n"
    "  1    the module, data or a callback raised an error\n"
    "  2    bad command line or configuration\n"
    "  66   data or checkpoint missing, unreadable or damaged\n"
    "  74   cannot write: disk full, no permission\n"
    "  75   the ranks lost each other, or `launch` lost a host\n"
    "  85   the checkpoint is damaged or belongs to another architecture\n"
    "  124  a time limit of mpirun is over (launch)\n"
    "  137  a process was killed; 128 + n: ended by signal n (launch)\n"
    "Of fit alone:\n"
    "  75   stopped by SIGUSR1 or SIGUSR2, or the end of the SLURM job is near\n"
    "  86   the loss became NaN or infinite\n"
    "  130  stopped by Ctrl-C\n"
    "  143  stopped by SIGTERM, or because the terminal is gone (SIGHUP)\n"
    "After 75, 130 and 143 fit has saved a checkpoint, unless enable_checkpointing is off. The\n"
    "other commands have nothing to save: a signal ends them at once.\n";

/// What CLI11 did not know are overrides: --a.b=c, --a.b c, and a.b=c. A word that is none stays as
/// it is, for apply_override() to refuse.
std::vector<std::string> to_overrides(const std::vector<std::string>& words) {
  std::vector<std::string> overrides;
  for (size_t i = 0; i < words.size(); ++i) {
    std::string word = words[i];
    const bool is_option = word.starts_with("--");
    word = is_option ? word.substr(2) : word;
    if (word.find('=') == std::string::npos) {
      const bool has_value = i + 1 < words.size() && !words[i + 1].starts_with("--");
      word = is_option && has_value ? word + "=" + words[++i] : words[i];
    }
    overrides.push_back(std::move(word));
  }
  return overrides;
}

struct Command {
  const char* name;
  const char* doc;
  std::function<int(const Arguments&)> run;
  std::optional<Stage> stage = std::nullopt;
  bool takes_ranks = false;
  CLI::App* app = nullptr;
  std::string help_class = "";
  CLI::Option* help = nullptr;
  Arguments arguments = {};
};

Command stage_command(Stage stage, const char* doc) {
  return {to_string(stage), doc,
          [stage](const Arguments& arguments) { return run_stage(stage, arguments); }, stage};
}

void add_common_options(Command& command) {
  CLI::App& app = *command.app;
  app.allow_extras();
  app.set_help_flag("");
  command.help = app.add_option("--help,-h", command.help_class,
                                "Show every key, or the arguments of one class.")
                     ->expected(0, 1);
  app.add_option("--config,-c", command.arguments.config.files,
                 "YAML file; may come several times, later ones win.")
      ->allow_extra_args(false);
  app.add_option("--plugin", command.arguments.config.plugins,
                 "Path of a plug-in to load; may come several times.")
      ->allow_extra_args(false);
}

void add_stage_options(Command& command) {
  CLI::App& app = *command.app;
  app.add_option("--ckpt_path", command.arguments.ckpt_path, "Checkpoint: last, best, or a path.");
  app.add_option("--run", command.arguments.run,
                 "Run folder in which last and best are looked for.");
  app.add_option("--init_from", command.arguments.init_from,
                 "Weights to begin with: a safetensors file or a checkpoint folder.");
  app.add_flag("--print_config", command.arguments.print_config,
               "Print the whole configuration and stop.");
}

void add_checkpoint_commands(Command& command) {
  command.app->require_subcommand(1);
  CLI::App& app = *command.app->add_subcommand(
      kConsolidate, "Write the weights of a checkpoint to one safetensors file.");
  app.add_option("checkpoint", command.arguments.checkpoint, "The checkpoint's folder.")
      ->required();
  app.add_option("--output,-o", command.arguments.output,
                 "File to write, or a folder, which gets a model.safetensors.")
      ->required();
}

void add_launch_options(Command& command) {
  CLI::App& app = *command.app;
  LaunchOptions& options = command.arguments.launch;
  app.footer(
      "\nBehind -- stands the command that every rank runs:\n"
      "  trainer launch --hosts a:8,b:8 --max-restarts 3 -- fit --config run.yaml\n");
  app.add_option("-n", options.num_ranks, "Number of ranks; otherwise the slots of the hosts.")
      ->check(CLI::PositiveNumber);
  app.add_option("--hosts", options.hosts, "Hosts, as a,b or a:8,b:8; otherwise this computer.");
  app.add_option("--hostfile", options.hostfile, "The same as lines: a slots=8.");
  app.add_option("--max-restarts", options.max_restarts,
                 "How often to start again, from the newest checkpoint, after a rank or a host was "
                 "lost. [0]")
      ->check(CLI::NonNegativeNumber);
  app.add_option(
         "--restart-on", options.restart_on,
         "Another exit code after which to start again, as 1 or 86; may come several times.")
      ->allow_extra_args(false);
  app.add_option("--min-ranks", options.min_ranks,
                 "Go on with fewer ranks, at least so many, where a host was lost.")
      ->check(CLI::PositiveNumber);
  app.add_option("--host-wait", options.host_wait_s,
                 "Seconds to wait for hosts to come back where too few are left. [60]")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--emit", options.emit, "Print a job for a cluster and start nothing: mpijob.")
      ->check(CLI::IsMember({"mpijob"}));
  app.add_option("--image", options.image, "Of --emit: the container image. [trainer]");
  app.add_option("--nodes", options.num_nodes, "Of --emit: the number of workers. [1]")
      ->check(CLI::PositiveNumber);
  app.add_option("--claim", options.claim,
                 "Of --emit: a volume claim that all pods share, the folder to work in.");
}

void add_options(Command& command) {
  if (command.name == std::string_view(kCheckpoint)) {
    add_checkpoint_commands(command);
    return;
  }
  if (command.name == std::string_view(kLaunch)) {
    add_launch_options(command);
    return;
  }
  add_common_options(command);
  if (command.stage) {
    add_stage_options(command);
  }
  if (command.takes_ranks) {
    command.app
        ->add_option("--ranks", command.arguments.ranks,
                     "Number of ranks; otherwise that of the configuration.")
        ->check(CLI::PositiveNumber);
  }
}

/// Of a wrong one, CLI11 only says that one is required.
void check_subcommand(const std::string& word, const std::vector<std::string>& names) {
  if (!word.starts_with('-') && std::find(names.begin(), names.end(), word) == names.end()) {
    throw ConfigError(fmt::format("command line: there is no subcommand '{}'.{} There are: {}.",
                                  word, config::did_you_mean(word, names), fmt::join(names, ", ")));
  }
}

/// Takes what stands behind the -- of launch: it is for the ranks to read.
std::vector<std::string> take_program(int& argc, char** argv) {
  if (argc < 2 || argv[1] != std::string_view(kLaunch)) {
    return {};
  }
  char** const end = argv + argc;
  char** const separator = std::find(argv, end, std::string_view("--"));
  argc = static_cast<int>(separator - argv);
  return {std::min(separator + 1, end), end};
}

int run(int argc, char** argv) {
  CLI::App app("Trains LibTorch modules; see `trainer fit --help`.", "trainer");
  app.set_version_flag("--version", kVersion);
  app.set_help_flag("--help,-h", "Show this text.");
  app.require_subcommand(1);
  app.footer(kExitCodes);
  Command commands[] = {
      stage_command(Stage::kFit, "Train, from the start or from a checkpoint."),
      stage_command(Stage::kValidate, "One pass over the validation data."),
      stage_command(Stage::kTest, "One pass over the test data."),
      stage_command(Stage::kPredict, "Write the predictions for the prediction data."),
      {"list", "The classes that YAML can name, plug-ins included.", list_classes},
      {"schema", "The JSON schema of configurations, for editors.", print_schema},
      {.name = "describe-sharding",
       .doc = "What of the module a rank holds, and the memory that it needs.",
       .run = describe_sharding,
       .takes_ranks = true},
      {kCheckpoint, "What can be done with a checkpoint: consolidate.", consolidate_checkpoint},
      {kLaunch, "Start the ranks of a job, and restart them when one is lost.", launch_job},
  };
  std::vector<std::string> names;
  for (Command& command : commands) {
    names.emplace_back(command.name);
    command.app = app.add_subcommand(command.name, command.doc);
    add_options(command);
  }
  const auto program = take_program(argc, argv);
  if (argc > 1) {
    check_subcommand(argv[1], names);
  }
  if (argc > 2 && argv[1] == std::string_view(kCheckpoint)) {
    check_subcommand(argv[2], {kConsolidate});
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      std::ostringstream text;
      app.exit(error, text, text);  // --help, --version
      console::print(text.str());
      return static_cast<int>(ExitCode::kOk);
    }
    throw ConfigError(
        fmt::format("command line: {}\n  `trainer --help` shows what there is.", error.what()));
  }
  for (Command& command : commands) {
    if (!command.app->parsed()) {
      continue;
    }
    command.arguments.config.overrides = to_overrides(command.app->remaining());
    command.arguments.launch.program = program;
    if (command.help == nullptr || command.help->count() == 0) {
      return command.run(command.arguments);
    }
    load_plugins(command.arguments.config);
    const std::string keys = command.stage ? help_for_stage(*command.stage) : "";
    console::print(command.help_class.empty() ? command.app->help("trainer") + keys
                                              : help_for_class(command.help_class));
    return static_cast<int>(ExitCode::kOk);
  }
  throw InternalError("no subcommand was parsed");
}

/// Once, at the end: what a full disk does not take must not end a fit that is under way.
void check_printed() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    throw IoError(
        "standard output: cannot write all of it.\n  Free some room where it goes, or send it "
        "elsewhere.");
  }
}

/// Tells what ends this process, and ends those that it trains with. Where one of them has failed
/// before, that is told instead.
int fail(const std::string& what, ExitCode exit_code) {
  World* const others = joined_world();
  if (!log::rank_prefix().empty() && others == nullptr) {
    return static_cast<int>(exit_code);  // what keeps them from meeting, rank 0 tells
  }
  const Failure failure = failure_here(what, static_cast<int>(exit_code));
  if (others != nullptr) {
    others->fail(failure);
  }
  tell(failure);
  return failure.exit_code;
}

}  // namespace

int cli(int argc, char** argv) {
  try {
    register_builtins();
    LibtorchWarnings warnings;
    const c10::WarningUtils::WarningHandlerGuard warnings_shown(&warnings);
    world();  // one of them has the terminal
    const int exit_code = run(argc, argv);
    if (exit_code == static_cast<int>(ExitCode::kOk)) {
      check_printed();
    }
    return exit_code;
  } catch (const Error& error) {
    return fail(error.what(), error.exit_code());
  } catch (const c10::Error& error) {
    return fail(fmt::format("LibTorch: {}", error.what_without_backtrace()), ExitCode::kUserCode);
  } catch (const std::exception& error) {
    return fail(error.what(), ExitCode::kUserCode);
  } catch (...) {
    return fail(
        "something was thrown that is no std::exception. Throw a class that derives from it, whose "
        "what() says what happened.",
        ExitCode::kUserCode);
  }
}

}  // namespace trainer

#include <trainer/job.h>

#include <cstdlib>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/log.h>

namespace trainer {
namespace {

using JobCommand = std::function<std::vector<std::string>(const Job&, const std::string&)>;

JobCommand& job_command() {
  static JobCommand command;
  return command;
}

}  // namespace

void tell_run_directory(const fs::Path& path) {
  const char* file = std::getenv(kRunFileVariable);
  if (file == nullptr || path.empty()) {
    return;
  }
  try {
    fs::write_text_atomically(file, path.string());
  } catch (const IoError& error) {
    log::warning(fmt::format(
        "{}\n  `trainer launch` does not learn of {}: a restart would begin anew. Start "
        "it in a folder that all hosts see.",
        error.what(), path.string()));
  }
}

std::vector<std::string> command_of(const Job& job, const std::string& program) {
  TRAINER_CHECK(job_command(), "register_builtins() was not called");
  return job_command()(job, program);
}

void set_job_command(JobCommand command) { job_command() = std::move(command); }

}  // namespace trainer

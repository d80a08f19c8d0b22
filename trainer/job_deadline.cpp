#include <trainer/job_deadline.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include <fmt/format.h>

#include <trainer/core/error.h>
#include <trainer/core/log.h>

namespace trainer {

JobDeadline::JobDeadline() {
  using std::chrono::seconds;
  using std::chrono::system_clock;
  const char* text = std::getenv("SLURM_JOB_END_TIME");
  if (text == nullptr || *text == '\0') {
    return;
  }
  char* end = nullptr;
  errno = 0;
  const int64_t since_1970 = std::strtoll(text, &end, 10);
  constexpr int64_t kMost = int64_t{1} << 33;  // in the year 2242; beyond it, no clock can count
  if (*end != '\0' || errno != 0 || since_1970 < 0) {
    throw ConfigError(fmt::format(
        "environment: SLURM_JOB_END_TIME='{}' is not a number of seconds since 1970. Unset it.",
        text));
  }
  const auto now = system_clock::now();
  const system_clock::time_point ends_at{seconds(std::min(since_1970, kMost))};
  if (ends_at <= now) {
    log::warning(fmt::format("SLURM_JOB_END_TIME={} is over, so it is not that of this job", text));
    return;
  }
  const auto reserve = std::min<system_clock::duration>(seconds(60), (ends_at - now) / 10);
  saves_at_ = ends_at - reserve;
  log::info(fmt::format("SLURM ends this job in {} s; training stops {:.3g} s before that to save",
                        std::chrono::duration_cast<seconds>(ends_at - now).count(),
                        std::chrono::duration<double>(reserve).count()));
}

}  // namespace trainer

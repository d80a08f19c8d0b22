#include <trainer/trainer_config.h>

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {

void TrainerConfig::validate() const {
  const std::pair<const char*, const BatchLimit*> fractions[] = {
      {"limit_train_batches", &limit_train_batches},
      {"limit_val_batches", &limit_val_batches},
      {"limit_test_batches", &limit_test_batches},
      {"limit_predict_batches", &limit_predict_batches},
      {"val_check_interval", &val_check_interval}};
  for (const auto& [name, limit] : fractions) {
    const double* fraction = std::get_if<double>(limit);
    if (fraction != nullptr && *fraction > 1.0) {
      throw ConfigError(fmt::format(
          "{} is {}, a fraction above 1. Write {:.0f} for that many batches, or 1.0 for all.", name,
          *fraction, std::ceil(*fraction)));
    }
  }
}

int64_t limited_batches(const BatchLimit& limit, int64_t num_batches, const char* name) {
  if (const auto* count = std::get_if<int64_t>(&limit)) {
    return std::min(*count, num_batches);
  }
  const double fraction = std::get<double>(limit);
  const auto batches = static_cast<int64_t>(static_cast<double>(num_batches) * fraction);
  if (batches == 0 && fraction > 0 && num_batches > 0) {
    throw ConfigError(fmt::format(
        "trainer.{}: {} of {} batches is less than one. Write 1 for one batch, or a larger "
        "fraction.",
        name, fraction, num_batches));
  }
  return batches;
}

}  // namespace trainer

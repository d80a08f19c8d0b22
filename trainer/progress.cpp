#include <trainer/progress.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/core/json.h>

namespace trainer {

const char* to_string(Stage stage) {
  switch (stage) {
    case Stage::kFit: return "fit";
    case Stage::kValidate: return "validate";
    case Stage::kTest: return "test";
    case Stage::kPredict: return "predict";
  }
  return "";
}

void to_json(nlohmann::json& json, const Progress& progress) {
  json = {{"current_epoch", progress.current_epoch},
          {"global_step", progress.global_step},
          {"batch_idx", progress.batch_idx},
          {"batches", progress.batches},
          {"samples", progress.samples},
          {"stepped_batches", progress.stepped_batches}};
}

void from_json(const nlohmann::json& saved, Progress& progress) {
  const auto counter = [&](const char* key) {
    constexpr int64_t kMost = int64_t{1} << 60;  // leaves room to count on
    const int64_t count = json::to_int64(saved.at(key));
    if (count < 0 || count > kMost) {
      throw nlohmann::json::out_of_range::create(
          406, fmt::format("{} is {}, which counts nothing", key, count), &saved);
    }
    return count;
  };
  progress.current_epoch = counter("current_epoch");
  progress.global_step = counter("global_step");
  progress.batch_idx = counter("batch_idx");
  progress.batches = counter("batches");
  progress.samples = counter("samples");
  progress.stepped_batches = counter("stepped_batches");
}

}  // namespace trainer

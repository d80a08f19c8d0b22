#include <trainer/progress.h>

#include <nlohmann/json.hpp>

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

void from_json(const nlohmann::json& json, Progress& progress) {
  json.at("current_epoch").get_to(progress.current_epoch);
  json.at("global_step").get_to(progress.global_step);
  json.at("batch_idx").get_to(progress.batch_idx);
  json.at("batches").get_to(progress.batches);
  json.at("samples").get_to(progress.samples);
  json.at("stepped_batches").get_to(progress.stepped_batches);
}

}  // namespace trainer

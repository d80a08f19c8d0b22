#include <trainer/progress.h>

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
  progress.current_epoch = json::to_int64(saved.at("current_epoch"));
  progress.global_step = json::to_int64(saved.at("global_step"));
  progress.batch_idx = json::to_int64(saved.at("batch_idx"));
  progress.batches = json::to_int64(saved.at("batches"));
  progress.samples = json::to_int64(saved.at("samples"));
  progress.stepped_batches = json::to_int64(saved.at("stepped_batches"));
}

}  // namespace trainer

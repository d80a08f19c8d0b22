#include <trainer/progress.h>

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

}  // namespace trainer

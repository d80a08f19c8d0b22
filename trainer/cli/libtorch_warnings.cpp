#include <trainer/cli/libtorch_warnings.h>

#include <trainer/core/log.h>

namespace trainer {

void LibtorchWarnings::process(const c10::Warning& warning) {
  if (shown_.insert(warning.msg()).second) {
    log::warning("LibTorch: " + warning.msg());
  }
}

}  // namespace trainer

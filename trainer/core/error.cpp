#include <trainer/core/error.h>

#include <fmt/format.h>

namespace trainer::detail {

void check_failed(const char* condition, const char* file, int line, const std::string& what) {
  throw InternalError(
      fmt::format("{}:{}: {} ({} does not hold). This is a defect of trainer, not of your code: "
                  "please report it.",
                  file, line, what, condition));
}

}  // namespace trainer::detail

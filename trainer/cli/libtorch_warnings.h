#pragma once
// LibTorch's own warnings in our log.

#include <set>
#include <string>

#include <c10/util/Exception.h>

namespace trainer {

/// Shows each warning once: LibTorch repeats one for every batch that gives cause to it.
class LibtorchWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override;

 private:
  std::set<std::string> shown_;
};

}  // namespace trainer

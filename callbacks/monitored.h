#pragma once
// The metric that a callback watches.

#include <optional>
#include <string>

#include <trainer/trainer.h>

namespace trainer {

/// The newest value of a metric, if it was logged.
std::optional<double> find_metric(const Trainer& trainer, const std::string& name);

/// "there is no metric 'x', did you mean ..., logged so far: ...": what to tell where it was not.
std::string no_such_metric(const Trainer& trainer, const std::string& name);

}  // namespace trainer

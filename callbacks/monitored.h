#pragma once
// The metric that a callback watches, and decisions that ranks take together.

#include <optional>
#include <string>

#include <trainer/trainer.h>

namespace trainer {

/// The newest value of a metric, if it was logged.
std::optional<double> find_metric(const Trainer& trainer, const std::string& name);

/// Ranks may see different values of a metric that is not reduced over them, or different clocks,
/// yet they act together: true on every rank where `decision` is on any. Collective: yes.
bool any_rank(Strategy& strategy, bool decision);

/// "there is no metric 'x', did you mean ..., logged so far: ...": what to tell where it was not.
std::string no_such_metric(const Trainer& trainer, const std::string& name);

}  // namespace trainer

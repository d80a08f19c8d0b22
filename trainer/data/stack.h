#pragma once
// How samples become a batch; for data sets and streams.

#include <string>
#include <vector>

#include <trainer/core/batch.h>

namespace trainer {

/// What has to be equal for two samples to be stacked: "x: Float [3, 4], y: Long []".
std::string form(const Batch& sample);
bool same_form(const Batch& a, const Batch& b);

/// [samples.size(), ...] of each tensor, for at least one sample, all of the same form.
Batch stack_samples(const std::vector<Batch>& samples);

}  // namespace trainer

#pragma once
// What is wrong with a loss, told where it arises.

#include <trainer/module.h>

namespace trainer {

/// Throws UsageError for a loss that is not one element, or that depends on no parameter.
void check_loss(const Module& module, const torch::Tensor& loss);

/// Throws NonFiniteError for a loss that is NaN or infinite, with what of the batch is to blame.
/// Only a loss of one element on the processor, of a batch that has samples, is looked at:
/// elsewhere, reading it would make the step wait. Syncs: no.
void check_finite(const torch::Tensor& loss, const Batch& batch, const Progress& progress);

}  // namespace trainer

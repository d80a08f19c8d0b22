#pragma once
// `trainer launch --emit mpijob`: a job for a Kubernetes cluster in which mpi-operator runs.

#include <string>

#include <trainer/cli/launch.h>

namespace trainer {

/// The MPIJob (kubeflow.org/v2beta1) that does in a cluster what launch does with these options, as
/// YAML. Throws ConfigError where the options have no meaning there.
std::string mpijob(const LaunchOptions& options);

}  // namespace trainer

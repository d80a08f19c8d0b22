#pragma once
// What ended a run, as people and programs are told of it.

#include <cstdint>
#include <string>

#include <nlohmann/json_fwd.hpp>

namespace trainer {

/// Names a file that gets the failure as JSON, as torchelastic has it.
inline constexpr const char* kErrorFileVariable = "TORCHELASTIC_ERROR_FILE";
/// In the folder of the run, of its last failure.
inline constexpr const char* kErrorFile = "error.json";

struct Failure {
  std::string message;  ///< What happened, where, and how to fix it.
  int exit_code = 1;    ///< 0: only what has started the process knows.
  int rank = 0;
  int world_size = 1;
  std::string host = {};
  int64_t step = 0;         ///< Optimizer steps of the run before it.
  int64_t timestamp_s = 0;  ///< Of the Unix clock.
};
void to_json(nlohmann::json& json, const Failure& failure);
void from_json(const nlohmann::json& json, Failure& failure);

/// "error: rank 1/4 (host): message", and below what is saved and how to go on from there.
std::string to_text(const Failure& failure);

/// Writes to_text() to standard error, and error.json into the folder of the run and to the file
/// that TORCHELASTIC_ERROR_FILE names, where there are such; a file that cannot be written is told
/// of. For the last words of a program.
void tell(const Failure& failure);

}  // namespace trainer

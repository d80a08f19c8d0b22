#include <trainer/core/failure.h>

#include <cstdlib>
#include <exception>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/core/console.h>
#include <trainer/core/filesystem.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/host.h>

namespace trainer {
namespace {

/// {"message": {"message": ..., "extraInfo": {...}}}: what torchelastic's agent reads. Numbers are
/// texts there where torchelastic has texts.
std::string error_json(const Failure& failure) {
  nlohmann::json extra = {{"timestamp", std::to_string(failure.timestamp_s)},
                          {"rank", failure.rank},
                          {"world_size", failure.world_size},
                          {"host", failure.host},
                          {"step", failure.step}};
  if (failure.exit_code != 0) {
    extra["exit_code"] = failure.exit_code;
  }
  const nlohmann::json message = {{"message", failure.message}, {"extraInfo", std::move(extra)}};
  return nlohmann::json({{"message", message}})
             .dump(1, ' ', false, nlohmann::json::error_handler_t::replace) +
         "\n";
}

void write_error(const std::filesystem::path& path, const Failure& failure) {
  try {
    fs::write_text_atomically(path, error_json(failure));
  } catch (const std::exception& error) {
    console::write_error(error.what());
  }
}

}  // namespace

void to_json(nlohmann::json& json, const Failure& failure) {
  json = {
      {"message", failure.message},        {"exit_code", failure.exit_code}, {"rank", failure.rank},
      {"world_size", failure.world_size},  {"host", failure.host},           {"step", failure.step},
      {"timestamp_s", failure.timestamp_s}};
}

void from_json(const nlohmann::json& json, Failure& failure) {
  failure = {.message = json.at("message"),
             .exit_code = json.at("exit_code"),
             .rank = json.at("rank"),
             .world_size = json.at("world_size"),
             .host = json.at("host"),
             .step = json.at("step"),
             .timestamp_s = json.at("timestamp_s")};
}

std::string to_text(const Failure& failure) {
  // What all ranks have is told by rank 0, without its name; the communicator names its own.
  const std::string prefix = failure.rank == 0 ? ""
                                               : fmt::format("rank {}/{} ({}): ", failure.rank,
                                                             failure.world_size, failure.host);
  std::string text =
      "error: " + (failure.message.starts_with(prefix) ? "" : prefix) + failure.message;
  const std::string saved = flight::describe_saved();
  if (!saved.empty()) {
    text += fmt::format("\n  After {} {}. {}", failure.step, failure.step == 1 ? "step" : "steps",
                        saved);
  }
  return text;
}

void tell(const Failure& failure) {
  // The files first: a launcher that sees the words may end this process.
  const auto folder = flight::run_folder();
  std::error_code ignored;
  if (!folder.empty() && std::filesystem::is_directory(folder, ignored)) {
    write_error(folder / kErrorFile, failure);
  }
  if (const char* path = std::getenv(kErrorFileVariable); path != nullptr && *path != '\0') {
    write_error(path, failure);
  }
  console::clear_status();
  console::write_error(to_text(failure));
}

}  // namespace trainer

#include <loggers/jsonl_logger.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include <fmt/format.h>

#include <trainer/core/error.h>

namespace trainer {
namespace {

void append_string(std::string& out, std::string_view text) {
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return c >= ' ' && c <= '~' && c != '"' && c != '\\';
  });
  if (plain) {
    out += '"';
    out += text;
    out += '"';
  } else {
    out += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
}

void append_value(std::string& out, double value) {
  const char* quote = std::isfinite(value) ? "" : "\"";
  out += quote;
  append_number(out, value);
  out += quote;
}

}  // namespace

void JSONLLogger::setup(const fs::Path& run_dir) {
  fs::create_directories(run_dir);
  file_.emplace(run_dir / "metrics.jsonl");
}

void JSONLLogger::log_metrics(const Metrics& metrics, int64_t step) {
  TRAINER_CHECK(file_, "JSONLLogger: log_metrics() before setup()");
  epoch_ = "null";
  values_.clear();
  for (const auto& [name, value] : metrics) {
    if (name == "epoch") {
      epoch_.clear();
      append_value(epoch_, value);
      continue;
    }
    if (!values_.empty()) {
      values_ += ',';
    }
    append_string(values_, name);
    values_ += ':';
    append_value(values_, value);
  }
  file_->append(fmt::format("{{\"schema\":1,\"epoch\":{},\"step\":{},\"metrics\":{{{}}}}}\n",
                            epoch_, step, values_));
}

void JSONLLogger::save() {
  if (file_) {
    file_->flush();
  }
}

nlohmann::json JSONLLogger::state_dict() const {
  TRAINER_CHECK(file_, "JSONLLogger: state_dict() before setup()");
  return file_->state_dict();
}

void JSONLLogger::load_state_dict(const nlohmann::json& state) {
  TRAINER_CHECK(file_, "JSONLLogger: load_state_dict() before setup()");
  file_->load_state_dict(state);
}

}  // namespace trainer

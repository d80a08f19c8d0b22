// The watching thread of a rank other than 0: tells rank 0 how this one is, and ends it where rank
// 0 says so or is gone.

#include <strategies/comm/watch.h>

#include <exception>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/log.h>
#include <trainer/world.h>

namespace trainer {
namespace {

using Clock = std::chrono::steady_clock;

class OtherRank : public Watch::Role {
 public:
  OtherRank(const WatchOptions& options, LineSocket rank_0)
      : options_(options), rank_0_(std::move(rank_0)) {}

  std::vector<int> descriptors() const override {
    return rank_0_.is_open() ? std::vector<int>{rank_0_.fd()} : std::vector<int>{};
  }

  void take(const nlohmann::json& message) override {
    has_left_ = has_left_ || message.contains("leave");
    send(message);
  }

  void take_turn(Clock::time_point now) override {
    while (const auto line = rank_0_.receive()) {
      heard_at_ = now;
      handle(nlohmann::json::parse(*line), now);
    }
    if (now - last_turn_ > heartbeat_interval(options_) * 2) {
      heard_at_ = now;  // this process was the one that stood still
    }
    last_turn_ = now;
    const auto stage_number = flight::status().stage_number;
    const bool runs = !flight::status().stage.empty();
    if (now - sent_at_ > heartbeat_interval(options_) || stage_number != sent_stage_ ||
        runs != sent_runs_) {
      sent_at_ = now;
      sent_stage_ = stage_number;
      sent_runs_ = runs;
      send({{"status", flight::status()}});
    }
    look_for_rank_0(now);
    if (end_at_ && now > *end_at_) {
      end_process(options_, failure_);
    }
  }

 private:
  void send(const nlohmann::json& message) { rank_0_.send(message.dump()); }

  void handle(const nlohmann::json& message, Clock::time_point now) {
    if (message.contains("there")) {
      host_of_rank_0_ = message.at("there");
    } else if (message.contains("leave")) {
      rank_0_left_ = true;
    } else if (message.contains("end")) {
      failure_ = message.at("end");
      if (message.at("record")) {
        write_record(failure_.message);
      }
      send({{"ready", true}});
      const bool ends_itself = failure_.exit_code == 0;  // else where rank 0 does not end it
      end_at_ = now + std::chrono::seconds(ends_itself ? 0 : 3);
    }
  }

  void write_record(const std::string& reason) const {
    try {
      flight::write_record(options_.rank, options_.host, reason);
    } catch (const std::exception& error) {
      log::error(error.what());
    }
  }

  /// Rank 1 speaks for the others, which end too where it cannot.
  void look_for_rank_0(Clock::time_point now) {
    if (end_at_ || rank_0_left_ || has_left_) {
      return;
    }
    const auto timeout = options_.heartbeat_timeout;
    std::string what;
    int exit_code = static_cast<int>(ExitCode::kTryAgain);
    if (!rank_0_.is_open()) {
      lost_at_ = lost_at_.value_or(now);
      if (now - *lost_at_ < std::chrono::milliseconds(200)) {
        return;  // what ends all of them ends this one meanwhile
      }
      what = "it has died: its connection has ended.";
      exit_code = 0;
    } else if (timeout.count() > 0 && now - heard_at_ > timeout) {
      what = fmt::format("it gives no sign of life, for {:.3g} s.", timeout.count());
    } else {
      return;
    }
    failure_ = failure_here(fmt::format("rank 0/{} ({}): {}", options_.size, host_of_rank_0_, what),
                            exit_code);
    failure_.rank = 0;
    failure_.host = host_of_rank_0_;
    send({{"over", true}});  // where it was stopped, it goes on for its last second
    write_record(failure_.message);
    if (options_.rank == 1) {
      tell(failure_);
    }
    end_at_ = now + std::chrono::seconds(options_.rank == 1 || exit_code == 0 ? 0 : 2);
  }

  const WatchOptions& options_;
  LineSocket rank_0_;
  std::string host_of_rank_0_ = "?";  // until it has said so
  Clock::time_point heard_at_ = Clock::now(), last_turn_ = Clock::now(), sent_at_ = {};
  uint64_t sent_stage_ = 0;
  bool sent_runs_ = false;
  bool rank_0_left_ = false, has_left_ = false;
  std::optional<Clock::time_point> lost_at_, end_at_;
  Failure failure_;  // for which it ends then
};

}  // namespace

std::unique_ptr<Watch::Role> other_rank_role(const WatchOptions& options, LineSocket rank_0) {
  return std::make_unique<OtherRank>(options, std::move(rank_0));
}

}  // namespace trainer

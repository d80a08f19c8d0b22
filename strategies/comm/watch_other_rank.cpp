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
      : options_(options), rank_0_(std::move(rank_0)) {
    send({{"rank", options_.rank}, {"host", options_.host}});
  }

  std::vector<int> descriptors() const override {
    return rank_0_.is_open() ? std::vector<int>{rank_0_.fd()} : std::vector<int>{};
  }

  void take(const nlohmann::json& message) override {
    has_left_ = has_left_ || message.contains("leave");
    send(message);
  }

  void take_turn(Clock::time_point now) override {
    for (const auto& line : rank_0_.receive()) {
      heard_at_ = now;
      handle(nlohmann::json::parse(line), now);
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
      options_.abort(exit_code_);
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
      const Failure failure = message.at("end");
      if (message.at("record")) {
        write_record(failure.message);
      }
      send({{"ready", true}});
      end_by(now + std::chrono::seconds(3), failure.exit_code);  // where rank 0 does not
    }
  }

  void write_record(const std::string& reason) const {
    try {
      flight::write_record(options_.rank, options_.host, reason);
    } catch (const std::exception& error) {
      log::error(error.what());
    }
  }

  void end_by(Clock::time_point when, int exit_code) {
    end_at_ = when;
    exit_code_ = exit_code == 0 ? static_cast<int>(ExitCode::kTryAgain) : exit_code;
  }

  /// Rank 1 speaks for the others, which end too where it cannot.
  void look_for_rank_0(Clock::time_point now) {
    if (end_at_ || rank_0_left_ || has_left_) {
      return;
    }
    const auto timeout = options_.heartbeat_timeout;
    std::string what;
    bool is_known_to_launcher = false;
    if (!rank_0_.is_open()) {
      lost_at_ = lost_at_.value_or(now);
      if (now - *lost_at_ < std::chrono::milliseconds(200)) {
        return;  // what ends all of them ends this one meanwhile
      }
      what = "it has died: its connection has ended.";
      is_known_to_launcher = true;
    } else if (timeout.count() > 0 && now - heard_at_ > timeout) {
      what = fmt::format("it gives no sign of life, for {:.3g} s.", timeout.count());
    } else {
      return;
    }
    Failure failure =
        failure_here(fmt::format("rank 0/{} ({}): {}", options_.size, host_of_rank_0_, what), 0);
    failure.rank = 0;
    failure.host = host_of_rank_0_;
    failure.exit_code = is_known_to_launcher ? 0 : static_cast<int>(ExitCode::kTryAgain);
    send({{"over", true}});  // where it was stopped, it goes on for its last second
    write_record(failure.message);
    if (options_.rank == 1) {
      tell(failure);
    }
    const bool waits = is_known_to_launcher || options_.rank > 1;
    end_by(now + std::chrono::seconds(waits ? 2 : 0), failure.exit_code);
  }

  const WatchOptions& options_;
  LineSocket rank_0_;
  std::string host_of_rank_0_ = "?";  // until it has said so
  Clock::time_point heard_at_ = Clock::now(), last_turn_ = Clock::now(), sent_at_ = {};
  uint64_t sent_stage_ = 0;
  bool sent_runs_ = false;
  bool rank_0_left_ = false, has_left_ = false;
  std::optional<Clock::time_point> lost_at_, end_at_;
  int exit_code_ = 0;
};

}  // namespace

std::unique_ptr<Watch::Role> other_rank_role(const WatchOptions& options, LineSocket rank_0) {
  return std::make_unique<OtherRank>(options, std::move(rank_0));
}

}  // namespace trainer

// The watching thread of rank 0: hears of all, decides what was first, and ends them.

#include <strategies/comm/watch.h>

#include <algorithm>
#include <exception>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <strategies/comm/hang_report.h>
#include <strategies/comm/straggler_search.h>
#include <trainer/core/error.h>
#include <trainer/core/flight_record.h>
#include <trainer/core/host.h>
#include <trainer/core/log.h>
#include <trainer/world.h>

namespace trainer {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// What ranks that have the same error as another one get to tell of it.
constexpr auto kSameError = milliseconds(500);
/// What the others get to leave a stage that one has failed in.
constexpr auto kGrace = milliseconds(1000);
/// Until a process that is gone is taken for dead: what ends all of them ends this one meanwhile.
constexpr auto kDeath = milliseconds(200);
/// What ranks get to write down what they were doing.
constexpr auto kRecords = milliseconds(300);

struct Peer {
  LineSocket socket = {};
  bool has_come = false, has_left = false, is_ready = false;
  std::string host = {};
  flight::Status status = {};
  Clock::time_point heard_at = Clock::now();
  std::optional<Clock::time_point> lost_at = {};
};

struct Report {
  Failure failure;
  uint64_t stage_number = 0;
  bool is_final = false;
};

class FirstRank : public Watch::Role {
 public:
  FirstRank(const WatchOptions& options, LineListener listener)
      : options_(options),
        listener_(std::move(listener)),
        peers_(static_cast<size_t>(options.size)),
        stragglers_(options.heartbeat_timeout.count() > 0 ? options.heartbeat_timeout * 6
                                                          : std::chrono::minutes(1)) {
    peers_[0].host = options_.host;
  }

  std::vector<int> descriptors() const override {
    std::vector<int> all = listener_.descriptors();
    for (const auto& peer : peers_) {
      if (peer.socket.is_open()) {
        all.push_back(peer.socket.fd());
      }
    }
    return all;
  }

  void take(const nlohmann::json& message) override {
    if (message.contains("leave")) {
      send_to_all(message);
    }
    handle(0, message, Clock::now());
  }

  void take_turn(Clock::time_point now) override {
    let_in();
    for (size_t rank = 1; rank < peers_.size(); ++rank) {
      while (const auto line = peers_[rank].socket.receive()) {
        handle(rank, nlohmann::json::parse(*line), now);
      }
    }
    peers_[0].status = flight::status();
    forgive_own_pause(now);
    if (now - sent_at_ > heartbeat_interval(options_)) {
      sent_at_ = now;
      send_to_all({{"there", options_.host}});
    }
    if (end_at_) {
      go_on_ending(now);
    } else if (!peers_[0].has_left && !is_over_) {
      look_at_failures(now);
      look_for_deaths(now);
      look_for_hang(now);
      look_for_stragglers(now);
    }
  }

 private:
  void send_to_all(const nlohmann::json& message) {
    const std::string line = message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    for (auto& peer : peers_) {
      peer.socket.send(line);
    }
  }

  void let_in() {
    for (auto& [socket, introduction] : listener_.accept()) {
      const auto who = nlohmann::json::parse(introduction);
      peers_.at(who.at("rank")) = {
          .socket = std::move(socket), .has_come = true, .host = who.at("host")};
    }
  }

  void handle(size_t rank, const nlohmann::json& message, Clock::time_point now) {
    Peer& peer = peers_[rank];
    peer.heard_at = now;
    if (message.contains("status")) {
      peer.status = message.at("status");
    } else if (message.contains("leave")) {
      peer.has_left = true;
    } else if (message.contains("over")) {
      is_over_ = true;
    } else if (message.contains("ready")) {
      peer.is_ready = true;
    } else if (message.contains("failed")) {
      reports_.push_back(
          {message.at("failed"), message.at("stage_number"), message.at("final").get<bool>()});
      first_report_at_ = first_report_at_.value_or(now);
    }
  }

  /// Where this process stood still, the others look as if they had.
  void forgive_own_pause(Clock::time_point now) {
    const auto pause = now - last_turn_;
    last_turn_ = now;
    if (pause > heartbeat_interval(options_) * 2) {
      progress_at_ = now;
      for (auto& peer : peers_) {
        peer.heard_at = now;
      }
    }
  }

  bool is_still_in(const Peer& peer, const Report& report) const {
    return !peer.has_left && !peer.status.stage.empty() &&
           peer.status.stage_number == report.stage_number;
  }

  void look_at_failures(Clock::time_point now) {
    if (reports_.empty()) {
      return;
    }
    const auto since = now - *first_report_at_;
    const bool is_final = std::any_of(reports_.begin(), reports_.end(), [&](const auto& report) {
      return report.is_final && (report.failure.rank == 0 || since > kSameError);
    });
    if (!is_final && since < kGrace) {
      return;
    }
    const Report& first = reports_.front();
    if (!is_final && std::none_of(peers_.begin(), peers_.end(),
                                  [&](const auto& peer) { return is_still_in(peer, first); })) {
      reports_.clear();  // all have left the stage: the program goes on with another one
      first_report_at_.reset();
      return;
    }
    // What all have, rank 0 tells; in the words that the rank has found last.
    const bool is_of_all = std::any_of(reports_.begin(), reports_.end(), [&](const auto& report) {
      return report.failure.rank == 0 && report.failure.message == first.failure.message;
    });
    const int rank = is_of_all ? 0 : first.failure.rank;
    const auto told = std::find_if(reports_.rbegin(), reports_.rend(),
                                   [&](const auto& report) { return report.failure.rank == rank; });
    end(told->failure, now, /*record=*/false);
  }

  void look_for_deaths(Clock::time_point now) {
    const auto timeout = options_.heartbeat_timeout;
    for (size_t rank = 1; rank < peers_.size() && !end_at_; ++rank) {
      Peer& peer = peers_[rank];
      if (!peer.has_come || peer.has_left) {
        continue;
      }
      if (!peer.socket.is_open()) {
        peer.lost_at = peer.lost_at.value_or(now);
        if (now - *peer.lost_at > kDeath) {
          end(failure_of(rank, "it has died: its connection has ended.", 0), now, true);
        }
      } else if (timeout.count() > 0 && now - peer.heard_at > timeout) {
        end(failure_of(rank,
                       fmt::format("it gives no sign of life, for {:.3g} s. It was stopped, or its "
                                   "computer has lost the network.",
                                   timeout.count()),
                       static_cast<int>(ExitCode::kTryAgain)),
            now, true);
      }
    }
  }

  void look_for_hang(Clock::time_point now) {
    uint64_t progress = 0;
    bool runs = false, has_task = false;
    for (const auto& peer : peers_) {
      progress += peer.status.progress;
      runs = runs || (!peer.has_left && !peer.status.stage.empty());
      has_task = has_task || !peer.status.task.empty();
    }
    if (progress != progress_ || !runs) {
      progress_ = progress;
      progress_at_ = now;
      return;
    }
    // Work that takes long by its nature has a limit of its own.
    const double limit = peers_[0].status.hang_timeout_s * (has_task ? 10 : 1);
    if (limit > 0 && now - progress_at_ > std::chrono::duration<double>(limit)) {
      const HangReport hang = report_hang(statuses(), limit);
      end(failure_of(hang.rank, hang.text, static_cast<int>(ExitCode::kTryAgain)), now, true);
    }
  }

  void look_for_stragglers(Clock::time_point now) {
    if (const auto words = stragglers_.look(statuses(), now)) {
      log::warning(*words);
    }
  }

  std::vector<RankStatus> statuses() const {
    std::vector<RankStatus> ranks;
    for (const auto& peer : peers_) {
      ranks.push_back({peer.host, peer.status});
    }
    return ranks;
  }

  Failure failure_of(size_t rank, const std::string& what, int exit_code) const {
    Failure failure = failure_here(what, exit_code);
    failure.rank = static_cast<int>(rank);
    failure.host = peers_[rank].host;
    failure.step = std::max(failure.step, peers_[rank].status.step);  // the newer of both
    if (rank == 0) {
      failure.message = fmt::format("rank 0/{} ({}): {}", options_.size, failure.host, what);
    }
    return failure;
  }

  void end(const Failure& failure, Clock::time_point now, bool record) {
    failure_ = failure;
    end_at_ = now + (record ? kRecords : milliseconds(0));
    send_to_all({{"end", failure}, {"record", record}});
    if (record) {
      try {
        flight::write_record(0, options_.host, failure.message);
      } catch (const std::exception& error) {
        log::error(error.what());
      }
    }
  }

  void go_on_ending(Clock::time_point now) {
    const bool all_ready = std::all_of(peers_.begin() + 1, peers_.end(), [](const auto& peer) {
      return peer.is_ready || !peer.socket.is_open();
    });
    if (now < *end_at_ && !all_ready) {
      return;
    }
    tell(failure_);
    end_process(options_, failure_);
  }

  const WatchOptions& options_;
  LineListener listener_;
  std::vector<Peer> peers_;
  StragglerSearch stragglers_;
  std::vector<Report> reports_;  // in their order
  std::optional<Clock::time_point> first_report_at_;
  uint64_t progress_ = 0;
  Clock::time_point progress_at_ = Clock::now(), last_turn_ = Clock::now(), sent_at_ = {};
  // Once it ends.
  std::optional<Clock::time_point> end_at_;
  Failure failure_;
  bool is_over_ = false;  // this process stood still, and another one ends all
};

}  // namespace

std::unique_ptr<Watch::Role> first_rank_role(const WatchOptions& options, LineListener listener) {
  return std::make_unique<FirstRank>(options, std::move(listener));
}

}  // namespace trainer

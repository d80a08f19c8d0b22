#include <trainer/rank_agreement.h>

#include <csignal>

#include <array>

namespace trainer {
namespace {

// Places in the numbers of a step.
constexpr size_t kStop = 0;
constexpr size_t kTime = 1;
constexpr size_t kFirstSignal = 2;
constexpr std::array<int, 4> kSignals = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

}  // namespace

void RankAgreement::tell(const Wishes& own) {
  Strategy::StepNumbers numbers = {};
  numbers[kStop] = own.should_stop ? 1 : 0;
  numbers[kTime] = strategy_.is_global_zero() ? own.training_s : 0;
  for (size_t i = 0; i < kSignals.size(); ++i) {
    numbers[kFirstSignal + i] = own.signal == kSignals[i] ? 1 : 0;
  }
  strategy_.set_step_numbers(numbers);
}

void RankAgreement::hear() {
  const auto sums = strategy_.take_step_numbers();
  agreed_.should_stop = sums[kStop] > 0;
  agreed_.training_s = sums[kTime];
  for (size_t i = 0; i < kSignals.size(); ++i) {
    if (agreed_.signal == 0 && sums[kFirstSignal + i] > 0) {
      agreed_.signal = kSignals[i];
    }
  }
}

}  // namespace trainer

#pragma once
// What ranks have to agree on so that all of them stop, and validate, at the same step: signals,
// callbacks and clocks that may differ between them. It rides along with the gradients of a step.

#include <trainer/strategy.h>

namespace trainer {

class RankAgreement {
 public:
  struct Wishes {
    bool should_stop = false;
    int signal = 0;         ///< SIGINT, SIGTERM, SIGHUP or SIGUSR1; 0 for none.
    double training_s = 0;  ///< Rank 0's counts.
  };

  explicit RankAgreement(Strategy& strategy) : strategy_(strategy) {}

  /// Before the last backward pass of a step.
  void tell(const Wishes& own);
  /// After its update. Collective: yes, where the step reduced no gradients.
  void hear();

  /// Of all ranks, as of the last hear(): any stop, the first signal in the order above, rank 0's
  /// time.
  const Wishes& agreed() const { return agreed_; }
  void set_training_s(double training_s) { agreed_.training_s = training_s; }

 private:
  Strategy& strategy_;
  Wishes agreed_;
};

}  // namespace trainer

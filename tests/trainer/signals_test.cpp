#include <trainer/signals.h>

#include <csignal>

#include <gtest/gtest.h>

namespace trainer::test {
namespace {

volatile std::sig_atomic_t seen = 0;
void remember(int signal) { seen = signal; }

TEST(SignalScope, KeepsTheFirstSignalAndGivesTheHandlersBack) {
  ASSERT_NE(std::signal(SIGTERM, remember), SIG_ERR);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    seen = 0;
    {
      const SignalScope scope;
      EXPECT_EQ(SignalScope::received(), 0) << "a signal of an earlier scope";
      std::raise(signal);
      std::raise(SIGTERM);
      EXPECT_EQ(SignalScope::received(), signal);
      EXPECT_EQ(seen, 0);
    }
    std::raise(SIGTERM);
    EXPECT_EQ(seen, SIGTERM);
  }
  std::signal(SIGTERM, SIG_DFL);
}

TEST(SignalScope, TakesOtherNoticesForTheSignalsThatTheyStandFor) {
  const SignalScope scope;
  std::raise(SIGCONT);  // not from an mpirun
  EXPECT_EQ(SignalScope::received(), 0);
  std::raise(SIGUSR2);
  EXPECT_EQ(SignalScope::received(), SIGUSR1);
}

TEST(SignalScope, LetsARunGoOnWhoseOutputNobodyReads) {
  const SignalScope scope;
  std::raise(SIGPIPE);
  EXPECT_EQ(SignalScope::received(), 0);
}

TEST(SignalScopeDeathTest, EndsTheProcessAtASecondInterrupt) {
  EXPECT_EXIT(
      {
        const SignalScope scope;
        std::raise(SIGINT);
        std::raise(SIGUSR1);
        std::raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace trainer::test

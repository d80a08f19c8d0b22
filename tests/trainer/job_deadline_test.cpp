#include <trainer/job_deadline.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include <tests/support/thrown.h>
#include <tests/support/toy.h>
#include <trainer/core/error.h>

namespace trainer::test {
namespace {

class JobDeadlineTest : public testing::Test {
 protected:
  ~JobDeadlineTest() override { ::unsetenv("SLURM_JOB_END_TIME"); }
  static void set(const std::string& text) {
    ::setenv("SLURM_JOB_END_TIME", text.c_str(), /*overwrite=*/1);
  }
  /// The job ends in so many seconds.
  static void set_in(int64_t seconds) {
    using std::chrono::system_clock;
    const auto end = system_clock::now() + std::chrono::seconds(seconds);
    set(std::to_string(system_clock::to_time_t(end)));
  }
};

TEST_F(JobDeadlineTest, IsNearInTheLastMinuteOfALongJobAndTheLastTenthOfAShortOne) {
  EXPECT_FALSE(JobDeadline().is_near()) << "no SLURM";
  set_in(10 * 60);
  EXPECT_FALSE(JobDeadline().is_near());
  set_in(-10);
  EXPECT_FALSE(JobDeadline().is_near()) << "of another job";
  set_in(3);
  const JobDeadline short_one;
  EXPECT_FALSE(short_one.is_near());
  std::this_thread::sleep_for(std::chrono::seconds(3));
  EXPECT_TRUE(short_one.is_near());
}

TEST_F(JobDeadlineTest, ATimeThatIsNoNumberIsRefused) {
  set("tomorrow");
  EXPECT_NE(test::thrown<ConfigError>([] { const JobDeadline deadline; }).find("'tomorrow'"),
            std::string::npos);
}

TEST_F(JobDeadlineTest, EndsAFitAsSIGUSR1Does) {
  set_in(3);
  ToyModule module;
  ToyData data;
  auto config = quiet();
  config.max_epochs = 1'000'000;
  Trainer trainer(config);
  trainer.fit(module, data);
  EXPECT_EQ(trainer.stop_signal(), SIGUSR1);
  EXPECT_GT(trainer.progress().global_step, 0);
}

}  // namespace
}  // namespace trainer::test

// A run that is killed (SIGKILL, a power cut as far as the program can tell) at any moment goes on
// from `last` and ends as one that was never killed, byte for byte.

#include <chrono>
#include <csignal>
#include <random>
#include <set>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include <tests/faults/fault_fixture.h>

namespace trainer::test {
namespace {

std::set<std::string> names_in(const fs::Path& folder) {
  std::set<std::string> names;
  std::error_code error;  // not there yet, or changed while being read
  for (auto entry = std::filesystem::directory_iterator(folder, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    names.insert(entry->path().filename().string());
  }
  return names;
}

/// Waits until the names in the folder have changed `changes` times: a save makes a temporary
/// folder, renames it, does the same with each pointer, and removes an old checkpoint.
void wait_for_changes(const Process& process, const fs::Path& folder, int changes) {
  auto names = names_in(folder);
  while (changes > 0 && process.running()) {
    auto now = names_in(folder);
    changes -= static_cast<int>(now != names);
    names = std::move(now);
  }
}

TEST(Kill, ARunKilledAtAnyMomentEndsAsOneThatWasNot) {
  const Training whole;
  const auto begin = std::chrono::steady_clock::now();
  const auto never_killed = run(Training::fit(), whole.folder());
  ASSERT_EQ(never_killed.exit_code, 0) << never_killed.err;
  const auto duration = std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::steady_clock::now() - begin);
  ASSERT_EQ(whole.last_step(), Training::kSteps);

  const Training killed;
  std::mt19937 random(5);
  int64_t saved = 0;
  int kills = 0;
  for (bool ended = false; !ended;) {
    if (saved == 0) {  // nothing to go on from: from the start, in the same folder
      std::filesystem::remove_all(killed.folder() / "runs");
    }
    Process process(saved == 0 ? Training::fit() : Training::fit({"--ckpt_path=last"}),
                    killed.folder());
    if (random() % 8 == 0) {  // anywhere, also while it starts
      std::this_thread::sleep_for(duration * (random() % 100) / 100);
    } else {  // around a save
      wait_for_changes(process, killed.checkpoints(), static_cast<int>(random() % 16));
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    }
    ::kill(process.pid(), SIGKILL);
    const auto result = process.wait();
    ended = result.exit_code == 0;
    ASSERT_TRUE(ended || result.exit_code == 128 + SIGKILL) << result.exit_code << result.err;
    kills += static_cast<int>(!ended);
    const int64_t step = killed.last_step();
    ASSERT_GE(step, saved) << "kill " << kills << " lost a checkpoint";
    saved = step;
  }
  RecordProperty("kills", kills);
  EXPECT_GE(kills, 3);
  EXPECT_FALSE(std::filesystem::exists(killed.folder() / "runs/version_1"));
  for (const auto& name : names_in(killed.checkpoints())) {
    EXPECT_EQ(name.find(".tmp"), std::string::npos) << name << " is left behind";
  }
  expect_same_outcome(killed, whole);
}

}  // namespace
}  // namespace trainer::test

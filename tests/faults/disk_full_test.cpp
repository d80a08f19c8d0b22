// A disk that fills up ends a run with exit code 74 and a message that names the file, and costs no
// checkpoint. A limit on the size of files, which needs no rights, stands in for the disk.

#include <regex>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include <tests/faults/fault_fixture.h>

namespace trainer::test {
namespace {

/// The same command with files limited to so many blocks of 512 bytes.
std::vector<std::string> limited(int blocks, const std::vector<std::string>& command) {
  std::vector<std::string> all = {"sh", "-c", "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"",
                                  "sh", std::to_string(blocks)};
  all.insert(all.end(), command.begin(), command.end());
  return all;
}

TEST(DiskFull, EndsTheRunWithItsCheckpointWhole) {
  const Training whole;
  const auto undisturbed = run(Training::fit(), whole.folder());
  ASSERT_EQ(undisturbed.exit_code, 0) << undisturbed.err;

  const Training training;
  const auto first = run(Training::fit({"--trainer.max_steps=10"}), training.folder());
  ASSERT_EQ(first.exit_code, 0) << first.err;
  int64_t saved = training.last_step();
  ASSERT_EQ(saved, 10);
  // The larger the limit, the later the file that breaks it.
  std::set<std::string> files;
  for (int blocks = 1; blocks < 100; blocks += blocks < 8 ? 1 : 23) {
    const auto result =
        run(limited(blocks, Training::fit({"--ckpt_path=last"})), training.folder());
    ASSERT_GE(training.last_step(), saved) << blocks;
    saved = training.last_step();
    if (result.exit_code == 0) {
      break;
    }
    EXPECT_EQ(result.exit_code, 74) << blocks << " blocks\n" << result.err;
    std::smatch match;
    const std::regex message("error: .*/([^/]*): cannot write: File too large");
    ASSERT_TRUE(std::regex_search(result.err, match, message)) << result.err;
    files.insert(match[1]);
  }
  EXPECT_TRUE(files.contains("model.safetensors"));
  EXPECT_TRUE(files.contains("optimizer-rank00000.safetensors"));
  const auto resumed = run(Training::fit({"--ckpt_path=last"}), training.folder());
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(training.last_step(), Training::kSteps);
  expect_same_outcome(training, whole);
}

}  // namespace
}  // namespace trainer::test

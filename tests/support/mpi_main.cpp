// The main() of tests that run on several ranks. Every rank runs every test; the program fails when
// a test fails on any of them, and when it was started with another number of ranks than meant.

#include <cstdlib>
#include <iostream>
#include <string>

#include <gtest/gtest.h>

#include <trainer/builtins.h>
#include <trainer/world.h>

/// Asked by LeakSanitizer. Open MPI unloads parts of itself that have left memory behind: no
/// suppression can name them.
extern "C" int __lsan_is_turned_off() { return 1; }

namespace {

using trainer::world;

/// Ranks other than 0 tell of failures only. Where a test ends early on one rank, the others would
/// wait for it: everything ends then.
class RankListener : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed() && world().rank() != 0) {
      std::cerr << "rank " << world().rank() << ": " << result.file_name() << ":"
                << result.line_number() << ": " << result.summary() << std::endl;
    }
  }
  void OnTestEnd(const testing::TestInfo& test) override {
    if (test.result()->HasFatalFailure() && world().size() > 1) {
      std::cerr << "rank " << world().rank() << ": " << test.test_suite_name() << "." << test.name()
                << " ended early" << std::endl;
      world().abort(1);
    }
  }
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  trainer::register_builtins();
  const char* wanted = std::getenv("TRAINER_TEST_WORLD_SIZE");
  if (wanted == nullptr || std::to_string(world().size()) != wanted) {
    std::cerr << "the world has " << world().size() << " ranks, TRAINER_TEST_WORLD_SIZE is "
              << (wanted == nullptr ? "not set" : wanted) << std::endl;
    return 2;
  }
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (world().rank() != 0) {
    delete listeners.Release(listeners.default_result_printer());
  }
  listeners.Append(new RankListener);
  const int own = RUN_ALL_TESTS();
  int any = own;
  for (const auto& text : world().all_gather(std::to_string(own))) {
    any = std::max(any, std::stoi(text));
  }
  return any;
}

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <tests/support/process.h>

namespace trainer::test {
namespace {

std::vector<std::string> configs() {
  std::vector<std::string> paths;
  for (const auto& entry :
       std::filesystem::directory_iterator(tests_dir().parent_path() / "configs")) {
    if (entry.path().extension() == ".yaml") {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

class Config : public ::testing::TestWithParam<std::string> {};

TEST_P(Config, Resolves) {
  const auto result = run({TRAINER_PROGRAM, "fit", "--config", GetParam(), "--print_config"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
  EXPECT_NE(result.out, "");
}

INSTANTIATE_TEST_SUITE_P(Configs, Config, ::testing::ValuesIn(configs()), [](const auto& test) {
  return std::filesystem::path(test.param).stem().string();
});

}  // namespace
}  // namespace trainer::test

#include <trainer/provenance.h>

#include <torch/version.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <trainer/core/host.h>
#include <trainer/version.h>

#include <tests/support/process.h>
#include <tests/support/temp_dir.h>
#include <tests/support/toy.h>

namespace trainer::test {
namespace {

TEST(Provenance, TellsOfThisProcess) {
  const auto told = provenance(17);
  EXPECT_EQ(told.at("seed"), 17);
  EXPECT_EQ(told.at("host"), host_name());
  EXPECT_EQ(told.at("libraries").at("trainer"), kVersion);
  EXPECT_EQ(told.at("libraries").at("libtorch"), TORCH_VERSION);
  ASSERT_FALSE(told.at("command_line").empty());
  EXPECT_EQ(told.at("processes"), 1);
  EXPECT_NE(told.at("command_line")[0].get<std::string>().find("provenance_test"),
            std::string::npos);
}

/// As `readelf` finds it in the library that holds the code.
TEST(Provenance, HasTheBuildIdOfTheLibrary) {
  const std::string id = provenance(0).at("build_id");
  ASSERT_EQ(id.size() % 2, 0U);
  const auto library = run({"sh", "-c",
                            "tr '\\n' ' ' < /proc/" + std::to_string(::getpid()) +
                                "/maps | grep -o '/[^ ]*libtrainer[^ ]*' | head -1"})
                           .out;
  const auto notes = run({"sh", "-c", "readelf -n " + library}).out;
  EXPECT_NE(notes.find(id), std::string::npos) << notes;
}

TEST(Provenance, TellsCommitAndChangesOfTheFoldersRepository) {
  const TempDir dir;
  const WorkingDirectory here(dir.path());
  ::setenv("GIT_CEILING_DIRECTORIES", dir.path().parent_path().c_str(), 1);
  EXPECT_TRUE(provenance(0).at("git").is_null());
  ASSERT_EQ(run({"sh", "-c",
                 "git init -q . && git -c user.name=x -c user.email=x@y commit -q "
                 "--allow-empty -m x"})
                .exit_code,
            0);
  const auto clean = provenance(0).at("git");
  EXPECT_EQ(clean.at("commit").get<std::string>() + "\n", run({"git", "rev-parse", "HEAD"}).out);
  EXPECT_EQ(clean.at("dirty"), false);
  write_file("new.txt", "");
  EXPECT_EQ(provenance(0).at("git").at("dirty"), true);
}

TEST(Provenance, GetsAnEntryForEachStartOfARun) {
  class Checked : public ToyData {
   public:
    nlohmann::json checksums() const override { return {{"a.csv", "xxh3_128:1"}}; }
  };
  const TempDir dir;
  write_provenance(dir.path(), Checked());
  write_provenance(dir.path(), Checked());
  const auto all = nlohmann::json::parse(read_file(dir / "provenance.json"));
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[1].at("data").at("a.csv"), "xxh3_128:1");
}

}  // namespace
}  // namespace trainer::test

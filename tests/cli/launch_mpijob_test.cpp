// What `trainer launch --emit mpijob` prints, by the fields that the published API has.

#include <gmock/gmock.h>

#include <tests/cli/cli_fixture.h>

namespace trainer::test {
namespace {

using ::testing::HasSubstr;

class MPIJobTest : public CliTest {
 protected:
  ProcessResult emit(const std::vector<std::string>& words) const {
    std::vector<std::string> all = {"launch", "--emit", "mpijob"};
    all.insert(all.end(), words.begin(), words.end());
    return trainer(all);
  }
  /// The places in a YAML text at which the schema does not hold, a line each.
  std::string mistakes(const std::string& text) const {
    write_file(dir_ / "job.yaml", text);
    return run_python("cli/schema_check.py", {(tests_dir() / "cli/mpijob_schema.json").string(),
                                              (dir_ / "job.yaml").string()});
  }
};

TEST_F(MPIJobTest, HasTheFieldsOfTheAPIAndNoOthers) {
  const auto small = emit({"-n", "2", "--", "validate", "--config", "run.yaml"});
  ASSERT_EQ(small.exit_code, 0) << small.err;
  EXPECT_EQ(mistakes(small.out), "");
  const auto large = emit({"-n", "16", "--nodes", "2", "--image", "registry:5000/trainer:1.0",
                           "--claim", "data", "--max-restarts", "3", "--min-ranks", "8", "--",
                           "fit", "--config", "a \"b\": c.yaml", "--trainer.max_epochs=3"});
  ASSERT_EQ(large.exit_code, 0) << large.err;
  EXPECT_EQ(mistakes(large.out), "");
  EXPECT_THAT(large.out, HasSubstr("slotsPerWorker: 8\n"));
  EXPECT_THAT(large.out, HasSubstr("image: \"registry:5000/trainer:1.0\"\n"));
  EXPECT_THAT(large.out,
              HasSubstr("command: [\"trainer\", \"launch\", \"--hostfile\", "
                        "\"/etc/mpi/hostfile\", \"-n\", \"16\", \"--max-restarts\", \"3\", "
                        "\"--host-wait\", \"60\", \"--min-ranks\", \"8\", \"--\", \"fit\", "
                        "\"--config\", \"a \\\"b\\\": c.yaml\", \"--trainer.max_epochs=3\"]\n"));
  EXPECT_THAT(large.out, HasSubstr("      replicas: 2\n"));
}

TEST_F(MPIJobTest, TheSchemaFindsAMistake) {
  const auto result = emit({"-n", "2", "--", "fit"});
  std::string text = result.out;
  text.replace(text.find("slotsPerWorker"), std::string("slotsPerWorker").size(), "slotPerWorker");
  EXPECT_EQ(mistakes(text), "job.yaml:$.spec\njob.yaml:$.spec\n") << "unknown, and one is missing";
}

TEST_F(MPIJobTest, OptionsWithoutAMeaningThereAreRefused) {
  EXPECT_EQ(emit({"--", "fit"}).err,
            "error: launch: --emit mpijob needs -n, the number of ranks, as a multiple of --nodes "
            "1.\n");
  EXPECT_EQ(emit({"-n", "3", "--nodes", "2", "--", "fit"}).exit_code, 2);
  EXPECT_EQ(emit({"-n", "2", "--min-ranks", "3", "--", "fit"}).err,
            "error: launch: --min-ranks 3 is more than the 2 ranks of the job. Give at most that "
            "number.\n");
  EXPECT_EQ(emit({"-n", "2", "--hosts", "a,b", "--", "fit"}).err,
            "error: launch: --emit mpijob has the cluster choose the hosts. Leave --hosts and "
            "--hostfile out, and say how many by --nodes.\n");
}

TEST_F(MPIJobTest, AnArgumentThatIsNotUTF8IsNamed) {
  const auto result = emit({"-n", "2", "--", "fit", "--config", "caf\xe9.yaml"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err,
            "error: launch: --emit mpijob: the argument \"caf\uFFFD.yaml\" is not UTF-8, as YAML "
            "has to be. Give it, or the file that it names, a name in UTF-8.\n");
}

}  // namespace
}  // namespace trainer::test

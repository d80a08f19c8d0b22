// Plug-ins that cannot be used leave nothing behind, and say why.

#include <algorithm>
#include <regex>

#include <gmock/gmock.h>

#include <tests/cli/cli_fixture.h>

#include <trainer/version.h>

namespace trainer::test {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

std::string plugin(const std::string& name) { return TRAINER_TEST_PLUGINS "/lib" + name + ".so"; }

class PluginTest : public CliTest {
 protected:
  ProcessResult list(const std::vector<std::string>& plugins) const {
    std::vector<std::string> words = {"list"};
    for (const auto& name : plugins) {
      words.insert(words.end(), {"--plugin", plugin(name)});
    }
    return trainer(words);
  }

  /// Runs `trainer list` with these plug-ins in its plug-in folder, which lies beside the library.
  ProcessResult list_folder(const std::vector<std::string>& paths) const {
    const auto folder = dir_ / "lib/trainer/plugins";
    std::filesystem::create_directories(folder);
    const std::filesystem::path library = TRAINER_LIBRARY;
    std::filesystem::create_symlink(library, dir_ / "lib" / library.filename());
    for (const std::filesystem::path path : paths) {
      std::filesystem::create_symlink(path, folder / path.filename());
    }
    return run(command({"list"}), dir_.path(), {{"LD_LIBRARY_PATH", dir_ / "lib"}});
  }

  void expect_error(const ProcessResult& result, const std::string& message) const {
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.err, "error: " + message + "\n");
    EXPECT_EQ(result.out, "");
  }
};

TEST_F(PluginTest, IsLoadedByItsPath) {
  const auto result = list({"kite"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, ContainsRegex("  Kite +\\[plug-in " + plugin("kite") + "\\]\n"));
}

TEST_F(PluginTest, MayBeNamedTwice) {
  const auto result = list({"kite", "kite"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
}

TEST_F(PluginTest, WithTheNameOfABuiltInClassIsRefused) {
  const std::string path = plugin("taken_name");
  expect_error(list({"taken_name"}),
               "--plugin " + path +
                   ": the callback 'EarlyStopping' is registered twice (built in; plug-in " + path +
                   "). Rename one of them.");
}

TEST_F(PluginTest, WithTheNameOfAClassOfAnotherIsRefused) {
  const std::string path = plugin("second_kite");
  expect_error(list({"kite", "second_kite"}),
               "--plugin " + path + ": the callback 'Kite' is registered twice (plug-in " +
                   plugin("kite") + "; plug-in " + path + "). Rename one of them.");
}

TEST_F(PluginTest, OfAnotherVersionIsRefused) {
  const std::string path = plugin("kite_of_0_0_0");
  expect_error(list({"kite_of_0_0_0"}), "--plugin " + path + ": the plug-in " + path +
                                            " was built for trainer 0.0.0, this "
                                            "is " +
                                            kVersion + ". Build it again.");
}

TEST_F(PluginTest, WithoutClassesIsRefused) {
  const std::string path = plugin("no_class");
  expect_error(list({"no_class"}),
               "--plugin " + path + ": the plug-in " + path +
                   " registers no class. Use TRAINER_REGISTER_MODULE and the like in it.");
}

TEST_F(PluginTest, EveryOneThatIsRefusedIsToldAtOnce) {
  const auto result = list({"no_class", "taken_name", "kite_of_0_0_0"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 3) << result.err;
}

TEST_F(PluginTest, ListGoesOnAfterOneThatIsRefusedOfWhichNothingRemains) {
  write_file(dir_ / "libempty.so", "");
  const auto result =
      list_folder({dir_ / "libempty.so", plugin("kite_of_0_0_0"), plugin("no_class"),
                   plugin("second_kite"), plugin("taken_name")});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, ContainsRegex("  Kite +\\[plug-in second_kite\\]\n"));
  EXPECT_THAT(result.out, ContainsRegex("  EarlyStopping .*\\[built in\\]\n"));
  EXPECT_THAT(result.out, Not(HasSubstr("Harmless"))) << "a class of a plug-in that was refused";
  const std::string folder = dir_ / "lib/trainer/plugins/lib";
  const std::regex time("(^|\n)[0-9:]{8} W ");
  EXPECT_EQ(std::regex_replace(result.err, time, "$1W "),
            "W cannot load the plug-in " + folder + "empty.so: " + folder +
                "empty.so: file too short.\n  Build it against this trainer (" + kVersion + ").\n" +
                "W the plug-in " + folder +
                "kite_of_0_0_0.so was built for trainer 0.0.0, this is " + kVersion +
                ". Build it again.\n"
                "W the plug-in " +
                folder +
                "no_class.so registers no class. Use TRAINER_REGISTER_MODULE and the like in it.\n"
                "W the callback 'EarlyStopping' is registered twice (built in; plug-in "
                "taken_name). Rename one of them.\n");
}

TEST_F(PluginTest, AProgramWithTheNameOfABuiltInClassIsRefused) {
  expect_error(run({TRAINER_TEST_PLUGINS "/taken_name_program", "list"}, dir_.path()),
               "the callback 'EarlyStopping' is registered twice (this program; built in). "
               "Rename one of them.");
}

}  // namespace
}  // namespace trainer::test

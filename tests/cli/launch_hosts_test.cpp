#include <trainer/cli/launch_hosts.h>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

#include <trainer/cli/launch.h>
#include <trainer/core/error.h>

namespace trainer {
namespace {

using Hosts = std::vector<Host>;

TEST(LaunchHosts, ListAndFileSayTheSame) {
  const test::TempDir dir;
  const auto file =
      test::write_file(dir / "hosts", "# two\na slots=4 max_slots=8\n\nb slots=2 # b\n");
  const Hosts expected = {{"a", 4}, {"b", 2}};
  EXPECT_EQ(parse_hosts("a:4,b:2", std::nullopt), expected);
  EXPECT_EQ(read_hostfile(file, std::nullopt), expected);
}

TEST(LaunchHosts, HostsWithoutANumberShareTheRanks) {
  EXPECT_EQ(parse_hosts("a,b", std::nullopt), (Hosts{{"a", 1}, {"b", 1}}));
  EXPECT_EQ(parse_hosts("a,b", 16), (Hosts{{"a", 8}, {"b", 8}}));
  EXPECT_EQ(parse_hosts("a,b", 3), (Hosts{{"a", 2}, {"b", 2}}));
  EXPECT_EQ(parse_hosts("a:6,b,c", 10), (Hosts{{"a", 6}, {"b", 2}, {"c", 2}}));
}

TEST(LaunchHosts, MistakesAreToldWithTheirPlace) {
  const test::TempDir dir;
  const auto file = test::write_file(dir / "hosts", "a slots=2\nb slotz=2\n").string();
  const auto text_of = [](const std::string& list) {
    return test::thrown<ConfigError>([&] { parse_hosts(list, std::nullopt); });
  };
  EXPECT_EQ(text_of("a:x"), "--hosts a:x: 'x' is not a number of ranks. Give 1 or more.");
  EXPECT_EQ(text_of("a:0"), "--hosts a:0: '0' is not a number of ranks. Give 1 or more.");
  EXPECT_EQ(text_of("a,,b"), "--hosts a,,b: '' is not a host name. Write name:8.");
  EXPECT_EQ(text_of("a,a"), "--hosts a,a: a is named twice. Name it once, with all its slots.");
  EXPECT_EQ(test::thrown<ConfigError>([&] { read_hostfile(file, std::nullopt); }),
            file + ":2: 'slotz=2' is not known here. Write name slots=8.");
  const auto none = test::write_file(dir / "none", "# nobody\n").string();
  EXPECT_EQ(test::thrown<ConfigError>([&] { read_hostfile(none, std::nullopt); }),
            none + ": names no host. Write name slots=8 in a line for each.");
  EXPECT_THROW(read_hostfile(dir / "missing", std::nullopt), DataError);
}

TEST(LaunchHosts, TheJobHasAsManyRanksAsSlotsOrFewer) {
  LaunchOptions options{.hosts = "a:4,b:4"};
  EXPECT_EQ(job_of(options).num_ranks, 8);
  options.num_ranks = 6;
  EXPECT_EQ(job_of(options).num_ranks, 6);
  options.num_ranks = 9;
  EXPECT_EQ(test::thrown<ConfigError>([&] { job_of(options); }),
            "launch: -n 9, but the hosts have 8 slots. Start fewer ranks, or give the hosts more "
            "slots.");
  EXPECT_EQ(test::thrown<ConfigError>([] { job_of({.num_ranks = 2, .min_ranks = 1}); }),
            "launch: --min-ranks 1 says how many ranks go on where a host is lost, but no hosts "
            "are given. Give --hosts or --hostfile, or leave it out.");
  options = {.hosts = "a:4,b:4", .min_ranks = 9};
  EXPECT_EQ(test::thrown<ConfigError>([&] { job_of(options); }),
            "launch: --min-ranks 9 is more than the 8 ranks of the job. Give at most that "
            "number.");
  EXPECT_EQ(test::thrown<ConfigError>([] { job_of({}); }),
            "launch: how many ranks? Give -n, or --hosts or --hostfile with slots.");
}

}  // namespace
}  // namespace trainer

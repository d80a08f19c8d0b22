#include <trainer/core/config.h>

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include <tests/support/thrown.h>

namespace trainer::config {
namespace {

using test::thrown;
using Limit = std::variant<int64_t, double>;

struct Inner {
  double lr = 0.5;
  std::vector<int64_t> sizes = {1, 2};

  static constexpr auto fields() {
    return std::tuple{field<&Inner::lr>("Learning rate.", greater_than(0.0)),
                      field<&Inner::sizes>("Sizes.")};
  }
};

struct Outer {
  int64_t hidden = 128;
  bool flag = false;
  float ratio = 0.25F;
  std::string mode = "min";
  std::optional<int64_t> limit = std::nullopt;
  std::map<std::string, double> weights = {};
  Limit batches = 1.0;
  uint8_t level = 3;
  Inner inner = {};
  Node anything = {};

  static constexpr auto fields() {
    return std::tuple{field<&Outer::hidden>("Width.", at_least(1)),
                      field<&Outer::flag>("A flag."),
                      field<&Outer::ratio>("A ratio.", in_range(0.0, 1.0)),
                      field<&Outer::mode>("A mode.", one_of("min", "max")),
                      field<&Outer::limit>("A limit.", at_least(-1)),
                      field<&Outer::weights>("Weights."),
                      field<&Outer::batches>("Batches.", at_least(0)),
                      field<&Outer::level>("A level."),
                      field<&Outer::inner>("A struct."),
                      field<&Outer::anything>("Any tree.")};
  }
};

struct Strict {
  std::string name = "";
  int64_t low = 0;
  int64_t high = 10;

  static constexpr auto fields() {
    return std::tuple{field<&Strict::name>("Who it is.", required()),
                      field<&Strict::low>("Lower end."), field<&Strict::high>("Upper end.")};
  }
  void validate() const {
    if (low > high) {
      throw ConfigError("low is above high. Swap them.");
    }
  }
};

template <class T>
T read_from(const std::string& yaml) {
  Diagnostics diagnostics;
  auto value = read<T>(parse_yaml(yaml, "c.yaml"), "", diagnostics);
  diagnostics.throw_if_any();
  return value;
}

template <class T>
std::string error_of(const std::string& yaml) {
  return thrown<ConfigError>([&] { read_from<T>(yaml); });
}

TEST(Read, FillsEveryKindOfMember) {
  const auto outer = read_from<Outer>(
      "{hidden: 64, flag: true, ratio: 1e-1, mode: max, limit: 5, weights: {a: 1, b.c: -.5}, "
      "batches: 4, level: 255, inner: {lr: 1e-3, sizes: [7]}, anything: {x: [1]}}");
  EXPECT_EQ(outer.hidden, 64);
  EXPECT_TRUE(outer.flag);
  EXPECT_EQ(outer.ratio, 0.1F);
  EXPECT_EQ(outer.mode, "max");
  EXPECT_EQ(outer.limit, 5);
  EXPECT_EQ(outer.weights, (std::map<std::string, double>{{"a", 1.0}, {"b.c", -0.5}}));
  EXPECT_EQ(outer.batches, Limit(int64_t{4}));
  EXPECT_EQ(outer.level, 255);
  EXPECT_EQ(outer.inner.lr, 1e-3);
  EXPECT_EQ(outer.inner.sizes, std::vector<int64_t>{7});
  EXPECT_TRUE(outer.anything.find("x")->is_sequence());
}

TEST(Read, KeepsDefaultsForWhatIsNotGiven) {
  EXPECT_EQ(to_yaml(write(read_from<Outer>(""))), to_yaml(write(Outer{})));
  EXPECT_EQ(read_from<Outer>("{inner: {sizes: []}}").inner.lr, 0.5);
}

TEST(Read, TakesIntegersStrictly) {
  EXPECT_EQ(read_from<int64_t>("1e3"), 1000);
  EXPECT_EQ(read_from<int64_t>("+7"), 7);
  EXPECT_EQ(read_from<int64_t>("-9223372036854775808"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(error_of<int64_t>("010"), "c.yaml:1:1: is '010', not an integer. Write 10.");
  EXPECT_EQ(error_of<int64_t>("1_000"), "c.yaml:1:1: is '1_000', not an integer. Write 1000.");
  EXPECT_EQ(error_of<int64_t>("3.7"), "c.yaml:1:1: is '3.7', not an integer. Write digits only.");
  EXPECT_EQ(error_of<int64_t>("yes"), "c.yaml:1:1: is 'yes', not an integer. Write digits only.");
  EXPECT_EQ(error_of<int64_t>("\"10\""),
            "c.yaml:1:1: is the text \"10\", not an integer. Remove the quotes.");
  EXPECT_EQ(error_of<int64_t>("[1]"), "c.yaml:1:1: is a list, not an integer.");
  EXPECT_EQ(error_of<int64_t>("9223372036854775808"),
            "c.yaml:1:1: is 9223372036854775808: must lie between -9223372036854775808 and "
            "9223372036854775807.");
  EXPECT_EQ(error_of<uint8_t>("256"), "c.yaml:1:1: is 256: must lie between 0 and 255.");
  for (const char* text : {"1e-1", "1e30", "0x10", "+-5", "++5", "+-1e3", "1e3x", "- 1", "12 3"}) {
    EXPECT_THROW(read_from<int64_t>(text), ConfigError) << text;
  }
}

TEST(Read, TakesFloatsStrictly) {
  EXPECT_EQ(read_from<double>("2"), 2.0);
  EXPECT_EQ(read_from<double>("+1e-3"), 1e-3);
  EXPECT_EQ(read_from<double>("-.inf"), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(read_from<double>(".nan")));
  EXPECT_EQ(error_of<double>("1_000.0"),
            "c.yaml:1:1: is '1_000.0', not a number. Write it as 0.001 or 1e-3.");
  EXPECT_EQ(error_of<double>("'0.1'"),
            "c.yaml:1:1: is the text \"0.1\", not a number. Remove the quotes.");
  for (const char* text : {"0.1f", "1,5", "1e999", "yes", "0x1p3", "+-5", ".", "e5", "--1"}) {
    EXPECT_THROW(read_from<double>(text), ConfigError) << text;
  }
}

TEST(Read, TakesBooleansAndTextsStrictly) {
  EXPECT_TRUE(read_from<bool>("true"));
  EXPECT_EQ(error_of<bool>("yes"), "c.yaml:1:1: is 'yes', not true or false. Write true or false.");
  for (const char* text : {"no", "on", "True", "1", "'true'"}) {
    EXPECT_THROW(read_from<bool>(text), ConfigError) << text;
  }
  EXPECT_EQ(read_from<std::string>("010"), "010");
  EXPECT_EQ(read_from<std::string>("no"), "no");
  EXPECT_EQ(read_from<std::string>("\"\""), "");
  EXPECT_EQ(error_of<std::string>("~"),
            "c.yaml:1:1: is empty, not text. Write \"\" for an empty text.");
  EXPECT_EQ(error_of<Outer>("hidden"), "c.yaml:1:1: is 'hidden', not a map.");
}

TEST(Read, TellsACountFromAFraction) {
  EXPECT_EQ(read_from<Limit>("1"), Limit(int64_t{1}));
  EXPECT_EQ(read_from<Limit>("1.0"), Limit(1.0));
  EXPECT_EQ(read_from<Limit>("1e0"), Limit(1.0));
  EXPECT_EQ(to_yaml(write(Limit(1.0))), "1.0\n");
  EXPECT_EQ(to_yaml(write(Limit(int64_t{1}))), "1\n");
  EXPECT_THROW(read_from<Limit>("'1'"), ConfigError);
}

TEST(Read, ChecksRules) {
  EXPECT_EQ(error_of<Outer>("{hidden: 0}"), "c.yaml:1:10: hidden: is '0': must be at least 1.");
  EXPECT_EQ(error_of<Outer>("{ratio: 1.5}"),
            "c.yaml:1:9: ratio: is '1.5': must lie between 0.0 and 1.0.");
  EXPECT_EQ(error_of<Outer>("{mode: mid}"), "c.yaml:1:8: mode: is 'mid': choose one of: min, max.");
  EXPECT_EQ(error_of<Outer>("{limit: -2}"), "c.yaml:1:9: limit: is '-2': must be at least -1.");
  EXPECT_FALSE(read_from<Outer>("{limit: null}").limit.has_value());
  EXPECT_EQ(error_of<Outer>("{batches: -0.5}"),
            "c.yaml:1:11: batches: is '-0.5': must be at least 0.");
  EXPECT_EQ(error_of<Outer>("{inner: {lr: 0.0}}"),
            "c.yaml:1:14: inner.lr: is '0.0': must be greater than 0.0.");
  EXPECT_THROW(read_from<Outer>("{ratio: .nan}"), ConfigError);
  EXPECT_THROW(read_from<Outer>("{inner: {lr: .nan}}"), ConfigError);
}

TEST(Read, ReportsEveryMistakeInTheOrderOfPlaces) {
  EXPECT_EQ(error_of<Outer>("inner:\n  sizes: [1, x, 3, y]\n  lrr: 1\nhiden: 3\nmode: min\n"
                            "weights: {a: b}\nflag: 2\n"),
            "c.yaml:2:14: inner.sizes[1]: is 'x', not an integer. Write digits only.\n"
            "c.yaml:2:20: inner.sizes[3]: is 'y', not an integer. Write digits only.\n"
            "c.yaml:3:3: inner.lrr: unknown key. Did you mean 'lr'?\n"
            "c.yaml:4:1: hiden: unknown key. Did you mean 'hidden'?\n"
            "c.yaml:6:14: weights.a: is 'b', not a number. Write it as 0.001 or 1e-3.\n"
            "c.yaml:7:7: flag: is '2', not true or false. Write true or false.");
}

TEST(Read, AsksForRequiredKeysAndValidatesTheWhole) {
  EXPECT_EQ(error_of<Strict>("{low: 1}"), "c.yaml:1:1: name: is required: Who it is.");
  EXPECT_EQ(error_of<Strict>("{name: a, low: 11}"), "c.yaml:1:1: low is above high. Swap them.");
  EXPECT_EQ(error_of<Strict>("{low: 11}"), "c.yaml:1:1: name: is required: Who it is.")
      << "validate() sees only what was read without a mistake";
}

TEST(Check, HoldsAStructMadeInCodeToTheSameRules) {
  Outer outer;
  EXPECT_NO_THROW(check(outer, "outer"));
  outer.inner.lr = -1;
  EXPECT_EQ(thrown<ConfigError>([&] { check(outer, "outer"); }),
            "in code: outer.inner.lr: is '-1.0': must be greater than 0.0.");
}

TEST(Write, IsReadBackWithoutLoss) {
  Outer outer;
  outer.ratio = 0.1F;
  outer.limit = -1;
  outer.weights = {{"nan", std::nan("")}, {"tiny", 5e-324}, {"third", 1.0 / 3}, {"big", 1e300}};
  outer.inner.lr = 123456789.0;
  outer.batches = int64_t{2};
  const std::string text = to_yaml(write(outer));
  EXPECT_EQ(to_yaml(write(read_from<Outer>(text))), text);
  EXPECT_EQ(read_from<Outer>(text).weights.at("third"), 1.0 / 3);
  EXPECT_EQ(read_from<Outer>(text).ratio, 0.1F);
}

TEST(Write, KeepsEveryText) {
  for (const std::string text :
       {"",     "~",   "null", "Null", "NULL", "true", "1",  "1.0", ".nan", "010",
        "a: b", "- a", "#",    "a\nb", " a ",  "'",    "\"", "\\n", "{",    "*x"}) {
    const std::string yaml = to_yaml(write(std::vector<std::string>{text}));
    EXPECT_EQ(read_from<std::vector<std::string>>(yaml), std::vector<std::string>{text}) << yaml;
  }
}

TEST(DidYouMean, SuggestsOnlyWhatIsAlike) {
  EXPECT_EQ(did_you_mean("max_epoch", {"min_epochs", "max_epochs"}), " Did you mean 'max_epochs'?");
  EXPECT_EQ(did_you_mean("abcdef", {"uvwxyz"}), "");
  EXPECT_EQ(did_you_mean("x", {}), "");
}

TEST(Describe, TellsTypesRulesAndDefaults) {
  const auto fields = describe<Outer>();
  const std::vector<std::string> types = {"int",         "bool",         "float",        "string",
                                          "int or null", "map of float", "int or float", "int",
                                          "Inner",       "any"};
  ASSERT_EQ(fields.size(), types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    EXPECT_EQ(fields[i].type, types[i]) << fields[i].name;
  }
  EXPECT_EQ(fields[3].rules, "one of: min, max");
  EXPECT_EQ(fields[3].choices, (std::vector<std::string>{"min", "max"}));
  EXPECT_TRUE(fields[0].choices.empty());
  EXPECT_EQ(fields[0].default_value.text(), "128");
  EXPECT_EQ(fields[8].fields.at(0).rules, "> 0.0");
  EXPECT_TRUE(describe<Strict>()[0].required);
}

}  // namespace
}  // namespace trainer::config

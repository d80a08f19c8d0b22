#include <trainer/core/yaml.h>

#include <random>

#include <gtest/gtest.h>

#include <trainer/core/error.h>

#include <tests/support/temp_dir.h>
#include <tests/support/thrown.h>

namespace trainer::config {
namespace {

using test::TempDir;
using test::thrown;

Node parse(const std::string& text) { return parse_yaml(text, "c.yaml"); }

std::string error_of(const std::string& text) {
  return thrown<ConfigError>([&] { parse(text); });
}

std::string repeated(const std::string& text, size_t count) {
  std::string all;
  for (size_t i = 0; i < count; ++i) {
    all += text;
  }
  return all;
}

std::string nested_lists(size_t depth, const std::string& inside = "") {
  return repeated("[", depth) + inside + repeated("]", depth);
}

TEST(ParseYaml, TellsKindsApart) {
  const Node root =
      parse("a: 1\nb: \"1\"\nc: [x, {y: z}]\nd:\ne: ~\nf: null\ng: 'null'\nh: |\n  t\n");
  ASSERT_TRUE(root.is_map());
  EXPECT_FALSE(root.find("a")->quoted());
  EXPECT_TRUE(root.find("b")->quoted());
  EXPECT_EQ(root.find("b")->text(), "1");
  EXPECT_EQ(root.find("c")->items().at(1).find("y")->text(), "z");
  for (const char* key : {"d", "e", "f"}) {
    EXPECT_TRUE(root.find(key)->is_null()) << key;
  }
  EXPECT_EQ(root.find("g")->text(), "null");
  EXPECT_EQ(root.find("h")->text(), "t\n");
  EXPECT_EQ(root.find("missing"), nullptr);
  EXPECT_TRUE(parse("").is_null());
}

TEST(ParseYaml, KeepsThePlaceOfKeysAndValues) {
  const Node root = parse("a: 1\nlist:\n  - x\n  - key: y\n");
  EXPECT_EQ(root.find("a")->mark.str(), "c.yaml:1:4");
  EXPECT_EQ(root.entries()[1].key_mark.str(), "c.yaml:2:1");
  EXPECT_EQ(root.find("list")->items()[0].mark.str(), "c.yaml:3:5");
  EXPECT_EQ(root.find("list")->items()[1].find("key")->mark.str(), "c.yaml:4:10");
  EXPECT_EQ(Mark{}.str(), "in code");
}

TEST(ParseYaml, PlacesAnAliasWhereItIsUsed) {
  const Node root = parse("a: &x [1, 2]\nb: *x\n");
  EXPECT_EQ(root.find("b")->items().size(), 2U);
  EXPECT_EQ(root.find("b")->mark.str(), "c.yaml:2:4");
}

TEST(ParseYaml, RefusesWhatYamlCppLetsThrough) {
  EXPECT_EQ(error_of("a: 1\nb: 2\na: 3\n"),
            "c.yaml:3:1: the key 'a' stands twice; first at line 1. Remove one.");
  EXPECT_EQ(error_of("a: &x {b: 1}\nc:\n  <<: *x\n"),
            "c.yaml:3:3: merge keys (<<) are not supported. Write the keys out.");
  EXPECT_EQ(error_of("a: !!int 1\n"),
            "c.yaml:1:4: the tag 'tag:yaml.org,2002:int' is not allowed. Write the plain value.");
  EXPECT_EQ(error_of("a: !mine [1]\n"),
            "c.yaml:1:4: the tag '!mine' is not allowed. Write the plain value.");
  EXPECT_EQ(error_of("a: &x [ *x ]\n"),
            "c.yaml:1:9: this alias contains itself. Write the value out.");
  EXPECT_EQ(error_of(std::string("a: 1\n\0b: 2\n", 11)),
            "c.yaml: contains a NUL byte at offset 5. Save it as UTF-8 text.");
  EXPECT_EQ(error_of("a: 1\n---\nb: 2\n"),
            "c.yaml: holds more than one document (---). Give one file for each.");
  EXPECT_EQ(error_of("? [a, b]\n: 1\n"), "c.yaml:1:3: a key must be plain text.");
  EXPECT_EQ(error_of("~: 1\n"), "c.yaml:1:1: a key must be plain text.");
}

TEST(ParseYaml, NamesThePlaceOfBadSyntax) {
  EXPECT_EQ(error_of("a: [1, 2\nb: 3\n").find("c.yaml:2:"), 0U);
  EXPECT_EQ(error_of("a:\n\t- 1\n").find("c.yaml:2:"), 0U);
  EXPECT_EQ(error_of("a: *nothing\n"),
            "c.yaml:1:4: the referenced anchor is not defined. Check indentation, "
            "colons and quotes there.");
}

TEST(ParseYaml, TakesOneMebibyteAndNoMore) {
  const std::string fits = "a: " + std::string((size_t{1} << 20) - 3, 'x');
  EXPECT_EQ(parse(fits).find("a")->text().size(), fits.size() - 3);
  EXPECT_EQ(error_of(fits + "x"), "c.yaml: is 1048577 bytes; a configuration may have 1048576.");
}

TEST(ParseYaml, Takes64LevelsAndNoMore) {
  EXPECT_TRUE(parse(nested_lists(64)).is_sequence());
  EXPECT_EQ(error_of(nested_lists(65)), "c.yaml:1:65: nested more than 64 levels deep.");
  EXPECT_EQ(error_of(nested_lists(100'000)), "c.yaml:1:65: nested more than 64 levels deep.");
}

TEST(ParseYaml, CountsTheLevelsBehindAnAliasToo) {
  EXPECT_EQ(error_of("a: &x " + nested_lists(40) + "\nb: " + nested_lists(40, "*x") + "\n"),
            "c.yaml:2:44: nested more than 64 levels deep.");
}

TEST(ParseYaml, Takes100000ValuesAndNoMore) {
  EXPECT_EQ(parse("[" + repeated("1,", 99'999) + "]").items().size(), 99'999U);
  EXPECT_NE(error_of("[" + repeated("1,", 100'000) + "]")
                .find("more than 100000 values (aliases count each time they are used)."),
            std::string::npos);
}

TEST(ParseYaml, StopsAnAliasBomb) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" +
            repeated(before + ", ", 9) + before + "]\n";
  }
  EXPECT_NE(error_of(bomb).find("more than 100000 values"), std::string::npos);
}

TEST(ParseYamlFile, SaysWhatItCannotRead) {
  const TempDir dir;
  const std::string path = dir / "none.yaml";
  EXPECT_EQ(thrown<ConfigError>([&] { parse_yaml_file(path); }),
            path +
                ": cannot read: No such file or directory.\n  Check the path; relative paths "
                "start at the current folder.");
  test::write_file(path, "a: [1]\n");
  EXPECT_EQ(parse_yaml_file(path).find("a")->mark.str(), path + ":1:4");
}

// Trees of every shape, with texts that YAML could take for something else.
class RandomTrees {
 public:
  explicit RandomTrees(uint64_t seed) : random_(seed) {}

  Node tree(int depth) {
    const uint64_t kind = pick(depth == 0 ? 3 : 6);
    if (kind == 0) {
      return Node();
    }
    if (kind == 1) {
      return Node::string(text());
    }
    if (kind == 2) {
      static const std::vector<std::string> kPlain = {"1", "-2.5", "1e-3", "true", "abc", "a.b/c"};
      return Node::scalar(kPlain[pick(kPlain.size())]);
    }
    const uint64_t size = pick(5);
    Node node = kind == 3 ? Node::sequence() : Node::map();
    for (uint64_t i = 0; i < size; ++i) {
      if (kind == 3) {
        node.push_back(tree(depth - 1));
      } else {
        node.set(std::to_string(i) + text(), tree(depth - 1));
      }
    }
    return node;
  }

 private:
  uint64_t pick(uint64_t n) { return random_() % n; }
  std::string text() {
    static const std::vector<std::string> kPieces = {
        "a", " ", ":", "#", "- ",   "\n", "\"", "'",  "\\",       "{",  "]", ",", "*",  "&",
        "!", "%", "@", "`", "null", "~",  "1",  "\t", "\xc3\xa9", "? ", "|", ">", "---"};
    std::string all;
    for (uint64_t i = pick(5); i > 0; --i) {
      all += kPieces[pick(kPieces.size())];
    }
    return all;
  }

  std::mt19937_64 random_;
};

void expect_equal(const Node& a, const Node& b) {
  ASSERT_EQ(a.kind(), b.kind());
  ASSERT_EQ(a.text(), b.text());
  ASSERT_EQ(a.quoted(), b.quoted());
  ASSERT_EQ(a.items().size(), b.items().size());
  for (size_t i = 0; i < a.items().size(); ++i) {
    expect_equal(a.items()[i], b.items()[i]);
  }
  ASSERT_EQ(a.entries().size(), b.entries().size());
  for (size_t i = 0; i < a.entries().size(); ++i) {
    ASSERT_EQ(a.entries()[i].key, b.entries()[i].key);
    expect_equal(a.entries()[i].value, b.entries()[i].value);
  }
}

TEST(ToYaml, IsReadBackAsAnEqualTree) {
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    const Node tree = RandomTrees(seed).tree(5);
    const std::string text = to_yaml(tree);
    SCOPED_TRACE("seed " + std::to_string(seed) + ":\n" + text);
    ASSERT_NO_FATAL_FAILURE(expect_equal(parse(text), tree));
  }
}

std::string merged(const std::string& base, const std::string& over) {
  Node node = parse(base);
  merge(node, parse(over));
  return to_yaml(node);
}

TEST(Merge, LaysMapsOverEachOtherAndReplacesTheRest) {
  EXPECT_EQ(merged("{a: {x: 1, y: 2}, b: [1, 2]}", "{a: {y: 3, z: 4}, b: [5]}"),
            "a:\n  x: 1\n  y: 3\n  z: 4\nb: [5]\n");
  EXPECT_EQ(merged("{a: {x: 1}}", "{a: 5}"), "a: 5\n");
  EXPECT_EQ(merged("{a: 5}", "{a: {x: 1}}"), "a:\n  x: 1\n");
  EXPECT_EQ(merged("{a: 5}", "{a: }"), "a: ~\n");
}

TEST(Merge, KeepsArgumentsOfTheSameClassOnly) {
  const std::string base = "{m: {class_path: A, init_args: {x: 1}}}";
  EXPECT_EQ(merged(base, "{m: {class_path: A, init_args: {y: 2}}}"),
            "m:\n  class_path: A\n  init_args:\n    x: 1\n    y: 2\n");
  EXPECT_EQ(merged(base, "{m: {class_path: B, init_args: {y: 2}}}"),
            "m:\n  class_path: B\n  init_args:\n    y: 2\n");
  EXPECT_EQ(merged(base, "{m: {init_args: {y: 2}}}"),
            "m:\n  class_path: A\n  init_args:\n    x: 1\n    y: 2\n");
}

TEST(Merge, TakesANameForTheClassThatArgumentsBelongTo) {
  EXPECT_EQ(merged("{m: A}", "{m: {init_args: {y: 2}}}"),
            "m:\n  class_path: A\n  init_args:\n    y: 2\n");
  EXPECT_EQ(merged("{m: A}", "{m: {class_path: B, init_args: {y: 2}}}"),
            "m:\n  class_path: B\n  init_args:\n    y: 2\n");
  EXPECT_EQ(merged("{m: A}", "{m: {class_path: A}}"), "m:\n  class_path: A\n");
  Node root = parse("{m: A}");
  apply_override(root, "m.init_args.y=2");
  EXPECT_EQ(to_yaml(root), "m:\n  class_path: A\n  init_args:\n    y: 2\n");
  EXPECT_EQ(root.find("m")->find("class_path")->mark.str(), "c.yaml:1:5");
}

TEST(ApplyOverride, SetsOneValueAndMakesTheMapsOnTheWay) {
  Node root = parse("{a: {b: 1, c: 2}}");
  apply_override(root, "a.b=3");
  apply_override(root, "x.y.z=[1, {k: v}]");
  apply_override(root, "a.c=");
  apply_override(root, "e=p=q");
  EXPECT_EQ(to_yaml(root),
            "a:\n  b: 3\n  c: ~\nx:\n  y:\n    z:\n      - 1\n      - k: v\ne: p=q\n");
  EXPECT_EQ(root.find("a")->find("b")->mark.str(), "command line");
}

TEST(ApplyOverride, RefusesWhatIsNoAssignment) {
  Node root = Node::map();
  for (const std::string text : {"a", "=1", ".a=1", "a.=1", "a..b=1", ""}) {
    EXPECT_EQ(thrown<ConfigError>([&] { apply_override(root, text); }),
              "command line: '" + text + "' is no override. Write key.path=value.");
  }
  EXPECT_EQ(thrown<ConfigError>([&] { apply_override(root, "a.b=!x 1"); }),
            "command line, a.b:1:1: the tag '!x' is not allowed. Write the plain value.");
}

}  // namespace
}  // namespace trainer::config

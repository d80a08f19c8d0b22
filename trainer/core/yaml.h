#pragma once
// Configuration text as a tree that keeps the place of every value.
//
// YAML is untrusted input: parse_yaml() reads it through yaml-cpp's event interface into a bounded
// tree (1 MiB of text, 64 levels, 100,000 values after aliases) and refuses what yaml-cpp lets
// through silently: duplicate keys, merge keys (<<), tags, NUL bytes, aliases that contain
// themselves. Nodes are values: a copy is a copy.

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace trainer::config {

/// A place in a configuration: file, line and column (from 1), or a source without lines ("command
/// line").
struct Mark {
  std::shared_ptr<const std::string> source = nullptr;
  int line = 0;
  int column = 0;
  /// `configs/digits.yaml:7:3`, or just the source.
  std::string str() const;
};

struct Entry;

/// One value of a configuration tree.
class Node {
 public:
  enum class Kind { kNull, kScalar, kSequence, kMap };

  Node() = default;
  /// A plain scalar, as in `key: text`.
  static Node scalar(std::string text);
  /// A scalar that stays a string whatever it looks like, as in `key: "text"`.
  static Node string(std::string text);
  static Node sequence();
  static Node map();

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }
  bool is_scalar() const { return kind_ == Kind::kScalar; }
  bool is_sequence() const { return kind_ == Kind::kSequence; }
  bool is_map() const { return kind_ == Kind::kMap; }

  const std::string& text() const { return text_; }
  bool quoted() const { return quoted_; }
  const std::vector<Node>& items() const { return items_; }
  const std::vector<Entry>& entries() const { return entries_; }

  void push_back(Node item);
  /// The value of `key`, or nullptr.
  const Node* find(std::string_view key) const;
  Node* find(std::string_view key);
  /// Adds or replaces; keys keep the order in which they came.
  Node& set(std::string_view key, Node value);
  Node& set(Entry entry);
  void erase(std::string_view key);

  /// "a map", "the text 'abc'", ... for messages.
  std::string describe() const;

  Mark mark;

 private:
  Kind kind_ = Kind::kNull;
  bool quoted_ = false;
  std::string text_;
  std::vector<Node> items_;
  std::vector<Entry> entries_;
};

struct Entry {
  std::string key;
  Node value;
  Mark key_mark = {};
};

/// Parses one YAML document. Throws ConfigError with file:line:column.
Node parse_yaml(std::string_view text, const std::string& source);

/// The same from a file. Throws ConfigError when it is missing or unreadable.
Node parse_yaml_file(const std::string& path);
/// The text of such a file. Throws ConfigError when it is missing or unreadable.
std::string read_yaml_text(const std::string& path);

/// YAML text that parse_yaml() reads back as an equal tree.
std::string to_yaml(const Node& node);

/// Lays `over` on top of `base`: maps are merged key by key, everything else is replaced. A map
/// whose `class_path` differs replaces the other one whole, since its `init_args` belong to another
/// class. `init_args` laid over a class that stands as its name alone are that class's.
void merge(Node& base, const Node& over);

/// Applies `a.b.c=value`, the value being YAML. Throws ConfigError when the text is not of that
/// form.
void apply_override(Node& root, std::string_view assignment);

}  // namespace trainer::config

#include <trainer/core/yaml.h>

#include <algorithm>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <trainer/core/error.h>
#include <trainer/core/filesystem.h>

namespace trainer::config {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxNodes = 100'000;

/// Builds the tree from yaml-cpp's events, within the limits.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& source)
      : source_(std::make_shared<const std::string>(source)) {}

  Node take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { add(Node(), mark, anchor); }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) {
      fail(mark, "this alias contains itself. Write the value out.");
    }
    const Extent extent = extent_of(found->second);
    count(mark, extent.nodes);
    check_depth(mark, stack_.size() + extent.levels);
    Node copy = found->second;
    copy.mark = at(mark);
    place(std::move(copy), mark);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_tag(mark, tag);
    const bool quoted = tag == "!";
    add(quoted ? Node::string(value) : plain(value), mark, anchor);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(Node::sequence(), mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(Node::map(), mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
    throw ConfigError(fmt::format("{}: {}", at(mark).str(), what));
  }

 private:
  struct Open {
    Node node;
    YAML::anchor_t anchor = 0;
    bool has_key = false;
    std::string key = {};
    Mark key_mark = {};
  };

  static Node plain(const std::string& value) {
    const bool null =
        value.empty() || value == "~" || value == "null" || value == "Null" || value == "NULL";
    return null ? Node() : Node::scalar(value);
  }

  struct Extent {
    size_t nodes = 1;
    size_t levels = 0;
  };
  static Extent extent_of(const Node& node) {  // bounded: every stored tree is within kMaxDepth
    Extent total;
    const auto add_child = [&](const Node& child) {
      const Extent extent = extent_of(child);
      total.nodes += extent.nodes;
      total.levels = std::max(total.levels, extent.levels);
    };
    for (const auto& item : node.items()) {
      add_child(item);
    }
    for (const auto& entry : node.entries()) {
      add_child(entry.value);
    }
    total.levels += node.is_scalar() || node.is_null() ? 0 : 1;
    return total;
  }

  Mark at(const YAML::Mark& mark) const { return {source_, mark.line + 1, mark.column + 1}; }

  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!") {
      fail(mark, fmt::format("the tag '{}' is not allowed. Write the plain value.", tag));
    }
  }

  void count(const YAML::Mark& mark, size_t added) {
    num_nodes_ += added;
    if (num_nodes_ > kMaxNodes) {
      fail(mark,
           fmt::format("more than {} values (aliases count each time they are used).", kMaxNodes));
    }
  }

  void check_depth(const YAML::Mark& mark, size_t levels) const {
    if (levels > kMaxDepth) {
      fail(mark, fmt::format("nested more than {} levels deep.", kMaxDepth));
    }
  }

  void open(Node node, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    check_tag(mark, tag);
    count(mark, 1);
    check_depth(mark, stack_.size() + 1);
    if (!stack_.empty() && stack_.back().node.is_map() && !stack_.back().has_key) {
      fail(mark, "a key must be plain text.");
    }
    node.mark = at(mark);
    stack_.push_back({std::move(node), anchor});
  }

  void close() {
    Open done = std::move(stack_.back());
    stack_.pop_back();
    if (done.anchor != 0) {
      anchors_[done.anchor] = done.node;
    }
    place(std::move(done.node), {});
  }

  void add(Node node, const YAML::Mark& mark, YAML::anchor_t anchor) {
    count(mark, 1);
    node.mark = at(mark);
    if (anchor != 0) {
      anchors_[anchor] = node;
    }
    place(std::move(node), mark);
  }

  /// Puts a finished value where it belongs: the root, the next item, a key, or the value of the
  /// last key.
  void place(Node node, const YAML::Mark& mark) {
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = stack_.back();
    if (parent.node.is_sequence()) {
      parent.node.push_back(std::move(node));
    } else if (!parent.has_key) {
      set_key(parent, node, mark);
    } else {
      parent.node.set(Entry{std::move(parent.key), std::move(node), std::move(parent.key_mark)});
      parent.has_key = false;
    }
  }

  void set_key(Open& parent, const Node& key, const YAML::Mark& mark) {
    if (!key.is_scalar()) {
      fail(mark, "a key must be plain text.");
    }
    if (key.text() == "<<") {
      fail(mark, "merge keys (<<) are not supported. Write the keys out.");
    }
    for (const auto& entry : parent.node.entries()) {
      if (entry.key == key.text()) {
        fail(mark, fmt::format("the key '{}' stands twice; first at line {}. Remove one.",
                               key.text(), entry.key_mark.line));
      }
    }
    parent.key = key.text();
    parent.key_mark = key.mark;
    parent.has_key = true;
  }

  std::shared_ptr<const std::string> source_;
  Node root_;
  std::vector<Open> stack_;
  std::map<YAML::anchor_t, Node> anchors_;
  size_t num_nodes_ = 0;
};

void emit(YAML::Emitter& out, const Node& node) {
  switch (node.kind()) {
    case Node::Kind::kNull: out << YAML::Null; break;
    case Node::Kind::kScalar:
      if (node.quoted()) {
        out << YAML::DoubleQuoted;
      }
      out << node.text();
      break;
    case Node::Kind::kSequence:
      if (std::all_of(node.items().begin(), node.items().end(),
                      [](const Node& n) { return n.is_scalar(); })) {
        out << YAML::Flow;
      }
      out << YAML::BeginSeq;
      for (const auto& item : node.items()) {
        emit(out, item);
      }
      out << YAML::EndSeq;
      break;
    case Node::Kind::kMap:
      if (node.entries().empty()) {
        out << YAML::Flow;
      }
      out << YAML::BeginMap;
      for (const auto& entry : node.entries()) {
        out << YAML::Key << entry.key << YAML::Value;
        emit(out, entry.value);
      }
      out << YAML::EndMap;
      break;
  }
}

}  // namespace

std::string Mark::str() const {
  if (!source) {
    return "in code";
  }
  return line > 0 ? fmt::format("{}:{}:{}", *source, line, column) : *source;
}

Node Node::sequence() {
  Node node;
  node.kind_ = Kind::kSequence;
  return node;
}

Node Node::map() {
  Node node;
  node.kind_ = Kind::kMap;
  return node;
}

Node Node::scalar(std::string text) {
  Node node;
  node.kind_ = Kind::kScalar;
  node.text_ = std::move(text);
  return node;
}

Node Node::string(std::string text) {
  Node node = scalar(std::move(text));
  node.quoted_ = true;
  return node;
}

void Node::push_back(Node item) {
  kind_ = Kind::kSequence;
  items_.push_back(std::move(item));
}

const Node* Node::find(std::string_view key) const {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.key == key; });
  return found == entries_.end() ? nullptr : &found->value;
}

Node* Node::find(std::string_view key) { return const_cast<Node*>(std::as_const(*this).find(key)); }

Node& Node::set(std::string_view key, Node value) {
  return set(Entry{std::string(key), std::move(value), {}});
}

Node& Node::set(Entry entry) {
  kind_ = Kind::kMap;
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& e) { return e.key == entry.key; });
  if (found == entries_.end()) {
    entries_.push_back(std::move(entry));
    return entries_.back().value;
  }
  *found = std::move(entry);
  return found->value;
}

void Node::erase(std::string_view key) {
  std::erase_if(entries_, [&](const Entry& e) { return e.key == key; });
}

std::string Node::describe() const {
  switch (kind_) {
    case Kind::kNull: return "empty";
    case Kind::kScalar:
      return quoted_ ? fmt::format("the text \"{}\"", text_) : fmt::format("'{}'", text_);
    case Kind::kSequence: return "a list";
    case Kind::kMap: return "a map";
  }
  return "";
}

Node parse_yaml(std::string_view text, const std::string& source) {
  if (text.size() > kMaxBytes) {
    throw ConfigError(fmt::format("{}: is {} bytes; a configuration may have {}.", source,
                                  text.size(), kMaxBytes));
  }
  if (text.find('\0') != std::string_view::npos) {
    throw ConfigError(fmt::format("{}: contains a NUL byte at offset {}. Save it as UTF-8 text.",
                                  source, text.find('\0')));
  }
  std::istringstream stream{std::string(text)};
  TreeBuilder builder(source);
  try {
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    Node root = builder.take();
    TreeBuilder second(source);
    if (parser.HandleNextDocument(second)) {
      throw ConfigError(
          fmt::format("{}: holds more than one document (---). Give one file for each.", source));
    }
    return root;
  } catch (const YAML::Exception& error) {
    builder.fail(error.mark, error.msg + ". Check indentation, colons and quotes there.");
  }
}

Node parse_yaml_file(const std::string& path) { return parse_yaml(read_yaml_text(path), path); }

std::string read_yaml_text(const std::string& path) {
  try {
    return fs::read_text(path, kMaxBytes);
  } catch (const DataError& error) {
    throw ConfigError(error.what());  // a configuration that cannot be read is a bad command line
  }
}

std::string to_yaml(const Node& node) {
  YAML::Emitter out;
  emit(out, node);
  return std::string(out.c_str()) + "\n";
}

void merge(Node& base, const Node& over) {
  if (base.is_scalar() && over.find("init_args") != nullptr) {  // `model: Net` names a class
    Node named = Node::map();
    named.mark = base.mark;
    named.set("class_path", base);
    base = std::move(named);
  }
  if (!base.is_map() || !over.is_map()) {
    base = over;
    return;
  }
  const Node* old_class = base.find("class_path");
  const Node* new_class = over.find("class_path");
  if (old_class != nullptr && new_class != nullptr && old_class->text() != new_class->text()) {
    base = over;
    return;
  }
  for (const auto& entry : over.entries()) {
    if (Node* existing = base.find(entry.key)) {
      merge(*existing, entry.value);
    } else {
      base.set(entry);
    }
  }
}

void apply_override(Node& root, std::string_view assignment) {
  const size_t equals = assignment.find('=');
  const std::string path(assignment.substr(0, equals));
  if (equals == std::string_view::npos || path.empty() || path.front() == '.' ||
      path.back() == '.' || path.find("..") != std::string::npos) {
    throw ConfigError(
        fmt::format("command line: '{}' is no override. Write key.path=value.", assignment));
  }
  const auto source = std::make_shared<const std::string>("command line");
  Node value = parse_yaml(assignment.substr(equals + 1), fmt::format("command line, {}", path));
  // Built from the inside out, then merged, so that overriding one key of a map leaves the others.
  for (size_t end = path.size(); end != 0;) {
    const size_t dot = path.rfind('.', end - 1);
    const size_t begin = dot == std::string::npos ? 0 : dot + 1;
    value.mark = {source, 0, 0};
    Node parent = Node::map();
    parent.mark = value.mark;
    parent.set(Entry{path.substr(begin, end - begin), std::move(value), {source, 0, 0}});
    value = std::move(parent);
    end = dot == std::string::npos ? 0 : dot;
  }
  // `--trainer.callbacks=[]` replaces a list, `--trainer.logger=X` a class: merge() does both.
  merge(root, value);
}

}  // namespace trainer::config

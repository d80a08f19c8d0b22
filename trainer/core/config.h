#pragma once
// Reads configuration trees into structs and writes structs as trees, with every mistake reported
// at once.
//
//   Diagnostics diagnostics;
//   auto init = config::read<Init>(node, "model.init_args", diagnostics);
//   diagnostics.throw_if_any();
//
// Numbers are read strictly: 010, 1_000, yes and 3.7 for an integer are refused with what to write
// instead.

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <trainer/core/error.h>
#include <trainer/core/reflect.h>
#include <trainer/core/yaml.h>

namespace trainer::config {

/// Collects mistakes so that the user sees all of them, in the order of their places.
class Diagnostics {
 public:
  /// `path` is the key path, `trainer.callbacks[0].init_args.patience`.
  void add(const Mark& mark, const std::string& path, const std::string& what);
  /// A mistake whose message names its place.
  void add(const ConfigError& error);
  bool empty() const { return lines_.empty(); }
  size_t size() const { return lines_.size(); }
  /// Throws ConfigError with one line for each mistake, once where it was added twice.
  void throw_if_any() const;

 private:
  struct Line {
    Mark mark;
    std::string text;
  };
  std::vector<Line> lines_;
};

/// What --help, `trainer list` and the schema need to know about one field.
struct FieldInfo {
  std::string name;
  std::string type;
  std::string doc;
  std::string rules;
  bool required = false;
  Node default_value = {};
  std::vector<FieldInfo> fields = {};     // of a nested struct
  std::vector<std::string> choices = {};  // of one_of()
};

/// The name most like `wanted`, when it is like enough to be meant: " Did you mean 'x'?", else "".
std::string did_you_mean(std::string_view wanted, const std::vector<std::string>& known);

/// How a type is read, written and named. Specialise it for a type of your own.
template <class T>
struct Codec;

template <class T>
T read(const Node& node, const std::string& path, Diagnostics& diagnostics);

template <class T>
Node write(const T& value) {
  return Codec<T>::write(value);
}

/// The fields of a struct with their defaults.
template <Struct T>
std::vector<FieldInfo> describe();

/// Checks a struct that was made in code by the rules of its fields; throws ConfigError as for a
/// file.
template <Struct T>
void check(const T& value, const std::string& path);

// ---------------------------------------------------------------------------------------------------------------------

namespace detail {
bool read_bool(const Node& node, const std::string& path, Diagnostics& diagnostics, bool& out);
bool read_int(const Node& node, const std::string& path, Diagnostics& diagnostics, int64_t min,
              int64_t max, int64_t& out);
bool read_double(const Node& node, const std::string& path, Diagnostics& diagnostics, double& out);
bool read_string(const Node& node, const std::string& path, Diagnostics& diagnostics,
                 std::string& out);
bool expect_kind(const Node& node, Node::Kind kind, const std::string& path,
                 Diagnostics& diagnostics);
bool looks_like_float(const Node& node);
/// Reports keys that are not `known`, with what `hint(key)` says to do; empty: the nearest known
/// key.
void check_keys(const Node& node, const std::string& path, const std::vector<std::string>& known,
                Diagnostics& diagnostics,
                const std::function<std::string(const std::string&)>& hint = {});
Node string_node(const std::string& value);
inline std::string join(const std::string& path, std::string_view key) {
  return path.empty() ? std::string(key) : path + "." + std::string(key);
}
}  // namespace detail

template <>
struct Codec<bool> {
  static std::string type() { return "bool"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, bool& out) {
    detail::read_bool(n, path, d, out);
  }
  static Node write(bool value) { return Node::scalar(value ? "true" : "false"); }
};

template <std::integral T>
struct Codec<T> {
  static std::string type() { return "int"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, T& out) {
    constexpr auto kMax = static_cast<uint64_t>(std::numeric_limits<T>::max());
    constexpr auto kMaxInt64 = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    int64_t value = 0;
    if (detail::read_int(n, path, d, static_cast<int64_t>(std::numeric_limits<T>::min()),
                         static_cast<int64_t>(kMax < kMaxInt64 ? kMax : kMaxInt64), value)) {
      out = static_cast<T>(value);
    }
  }
  static Node write(T value) { return Node::scalar(detail::to_text(static_cast<int64_t>(value))); }
};

template <std::floating_point T>
struct Codec<T> {
  static std::string type() { return "float"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, T& out) {
    double value = 0;
    if (detail::read_double(n, path, d, value)) {
      out = static_cast<T>(value);
    }
  }
  static Node write(T value) { return Node::scalar(detail::to_text(static_cast<double>(value))); }
};

template <>
struct Codec<std::string> {
  static std::string type() { return "string"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, std::string& out) {
    detail::read_string(n, path, d, out);
  }
  static Node write(const std::string& value) { return detail::string_node(value); }
};

/// Any tree, unread.
template <>
struct Codec<Node> {
  static std::string type() { return "any"; }
  static void read(const Node& n, const std::string&, Diagnostics&, Node& out) { out = n; }
  static Node write(const Node& value) { return value; }
};

template <class T>
struct Codec<std::optional<T>> {
  static std::string type() { return Codec<T>::type() + " or null"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, std::optional<T>& out) {
    if (n.is_null()) {
      out.reset();
      return;
    }
    T value{};
    Codec<T>::read(n, path, d, value);
    out = std::move(value);
  }
  static Node write(const std::optional<T>& value) {
    return value ? Codec<T>::write(*value) : Node();
  }
};

template <class T>
struct Codec<std::vector<T>> {
  static std::string type() { return "list of " + Codec<T>::type(); }
  static void read(const Node& n, const std::string& path, Diagnostics& d, std::vector<T>& out) {
    if (!detail::expect_kind(n, Node::Kind::kSequence, path, d)) {
      return;
    }
    out.clear();
    for (size_t i = 0; i < n.items().size(); ++i) {
      T value{};
      Codec<T>::read(n.items()[i], path + "[" + std::to_string(i) + "]", d, value);
      out.push_back(std::move(value));
    }
  }
  static Node write(const std::vector<T>& value) {
    Node node = Node::sequence();
    for (const auto& item : value) {
      node.push_back(Codec<T>::write(item));
    }
    return node;
  }
};

template <size_t N>
struct Codec<std::array<double, N>> {
  static std::string type() { return Codec<std::vector<double>>::type(); }
  static void read(const Node& n, const std::string& path, Diagnostics& d,
                   std::array<double, N>& out) {
    std::vector<double> values;
    const size_t before = d.size();
    Codec<std::vector<double>>::read(n, path, d, values);
    if (d.size() != before) {
      return;
    }
    if (values.size() != N) {
      d.add(
          n.mark, path,
          "has " + std::to_string(values.size()) + " values: must have " + std::to_string(N) + ".");
      return;
    }
    std::copy(values.begin(), values.end(), out.begin());
  }
  static Node write(const std::array<double, N>& value) {
    return Codec<std::vector<double>>::write({value.begin(), value.end()});
  }
};

template <class T>
struct Codec<std::map<std::string, T>> {
  static std::string type() { return "map of " + Codec<T>::type(); }
  static void read(const Node& n, const std::string& path, Diagnostics& d,
                   std::map<std::string, T>& out) {
    if (!detail::expect_kind(n, Node::Kind::kMap, path, d)) {
      return;
    }
    out.clear();
    for (const auto& entry : n.entries()) {
      Codec<T>::read(entry.value, detail::join(path, entry.key), d, out[entry.key]);
    }
  }
  static Node write(const std::map<std::string, T>& value) {
    Node node = Node::map();
    for (const auto& [key, item] : value) {
      node.set(key, Codec<T>::write(item));
    }
    return node;
  }
};

/// A count or a fraction, told apart by how the number is written: 1 is a count, 1.0 a fraction.
template <>
struct Codec<std::variant<int64_t, double>> {
  using Type = std::variant<int64_t, double>;
  static std::string type() { return "int or float"; }
  static void read(const Node& n, const std::string& path, Diagnostics& d, Type& out) {
    if (detail::looks_like_float(n)) {
      Codec<double>::read(n, path, d, out.emplace<double>());
    } else {
      Codec<int64_t>::read(n, path, d, out.emplace<int64_t>());
    }
  }
  static Node write(const Type& value) {
    return std::visit([](auto v) { return config::write(v); }, value);
  }
};

namespace detail {

/// Applies a field's rules to a value, to each side of a variant, and to an optional only when it
/// holds one.
template <class F, class T>
void check_rules(const F& f, const T& value, const Mark& mark, const std::string& path,
                 const std::string& shown, Diagnostics& d) {
  std::apply(
      [&](const auto&... rule) {
        (
            [&] {
              if (const std::string wrong = rule.violation(value); !wrong.empty()) {
                d.add(mark, path, "is " + shown + ": " + wrong);
              }
            }(),
            ...);
      },
      f.rules);
}
template <class F, class T>
void check_rules(const F& f, const std::optional<T>& value, const Mark& mark,
                 const std::string& path, const std::string& shown, Diagnostics& d) {
  if (value) {
    check_rules(f, *value, mark, path, shown, d);
  }
}
template <class F, class... Sides>
void check_rules(const F& f, const std::variant<Sides...>& value, const Mark& mark,
                 const std::string& path, const std::string& shown, Diagnostics& d) {
  std::visit([&](const auto& v) { check_rules(f, v, mark, path, shown, d); }, value);
}

}  // namespace detail

template <Struct T>
struct Codec<T> {
  static std::string type() { return std::string(type_name<T>()); }

  static void read(const Node& n, const std::string& path, Diagnostics& d, T& out) {
    if (!n.is_null() && !detail::expect_kind(n, Node::Kind::kMap, path, d)) {
      return;
    }
    const size_t before = d.size();
    std::vector<std::string> known;
    for_each_field<T>([&](const auto& f) { known.emplace_back(f.kName); });
    detail::check_keys(n, path, known, d);
    for_each_field<T>([&](const auto& f) {
      const std::string field_path = detail::join(path, f.kName);
      const Node* value = n.find(f.kName);
      if (value == nullptr) {
        if (f.kRequired) {
          d.add(n.mark, field_path, "is required: " + std::string(f.doc));
        }
        return;
      }
      auto& member = out.*(f.kMember);
      const size_t errors = d.size();
      Codec<std::remove_reference_t<decltype(member)>>::read(*value, field_path, d, member);
      if (d.size() == errors) {
        detail::check_rules(f, member, value->mark, field_path, value->describe(), d);
      }
    });
    if constexpr (requires { out.validate(); }) {
      if (d.size() == before) {
        try {
          out.validate();
        } catch (const ConfigError& error) {
          d.add(n.mark, path, error.what());
        }
      }
    }
  }

  static Node write(const T& value) {
    Node node = Node::map();
    for_each_field<T>([&](const auto& f) {
      using Member = typename std::remove_cvref_t<decltype(f)>::Type;
      node.set(f.kName, Codec<Member>::write(value.*(f.kMember)));
    });
    return node;
  }
};

template <class T>
T read(const Node& node, const std::string& path, Diagnostics& diagnostics) {
  T value{};
  Codec<T>::read(node, path, diagnostics, value);
  return value;
}

template <Struct T>
std::vector<FieldInfo> describe() {
  std::vector<FieldInfo> fields;
  const T defaults{};
  for_each_field<T>([&](const auto& f) {
    using Member = typename std::remove_cvref_t<decltype(f)>::Type;
    std::string rules;
    std::apply(
        [&](const auto&... rule) { ((rules += (rules.empty() ? "" : "; ") + rule.text()), ...); },
        f.rules);
    FieldInfo info{std::string(f.kName), Codec<Member>::type(),
                   std::string(f.doc),   rules,
                   f.kRequired,          Codec<Member>::write(defaults.*(f.kMember))};
    std::apply(
        [&](const auto&... rule) {
          (
              [&] {
                if constexpr (requires { rule.choices; }) {
                  info.choices.assign(rule.choices.begin(), rule.choices.end());
                }
              }(),
              ...);
        },
        f.rules);
    if constexpr (Struct<Member>) {
      info.fields = describe<Member>();
    }
    fields.push_back(std::move(info));
  });
  return fields;
}

template <Struct T>
void check(const T& value, const std::string& path) {
  Diagnostics diagnostics;
  read<T>(write(value), path, diagnostics);
  diagnostics.throw_if_any();
}

}  // namespace trainer::config
